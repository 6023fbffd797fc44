"""Stores pushed and pulled: byte for byte, from several machines, interrupted, damaged, and from whom not to trust."""

import errno
import hashlib
import itertools
import json
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from bench import blocks, cli, launch, store
from bench.errors import BenchError
from bench.launch import Request
from bench.progress import Progress
from bench.sharing import manifest, remote
from bench.sharing.manifest import Entry, Manifest, Part
from bench.sharing.pull import Pulled, pull
from bench.sharing.push import Pushed, push

Main = Callable[..., tuple[int, str, str]]
QUIET, URL = Progress(quiet=True), "watched://bucket/toy"


class Watched(MemoryFileSystem):  # type: ignore[misc]
    """Counts what is written and read below its top folder, and lets a test come in between."""

    protocol = "watched"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    written: ClassVar[Counter[str]] = Counter()
    read: ClassVar[Counter[str]] = Counter()
    before_write: ClassVar[list[Callable[[int], None]]] = []
    after_read: ClassVar[list[Callable[[str, bytes], bytes]]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return f"/{path.removeprefix('watched://').strip('/')}" if path.strip("/") else ""

    def pipe_file(self, path: str, value: bytes, *rest: Any, **others: Any) -> None:
        for look in self.before_write:
            look(sum(self.written.values()))
        super().pipe_file(path, value, *rest, **others)
        name = path.rpartition("/")[2]
        self.written[name.split(".")[1] if name.startswith(".") else name] += 1

    def cat_file(self, path: str, *rest: Any, **others: Any) -> bytes:
        content: bytes = super().cat_file(path, *rest, **others)
        self.read[path.rpartition("/")[2]] += 1
        for change in self.after_read:
            content = change(path, content)
        return content

    @classmethod
    def parts_read(cls) -> int:
        return sum(count for name, count in cls.read.items() if not name.startswith("manifest"))


fsspec.register_implementation("watched", Watched, clobber=True)


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty file system, and parts so small that the toy's arrays have several."""
    monkeypatch.setattr(manifest, "PART_BYTES", 500)
    yield
    for found in (Watched.store, Watched.written, Watched.read, Watched.before_write, Watched.after_read):
        found.clear()
    Watched.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the toy's store is, once it has been made."""
    return tmp_path_factory.mktemp("once") / "store"


@pytest.fixture
def folder(tmp_path: Path, toy_request: Request, once: Path) -> Path:
    """A whole store of 30 rows."""
    if not once.exists():
        assert launch.make(toy_request, once, QUIET) is not None
    return Path(shutil.copytree(once, tmp_path / "store"))


def of_shard(request: Request, folder: Path, number: int) -> Path:
    """The blocks of shard `number` of 2."""
    assert launch.make(replace(request, shard=(number, 2)), folder, QUIET) is None
    return folder


def slower(request: Request, folder: Path) -> None:
    """As if the first block of a store had been trained elsewhere: the same rows, in another time."""
    header, arrays = blocks.read(folder / "blocks/rows-000000000-000000008.npz", launch.check(request).key)
    blocks.write(folder / "blocks", header.key, 0, arrays, 99, accuracy=header.accuracy)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def send(folder: Path, url: str = URL, **others: Any) -> Pushed:
    return push(folder, url, {}, QUIET, **others)


def fetch(folder: Path, url: str = URL, **others: Any) -> Pulled:
    return pull(url, folder, {}, QUIET, **others)


def at(name: str) -> Any:
    """A file at the URL, as the memory file system has it."""
    return Watched.store[f"/bucket/toy/{name}"]


def overwrite(name: str, content: bytes) -> None:
    fsspec.filesystem("watched").store[f"/bucket/toy/{name}"] = type(at(name))(
        Watched(), f"/bucket/toy/{name}", content
    )


def manifests() -> list[str]:
    return sorted(name.rpartition("/")[2] for name in Watched.store if "/manifest-" in name)


def put_manifest(found: Manifest) -> str:
    name, content = found.encode()
    Watched().pipe_file(f"/bucket/toy/{name}", content)
    return name


def only_manifest() -> Manifest:
    (name,) = manifests()
    return manifest.decode(Watched().cat_file(f"/bucket/toy/{name}"), name)


def part_of(path: str, number: int = 0) -> str:
    return next(entry for entry in only_manifest().files if entry.path == path).parts[number].sha256


# There and back


@pytest.mark.parametrize("url", ["far/away", "file://{}/far/away", URL])
def test_a_store_comes_back_byte_for_byte(folder: Path, tmp_path: Path, main: Main, url: str) -> None:
    url = url.format(tmp_path)
    code, out, err = main("push", "store", url)
    assert code == 0
    assert out.startswith(f"{url}: toy/logreg, alpha 0.5, seed 0, whole: 30 rows\n")
    assert "reading store" in err
    assert "sending" in err
    code, out, err = main("pull", url, "deep/er/back", "--quiet")
    assert (code, err) == (0, "")
    assert out.startswith("deep/er/back: toy/logreg, alpha 0.5, seed 0, whole: 30 rows\n  11 files added")
    assert contents(tmp_path / "deep/er/back") == contents(folder)
    assert store.verify(tmp_path / "deep/er/back") == []
    assert not list((tmp_path / "deep/er").glob("*.partial"))
    code, out, _ = main("pull", url, "deep/er/back", "--json")
    told = json.loads(out)
    assert (code, told["files"], told["whole"], told["rows"]) == (0, 0, True, 30)
    code, out, _ = main("push", "store", url, "--json", "--quiet")
    told = json.loads(out)
    assert (code, told["sent"], told["bytes_sent"]) == (0, 0, 0)
    assert told["bytes"] == sum(map(len, contents(folder).values()))


def test_parts_and_manifest_are_named_by_what_they_hold(folder: Path) -> None:
    sent = send(folder)
    held = {name.rpartition("/")[2]: bytes(file.getvalue()) for name, file in Watched.store.items()}
    for name, content in held.items():
        assert hashlib.sha256(content).hexdigest() == name.removeprefix("manifest-").removesuffix(".json")
    listed = {entry.path: [part.sha256 for part in entry.parts] for entry in only_manifest().files}
    assert {name: b"".join(held[part] for part in parts) for name, parts in listed.items()} == contents(folder)
    assert max(len(content) for name, content in held.items() if not name.startswith("manifest")) == 500
    assert sent.parts == sent.sent == len(held) - 1


def test_rows_of_a_worker(tmp_path: Path, main: Main) -> None:
    (tmp_path / "w.py").write_text(
        "import numpy as np\ndef main(*, index, logdir):\n    return {'a: b?': np.full(3, index)}\n"
    )
    (tmp_path / "spec.json").write_text('{"num_models": 5, "schema": {"a: b?": {"shape": [3], "dtype": "int64"}}}')
    assert main("train", "--worker", "w.py:main", "--spec", "spec.json", "--out", "s", "--quiet")[0] == 0
    code, out, _ = main("push", "s", URL)
    assert code == 0
    assert "rows of the worker w:main, whole: 5 rows" in out
    assert main("pull", URL, "t")[0] == 0
    assert contents(tmp_path / "t") == contents(tmp_path / "s")
    assert main("verify", "t")[0] == 0
    (tmp_path / "s/gathered.json").unlink()  # as before it is gathered
    assert "not whole: blocks of 5 of 5 rows" in main("push", "s", "memory://blocks")[1]


def test_links_of_an_imported_store_are_followed(tmp_path: Path, main: Main) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "R/cifar/data").mkdir(parents=True)
    masks = np.unique(rng.random((99, 12)).argsort(1) < 6, axis=0)[:60]
    np.save(tmp_path / "R/cifar/data/train_masks_50pct.npy", masks)
    np.save(tmp_path / "R/cifar/data/test_margins_50pct.npy", rng.standard_normal((60, 5)).astype(np.float16))
    roles = ("--eval-rows", "last:20", "--tune-rows", "8")
    assert main("import", "datamodels-data", "R", "S", *roles)[0] == 0
    for name in ("masks", "margins"):  # as between file systems
        held = next((tmp_path / "R/cifar/data").glob(f"*_{name}_*"))
        (tmp_path / f"S/{name}.npy").unlink()
        (tmp_path / f"S/{name}.npy").symlink_to(held)
    assert main("push", "S", URL)[0] == 0
    before = contents(tmp_path / "S")
    shutil.rmtree(tmp_path / "R")
    assert main("pull", URL, "T")[0] == 0
    assert contents(tmp_path / "T") == before
    assert not any(path.is_symlink() for path in (tmp_path / "T").iterdir())
    assert main("verify", "T")[:2] == (0, "T is sound\n")
    code, out, err = main("push", "S", URL)
    assert (code, out) == (2, "")
    assert f"S/margins.npy is a link to {tmp_path}/R/cifar" in err
    (tmp_path / "S/margins.npy").unlink()
    (tmp_path / "S/margins.npy").symlink_to("margins.npy")
    assert "margins.npy is a link to margins.npy, and cannot be read" in main("push", "S", URL)[2]


