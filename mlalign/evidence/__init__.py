"""The report of a run: what is read (`collect`, `measures`, `samples`), how it is drawn (`figures`, `graph`) and put on a page.

Sections are pure functions of the collected content, figures pure functions that return SVG text. Nothing here needs torch.
"""
