"""Sweeps: the same config with several values of some of its keys, compared."""
