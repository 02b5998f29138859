"""Discrete operators on the grid: differences, drift, heat kernels, linear systems."""
