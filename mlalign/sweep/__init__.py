"""Sweeps and searches: many variants of a recipe as one plan, one table and one page.

`grid` reads the arguments, `united` makes one plan of all variants, `board` shows it
running, `results` collects what came out, `effects` says what each setting did, `search` lets
Optuna choose the variants.
"""
