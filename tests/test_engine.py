"""The exported network: the same answers, used only where it may be, and never stale."""

from __future__ import annotations

import copy

import pytest
import torch

import relook
from networks import SmallCNN, counting_forwards, random_cnn
from relook.engine import BATCH, Engines, OnnxRuntime

pytest.importorskip("onnxruntime")
SIZE = (16, 16)


@pytest.fixture
def network():
    return random_cnn(torch.float32, batch_norm=True).eval()


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, 2 * BATCH + 3])
def test_the_same_answers_for_any_number_of_images(network, count):
    engine = OnnxRuntime(network, torch.zeros(1, 3, *SIZE))
    inputs = torch.rand(count, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(engine(inputs), network(inputs), rtol=0, atol=1e-5)


def test_a_network_that_exports_wrongly_is_not_used():
    class OtherWhenTraced(SmallCNN):
        def forward(self, x):
            return super().forward(x) + (5.0 if torch.jit.is_tracing() else 0.0)

    with pytest.raises(RuntimeError, match="the exported network is off by"):
        OnnxRuntime(OtherWhenTraced().eval(), torch.zeros(1, 3, *SIZE))


def test_it_is_made_once_many_forwards_are_asked_for(network):
    engines = Engines()
    assert engines.get(network, 100, SIZE) is None
    assert engines.name == "PyTorch"
    engine = engines.get(network, 100, SIZE)
    assert engine is engines.get(network, 1, SIZE)
    assert isinstance(engine, OnnxRuntime)
    assert engines.get(network, 1, (8, 8)) is None
    assert engines.name == "ONNX Runtime"


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.fc.bias.data.add_(1),
        lambda n: n.load_state_dict(random_cnn(torch.float32, 5, batch_norm=True).state_dict()),
        lambda n: n.norm.running_mean.add_(0.5),
    ],
    ids=["data", "loaded", "statistics"],
)
def test_changed_weights_are_exported_again(network, change):
    engines = Engines()
    before = engines.get(network, 500, SIZE)
    with torch.no_grad():
        change(network)
    after = engines.get(network, 1, SIZE)
    assert after is not before
    inputs = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(after(inputs), network(inputs), rtol=0, atol=1e-5)


def test_other_dtypes_and_hooks_stay_on_pytorch(network):
    assert Engines().get(copy.deepcopy(network).double(), 500, SIZE) is None
    assert Engines().get(copy.deepcopy(network).bfloat16(), 500, SIZE) is None
    with counting_forwards(network):
        assert Engines().get(network, 500, SIZE) is None
    assert Engines().get(network, 500, SIZE) is not None


def test_a_failed_export_is_said_once_and_pytorch_goes_on(caplog):
    class NoExport(SmallCNN):
        def forward(self, x):
            if torch.jit.is_tracing():
                raise RuntimeError("not today")
            return super().forward(x)

    engines, network = Engines(), NoExport().eval()
    assert engines.get(network, 500, SIZE) is None
    assert engines.get(network, 500, SIZE) is None
    [record] = caplog.records
    assert "PyTorch runs the network, the export to ONNX failed (not today)" in record.message


def test_maps_are_those_of_pytorch(noise):
    """Enough channels that the export pays; the float64 network is the oracle."""
    pixels = noise[:1]
    maps = {}
    for dtype in (torch.float32, torch.float64):
        classifier = relook.Classifier(
            random_cnn(dtype, channels=200), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=16
        )
        [first] = classifier.first_looks(pixels.to(dtype))
        maps[dtype] = relook.ScoreCAM()(classifier, first, torch.tensor([0, 1, 2])).maps
        assert classifier.engine == ("ONNX Runtime" if dtype == torch.float32 else "PyTorch")
    torch.testing.assert_close(maps[torch.float32].double(), maps[torch.float64], rtol=0, atol=1e-4)


def test_a_classifier_with_an_engine_can_be_copied(noise):
    classifier = relook.Classifier(
        random_cnn(torch.float32, channels=200), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=16
    )
    corrector = relook.Corrector(classifier, k=2)
    pixels = noise.float()
    answers = corrector(pixels)
    assert classifier.engine == "ONNX Runtime"
    torch.testing.assert_close(copy.deepcopy(corrector)(pixels), answers)


def test_an_engine_made_under_inference_mode_works_outside(network):
    with torch.inference_mode():
        engine = OnnxRuntime(network, torch.zeros(1, 3, *SIZE))
    inputs = torch.rand(3, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(engine(inputs), network(inputs), rtol=0, atol=1e-5)