def test_arrays_of_another_tool(folder: Path, tmp_path: Path, main: Main) -> None:
    for name in ("meta.json", "identity.json", "asked.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "blocks")
    (folder / "notes.txt").write_text("of nobody's business")
    assert "arrays of another tool, whole: 30 rows" in main("push", "store", URL)[1]
    assert main("pull", URL, "back")[0] == 0
    (folder / "notes.txt").unlink()
    assert contents(tmp_path / "back") == contents(folder)
    np.save(folder / "_completed.npy", np.zeros(30, bool))
    assert "holds another store" in main("push", "store", URL)[2]


def test_an_empty_file_has_no_part(tmp_path: Path, folder: Path) -> None:
    (folder / "asked.json").write_bytes(b"")
    send(folder)
    assert next(entry for entry in only_manifest().files if entry.path == "asked.json").parts == ()
    fetch(tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)


# Several machines


def test_two_shards_are_pulled_as_one_store_that_gathers(
    toy_request: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: Main
) -> None:
    shards = [of_shard(toy_request, tmp_path / name, number) for number, name in enumerate("AB")]
    assert send(shards[0]).held == 16
    assert send(shards[1]).held == 14
    assert len(manifests()) == 2
    code, out, _ = main("pull", URL, "both")
    assert code == 0
    assert "not whole: blocks of 30 of 30 rows" in out
    assert "the same bench train command" in out
    both = tmp_path / "both"
    assert contents(both) == contents(shards[0]) | contents(shards[1])
    trained = []
    monkeypatch.setattr(launch, "_train", lambda *_: trained.append(1))
    assert launch.make(toy_request, both, QUIET) is not None
    assert trained == []
    assert store.verify(both) == []
    send(both)  # whole: the manifests of its shards say no more than it does
    assert len(manifests()) == 1
    fetch(tmp_path / "all")
    assert contents(tmp_path / "all") == contents(both)


def test_two_pushes_at_the_same_time(toy_request: Request, tmp_path: Path) -> None:
    shards = [of_shard(toy_request, tmp_path / name, number) for number, name in enumerate("AB")]
    meet, errors = threading.Barrier(2, timeout=20), list[BaseException]()
    Watched.before_write.append(lambda count: None if count else (meet.wait(), None)[1])

    def one(folder: Path) -> None:
        try:
            send(folder, parallel=1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(folder,)) for folder in shards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert fetch(tmp_path / "both").held == 30


def test_a_shard_gets_what_it_lacks_and_keeps_its_own(toy_request: Request, tmp_path: Path) -> None:
    mine, other = of_shard(toy_request, tmp_path / "A", 0), of_shard(toy_request, tmp_path / "B", 1)
    again = of_shard(toy_request, tmp_path / "C", 0)
    slower(toy_request, again)
    before = contents(mine)
    assert before != contents(again)
    send(other)
    send(again)
    fetch(mine)
    assert contents(mine) == contents(other) | before
    assert fetch(mine).files == 0


def test_a_grown_store_brings_an_older_copy_up_to_date(toy_request: Request, folder: Path, tmp_path: Path) -> None:
    send(folder)
    fetch(tmp_path / "copy")
    grown = replace(toy_request, plan=replace(toy_request.plan, n_rows=40))
    assert launch.make(replace(grown, shard=(0, 2)), folder, QUIET) is None
    send(folder)  # 30 rows gathered, and a block more
    fetch(tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)
    assert store.verify(tmp_path / "copy") == []
    assert launch.make(grown, folder, QUIET) is not None
    assert send(folder).rows == 40
    found = fetch(tmp_path / "copy")
    assert found.bytes_fetched < found.bytes + 1 < sum(map(len, contents(folder).values()))
    assert contents(tmp_path / "copy") == contents(folder)
    assert len(manifests()) == 1


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.integers(1, 12), st.sets(st.tuples(st.integers(0, 11), st.integers(1, 5)), min_size=1)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_manifests_hold_together(made: list[tuple[bool, int, set[tuple[int, int]]]]) -> None:
    found = {}
    for number, (whole, rows, spans) in enumerate(made):
        part = Part(f"{number:064x}", 1)
        names = [f"blocks/rows-{start:09d}-{start + size:09d}.npz" for start, size in spans]
        files = tuple(Entry(name, (part,)) for name in sorted(["identity.json", "meta.json", *names]))
        one = Manifest(1, "trained", "a" * 64, "toy", whole, rows, files)
        found[one.encode()[0]] = one
    chosen = manifest.choose(found, "u")
    for order in itertools.permutations(found):
        assert manifest.choose({name: found[name] for name in order}, "u") == chosen
    held = {entry for one in found.values() for entry in one.files if entry.rows is not None}
    rows_of = {row for name, entry in chosen.files.items() if entry.rows for row in entry.rows}
    if any(one.whole for one in found.values()):
        base = max(one.rows for one in found.values() if one.whole)
        assert chosen.whole
        assert chosen.rows == chosen.held == base
        got = set(chosen.files.values())
        bases = [set(one.files) for one in found.values() if one.whole and one.rows == base]
        after = {entry for entry in held if entry.rows and entry.rows.start >= base}
        assert any(whole <= got <= whole | after for whole in bases)
        assert {entry.path for entry in after} <= set(chosen.files)
    else:
        assert rows_of == {row for entry in held for row in entry.rows or ()}
        assert chosen.held == min(len(rows_of), chosen.rows)
    assert len(rows_of) == manifest.covered(chosen.files.values())


# Interrupted


@pytest.mark.parametrize("error", [OSError(errno.ECONNRESET, "reset"), KeyboardInterrupt()])
def test_a_push_that_is_interrupted_goes_on(folder: Path, tmp_path: Path, error: BaseException, main: Main) -> None:
    def stop(count: int) -> None:
        if count >= 7:
            raise error

    Watched.before_write.append(stop)
    with pytest.raises((BenchError, KeyboardInterrupt)):
        send(folder, parallel=2)
    assert manifests() == []
    code, out, err = main("pull", URL, "back")
    assert (code, out) == (2, "")
    assert "holds a push that has not ended: run it again" in err
    assert not (tmp_path / "back").exists()
    Watched.before_write.clear()
    sent = send(folder)
    assert sent.sent == sent.parts - 7
    assert set(Watched.written.values()) == {1}
    assert fetch(tmp_path / "back").whole


@pytest.mark.parametrize("error", [OSError(errno.ECONNRESET, "reset"), KeyboardInterrupt()])
def test_a_pull_that_is_interrupted_goes_on(folder: Path, tmp_path: Path, error: BaseException) -> None:
    sent = send(folder)

    def stop(_: str, content: bytes) -> bytes:
        if Watched.parts_read() > 9:
            raise error
        return content

    Watched.after_read.append(stop)
    with pytest.raises((BenchError, KeyboardInterrupt)):
        fetch(tmp_path / "back", parallel=2)
    assert not (tmp_path / "back").exists()
    assert json.loads((tmp_path / "back.partial/pull.json").read_text())["title"] == "toy/logreg, alpha 0.5, seed 0"
    Watched.after_read.clear()
    Watched.read.clear()
    found = fetch(tmp_path / "back")
    assert found.fetched == Watched.parts_read() == sent.parts - 9
    assert contents(tmp_path / "back") == contents(folder)
    assert not (tmp_path / "back.partial").exists()


def test_what_a_torn_copy_left_half_written_is_sent_again(folder: Path) -> None:
    send(folder)
    torn = part_of("masks.npy")
    overwrite(f"parts/{torn}", at(f"parts/{torn}").getvalue()[:100])
    assert send(folder).sent == 1
    assert at(f"parts/{torn}").getbuffer().nbytes == 500


def test_a_file_that_changes_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = remote.Remote.parts

    def changed(self: remote.Remote) -> dict[str, int]:
        (folder / "spec.json").write_text("other")
        return parts(self)

    monkeypatch.setattr(remote.Remote, "parts", changed)
    with pytest.raises(BenchError, match=r"spec\.json has changed while it was pushed"):
        send(folder)
    assert manifests() == []


def test_a_link_in_the_partial_folder_leads_nowhere(folder: Path, tmp_path: Path) -> None:
    send(folder)
    (tmp_path / "mine.txt").write_text("mine")
    name = "back.partial/store/spec.json"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / "back.partial/pull.json").write_text(json.dumps({"key": only_manifest().key, "title": "toy"}))
    (tmp_path / name).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(BenchError, match=r"cannot write .*spec\.json"):
        fetch(tmp_path / "back")
    assert (tmp_path / "mine.txt").read_text() == "mine"


