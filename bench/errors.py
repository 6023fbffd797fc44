"""Errors that a user can act on: one sentence that names the thing, the value and what to do."""


class BenchError(Exception):
    """Bad usage or bad input. The command line prints its sentence and exits with 2, without a traceback."""


class InputError(BenchError, ValueError):
    """An array, a file's content or a parameter has the wrong shape, type or value."""


class MethodError(BenchError):
    """A method raised, or returned what are no scores. The command line exits with 1."""


class UnmetError(BenchError):
    """Something that a method needs is not there; its sentence goes on from the method's name: `needs …`."""


class ChangedError(BenchError):
    """A method changed the examples, which belong to all of them."""


class EvalRowError(BenchError):
    """A method touched rows that judge it."""


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean 'x'?` where a known word is near, else nothing."""
    import difflib

    near = difflib.get_close_matches(word, known, 1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
