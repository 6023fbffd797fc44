"""Downloads from S3, against a local server: no byte before it is agreed to, none twice, and a killed one goes on."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import cli
from bench.errors import BenchError
from bench.interop import s3
from bench.progress import Progress
from bench.store import GroundTruth

boto3 = pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")

BUCKET, QUIET = "released", Progress(quiet=True)
M, N, T = 40, 30, 4


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    server.stop()


class Requests:
    """What was sent: method, path and headers."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, str]]] = []
        self.before: list[Callable[[Any], None]] = []

    def __call__(self, request: Any, **_: Any) -> None:
        for change in self.before:
            change(request)
        headers = {k.lower(): v.decode() if isinstance(v, bytes) else v for k, v in request.headers.items()}
        self.sent.append((request.method, request.url, headers))

    @property
    def bodies(self) -> list[dict[str, str]]:
        """Headers of the requests for an object's bytes."""
        return [h for method, url, h in self.sent if method == "GET" and "list-type" not in url]


@pytest.fixture
def requests(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Requests:
    """An empty bucket at `endpoint`, and a record of every request that the code under test sends."""
    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_CONFIG_FILE", str(tmp_path / "none")),
    ):
        monkeypatch.setenv(name, value)
    admin = boto3.client("s3")
    if BUCKET in [bucket["Name"] for bucket in admin.list_buckets()["Buckets"]]:
        for one in admin.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
            admin.delete_object(Bucket=BUCKET, Key=one["Key"])
    else:
        admin.create_bucket(Bucket=BUCKET)
    record, plain = Requests(), boto3.client

    def client(*arguments: Any, **others: Any) -> Any:
        made = plain(*arguments, **others)
        made.meta.events.register("before-send.s3", record)
        return made

    monkeypatch.setattr(boto3, "client", client)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    return record


def put(key: str, content: bytes) -> None:
    import botocore.session

    botocore.session.get_session().create_client("s3").put_object(Bucket=BUCKET, Key=key, Body=content)


def fetch(folder: Path, **others: Any) -> None:
    bucket = s3.Bucket.of(f"s3://{BUCKET}")
    bucket.fetch(bucket.listing().values(), folder, QUIET, **{"rate": 0.09, "yes": True, **others})


CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_CHUNK", 10_000)


def test_the_requester_pays_on_every_request(requests: Requests, tmp_path: Path) -> None:
    put("a/one.bin", CONTENT)
    fetch(tmp_path / "D")
    assert (tmp_path / "D/one.bin").read_bytes() == CONTENT
    assert len(requests.sent) == 2
    for _, _, headers in requests.sent:
        assert headers["x-amz-request-payer"] == "requester"
    assert "if-match" in requests.bodies[0]
    fetch(tmp_path / "D")  # it is there
    assert len(requests.bodies) == 1