# Damaged


def changed(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed, "has another content than the sha256 in its name"),
        (lambda content: content[:-3], "has 497 bytes, not 500"),
        (lambda _: b"", "has 0 bytes, not 500"),
        (None, "is missing"),
    ],
)
def test_a_damaged_part_is_named_and_the_others_are_kept(
    folder: Path, tmp_path: Path, main: Main, change: Callable[[bytes], bytes] | None, words: str
) -> None:
    sent = send(folder)
    bad = part_of("masks.npy", 1)
    if change is None:
        del Watched.store[f"/bucket/toy/parts/{bad}"]
    else:
        overwrite(f"parts/{bad}", change(at(f"parts/{bad}").getvalue()))
    code, out, err = main("pull", URL, "back", "--quiet")
    assert (code, out) == (2, "")
    assert f"{URL}/parts/{bad} of masks.npy, from byte 500, {words}" in err
    assert len(err.splitlines()) == 1
    assert Watched.read[bad] == (2 if change else 0)  # tried twice
    assert not (tmp_path / "back").exists()
    code, out, _ = main("push", "store", URL, "--recheck", "--quiet")
    assert code == 0
    assert f"1 part of {sent.parts} sent" in out
    found = fetch(tmp_path / "back")
    assert found.fetched == 1
    assert contents(tmp_path / "back") == contents(folder)


