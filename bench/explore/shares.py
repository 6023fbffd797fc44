"""Shares of targets, with Wilson's interval."""

from __future__ import annotations

import msgspec

from bench.explore.precision import wilson


class Share(msgspec.Struct, frozen=True):
    """So many of so many.

    Attributes:
        count: how many; of: of how many; share: their ratio, None of none.
        ci: 95% interval (Wilson 1927, "Probable inference, the law of succession, and statistical inference").
    """

    count: float
    of: int
    share: float | None
    ci: tuple[float, float] | None

    @classmethod
    def counted(cls, count: float, of: int) -> Share:
        """Of a count, or of a mean count over several draws."""
        if not of:
            return cls(count, of, None, None)
        return cls(count, of, count / of, wilson(count, of))
