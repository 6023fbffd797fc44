"""CIFAR-10: 50,000 train / 10,000 test images of 32×32 colour pixels, 10 classes (python batches).

Krizhevsky (2009). `resnet9` is near the recipe of the datamodels repository (Ilyas et al. 2022), `airbench` is
airbench94's (Jordan 2024); neither has been trained on the full set yet. `cnn` is for CPUs:
`cifar10/cnn:n_train=5000,n_test=500`.
"""

from bench import cifar
from bench.datasets import Architecture, Augmentation, Data, Dataset, Evidence, Recipe
from bench.files import Files

# The published rate, 11.5 per 1,024 examples of a summed loss, stands for what Nesterov's step enlarges
# 1 + 1 / (1 − 0.85) times, and its weight decay is decoupled; these are per mean loss of a batch, as torch.optim.SGD
# has them.
AIRBENCH = Recipe(
    Architecture("airbench"),
    epochs=10,
    batch_size=1024,
    lr=1.5,
    momentum=0.85,
    weight_decay=0.0153 / 11.5,
    schedule="triangular",
    warmup=0.23,
    optimiser="nesterov",
    label_smoothing=0.2,
    augmentation=Augmentation(flip="alternating", translate=2),
    norm_bias_lr=64,
    lookahead=5,
    mirror=True,
)

WHERE = "2 cores of AMD EPYC, python 3.11.7, torch 2.15.0"  # of the evidence: bench recipe SETTING --measure K


class Cifar10(Dataset):
    models = {
        "resnet9": cifar.RESNET9,
        "airbench": AIRBENCH,
        "cnn": Recipe(
            Architecture("cnn", (16, 32, 64)),
            epochs=10,
            batch_size=32,
            lr=0.02,
            weight_decay=5e-4,
            evidence=Evidence(
                0.593, 2, 20.0, f"cifar10/cnn:n_train=5000,n_test=1000, JPEG-compressed copies of the images, {WHERE}"
            ),
        ),
    }

    def __init__(self, n_train: int = 50_000, n_test: int = 10_000) -> None:
        self.n_train, self.n_test = n_train, n_test

    def load(self, files: Files) -> Data:
        return cifar.load(files, self.n_train, self.n_test)
