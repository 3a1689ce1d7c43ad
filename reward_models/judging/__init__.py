"""Parts of the family `judge`: prompts, allowed answers and their probabilities, what free text
says, pairs, checklists.
"""
