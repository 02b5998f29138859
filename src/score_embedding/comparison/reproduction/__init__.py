"""The published experiments, run again: a verdict for each claim of the papers."""
