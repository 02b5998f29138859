"""An upper bound of the noise: what the quietest small patches of an image show.

Noise is everywhere. Text, line drawings and small pictures may have no tile without an edge, but
they have small patches without one, and there is no more noise than these vary. Of patches that
hold noise alone, the quietest hundredth varies a little less than the mean, by the distribution of
chi-squared.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import chi2
from torch import Tensor

from score_embedding.restoration import clipping
from score_embedding.restoration.noise import Noise
from score_embedding.restoration.quiet_tiles import QUANTUM, tiles_of

SIDE, STEP = 6, 2  # pixels along a patch, and between patches
QUIETEST = 0.01  # share of the patches
LEAST = 200  # patches that are not all black or white, without which nothing is known
MARGIN = 1.08  # factor on what independent noise shows
CUT_OFF = 1.25  # the same where noise is cut off at black and white
CORRELATED = 1.8  # the same of noise that reaches over pixels: a patch shows less of it
PROCESSED = 3.6  # of what may be a camera's, which processing takes from quiet places, too
_LEAST = 1e-6


def at_most(noise: Noise, x: Tensor, factor: float = 1.0) -> Noise:
    """The noise of an image x (c, h, w), less strong where the quietest patches vary less than
    `factor` times what independent noise of this strength would."""
    if noise.level == 0 or min(x.shape[1:]) < SIDE:
        return noise
    patches = tiles_of(x, SIDE, STEP)
    black, white = clipping.clipped(patches, QUANTUM / 2)
    share = (black | white).flatten(2).double().mean(dim=2).amax(dim=1)
    usable = share == 0
    if int(usable.sum()) < LEAST:  # those of which a part is cut off say it less well
        usable, factor = share <= clipping.MOST_CLIPPED, CUT_OFF * factor
    if int(usable.sum()) < LEAST:
        return noise
    patches = clipping.uncut(patches[usable], black[usable], white[usable])
    varied = patches.flatten(2).var(dim=2).mean(dim=1).double().numpy()
    expected = noise.at(patches.mean(dim=(2, 3)).T.double().numpy())
    ratio = np.sqrt(varied / np.mean(expected**2, axis=0).clip(_LEAST**2))
    freedom = len(x) * (SIDE**2 - 1)
    usual = np.sqrt(chi2.ppf(QUIETEST, freedom) / freedom)
    most = MARGIN * factor * float(np.quantile(ratio, QUIETEST)) / usual
    return noise.times(most) if most < 1 else noise
