"""scikit-learn's bundled handwritten digits: 1,437 train / 360 test, 8×8 pixels, 10 classes; no download.

Every fifth image is a target. E. Alpaydin, C. Kaynak (1998), UCI "Optical Recognition of Handwritten Digits".
"""

from bench.datasets import Architecture, Data, Dataset, Evidence, Recipe
from bench.files import Files

WHERE = "2 cores of AMD EPYC, python 3.11.7, torch 2.15.0"  # of the evidence: bench recipe SETTING --measure K


class Digits(Dataset):
    models = {
        "logreg": Recipe(
            Architecture("logreg"),
            epochs=30,
            batch_size=64,
            lr=0.5,
            weight_decay=1e-3,
            evidence=Evidence(0.9611, 10, 0.0058, f"digits/logreg, {WHERE}"),
        ),
        "mlp": Recipe(
            Architecture("mlp", (64,)),
            epochs=15,
            batch_size=64,
            lr=0.1,
            weight_decay=5e-4,
            evidence=Evidence(0.9622, 10, 0.0072, f"digits/mlp, {WHERE}"),
        ),
    }

    def load(self, files: Files) -> Data:
        import numpy as np
        import sklearn
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        x, y = (x / 16).astype(np.float32), y.astype(np.int64)  # pixels are 0 … 16
        test = np.arange(len(y)) % 5 == 0
        origin = {"bundled with": f"scikit-learn {sklearn.__version__}"}
        return Data(x[~test], y[~test], x[test], y[test], 10, origin, image=(1, 8, 8))
