"""Download from S3 where the requester pays: nothing before the price is agreed to, and nothing twice.

A file that is not whole yet is `NAME.part` beside its place, and `NAME.part.json` says of which version of the object
(its ETag) it is the beginning. The endpoint is AWS's, or what AWS_ENDPOINT_URL says; credentials are found as
boto3 finds them.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import atomic
from bench.errors import BenchError, InputError
from bench.progress import Progress

_PAYS = {"RequestPayer": "requester"}
_CHUNK = 2**20
_TRIES = 5  # of a download that breaks off without having got further


class Object(msgspec.Struct, frozen=True):
    """One object: its key, bytes, and the ETag that names its version."""

    key: str
    size: int
    etag: str

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.key.rpartition("/")[2]


class ChangedError(Exception):
    """The object is another one than when it was listed."""


class ShortError(Exception):
    """The answer ended before the object did."""


@dataclass(frozen=True)
class Bucket:
    """Objects below a prefix of a bucket.

    Attributes:
        url: as the user wrote it; name: the bucket; prefix: without a slash at its end.
        client: boto3's.
    """

    url: str
    name: str
    prefix: str
    client: Any

    @classmethod
    def of(cls, url: str) -> Bucket:
        """From `s3://bucket[/prefix]`.

        Raises:
            BenchError: it is not so written, or boto3 is not installed.
        """
        found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", url)
        if found is None:
            raise BenchError(f"SOURCE is {url!r}: write s3://bucket/prefix")
        try:
            import boto3
        except ModuleNotFoundError as error:
            raise BenchError("reading from S3 needs boto3: pip install 'ldsbench[s3]'") from error
        with _sentences(url):
            return cls(url, found[1], (found[2] or "").strip("/"), boto3.client("s3"))

    def listing(self) -> dict[str, Object]:
        """All objects by key; no byte of one is read.

        Raises:
            InputError: there is none. BenchError: the bucket cannot be listed.
        """
        found = {}
        with _sentences(self.url):
            prefix = f"{self.prefix}/" if self.prefix else ""
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, **_PAYS)
            for page in pages:
                for one in page.get("Contents", ()):
                    found[one["Key"]] = Object(one["Key"], one["Size"], one["ETag"])
        if not found:
            raise InputError(f"{self.url} holds no object: name the bucket and the folder in it")
        return found

    def fetch(self, objects: Iterable[Object], folder: Path, progress: Progress, *, rate: float, yes: bool) -> None:
        """Have objects as files in `folder`, once the user has agreed to the price of what is missing.

        Args:
            objects: what is wanted; the last parts of their keys differ, and name the files.
            folder: where to.
            progress: where to say what happens.
            rate: dollars for 10⁹ bytes.
            yes: whether the user has agreed already.

        Raises:
            BenchError: the user does not agree or cannot be asked, the disk is too small, or S3 gives no bytes.
        """
        objects = list(objects)
        empty = [one for one in objects if not one.size]
        if empty:
            raise InputError(f"{self.url}: {empty[0].key} is empty: name another source")
        left = {one: one.size - _have(folder / one.name, one) for one in objects}
        missing = sum(left.values())
        if missing:
            count = sum(map(bool, left.values()))
            files = f"{count} file{'s' * (count > 1)}, {_size(missing)} to download"
            cost = f"{files}, for which AWS bills you about ${missing / 1e9 * rate:.2f} at ${rate:g} per GB"
            _agree(self.url, cost, yes)
            with atomic.writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                free = shutil.disk_usage(folder).free
            if free < missing:
                raise BenchError(
                    f"{folder} has {_size(free)} free, and {_size(missing)} are to be downloaded: free some space"
                )
            progress.say(cost)
        for one in objects:
            if left[one] or _length(folder / one.name) != one.size:  # the latter: all there, and not renamed yet
                self._download(one, folder / one.name, progress)

    def _download(self, one: Object, path: Path, progress: Progress) -> None:
        from botocore.exceptions import FlexibleChecksumError

        have = _have(path, one)
        with (
            progress.task(f"downloading {one.name}", _mega(one.size), "MB", _mega(have)) as advance,
            atomic.writing(path),
        ):
            part, note = _partial(path)
            if not have:
                part.unlink(missing_ok=True)
                atomic.write_text(note, msgspec.json.encode(one).decode())
            failed = 0
            while (have := _length(part)) < one.size:
                try:
                    self._more(one, part, have, lambda to, before: advance(_mega(to) - _mega(before)))
                except ChangedError as error:
                    part.unlink(missing_ok=True)
                    note.unlink(missing_ok=True)
                    raise BenchError(
                        f"{self.url}: {one.key} has changed while it was downloaded: the same command begins it anew"
                    ) from error
                except FlexibleChecksumError as error:
                    part.unlink()
                    raise BenchError(
                        f"{self.url}: {one.key} was damaged on its way ({error}): the same command begins it anew"
                    ) from error
                except _broken() as error:
                    failed = 0 if _length(part) > have else failed + 1
                    if failed == _TRIES:
                        raise BenchError(
                            f"{self.url}: {one.key} broke off at {_size(_length(part))} of {_size(one.size)} "
                            f"({error}): the same command goes on from there"
                        ) from error
                    time.sleep(failed)
            if _length(part) != one.size:
                part.unlink()
                raise BenchError(
                    f"{self.url}: {one.key} has more than its {one.size} bytes: the same command begins anew"
                )
            part.replace(path)

    def _more(self, one: Object, part: Path, have: int, report: Callable[[int, int], None]) -> None:
        """Append to `part` what comes after its first `have` bytes; where the server sends all, begin anew."""
        wanted = {"Range": f"bytes={have}-"} if have else {"ChecksumMode": "ENABLED"}
        with _sentences(self.url):
            answer = self.client.get_object(Bucket=self.name, Key=one.key, IfMatch=one.etag, **wanted, **_PAYS)
        if answer["ETag"] != one.etag:
            raise ChangedError
        at = have if answer.get("ContentRange", "").startswith(f"bytes {have}-") else 0
        with closing(answer["Body"]) as body, part.open("r+b" if part.exists() else "wb") as file:
            file.truncate(at)
            file.seek(at)
            if at < have:
                report(at, have)
            while at <= one.size and (chunk := body.read(_CHUNK)):  # to its very end, where boto3 compares checksums
                file.write(chunk)
                at += len(chunk)
                report(at, at - len(chunk))
            if at < one.size:
                raise ShortError(f"the answer ended after {at} bytes")


def remove(folder: Path) -> None:
    """Remove what was downloaded, once it is in its place."""
    shutil.rmtree(folder, ignore_errors=True)


def _partial(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")


def _have(path: Path, one: Object) -> int:
    """Bytes of an object that are there already: of this version of it, else none count."""
    part, note = _partial(path)
    try:
        if msgspec.json.decode(note.read_bytes(), type=Object) != one:
            return 0
    except (OSError, msgspec.DecodeError):
        return 0
    if _length(path) == one.size:
        return one.size
    have = _length(part)
    return have if have <= one.size else 0


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _agree(url: str, cost: str, yes: bool) -> None:
    if yes:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise BenchError(f"{url}: {cost}: add --yes to agree")
    answer = ""
    with suppress(EOFError):
        answer = input(f"{url}: {cost}. Download? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise BenchError(f"{url}: nothing was downloaded ({cost})")


def _mega(size: int) -> int:
    return size // 10**6


def _size(size: int) -> str:
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size} bytes"


def _broken() -> tuple[type[Exception], ...]:
    """What a connection that breaks off in the middle raises."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError
    from urllib3.exceptions import HTTPError

    return (HTTPClientError, IncompleteReadError, HTTPError, ConnectionError, TimeoutError, ShortError)


@contextmanager
def _sentences(url: str) -> Iterator[None]:
    """Turn what boto3 raises into one sentence."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError, NoRegionError

    try:
        yield
    except NoCredentialsError as error:
        raise BenchError(
            f"{url}: the requester pays, so AWS wants to know who: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE"
        ) from error
    except NoRegionError as error:
        raise BenchError(f"{url}: no region is set: set AWS_DEFAULT_REGION") from error
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in ("PreconditionFailed", "412"):
            raise ChangedError from error
        why = {
            "NoSuchBucket": "there is no such bucket",
            "NoSuchKey": "an object is gone since it was listed",
            "AccessDenied": "access is denied: use credentials that may read it, and be billed",
            "403": "access is denied: use credentials that may read it, and be billed",
        }.get(code, f"S3 says {code}: {error.response.get('Error', {}).get('Message', '')}")
        raise BenchError(f"{url}: {why}") from error
    except (BotoCoreError, HTTPClientError, ValueError) as error:
        raise BenchError(f"{url} cannot be reached: {error}") from error
