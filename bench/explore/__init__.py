"""What score matrices are for: the applications of datamodels (Ilyas et al. 2022, section 4), of any method's scores.

From the outside in: `cli` and `verbs/` (arguments), one module of computation per verb, `views/` (how each is shown),
`page`, `blocks` and `files` (pages and files), `retraining` (models without some examples), `subject` (what is
explored), `document` (what is found), `asked` (numbers and groups as users write them).

    subject = bench.explore.open_subject("results/digits-mlp")
    found = bench.explore.similar(subject, k=5)
    bench.explore.write("results/digits-mlp/explore", found)
"""

from typing import TYPE_CHECKING, Any

_LAZY = {
    "Subject": "bench.explore.subject",
    "brittleness": "bench.explore.flips",
    "counterfactual": "bench.explore.removals",
    "embedding": "bench.explore.coordinates",
    "leakage": "bench.explore.duplicates",
    "mislabel": "bench.explore.label_noise",
    "open_subject": "bench.explore.subject",
    "similar": "bench.explore.toplists",
    "subpopulations": "bench.explore.populations",
    "write": "bench.explore.files",
}

__all__ = sorted(_LAZY)

if TYPE_CHECKING:
    from bench.explore.coordinates import embedding as embedding
    from bench.explore.duplicates import leakage as leakage
    from bench.explore.files import write as write
    from bench.explore.flips import brittleness as brittleness
    from bench.explore.label_noise import mislabel as mislabel
    from bench.explore.populations import subpopulations as subpopulations
    from bench.explore.removals import counterfactual as counterfactual
    from bench.explore.subject import Subject as Subject
    from bench.explore.subject import open_subject as open_subject
    from bench.explore.toplists import similar as similar


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'bench.explore' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)