def test_bytes_that_are_damaged_on_their_way_once(folder: Path, tmp_path: Path) -> None:
    send(folder)
    bad = part_of("masks.npy")
    Watched.after_read.append(lambda path, raw: changed(raw) if path.endswith(bad) and Watched.read[bad] == 1 else raw)
    fetch(tmp_path / "back")
    assert Watched.read[bad] == 2
    assert contents(tmp_path / "back") == contents(folder)


def test_a_partial_folder_is_not_believed(folder: Path, tmp_path: Path) -> None:
    send(folder)
    bad = part_of("margins.npy")
    del Watched.store[f"/bucket/toy/parts/{bad}"]
    with pytest.raises(BenchError, match=r"margins\.npy, from byte 0, is missing"):
        fetch(tmp_path / "back")
    masks = tmp_path / "back.partial/store/masks.npy"
    masks.write_bytes(changed(masks.read_bytes()))
    (tmp_path / "back.partial/store/other.txt").write_text("not of the store")
    send(folder)
    assert fetch(tmp_path / "back").fetched == 2
    assert contents(tmp_path / "back") == contents(folder)


def test_a_damaged_manifest(folder: Path, tmp_path: Path) -> None:
    send(folder)
    (name,) = manifests()
    overwrite(name, at(name).getvalue()[:-9])
    with pytest.raises(BenchError, match=f"{name} is damaged"):
        fetch(tmp_path / "back")
    send(folder)
    assert fetch(tmp_path / "back").whole


