"""An attribution benchmark: train many models on random subsets, and ask which method's scores rank them best."""

__version__ = "0.1.0"
