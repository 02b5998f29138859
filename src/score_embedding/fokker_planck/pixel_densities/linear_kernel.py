"""The manuscript's density: a tree-based kernel density estimate with a linear kernel.

scikit-learn's KernelDensity on a k-d tree. Its bandwidth is Scott's factor D^(-1/6) in units of the
pixel values: scikit-learn ignores the covariance of the pairs, so the result depends on the scale
of the image, which the method has in [0, 1]. A kernel 1 - |z| / bandwidth that wide reaches a large
share of the pairs, so the tree saves little and the time grows nearly as D^2.

The kernel ends at the bandwidth, where the density could be 0 and its logarithm -inf. It never is
at the pairs themselves, each of which is the peak of its own kernel.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.neighbors import KernelDensity
from torch import Tensor

from score_embedding.fokker_planck.pixel_densities import pairs_of


def estimate(channels: Tensor) -> Tensor:
    """The log-density at each pixel, (B, h, w)."""
    tree = KernelDensity(kernel="linear", bandwidth="scott", algorithm="kd_tree")
    m0 = [tree.fit(pairs).score_samples(pairs) for pairs in pairs_of(channels).cpu().numpy()]
    return torch.from_numpy(np.stack(m0)).to(channels).view_as(channels)