def test_a_damaged_store_is_not_pushed(folder: Path, main: Main) -> None:
    good = contents(folder)
    block = "blocks/rows-000000008-000000016.npz"
    for name, content, words in (
        ("margins.npy", changed(good["margins.npy"]), "margins.npy has another content than the store's own checksum"),
        ("meta.json", good["meta.json"][:50], "meta.json cannot be read"),
        ("identity.json", b"{", "identity.json cannot be read"),
        (block, good[block][:99], "the block rows-000000008-000000016.npz is torn"),
        (block, None, "the block rows-000000008-000000016.npz is torn"),
        ("masks.npy", None, "masks.npy cannot be read: No such file"),
    ):
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        code, out, err = main("push", "store", URL)
        assert (code, out) == (2, "")
        assert words in err
        assert Watched.written == {}
        (folder / name).write_bytes(good[name])


def test_a_torn_block_of_an_unfinished_store_is_left_out(toy_request: Request, tmp_path: Path, main: Main) -> None:
    shard = of_shard(toy_request, tmp_path / "A", 0)
    first, second = sorted((shard / "blocks").iterdir())
    first.write_bytes(first.read_bytes()[:99])
    code, out, err = main("push", "A", URL)
    assert code == 0
    assert "blocks of 8 of 30 rows" in out
    assert f"{first.name} is torn (BadZipFile); it is left out" in err
    assert [name for name in contents(tmp_path / "A") if name.endswith(second.name)]
    second.unlink()
    code, _, err = main("push", "A", URL)
    assert code == 2
    assert "no block of it is finished" in err


