"""A layer's output read as maps: channels first, channels last, tokens in a grid."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import relook
from relook.attribution import Context
from relook.layout import Layout, read_layout

OWN = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def test_channels_last_by_hand():
    output = torch.tensor([[[[1.0, 5], [2, 6]], [[3, 7], [4, 8]]]])  # (1, h, w, K)
    maps = Layout("channels-last", (2, 2), 2).maps(output)
    assert maps.tolist() == [[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]]


def test_tokens_by_hand():
    """Row by row, after the class token."""
    output = torch.tensor([[[9.0, 9], [1, 5], [2, 6], [3, 7], [4, 8], [0, 1], [2, 3]]])
    maps = Layout("tokens", (2, 3), 2, prefix=1).maps(output)
    assert maps.tolist() == [[[[1, 2, 3], [4, 0, 2]], [[5, 6, 7], [8, 1, 3]]]]
    assert Layout("tokens", (2, 2), 2, prefix=1).maps(output) is None


def test_without_places_keeps_the_class_token():
    output = torch.ones(1, 5, 2)
    emptied = Layout("tokens", (2, 2), 2, prefix=1).without_places(output)
    assert emptied.sum(dim=2).tolist() == [[2, 0, 0, 0, 0]]
    assert output.sum() == 10


@pytest.mark.parametrize(
    ("shape", "aspect", "grids", "given", "expected"),
    [
        ((1, 320, 7, 7), 1, [], None, "320×7×7"),
        ((1, 7, 7, 320), 1, [], None, "320×7×7, channels last"),
        ((1, 320, 7, 14), 0.5, [], None, "320×7×14"),
        ((1, 7, 14, 320), 0.5, [], None, "320×7×14, channels last"),
        ((1, 8, 8, 8), 1, [], None, "8×8×8"),  # both could be: channels first
        ((1, 4, 4, 6), 1, [], None, "6×4×4, channels last"),  # both within rounding: the closer
        ((1, 320, 1, 1), 1, [], None, None),
        ((1, 1, 1, 320), 1, [], None, None),
        ((1, 12, 197, 64), 1, [(14, 14)], None, None),  # queries
        ((1, 197, 768), 1, [(14, 14)], None, "768×14×14, tokens after 1 more"),
        ((1, 201, 768), 1, [(14, 14)], None, "768×14×14, tokens after 5 more"),
        ((1, 50, 320), 1, [(56, 56), (28, 28), (7, 7)], None, "320×7×7, tokens after 1 more"),
        ((1, 196, 768), 1, [(14, 14)], None, "768×14×14, tokens"),
        ((1, 16, 384), 1, [(14, 14)], None, "384×4×4, tokens"),  # thinned out on the way
        ((1, 98, 384), 0.5, [], None, "384×7×14, tokens"),
        ((1, 198, 384), 1, [], None, "384×14×14, tokens after 2 more"),
        ((1, 16, 384), 1, [(15, 15)], None, "384×4×4, tokens"),  # 15, 8, 4
        ((1, 25, 384), 1, [(15, 15)], None, None),
        ((1, 100, 384), 1, [(14, 14)], None, None),  # learned queries
        ((1, 4, 384), 1, [], None, None),
        ((1, 15, 4, 8), 64 / 127, [], None, "15×4×8"),
        ((1, 150, 384), 1, [], None, None),
        ((1, 150, 384), 1, [], (10, 15), "384×10×15, tokens"),
        ((1, 152, 384), 1, [(12, 12)], (10, 15), "384×10×15, tokens after 2 more"),
        ((1, 10, 384), 1, [], (10, 15), None),
        ((1, 1, 384), 1, [], None, None),
        ((4, 49, 96), 1, [(7, 7)], None, None),  # windows of one image
        ((1, 1000), 1, [], None, None),
    ],
)
def test_what_a_shape_says(shape, aspect, grids, given, expected):
    layout = read_layout(shape, aspect, grids, given)
    assert (layout and str(layout)) == expected


def vit(**options):
    import timm

    torch.manual_seed(0)
    options = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 3,
        "num_heads": 2,
    } | options
    return timm.models.VisionTransformer(num_classes=5, **options)


@pytest.mark.parametrize(
    ("options", "layer", "layout"),
    [
        # From the class token: nobody reads the others after the last attention.
        ({}, "blocks.1", "24×4×4, tokens after 1 more"),
        ({"reg_tokens": 4}, "blocks.1", "24×4×4, tokens after 5 more"),
        # From their mean: the last there are.
        ({"global_pool": "avg"}, "norm", "24×4×4, tokens after 1 more"),
        ({"global_pool": "avg", "class_token": False}, "norm", "24×4×4, tokens"),
        ({"img_size": (32, 64)}, "blocks.1", "24×4×8, tokens after 1 more"),
    ],
)
def test_vision_transformers(options, layer, layout):
    network = vit(**options)
    size = options.get("img_size", (32, 32))
    classifier = relook.Classifier(network, **OWN, input_size=size)
    found = {name for name, m in network.named_modules() if name in (layer, "blocks")}
    assert (classifier.target_layer in found, str(classifier.layout)) == (True, layout)
    pixels = torch.rand(1, 3, *size)
    [first] = classifier.first_looks(pixels)
    kept = {}
    network.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.update(out=o.detach()))
    network.eval()(pixels)
    tokens = kept["out"][0, classifier.layout.prefix :]
    height, width = classifier.layout.grid
    for row, column in ((0, 0), (1, 2), (height - 1, width - 1)):
        expected = tokens[row * width + column]
        torch.testing.assert_close(first.activations[:, row, column], expected)


def test_where_a_transformer_looks_shows_in_every_method():
    """One patch alone differs from the rest: it is where CAM-like maps must have their maximum
    or minimum, in the right row and column; gradients reach the layer.
    """
    classifier = relook.Classifier(vit(), **OWN, input_size=32)
    pixels = torch.full((1, 3, 32, 32), 0.5)
    pixels[..., 8:16, 24:32] = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    [first] = classifier.first_looks(pixels)
    differs = (
        (
            first.activations
            - first.activations.median(dim=2).values.median(dim=1).values[:, None, None]
        )
        .abs()
        .sum(dim=0)
    )
    assert divmod(int(differs.argmax()), 4) == (1, 3)
    classes = torch.arange(5)
    for attribution in (relook.ScoreCAM(), relook.GradCAM()):
        maps = attribution(Context(classifier, first, classes)).maps
        assert bool((maps.flatten(1).amax(dim=1) > 0).any())


def test_a_class_layer_of_zeros_does_not_hide_which_tokens_count():
    """As torchvision's transformers begin."""
    network = vit()
    nn.init.zeros_(network.head.weight)
    classifier = relook.Classifier(network, **OWN, input_size=32)
    assert classifier.target_layer == "blocks.1"


