"""FMoW, the year 2012 of WILDS' version: satellite images of 224×224 pixels, 62 classes (54 GB to download).

Christie et al. (2018), Koh et al. (2021); split as in the released datamodels (Ilyas et al. 2022), about 21,400 train /
3,100 test. In memory, as float32, that is 15 GB at 224 pixels, 3.7 GB with `size=112`, 1.2 GB with `size=64`. No model
has been trained by this recipe yet.
"""

from bench import fmow
from bench.datasets import Architecture, Augmentation, Data, Dataset, Recipe
from bench.files import Files


class Fmow(Dataset):
    models = {
        "resnet18": Recipe(
            Architecture("resnet18"),
            epochs=15,
            batch_size=512,
            lr=0.4,
            weight_decay=1e-3,
            schedule="triangular",
            warmup=6 / 15,
            augmentation=Augmentation(flip="random"),
        ),
    }

    def __init__(self, size: int = 224, n_train: int | None = None, n_test: int | None = None) -> None:
        self.size, self.n_train, self.n_test = size, n_train, n_test

    def load(self, files: Files) -> Data:
        return fmow.load(files, self.n_train, self.n_test, self.size)
