"""What other tools' files are read and written: one module per format, imported when it is used.

A format is an entry of FORMATS. Its module defines `flags(parser, verb)`, which adds the options of `bench import` or
`bench export`, and `import_(given)` or `export(given)`, which do it and give the lines to print on stdout.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple


class Format(NamedTuple):
    """A format of files.

    Attributes:
        summary: what it is, in a line.
        module: what reads and writes it; it imports nothing heavy before it is asked to.
        reads: whether `bench import` does; writes: whether `bench export` does.
        about: what else `--list` says of it; where empty, the module's ABOUT.
    """

    summary: str
    module: str
    reads: bool
    writes: bool
    about: str = ""

    @property
    def text(self) -> str:
        """What `--list` says of it, besides the summary."""
        said: str = self.about or self.load().ABOUT
        return said

    def load(self) -> Any:
        """The module."""
        return import_module(self.module)


FORMATS = {
    "datamodels-data": Format(
        "masks and margins of MadryLab's released datamodels data, .npy: a store",
        "bench.interop.datamodels_data",
        reads=True,
        writes=True,
        about="""The release's tree; to read, also its files alone in a folder, or s3://bucket[/prefix]:
  {cifar|fmow}/data/train_masks_{P}pct.npy            bool    [M, n_train]
  {cifar|fmow}/data/{train|test}_margins_{P}pct.npy   float16 [M, n]
  cifar/data/{train|test}_logits_{P}pct.npy          float16 [M, n, 10]
P is 100·alpha. A store links these files instead of copying them, where it can. Its last 10,000 rows judge: the
release does not say where its evaluation models are, so that this is a convention, which --eval-rows changes.
Exported margins are float16, whatever the store's are.""",
    ),
    "datamodels": Format(
        "released datamodels, .pt with weight, bias and lam: a score matrix",
        "bench.interop.datamodels",
        reads=False,
        writes=True,
        about="""A torch file of a dict: weight [n_train, n_targets], bias [n_targets], lam [n_targets].
bias and lam are in SCORES.extra.npz beside the scores, or in files of their own.
bench lds --scores FILE.pt reads such a file.""",
    ),
    "datamodels-store": Format(
        "stores of MadryLab's datamodels tools, .npy with a spec: a store",
        "bench.interop.datamodels_store",
        reads=True,
        writes=True,
    ),
    "kronfluence": Format(
        "masks and margins or losses of Kronfluence's repository: a store; its pairwise scores: a score matrix",
        "bench.interop.kronfluence",
        reads=True,
        writes=True,
    ),
    "dattri": Format(
        "target values and kept indices of dattri's benchmark: a store; its scores: a score matrix",
        "bench.interop.dattri",
        reads=True,
        writes=True,
    ),
    "trak": Format("scores in a TRAKer's save_dir: a score matrix", "bench.interop.trak", reads=True, writes=True),
    "quanda": Format(
        "explanations that quanda has cached: a score matrix", "bench.interop.quanda", reads=True, writes=False
    ),
    "bergson": Format(
        "bergson's scores.bin: a score matrix; its subsets.json: masks",
        "bench.interop.bergson",
        reads=True,
        writes=False,
    ),
    "lds-notebook": Format(
        "outputs of the TRAK authors' LDS notebook: a store", "bench.interop.lds_notebook", reads=True, writes=False
    ),
    "d-trak": Format(
        "pickles of D-TRAK: refused, with how to convert them", "bench.interop.d_trak", reads=True, writes=False
    ),
    "arrays": Format(
        "masks and outputs of any tool, .npy, .npz or .pt: a store",
        "bench.interop.any_arrays",
        reads=True,
        writes=False,
    ),
    "scores": Format(
        "scores of any tool, .npy, .npz, .pt or .safetensors: a score matrix",
        "bench.interop.any_scores",
        reads=True,
        writes=False,
    ),
    "heldout-influence": Format(
        "runs of google-research/heldout-influence-estimation: a store of masks and correctness",
        "bench.interop.heldout_influence",
        reads=True,
        writes=True,
        about="""Runs: <experiment>/<subset_ratio>/<run_id>/aux_arrays.npz, with correctness_{train,removed,test},
index_{train,removed,test} and subsample_idx; the arrays come in any order and are put in the order of their indices.
Every ratio becomes a store. `bench memorization STORE` computes memorization, influence and consistency from it.
Written are infl_mem.npz (memorization [n_train], influence [n_test, n_train]), the layout by classes of
cifar100_infl_matrix.npz, that of imagenet_index.npz (tr_mem, tr_labels, tr_filenames, and of targets where known), the
pairs of high influence (tr_idx, tt_idx, infl, mem), or runs again.""",
    ),
    "heldout-estimates": Format(
        "released memorization and influence estimates, .npz: scores and memorization",
        "bench.interop.heldout_estimates",
        reads=True,
        writes=False,
        about="""infl_mem.npz              memorization [n_train], influence [n_test, n_train]
cifar100_infl_matrix.npz  tr_mem, tr_labels, tt_labels, and of every class infl_matrix_class{c}, tr_classidx_{c},
                          tt_classidx_{c}; influence across classes is not in it and becomes 0
imagenet_index.npz        tr_mem, tr_labels, tr_filenames (tt_labels, tt_filenames): memorization alone; names of
                          files that are Python objects are left out, unread
*_pairs_*.npz             tr_idx, tt_idx, infl, mem: pairs alone, the rest becomes 0 (with --n-train and --n-targets)
DEST.npy gets influence [n_train, n_targets], DEST.extra.npz what else there is. All of it is fixed: orientation by the
layout, + where the training example helps.""",
    ),
}
