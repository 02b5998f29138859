"""IDX files of MNIST's layout, as its description has them."""

import struct

import numpy as np

PARTS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
NAMES = [name for names in PARTS.values() for name in names]
LABELS = {"train": [3, 0, 9, 3, 1, 3], "test": [9, 3]}


def packed(array):
    """Two zero bytes, 8 for bytes, the number of dimensions, their sizes, the numbers."""
    sizes = b"".join(struct.pack(">i", size) for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def images_of(part):
    rng = np.random.default_rng(len(LABELS[part]))
    return rng.integers(10, 240, (len(LABELS[part]), 28, 28), dtype=np.uint8)


def write(folder):
    folder.mkdir()
    for part, (images, labels) in PARTS.items():
        (folder / images).write_bytes(packed(images_of(part)))
        (folder / labels).write_bytes(packed(np.array(LABELS[part])))
    return folder
