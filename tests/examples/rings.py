"""Three noisy rings in the plane: 600 train / 100 test points, 3 classes."""

import numpy as np

from bench.datasets import Architecture, Data, Dataset, Recipe
from bench.files import Files


class Rings(Dataset):
    models = {"mlp": Recipe(Architecture("mlp", (32,)), epochs=20, batch_size=32, lr=0.1)}

    def __init__(self, n_train: int = 600) -> None:
        self.n_train = n_train

    def load(self, files: Files) -> Data:
        rng, n = np.random.default_rng(0), self.n_train
        y, angle = rng.integers(0, 3, n + 100), rng.uniform(0, 2 * np.pi, n + 100)
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        x = ((1 + y + 0.3 * rng.standard_normal(n + 100))[:, None] * circle).astype(np.float32)
        return Data(x[:n], y[:n], x[n:], y[n:], n_classes=3, origin={"made by": "rings.py"})
