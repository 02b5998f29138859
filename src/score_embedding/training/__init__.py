"""The training loop: its steps, its state, its checkpoints, its signals."""
