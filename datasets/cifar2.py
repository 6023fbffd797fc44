"""CIFAR-2, the cats and dogs of CIFAR-10: 10,000 train / 2,000 test images, 2 classes (python batches).

The binary task of TRAK (Park et al. 2023), in CIFAR-10's order: cat is 0, dog is 1.
"""

from dataclasses import replace

from bench import cifar
from bench.datasets import Data, Dataset
from bench.files import Files

CAT, DOG = 3, 5


class Cifar2(Dataset):
    models = {
        "resnet9": replace(cifar.RESNET9, epochs=24),  # a fifth of CIFAR-10's images: more passes over them
    }

    def __init__(self, n_train: int = 10_000, n_test: int = 2_000) -> None:
        self.n_train, self.n_test = n_train, n_test

    def load(self, files: Files) -> Data:
        return cifar.load(files, self.n_train, self.n_test, (CAT, DOG))
