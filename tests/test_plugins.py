"""Finding, loading and building plug-ins: whatever is in the folder, one sentence says what is wrong with it."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import _plugins, datasets, methods
from bench.errors import BenchError

HEAD = "import numpy as np\nfrom bench.methods import Method, Needs\n"
ONE = HEAD + "class One(Method):\n    def attribute(self, task):\n        return 1\n"

Write = Callable[[str, str | bytes], Path]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    _plugins._found.cache_clear()
    yield
    _plugins._found.cache_clear()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Put a file into a folder that $BENCH_METHODS and $BENCH_DATASETS name."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("BENCH_METHODS", str(folder))
    monkeypatch.setenv("BENCH_DATASETS", str(folder))

    def put(name: str, text: str | bytes) -> Path:
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return put


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("trak", ("trak", {})),
        ("trak:", ("trak", {})),
        ("trak:a=1,b=1.5", ("trak", {"a": 1, "b": 1.5})),
        ("trak:a = 1 , b='x'", ("trak", {"a": 1, "b": "x"})),
        ("trak:damping=tune", ("trak", {"damping": "tune"})),
        ("trak:a=", ("trak", {"a": ""})),
        ("trak:a=x=y", ("trak", {"a": "x=y"})),
        ("trak:a=True,b=None,c=-1e-3", ("trak", {"a": True, "b": None, "c": -1e-3})),
        ("trak:a=nan", ("trak", {"a": "nan"})),
        ("trak:a=__import__('os')", ("trak", {"a": "__import__('os')"})),
        ("dir/a.py:k=1", ("dir/a.py", {"k": 1})),
        ("trak:a=1,,b=2,", ("trak", {"a": 1, "b": 2})),
    ],
)
def test_split_spec(spec: str, expected: tuple[str, dict[str, Any]]) -> None:
    assert _plugins.split_spec(spec) == expected


@pytest.mark.parametrize("spec", ["trak:a", "trak:=1", "trak: =1", "trak:a=(1,2)", "trak:a=1,a=2"])
def test_split_spec_refuses(spec: str) -> None:
    with pytest.raises(BenchError, match=re.escape(repr(spec))):
        _plugins.split_spec(spec)


@given(st.text())
def test_split_spec_never_raises_anything_else(text: str) -> None:
    try:
        name, arguments = _plugins.split_spec(text)
    except BenchError:
        return
    assert name == text.partition(":")[0]
    assert all(key == key.strip() != "" for key in arguments)


@pytest.mark.parametrize("text", ["{[]}", "{[]:1}", "(" * 300, "1is 2", "9" * 5000, "\0", "-" * 20000])
def test_odd_values_stay_strings(text: str) -> None:
    assert _plugins.split_spec(f"m:key={text}")[1]["key"] == text


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
        st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none(),
    )
)
def test_split_spec_reads_back_what_is_written(arguments: dict[str, Any]) -> None:
    spec = "name:" + ",".join(f"{key}={value!r}" for key, value in arguments.items())
    assert _plugins.split_spec(spec) == ("name", arguments)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"def broken(:\n", "line 1"),
        (b'"""x"""\n\xff\xfe = 1\n', "utf-8"),
        (b"x = '\0'\n", "null bytes"),
    ],
)
def test_a_broken_plugin_is_listed_with_its_reason_and_the_others_work(
    write: Write, content: bytes, reason: str
) -> None:
    write("bad_one.py", content)
    write("good_one.py", f'"""Good."""\n{ONE}')
    listed = methods.names()
    assert "cannot be read" in listed["bad-one"]
    assert reason in listed["bad-one"]
    assert listed["good-one"] == "Good."
    assert "random" in listed
    assert [one.name for one in methods.chosen(["good-one", "random"])] == ["good-one", "random"]
    with pytest.raises(BenchError, match="bad-one"):
        methods.chosen(["bad-one"])


def test_every_method_means_a_broken_one_too(write: Write) -> None:
    write("bad.py", "def broken(:\n")
    by_name = {one.name: one for one in methods.chosen(None)}
    assert {"bad", "random", "trak", "trak:damping=tune"} <= set(by_name)
    with pytest.raises(BenchError, match="'bad' does not import: SyntaxError"):
        by_name["bad"].method.attribute(None)  # type: ignore[arg-type]


def test_a_broken_dataset_is_listed(write: Write) -> None:
    write("bad.py", "def broken(:\n")
    write("computed.py", '"""Computed."""\nmodels = dict(a=1)\n')
    listed = datasets.settings()
    assert "cannot be read" in listed["bad/…"]
    assert listed["computed/…"] == "Computed."
    assert "digits/mlp" in listed
    assert datasets.setting("digits/mlp").name == "digits/mlp"


def test_private_files_are_not_plugins(write: Write) -> None:
    write("_helper.py", ONE)
    write("readme.txt", "no")
    assert not {"-helper", "_helper", "readme"} & set(methods.names())


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_METHODS", str(tmp_path / "typo"))
    with pytest.raises(BenchError, match=r"\$BENCH_METHODS names .*typo.* not a folder"):
        methods.names()


@pytest.mark.parametrize("name", ["two_words", "two-words"])
def test_dash_and_underscore_are_one_name(write: Write, name: str) -> None:
    write("two_words.py", ONE)
    (one,) = methods.chosen([name])
    assert (one.name, one.spec) == ("two-words", "two-words")


def test_dash_and_underscore_together_are_one_method(write: Write) -> None:
    write("two_words.py", ONE)
    assert len(methods.chosen(["two_words", "two-words"])) == 1


@pytest.mark.parametrize("name", ["fashion_mnist/mlp", "fashion-mnist/mlp"])
def test_dash_and_underscore_in_settings(name: str) -> None:
    assert datasets.setting(name).name == "fashion-mnist/mlp"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (ONE + ONE.replace("One", "Two"), "exactly one subclass of bench.Method, and it has One, Two"),
        (HEAD, "it has none"),
        (HEAD + "class One(Method):\n    def atribute(self, task): ...\n", "One does not define attribute"),
        ("raise SystemExit(0)\n", "does not import: SystemExit"),
        ("import no_such_package_at_all\n", "does not import: ModuleNotFoundError"),
        ("1/0\n", "does not import: ZeroDivisionError"),
    ],
)
def test_refused_files(tmp_path: Path, body: str, reason: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(body)
    with pytest.raises(BenchError, match=re.escape(reason)):
        methods.chosen([str(path)])


@pytest.mark.parametrize(
    "body",
    [
        ONE + "Alias = One\n",
        ONE + "from bench.methods import Method as Other\n",
        "from abc import abstractmethod\n"
        + ONE.replace("(Method)", "(Base)").replace(
            "class One", "class Base(Method):\n    @abstractmethod\n    def f(self): ...\nclass One"
        )
        + "    def f(self): ...\n",
        ONE.replace("(Method)", "(_Base)").replace(
            "class One", "class _Base(Method):\n    def attribute(self, task): ...\nclass One"
        ),
        ONE.replace("import", "from dataclasses import dataclass\nimport", 1).replace(
            "class One", "@dataclass\nclass One"
        ),
    ],
    ids=["alias", "imported", "abstract base", "private base", "dataclass"],
)
def test_allowed_files(tmp_path: Path, body: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(body)
    (one,) = methods.chosen([str(path)])
    assert (one.name, type(one.method).__name__) == ("mine", "One")


def test_a_missing_file_and_a_folder_are_no_methods(tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    for name in ("nothing.py", "folder.py"):
        with pytest.raises(BenchError, match=f"there is no file .*{name}"):
            methods.check([str(tmp_path / name)])


def test_two_files_of_one_name_are_refused_not_dropped(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(ONE)
    with pytest.raises(BenchError, match="two methods are called 'mine'"):
        methods.chosen([str(tmp_path / "a/mine.py"), str(tmp_path / "b/mine.py")])
    assert len(methods.chosen([str(tmp_path / "a/mine.py"), str(tmp_path / "a/mine.py")])) == 1


class Example:
    def __init__(self, need: int, k: int = 3, x: float = 0.0, how: float | Literal["tune"] = "tune", on: bool = False):
        if k < 0:
            raise ValueError("k must not be negative")
        if k > 100:
            raise KeyError("k")
        self.values = need, k, x, how, on


class Loose:
    def __init__(self, k=1, *args, **others) -> None:  # type: ignore[no-untyped-def]
        self.k, self.rest = k, (args, others)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"need": 1, "neeed": 2}, "no parameter 'neeed'; did you mean 'need'? (there are: need, k, x, how, on)"),
        ({}, "needs a value for its parameter 'need': write name:need=value"),
        ({"need": "x"}, "the parameter need is 'x', and must be an integer"),
        ({"need": 1.5}, "the parameter need is 1.5, and must be an integer"),
        ({"need": 1, "how": "tine"}, "the parameter how is 'tine', and must be a number or 'tune'"),
        ({"need": 1, "on": "yes"}, "must be True or False"),
        ({"need": True}, "must be an integer"),
        ({"need": 1, "k": -1}, "thing: k must not be negative"),
        ({"need": 1, "k": 101}, "thing: KeyError: 'k'"),
    ],
)
def test_construct_refuses(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(BenchError, match=re.escape(reason)):
        _plugins.construct(Example, "thing", arguments)


def test_construct_fills_in_converts_and_names_what_differs() -> None:
    built = _plugins.construct(Example, "thing", {"need": 1, "k": 3, "x": 2})
    assert built.made.values == (1, 3, 2.0, "tune", False)
    assert built.parameters == {"need": 1, "k": 3, "x": 2.0, "how": "tune", "on": False}
    assert built.changed == {"need": 1, "x": 2.0}
    assert built.suffix == ":need=1,x=2.0"


def test_construct_leaves_starred_parameters_alone() -> None:
    assert _plugins.construct(Loose, "thing", {"k": "any"}).made.k == "any"
    with pytest.raises(BenchError, match="no parameter 'others'"):
        _plugins.construct(Loose, "thing", {"others": 1})


def test_a_default_that_is_spelt_out_is_the_same_method() -> None:
    names = [one.name for one in methods.chosen(["trak", "trak:damping=0", "trak:damping=0.0,checkpoints=5"])]
    assert names == ["trak"]


def test_two_parameters_of_one_method_are_two_rows() -> None:
    names = [one.name for one in methods.chosen(["graddot", "graddot:checkpoints=2", "graddot:checkpoints=2"])]
    assert names == ["graddot", "graddot:checkpoints=2"]


@pytest.mark.parametrize("target", ["fake_module:One", "fake_module"])
def test_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    _distribution(tmp_path, "methods", target, ONE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fake_module", raising=False)
    assert methods.names()["third-party"] == "from fake"
    (one,) = methods.chosen(["third_party"])
    assert (one.name, type(one.method).__name__) == ("third-party", "One")


def test_a_broken_entry_point_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _distribution(tmp_path, "methods", "fake_module:Nothing", ONE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fake_module", raising=False)
    with pytest.raises(BenchError, match="'third-party' does not import: AttributeError"):
        methods.chosen(["third-party"])


def _distribution(folder: Path, kind: str, target: str, text: str) -> None:
    (folder / "fake_module.py").write_text(text)
    info = folder / "fake-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[bench.{kind}]\nthird_party = {target}\n")


def test_a_dataset_by_path(tmp_path: Path, toy_source: str) -> None:
    path = tmp_path / "my_toy.py"
    path.write_text(toy_source)
    made = datasets.setting(f"{path}/mlp")
    assert (made.name, made.slug, made.recipe.architecture.name) == ("my_toy/mlp", "my_toy-mlp", "mlp")
    with pytest.raises(BenchError, match="no model 'mpl'; did you mean 'mlp'"):
        datasets.setting(f"{path}/mpl")


def test_a_dataset_with_a_parameter_that_has_no_default(tmp_path: Path, toy_source: str) -> None:
    path = tmp_path / "toy.py"
    path.write_text(toy_source + "\n    def __init__(self, size: int, extra: int = 1) -> None:\n        pass\n")
    assert datasets.setting(f"{path}/mlp:size=3,extra=1").name == "toy/mlp:size=3"
    with pytest.raises(BenchError, match="needs a value for its parameter 'size'"):
        datasets.setting(f"{path}/mlp")


def test_a_dataset_without_models(tmp_path: Path) -> None:
    path = tmp_path / "toy.py"
    path.write_text("from bench.datasets import Dataset\nclass D(Dataset):\n    def load(self, files): ...\n")
    with pytest.raises(BenchError, match=r"no model 'mlp' .*no table `models`"):
        datasets.setting(f"{path}/mlp")


@pytest.mark.parametrize("spec", ["", "/", "digits", "digits/", "/mlp", "digits/mlp/x", "digit/mlp", "digits/mpl"])
def test_settings_that_do_not_exist(spec: str) -> None:
    with pytest.raises(BenchError, match=r"there is no setting|no model"):
        datasets.check(spec)
    with pytest.raises(BenchError, match=r"digits/mlp|logreg, mlp"):
        datasets.setting(spec)


def test_the_name_of_a_setting_shows_what_differs() -> None:
    assert datasets.setting("mnist/mlp:n_train=5000").name == "mnist/mlp"
    made = datasets.setting("mnist/mlp:n_train=200,n_test=50")
    assert (made.name, made.slug) == ("mnist/mlp:n_test=50,n_train=200", "mnist-mlp-n_test50-n_train200")