def test_no_byte_before_it_is_agreed_to(
    requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put("a/one.bin", CONTENT)
    put("a/two.bin", CONTENT)
    with pytest.raises(BenchError, match=r"2 files, 600\.0 kB to download, .* about \$0\.05 at \$90 per GB: add --yes"):
        fetch(tmp_path / "D", yes=False, rate=90.0)

    class Terminal:
        answer = "n\n"

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return self.answer

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdin", terminal)
    for answer in ("n\n", "\n", ""):
        terminal.answer = answer
        with pytest.raises(BenchError, match="nothing was downloaded"):
            fetch(tmp_path / "D", yes=False)
    assert "600.0 kB" in capsys.readouterr().out
    assert requests.bodies == []
    assert not (tmp_path / "D").exists()
    terminal.answer = "y\n"
    fetch(tmp_path / "D", yes=False)
    assert len(requests.bodies) == 2


def kill_after(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """The process is interrupted once so many bytes are written."""
    plain = s3.Bucket._more

    def more(self: s3.Bucket, one: s3.Object, part: Path, have: int, report: Callable[[int, int], None]) -> None:
        def reported(to: int, before: int) -> None:
            report(to, before)
            if to >= size:
                raise KeyboardInterrupt

        plain(self, one, part, have, reported)

    monkeypatch.setattr(s3.Bucket, "_more", more)


@pytest.mark.usefixtures("small_chunks")
def test_a_killed_download_goes_on_where_it_was(
    requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("one.bin", CONTENT)
    with monkeypatch.context() as patch:
        kill_after(patch, 120_000)
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path)
    assert not (tmp_path / "one.bin").exists()
    assert (tmp_path / "one.bin.part").stat().st_size == 120_000
    with pytest.raises(BenchError, match=r"1 file, 180\.0 kB to download"):  # what is there is not paid again
        fetch(tmp_path, yes=False)
    fetch(tmp_path)
    assert (tmp_path / "one.bin").read_bytes() == CONTENT
    assert [h.get("range") for h in requests.bodies] == [None, "bytes=120000-"]
    (tmp_path / "one.bin").rename(tmp_path / "one.bin.part")  # killed between the last byte and its renaming
    fetch(tmp_path, yes=False)
    assert (tmp_path / "one.bin").read_bytes() == CONTENT
    assert len(requests.bodies) == 2


@pytest.mark.parametrize("what", ["note", "longer", "gone"])
def test_a_partial_file_that_cannot_be_trusted_begins_anew(
    requests: Requests, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("one.bin", CONTENT)
    monkeypatch.setattr(s3, "_CHUNK", 10_000)
    with monkeypatch.context() as patch:
        kill_after(patch, 50_000)
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path)
    if what == "note":
        (tmp_path / "one.bin.part.json").write_text("{")
    elif what == "longer":
        (tmp_path / "one.bin.part").write_bytes(bytes(300_001))
    else:
        (tmp_path / "one.bin.part").unlink()
    fetch(tmp_path)
    assert (tmp_path / "one.bin").read_bytes() == CONTENT
    assert requests.bodies[-1].get("range") is None


@pytest.mark.usefixtures("small_chunks")
def test_a_changed_object_begins_anew(requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("one.bin", CONTENT)
    with monkeypatch.context() as patch:
        kill_after(patch, 50_000)
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path)
    other = CONTENT[::-1]
    put("one.bin", other)
    with pytest.raises(BenchError, match=r"300\.0 kB to download"):
        fetch(tmp_path, yes=False)
    fetch(tmp_path)
    assert (tmp_path / "one.bin").read_bytes() == other
    put("one.bin", CONTENT)  # and again, now that it is whole
    fetch(tmp_path)
    assert (tmp_path / "one.bin").read_bytes() == CONTENT
    assert [h.get("range") for h in requests.bodies] == [None, None, None]


@pytest.mark.usefixtures("small_chunks")
def test_an_object_that_changes_after_it_was_listed_is_refused(requests: Requests, tmp_path: Path) -> None:
    put("one.bin", CONTENT)
    bucket = s3.Bucket.of(f"s3://{BUCKET}")
    listed = bucket.listing()
    put("one.bin", CONTENT[::-1])
    with pytest.raises(BenchError, match=r"one\.bin has changed while it was downloaded"):
        bucket.fetch(listed.values(), tmp_path, QUIET, rate=0.09, yes=True)
    assert list(tmp_path.iterdir()) == []
    assert len(requests.bodies) == 1


@pytest.mark.usefixtures("small_chunks")
def test_a_server_that_ignores_ranges(requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("one.bin", CONTENT)
    with monkeypatch.context() as patch:
        kill_after(patch, 50_000)
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path)

    def without_range(request: Any) -> None:
        if "Range" in request.headers:
            del request.headers["Range"]

    requests.before.append(without_range)
    fetch(tmp_path)
    assert (tmp_path / "one.bin").read_bytes() == CONTENT


@pytest.mark.usefixtures("small_chunks")
def test_a_connection_that_breaks_off(requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import FlexibleChecksumError
    from botocore.response import StreamingBody

    put("one.bin", CONTENT)
    plain, left = StreamingBody.read, [120_000]

    def read(self: Any, amt: int) -> bytes:
        if left[0] < amt:
            left[0] = 100_000
            raise ConnectionResetError("the other end is gone")
        left[0] -= amt
        found: bytes = plain(self, amt)
        return found

    def damaged(*_: Any, **__: Any) -> bytes:
        raise FlexibleChecksumError(error_msg="Expected checksum 1 did not match calculated checksum 2")

    with monkeypatch.context() as patch:
        patch.setattr(StreamingBody, "read", read)
        fetch(tmp_path)
    assert (tmp_path / "one.bin").read_bytes() == CONTENT
    assert [h.get("range") for h in requests.bodies] == [None, "bytes=120000-", "bytes=220000-"]
    put("two.bin", CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(StreamingBody, "read", lambda self, amt: read(self, 10**9 * amt))  # never a byte
        with pytest.raises(BenchError, match=r"two\.bin broke off at 0 bytes of 300\.0 kB .*the same command goes on"):
            fetch(tmp_path)
    assert len(requests.bodies) == 8
    with monkeypatch.context() as patch:
        patch.setattr(StreamingBody, "read", damaged)
        with pytest.raises(BenchError, match=r"two\.bin was damaged on its way .*checksum 2.*begins it anew"):
            fetch(tmp_path)
    assert not (tmp_path / "two.bin.part").exists()
    fetch(tmp_path)
    assert (tmp_path / "two.bin").read_bytes() == CONTENT


def test_what_there_is_not(requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchError, match="s3://released holds no object"):
        fetch(tmp_path)
    with pytest.raises(BenchError, match="s3://nowhere: there is no such bucket"):
        s3.Bucket.of("s3://nowhere").listing()
    for url in ("s3://", "s3://A_b", "s3:///x"):
        with pytest.raises(BenchError, match="write s3://bucket/prefix"):
            s3.Bucket.of(url)
    put("one.bin", b"")
    with pytest.raises(BenchError, match=r"one\.bin is empty"):
        fetch(tmp_path)
    put("one.bin", CONTENT)

    class Usage:
        free = 1000

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage)
        with pytest.raises(BenchError, match=r"has 1\.0 kB free, and 300\.0 kB are to be downloaded"):
            fetch(tmp_path)
    assert requests.bodies == []
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BenchError, match="set AWS_ACCESS_KEY_ID"):
        fetch(tmp_path)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(BenchError, match=r"pip install 'ldsbench\[s3\]'"):
        s3.Bucket.of("s3://released")


def test_a_server_that_is_not_there(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    assert requests.sent == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(BenchError, match="cannot be reached"):
        s3.Bucket.of("s3://released").listing()


def test_import_from_s3(
    requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    import torch

    rng = np.random.default_rng(0)
    masks = rng.random((M, N)).argsort(1) < N // 2
    margins = rng.standard_normal((M, T)).astype(np.float16)
    for name, array in (("train_masks", masks), ("test_margins", margins), ("train_margins", masks.astype("f2"))):
        file = io.BytesIO()
        np.save(file, array)
        put(f"v1/cifar/data/{name}_50pct.npy", file.getvalue())
    file = io.BytesIO()
    torch.save({"weight": torch.randn(N, T), "bias": torch.zeros(T), "lam": torch.zeros(T)}, file)
    put("v1/cifar/datamodels/test_50pct.pt", file.getvalue())
    put("v1/README.md", b"hello")
    monkeypatch.chdir(tmp_path)
    command = ["import", "datamodels-data", f"s3://{BUCKET}/v1/", "S", "--keep", "datamodels", "--eval-rows"]
    assert cli.main([*command, "last:10"]) == 2
    err = capsys.readouterr().err
    assert "3 files" in err
    assert err.endswith("add --yes to agree\n")
    assert requests.bodies == []
    assert list(tmp_path.iterdir()) == []
    assert cli.main([*command, "last:40", "--yes"]) == 2
    assert "what was downloaded is in" in capsys.readouterr().err
    assert len(requests.bodies) == 3
    assert cli.main([*command, "last:10"]) == 0  # nothing is left to pay for
    assert len(requests.bodies) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["S"]
    truth = GroundTruth.open("S")
    np.testing.assert_array_equal(truth.masks, masks)
    np.testing.assert_array_equal(truth.margins, margins)
    capsys.readouterr()
    assert cli.main(["lds", "--store", "S", "--scores", "S/datamodels.pt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_subsets"] == 10
    assert cli.main(["verify", "S"]) == 0
