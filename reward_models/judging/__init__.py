"""Parts of the family `judge`: prompts, allowed answers, reading of verdicts, pairs, checklists."""
