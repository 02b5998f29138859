"""A mixture of Gaussians of patches, by scikit-learn's expectation-maximisation (EM).

The mean of each channel over the patch is taken as independent of the rest, and Gaussian: a
component then describes a structure at any brightness and colour, not for one of them.
"""

from __future__ import annotations

import warnings

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from score_embedding.densities import gaussian
from score_embedding.densities.fitting import FLOOR, from_moments
from score_embedding.densities.mixture import GaussianMixture
from score_embedding.densities.model import FitOptions, shape_of

Model = GaussianMixture


def fit(arrays: Tensor, options: FitOptions) -> GaussianMixture:
    """To arrays (L, c, h, w), in at most `options.em_steps` steps from `options.seed`.

    Raises
    ------
    ValueError : fewer arrays than components.
    """
    # Imported here: loading a fitted mixture does not need it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as SklearnMixture

    L, c, h, w = arrays.shape
    if max(2, options.components) > L:
        raise ValueError(
            f"components: {options.components} cannot be fitted to {L} array(s) of side {h}"
        )
    if h * w == 1:
        return gaussian.fit(arrays, options)
    flat = arrays.flatten(1)
    constant = _constant_arrays(c, h * w).to(flat)  # (d, c)
    brightness = flat @ constant
    spread = brightness - brightness.mean(dim=0)
    C_brightness = spread.T @ spread / L
    others = torch.linalg.svd(constant)[0][:, c:]  # (d, d - c): all that is not constant
    C_floor = FLOOR * torch.eye(c, dtype=flat.dtype, device=flat.device)
    fitted = SklearnMixture(
        options.components,
        reg_covar=FLOOR,
        max_iter=options.em_steps,
        init_params="k-means++",
        random_state=options.seed,
    )
    # scikit-learn would take all cores, also where several runs share them.
    with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
        warnings.simplefilter("ignore", ConvergenceWarning)  # em_steps are what is meant
        fitted.fit((flat @ others).cpu().numpy())
    weights, means, covariances = (
        torch.from_numpy(values).to(flat)
        for values in (fitted.weights_, fitted.means_, fitted.covariances_)
    )
    return from_moments(
        shape_of(arrays),
        weights,
        means @ others.T + constant @ brightness.mean(dim=0),
        others @ covariances @ others.T + constant @ (C_brightness + C_floor) @ constant.T,
    )


def _constant_arrays(c: int, pixels: int) -> Tensor:
    """Orthonormal columns (c * pixels, c): arrays in which one channel is constant."""
    one = torch.full((pixels, 1), pixels**-0.5, dtype=torch.float64, device="cpu")
    return torch.kron(torch.eye(c, dtype=torch.float64, device="cpu"), one)
