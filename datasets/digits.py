"""scikit-learn's bundled handwritten digits: 1,437 train / 360 test, 8×8 pixels, 10 classes; no download.

Every fifth image is a target. E. Alpaydin, C. Kaynak (1998), UCI "Optical Recognition of Handwritten Digits".
"""

from bench.datasets import Architecture, Data, Dataset, Recipe
from bench.files import Files


class Digits(Dataset):
    models = {
        "logreg": Recipe(Architecture("logreg"), epochs=30, batch_size=64, lr=0.5, weight_decay=1e-3),
        "mlp": Recipe(Architecture("mlp", (64,)), epochs=15, batch_size=64, lr=0.1, weight_decay=5e-4),
    }

    def load(self, files: Files) -> Data:
        import numpy as np
        import sklearn
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x, y = (x / 16).astype(np.float32), y.astype(np.int64)  # pixels are 0 … 16
        test = np.arange(len(y)) % 5 == 0
        return Data(x[~test], y[~test], x[test], y[test], 10, {"bundled with": f"scikit-learn {sklearn.__version__}"})
