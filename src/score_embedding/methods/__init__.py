"""One file per training method: what it pre-computes, its batches and its loss."""
