"""Find the files of a dataset, download them where that is allowed, and check them against published checksums."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from bench.errors import BenchError

NOT_PUBLISHED = "not the published"  # in a Data.origin entry: what results made from it must say
ALLOW = "or add --allow-modified-data, which stamps the results with it"
_ADVICE = "put the standard files there, or name their folder with --data-dir or $BENCH_DATA"


def cache_folder() -> Path:
    """Where downloads go when no data folder is named: $XDG_CACHE_HOME/ldsbench, else ~/.cache/ldsbench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldsbench"


def md5_of(path: Path) -> str:
    """The md5 of a file's bytes, which is what datasets are published with."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def data_folders(given: str | None) -> tuple[Path, ...]:
    """The folders to look in: `--data-dir`, then $BENCH_DATA, then the download cache.

    Raises:
        BenchError: a named folder does not exist.
    """
    named = [(given, "--data-dir"), (os.environ.get("BENCH_DATA"), "$BENCH_DATA")]
    folders = []
    for folder, origin in named:
        if folder:
            if not Path(folder).is_dir():
                raise BenchError(f"{origin} is {folder!r}, which is not a folder: name one that exists")
            folders.append(Path(folder))
    return (*folders, cache_folder())


def stamp(origin: Mapping[str, str]) -> str | None:
    """What tables say of data that are not the published ones, with the files' own hashes; None where they are."""
    modified = [f"{name} {what.partition(' (')[0]}" for name, what in origin.items() if NOT_PUBLISHED in what]
    return f"data: {NOT_PUBLISHED} files ({', '.join(modified)})" if modified else None


@dataclass(frozen=True)
class Found:
    """The files of a dataset.

    Attributes:
        paths: file name → where it is.
        origin: file name → its md5, marked where that is not the published one: for `Data.origin`.
    """

    paths: Mapping[str, Path]
    origin: Mapping[str, str]


@dataclass(frozen=True)
class Files:
    """The folders that hold datasets; the last one takes downloads.

    Attributes:
        folders: in the order in which they are searched.
        allow_modified: take files and images that are not the published ones, and say so in `Data.origin`.
    """

    folders: tuple[Path, ...] = field(default_factory=lambda: data_folders(None))
    allow_modified: bool = False

    def find(self, name: str, torchvision: str, md5: Mapping[str, str], unpacked: str = "") -> Found:
        """All the files named in `md5`, looked for in each folder as `name/`, as torchvision lays them out, and plain.

        Args:
            name: the dataset's folder name.
            torchvision: the class in torchvision.datasets that downloads it.
            md5: file name → published md5.
            unpacked: the folder that the published archive holds; by default torchvision's own, `torchvision/raw`.

        Raises:
            BenchError: a file is neither there nor can be downloaded, or its md5 is not the published one and
                modified data are not allowed.
        """
        inside = _inside(name, unpacked) if unpacked else (name, f"{torchvision}/raw", "")
        found = self._look(inside, md5)
        missing = [file for file in md5 if file not in found]
        if missing:
            self._download(torchvision, missing[0])
            found = self._look(inside, md5)
            for file in missing:
                if file not in found:
                    raise BenchError(
                        f"{file} of {torchvision} is not in {self.folders[-1]} after its download: {_ADVICE}"
                    )
        origin = {file: self._checked(found[file], published) for file, published in md5.items()}
        return Found(found, dict(sorted(origin.items())))

    def there(self, name: str, md5: Mapping[str, str], unpacked: str) -> bool:
        """Whether `find` would have to download nothing."""
        return len(self._look(_inside(name, unpacked), md5)) == len(md5)

    def _checked(self, path: Path, published: str) -> str:
        digest = md5_of(path)
        if digest == published:
            return f"md5 {digest}"
        if not self.allow_modified:
            raise BenchError(
                f"{path} is damaged or {NOT_PUBLISHED} file: its md5 is {digest}, not {published}; replace it, {ALLOW}"
            )
        return f"md5 {digest} ({NOT_PUBLISHED} file)"

    def _look(self, inside: Sequence[str], files: Iterable[str]) -> dict[str, Path]:
        found = {}
        for file in files:
            places = [folder / sub / file for folder in self.folders for sub in inside]
            path = next((place for place in places if place.is_file()), None)
            if path is not None:
                found[file] = path
        return found

    def _download(self, torchvision: str, missing: str) -> None:
        looked = ", ".join(map(str, self.folders))
        try:
            import torchvision.datasets as sources

            self.folders[-1].mkdir(parents=True, exist_ok=True)
            source, root = getattr(sources, torchvision), str(self.folders[-1])
            if hasattr(source, "tgz_md5"):  # its constructor would unpickle what it unpacks, without restriction
                sources.utils.download_and_extract_archive(
                    source.url, root, filename=source.filename, md5=source.tgz_md5, remove_finished=True
                )
            else:
                source(root=root, download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            raise BenchError(
                f"{missing} of {torchvision} is not in {looked} and cannot be downloaded ({error}): {_ADVICE}"
            ) from error


def _inside(name: str, unpacked: str) -> tuple[str, ...]:
    return (unpacked, f"{name}/{unpacked}", name, "")
