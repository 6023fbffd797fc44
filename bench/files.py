"""Find the files of a dataset, download them where that is allowed, and check them against published checksums."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from bench.errors import BenchError

_ADVICE = "put the standard files there, or name their folder with --data-dir or $BENCH_DATA"


def cache_folder() -> Path:
    """Where downloads go when no data folder is named: $XDG_CACHE_HOME/ldsbench, else ~/.cache/ldsbench."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldsbench"


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


@dataclass(frozen=True)
class Files:
    """The folders that hold datasets; the last one takes downloads."""

    folders: tuple[Path, ...] = field(default_factory=lambda: data_folders(None))

    def find(self, name: str, torchvision: str, md5: Mapping[str, str]) -> dict[str, Path]:
        """Paths of all the files named in `md5`, looked for in each folder as `name/`, `torchvision/raw/` and plain.

        Args:
            name: the dataset's folder name.
            torchvision: the class in torchvision.datasets that downloads it.
            md5: file name → published md5.

        Raises:
            BenchError: a file is neither there nor can be downloaded, or its md5 is not the published one.
        """
        found = self._look(name, torchvision, md5)
        missing = [file for file in md5 if file not in found]
        if missing:
            self._download(torchvision, missing[0])
            found = self._look(name, torchvision, md5)
            for file in missing:
                if file not in found:
                    raise BenchError(
                        f"{file} of {torchvision} is not in {self.folders[-1]} after its download: {_ADVICE}"
                    )
        for file, path in found.items():
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            if digest != md5[file]:
                raise BenchError(
                    f"{path} is damaged or not the published file: its md5 is {digest}, not {md5[file]}; replace it"
                )
        return found

    def _look(self, name: str, torchvision: str, md5: Mapping[str, str]) -> dict[str, Path]:
        found = {}
        for file in md5:
            places = [f / sub / file for f in self.folders for sub in (name, f"{torchvision}/raw", "")]
            path = next((place for place in places if place.is_file()), None)
            if path is not None:
                found[file] = path
        return found

    def _download(self, torchvision: str, missing: str) -> None:
        looked = ", ".join(map(str, self.folders))
        try:
            import torchvision.datasets as sources

            self.folders[-1].mkdir(parents=True, exist_ok=True)
            getattr(sources, torchvision)(root=str(self.folders[-1]), download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            raise BenchError(
                f"{missing} of {torchvision} is not in {looked} and cannot be downloaded ({error}): {_ADVICE}"
            ) from error
