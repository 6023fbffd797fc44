"""Two runs beside each other, from what `bench.baselines` keeps of each: no score matrix or ground truth is read.

`sources` (what is compared, and whether both were judged alike), `compare` (what differs between two runs), `check`
(whether a run fell below a baseline), `update` (a run becomes the baseline), `tables` (as text), `cli` (the verbs).
"""
