"""Inpainting of photographs and drawings: the patch mixture against classical methods.

    python benchmarks/inpainting.py               # ten minutes on two cores
    python benchmarks/inpainting.py FOLDER ...    # the same on the pictures of these folders

PSNR on the missing pixels, for six kinds of masks: one block of 24 x 24 pixels, blocks of 8 x 8,
scratches, a text overlay, 50 % random loss and 5 % specks. Rivals are scikit-image's biharmonic
inpainting and, if it is installed, OpenCV's (Telea 2004; Bertalmio et al. 2001). The bundled
mixture was fitted to astronaut, coffee, chelsea, brick and grass at half their size, and to none of
the other pictures. The last row is a whole photograph with specks, and CPU seconds. Writes
results/inpainting.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import skimage.io
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.restoration import inpaint_biharmonic
from skimage.transform import resize

from _common import environment, write
from score_embedding.restoration.inpainting import inpaint

try:
    import cv2
except ImportError:
    cv2 = None

SIZE = 128
FITTED = {"astronaut": 384, "coffee": 400, "chelsea": 300, "brick": 384, "grass": 256}  # crops
HELD_OUT = {"camera": 384, "text": 128, "hubble_deep_field": 512, "coins": 256}
ENDINGS = (".png", ".tif", ".jpg")

Pixels = NDArray[np.float32]
Mask = NDArray[np.bool_]
Inpaint = Callable[[Pixels, Mask], Pixels]


def pictures(folders: list[Path]) -> dict[str, Pixels]:
    if folders:
        paths = [path for folder in folders for path in sorted(folder.iterdir())]
        return {
            str(path): squared(skimage.io.imread(path), 2 * SIZE)
            for path in paths
            if path.suffix in ENDINGS
        }
    named = FITTED | HELD_OUT
    found = {name: squared(getattr(skimage.data, name)(), side) for name, side in named.items()}
    return found | {"stars": stars(), "lines": lines()}


def squared(pixels: NDArray[Any], side: int) -> Pixels:
    """The middle side x side of a picture, or what there is of it, as SIZE x SIZE."""
    h, w = pixels.shape[:2]
    side = min(side, h, w)
    top, left = (h - side) // 2, (w - side) // 2
    crop = pixels[top : top + side, left : left + side] / np.iinfo(pixels.dtype).max
    size = (SIZE, SIZE, *crop.shape[2:])
    return np.clip(resize(crop, size, anti_aliasing=True), 0, 1).astype(np.float32)


def stars() -> Pixels:
    """A dark sky with noise of one grey level, and 25 stars."""
    generator = np.random.default_rng(5)
    i, j = np.indices((SIZE, SIZE))
    sky = 0.02 + 0.005 * generator.normal(size=(SIZE, SIZE))
    for row, column, peak in generator.uniform(0, (SIZE, SIZE, 1), (25, 3)):
        sky += (0.2 + 0.8 * peak) * np.exp(-((i - row) ** 2 + (j - column) ** 2) / 2.9)
    return np.clip(sky, 0, 1).astype(np.float32)


def lines() -> Pixels:
    """A drawing: black lines and circles on white."""
    generator = np.random.default_rng(6)
    image = Image.new("L", (4 * SIZE, 4 * SIZE), 255)
    draw = ImageDraw.Draw(image)
    for ends in generator.uniform(0, 4 * SIZE, (14, 4)):
        draw.line(ends.tolist(), fill=0, width=10)
    for x, y, radius in generator.uniform((0, 0, 30), (4 * SIZE, 4 * SIZE, 150), (4, 3)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=0, width=10)
    return squared(np.asarray(image), 4 * SIZE)


def masks() -> dict[str, Mask]:
    generator = np.random.default_rng(11)
    block, blocks = np.zeros((2, SIZE, SIZE), bool)
    block[52:76, 50:74] = True
    for i in range(12, SIZE - 12, 30):
        for j in range(12, SIZE - 12, 30):
            blocks[i : i + 8, j : j + 8] = True
    scratches, overlay = Image.new("L", (SIZE, SIZE)), Image.new("L", (SIZE, SIZE))
    for ends in generator.uniform(0, SIZE, (10, 4)):
        width = int(generator.integers(2, 4))
        ImageDraw.Draw(scratches).line(ends.tolist(), fill=255, width=width)
    for k in range(5):
        place, font = (4, 6 + 25 * k), ImageFont.load_default(size=16)
        ImageDraw.Draw(overlay).text(place, "Sample text 2024"[k:], fill=255, font=font)
    return {
        "block of 24 x 24": block,
        "blocks of 8 x 8": blocks,
        "scratches": np.asarray(scratches) > 0,
        "text overlay": np.asarray(overlay) > 60,
        "50 % random loss": generator.random((SIZE, SIZE)) < 0.5,
        "5 % specks": generator.random((SIZE, SIZE)) < 0.05,
    }


def methods() -> dict[str, Inpaint]:
    found: dict[str, Inpaint] = {"biharmonic": biharmonic}
    if cv2 is not None:
        found["OpenCV, Telea"] = lambda image, hole: opencv(image, hole, cv2.INPAINT_TELEA)
        found["OpenCV, Navier-Stokes"] = lambda image, hole: opencv(image, hole, cv2.INPAINT_NS)
    found["`bundled`"] = lambda image, hole: inpaint(image, hole, model="bundled")
    found["`fit`"] = lambda image, hole: inpaint(image, hole)
    return found


def biharmonic(image: Pixels, hole: Mask) -> Pixels:
    found = inpaint_biharmonic(image, hole, channel_axis=2 if image.ndim == 3 else None)
    return np.clip(found, 0, 1).astype(np.float32)


def opencv(image: Pixels, hole: Mask, method: int) -> Pixels:
    """Of 8 bits, which is all it takes in colour."""
    found = cv2.inpaint((255 * image).round().astype(np.uint8), hole.astype(np.uint8), 5, method)
    return (found / 255).astype(np.float32)


def main(folders: list[Path]) -> None:
    machine, rows = environment(), []
    everything = pictures(folders)
    groups = {"of folders": everything}
    if not folders:
        fitted = {name: picture for name, picture in everything.items() if name in FITTED}
        others = {name: picture for name, picture in everything.items() if name not in FITTED}
        groups = {"fitted to": fitted, "not fitted to": others}
    for group, members in groups.items():
        for kind, hole in masks().items():
            row: dict[str, Any] = {"pictures": f"{group} ({len(members)})", "missing": kind}
            for name, method in methods().items():
                values = [_measured(method, truth, hole)[0] for truth in members.values()]
                row[name] = f"{np.mean(values):.2f}"
            rows.append(row)
            print(row, flush=True)
    truth = (skimage.data.chelsea() / 255).astype(np.float32)
    hole = np.random.default_rng(0).random(truth.shape[:2]) < 0.05
    row = {"pictures": "chelsea, 451 x 300", "missing": "5 % specks (CPU seconds)"}
    for name, method in methods().items():
        row[name] = "{:.2f} ({:.1f})".format(*_measured(method, truth, hole))
    rows.append(row)
    write("inpainting", rows, {"PSNR in dB": "on missing pixels, mean over pictures", **machine})


def _measured(method: Inpaint, truth: Pixels, hole: Mask) -> tuple[float, float]:
    """PSNR on the missing pixels, and CPU seconds."""
    hidden = np.where(hole[..., None] if truth.ndim == 3 else hole, 0, truth).astype(np.float32)
    started = time.process_time()
    answer = method(hidden, hole)
    seconds = time.process_time() - started
    return float(-10 * np.log10(np.mean((truth - answer)[hole] ** 2))), seconds


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
