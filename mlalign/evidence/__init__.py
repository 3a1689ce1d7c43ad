"""What a report says of a run.

`collect`, `measures` and `samples` read its steps; `scored` reads answers with their scores for the
metrics. The sections (`first_screen`, `results`, `matrices`, `sections`, `variants`) are pure
functions of what was collected; they share `headline` and `cells`. `html` and `markdown` render
them.
"""
