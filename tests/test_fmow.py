"""FMoW in WILDS' layout: which rows are taken, in which order, as which pixels."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench import datasets, fmow
from bench.datasets import Data
from bench.errors import BenchError
from bench.files import Files

# Every column that WILDS' preprocessing writes, in its order.
HEADER = (
    "split,img_filename,img_path,spatial_reference,epsg,category,visible,img_width,img_height,country_code,"
    "cloud_cover,timestamp,lat,lon,region"
)
COLUMNS = HEADER.split(",")
TIMES = (
    "2011-12-31T23:59:59Z",
    "2012-01-01T00:00:00Z",
    "2012-06-30T10:11:12.345000Z",
    "2012-12-31T23:59:59Z",
    "2013-01-01T00:00:00Z",
    "2016-05-05T01:02:03Z",
    "2017-01-01T00:00:00Z",
)
CATEGORIES = ("zoo", "airport", "multi-unit_residential", "barn")


def made(folder: Path, n: int = 84) -> Path:
    """A tiny FMoW: every split × every time, pixels that name their image."""
    (folder / "images").mkdir(parents=True)
    (folder / "RELEASE_v1.1.txt").write_text("")
    (folder / "country_code_mapping.csv").write_text("alpha-3,region\nFRA,Europe\n")
    rows: list[dict[str, Any]] = []
    for i in range(n):
        split = ("train", "val", "test", "seq")[i % 4]
        values = (split, f"{i}.jpg", f"{split}/{i}.jpg", "", 4326, CATEGORIES[i % 3], True, 500, 500, "FRA", 0)
        rows.append(dict(zip(COLUMNS, (*values, TIMES[(i // 4) % 7], 48.8, 2.3, "Europe"), strict=True)))
        Image.fromarray(pixels(i)).save(folder / "images" / f"rgb_img_{i}.png", compress_level=1)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "rgb_metadata.csv", index=False)
    return folder


def pixels(i: int) -> Any:
    return np.random.default_rng(i).integers(0, 256, (7, 7, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wilds")
    made(folder / "fmow_v1.1")
    return folder


def load(root: Path, parameters: str = "size=32") -> Data:
    return datasets.setting(f"fmow/resnet18:{parameters}").dataset.load(Files((root,)))


def test_rows_of_2012_in_the_order_of_the_table(root: Path) -> None:
    data = load(root, "size=224")
    train = [i for i in range(84) if i % 4 == 0 and (i // 4) % 7 in (1, 2, 3)]
    test = [i for i in range(84) if i % 4 == 2 and (i // 4) % 7 in (1, 2, 3)]
    assert (data.n_train, data.n_targets, data.n_classes) == (len(train), len(test), 62)
    assert data.train_x.shape == (len(train), 3, 224, 224)
    number = {name: i for i, name in enumerate(sorted(fmow.CLASSES))}
    assert data.train_y.tolist() == [number[CATEGORIES[i % 3]] for i in train]
    assert data.test_y.tolist() == [number[CATEGORIES[i % 3]] for i in test]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for x, index in ((data.train_x, train), (data.test_x, test)):
        for image, i in zip(x, index, strict=True):
            back = (image.transpose(1, 2, 0) * std + mean) * 255
            assert np.allclose(back, pixels(i), atol=1e-3)
    assert sorted(data.origin) == ["rgb_img_….png, test", "rgb_img_….png, train", "rgb_metadata.csv"]


def test_the_rows_are_those_of_the_released_split(tmp_path: Path) -> None:
    wilds = pytest.importorskip("wilds", reason="WILDS is not installed (the extra `wilds`)")
    table = made(tmp_path / "fmow_v1.1") / "rgb_metadata.csv"
    table.write_text(table.read_text().replace(".345000Z", "Z"))  # WILDS and pandas 3 want one format for all
    whole = wilds.get_dataset(dataset="fmow", root_dir=str(tmp_path), split_scheme="time_after_2016")
    from_2012 = pd.to_datetime(whole.metadata["timestamp"], utc=True) >= "2012-01-01"
    rows, labels = fmow.table(table)
    for part, split in (("train", "train"), ("test", "id_test")):
        subset = whole.get_subset(split)
        index = [int(whole.full_idxs[i]) for i in subset.indices]
        assert rows[part].tolist() == [i for i in index if from_2012[i]]  # released: before 2013, and from 2012 on
        assert labels[index].tolist() == subset.y_array.tolist()


def test_smaller_images_and_prefixes(root: Path) -> None:
    data, part = load(root), load(root, "size=32,n_train=3,n_test=2")
    assert data.train_x.shape[1:] == (3, 32, 32)
    assert np.array_equal(part.train_x, data.train_x[:3])
    assert np.array_equal(part.test_y, data.test_y[:2])
    assert np.array_equal(load(root / "fmow_v1.1").train_y, data.train_y)  # the folder itself may be named


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ("n_train=10", "n_train is 10, and .* has 9 images of 2012 in split train: take 1 to 9"),
        ("n_test=0", "n_test is 0, and .* take 1 to 9"),
        ("size=225", "size is 225: images have 224×224 pixels"),
        ("size=0", "size is 0"),
    ],
)
def test_parameters_out_of_range(root: Path, parameters: str, reason: str) -> None:
    with pytest.raises(BenchError, match=reason):
        load(root, parameters)


def test_files_that_are_not_wilds(tmp_path: Path) -> None:
    folder = made(tmp_path / "fmow_v1.1", 8)
    table = folder / "rgb_metadata.csv"
    good = table.read_text()
    image = folder / "images" / "rgb_img_4.png"
    for content, reason in (
        (good.replace("timestamp", "time"), "rgb_metadata.csv cannot be read as WILDS' table"),
        ("", "rgb_metadata.csv cannot be read"),
        (good.replace(TIMES[1], "yesterday"), "timestamp of image 4 is 'yesterday'"),
        (good.replace(",zoo,", ",a/zoo,", 1), "category of image 0 is 'a/zoo'"),
        (good.replace(TIMES[1], TIMES[0]), "n_train is 0, and .* has 0 images of 2012"),
    ):
        table.write_text(content)
        with pytest.raises(BenchError, match=reason):
            load(tmp_path)
    table.write_text(good)
    load(tmp_path)
    whole = image.read_bytes()
    for spoilt in (whole[:100], b"", b"GIF89a" + whole):
        image.write_bytes(spoilt)
        with pytest.raises(BenchError, match=r"rgb_img_4.png cannot be read \(.*\): replace it"):
            load(tmp_path)
    Image.fromarray(pixels(0)[:32]).save(image)
    with pytest.raises(BenchError, match=r"rgb_img_4\.png has 224×32 pixels, not 224×224"):
        load(tmp_path)
    image.unlink()
    with pytest.raises(BenchError, match=r"rgb_img_4.png cannot be read \(.*No such file"):
        load(tmp_path)


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wilds", None)
    with pytest.raises(BenchError, match=r"pip install 'ldsbench\[wilds\]', or name the folder that holds fmow_v1.1"):
        load(tmp_path)


def test_wilds_downloads_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wilds:
        brings = True

        @classmethod
        def get_dataset(cls, dataset: str, root_dir: str, download: bool) -> None:
            assert (dataset, download) == ("fmow", True)
            if cls.brings:
                made(Path(root_dir) / "fmow_v1.1", 16)

    monkeypatch.setitem(sys.modules, "wilds", Wilds)
    assert load(tmp_path / "a").n_train == 3
    Wilds.brings = False
    with pytest.raises(BenchError, match=r"fmow is not in .* and WILDS has not brought it \(it left no table\)"):
        load(tmp_path / "b")