class ClassTokenLast(nn.Module):
    """The class token comes after the places."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        layer = nn.TransformerEncoderLayer(24, 2, 48, batch_first=True, dropout=0.0)
        self.blocks = nn.Sequential(*[copy.deepcopy(layer) for _ in range(3)])
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([x, self.token.expand(len(x), -1, -1)], dim=1)
        return self.head(self.blocks(x)[:, -1])


def test_a_class_token_that_comes_last():
    torch.manual_seed(0)
    network = ClassTokenLast()
    classifier = relook.Classifier(network, **OWN, input_size=32)
    assert classifier.target_layer == "blocks.1"
    assert str(classifier.layout) == "24×4×4, tokens before 1 more"
    kept = {}
    network.blocks[1].register_forward_hook(lambda m, i, o: kept.update(out=o.detach()))
    [first] = classifier.first_looks(torch.rand(1, 3, 32, 32))
    torch.testing.assert_close(first.activations[:, 0, 0], kept["out"][0, 0])
    torch.testing.assert_close(first.activations[:, 3, 3], kept["out"][0, 15])


class OddTokens(nn.Module):
    """150 tokens that come from no maps, of a square image: ten rows of fifteen."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        patches = nn.functional.interpolate(x, (10, 15)).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.embed(patches)).mean(dim=1))


def test_a_grid_that_nobody_tells():
    classifier = relook.Classifier(OddTokens(), **OWN, input_size=30)
    with pytest.raises(
        relook.ModelError, match=r"rows and columns with token_grid= or --token-grid"
    ):
        relook.Corrector(classifier)
    with pytest.raises(relook.ModelError, match=r"returns 150×8, tokens of an unknown grid"):
        classifier.target_layer = "norm"
    given = relook.Classifier(OddTokens(), **OWN, input_size=30, token_grid=(10, 15))
    assert (given.target_layer, given.layout.grid) == ("norm", (10, 15))
    other = relook.Classifier(OddTokens(), **OWN, input_size=30, token_grid=(13, 13))
    with pytest.raises(relook.ModelError, match="no tokens fill 13 rows and 13 columns"):
        _ = other.target_layer
    with pytest.raises(
        relook.ModelError, match=r"returns 150×8, tokens that do not fill a grid of 20×20"
    ):
        relook.Classifier(
            OddTokens(), **OWN, input_size=30, token_grid=(20, 20), target_layer="norm"
        )


def test_channels_last_maps_are_those_of_the_layer():
    import timm

    torch.manual_seed(0)
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=2, depths=(1, 1, 1, 1)
    )
    classifier = relook.Classifier(network, **OWN, input_size=64)
    assert (classifier.target_layer, str(classifier.layout)) == ("norm", "768×2×2, channels last")
    kept = {}
    network.norm.register_forward_hook(lambda m, i, o: kept.update(out=o.detach()))
    [first] = classifier.first_looks(torch.rand(1, 3, 64, 64))
    torch.testing.assert_close(first.activations, kept["out"][0].permute(2, 0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_transformers_in_half_precision(dtype):
    network = vit()
    with torch.no_grad():
        network.head.weight.mul_(30)  # answers that differ clearly
    pixels = torch.rand(2, 3, 32, 32)
    exact = relook.Corrector(relook.Classifier(network, **OWN, input_size=32))(pixels)
    half = relook.Classifier(copy.deepcopy(network).to(dtype), **OWN, input_size=32)
    assert half.target_layer == "blocks.1"
    found = relook.Corrector(half)(pixels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=0.02, rtol=0)
    [first] = half.first_looks(pixels[:1])
    assert first.activations.dtype == torch.float32


def test_autocast_and_the_order_in_memory_change_nothing_but_rounding():
    network = vit()
    with torch.no_grad():
        network.head.weight.mul_(30)
    corrector = relook.Corrector(relook.Classifier(network, **OWN, input_size=32))
    pixels = torch.rand(2, 3, 32, 32)
    expected = corrector(pixels)
    last = pixels.to(memory_format=torch.channels_last)
    torch.testing.assert_close(corrector(last), expected, atol=1e-5, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(corrector(pixels), expected, atol=0.02, rtol=0)
