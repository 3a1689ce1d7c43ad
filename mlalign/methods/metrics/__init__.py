"""Measures of answers and reward models: pure functions of scores, lengths and groups. No I/O.

Shapes in comments and docstrings: I items (prompts, preference rows), n answers of an item, K
numbers that are summed over items, L languages, B bootstrap replicates, C clusters of groups drawn
together.

`answers` has the data types and `measures` the list of metrics. Each formula is in the module of
its name.
"""

# What tables have in the place of a language.
AVERAGE = "avg"
WORST = "worst"
GAP = "gap_to_english"
SUMMARIES = (AVERAGE, WORST, GAP)
# Of the main table.
COLUMNS = ("metric", "by", "language", "value", "low", "high", "n", "n_groups", "which")
