"""The command line as a stranger meets it: exit codes, one sentence on stderr, results alone on stdout."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
Main = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "torchvision", "numpy", "scipy", "pandas", "numba", "sklearn", "matplotlib", "boto3")


def refused(found: tuple[int, str, str], *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr with these words in it."""
    code, out, err = found
    assert (code, out) == (2, "")
    assert err.startswith("bench")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Array]:
    """S.npy, M.npy and Y.npy in the folder of `main`."""
    rng = np.random.default_rng(3)
    scores, masks = rng.standard_normal((20, 5)), rng.random((30, 20)) < 0.5
    arrays = {"S": scores, "M": masks, "Y": masks @ scores + 2 * rng.standard_normal((30, 5))}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    return arrays


def lds(main: Main, *others: str, s: str = "S.npy", m: str = "M.npy", y: str = "Y.npy") -> tuple[int, str, str]:
    return main("lds", "--masks", m, "--margins", y, "--scores", s, *others)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("VERB", "python -m bench --help")),
        (("rnu",), ("no verb 'rnu'", "did you mean 'run'?", "verify")),
        (("xyzzy",), ("no verb 'xyzzy' (there are: run",)),
        (("run", "--modles", "5"), ("no option '--modles'", "did you mean '--models'?", "bench run --help")),
        (("run", "digits/mlp", "random"), ("'random'", "too m")),
        (("run", "--models", "many"), ("--models", "'many'")),
        (("run", "--output", "min"), ("--output", "logsumexp")),
        (("lds", "--masks", "M.npy"), ("--margins, --scores",)),
        (("run", "digit/mlp"), ("no setting 'digit/mlp'", "did you mean 'digits/mlp'?", "mnist/logreg")),
        (("run", "digits"), ("no setting 'digits'", "a setting is dataset/model")),
        (("run", "digits/mpl"), ("digits has no model 'mpl'", "did you mean 'mlp'?", "logreg, mlp")),
        (("train", "digits/mpl", "--out", "s"), ("did you mean 'mlp'?",)),
        (("run", "digits/mlp:size=3"), ("digits has no parameter 'size' (it has none)",)),
        (("run", "mnist/mlp:n_trian=3"), ("no parameter 'n_trian'", "did you mean 'n_train'?", "n_test")),
        (("run", "mnist/mlp:n_train=many"), ("n_train is 'many', and must be an integer",)),
        (("run", "--method", "trakk"), ("no method 'trakk'", "did you mean 'trak'?", "datamodels")),
        (("run", "--method", "trak:dampin=1"), ("trak has no parameter 'dampin'", "'damping'", "proj_dim")),
        (("run", "--method", "trak:damping=x"), ("damping is 'x', and must be a number or 'tune'",)),
        (("run", "--method", "trak:damping"), ("'trak:damping'", "name:key=value")),
        (("run", "--method", "nothing.py"), ("no file 'nothing.py'",)),
        (("run", "nothing.py/mlp"), ("no file 'nothing.py'",)),
        (("run", "--data-dir", "nothing"), ("--data-dir", "'nothing'", "not a folder")),
        (("report", "nothing"), ("nothing does not exist", "bench run")),
        (("verify", "nothing"), ("nothing is not a ground-truth store",)),
    ],
)
def test_bad_usage(main: Main, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(main(*arguments), *words)
    assert not Path("results").exists() or arguments[1:2] == ("--data-dir",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--seed", "-1"), ("--seed is -1",)),
        (("--alpha", "0"), ("--alpha is 0.0", "between 0 and 1")),
        (("--alpha", "1"), ("--alpha is 1.0",)),
        (("--alpha", "1.5"), ("--alpha is 1.5",)),
        (("--alpha", "nan"), ("--alpha is nan",)),
        (("--alpha", "-inf"), ("--alpha",)),
        (("--alpha", "0.001"), ("--alpha is 0.001",)),
        (("--models", "8"), ("--models is 8", "at least 9")),
        (("--models", "-5"), ("--models is -5",)),
        (("--repeats", "0"), ("--repeats is 0",)),
        (("--eval-subsets", "1"), ("--eval-subsets is 1",)),
        (("--tune-rows", "-1"), ("--tune-rows is -1",)),
        (("--device", "nonsense"), ("--device is 'nonsense'", "auto, cpu or cuda")),
        (("--device", "meta"), ("--device is 'meta'",)),
    ],
)
def test_bad_values(
    main: Main, tmp_path: Path, toy_source: str, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    (tmp_path / "toy.py").write_text(toy_source)
    for verb in ("run", "train"):
        refused(main(verb, "toy.py/logreg", "--out", "out", *arguments), *words)


def test_cuda_where_there_is_none(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(main("run", "digits/logreg", "--out", "out", "--device", "cuda"), "--device is cuda", "--device cpu")


@pytest.mark.parametrize("shard", ["", "1", "2/2", "-1/2", "a/b", "0/0", "²/3", "1/2/3", "0.5/2"])
def test_bad_shards(main: Main, shard: str) -> None:
    refused(main("train", "digits/logreg", "--out", "s", f"--shard={shard}"), "--shard", repr(shard), "0/4")


def test_bad_workers(main: Main) -> None:
    refused(main("train", "digits/logreg", "--out", "s", "--workers=0"), "--workers", "0", "at least one")
    assert not Path("s").exists()


@pytest.mark.parametrize("out", ["file/below", "file/deep/below", "file"])
def test_a_place_that_cannot_be_written(main: Main, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    refused(main("run", "digits/logreg", "--method", "random", "--out", out), out, "--out")
    assert (tmp_path / "file").read_text() == "mine"


def test_missing_and_damaged_data(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr(torchvision.datasets, "MNIST", _no_network)
    monkeypatch.delenv("BENCH_DATA", raising=False)
    (tmp_path / "data/mnist").mkdir(parents=True)
    there = ("run", "mnist/logreg", "--data-dir", "data", "--out", "out", "--method", "random")
    refused(main(*there), "train-images-idx3-ubyte.gz", "data", "--data-dir", "$BENCH_DATA")
    for file in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"data/mnist/{file}-ubyte.gz").write_bytes(b"\x1f\x8btorn")
    refused(main(*there), "train-images-idx3-ubyte.gz is damaged", "md5", "replace it")


def _no_network(**_: Any) -> None:
    raise OSError("no network")


def test_lds_json_has_the_contracts_keys_and_scipys_values(main: Main, files: dict[str, Array]) -> None:
    from scipy.stats import spearmanr

    files["S"][:, 2] = np.nan
    np.save("S.npy", files["S"])
    code, out, err = lds(main, "--json", "--per-target", "per.npy")
    assert (code, err) == (0, "")
    found = json.loads(out, parse_constant=lambda c: pytest.fail(c))
    predicted = files["M"] @ files["S"]
    expected = [spearmanr(predicted[:, j], files["Y"][:, j])[0] if j != 2 else np.nan for j in range(5)]
    assert found["lds"] == pytest.approx(np.nanmean(expected), abs=1e-12)
    assert found["ci"][0] < found["lds"] < found["ci"][1]
    keys = {key: found[key] for key in ("n_subsets", "n_targets", "n_excluded", "n_tied")}
    assert keys == {"n_subsets": 30, "n_targets": 5, "n_excluded": 1, "n_tied": 0}
    per_target = np.load("per.npy")
    assert (per_target.dtype.name, per_target.shape) == ("float64", (5,))
    assert per_target == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_lds_in_words(main: Main, files: dict[str, Array]) -> None:
    assert files
    code, out, err = lds(main)
    assert (code, err) == (0, "")
    assert out.startswith("LDS 0.")
    assert "30 subsets × 5 targets; 0 excluded, 0 with ties" in out
    value = json.loads(lds(main, "--json")[1])["lds"]
    assert f"LDS {value:.4f} " in out


def test_lds_takes_masks_of_any_type_and_memory_order(main: Main, files: dict[str, Array]) -> None:
    expected = json.loads(lds(main, "--json")[1])["lds"]
    kinds: list[Array] = [files["M"].astype(np.float32), files["M"].astype(np.int64), np.asfortranarray(files["M"])]
    for i, masks in enumerate(kinds):
        np.save(f"M{i}.npy", masks)
        assert json.loads(lds(main, "--json", m=f"M{i}.npy")[1])["lds"] == pytest.approx(expected, abs=1e-12)


def spoilt(files: dict[str, Array]) -> dict[str, Array]:
    return {
        "S-transposed": files["S"].T,
        "S-nan": files["S"] * np.nan,
        "S-complex": files["S"].astype(complex),
        "S-text": files["S"].astype(str),
        "S-flat": files["S"][:, 0],
        "S-few": files["S"][:7],
        "S-none": np.zeros((0, 5)),
        "S-constant": np.zeros((20, 5)),
        "S-object": np.array([[None] * 5] * 20),
        "M-two": files["M"] * 2,
        "M-half": files["M"] * 0.5,
        "M-nan": np.where(files["M"], np.nan, 0),
        "M-transposed": files["M"].T,
        "M-one": files["M"][:1],
        "M-more": np.vstack([files["M"], files["M"]]),
        "Y-transposed": files["Y"].T,
        "Y-cube": files["Y"][None],
        "Y-nan": files["Y"] * np.nan,
        "Y-dates": files["Y"].astype("datetime64[s]"),
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("S-transposed", ("scores looks transposed",)),
        ("S-nan", ("scores has no finite value",)),
        ("S-complex", ("scores has dtype complex128",)),
        ("S-text", ("scores has dtype <U",)),
        ("S-flat", ("scores has shape (20,)", "[n_train, n_targets]")),
        ("S-few", ("scores has 7 rows but masks has 20 columns",)),
        ("S-none", ("scores has 0 rows",)),
        ("S-constant", ("S-constant.npy", "5 targets is excluded", "predictions constant: 5")),
        ("S-object", ("--scores", "S-object.npy", "not a whole .npy array of numbers")),
        ("M-two", ("masks[", "is 2", "use 1")),
        ("M-half", ("masks[", "is 0.5")),
        ("M-nan", ("masks[", "is nan")),
        ("M-transposed", ("masks",)),
        ("M-one", ("masks has 1 row",)),
        ("M-more", ("masks has 60 rows but margins has 30",)),
        ("Y-transposed", ("margins looks transposed",)),
        ("Y-cube", ("margins has shape (1, 30, 5)",)),
        ("Y-nan", ("excluded", "margins contain NaN: 5")),
        ("Y-dates", ("margins has dtype datetime64",)),
    ],
)
def test_lds_of_bad_arrays(main: Main, files: dict[str, Array], name: str, words: tuple[str, ...]) -> None:
    np.save(f"{name}.npy", spoilt(files)[name])
    refused(lds(main, "--json", **{name[0].lower(): f"{name}.npy"}), *words)


@pytest.mark.parametrize("which", ["s", "m", "y"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("cannot read", "No such file")),
        ("folder", ("cannot read", "Is a directory")),
        (b"", ("is not a .npy file",)),
        (b"hello", ("is not a .npy file", "numpy.save")),
        (b"\x80\x04N.", ("is not a .npy file",)),
        ("torn", ("not a whole .npy array",)),
        ("header", ("not a whole .npy array",)),
        ("npz", ("archive of several arrays",)),
        ("npz torn", ("not a whole .npy array",)),
    ],
)
def test_lds_of_bad_files(
    main: Main, files: dict[str, Array], which: str, content: bytes | str | None, words: tuple[str, ...]
) -> None:
    path = Path("bad.npy")
    if content == "folder":
        path.mkdir()
    elif content == "torn":
        path.write_bytes(Path("S.npy").read_bytes()[:-9])
    elif content == "header":
        path.write_bytes(Path("S.npy").read_bytes()[:20])
    elif content in ("npz", "npz torn"):
        np.savez("bad.npz", files["S"])
        path.write_bytes(Path("bad.npz").read_bytes()[: None if content == "npz" else 100])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    option = {"s": "--scores", "m": "--masks", "y": "--margins"}[which]
    refused(lds(main, **{which: "bad.npy"}), option, "bad.npy", *words)


def test_lds_per_target_where_it_cannot_be_written(main: Main, files: dict[str, Array]) -> None:
    assert files
    for place in ("S.npy/x.npy", "nothing/x.npy", "."):
        refused(lds(main, "--per-target", place), "--per-target", place)


def test_debug_shows_the_traceback_and_keeps_the_code(main: Main) -> None:
    for arguments in (("run", "digits/mpl"), ("verify", "nothing"), ("lds", "--masks", "a", "--margins", "b")):
        more = ("--scores", "c") if arguments[0] == "lds" else ()
        code, out, err = main(*arguments, *more, "--debug")
        assert (code, out) == (2, "")
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("bench: ")


@pytest.fixture
def toy_run(main: Main, tmp_path: Path, toy_source: str) -> Path:
    (tmp_path / "toy.py").write_text(toy_source)
    code, _, _ = main("run", "toy.py/logreg", "--models", "30", "--method", "random", "--out", "run", "--device", "cpu")
    assert code == 0
    return tmp_path / "run"


def test_run_report_and_verify(main: Main, toy_run: Path) -> None:
    common = ("run", "toy.py/logreg", "--models", "30", "--method", "random", "--device", "cpu", "--out", "run")
    code, out, err = main(*common)
    assert code == 0
    assert "random: reused" in err
    assert "random" not in err.replace("random: reused", "")
    assert out.splitlines()[3].split() == ["rank", "method", "LDS", "95%", "interval", *_COLUMNS]
    assert "\x1b" not in out + err
    code, as_json, err = main(*common, "--json", "--quiet")
    assert (code, err) == (0, "")
    written = json.loads((toy_run / "leaderboard.json").read_text())
    assert json.loads(as_json) == written
    (toy_run / "report.html").unlink()
    assert main("report", "run", "--quiet") == (0, out, "")
    assert (toy_run / "report.html").is_file()
    code, again, err = main("report", "run/leaderboard.json")
    assert (code, again, err.splitlines()[-1]) == (0, out, "written to run/report.html")
    assert json.loads(main("report", "run", "--json")[1]) == written
    code, out, told = main("verify", "run/ground-truth")
    assert (code, out) == (0, "run/ground-truth is sound\n")
    assert "no row was trained again: there is no setting 'toy/logreg'" in told
    with (toy_run / "ground-truth/margins.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    code, out, err = main("verify", "run/ground-truth")
    assert code == 1
    assert "margins.npy" in out
    assert "mends what is torn or missing" in err


_COLUMNS = ("of", "ceiling", "models", "training", "attributing", "memory")


def test_attribute_refuses(main: Main, toy_run: Path) -> None:
    store = str(toy_run / "ground-truth")
    base = ("attribute", "toy.py/logreg", "--method", "random")
    refused(main(*base, "--store", "nothing", "--out", "s.npy"), "nothing is not a ground-truth store")
    refused(main(*base, "--store", store, "--out", "s.txt"), "--out is 's.txt'", ".npy")
    refused(main(*base, "--store", store, "--out", "toy.py/s.npy"), "toy.py")
    refused(main(*base, "--store", store, "--out", "s.npy", "--device", "nonsense"), "--device is 'nonsense'")
    other = ("attribute", "toy.py/mlp", "--method", "random", "--store", store, "--out", "s.npy")
    refused(main(*other), "made with toy/logreg, not toy/mlp")
    refused(main("attribute", "toy.py/logreg", "--method", "x", "--store", store, "--out", "s.npy"), "no method 'x'")
    (toy_run / "ground-truth/margins.npy").write_bytes(b"\x93NUMPY torn")
    refused(main(*base, "--store", store, "--out", "s.npy"), "margins.npy", "torn")
    assert not Path("s.npy").exists()


@pytest.mark.parametrize("file", ["leaderboard.json", "per_target.csv"])
def test_a_run_with_a_torn_file_is_refused(main: Main, toy_run: Path, file: str) -> None:
    (toy_run / file).write_bytes(b"")
    refused(main("report", "run"), file)


def test_list(main: Main) -> None:
    code, out, err = main("list")
    assert (code, err) == (0, "")
    for name in ("methods", "settings", "trak", "datamodels", "digits/mlp", "fashion-mnist/mlp"):
        assert name in out
    assert "digits/mlp" not in main("list", "methods")[1]
    assert "trak" not in main("list", "datasets")[1]
    found = json.loads(main("list", "--json")[1])
    assert set(found) == {"methods", "datasets"}
    assert set(json.loads(main("list", "methods", "--json")[1])) == {"methods"}
    assert all(found["methods"].values())
    refused(main("list", "colours"), "colours", "methods")


@pytest.mark.parametrize(
    "verb",
    [
        *("", "run", "train", "attribute", "lds", "datamodels-curve", "report"),
        *("list", "verify", "import", "export"),
    ],
)
def test_help(main: Main, verb: str) -> None:
    code, out, err = main(*filter(None, (verb, "--help")))
    assert (code, err) == (0, "")
    assert out.startswith("usage: bench")
    assert main("--version")[1].count(".") == 2


def python(*arguments: str, cwd: Path, **others: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **others
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["datamodels-curve", "--help"],
        ["datamodels-curve", "store", "--rows", "many"],
        ["list"],
        ["list", "--json"],
        ["rnu"],
        ["run", "digits/mpl"],
        ["run", "mnist/mpl"],
        ["run", "--method", "trakk"],
        ["attribute", "digits/mlp", "--method", "trakk", "--store", "s", "--out", "o.npy"],
        ["train", "digit/mlp", "--out", "s"],
        ["import", "--list"],
        ["import", "datamodels-data", "--help"],
        ["export", "datamodels"],
    ],
)
def test_nothing_heavy_is_imported(tmp_path: Path, arguments: list[str]) -> None:
    code = (
        "import sys\nfrom bench.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    found = python("-c", code, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "HEAVY []"


def test_from_another_folder_and_into_a_pipe_that_closes(tmp_path: Path) -> None:
    found = python("-m", "bench", "list", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert "\x1b" not in found.stdout
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        ended = subprocess.run(
            [sys.executable, "-m", "bench", "list"], cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert (ended.returncode, ended.stderr) == (141, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_code_page_without_greek_letters(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    found = python("-m", "bench", "list", "methods", cwd=tmp_path, env=env)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_rich_table_on_a_terminal(tmp_path: Path, toy_run: Path, main: Main) -> None:
    pty = pytest.importorskip("pty")
    assert main("report", "run")[0] == 0
    (toy_run / "leaderboard.json").write_text(
        (toy_run / "leaderboard.json").read_text().replace('"notes": []', '"notes": ["damping [red] of [0.1]"]')
    )
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "160"}
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        env.pop(name, None)
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "report", "run"], cwd=tmp_path, stdout=theirs, stderr=subprocess.PIPE, env=env
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
        assert process.wait(60) == 0
    os.close(ours)
    text = shown.decode()
    assert "\x1b[" in text
    assert "─" in text
    assert "random" in text
    assert "damping [red] of [0.1]" in text
