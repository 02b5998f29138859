"""A run folder: its files, who may write to it, what it needs, where it was made."""
