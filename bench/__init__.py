"""Measurements: ratios and distributions with the machine's load beside them, never a pass or fail."""
