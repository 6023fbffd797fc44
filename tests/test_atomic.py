"""Files are there whole or not at all, and failures to write are sentences."""

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from bench import atomic
from bench.errors import BenchError


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def failing(number: int, text: str = "") -> OSError:
    return OSError(number, text or os.strerror(number))


def test_writes_and_makes_folders(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a" / "b.txt", "züge\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "züge\n".encode()
    assert left(tmp_path) == ["a", "a/b.txt"]


def test_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    def fill(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        assert not (tmp_path / "x").exists()
        file.write(b" and half")

    atomic.write(tmp_path / "x", fill)
    assert (tmp_path / "x").read_bytes() == b"half and half"


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_failure_of_the_writer_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "x").write_text("old")

    def fill(file: BinaryIO) -> None:
        file.write(b"new")
        raise error

    with pytest.raises(type(error)):
        atomic.write(tmp_path / "x", fill)
    assert left(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"), (errno.EACCES, "--out")],
)
@pytest.mark.parametrize("call", ["fsync", "write"])
def test_refused_by_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str, call: str
) -> None:
    (tmp_path / "x").write_text("old")

    def fill(file: BinaryIO) -> None:
        file.write(b"new")
        if call == "write":
            raise failing(number)

    def fsync(_: int) -> None:
        raise failing(number)

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(BenchError) as caught:
        atomic.write(tmp_path / "x", fill)
    assert f"cannot write {tmp_path / 'x'}: {os.strerror(number)}; " in str(caught.value)
    assert advice in str(caught.value)
    assert left(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_failed_rename_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(BenchError, match="cannot write"):
        atomic.write_text(tmp_path / "x", "text")
    assert left(tmp_path) == ["x"]


def test_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(handle: int) -> None:
        order.append("sync")
        real_sync(handle)

    def name(aside: Path, path: Path) -> Path:
        order.append("name")
        return real_replace(aside, path)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", name)
    atomic.write_text(tmp_path / "x", "text")
    assert order == ["sync", "name", "sync"]  # the file, its name, the folder


@pytest.mark.parametrize("below", ["file", "file/sub", "file/sub/sub"])
def test_folder_below_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BenchError, match="cannot write"):
        atomic.writable_folder(tmp_path / below)
    with pytest.raises(BenchError, match="cannot write"):
        atomic.write_text(tmp_path / below / "x", "text")
    assert left(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write")
def test_unwritable_folder() -> None:
    with pytest.raises(BenchError, match=r"cannot write .*--out"):
        atomic.writable_folder(Path("/proc/self/fdinfo"))
    with pytest.raises(BenchError, match=r"cannot write .*--out"):
        atomic.writable_folder(Path("/proc/nothing/here"))


def test_writable_folder_is_left_empty(tmp_path: Path) -> None:
    atomic.writable_folder(tmp_path / "a" / "b")
    atomic.writable_folder(tmp_path / "a" / "b")
    assert left(tmp_path) == ["a", "a/b"]
