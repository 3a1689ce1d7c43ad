"""Evidence on scorers: accuracy by language, agreement with gold, calibration, preflight checks."""