def test_a_damaged_copy_is_mended(folder: Path, tmp_path: Path) -> None:
    send(folder)
    fetch(tmp_path / "back")
    for name in ("masks.npy", "meta.json", "blocks/rows-000000008-000000016.npz"):
        path = tmp_path / "back" / name
        path.write_bytes(path.read_bytes()[:-9])
        fetch(tmp_path / "back")
        assert contents(tmp_path / "back") == contents(folder)


# What is not to be mixed


def test_another_ground_truth(toy_request: Request, folder: Path, tmp_path: Path, main: Main) -> None:
    other = tmp_path / "other"
    assert launch.make(replace(toy_request, seed=1), other, QUIET) is not None
    send(folder)
    before, count = contents(other), len(Watched.store)
    code, _, err = main("push", "other", URL)
    assert code == 2
    assert f"{URL} holds another store, toy/logreg, alpha 0.5, seed 0 (key " in err
    assert "not toy/logreg, alpha 0.5, seed 1" in err
    assert len(Watched.store) == count
    code, _, err = main("pull", URL, "other")
    assert code == 2
    assert "other is another store, toy/logreg, alpha 0.5, seed 1" in err
    assert contents(other) == before
    shutil.copytree(folder, tmp_path / "aside")
    found = only_manifest()
    put_manifest(Manifest(1, "trained", "b" * 64, "another", found.whole, 30, found.files))
    assert "holds two stores" in main("pull", URL, "back")[2]


