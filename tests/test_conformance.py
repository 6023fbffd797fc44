"""The published check of a method's contract: sound methods pass it, each fault fails its own line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bench import methods
from bench.contract import cli, conformance
from bench.outputs import margins
from bench.workbench import Bench

Main = Callable[..., tuple[int, str, str]]
HEAD = "import numpy as np\nfrom bench import Method, Needs\n"


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with conformance.opened() as made:
        yield made


@pytest.fixture
def status(tmp_path: Path, bench: Bench) -> Callable[..., dict[str, tuple[str, str]]]:
    """Check a method with this body; gives status and figure by check."""

    def run(body: str, head: str = "") -> dict[str, tuple[str, str]]:
        lines = "\n".join(f"        {line}" for line in body.splitlines())
        path = tmp_path / "mine.py"
        path.write_text(f"{HEAD}{head}\nclass M(Method):\n    def attribute(self, task):\n{lines}\n")
        (one,) = methods.chosen([str(path)])
        return {check.name: (check.status, check.figure) for check in conformance.check(one, bench).checks}

    return run


def test_leaving_a_class_out_does_its_own_targets_the_most_harm(bench: Bench) -> None:
    """What the check of the sign rests on: models that never saw the class, really trained."""
    trainer, data = bench.pool.trainer, bench.data
    flat, (x, y) = trainer.flat(), trainer.inputs("test")

    def margin(kept: np.ndarray, seed: int) -> np.ndarray:
        (vector,) = trainer.train([np.flatnonzero(kept)], [np.random.SeedSequence(seed)])
        found: np.ndarray = margins(flat(vector, x), y).detach().numpy()
        return found

    whole = margin(np.ones(data.n_train, bool), 0)
    change = np.stack([margin(data.train_y != label, 1 + label) for label in range(10)]) - whole
    own = change[data.test_y, np.arange(data.n_targets)]
    assert own.max() < -5
    assert own.mean() == pytest.approx(-12, abs=1)
    assert (change.argmin(0) == data.test_y).all()


QUICK = [name for name, quick in methods.by_default().items() if quick]
SLOW = [name for name in methods.names() if name not in QUICK]


def _check_shipped(bench: Bench, one: methods.Chosen) -> None:
    if (unmet := bench.unmet(one)) is not None:
        pytest.skip(unmet)
    found = conformance.check(one, bench)
    assert found.passed, [check for check in found.checks if check.status == "failed"]
    last = found.checks[-1]
    assert last.name == "sign"
    if one.plugin in ("random", "constant"):
        assert last.status == "unseen", last
    elif one.name != "trak":  # its default projects 300 examples to 512 dimensions: a singular kernel, mostly noise
        assert last.status == "passed", last


@pytest.mark.parametrize("name", QUICK)
def test_every_quick_method_keeps_the_contract(bench: Bench, name: str) -> None:
    _check_shipped(bench, methods.chosen([name])[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_slow_method_keeps_the_contract(bench: Bench, name: str) -> None:
    _check_shipped(bench, methods.chosen([name])[0])


@pytest.mark.slow
def test_every_other_row_of_a_run_of_all_keeps_the_contract(bench: Bench) -> None:
    for one in methods.chosen(["all"]):
        if ":" in one.name and bench.unmet(one) is None:
            _check_shipped(bench, one)


def test_the_template_is_short_and_passes(main: Main, bench: Bench, tmp_path: Path) -> None:
    code, text, _ = main("check-method", "--template")
    assert code == 0
    assert len(text.splitlines()) < 40
    (tmp_path / "mine.py").write_text(text)
    for spec in ("mine.py", "mine.py:power=tune"):
        (one,) = methods.chosen([str(tmp_path / spec)])
        found = conformance.check(one, bench)
        assert [check.status for check in found.checks] == ["passed"] * 10


SAME = "(np.equal.outer(task.data.train_y, task.data.test_y) * 1.0)"
FAULTS = {
    "opposite sign": (f"return -{SAME}", "sign", "own class before 0% of the others"),
    "shape": ("return np.ones((300, 59))", "shape", "shape [300, 59] instead of [300, 60]"),
    "transposed": (f"return {SAME}.T", "shape", "it looks transposed"),
    "nothing": ("pass", "shape", "it returned nothing"),
    "complex": (f"return {SAME} * 1j", "dtype", "complex128, which are not real numbers"),
    "objects": ("return np.full((300, 60), None)", "dtype", "are of type object"),
    "NaN in part": (f"s = {SAME}; s[3, 4] = np.nan; return s", "finite", "1 score is not"),
    "all NaN": (f"return {SAME} * np.nan", "finite", "18000 scores are not"),
    "raises": ("1 / 0", "runs", "ZeroDivisionError: division by zero"),
    "leaves": ("raise GeneratorExit", "runs", "GeneratorExit"),
    "is mute": ("raise type('Mute', (ValueError,), {'__str__': lambda self: 1 / 0})", "runs", "Mute"),
    "global seed": (f"return {SAME} + np.random.rand(300, 60)", "same under the seed", "of the scores' norm apart"),
    "torch's global seed": (
        f"import torch; return {SAME} + torch.rand(300, 60).numpy()",
        "same under the seed",
        "of the scores' norm apart",
    ),
    "counts its calls": (
        f"self.n = getattr(self, 'n', 0) + 1; return {SAME} * self.n",
        "same in any order",
        "1.0e+00 of the scores' norm apart",
    ),
    "a row that judges": (
        "others = np.setdiff1d(np.arange(240), np.concatenate([task.fit.index, task.tune.index]))\n"
        "return task.rows(others[:1])",
        "no rows that judge",
        "which judges; only task.fit",
    ),
    "reads the store": (
        f"path = task._pool.folder.parent / 'ground-truth/margins.npy'; np.load(path); return {SAME}",
        "no rows that judge",
        "it opened margins.npy of the ground truth",
    ),
    "writes examples": ("task.data.train_x[0] = 0", "inputs unchanged", "read-only"),
    "writes examples by torch": (
        f"import torch; torch.from_numpy(task.data.train_x).zero_(); return {SAME}",
        "inputs unchanged",
        "it changed task.data.train_x, which a method must leave as it is",
    ),
}


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_fails_its_own_line(status: Callable[..., dict[str, tuple[str, str]]], fault: str) -> None:
    body, name, said = FAULTS[fault]
    found = status(body)
    failed = {check: figure for check, (how, figure) in found.items() if how == "failed"}
    assert name in failed, found
    assert said in failed[name]
    assert set(failed) <= {name, "same in any order", "finite"}
    if name != "finite":
        assert "finite" not in failed


@pytest.mark.parametrize("swallow", [False, True])
def test_building_a_method_is_guarded_as_in_a_run(bench: Bench, tmp_path: Path, *, swallow: bool) -> None:
    read = f"np.load({str(bench.truth.path / 'margins.npy')!r})"
    body = f"try: {read}\n        except Exception: pass" if swallow else read
    path = tmp_path / "mine.py"
    path.write_text(f"{HEAD}class M(Method):\n    def __init__(self):\n        {body}\n"
                    f"    def attribute(self, task): return {SAME}\n")  # fmt: skip
    found = conformance.check(methods.chosen([str(path)])[0], bench)
    failed = {check.name for check in found.checks if check.status == "failed"}
    assert failed == {"described", "same under the seed"}
    assert all("it opened margins.npy of the ground truth" in c.figure for c in found.checks if c.status == "failed")


def test_examples_changed_behind_numpys_back_are_noticed(
    status: Callable[..., dict[str, tuple[str, str]]], bench: Bench
) -> None:
    body = f"import ctypes; x = task.{{}}; ctypes.memset(x.ctypes.data + 4 * 20, 1, 1); return {SAME}"
    kept = bench.data.train_x.copy(), bench.pool.trainer.inputs("train")[0].clone()
    how, figure = status(body.format("data.train_x"))["inputs unchanged"]
    assert (how, figure[:29]) == ("failed", "it changed task.data.train_x,")
    assert status(body.format("_trainer.data.train_x"))["inputs unchanged"] == ("failed", "it changed examples")
    assert np.array_equal(bench.data.train_x, kept[0])  # the next method is checked on what this one was
    assert bool((bench.pool.trainer.inputs("train")[0] == kept[1]).all())


@pytest.mark.parametrize("body", ["return np.ones((300, 60))", "return task.rng.random((300, 60))"])
def test_a_control_has_no_sign_to_be_seen_and_does_not_fail(
    status: Callable[..., dict[str, tuple[str, str]]], body: str
) -> None:
    how, figure = status(body)["sign"]
    assert how == "unseen"
    assert figure.startswith("no sign to be seen: own class before ")


def test_a_negative_lds_is_a_sign_error_even_where_classes_say_nothing(bench: Bench) -> None:
    """Empirical influence of the rows that judge, without what is common to a class: the LDS alone tells its sign."""
    rows, data = bench.truth.rows(bench.access.eval), bench.data
    scores = np.stack([rows.margins[rows.masks[:, k]].mean(0) for k in range(data.n_train)])
    for label in range(10):
        scores[data.train_y == label] -= scores[data.train_y == label].mean(0)
    assert conformance.own_class_first(scores, data.train_y, data.test_y) == pytest.approx(0.5, abs=0.15)
    assert conformance.sign(scores, bench).status == "unseen"
    turned = conformance.sign(-scores, bench)
    assert (turned.status, "opposite sign" in turned.figure, "LDS −" in turned.figure) == ("failed", True, True)


def test_own_class_first_is_counted_by_hand(bench: Bench) -> None:
    rng, data = np.random.default_rng(0), bench.data
    scores = rng.integers(0, 2, (data.n_train, data.n_targets)).astype(float)
    counted = []
    for j, label in enumerate(data.test_y):
        means = [scores[data.train_y == other, j].mean() for other in range(10)]
        others = [mean for other, mean in enumerate(means) if other != label]
        counted.append(np.mean([(means[label] > m) + (means[label] == m) / 2 for m in others]))
    assert conformance.own_class_first(scores, data.train_y, data.test_y) == pytest.approx(np.mean(counted))


def test_lines_exit_codes_and_json(main: Main, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(cli.template().read_text("utf-8").replace("sign * np", "-sign * np"))
    code, text, error = main("check-method", "mine.py", "--json")
    assert (code, error) == (1, "")
    (made,) = json.loads(text)["methods"]
    assert (made["method"], made["passed"], made["skipped"]) == ("mine", False, None)
    assert {check["name"] for check in made["checks"] if check["status"] == "failed"} == {"sign"}


def test_lines_of_several(main: Main, tmp_path: Path) -> None:
    (tmp_path / "far.py").write_text(f"{HEAD}class M(Method):\n    needs = Needs(packages=('no_such>=1',))\n"
                                     "    def attribute(self, task): ...\n")  # fmt: skip
    code, text, _ = main("check-method", "random", "far.py")
    assert code == 0
    lines = text.splitlines()
    assert lines[1].startswith("✓ runs ")
    assert lines[-5].startswith("– sign ")
    assert lines[-4:-2] == ["random: keeps the contract", ""]
    assert lines[-2] == (
        "far: skipped: far cannot be checked here: it needs the package no_such, which is not installed: "
        "pip install 'no_such>=1'"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "what to check is missing"),
        (("--template", "random"), "leave the methods out"),
        (("nothing.py",), "there is no file 'nothing.py'"),
        (("randon",), "did you mean 'random'"),
        (("trak:dampin=1",), "did you mean 'damping'"),
        (("broken.py",), "does not import: SyntaxError"),
    ],
)
def test_bad_usage_is_one_sentence(main: Main, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "broken.py").write_text("def broken(:\n")
    code, text, error = main("check-method", *words)
    assert (code, text) == (2, "")
    assert said in error
    assert error.count("\n") == 1
