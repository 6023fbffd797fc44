"""Other tools' files, built here in the layouts that they publish: read, refused, and written for them."""

import json
import logging
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench import hashing
from bench.interop import FORMATS, score_matrix
from bench.store import GroundTruth

Array = NDArray[Any]
Main = Callable[..., tuple[int, str, str]]

M, N, T, K = 20, 12, 5, 6  # subsets, training examples, targets, kept examples


def refused(found: tuple[int, str, str], *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr with these words in it; no destination, whole or half."""
    code, out, err = found
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("bench")
    for word in words:
        assert word in err
    assert (
        sorted(p.name for p in Path.cwd().iterdir() if p.name in ("S", "s.npy", "s.origin.json") or "tmp" in p.name)
        == []
    )


@pytest.fixture
def made() -> dict[str, Array]:
    """Masks, margins and scores."""
    rng = np.random.default_rng(3)
    masks = np.unique(rng.random((200, N)).argsort(1) < K, axis=0)  # no two alike
    masks = masks[rng.permutation(len(masks))[:M]]
    return {
        "masks": masks,
        "margins": rng.standard_normal((M, T)).astype(np.float32),
        "scores": rng.standard_normal((N, T)).astype(np.float32),
    }


def kronfluence(folder: str, masks: Array, **outputs: Array) -> None:
    """As the repository's examples do: numpy arrays through torch.save."""
    Path(folder).mkdir(exist_ok=True)
    torch.save(masks.astype(np.int8), f"{folder}/masks.pt")
    for name, values in outputs.items():
        torch.save(values, f"{folder}/{name}.pt")


def test_kronfluence_margins(main: Main, made: dict[str, Array]) -> None:
    kronfluence("K", made["masks"], margins=made["margins"])
    code, out, _ = main("import", "kronfluence", "K", "S", "--dataset", "rte")
    assert code == 0
    assert f"S: {M} rows × {T} targets of rte, test targets, {N} training examples, alpha 0.5, margins" in out
    assert "fit 0–9, eval 10–19" in out
    assert "the last half, 10, is a convention" in out
    truth = GroundTruth.open("S")
    np.testing.assert_array_equal(truth.masks, made["masks"])
    np.testing.assert_array_equal(truth.margins, made["margins"])
    meta = truth.imported
    assert meta is not None
    assert (meta.source, meta.output, meta.stamps) == ("kronfluence", "margin", [])
    assert set(meta.origin) == {"masks.pt", "margins.pt"}
    for name, origin in meta.origin.items():
        assert (origin.sha256, origin.size) == (hashing.file(Path("K", name)), Path("K", name).stat().st_size)
    assert main("verify", "S")[0] == 0
    np.save("x.npy", made["scores"])
    assert main("lds", "--store", "S", "--scores", "x.npy")[0] == 0


def test_the_sign_of_losses_is_turned(main: Main, made: dict[str, Array]) -> None:
    kronfluence("K", made["masks"], losses=made["margins"])
    code, out, _ = main("import", "kronfluence", "K", "GT", "--eval-rows", "first:6", "--tune-rows", "4")
    assert code == 0
    assert "minus losses" in out
    assert "fit 10–19, tune 6–9, eval 0–5" in out
    assert "convention" not in out
    np.testing.assert_array_equal(GroundTruth.open("GT").margins, -made["margins"])
    refused(main("import", "kronfluence", "K", "S", "--output-is", "margin"), "losses.pt", "--output-is")
    torch.save(made["margins"], "K/margins.pt")
    refused(main("import", "kronfluence", "K", "S"), "margins.pt and losses.pt")


def test_kronfluence_round_trip(main: Main, made: dict[str, Array]) -> None:
    for name in ("margins", "losses"):
        kronfluence(f"K{name}", made["masks"], **{name: made["margins"]})
        assert main("import", "kronfluence", f"K{name}", f"S{name}")[0] == 0
        assert main("export", "kronfluence", f"S{name}", f"E{name}")[0] == 0
        for file in ("masks", name):
            one, other = (torch.load(f"{x}{name}/{file}.pt", weights_only=False) for x in "KE")
            assert (one.dtype, type(other)) == (other.dtype, np.ndarray)
            np.testing.assert_array_equal(one, other)
    code, _, err = main("export", "kronfluence", "Smargins", "Emargins")
    assert (code, "is there already" in err) == (2, True)


def test_kronfluence_scores(main: Main, made: dict[str, Array]) -> None:
    from safetensors.numpy import load_file, save_file

    Path("P").mkdir()
    save_file(
        {"all_modules": np.ascontiguousarray(made["scores"].T), "other": np.zeros((1, 1))},
        "P/pairwise_scores.safetensors",
    )
    refused(main("import", "kronfluence", "P", "s.npy"), "does not fix the sign", "--sign")
    for sign, factor in (("+", 1), ("-", -1)):
        code, out, _ = main("import", "kronfluence", "P", f"s{sign}.npy", "--sign", sign)
        assert code == 0
        assert "transposed" in out
        found = np.load(f"s{sign}.npy")
        np.testing.assert_array_equal(found, factor * made["scores"])
        origin = score_matrix.read_origin(Path(f"s{sign}.npy"))
        assert origin is not None
        assert (origin.orientation, origin.sign, origin.n_train, origin.n_targets) == ("test,train", sign, N, T)
        assert origin.origin["pairwise_scores.safetensors"].sha256 == hashing.file(
            Path("P/pairwise_scores.safetensors")
        )
    assert main("export", "kronfluence", "s+.npy", "back.safetensors")[0] == 0
    np.testing.assert_array_equal(load_file("back.safetensors")["all_modules"], made["scores"].T)
    refused(main("import", "kronfluence", "P", "s.npy", "--sign", "+", "--key", "layer"), "'layer'", "'all_modules'")
    Path("P/pairwise_scores.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    refused(main("import", "kronfluence", "P", "s.npy", "--sign", "+"), "pairwise_scores.safetensors")


def test_an_origin_is_of_its_own_matrix_alone(main: Main, made: dict[str, Array]) -> None:
    np.save("x.npy", made["scores"])
    assert main("import", "scores", "x.npy", "y.npy", "--orientation", "train,test", "--sign", "+")[0] == 0
    assert score_matrix.read_origin(Path("y.npy")) is not None
    np.save("y.npy", made["scores"] + 1)
    assert score_matrix.read_origin(Path("y.npy")) is None


def test_options_without_effect_are_refused(main: Main, made: dict[str, Array]) -> None:
    kronfluence("K", made["masks"], margins=made["margins"])
    refused(main("import", "kronfluence", "K", "S", "--sign", "-"), "--sign has no effect on a store")
    refused(main("import", "kronfluence", "K", "S", "--key", "a"), "--key has no effect")
    torch.save(torch.from_numpy(made["scores"]), "x.pt")
    for more in (("--eval-rows", "last:4"), ("--tune-rows", "2"), ("--allow-leak",), ("--n-train", "12")):
        refused(main("import", "dattri", "x.pt", "s.npy", "--sign", "+", *more), f"{more[0]} has no effect on scores")
    refused(main("import", "trak", "T/scores/one.mmap", "s.npy", "--experiment", "two"), "--experiment has no effect")
    Path("subsets.json").write_text("[[1]]")
    refused(main("import", "bergson", "subsets.json", "s.npy", "--n-train", "9", "--sign", "+"), "no effect on masks")
    refused(main("import", "bergson", "B", "s.npy", "--n-train", "9", "--sign", "+"), "--n-train has no effect")


def ids_of(masks: Array) -> torch.Tensor:
    return torch.from_numpy(np.nonzero(masks)[1].reshape(len(masks), -1))


def test_dattri(main: Main, made: dict[str, Array]) -> None:
    Path("D/lds").mkdir(parents=True)
    torch.save(torch.from_numpy(made["margins"]), "D/lds/target_values_lds.pt")
    torch.save(ids_of(made["masks"]), "D/lds/indices_lds.pt")
    n = ("--n-train", str(N))
    refused(main("import", "dattri", "D", "S", *n), "sign of its target values")
    refused(main("import", "dattri", "D", "S", "--sign", "+"), "indices_lds.pt", "--n-train")
    for sign, factor in (("+", 1), ("-", -1)):
        assert main("import", "dattri", "D", f"S{sign}", *n, "--sign", sign)[0] == 0
        truth = GroundTruth.open(f"S{sign}")
        np.testing.assert_array_equal(truth.masks, made["masks"])
        np.testing.assert_array_equal(truth.margins, factor * made["margins"])
    assert main("export", "dattri", "S+", "E")[0] == 0
    for name in ("target_values_lds", "indices_lds"):
        assert torch.equal(torch.load(f"E/lds/{name}.pt"), torch.load(f"D/lds/{name}.pt"))
    refused(main("import", "dattri", "D", "S", "--sign", "+", "--n-train", "9"), "indices_lds.pt: row", "names example")
    ids = ids_of(made["masks"])
    for bad, words in (((7, 0, -1), "example -1"), ((7, 0, int(ids[7, 1])), "twice"), ((7, 0, N), f"example {N}")):
        changed = ids.clone()
        changed[bad[0], bad[1]] = bad[2]
        torch.save(changed, "D/lds/indices_lds.pt")
        refused(main("import", "dattri", "D", "S", *n, "--sign", "+"), "indices_lds.pt: row 7", words)
    torch.save([*ids[:-1], ids[-1, :-1]], "D/lds/indices_lds.pt")
    refused(main("import", "dattri", "D", "S", *n, "--sign", "+"), "indices_lds.pt: row 19 is of length")
    torch.save(ids + 0.5, "D/lds/indices_lds.pt")
    refused(main("import", "dattri", "D", "S", *n, "--sign", "+"), "no list of example numbers")


def test_dattri_reads_what_is_written_and_writes_what_is_read(main: Main, made: dict[str, Array]) -> None:
    ground_truth = pytest.importorskip("dattri.metric.ground_truth")
    metrics = pytest.importorskip("dattri.metric.metrics")
    yaml = pytest.importorskip("yaml")
    for i, mask in enumerate(made["masks"]):  # a folder as its `retrain_lds` leaves it, with outputs in place of models
        Path(f"R/{i}").mkdir(parents=True)
        Path(f"R/{i}/indices.txt").write_text("\n".join(map(str, np.flatnonzero(mask))))
        torch.save(torch.from_numpy(made["margins"][i]), f"R/{i}/model_weights_0.pt")
    told = {"num_subsets": M, "num_runs_per_subset": 1, "subset_dir_map": {i: f"R/{i}" for i in range(M)}}
    Path("R/metadata.yml").write_text(yaml.safe_dump(told))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(T)), batch_size=T)
    values, ids = ground_truth.calculate_lds_ground_truth(lambda path, _: torch.load(path), "R", loader)
    Path("D").mkdir()
    torch.save(values, "D/target_values_lds.pt")
    torch.save(ids, "D/indices_lds.pt")
    assert main("import", "dattri", "D", "S", "--n-train", str(N), "--sign", "+", "--eval-rows", "last:12")[0] == 0
    np.testing.assert_array_equal(GroundTruth.open("S").margins, -made["margins"])  # dattri turns the sign
    torch.save(torch.from_numpy(made["scores"]), "x.pt")
    assert main("import", "dattri", "x.pt", "s.npy", "--sign", "+", "--store", "S")[0] == 0
    code, out, _ = main("lds", "--store", "S", "--scores", "s.npy", "--json")
    assert code == 0
    assert main("export", "dattri", "S", "E")[0] == 0
    back = torch.load("E/lds/target_values_lds.pt"), torch.load("E/lds/indices_lds.pt")
    assert main("export", "dattri", "s.npy", "back.pt")[0] == 0
    theirs, _ = metrics.lds(torch.load("back.pt"), (back[0][-12:], back[1][-12:]))
    assert json.loads(out)["lds"] == pytest.approx(float(theirs.mean()), abs=1e-6)


