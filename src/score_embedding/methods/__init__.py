"""One file for each method: what it knows before training, its batches, loss and sampler."""
