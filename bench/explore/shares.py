"""Shares of targets, with Wilson's interval."""

from __future__ import annotations

import msgspec


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
        z, p = 1.959963984540054, count / of
        middle = (p + z**2 / (2 * of)) / (1 + z**2 / of)
        half = z / (1 + z**2 / of) * (p * (1 - p) / of + z**2 / (4 * of**2)) ** 0.5
        return cls(count, of, p, (max(0.0, middle - half), min(1.0, middle + half)))