def test_another_push_wins_the_race(toy_request: Request, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert launch.make(replace(toy_request, seed=1), other, QUIET) is not None
    parts = send(folder, "watched://bucket/else").parts
    Watched.store.clear()
    Watched.written.clear()

    def meanwhile(_: int) -> None:
        if sum(Watched.written.values()) >= parts:
            Watched.before_write.clear()
            send(other)

    Watched.before_write.append(meanwhile)
    with pytest.raises(BenchError, match="holds another store"):
        send(folder, parallel=1)
    assert only_manifest().title.endswith("seed 1")


def test_models_of_another_training_are_not_mixed(toy_request: Request, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    slower(toy_request, other)
    assert launch.make(toy_request, other, QUIET) is not None
    send(folder)
    before = contents(other)
    with pytest.raises(BenchError, match=r"other is whole, with 30 rows, and was not made of what"):
        fetch(other)
    assert contents(other) == before
    cut = tmp_path / "cut"  # the same rows in other blocks
    assert launch.make(replace(toy_request, block_rows=5, shard=(0, 2)), cut, QUIET) is None
    with pytest.raises(BenchError, match=r"has the block rows-000000000-000000005\.npz, which .* cuts otherwise"):
        fetch(cut)


@pytest.mark.parametrize("place", ["notes", "file.txt", "file.txt/back"])
def test_a_place_that_is_taken(folder: Path, tmp_path: Path, main: Main, place: str) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").write_text("mine")
    (tmp_path / "file.txt").write_text("mine")
    send(folder)
    code, out, err = main("pull", URL, place)
    assert (code, out) == (2, "")
    assert place in err
    assert contents(tmp_path / "notes") == {"a.txt": b"mine"}
    code, out, err = main("push", "store", place)
    assert (code, out) == (2, "")
    assert place in err
    assert (tmp_path / "file.txt").read_text() == "mine"
    assert contents(tmp_path / "notes") == {"a.txt": b"mine"}


def test_a_partial_folder_of_something_else(folder: Path, tmp_path: Path) -> None:
    send(folder)
    partial = tmp_path / "back.partial"
    partial.mkdir()
    (partial / "a.txt").write_text("mine")
    with pytest.raises(BenchError, match=r"back\.partial is in the way of the pull"):
        fetch(tmp_path / "back")
    (partial / "pull.json").write_text('{"key": "b", "title": "of another"}')
    with pytest.raises(BenchError, match=r"back\.partial is the beginning of another store, of another"):
        fetch(tmp_path / "back")
    assert (partial / "a.txt").read_text() == "mine"


def test_no_space(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(BenchError, match=r"back needs [\d,]+ bytes more, and 10 are free"):
        fetch(tmp_path / "back")
    monkeypatch.undo()
    monkeypatch.setattr(manifest, "PART_BYTES", 500)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "back.partial"))

    with monkeypatch.context() as patch:
        patch.setattr("bench.sharing.pull._open", full)
        with pytest.raises(BenchError, match=r"cannot write .*: No space left on device; make room"):
            fetch(tmp_path / "back")
    fetch(tmp_path / "back")

    def full_there(_: int) -> None:
        full()

    Watched.before_write.append(full_there)
    with pytest.raises(BenchError, match=r"cannot be written .*No space left"):
        send(folder, "watched://bucket/else")


# From whom not to trust


@pytest.mark.parametrize(
    "path",
    [
        "../evil.npy",
        "/tmp/evil.npy",
        "blocks/../../evil.npy",
        "blocks/../meta.json",
        "a/b.npy",
        "blocks/evil.npz",
        "blocks/rows-000000000-000000008.npz/x",
        "..\\evil.npy",
        "C:\\evil.npy",
        "..",
        ".",
        "",
        "blocks",
        "blocks/",
        ".bashrc",
        "a\nb.npy",
        "a\0b.npy",
        "é" * 120,
    ],
)
def test_names_that_lead_out_of_the_store(folder: Path, tmp_path: Path, main: Main, path: str) -> None:
    send(folder)
    found = only_manifest()
    Watched().rm_file(f"/bucket/toy/{manifests()[0]}")
    evil = Entry(path, found.files[0].parts)
    name = put_manifest(Manifest(1, "trained", found.key, found.title, True, 30, (*found.files, evil)))
    code, out, err = main("pull", URL, "deep/back")
    assert (code, out) == (2, "")
    assert f"{name} names the file " in err
    assert "which no store has" in err
    assert [*contents(tmp_path)] == [f"store/{name}" for name in contents(folder)]
    assert main("push", "store", URL)[0] == 2


def test_manifests_that_make_no_sense(folder: Path, tmp_path: Path, main: Main) -> None:
    send(folder)
    good = only_manifest()
    Watched().rm_file(f"/bucket/toy/{manifests()[0]}")
    plain = json.loads(good.encode()[1])

    def other(**change: Any) -> bytes:
        return json.dumps(plain | change).encode()

    one = plain["files"][0]
    part = one["parts"][0]
    without = [file for file in plain["files"] if file["path"] != "meta.json"]
    for content, words in (
        (b"\x80\x04cos\nsystem\n.", "is no manifest"),
        (b"[" * 100_000, "is no manifest"),
        (other(format=2), "is of format 2, and this version knows 1: update ldsbench"),
        (other(kind="pickle"), "is no manifest"),
        (other(key="../../x"), "make no sense"),
        (other(rows=-1), "make no sense"),
        (other(title="a\x1b[2J"), "make no sense"),
        (other(files=[*plain["files"], one]), "twice"),
        (other(files=[{**one, "parts": [{**part, "size": -5}]}]), "has the size -5"),
        (other(files=[{**one, "parts": [{**part, "size": 2**40}]}]), "has the size 1099511627776"),
        (other(files=[{**one, "parts": [{**part, "sha256": "../../../x"}]}]), "the name '../../../x'"),
        (other(files=without), "names no meta.json"),
        (other(whole=False, kind="imported"), "which are shared whole"),
    ):
        name = f"manifest-{hashlib.sha256(content).hexdigest()}.json"
        Watched().pipe_file(f"/bucket/toy/{name}", content)
        code, out, err = main("pull", URL, "back")
        assert (code, out) == (2, "")
        assert words in err
        assert name in err
        assert not list(tmp_path.glob("back*"))
        Watched().rm_file(f"/bucket/toy/{name}")


def test_a_manifest_that_is_too_large(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send(folder)
    monkeypatch.setattr(remote, "MOST_BYTES", 1000)
    Watched.read.clear()
    with pytest.raises(BenchError, match=r"has [\d,]+ bytes, and a manifest at most 1,000"):
        fetch(tmp_path / "back")
    assert Watched.read == {}


def test_a_store_that_is_not_what_the_manifest_says(folder: Path, tmp_path: Path) -> None:
    send(folder)
    found = only_manifest()
    Watched().rm_file(f"/bucket/toy/{manifests()[0]}")
    put_manifest(Manifest(1, "trained", "b" * 64, "a better one", True, 30, found.files))
    with pytest.raises(BenchError, match=r"holds another store, toy/logreg, .* than its manifest says"):
        fetch(tmp_path / "back")
    assert not (tmp_path / "back").exists()


# Words


def test_options() -> None:
    given = ["anon=true", "endpoint_url=http://x/?a=b", 'client_kwargs={"region_name": "r"}', "key=0123", "secret="]
    assert remote.options(given) == {
        "anon": True,
        "endpoint_url": "http://x/?a=b",
        "client_kwargs": {"region_name": "r"},
        "key": "0123",
        "secret": "",
    }
    for word in ("anon", "=x", "a b=c", "a={"):
        with pytest.raises(BenchError, match="--option"):
            remote.options([word])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("push", "store"), "what is missing: URL"),
        (("push", "nothing", "u"), "nothing is not a ground-truth store: there is no such folder"),
        (("push", "store", "odd://x"), "odd://x cannot be opened (ValueError: Protocol not known"),
        (("push", "store", "/"), "/ names no folder"),
        (("push", "store", "u", "--parallel", "0"), "--parallel is 0: it takes at least one"),
        (("push", "store", "u", "--option", "x"), "write key=value"),
        (("pull", "u", "t"), "u holds no store: name the URL of a bench push"),
        (("pull", "store/spec.json", "t"), "store/spec.json is a file"),
        (("push", "family", "u"), "family is a family of stores: share each by itself, such as family/alpha-0.2"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_usage(tmp_path: Path, main: Main, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "family/alpha-0.2").mkdir(parents=True)
    (tmp_path / "family/alpha-0.2/identity.json").touch()
    code, out, err = main(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert not (tmp_path / "u").exists()


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("hf", "huggingface_hub")])
def test_an_extra_that_is_not_installed(
    folder: Path, main: Main, monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(fsspec.registry.target if hasattr(fsspec.registry, "target") else {}, scheme, raising=False)
    code, _, err = main("push", str(folder), f"{scheme}://a/b")
    assert code == 2
    assert f"{scheme}:// needs a package that is not installed: pip install 'ldsbench[share-{scheme}]'" in err


def test_help_says_what_a_url_is(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("push", "pull"):
        with pytest.raises(SystemExit):
            cli.main([verb, "--help"])
        assert "s3://BUCKET/FOLDER" in capsys.readouterr().out
