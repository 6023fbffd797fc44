"""Fashion-MNIST, the first 5,000 train / 500 test images by default: 28×28 pixels, 10 classes (idx files).

Xiao, Rasul and Vollgraf (2017).
"""

from bench.datasets import Architecture, Data, Dataset, Evidence, Recipe
from bench.files import Files
from bench.idx import read_split

MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
NAMES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
MEAN, STD = 0.2860, 0.3530  # of all 60,000 training images

WHERE = "2 cores of AMD EPYC, python 3.11.7, torch 2.15.0"  # of the evidence: bench recipe SETTING --measure K


class FashionMnist(Dataset):
    models = {
        "mlp": Recipe(
            Architecture("mlp", (128,)),
            epochs=15,
            batch_size=64,
            lr=0.05,
            weight_decay=5e-4,
            evidence=Evidence(0.8636, 10, 0.37, f"fashion-mnist/mlp, {WHERE}"),
        ),
        "cnn": Recipe(
            Architecture("cnn", (16, 32), (1, 28, 28)),
            epochs=8,
            batch_size=32,
            lr=0.03,
            weight_decay=5e-4,
            evidence=Evidence(0.889, 2, 8.3, f"fashion-mnist/cnn, {WHERE}"),
        ),
    }

    def __init__(self, n_train: int = 5000, n_test: int = 500) -> None:
        self.n_train, self.n_test = n_train, n_test

    def load(self, files: Files) -> Data:
        return read_split(files, "fashion-mnist", "FashionMNIST", MD5, self.n_train, self.n_test, MEAN, STD, NAMES)
