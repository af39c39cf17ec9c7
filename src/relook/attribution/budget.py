"""Score-CAM with fewer forward passes: run a few masks and estimate the scores of the others.

Similar masks get similar answers. The score alpha is therefore modelled as a smooth function of the
mask H, by a Gaussian process (C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for
Machine Learning", 2006):

    z(H) = sqrt(alpha(H) / mass(H)),        mass(H): the mean of H, the share of the image shown,
    cov(z(H), z(H')) = c + m(|H − H'| / l)  m: Matérn 3/2 (eq. 4.17), |·|: root mean square,

observed with noise; its prior mean is the mean of the observations. The square root makes scores of
different magnitudes comparable; dividing by the mass encodes that a mask that shows hardly anything
scores hardly anything. Raw outputs, which may be negative, are modelled as they are.

The masks to run are chosen before the first forward pass. The quantity of interest is the sum
sum_k alpha_k A_k, and the process gives its expected squared error for any choice of masks; they
are chosen greedily, each time the mask that lowers this error most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LENGTH = 0.3
"""Length scale l: root mean square difference beyond which masks say little about each other."""
_CONSTANT = 10.0
"""c: prior variance of the level of all scores, in units of m(0) = 1."""
_NOISE = 0.03
"""Variance of the observation noise, in the same units."""
_LEAST_MASS = 1e-3


@dataclass(frozen=True)
class Sample:
    """A choice of masks to run, and what is needed to estimate the scores of all masks from them.

    Attributes:
        asked: (n,), indices of the masks to run among all K.
        covariance: (K, n), covariance between the process at each mask and at the chosen masks.
        mass: (K,), the share of the image that each mask shows; None for raw outputs.
    """

    asked: Int[Tensor, " n"]
    covariance: Float[Tensor, "k n"]
    mass: Float[Tensor, " k"] | None

    def complete(self, scores: Float[Tensor, "c n"]) -> Float[Tensor, "c k"]:
        """Return the scores of all K masks: measured for those that were run, else estimated.

        Args:
            scores: scores of the masks that were run, in the order of `asked`; ≥ 0 unless `mass`
                is None.
        """
        mass = self.mass
        dtype, scores = scores.dtype, scores.to(self.covariance.dtype)
        known = scores.T
        values = known if mass is None else (known / mass[self.asked, None]).sqrt()
        level = values.mean(dim=0)
        observed = self.covariance[self.asked]
        observed = observed + _NOISE * torch.eye(
            len(observed), dtype=observed.dtype, device=observed.device
        )
        # The posterior mean of the process (Rasmussen and Williams, eq. 2.25).
        expected: Tensor = self.covariance @ torch.linalg.solve(observed, values - level) + level
        if mass is not None:
            expected = (expected.clamp_min(0).square() * mass[:, None]).clamp_max(1)
        expected[self.asked] = known
        return expected.T.to(dtype)


def choose(
    maps: Float[Tensor, "k u v"],
    masks: Float[Tensor, "k u v"],
    count: int,
    outputs: bool = False,
) -> Sample:
    """Choose the masks whose scores are most informative about the weighted sum of the maps.

    Args:
        maps: (K, u, v), the maps A_k.
        masks: (K, u, v), the masks H_k at the size of the maps. They are in [0, 1] after
            upsampling; here values slightly outside occur if an extreme lies between two pixels.
        count: number of masks to run, less than K.
        outputs: whether the scores are raw outputs instead of probabilities.
    """
    # float32 and TF32 are too coarse next to a constant of 10; MPS has no float64.
    dtype = torch.float32 if maps.device.type == "mps" else torch.float64
    maps, masks = maps.to(dtype), masks.to(dtype)
    points = masks.flatten(1) / masks[0].numel() ** 0.5
    distance = torch.cdist(points, points).fill_diagonal_(0)
    scaled = distance.mul_(3**0.5 / _LENGTH)
    covariance = (1 + scaled) * scaled.neg().exp_() + _CONSTANT
    mass = masks.mean(dim=(1, 2)).clamp_min(_LEAST_MASS)
    # How alpha varies with z: to first order in proportion to mass · z, and z is not known yet. The
    # square root of the mass, which relies less on small masks, chose better in experiments.
    size = torch.ones_like(mass) if outputs else mass.sqrt()
    of_alpha = covariance * size * size[:, None]
    asked = _greedy(maps.flatten(1), of_alpha, _NOISE * size.square(), count)
    return Sample(asked, covariance[:, asked], None if outputs else mass)


def _greedy(
    maps: Float[Tensor, "k p"],
    covariance: Float[Tensor, "k k"],
    noise: Float[Tensor, " k"],
    count: int,
) -> Int[Tensor, " n"]:
    """Choose masks one after the other, each the one that lowers the expected squared error most.

    Observing mask j takes g_j = |sum_k cov(k, j) A_k|² / (var_j + noise_j) off that error, where
    cov and var are conditioned on the masks chosen before. A pivoted Cholesky decomposition keeps
    them up to date, without synchronising with the device.
    """
    asked = torch.zeros(count, dtype=torch.long, device=maps.device)
    factors = torch.zeros(count, len(maps), dtype=maps.dtype, device=maps.device)
    variance = covariance.diagonal().clone()
    reach = maps.T @ covariance
    for i in range(count):
        lowers = reach.square().sum(dim=0) / (variance + noise)
        best = lowers.index_fill(0, asked[:i], -1).argmax(dim=0, keepdim=True)
        asked[i : i + 1] = best
        before = factors[:i].T @ factors[:i].index_select(1, best)
        column = (covariance.index_select(1, best) - before).squeeze(1)
        scale = (column.index_select(0, best) + noise.index_select(0, best)).sqrt()
        factors[i] = column / scale
        variance = variance - factors[i].square()
        reach = reach - (maps.T @ factors[i])[:, None] * factors[i]
    return asked
