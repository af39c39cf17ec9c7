"""Masks at the size of the maps: upsampled as PyTorch does, their range known without it."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from relook.attribution.masks import Upsampling

SIZES = [
    ((7, 7), (224, 224)),
    ((4, 9), (33, 21)),
    ((5, 5), (5, 5)),
    ((12, 10), (7, 10)),
    ((1, 3), (8, 1)),
    ((14, 14), (15, 29)),
]


@pytest.fixture(params=SIZES, ids=str)
def maps_and_size(request):
    small, size = request.param
    return torch.randn(9, *small, dtype=torch.float64), size


@pytest.mark.parametrize("align_corners", [False, True])
def test_it_is_bilinear_interpolation(maps_and_size, align_corners):
    maps, size = maps_and_size
    expected = interpolate(maps[None], size, mode="bilinear", align_corners=align_corners)[0]
    made = Upsampling.of(maps, size, align_corners)(maps)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_range_is_that_of_the_upsampled_maps(maps_and_size, align_corners):
    maps, size = maps_and_size
    up = Upsampling.of(maps, size, align_corners)
    low, high = up.range(maps)
    made = up(maps)
    torch.testing.assert_close(low.flatten(), made.amin(dim=(1, 2)), rtol=0, atol=1e-12)
    torch.testing.assert_close(high.flatten(), made.amax(dim=(1, 2)), rtol=0, atol=1e-12)


def test_the_range_looks_at_a_few_samples_only():
    """Two for each pair of neighbours, and those beyond the first and the last."""
    from relook.attribution.masks import _ends

    up = Upsampling.of(torch.zeros(1, 7, 7), (224, 224))
    assert _ends(up.rows).shape == (2 * 6 + 4, 7)


def test_autocast_leaves_masks_alone():
    maps = torch.rand(3, 7, 7)
    up = Upsampling.of(maps, (224, 224))
    exact = up(maps)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(up(maps), exact)
