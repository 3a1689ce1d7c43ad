"""What is known of a scorer.

Accuracy by language, agreement with gold, calibration, and a look before scoring.
"""
