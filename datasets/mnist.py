"""MNIST, the first 5,000 train / 500 test images by default: 28×28 pixels, 10 classes (idx files).

LeCun, Cortes and Burges (1998); the sizes are those of dattri's benchmark (Deng et al. 2024).
"""

from bench.datasets import Architecture, Data, Dataset, Evidence, Recipe
from bench.files import Files
from bench.idx import read_split

MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
MEAN, STD = 0.1307, 0.3081  # of all 60,000 training images

WHERE = "2 cores of AMD EPYC, python 3.11.7, torch 2.15.0"  # of the evidence: bench recipe SETTING --measure K


class Mnist(Dataset):
    models = {
        # dattri's recipe: plain SGD, so that its published LDS can be compared with.
        "logreg": Recipe(
            Architecture("logreg"),
            epochs=20,
            batch_size=64,
            lr=0.01,
            momentum=0.0,
            schedule="constant",
            evidence=Evidence(0.9148, 10, 0.13, f"mnist/logreg, {WHERE}"),
        ),
        "mlp": Recipe(
            Architecture("mlp", (128, 64)),
            epochs=15,
            batch_size=64,
            lr=0.05,
            weight_decay=5e-4,
            evidence=Evidence(0.948, 10, 0.44, f"mnist/mlp, {WHERE}"),
        ),
        # dattri's recipe but for its dropout of 0.1: long and at a low, constant rate.
        "mlp-dattri": Recipe(
            Architecture("mlp", (128, 64)),
            epochs=50,
            batch_size=64,
            lr=0.01,
            schedule="constant",
            evidence=Evidence(0.9416, 10, 3.4, f"mnist/mlp-dattri, {WHERE}"),
        ),
    }

    def __init__(self, n_train: int = 5000, n_test: int = 500) -> None:
        self.n_train, self.n_test = n_train, n_test

    def load(self, files: Files) -> Data:
        return read_split(files, "mnist", "MNIST", MD5, self.n_train, self.n_test, MEAN, STD)
