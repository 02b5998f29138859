"""Images and data sets: from files, folders, arrays and archives to tensors."""

from score_embedding._deprecated import moved

__getattr__ = moved(
    __name__,
    load_images="data.images",
    load_dataset="data.datasets",
    load_photographs="data.datasets",
    load_held_out="data.datasets",
)
