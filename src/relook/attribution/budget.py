"""Score-CAM for fewer forwards: which masks to ask about, and what the others would have scored.

Masks that show much the same get much the same answer. So the score alpha is taken for a smooth
function of the mask H: a Gaussian process (C. E. Rasmussen and C. K. I. Williams, "Gaussian
Processes for Machine Learning", 2006), in which like masks share what was learnt of one of them,

    z(H) = sqrt(alpha(H) / mass(H)),        mass(H): the mean of H, the share of the image shown,
    cov(z(H), z(H')) = c + m(|H − H'| / l)  m: Matérn 3/2 (eq. 4.17), |·|: root mean square,

observed with noise; its level is the mean of what was observed. The root makes scores of very
different size alike; the mass says that what hardly shows anything scores hardly anything. Raw
outputs, which may be negative, are taken as they are.

Which masks are asked about is settled before the first forward. What is wanted is the sum
sum_k alpha_k A_k, and the process tells its expected squared error for any choice; the masks are
taken one by one, each the one that lowers that error most.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_LENGTH = 0.3
"""l: from which root mean square difference on two masks say little about each other."""
_CONSTANT = 10.0
"""c: how much the level of all scores may differ from image to image, in units of m(0) = 1."""
_NOISE = 0.03
"""Variance of what no smooth function explains, in the same units."""
_LEAST_MASS = 1e-3


@dataclass(frozen=True)
class Sample:
    """Some of the masks, and how the scores of all follow from theirs.

    Attributes:
        asked: (n,), places of the masks to ask about among all K.
        covariance: (K, n), of the process at every mask with the process at those asked about.
        mass: (K,), the share of the image that each mask shows; None for raw outputs.
    """

    asked: Int[Tensor, " n"]
    covariance: Float[Tensor, "k n"]
    mass: Float[Tensor, " k"] | None

    def complete(self, scores: Float[Tensor, "c n"]) -> Float[Tensor, "c k"]:
        """Scores of all K masks: those asked about as they are, the others as expected.

        Args:
            scores: of the masks asked about, in their order; ≥ 0 unless `mass` is None.
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
        # The mean of the process given what was observed (Rasmussen and Williams, eq. 2.25).
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
    """Choose the masks whose scores tell most about the weighted sum of the maps.

    Args:
        maps: A_k.
        masks: H_k at the size of the maps: in [0, 1] once upsampled, here a little beyond it where
            the extreme lies between two pixels.
        count: how many to ask about, fewer than K.
        outputs: whether the scores are raw outputs and not probabilities.
    """
    # float32 and its faster forms are too coarse beside a constant of 10; MPS has no other.
    dtype = torch.float32 if maps.device.type == "mps" else torch.float64
    maps, masks = maps.to(dtype), masks.to(dtype)
    points = masks.flatten(1) / masks[0].numel() ** 0.5
    distance = torch.cdist(points, points).fill_diagonal_(0)
    scaled = distance.mul_(3**0.5 / _LENGTH)
    covariance = (1 + scaled) * scaled.neg().exp_() + _CONSTANT
    mass = masks.mean(dim=(1, 2)).clamp_min(_LEAST_MASS)
    # How alpha varies with z: to first order as the mass, times z itself, which is not known yet;
    # its root, which trusts small masks less, chose better.
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
    """The masks that, one after the other, lower the expected squared error of the sum most.

    Observing mask j takes g_j = |sum_k cov(k, j) A_k|² / (var_j + noise_j) off that error, where
    cov and var are those given the masks taken before. A pivoted Cholesky decomposition keeps
    them up to date; nothing in it waits for a device.
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
