"""Read FMoW (Christie et al. 2018) as WILDS lays it out (Koh et al. 2021), cut as the released datamodels were.

MadryLab's datamodels-data (src/fmow.py) takes WILDS v1.1 with split scheme `time_after_2016` and keeps the year 2012:
of its rows, in their order, those of split `train` are the training set and those of `test` the targets.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError
from bench.files import md5_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data
    from bench.files import Files

FOLDER, TABLE, YEAR, PIXELS = "fmow_v1.1", "rgb_metadata.csv", 2012, 224
PARTS = ("train", "test")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as in the released code
_NAMES = """airport airport_hangar airport_terminal amusement_park aquaculture archaeological_site barn
border_checkpoint burial_site car_dealership construction_site crop_field dam debris_or_rubble educational_institution
electric_substation factory_or_powerplant fire_station flooded_road fountain gas_station golf_course
ground_transportation_station helipad hospital impoverished_settlement interchange lake_or_pond lighthouse
military_facility multi-unit_residential nuclear_powerplant office_building oil_or_gas_facility park
parking_lot_or_garage place_of_worship police_station port prison race_track railway_bridge recreational_facility
road_bridge runway shipyard shopping_mall single-unit_residential smokestack solar_farm space_facility stadium
storage_tank surface_mine swimming_pool toll_booth tower tunnel_opening waste_disposal water_treatment_facility
wind_farm zoo"""
CLASSES = _NAMES.split()


def find(files: Files) -> Path:
    """The folder `fmow_v1.1`; WILDS downloads it (54 GB) where it is installed.

    Raises:
        BenchError: it is not there, and WILDS is not installed or cannot bring it.
    """
    found = look(files)
    if found is not None:
        return found
    looked = ", ".join(map(str, files.folders))
    advice = f"name the folder that holds {FOLDER} with --data-dir or $BENCH_DATA"
    try:
        import wilds
    except ImportError as error:
        raise BenchError(
            f"fmow is not in {looked}, and WILDS, which downloads its 54 GB, is not installed: "
            f"pip install 'ldsbench[wilds]', or {advice}"
        ) from error
    problem: object = "it left no table"
    try:
        wilds.get_dataset(dataset="fmow", root_dir=str(files.folders[-1]), download=True)
    except Exception as error:  # which may be about reading what it has brought: that is not needed of it
        problem = error
    found = look(files)
    if found is None:
        raise BenchError(f"fmow is not in {looked} and WILDS has not brought it ({problem}): {advice}")
    return found


def look(files: Files) -> Path | None:
    """The folder `fmow_v1.1`, if it is there."""
    places = [
        folder / inside for folder in files.folders for inside in (FOLDER, f"fmow/{FOLDER}", f"wilds/{FOLDER}", "")
    ]
    return next((place for place in places if (place / TABLE).is_file()), None)


def load(files: Files, n_train: int | None, n_test: int | None, size: int) -> Data:
    """The first `n_train` and `n_test` images (None: all), float32 `[n, 3, size, size]`, standardised by channel.

    Raises:
        BenchError: a file is missing or not what WILDS writes, or more images are asked for than there are.
    """
    from bench.datasets import Data

    if not 1 <= size <= PIXELS:
        raise BenchError(f"fmow: size is {size}: images have {PIXELS}×{PIXELS} pixels, so take 1 to {PIXELS}")
    folder = find(files)
    rows, labels = table(folder / TABLE)
    origin = {TABLE: f"md5 {md5_of(folder / TABLE)}"}
    taken = {}
    for part, n in zip(PARTS, (n_train, n_test), strict=True):
        there = len(rows[part])
        if not 1 <= (there if n is None else n) <= there:
            raise BenchError(
                f"fmow: n_{part} is {n or 0}, and {folder / TABLE} has {there} images of {YEAR} in split {part}: "
                f"take 1 to {there}"
            )
        taken[part] = rows[part][:n]
        origin[f"rgb_img_….png, {part}"] = f"{len(taken[part])} of {there} images of {YEAR}, {size}×{size} pixels"
    x = {part: _images(folder / "images", index, size) for part, index in taken.items()}
    y = {part: labels[index] for part, index in taken.items()}
    return Data(x["train"], y["train"], x["test"], y["test"], len(CLASSES), origin)


def table(path: Path) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """Row numbers of each part, which are the images' numbers too, and the label of every row (−1: unknown).

    Raises:
        BenchError: it is not what WILDS writes.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, usecols=["split", "category", "timestamp"], dtype=str)
    except (OSError, ValueError) as error:
        raise BenchError(f"{path} cannot be read as WILDS' table ({str(error)[:200]}): replace it") from error
    # Some timestamps have fractions of a second and some have none.
    times = pd.to_datetime(table["timestamp"], format="ISO8601", utc=True, errors="coerce")
    used = table["split"].isin(PARTS).to_numpy()
    labels = table["category"].map({name: i for i, name in enumerate(CLASSES)}).fillna(-1).to_numpy().astype(np.int64)
    for column, wrong in (("timestamp", times.isna().to_numpy()), ("category", labels < 0)):
        if (used & wrong).any():
            row = int(np.argmax(used & wrong))
            raise BenchError(f"{path}: {column} of image {row} is {table[column][row]!r:.60}: replace the file")
    of_year = (times.dt.year == YEAR).to_numpy()
    return {part: np.flatnonzero(of_year & (table["split"] == part).to_numpy()) for part in PARTS}, labels


def _images(folder: Path, index: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    x = np.empty((len(index), 3, size, size), np.float32)
    mean, std = (np.array(v, np.float32)[:, None, None] * 255 for v in (MEAN, STD))

    def read(at: int) -> None:
        x[at] = (_pixels(folder / f"rgb_img_{index[at]}.png", size).transpose(2, 0, 1) - mean) / std

    with ThreadPoolExecutor() as pool:  # decoding leaves the interpreter's lock
        for _ in pool.map(read, range(len(index))):
            pass
    return x


def _pixels(path: Path, size: int) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.size != (PIXELS, PIXELS):
                raise BenchError(
                    f"{path} has {image.size[0]}×{image.size[1]} pixels, not {PIXELS}×{PIXELS}: replace it"
                )
            colours = image.convert("RGB")
    except BenchError:
        raise
    except Exception as error:  # a torn PNG can be an OSError, a SyntaxError or a ValueError
        raise BenchError(f"{path} cannot be read ({str(error)[:100]}): replace it") from error
    if size != PIXELS:
        colours = colours.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(colours)
