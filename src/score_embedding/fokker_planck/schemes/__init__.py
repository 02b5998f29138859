"""One file for each scheme that solves the equation."""
