"""Upsampling of Score-CAM's masks, one chunk at a time to save memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from relook.attribution.protocol import full_precision


@dataclass(frozen=True)
class Upsampling:
    """Bilinear upsampling from (u, v) to (H, W) as two matrices: up(A) = rows · A · columnsᵀ.

    Attributes:
        rows: (H, u), each row sums to 1.
        columns: (W, v), each row sums to 1.
    """

    rows: Float[Tensor, "h u"]
    columns: Float[Tensor, "w v"]

    @classmethod
    def of(
        cls, maps: Float[Tensor, "k u v"], size: tuple[int, int], align_corners: bool = False
    ) -> Upsampling:
        """Upsampling for maps of this size and dtype to `size` = (H, W)."""
        rows, columns = (
            _interpolation(maps, old, new, align_corners)
            for old, new in zip(maps.shape[1:], size, strict=True)
        )
        return cls(rows, columns)

    def __call__(self, maps: Float[Tensor, "n u v"]) -> Float[Tensor, "n h w"]:
        """Upsample maps."""
        with full_precision(maps):
            return self.rows @ (maps @ self.columns.T)

    def range(
        self, maps: Float[Tensor, "n u v"]
    ) -> tuple[Float[Tensor, "n 1 1"], Float[Tensor, "n 1 1"]]:
        """Compute the minimum and maximum of each upsampled map without upsampling it fully.

        Between two neighbouring values of a map the interpolation is linear along each axis, so
        its extremes lie at the first or last sample between them.
        """
        ends = Upsampling(_ends(self.rows), _ends(self.columns))
        samples = [ends(piece) for piece in maps.split(256)]
        low = torch.cat([piece.amin(dim=(1, 2), keepdim=True) for piece in samples])
        high = torch.cat([piece.amax(dim=(1, 2), keepdim=True) for piece in samples])
        return low, high


def _interpolation(like: Tensor, old: int, new: int, align_corners: bool) -> Tensor:
    """Return the (new, old) matrix of linear interpolation: what PyTorch makes of unit vectors."""
    units = torch.eye(old, dtype=like.dtype, device=like.device).unsqueeze(1)
    made = interpolate(units, size=new, mode="linear", align_corners=align_corners)
    return made.squeeze(1).T.contiguous()


def _ends(matrix: Float[Tensor, "n o"]) -> Float[Tensor, "m o"]:
    """Keep the first and last sample of each run of samples between the same two neighbours."""
    between = matrix > 0
    changes = (between[1:] != between[:-1]).any(dim=1)
    end = changes.new_ones(1)
    return matrix[torch.cat([end, changes]) | torch.cat([changes, end])]
