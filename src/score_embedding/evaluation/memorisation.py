"""Whether samples are copies of training images.

A sample is counted as memorised if its Euclidean distance to the nearest training image, in pixels,
is below a third of that to the second nearest (Yoon et al. 2023, "Diffusion probabilistic models
generalize when they fail to memorize"; also Gu et al. 2023). A sample that equals a training image
is memorised whether that image is in the set once or several times.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RATIO = 1 / 3
_CANDIDATES = 8  # nearest images whose distances are computed anew, from differences
_BLOCK = 2**24  # distances at a time


@dataclass(frozen=True)
class Neighbours:
    """Of each of m samples: which training image is nearest (m,), and the distances to the nearest
    and the second nearest (m, 2)."""

    nearest: Tensor
    distances: Tensor

    @property
    def memorised(self) -> Tensor:
        """Whether each sample is memorised (m,)."""
        return (self.distances[:, 0] < RATIO * self.distances[:, 1]) | (self.distances[:, 0] == 0)

    @property
    def share(self) -> float:
        """The memorised share of the samples."""
        return float(self.memorised.double().mean())


def nearest(samples: Tensor, images: Tensor) -> Neighbours:
    """The two nearest of training images (n, c, h, w) to each of samples (m, c, h, w), which are
    clipped to [0, 1]. On the device of the images; memory does not grow with m n.

    Raises
    ------
    ValueError : fewer than two training images.
    """
    if len(images) < 2:
        raise ValueError(f"{len(images)} training image(s): two are needed for a second nearest")
    points = images.flatten(1)
    queries = samples.clamp(0, 1).flatten(1).to(points)
    centre = points.mean(dim=0)  # few digits are then lost in the squares
    squares = torch.cat(
        [(block - centre).square().sum(dim=1) for block in torch.split(points, 4096)]
    )
    which, distances = [], []
    for block in torch.split(queries, max(1, _BLOCK // len(points))):
        # |x - x_i|^2 less |x - centre|^2, with (x - centre) (x_i - centre) from one product
        from_centre = block - centre
        product = from_centre @ points.T - (from_centre @ centre)[:, None]
        order = (squares - 2 * product).topk(min(_CANDIDATES, len(points)), largest=False).indices
        exact = (block[:, None] - points[order]).square().sum(dim=2).sqrt()
        two, places = exact.topk(2, largest=False)
        which.append(order.gather(1, places[:, :1])[:, 0])
        distances.append(two)
    return Neighbours(torch.cat(which), torch.cat(distances))
