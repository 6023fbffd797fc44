"""Compiled (numba) inner loops: plain arrays in, plain arrays out."""
