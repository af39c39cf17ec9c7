"""Score-CAM against the definitions, and everything that must not change it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import oracles
import relook
from networks import HalvesNet, SmallCNN, counting_forwards, random_cnn
from relook.attribution import VARIANTS, Context
from relook.attribution.score_cam import live_channels
from relook.fills import fill_image

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def test_literal_maps_of_the_hand_computed_network(halves, halves_pixels):
    [first] = halves.first_looks(halves_pixels[None])
    torch.testing.assert_close(first.probabilities, torch.tensor([0.75, 0.25]))
    seen = relook.ScoreCAM()(Context(halves, first, torch.tensor([0, 1])))
    # alpha is (9/10, 1/10) under the left map and (1/2, 1/2) under the right one; the left map
    # falls over the columns as 1, 3/4, 1/4, 0. The third channel is dead.
    falling = torch.tensor([1, 0.75, 0.25, 0]).expand(4, 4)
    torch.testing.assert_close(seen.maps[0], falling)
    torch.testing.assert_close(seen.maps[1], falling.flip(1))
    assert seen.forwards == 2


@pytest.fixture(params=["relu", "signed", "dead"])
def network(request):
    """Maps after a ReLU; signed ones; and with one dead channel."""
    if request.param == "signed":
        return random_cnn(activation=nn.Identity())
    network = random_cnn()
    if request.param == "dead":
        with torch.no_grad():
            network.conv2.weight[2].zero_()
            network.conv2.bias[2] = -1
    return network


def maps_and_activations(network, pixels, classes, method):
    classifier = relook.Classifier(network, mean=MEAN, std=STD, input_size=16, target_layer="act")
    [first] = classifier.first_looks(pixels[None])
    return method(Context(classifier, first, torch.tensor(classes))).maps, first.activations


@pytest.mark.parametrize("fill", ["black", "mean", "blur"])
@pytest.mark.parametrize("variant", ["poster", "paper"])
def test_equals_the_definition(network, noise, fill, variant):
    method = relook.ScoreCAM(variant, fill)
    maps, activations = maps_and_activations(network, noise[0], [0, 1, 2, 3], method)
    hidden = fill_image(fill, noise[0], MEAN)
    oracle = {"poster": oracles.authors, "paper": oracles.paper}[variant]
    with torch.no_grad():
        for c in range(4):
            expected = oracle(network.eval(), noise[0], activations, c, MEAN, STD, hidden)
            torch.testing.assert_close(maps[c], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("variant", ["torchcam", "gradcam"])
def test_equals_the_other_libraries_definitions(network, noise, variant):
    maps, activations = maps_and_activations(
        network, noise[0], [0, 1, 2, 3], relook.ScoreCAM(variant)
    )
    oracle = {"torchcam": oracles.torchcam, "gradcam": oracles.gradcam}[variant]
    tolerance = {"torchcam": 1e-9, "gradcam": 1e-6}[variant]
    with torch.no_grad():
        for c in range(4):
            expected = oracle(network.eval(), noise[0], activations, c, MEAN, STD)
            torch.testing.assert_close(maps[c], expected, rtol=0, atol=tolerance)


def test_equals_the_installed_torchcam(noise):
    methods = pytest.importorskip("torchcam.methods")
    network = random_cnn(torch.float32).eval()
    pixels = noise[0].float()
    maps, _ = maps_and_activations(network, pixels, [0, 1, 2], relook.ScoreCAM("torchcam"))
    inputs = oracles.normalise(pixels, MEAN, STD)[None]
    for c in range(3):
        with methods.ScoreCAM(network, "act") as extractor:
            network(inputs)
            [theirs] = extractor(class_idx=c)
        theirs = nn.functional.interpolate(theirs[None], (16, 16), mode="bilinear")[0, 0]
        torch.testing.assert_close(maps[c], theirs, rtol=0, atol=1e-5)


def test_equals_the_installed_gradcam(noise):
    gradcam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = random_cnn(torch.float32).eval()
    pixels = noise[0].float()
    maps, _ = maps_and_activations(network, pixels, [0, 1, 2], relook.ScoreCAM("gradcam"))
    inputs = oracles.normalise(pixels, MEAN, STD)[None]
    with gradcam.ScoreCAM(network, [network.act]) as cam:
        for c in range(3):
            theirs = torch.from_numpy(cam(inputs, [ClassifierOutputTarget(c)])[0])
            torch.testing.assert_close(maps[c], theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_equals_both_installed_libraries_on_a_real_network(lite0, chelsea):
    """All 1,280 channels of EfficientNet-Lite0 on a real photo, at 64×64 to be quick."""
    methods = pytest.importorskip("torchcam.methods")
    gradcam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    pixels = lite0.pixels(relook.images.open_image(chelsea), size=(64, 64))[None]
    inputs = lite0.normalised(pixels)
    [first] = lite0.first_looks(pixels)
    c = int(first.probabilities.argmax())
    network = lite0.network
    with methods.ScoreCAM(network, "bn2") as extractor:
        network(inputs)
        [torchcams] = extractor(class_idx=c)
    torchcams = nn.functional.interpolate(torchcams[None], (64, 64), mode="bilinear")[0, 0]
    ours = relook.ScoreCAM("torchcam")(Context(lite0, first, torch.tensor([c]))).maps[0]
    torch.testing.assert_close(ours, torchcams, rtol=0, atol=1e-4)
    with gradcam.ScoreCAM(network, [network.bn2]) as cam:
        gradcams = torch.from_numpy(cam(inputs, [ClassifierOutputTarget(c)])[0])
    ours = relook.ScoreCAM("gradcam")(Context(lite0, first, torch.tensor([c]))).maps[0]
    torch.testing.assert_close(ours, gradcams, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_several_classes_in_one_pass_equal_one_at_a_time(cnn, noise, variant):
    method = relook.ScoreCAM(variant)
    [first] = cnn.first_looks(noise[:1])
    together = method(Context(cnn, first, torch.tensor([3, 0, 2]))).maps
    for i, c in enumerate([3, 0, 2]):
        alone = method(Context(cnn, first, torch.tensor([c]))).maps[0]
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-12)


def test_constant_channels_cost_no_forward(noise):
    network = random_cnn()
    with torch.no_grad():
        network.conv2.weight[:2].zero_()
        network.conv2.bias[:2] = torch.tensor([-1.0, 0.7])  # one dead, one constant and not 0
    classifier = relook.Classifier(network, mean=MEAN, std=STD, input_size=16)
    with counting_forwards(network) as count:
        [first] = classifier.first_looks(noise[:1])
        seen = relook.ScoreCAM()(Context(classifier, first, torch.tensor([0, 1, 2])))
    assert live_channels(first.activations).tolist() == [False, False, True, True, True, True]
    assert count == [1 + 4]
    assert seen.forwards == 4


def test_a_constant_channel_of_a_relu_changes_nothing(noise):
    """Exact for maps ≥ 0: added to the sum, the min-max takes it off again."""
    network = random_cnn()
    with torch.no_grad():
        network.conv2.weight[0].zero_()
        network.conv2.bias[0] = 0.7
        network.fc.weight[:, 0] = 0  # so that the network does not care either
    without = SmallCNN(channels=5).double()
    with torch.no_grad():
        without.conv1.load_state_dict(network.conv1.state_dict())
        for own, other in [(without.conv2, network.conv2)]:
            own.weight.copy_(other.weight[1:])
            own.bias.copy_(other.bias[1:])
        without.fc.weight.copy_(network.fc.weight[:, 1:])
        without.fc.bias.copy_(network.fc.bias)
    a, _ = maps_and_activations(network, noise[0], [0, 1], relook.ScoreCAM())
    b, _ = maps_and_activations(without, noise[0], [0, 1], relook.ScoreCAM())
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_constant_channel_of_signed_maps_is_left_out(noise):
    """Not the same as adding it: the sum could cross the zero of the ReLU. Stated, and pinned."""
    network = random_cnn(activation=nn.Identity())
    with torch.no_grad():
        network.conv2.weight[0].zero_()
        network.conv2.bias[0] = -5.0
    maps, activations = maps_and_activations(network, noise[0], [0], relook.ScoreCAM())
    with torch.no_grad():
        expected = oracles.authors(
            network.eval(), noise[0], activations, 0, MEAN, STD, torch.zeros(3, 1, 1)
        )
    torch.testing.assert_close(maps[0], expected, rtol=0, atol=1e-9)
    assert maps.any()


def test_all_channels_dead_gives_flat_maps_for_no_forward(noise):
    network = random_cnn()
    with torch.no_grad():
        network.conv2.weight.zero_()
        network.conv2.bias.fill_(-1)
    classifier = relook.Classifier(network, mean=MEAN, std=STD, input_size=16)
    [first] = classifier.first_looks(noise[:1])
    with counting_forwards(network) as count:
        seen = relook.ScoreCAM()(Context(classifier, first, torch.tensor([0, 1])))
    assert count == [0]
    assert seen.forwards == 0
    assert not seen.maps.any()


@pytest.mark.parametrize("chunk", [1, 2, 5, 6, 100])
@pytest.mark.parametrize("variant", VARIANTS)
def test_chunk_size_changes_nothing(cnn, noise, chunk, variant):
    [first] = cnn.first_looks(noise[:1])
    classes = torch.tensor([0, 1])
    whole = relook.ScoreCAM(variant)(Context(cnn, first, classes)).maps
    pieces = relook.ScoreCAM(variant, chunk=chunk)(Context(cnn, first, classes)).maps
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


def test_no_more_than_a_chunk_goes_through_the_network_at_once(cnn, noise):
    sizes = []
    handle = cnn.network.register_forward_pre_hook(lambda _m, inputs: sizes.append(len(inputs[0])))
    [first] = cnn.first_looks(noise[:1])
    relook.ScoreCAM(chunk=4)(Context(cnn, first, torch.tensor([0])))
    handle.remove()
    assert sizes == [1, 4, 2]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("you tried: not enough memory")],
)
def test_out_of_memory_halves_the_chunk_and_goes_on(cnn, noise, error):
    [first] = cnn.first_looks(noise[:1])
    whole = relook.ScoreCAM()(Context(cnn, first, torch.tensor([0, 1]))).maps
    sizes = []

    def scarce(_module, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise error

    handle = cnn.network.register_forward_pre_hook(scarce)
    pieces = relook.ScoreCAM(chunk=8)(Context(cnn, first, torch.tensor([0, 1]))).maps
    handle.remove()
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


def test_the_callers_autocast_reaches_the_network_and_not_the_maps(noise):
    """In half precision the masks would be off by 1/256 already."""
    classifier = relook.Classifier(
        random_cnn(torch.float32, channels=150), mean=MEAN, std=STD, input_size=16
    )
    pixels, seen = noise[:1].float(), []
    exact = relook.ScoreCAM()(
        Context(classifier, classifier.first_looks(pixels)[0], torch.tensor([0, 1]))
    )
    classifier = copy.deepcopy(classifier)
    with torch.autocast("cpu", torch.bfloat16):
        [first] = classifier.first_looks(pixels)
        hook = classifier.network.fc.register_forward_hook(lambda *call: seen.append(call[2].dtype))
        maps = relook.ScoreCAM()(Context(classifier, first, torch.tensor([0, 1]))).maps
        hook.remove()
        close = relook.ScoreCAM()(Context(classifier, first, torch.tensor([0, 1]))).maps
    assert set(seen) == {torch.bfloat16}
    assert classifier.engine == "PyTorch"  # which knows of autocast
    assert maps.dtype == torch.float32
    torch.testing.assert_close(close, exact.maps, rtol=0, atol=0.02)


def test_other_errors_are_not_taken_for_want_of_memory(cnn, noise):
    [first] = cnn.first_looks(noise[:1])
    failing = cnn.network.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        relook.ScoreCAM()(Context(cnn, first, torch.tensor([0])))
    failing.remove()


@pytest.mark.parametrize("variant", VARIANTS)
def test_channel_order_changes_nothing(noise, variant):
    network, shuffled = random_cnn(), random_cnn()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        shuffled.conv2.weight.copy_(network.conv2.weight[order])
        shuffled.conv2.bias.copy_(network.conv2.bias[order])
        shuffled.fc.weight.copy_(network.fc.weight[:, order])
    a, _ = maps_and_activations(network, noise[0], [0, 1], relook.ScoreCAM(variant))
    b, _ = maps_and_activations(shuffled, noise[0], [0, 1], relook.ScoreCAM(variant))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_an_in_place_relu_after_the_layer_changes_nothing(halves_pixels):
    maps = []
    for inplace in (False, True):
        classifier = relook.Classifier(
            HalvesNet(inplace), mean=(0, 0, 0), std=(1, 1, 1), input_size=4, target_layer="conv"
        )
        [first] = classifier.first_looks(halves_pixels[None] * 0.5 + 0.1)
        assert float(first.activations[0, 0, 0]) == pytest.approx(0.6)
        maps.append(relook.ScoreCAM()(Context(classifier, first, torch.tensor([0, 1]))).maps)
    torch.testing.assert_close(*maps)


def test_signed_maps_survive_an_in_place_relu(noise):
    """What the layer put out is kept, not what the ReLU made of it."""

    class PreActivation(SmallCNN):
        def forward(self, x):
            x = self.conv2(self.conv1(x).relu())
            return self.fc(torch.relu_(x).mean(dim=(2, 3)))

    torch.manual_seed(0)
    classifier = relook.Classifier(
        PreActivation().double(), mean=MEAN, std=STD, input_size=16, target_layer="conv2"
    )
    [first] = classifier.first_looks(noise[:1])
    assert float(first.activations.min()) < 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision_stays_finite_and_close(noise, dtype, variant):
    exact, _ = maps_and_activations(
        random_cnn(torch.float32), noise[0].float(), [0, 1], relook.ScoreCAM(variant)
    )
    half, _ = maps_and_activations(
        random_cnn(torch.float32).to(dtype), noise[0].float(), [0, 1], relook.ScoreCAM(variant)
    )
    assert half.isfinite().all()
    assert half.dtype == torch.float32
    assert float((half - exact).abs().max()) < 0.1


def test_nan_from_a_masked_image_is_an_error(cnn, noise):
    [first] = cnn.first_looks(noise[:1])
    with torch.no_grad():
        cnn.network.fc.bias[1] = float("nan")
    with pytest.raises(relook.NotFiniteError, match=r"NaN or infinity for 6 of 6 inputs"):
        relook.ScoreCAM()(Context(cnn, first, torch.tensor([0])))


def test_progress_is_told_after_every_chunk(cnn, noise):
    told = []
    [first] = cnn.first_looks(noise[:1])
    relook.ScoreCAM(chunk=4)(Context(cnn, first, torch.tensor([0]), lambda *p: told.append(p)))
    assert told == [(4, 6), (6, 6)]


@pytest.mark.parametrize("variant", ["torchcam", "gradcam"])
def test_variants_of_libraries_fix_their_fill(variant):
    assert relook.ScoreCAM(variant).hidden_as == "mean"
    with pytest.raises(relook.RelookError, match="drop fill 'black'"):
        relook.ScoreCAM(variant, "black")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variant": "fast"}, "choose one of poster, paper, torchcam, gradcam"),
        ({"fill": "white"}, "choose one of black, mean, blur"),
        ({"chunk": 0}, "at least 1"),
    ],
)
def test_unknown_parameters_are_refused(wrong, message):
    with pytest.raises(relook.RelookError, match=message):
        relook.ScoreCAM(**wrong)


def test_a_first_look_without_activations_is_refused(cnn, noise):
    [first] = cnn.first_looks(noise[:1], activations=False)
    with pytest.raises(ValueError, match="activations=True"):
        relook.ScoreCAM()(Context(cnn, first, torch.tensor([0])))
    [first] = cnn.first_looks(noise[:1])
    with pytest.raises(ValueError, match="activations=True"):
        relook.CAM()(Context(cnn, replace(first, activations=None), torch.tensor([0])))
