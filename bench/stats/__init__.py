"""The statistics of a verdict, on plain arrays: each function states its formula and source.

`intervals` (two-way intervals of an LDS), `ceiling` (the best attainable LDS and shares of it), `permutation` (what
chance reaches), `paired` (differences of two methods), `ranking` (corrections for many comparisons, intervals of
ranks, groups), `spread` (how the LDS varies over targets).
"""

from bench.stats.ceiling import Ceiling, Share, noise_ceiling, share_of_ceiling
from bench.stats.intervals import GroupSums, Interval, group_ids, spearman_influence, two_way_interval
from bench.stats.paired import Difference, Sample, paired_difference
from bench.stats.permutation import Null, permutation_null
from bench.stats.ranking import holm, letters, rank_intervals
from bench.stats.spread import Spread, spread_over_targets

__all__ = [
    "Ceiling",
    "Difference",
    "GroupSums",
    "Interval",
    "Null",
    "Sample",
    "Share",
    "Spread",
    "group_ids",
    "holm",
    "letters",
    "noise_ceiling",
    "paired_difference",
    "permutation_null",
    "rank_intervals",
    "share_of_ceiling",
    "spearman_influence",
    "spread_over_targets",
    "two_way_interval",
]
