"""What memorized examples are worth: models trained without them, beside models without as many random ones.

Feldman and Zhang (2020), "What neural networks memorize and why: discovering the long tail via influence estimation",
figure 2. `bench.removal.experiment` trains and compares, `bench.removal.document` is what comes of it.
"""