def trak_dir(scores: Array, **experiments: int) -> None:
    """As a TRAKer's saver lays it out."""
    Path("T/scores").mkdir(parents=True, exist_ok=True)
    told = {"JL dimension": 4, "JL matrix type": "rademacher", "train set size": N}
    Path("T/metadata.json").write_text(json.dumps(told))
    for name in experiments:
        mapped = np.lib.format.open_memmap(f"T/scores/{name}.mmap", "w+", scores.dtype, scores.shape)
        mapped[:] = scores
        mapped.flush()
    Path("T/experiments.json").write_text(
        json.dumps({name: {"num_targets": T, "scores_finalized": flag} for name, flag in experiments.items()})
    )


def test_trak(main: Main, made: dict[str, Array]) -> None:
    trak_dir(made["scores"].astype(np.float16), one=1)
    assert main("import", "trak", "T", "a.npy")[0] == 0
    found = np.load("a.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, made["scores"].astype(np.float16))
    assert main("import", "trak", "T/scores/one.mmap", "b.npy")[0] == 0
    trak_dir(made["scores"], one=1, two=0)
    refused(main("import", "trak", "T", "s.npy"), "one, two", "--experiment")
    refused(main("import", "trak", "T", "s.npy", "--experiment", "two"), "two.mmap is not finished")
    refused(main("import", "trak", "T", "s.npy", "--experiment", "three"), "'three'")
    trak_dir(np.ascontiguousarray(made["scores"].T), one=1)
    refused(main("import", "trak", "T", "s.npy", "--experiment", "one"), "one.mmap", "looks transposed")
    Path("T/metadata.json").write_text("{")
    refused(main("import", "trak", "T", "s.npy", "--experiment", "one"), "metadata.json is torn")


def test_traker_finds_what_is_written_and_is_read(main: Main, made: dict[str, Array]) -> None:
    savers = pytest.importorskip("trak.savers")
    told = {"JL dimension": 4, "JL matrix type": "rademacher", "train set size": N}

    def saver() -> Any:
        return savers.MmapSaver(
            save_dir="T",
            metadata=told,
            train_set_size=N,
            proj_dim=4,
            load_from_save_dir=True,
            logging_level=logging.ERROR,
            use_half_precision=False,
        )

    writer = saver()
    writer.register_model_id(0, False)
    writer.init_experiment("one", T, 0)
    refused(main("import", "trak", "T", "s.npy"), "not finished")
    writer.current_store["one_scores"][:] = made["scores"]
    writer.save_scores("one")
    assert main("import", "trak", "T", "a.npy")[0] == 0
    np.testing.assert_array_equal(np.load("a.npy"), made["scores"])
    assert main("export", "trak", "a.npy", "T", "--experiment", "two")[0] == 0
    reader = saver()
    assert set(reader.experiments) == {"one", "two"}
    found = np.lib.format.open_memmap(reader.experiments["two"]["scores_path"], "r")
    np.testing.assert_array_equal(found, made["scores"])


def test_quanda(main: Main, made: dict[str, Array]) -> None:
    Path("Q").mkdir()
    batches = np.split(made["scores"].T, [2, 4])
    for i, batch in enumerate(batches):
        torch.save(torch.from_numpy(batch.copy()), f"Q/{i}.pt")
    config = Path("Q/explanations_config.yaml")
    config.write_text("batch_size: 2\nbench: x\nexpl_kwargs:\n  n_batches: 9\nn_batches: 3\nuse_predictions: true\n")
    refused(main("import", "quanda", "Q", "s.npy"), "--sign")
    assert main("import", "quanda", "Q", "a.npy", "--sign", "+")[0] == 0
    np.testing.assert_array_equal(np.load("a.npy"), made["scores"])
    Path("Q/1.pt").rename("Q/10.pt")
    refused(main("import", "quanda", "Q", "s.npy", "--sign", "+"), "lacks 1.pt, one of 3")
    Path("Q/10.pt").rename("Q/one.pt")
    refused(main("import", "quanda", "Q", "s.npy", "--sign", "+"), "one.pt is no batch")
    Path("Q/one.pt").rename("Q/1.pt")
    torch.save(torch.zeros(2, N), "Q/3.pt")
    refused(main("import", "quanda", "Q", "s.npy", "--sign", "+"), "3.pt is beyond the 3")
    Path("Q/3.pt").unlink()
    torch.save(torch.zeros(1, N), "Q/1.pt")
    refused(main("import", "quanda", "Q", "s.npy", "--sign", "+"), "1.pt has 1 row, ", "2")
    torch.save(torch.zeros(2, N - 1), "Q/1.pt")
    refused(main("import", "quanda", "Q", "s.npy", "--sign", "+"), "1.pt is of 11", "12")
    for text, key in (
        ("x: 1", "n_batches"),
        ("batch_size: 2\nbench: x\nn_bat", "n_batches"),
        ("n_batches: 3", "batch_"),
    ):
        config.write_text(text)  # cut off, it must not vouch for as many batches as are there
        refused(main("import", "quanda", "Q", "s.npy", "--sign", "+"), f"explanations_config.yaml does not say {key}")


def test_scores_of_kronfluence_in_bfloat16(main: Main, made: dict[str, Array]) -> None:
    """What its arguments for less memory choose, which numpy does not know; beside another tensor."""
    from safetensors.torch import save_file

    scores = torch.from_numpy(made["scores"].T.copy()).bfloat16()
    save_file({"all_modules": scores, "other": torch.ones(3)}, "pairwise_scores.safetensors", metadata={"a": "b"})
    assert main("import", "kronfluence", "pairwise_scores.safetensors", "a.npy", "--sign", "+")[0] == 0
    np.testing.assert_array_equal(np.load("a.npy"), scores.float().numpy().T)
    scores[1, 2] = torch.inf
    save_file({"all_modules": scores}, "pairwise_scores.safetensors")
    refused(main("import", "kronfluence", "pairwise_scores.safetensors", "s.npy", "--sign", "+"), "is inf, in bfloat16")


@pytest.mark.parametrize("content", [b'{"train set size": \xee}', b"[" * 100_000, b"{", b'{"a\xff": 1}'])
def test_json_that_is_none(main: Main, made: dict[str, Array], content: bytes) -> None:
    Path("T/scores").mkdir(parents=True)
    with Path("T/scores/x.mmap").open("wb") as file:
        np.save(file, made["scores"])
    good = json.dumps({"train set size": N})
    for name in ("metadata.json", "experiments.json"):
        Path("T/metadata.json").write_text(good)
        Path(f"T/{name}").write_bytes(content)
        refused(main("import", "trak", "T", "s.npy"), f"T/{name} is torn or no JSON")
    Path("T/subsets.json").write_bytes(content)
    refused(main("import", "bergson", "T/subsets.json", "s.npy", "--n-train", "9"), "subsets.json is torn or no JSON")
    Path("T/scores/info.json").write_bytes(content)
    refused(main("import", "bergson", "T", "s.npy", "--sign", "+"), "info.json is torn or no JSON")


def test_a_circle_of_links_does_not_hide_that_scores_are_unfinished(main: Main, made: dict[str, Array]) -> None:
    Path("T/scores").mkdir(parents=True)
    with Path("T/scores/x.mmap").open("wb") as file:
        np.save(file, made["scores"])
    Path("T/metadata.json").write_text(json.dumps({"train set size": N}))
    Path("T/experiments.json").symlink_to("experiments.json")
    refused(main("import", "trak", "T", "s.npy"), "experiments.json is a symbolic link that leads in a circle")


def test_two_arrays_of_a_name(main: Main, made: dict[str, Array]) -> None:
    np.savez("s.npz", a=made["scores"])
    with zipfile.ZipFile("s.npz") as archive:
        content = archive.read("a.npy")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile("s.npz", "a") as archive:
        archive.writestr("a.npy", content)
    refused(main("import", "scores", "s.npz", "s.npy", "--sign", "+", "--orientation", "train,test"), "holds a twice")


def datamodels_store(folder: str, spec: dict[str, Any], rows: dict[int, dict[str, Array]]) -> None:
    """As datamodels' initialize_store and workers do: memmaps by the spec, a row's keys, then `_completed`."""
    Path(folder).mkdir()
    declared = {**spec["schema"], "_completed": {"shape": [], "dtype": "bool_"}}
    for key, one in declared.items():
        shape = (spec["num_models"], *one["shape"])
        np.lib.format.open_memmap(f"{folder}/{key}.npy", mode="w+", dtype=getattr(np, one["dtype"]), shape=shape)
    for index, row in rows.items():
        for key, value in row.items():
            np.load(f"{folder}/{key}.npy", mmap_mode="r+")[index] = value


def test_a_store_of_datamodels(main: Main, made: dict[str, Array]) -> None:
    """Row 7 was killed between its masks and its margins, row 9 never begun."""
    spec = {
        "num_models": M,
        "schema": {"masks": {"shape": [N], "dtype": "bool_"}, "margins": {"shape": [T], "dtype": "float16"}},
    }
    rows = {
        i: {"masks": made["masks"][i], "margins": made["margins"][i], "_completed": np.True_}
        for i in range(M)
        if i not in (7, 9)
    }
    datamodels_store("D", spec, {**rows, 7: {"masks": made["masks"][7]}})
    done = [i for i in range(M) if i not in (7, 9)]
    refused(main("import", "arrays", "D", "S"), "D has a _completed.npy", "datamodels-store")
    code, out, _ = main("import", "datamodels-store", "D", "GT")
    assert (code, "2 of 20 models are not completed and left out: 7, 9" in out) == (0, True)
    truth = GroundTruth.open("GT")
    np.testing.assert_array_equal(truth.masks, made["masks"][done])
    np.testing.assert_array_equal(truth.margins, made["margins"][done].astype(np.float16).astype(np.float32))
    assert truth.imported is not None
    assert truth.imported.output == "margin"
    for name in ("masks.npy", "margins.npy", "_completed.npy"):
        assert truth.imported.origin[name].sha256 == hashing.file(Path("D") / name)
    assert main("export", "datamodels-store", "GT", "E")[0] == 0
    told = json.loads(Path("E/spec.json").read_text())
    for key, one in {**told["schema"], "_completed": {"shape": [], "dtype": "bool_"}}.items():
        found = np.load(f"E/{key}.npy", mmap_mode="r+")
        assert found.shape == (told["num_models"], *one["shape"])
        assert found.dtype == getattr(np, one["dtype"])
    assert main("import", "datamodels-store", "E", "again")[0] == 0
    again = GroundTruth.open("again")
    np.testing.assert_array_equal(again.masks, truth.masks)
    np.testing.assert_array_equal(again.margins, truth.margins)

    import_ = ("import", "datamodels-store", "D", "S")
    Path("spec.json").write_text(json.dumps(spec))
    assert main("import", "datamodels-store", "D", "other", "--spec", "spec.json")[0] == 0
    spec["num_models"] = M + 1
    Path("D/spec.json").write_text(json.dumps(spec))
    refused(main(*import_), "D/masks.npy is bool [20, 12], where D/spec.json says bool [21, 12]")
    Path("D/spec.json").unlink()
    Path("D/spec.json").symlink_to("spec.json")
    refused(main(*import_), "D/spec.json is a symbolic link that leads in a circle")
    Path("D/spec.json").unlink()
    refused(main(*import_, "--outputs", "other"), "'other' does not say what it holds")
    refused(main(*import_, "--outputs", "other", "--output-is", "loss"), "D/other.npy")
    refused(main(*import_, "--output-is", "loss"), "leave this out")
    np.save("D/losses.npy", -made["margins"][:-1])
    refused(main(*import_, "--outputs", "losses"), "D/losses.npy has 19 rows and D/_completed.npy 20")
    np.save("D/losses.npy", -made["margins"])
    assert main("import", "datamodels-store", "D", "turned", "--outputs", "losses")[0] == 0
    np.testing.assert_array_equal(GroundTruth.open("turned").margins, made["margins"][done])
    np.save("D/margins.npy", np.full((M, T), np.inf, np.float16))
    refused(main(*import_), "float16 overflow")
    content = bytearray(Path("D/_completed.npy").read_bytes())
    content[-1] = 2
    Path("D/_completed.npy").write_bytes(content)
    refused(main(*import_), "D/_completed.npy holds a byte 2")
    np.save("D/_completed.npy", np.zeros(M, np.bool_))
    refused(main(*import_), "no model of 20 is completed")
    np.save("D/_completed.npy", np.array([Evil()] * M, object))
    refused(main(*import_), "Python objects")


def bergson(scores: Array, kind: str = "float32") -> tuple[dict[str, Any], Any]:
    """info.json and records as its MemmapSequenceScoreWriter makes them: pairs (score, written), aligned."""
    size = 2 if kind in ("float16", "bfloat16") else 4
    pair = 1 << size.bit_length()
    names, formats, offsets = [], [], []
    for query in range(scores.shape[1]):
        names += [f"score_{query}", f"written_{query}"]
        formats += [kind, "bool"]
        offsets += [query * pair, query * pair + size]
    layout = {"names": names, "formats": formats, "offsets": offsets, "itemsize": -(-scores.shape[1] * pair // 8) * 8}
    own = {**layout, "formats": ["<u2" if kind == "bfloat16" and f != "bool" else f for f in formats]}
    records: Any = np.zeros(len(scores), np.dtype(own))  # type: ignore[call-overload]
    for query in range(scores.shape[1]):
        bits = (scores[:, query].view(np.uint32) >> 16).astype(np.uint16) if kind == "bfloat16" else scores[:, query]
        records[f"score_{query}"], records[f"written_{query}"] = bits, True
    return {"num_items": len(scores), "num_scores": scores.shape[1], "dtype": layout}, records


def test_bergson_scores(main: Main, made: dict[str, Array]) -> None:
    Path("B/scores").mkdir(parents=True)

    def lay(info: dict[str, Any], records: Array) -> None:
        Path("B/scores/info.json").write_text(json.dumps(info))
        records.tofile("B/scores/scores.bin")

    for kind in ("float32", "float16", "bfloat16"):
        lay(*bergson(made["scores"], kind))
        assert main("import", "bergson", "B", f"{kind}.npy", "--sign", "+")[0] == 0
        wanted = torch.from_numpy(made["scores"])
        if kind == "bfloat16":  # cut off, not rounded, by the fixture
            wanted = (wanted.view(torch.int32) & -65536).view(torch.float32)
        else:
            wanted = wanted.to(getattr(torch, kind)).float()
        np.testing.assert_array_equal(np.load(f"{kind}.npy"), wanted.numpy())
    info, records = bergson(made["scores"])
    records["written_3"][4:6] = False
    lay(info, records)
    refused(main("import", "bergson", "B", "s.npy", "--sign", "+"), "2 scores of query 3", "example 4")
    lay(*bergson(made["scores"]))
    for change, words in (
        ({"num_items": 10**12}, "scores.bin has 480 bytes"),
        ({"num_items": N - 1}, "scores.bin has"),
        ({"num_items": -1}, "other records"),
        ({"num_scores": T + 1}, "other records"),
        ({"dtype": {**info["dtype"], "formats": ["O", "bool"] * T}}, "'O'"),
        ({"dtype": {**info["dtype"], "offsets": [10**9] * 2 * T}}, "info.json"),
        ({"dtype": "float32"}, "info.json"),
        ({"attribute_tokens": True}, "per token"),
    ):
        Path("B/scores/info.json").write_text(json.dumps({**info, **change}))
        refused(main("import", "bergson", "B", "s.npy", "--sign", "+"), words)


def test_bergson_subsets_are_what_is_left_out(main: Main, made: dict[str, Array]) -> None:
    left = [np.flatnonzero(~mask).tolist() for mask in made["masks"]]
    Path("subsets.json").write_text(json.dumps(left))
    refused(main("import", "bergson", "subsets.json", "s.npy"), "subsets.json", "--n-train")
    assert main("import", "bergson", "subsets.json", "m.npy", "--n-train", str(N))[0] == 0
    np.testing.assert_array_equal(np.load("m.npy"), made["masks"])
    sum_of_ids = hashing.file(Path("subsets.json"))
    assert json.loads(Path("m.origin.json").read_text())["origin"]["subsets.json"]["sha256"] == sum_of_ids
    Path("A").mkdir()
    assert main("import", "bergson", "subsets.json", "A/masks.npy", "--n-train", str(N))[0] == 0
    np.save("A/losses.npy", made["margins"])
    assert main("import", "arrays", "A", "GT")[0] == 0
    imported = GroundTruth.open("GT").imported
    assert imported is not None
    assert f"masks.npy was made of bergson's subsets.json (sha256 {sum_of_ids})" in imported.notes
    for bad, words in (
        ([[0, 0]], "twice"),
        ([[0], [99]], "row 1 names example 99"),
        ([["a"]], "row 0"),
        ({}, "no list"),
    ):
        Path("subsets.json").write_text(json.dumps(bad))
        refused(main("import", "bergson", "subsets.json", "s.npy", "--n-train", str(N)), "subsets.json", words)


def test_lds_notebook(main: Main) -> None:
    outputs = torch.randn(20, 7)
    torch.save(outputs, "lds_outputs_per_subset.pt")
    assert main("import", "lds-notebook", ".", "S")[0] == 0
    truth = GroundTruth.open("S")
    state = np.random.get_state()
    np.random.seed(42)  # exactly as the notebook draws
    subsets = [np.random.choice(range(5000), 2500, replace=False) for _ in range(20)]
    np.random.set_state(state)
    for mask, kept in zip(truth.masks, subsets, strict=True):
        assert np.array_equal(np.flatnonzero(mask), np.sort(kept))
    np.testing.assert_array_equal(truth.margins, outputs)
    assert truth.imported is not None
    assert (truth.imported.output, list(truth.imported.origin)) == ("logsumexp", ["lds_outputs_per_subset.pt"])
    torch.save(outputs.T.contiguous(), "lds_outputs_per_subset.pt")
    code, _, err = main("import", "lds-notebook", ".", "S2")
    assert (code, "looks transposed" in err) == (2, True)


class Evil:
    """A pickle of it makes a file when it is opened."""

    def __reduce__(self) -> Any:
        return open, ("made-by-a-pickle", "w")


def test_pickles_are_refused_and_not_opened(main: Main, made: dict[str, Array]) -> None:
    Path("idx-train.pkl").write_bytes(pickle.dumps(Evil()))
    evil = np.array([Evil()], dtype=object)
    np.save("evil.npy", evil, allow_pickle=True)
    np.savez("evil.npz", a=evil)
    torch.save({"weight": Evil()}, "evil.pt")
    kronfluence("K", made["masks"])
    torch.save(Evil(), "K/margins.pt")
    how = ("--orientation", "train,test", "--sign", "+")
    refused(main("import", "d-trak", "idx-train.pkl", "S"), "idx-train.pkl is a pickle", "numpy.save", "bench import")
    refused(main("import", "scores", "idx-train.pkl", "s.npy", *how), "idx-train.pkl is a pickle")
    for ending in ("npy", "npz", "pt"):
        refused(main("import", "scores", f"evil.{ending}", "s.npy", *how), f"evil.{ending}", "any code")
    refused(main("import", "kronfluence", "K", "S"), "margins.pt holds more than arrays")
    assert not Path("made-by-a-pickle").exists()
    pickle.loads(Path("idx-train.pkl").read_bytes()).close()
    assert Path("made-by-a-pickle").exists()  # so the others would have made it, had they been opened


def test_any_scores(main: Main, made: dict[str, Array]) -> None:
    kronfluence("K", made["masks"], margins=made["margins"])
    assert main("import", "kronfluence", "K", "GT")[0] == 0
    np.save("x.npy", made["scores"])
    np.savez("x.npz", a=made["scores"], b=made["scores"].T)
    torch.save({"scores": torch.from_numpy(made["scores"])}, "x.pt")
    refused(main("import", "scores", "x.npy", "s.npy"), "rows and columns", "--orientation")
    refused(main("import", "scores", "x.npy", "s.npy", "--orientation", "train,test"), "--sign +")
    right, wrong = ("--orientation", "train,test", "--sign", "+"), ("--orientation", "test,train", "--sign", "+")
    refused(main("import", "scores", "x.npy", "s.npy", *wrong, "--store", "GT"), "x.npy looks transposed", "train,test")
    for file, more in (("x.npy", ()), ("x.npz", ("--key", "a")), ("x.pt", ())):
        assert main("import", "scores", file, f"{file}.npy", *right, *more, "--store", "GT")[0] == 0
        np.testing.assert_array_equal(np.load(f"{file}.npy"), made["scores"])
    refused(main("import", "scores", "x.npz", "s.npy", *right), "'a', 'b'", "--key")
    refused(main("import", "scores", "x.npy", "s.npy", *right, "--key", "a"), "without a name")
    np.save("y.npy", made["scores"][:, 1:])
    refused(main("import", "scores", "y.npy", "s.npy", *right, "--store", "GT"), "another dataset")
    refused(main("import", "scores", "x.npy", "S", *right), "DEST", ".npy")
    code, _, err = main("import", "scores", "x.npy", "x.npy.npy", *right)
    assert (code, "is there already" in err) == (2, True)


def test_any_arrays(main: Main, made: dict[str, Array]) -> None:
    Path("A").mkdir()
    np.savez("A/masks.npz", made["masks"].astype(np.uint8))
    np.save("A/outputs.npy", made["margins"].astype(np.float64))
    refused(main("import", "arrays", "A", "S"), "outputs.npy does not say", "--output-is")
    assert main("import", "arrays", "A", "GT", "--output-is", "loss")[0] == 0
    np.testing.assert_array_equal(GroundTruth.open("GT").margins, -made["margins"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.update(margins=a["margins"][:-1]), ("20 rows", "19")),
        (lambda a: a.update(margins=a["margins"].T), ("margins.pt looks transposed",)),
        (lambda a: a.update(masks=a["masks"].T), ("masks.pt", "one per subset")),
        (lambda a: a["margins"].__setitem__((3, 2), np.nan), ("margins.pt", "row 3", "target 2", "nan")),
        (lambda a: a["margins"].__setitem__((3, 2), np.inf), ("margins.pt", "row 3", "inf")),
        (lambda a: a.update(margins=(a["margins"] * 1e6).astype(np.float16)), ("float16 overflow",)),
        (lambda a: a.update(margins=a["margins"].astype(np.float64) * 1e300), ("float32 cannot hold",)),
        (lambda a: a.update(masks=a["masks"] * 2), ("masks.pt: row", "holds 2")),
        (lambda a: a.update(masks=a["masks"] | True), ("row 0 keeps 12 of 12",)),
        (lambda a: a["masks"].__setitem__(15, a["masks"][2]), ("eval row 15 has the same mask as fit row 2",)),
        (lambda a: a.update(masks=a["masks"][0]), ("masks.pt has shape [12]",)),
        (lambda a: a.update(margins=a["margins"].astype(complex)), ("margins.pt",)),
        (lambda a: a.update(masks=a["masks"][:3], margins=a["margins"][:3]), ("3 subsets",)),
        (lambda a: a.update(margins=a["margins"][:, :0]), ("margins.pt has shape [20, 0]",)),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_arrays_that_are_no_ground_truth(
    main: Main, made: dict[str, Array], change: Callable[[dict[str, Array]], object], words: tuple[str, ...]
) -> None:
    change(made)
    kronfluence("K", made["masks"], margins=made["margins"])
    refused(main("import", "kronfluence", "K", "S"), *words)


def test_scores_that_are_not_finite(main: Main, made: dict[str, Array]) -> None:
    how = ("--orientation", "test,train", "--sign", "-")
    for value, dtype, words in ((np.nan, np.float32, "nan"), (1e6, np.float16, "float16 overflow")):
        scores = made["scores"].T.copy()
        scores[4, 7] = value
        with np.errstate(over="ignore"):
            np.save("x.npy", scores.astype(dtype))
        refused(main("import", "scores", "x.npy", "s.npy", *how), "x.npy", "example 7", "target 4", words)


def _damaged(name: str, good: bytes) -> None:
    path = Path(name)
    path.write_bytes(good)
    kind = path.stem
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(good[: len(good) * 2 // 3])
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind in ("circle", "nowhere", "missing", "pipe"):
        path.unlink()
        if kind == "circle":
            path.symlink_to(path.name)
        elif kind == "nowhere":
            path.symlink_to("gone")
        elif kind == "pipe":
            os.mkfifo(path)


@pytest.mark.parametrize("ending", ["npy", "npz", "pt", "safetensors", "mmap"])
@pytest.mark.parametrize("kind", ["empty", "cut", "folder", "circle", "nowhere", "missing", "pipe"])
def test_files_that_are_none(main: Main, made: dict[str, Array], kind: str, ending: str) -> None:
    from safetensors.numpy import save_file

    np.save("good.npy", made["scores"])
    np.savez("good.npz", made["scores"])
    torch.save(torch.from_numpy(made["scores"]), "good.pt")
    save_file({"a": made["scores"]}, "good.safetensors")
    good = Path(f"good.{'npy' if ending == 'mmap' else ending}").read_bytes()
    _damaged(f"{kind}.{ending}", good)
    how = ("--orientation", "train,test", "--sign", "+")
    refused(main("import", "scores", f"{kind}.{ending}", "s.npy", *how), f"{kind}.{ending}")


def test_folders_that_are_none(main: Main) -> None:
    Path("circle").symlink_to("circle")
    Path("file").write_text("x")
    for name, words in (("circle", "leads in a circle"), ("file", "is a file"), ("missing", "No such file")):
        for words_of, more in (("kronfluence", ()), ("arrays", ()), ("dattri", ("--sign", "+", "--n-train", "9"))):
            refused(main("import", words_of, name, "S", *more), name, words)
        refused(main("import", "quanda", name, "s.npy", "--sign", "+"), name, words)
    Path("K").mkdir()
    Path("K/masks.pt").symlink_to("masks.pt")
    Path("K/margins.pt").write_bytes(b"")
    refused(main("import", "kronfluence", "K", "S"), "K/masks.pt is a symbolic link that leads in a circle")


def test_headers_that_claim_more_than_there_is(main: Main) -> None:
    how = ("--orientation", "train,test", "--sign", "+")
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}
    with Path("huge.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    assert Path("huge.npy").stat().st_size < 200
    refused(main("import", "scores", "huge.npy", "s.npy", *how), "huge.npy", "shorter than it says")
    with zipfile.ZipFile("huge.npz", "w") as archive:
        archive.writestr("a.npy", Path("huge.npy").read_bytes())
    refused(main("import", "scores", "huge.npz", "s.npy", *how), "a.npy claims shape [1000000, 1000000]")
    with zipfile.ZipFile("packed.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", Path("huge.npy").read_bytes() + bytes(10**6))
    content = bytearray(Path("packed.npz").read_bytes())
    at = content.rfind(b"PK\x01\x02") + 24
    content[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
    Path("packed.npz").write_bytes(content)
    refused(main("import", "scores", "packed.npz", "s.npy", *how), "claims 4,294,967,294 bytes")
    with zipfile.ZipFile("out.npz", "w") as archive:
        archive.writestr("../a.npy", b"x")
    refused(main("import", "scores", "out.npz", "s.npy", *how), "out.npz", "'../a.npy'", "leads out of it")
    assert not Path("../a.npy").exists()


def test_fit_and_eval_rows_coincide_only_where_it_is_asked_for_and_stamped(main: Main, made: dict[str, Array]) -> None:
    kronfluence("K", made["masks"], margins=made["margins"])
    refused(main("import", "kronfluence", "K", "S", "--eval-rows", "all"), "--allow-leak", "LDS says nothing")
    refused(main("import", "kronfluence", "K", "S", "--allow-leak"), "--eval-rows all")
    refused(main("import", "kronfluence", "K", "S", "--eval-rows", "all", "--allow-leak", "--tune-rows", "2"), "tune")
    code, out, _ = main("import", "kronfluence", "K", "L", "--eval-rows", "all", "--allow-leak")
    stamp = "LEAK: fitted on the rows that judge"
    assert (code, stamp in out) == (0, True)
    assert main("verify", "L")[0] == 0
    code, _, err = main("attribute", "--store", "L", "--method", "heldout", "--out", "x.npy")
    assert (code, stamp in err) == (0, True)
    assert main("import", "kronfluence", "K", "GT")[0] == 0
    for store in ("L", "GT"):  # the scores carry the stamp to other stores
        code, out, _ = main("lds", "--store", store, "--scores", "x.npy")
        assert (code, out.splitlines()[0]) == (0, stamp)
        assert json.loads(main("lds", "--store", store, "--scores", "x.npy", "--json")[1])["stamps"] == [stamp]
    assert main("attribute", "--store", "GT", "--method", "heldout", "--out", "x.npy")[0] == 0
    assert stamp not in main("lds", "--store", "GT", "--scores", "x.npy")[1]
    assert json.loads(main("lds", "--store", "L", "--scores", "x.npy", "--json")[1])["stamps"] == [stamp]
    meta = Path("L/meta.json")
    meta.write_text(meta.read_text().replace('"leak": true', '"leak": false'))
    assert main("verify", "L")[0] == 1


def test_rows_of_another_import_of_the_same_masks_do_not_judge_what_they_made(
    main: Main, made: dict[str, Array]
) -> None:
    kronfluence("K", made["masks"], margins=made["margins"])
    assert main("import", "kronfluence", "K", "A", "--eval-rows", "first:10")[0] == 0
    assert main("import", "kronfluence", "K", "B", "--eval-rows", "last:12")[0] == 0
    assert main("attribute", "--store", "A", "--method", "heldout", "--out", "x.npy")[0] == 0
    assert main("lds", "--store", "A", "--scores", "x.npy")[0] == 0
    code, out, err = main("lds", "--store", "B", "--scores", "x.npy")
    assert (code, out) == (2, "")
    assert "x.npy was made from 10 of the rows that judge in B, as 10" in err
    code, out, _ = main("lds", "--store", "B", "--scores", "x.npy", "--allow-leak")
    assert (code, out.splitlines()[0]) == (0, "LEAK: fitted on the rows that judge")
    found = json.loads(main("lds", "--store", "A", "--scores", "x.npy", "--allow-leak", "--json")[1])
    assert found["stamps"] == []
    assert main("attribute", "--store", "A", "--method", "random", "--out", "x.npy")[0] == 0
    assert main("lds", "--store", "B", "--scores", "x.npy")[0] == 0  # it needs no rows
    code, _, err = main("lds", "--masks", "m.npy", "--margins", "y.npy", "--scores", "x.npy", "--allow-leak")
    assert (code, "--allow-leak goes with --store" in err) == (2, True)


def test_estimates_from_all_rows_are_not_scored_on_those_that_judge(main: Main, made: dict[str, Array]) -> None:
    kronfluence("K", made["masks"], margins=made["margins"])
    assert main("import", "kronfluence", "K", "A")[0] == 0
    assert main("memorization", "A", "--out", "M", "--influence", "0.1")[0] == 0
    code, _, err = main("lds", "--store", "A", "--scores", "M/influence.npy")
    assert (code, "M/influence.npy was made from 10 of the rows that judge in A" in err) == (2, True)
    code, out, _ = main("lds", "--store", "A", "--scores", "M/influence.npy", "--allow-leak", "--json")
    assert (code, json.loads(out)["stamps"]) == (0, ["LEAK: fitted on the rows that judge"])
    with np.load("M/pairs.npz") as pairs:  # no memorization is known
        assert len(pairs["mem"]) > 0
        assert np.isnan(pairs["mem"]).all()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_explained(main: Main, name: str) -> None:
    found = FORMATS[name]
    assert found.reads or found.writes
    for verb, there in (("import", found.reads), ("export", found.writes)):
        if there:
            listed = main(verb, "--list")[1]
            assert f"\n{name}\n" in f"\n{listed}"
            assert found.text.splitlines()[0] in listed
            code, out, _ = main(verb, name, "--help")
            assert (code, "usage" in out) == (0, True)


DATA = Path(os.environ.get("BENCH_DATA") or "no-such-folder") / "ground-truth"


@pytest.mark.skipif(not (DATA / "wikitext").is_dir(), reason="no ground-truth/wikitext in $BENCH_DATA")
def test_a_published_ground_truth(main: Main) -> None:
    """Kronfluence's WikiText-2 one: a control at 0, empirical influence on disjoint halves at .092, leaked at .987."""
    source = str((DATA / "wikitext").resolve())

    def score(store: str, method: str) -> dict[str, Any]:
        assert main("attribute", "--store", store, "--method", method, "--out", "x.npy", "--quiet")[0] == 0
        found: dict[str, Any] = json.loads(main("lds", "--store", store, "--scores", "x.npy", "--json")[1])
        return found

    assert main("import", "kronfluence", source, "S")[0] == 0
    control, heldout = score("S", "random"), score("S", "heldout")
    assert (heldout["n_subsets"], heldout["n_targets"], heldout["stamps"]) == (50, 481, [])
    assert abs(control["lds"]) < 0.02
    assert heldout["lds"] == pytest.approx(0.092, abs=0.006)
    code, _, err = main("import", "kronfluence", source, "L", "--eval-rows", "all")
    assert (code, "--allow-leak" in err, Path("L").exists()) == (2, True, False)
    assert main("import", "kronfluence", source, "L", "--eval-rows", "all", "--allow-leak")[0] == 0
    leaked = score("L", "heldout")
    assert leaked["lds"] == pytest.approx(0.987, abs=0.002)
    assert leaked["stamps"] == ["LEAK: fitted on the rows that judge"]


@pytest.mark.skipif(not (DATA / "lds-notebook").is_dir(), reason="no ground-truth/lds-notebook in $BENCH_DATA")
def test_the_published_notebook_outputs(main: Main) -> None:
    assert main("import", "lds-notebook", str((DATA / "lds-notebook").resolve()), "S")[0] == 0
    truth = GroundTruth.open("S")
    assert (truth.masks.shape, truth.margins.shape) == ((20, 5000), (20, 256))
    assert main("attribute", "--store", "S", "--method", "random", "--out", "x.npy", "--quiet")[0] == 0
    assert abs(json.loads(main("lds", "--store", "S", "--scores", "x.npy", "--json")[1])["lds"]) < 0.1
