"""The log-density Fokker-Planck equation on the pixel grid, from log-density to embedded images."""
