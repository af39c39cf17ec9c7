"""Families of networks that differ the most, each from its name to a correction."""

from __future__ import annotations

import pytest
import torch

import relook
from networks import counting_forwards
from relook.looks import Mask

NETWORKS = [
    # name, target layer, its maps, what is special
    ("torchvision/squeezenet1_1", "features", "512×13×13", "class maps at the end"),
    ("torchvision/googlenet", "inception5b", "1024×7×7", "branches; auxiliary answers"),
    ("torchvision/inception_v3", "Mixed_7c", "2048×8×8", "inputs of 299 pixels"),
    ("timm/resnest14d", "layer4", "2048×7×7", "split attention"),
    ("timm/hrnet_w18_small", "final_layer", "2048×7×7", "several scales at once"),
    ("timm/legacy_seresnet18", "layer4", "512×7×7", "squeeze and excitation"),
    ("timm/dpn48b", "features", "832×7×7", "two paths, in a tuple"),
    ("timm/densenet121", "features", "1024×9×9", "dense; tested at 288 pixels"),
    ("timm/nf_regnet_b0", "final_act", "960×8×8", "no normalisation; tested at 256 pixels"),
    ("timm/resnetv2_50", "norm", "2048×9×9", "activation before convolution"),
    ("timm/mambaout_femto", "stages", "288×9×9, channels last", "channels last"),
    ("timm/lambda_resnet26t", "stages", "2048×8×8", "weights of five dimensions"),
    ("timm/levit_128s", "stages", "384×4×4, tokens", "tokens thinned out on the way"),
    ("timm/efficientformer_l1", "norm", "448×7×7, tokens", "maps, then tokens"),
    ("timm/vit_tiny_r_s16_p8_224", "blocks.10", "192×7×7, tokens after 1 more", "a hybrid"),
    (
        "timm/deit_tiny_distilled_patch16_224",
        "blocks.10",
        "192×14×14, tokens after 2 more",
        "class and distillation token",
    ),
    ("timm/cait_xxs24_224", "blocks", "192×14×14, tokens", "the class token comes last"),
    ("timm/pit_ti_224", "transformers.2.blocks.2", "256×7×7, tokens after 1 more", "a pyramid"),
    (
        "timm/crossvit_9_240",
        "blocks.2.blocks.1",
        "256×14×14, tokens after 1 more",
        "two branches of tokens",
    ),
    ("timm/coat_lite_tiny", "cpe4", "320×7×7, tokens after 1 more", "convolutions between tokens"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer", "maps"), [n[:3] for n in NETWORKS], ids=lambda v: v)
def test_from_a_name_to_a_correction(name, layer, maps, chelsea):
    torch.manual_seed(0)
    classifier = relook.load(name, pretrained=False)
    assert (classifier.target_layer, str(classifier.layout)) == (layer, maps)
    corrector = relook.Corrector(classifier, look=Mask(relook.ScoreCAM(budget=2)))
    with counting_forwards(classifier.network) as count:
        correction = corrector.correct(chelsea)
    assert count[0] == correction.forwards <= 1 + 2 + 5
    assert float(correction.after.sum()) == pytest.approx(1, abs=1e-4)
    size = classifier.layout.grid
    [first] = classifier.first_looks(classifier.pixels(correction.original)[None])
    assert first.activations.shape[1:] == size
    assert bool(first.activations.isfinite().all())


def test_ten_colours_are_refused():
    """A network of ten channels gets no RGB images, and says so."""
    import timm

    network = timm.create_model("resnet10t", in_chans=10)
    with pytest.raises(relook.ModelError, match=r"fails on an input of 1×3×64×64 .* RGB images"):
        relook.Classifier(network, mean=(0, 0, 0), std=(1, 1, 1), input_size=64)
