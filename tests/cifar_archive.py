"""A zip of dogs as the archive of CIFAR-10, to run the published configs where the real archive is
not available.

    python tests/cifar_archive.py DOGS.zip OUT.tar.gz

The zip holds pictures of 32 x 32 pixels, named so that their sorted names are in the order of the
5,000 dogs of the training split. The archive has the real layout, with the dogs in this order over
data_batch_1 to 5 and no other class, so that data_loader.seed draws the same dogs as from the real
one. Pictures that were stored as JPEG differ from the real ones by its losses.
"""

from __future__ import annotations

import io
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDER = "cifar-10-batches-py"
BATCHES = 5
DOG = 5
SIDE = 32


def read_zip(path: Path) -> NDArray[np.uint8]:
    """The pictures of a zip by name, (n, 32, 32, 3)."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
        pictures = [
            np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names
        ]
    sizes = {picture.shape for picture in pictures}
    if sizes != {(SIDE, SIDE, 3)}:
        raise ValueError(f"{path}: pictures of 32 x 32 are needed, found {sorted(sizes)}")
    return np.stack(pictures)


def write_archive(dogs: NDArray[np.uint8], path: Path) -> None:
    """The dogs (n, 32, 32, 3) as cifar-10-python.tar.gz, in their order."""
    with tarfile.open(path, "w:gz") as archive:
        for i, batch in enumerate(np.array_split(dogs, BATCHES), start=1):
            content = pickle.dumps(
                {
                    b"batch_label": f"training batch {i} of {BATCHES}".encode(),
                    b"labels": [DOG] * len(batch),
                    b"data": batch.transpose(0, 3, 1, 2).reshape(len(batch), -1),
                    b"filenames": [f"dog_{k:04d}.png".encode() for k in range(len(batch))],
                },
                protocol=2,
            )
            member = tarfile.TarInfo(f"{FOLDER}/data_batch_{i}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python tests/cifar_archive.py DOGS.zip OUT.tar.gz")
    dogs = read_zip(Path(sys.argv[1]))
    write_archive(dogs, Path(sys.argv[2]))
    print(f"{sys.argv[2]}: {len(dogs)} dogs")


if __name__ == "__main__":
    main()
