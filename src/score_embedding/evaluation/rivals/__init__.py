"""Denoisers of other authors that need no training, for comparison.

They combine pixels of the training images, each with weights of its own, so that they are the
denoiser of no density of whole images and have no log-density. Those that are a density are kinds
in densities/.
"""
