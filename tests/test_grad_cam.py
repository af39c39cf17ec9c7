"""Grad-CAM against finite differences and CAM; what it leaves behind; maps that ask for nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import relook
from networks import SmallCNN, counting_forwards, random_cnn
from relook.attribution import Activity, Context
from relook.looks import Mask


class FlatHead(SmallCNN):
    """No global pooling: every place of every map has a weight of its own, as in VGG."""

    def __init__(self, inplace=False):
        super().__init__(activation=nn.ReLU(inplace=inplace))
        self.fc = nn.Linear(6 * 4 * 4, 4)

    def forward(self, x):
        return self.fc(self.act(self.conv2(self.conv1(x).relu())).flatten(1).tanh())


def flat_head(**options):
    torch.manual_seed(3)
    network = FlatHead(**options).double()
    return relook.Classifier(
        network, mean=(0, 0, 0), std=(1, 1, 1), input_size=16, target_layer="act"
    )


def test_where_the_network_ends_gap_fc_it_is_cam(cnn, noise):
    [first] = cnn.first_looks(noise[:1])
    classes = torch.tensor([2, 0, 3])
    with counting_forwards(cnn.network) as count:
        seen = relook.GradCAM()(Context(cnn, first, classes))
    cam = relook.CAM()(Context(cnn, first, classes))
    torch.testing.assert_close(seen.maps, cam.maps, rtol=0, atol=1e-9)
    assert (count, seen.forwards, seen.backwards) == ([1], 1, 1)
    assert (cam.forwards, cam.backwards) == (0, 0)


def test_weights_are_mean_gradients_by_finite_differences(noise):
    """dz/dA of every place of every map, from two forwards of the head each."""
    classifier = flat_head()
    [first] = classifier.first_looks(noise[:1])
    head = classifier.network.fc
    maps, step = first.activations, 1e-6
    gradients = torch.zeros(4, *maps.shape, dtype=torch.float64)
    with torch.no_grad():
        for place in range(maps.numel()):
            nudge = torch.zeros(maps.numel(), dtype=torch.float64)
            nudge[place] = step
            up, down = (head((maps.flatten() + s * nudge).tanh()) for s in (1, -1))
            gradients.view(4, -1)[:, place] = (up - down) / (2 * step)
    weights = gradients.mean(dim=(2, 3))
    upsampled = nn.functional.interpolate(maps[None], (16, 16), mode="bilinear")[0]
    expected = torch.einsum("ck,khw->chw", weights, upsampled).relu()
    low, high = expected.amin(dim=(1, 2)), expected.amax(dim=(1, 2))
    expected = (expected - low[:, None, None]) / (high - low)[:, None, None]
    seen = relook.GradCAM()(Context(classifier, first, torch.arange(4)))
    torch.testing.assert_close(seen.maps, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_in_every_gradient_mode_and_leaves_none_behind(noise, mode):
    classifier = flat_head()
    network = classifier.network.train()
    expected = relook.GradCAM()(
        Context(classifier, classifier.first_looks(noise[:1])[0], torch.arange(2))
    )
    with mode():
        [first] = classifier.first_looks(noise[:1])
        seen = relook.GradCAM()(Context(classifier, first, torch.arange(2)))
    torch.testing.assert_close(seen.maps, expected.maps)
    assert not seen.maps.requires_grad
    assert network.training
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_frozen_weights_and_an_activation_in_place_change_nothing(noise):
    classes = torch.arange(4)
    plain, inplace = flat_head(), flat_head(inplace=True)
    inplace.network.requires_grad_(False)
    inplace.target_layer = "conv2"  # whose output the activation rewrites
    plain.target_layer = "conv2"
    maps = [
        relook.GradCAM()(Context(c, c.first_looks(noise[:1])[0], classes)).maps
        for c in (plain, inplace)
    ]
    torch.testing.assert_close(*maps)


def test_hooks_and_mode_come_back_after_an_exception(noise):
    classifier = flat_head()
    [first] = classifier.first_looks(noise[:1])
    classifier.network.train()
    failing = classifier.network.fc.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        relook.GradCAM()(Context(classifier, first, torch.arange(2)))
    failing.remove()
    assert classifier.network.training
    assert not any(module._forward_hooks for module in classifier.network.modules())


def test_a_network_that_ends_in_probabilities_has_the_same_maps_up_to_its_log_sum(noise):
    """d log Y[c] = dz^c − sum_j Y[j] dz^j: by hand from the gradients of the logits."""
    logits = flat_head()
    ended = relook.Classifier(
        nn.Sequential(logits.network, nn.Softmax(dim=1)),
        mean=(0, 0, 0), std=(1, 1, 1), input_size=16, outputs="probabilities",
        target_layer="0.act",
    )  # fmt: skip
    everything = torch.arange(4)
    [first] = logits.first_looks(noise[:1])
    _, of_logits = logits.gradients(noise[0], everything)
    _, of_logs = ended.gradients(noise[0], everything)
    y = first.probabilities.view(4, 1, 1, 1)
    torch.testing.assert_close(of_logs, of_logits - (y * of_logits).sum(dim=0))


def test_no_gradient_back_to_the_layer_is_said(noise):
    class Detached(SmallCNN):
        def forward(self, x):
            x = self.act(self.conv2(self.conv1(x).relu()))
            return self.fc(x.mean(dim=(2, 3)).detach())

    torch.manual_seed(0)
    network = Detached().double()
    classifier = relook.Classifier(network, mean=(0, 0, 0), std=(1, 1, 1), input_size=16)
    [first] = classifier.first_looks(noise[:1])
    for trained in (True, False):
        network.requires_grad_(trained)
        with pytest.raises(relook.ModelError, match=r"have no gradient .* 'act'; use Score-CAM"):
            relook.GradCAM()(Context(classifier, first, torch.tensor([0])))
        assert not any(module._forward_hooks for module in network.modules())


def test_what_comes_before_the_layer_keeps_nothing_for_a_backward(cnn, noise):
    modes = []
    handle = cnn.network.conv1.register_forward_hook(
        lambda _m, _i, output: modes.append(output.requires_grad)
    )
    relook.GradCAM()(Context(cnn, cnn.first_looks(noise[:1])[0], torch.tensor([0])))
    handle.remove()
    assert modes == [False, False]  # the first look's, and this one's
    assert torch.is_grad_enabled()


def test_a_backward_costs_two_forwards(cnn, noise):
    look = Mask(relook.GradCAM())
    [outcome] = relook.Corrector(cnn, k=2, look=look).look_again(cnn.first_looks(noise[:1]))
    assert outcome.forwards == 1 + 1 + 2
    assert outcome.cost == 1 + 1 + 2 + 2


def test_half_precision_stays_finite(noise):
    classifier = relook.Classifier(
        random_cnn(torch.bfloat16), mean=(0, 0, 0), std=(1, 1, 1), input_size=16
    )
    [first] = classifier.first_looks(noise[:1].float())
    seen = relook.GradCAM()(Context(classifier, first, torch.tensor([0, 1])))
    assert seen.maps.isfinite().all()
    assert seen.maps.dtype == torch.float32


def test_activity_is_where_any_channel_is_active(halves):
    """Red in the upper left quarter, green in the lower right one, by hand: both halves' places."""
    pixels = torch.zeros(3, 4, 4)
    pixels[0, :2, :2], pixels[1, 2:, 2:] = 1.0, 0.5
    [first] = halves.first_looks(pixels[None])
    # Channels: red is 1 at (0, 0), green 0.5 at (1, 1). Their sum, upsampled from 2×2:
    expected = nn.functional.interpolate(
        torch.tensor([[[[1.0, 0.0], [0.0, 0.5]]]]), (4, 4), mode="bilinear"
    )[0, 0]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    with counting_forwards(halves.network) as count:
        seen = Activity()(Context(halves, first, torch.tensor([1, 0])))
    torch.testing.assert_close(seen.maps, expected.expand(2, 4, 4))
    assert (count, seen.forwards, seen.backwards) == ([0], 0, 0)


def test_cam_takes_the_other_method_only_where_it_has_to(noise, halves, halves_pixels):
    either = relook.CAM(otherwise=Activity())
    classifier = flat_head()
    [first] = classifier.first_looks(noise[:1])
    classes = torch.tensor([0, 1])
    torch.testing.assert_close(
        either(Context(classifier, first, classes)).maps,
        Activity()(Context(classifier, first, classes)).maps,
    )
    with pytest.raises(relook.ModelError):
        relook.CAM()(Context(classifier, first, classes))
    [first] = halves.first_looks(halves_pixels[None])
    torch.testing.assert_close(
        either(Context(halves, first, classes)).maps,
        relook.CAM()(Context(halves, first, classes)).maps,
    )
