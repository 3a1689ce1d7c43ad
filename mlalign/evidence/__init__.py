"""What a report says of a run.

`collect`, `measures` and `samples` read its steps. The sections (`headline`, `results`, `matrices`,
`sections`, `variants`) are pure functions of what was collected. `html` and `markdown` render them.
"""
