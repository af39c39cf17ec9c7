"""The exported network: the same answers, used only where it may be, and never stale."""

from __future__ import annotations

import array
import collections
import copy
import dataclasses
import datetime
import functools
import os
import re
import subprocess
import sys
import types
from typing import ClassVar

import numpy as np
import pytest
import timm
import torch
from torch import nn

import relook
import relook.demo
from networks import HalvesNet, NaNNet, SmallCNN, counting_forwards, random_cnn
from relook.attribution import Context
from relook.batching import BATCH, exported_batch, images_at_once
from relook.engines import Engines, Folded, OnnxRuntime
from relook.images import open_image
from relook.probing import probing_pixels

SIZE = (16, 16)


class NoExport(SmallCNN):
    def forward(self, x):
        if torch.jit.is_tracing():
            raise RuntimeError("not today")
        return super().forward(x)


@pytest.fixture
def network():
    return random_cnn(torch.float32, batch_norm=True).eval()


@pytest.fixture
def restored_threads():
    """A test may set the number of PyTorch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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


def test_a_batch_size_of_ones_own(network):
    engine = OnnxRuntime(network, torch.zeros(1, 3, *SIZE), batch=3)
    inputs = torch.rand(7, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(engine(inputs), network(inputs), rtol=0, atol=1e-5)


def test_a_call_for_a_few_images_makes_no_form_but_uses_one(network):
    """Nobody waits for a form to answer one photo, and its answer is that of a large batch."""
    engines = Engines()
    assert [engines.get(network, 3, SIZE) for _ in range(60)] == [None] * 60
    engine = engines.get(network, 4, SIZE)
    assert isinstance(engine, OnnxRuntime)
    assert engines.get(network, 1, SIZE) is engine


@pytest.mark.parametrize(
    ("size", "batch"), [(16, 8), (112, 8), (160, 2), (224, 2), (225, 1), (448, 1), (1024, 1)]
)
def test_batches_of_large_images_are_smaller(size, batch):
    assert exported_batch(size, size) == batch


@pytest.mark.parametrize(("threads", "count"), [(1, 16), (2, 16), (16, 32), (64, 128)])
def test_a_chunk_has_a_batch_for_every_thread(threads, count, restored_threads):
    torch.set_num_threads(threads)
    assert images_at_once(224, 224, torch.device("cpu")) == count
    assert images_at_once(1024, 1024, torch.device("cpu")) == threads


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_an_image_s_answer_does_not_depend_on_the_batch_or_the_threads(threads, restored_threads):
    torch.set_num_threads(threads)
    network = random_cnn(torch.float32, batch_norm=True).eval()
    inputs = torch.rand(21, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network(inputs)
    for batch in (1, 2, 8):
        engine = OnnxRuntime(network, torch.zeros(1, 3, *SIZE), batch)
        together = engine(inputs)
        torch.testing.assert_close(together, expected, rtol=0, atol=1e-5)
        for place in (0, 7, 20):
            alone = engine(inputs[place : place + 1])
            torch.testing.assert_close(alone[0], together[place], rtol=0, atol=1e-6)


def test_a_batch_that_fails_raises_its_error_and_the_next_call_is_answered(network):
    engine = OnnxRuntime(network, torch.zeros(1, 3, *SIZE), batch=1)
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        engine(torch.rand(5, 3, 8, 8))
    assert engine(torch.rand(5, 3, *SIZE)).shape == (5, 4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_runs_a_form_whose_threads_it_does_not_have():
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["child:", "0", "same", "True"]


FORKS = """
import os, sys
sys.path.insert(0, "tests")
import torch
from networks import random_cnn
from relook.engines import OnnxRuntime

torch.set_num_threads(2)
engine = OnnxRuntime(random_cnn(torch.float32).eval(), torch.zeros(1, 3, 16, 16), batch=1)
inputs = torch.rand(6, 3, 16, 16)
before = engine(inputs)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(engine(inputs), before) else 1)
print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print("same", torch.equal(engine(inputs), before))
"""


def test_a_process_ends_while_a_daemon_thread_runs_a_form():
    """It does not hang. Its status may be that of an abort: Python ends daemon threads where they
    wait for it, which C++ code, whosever it is, may not survive.
    """
    subprocess.run([sys.executable, "-c", ENDS], capture_output=True, timeout=120, check=False)


ENDS = """
import sys, threading
sys.path.insert(0, "tests")
import torch
from networks import random_cnn
from relook.engines import OnnxRuntime

torch.set_num_threads(2)
engine = OnnxRuntime(random_cnn(torch.float32).eval(), torch.zeros(1, 3, 16, 16), batch=1)
started = threading.Event()

def ask():
    while True:
        engine(torch.rand(6, 3, 16, 16))
        started.set()

threading.Thread(target=ask, daemon=True).start()
started.wait(60)
"""


def test_it_is_made_once_many_forwards_are_asked_for(network):
    engines = Engines()
    assert engines.get(network, 100, SIZE) is None
    assert engines.name == "PyTorch"
    engine = engines.get(network, 100, SIZE)
    assert engine is engines.get(network, BATCH, SIZE)
    assert isinstance(engine, OnnxRuntime)
    assert engines.get(network, BATCH, (8, 8)) is None
    assert engines.name == "ONNX Runtime"


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n.fc.bias.data.add_(1),
        lambda n: n.load_state_dict(random_cnn(torch.float32, 5, batch_norm=True).state_dict()),
        lambda n: n.norm.running_mean.add_(0.5),
        lambda n: n.fc.weight.copy_(n.fc.weight.flip(0)),
        lambda n: setattr(n.fc, "weight", nn.Parameter(n.fc.weight.flip(0))),
    ],
    ids=["data", "loaded", "statistics", "swapped", "replaced"],
)
def test_changed_weights_are_exported_again(network, change):
    engines = Engines()
    before = engines.get(network, 500, SIZE)
    with torch.no_grad():
        change(network)
    assert engines.get(network, BATCH, SIZE) is None  # not worth it for so few
    after = engines.get(network, 500, SIZE)
    assert after is not before
    inputs = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(after(inputs), network(inputs), rtol=0, atol=1e-5)


@dataclasses.dataclass(slots=True)
class Slots:
    temperature: float = 1.0


class Names(list):
    """A list with an attribute."""

    temperature = 1.0


def scaled_by(value):
    """A function that holds a value."""
    box = [value]

    def scale(y):
        return y * box[0]

    return scale, box


class Config:
    """Settings that nobody makes an object of."""

    temperature = 1.0


class Settings:
    def __init__(self):
        self.temperature = 1.0
        self.more = {"scales": [1.0, 2.0]}


class Tempered(SmallCNN):
    """Attributes of several kinds take part in its answer."""

    def __init__(self):
        super().__init__()
        self.temperature = 1.0
        self.adapted = False
        self.settings = Settings()
        self.squash = torch.tanh
        self.unregistered = [torch.ones(4), nn.Linear(4, 4).requires_grad_(False)]
        self.calls = 0
        self.part = functools.partial(torch.mul, other=1.0)
        self.slots = Slots()
        self.deep = {"a": {"b": {"c": {"d": {"e": 1.0}}}}}
        self.many = [str(number) for number in range(50_000)]
        self.table = {str(number): 1.0 for number in range(200)}
        self.queue = collections.deque([1.0])
        self.array = array.array("d", [1.0])
        self.names = Names()
        self.scale, self.box = scaled_by(1.0)
        self.both = {"temperature": 1.0, "seen": 0}
        self.config = Config
        self.ordinary = [np.int64(3), np.random.default_rng(0), datetime.date(2026, 1, 1), len]
        self.optional: int | None = None

    SCALE = 1.0
    drop: float | None = None
    SPACE = types.SimpleNamespace(temperature=1.0)

    def settle(self, y):
        return y

    def forward(self, x):
        self.calls += 1
        self.both["seen"] += 1
        return self.rest(self.settle(self.part(self.scale(self.first(x)))))

    def rest(self, y):
        for value in (
            *(self.slots.temperature, self.deep["a"]["b"]["c"]["d"]["e"], len(self.many[-1]) / 5),
            *(self.table["7"], self.queue[0], self.array[0], self.names.temperature, self.SCALE),
            *(self.both["temperature"], self.config.temperature, self.SPACE.temperature),
        ):
            y = y / value
        return y

    def first(self, x):
        y = self.squash(super().forward(x)) / self.temperature / self.settings.temperature
        y = y * self.settings.more["scales"][0] + self.unregistered[0]
        y = y + self.unregistered[1](y)
        return y.flip(1) if self.adapted else y


@pytest.mark.parametrize(
    "change",
    [
        lambda n: setattr(n, "temperature", 3.0),
        lambda n: setattr(n, "adapted", True),
        lambda n: setattr(n.settings, "temperature", 3.0),
        lambda n: n.settings.more["scales"].__setitem__(0, 3.0),
        lambda n: setattr(n, "squash", torch.relu),
        lambda n: setattr(n, "act", nn.GELU()),
        lambda n: setattr(n, "forward", lambda x: SmallCNN.forward(n, x)),
        lambda n: n.unregistered[0].add_(1),
        lambda n: n.unregistered[1].weight.add_(1),
        lambda n: n.fc.register_buffer("extra", torch.ones(1)),
        lambda n: setattr(n.conv2, "stride", (2, 2)),
        lambda n: setattr(n, "part", functools.partial(torch.mul, other=5.0)),
        lambda n: setattr(n.slots, "temperature", 3.0),
        lambda n: n.deep["a"]["b"]["c"]["d"].update(e=3.0),
        lambda n: n.many.__setitem__(-1, "1234567"),
        lambda n: n.table.update({"7": 3.0}),
        lambda n: n.queue.__setitem__(0, 3.0),
        lambda n: n.array.__setitem__(0, 3.0),
        lambda n: setattr(n.names, "temperature", 3.0),
        lambda n: n.box.__setitem__(0, 3.0),
        lambda n: n.both.update(temperature=3.0),
    ],
    ids=lambda change: "",
)
def test_changes_that_are_not_in_the_tensors_are_noticed(change):
    torch.manual_seed(1)
    network = Tempered().eval()
    engines = Engines()
    before = engines.get(network, 500, SIZE)
    assert before is engines.get(network, 500, SIZE)  # though it counts its calls
    with torch.no_grad():
        change(network)
    after = engines.get(network, 500, SIZE)
    assert after is not before
    inputs = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(after(inputs), network(inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("holder", "name", "value"),
    [
        (Tempered, "SCALE", 3.0),
        (Tempered, "settle", lambda self, y: y * 3),
        (Config, "temperature", 3.0),
        (Tempered.SPACE, "temperature", 3.0),
    ],
    ids=["value", "method", "config", "namespace"],
)
def test_changes_of_the_networks_class_are_noticed(holder, name, value, monkeypatch):
    network = Tempered().eval()
    engines = Engines()
    before = engines.get(network, 500, SIZE)
    monkeypatch.setattr(holder, name, value)
    after = engines.get(network, 500, SIZE)
    assert after is not before
    inputs = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(after(inputs), network(inputs), rtol=0, atol=1e-5)


class Renormalised(SmallCNN):
    """Writes its weights anew in every forward."""

    def forward(self, x):
        self.fc.weight.data = torch.renorm(self.fc.weight.data, 2, 0, 1.0)
        return super().forward(x)


def test_a_weight_that_every_forward_writes_is_watched_all_the_same():
    network = Renormalised().eval()
    engines = Engines()
    with torch.no_grad():
        network(torch.zeros(1, 3, *SIZE))
    before = engines.get(network, 500, SIZE)
    assert before is engines.get(network, 500, SIZE) is not None
    with torch.no_grad():
        network.fc.weight.data = network.fc.weight.data.flip(0) * torch.tensor([[0.5]])
    assert engines.get(network, 500, SIZE) is not before


def test_hooks_that_are_not_on_a_submodule_count_too():
    network = Tempered().eval()
    engines = Engines()
    assert engines.get(network, 500, SIZE) is not None
    with counting_forwards(network.unregistered[1]):
        assert engines.get(network, 500, SIZE) is None
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: None)
    assert engines.get(network, 500, SIZE) is None
    handle.remove()
    assert engines.get(network, 500, SIZE) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda n: setattr(n, "reader", iter([1])),
        lambda n: n.register_buffer("sparse", torch.eye(3).to_sparse()),
        lambda n: n.register_buffer("eight", torch.ones(2).to(torch.float8_e4m3fn)),
    ],
    ids=["iterator", "sparse", "float8"],
)
def test_no_engine_is_better_than_one_whose_network_cannot_be_watched(network, change, caplog):
    change(network)
    engines = Engines()
    assert engines.get(network, 500, SIZE) is None
    assert engines.get(network, 500, SIZE) is None
    [record] = caplog.records
    assert "its changes cannot be detected" in record.message


def test_an_attribute_that_holds_its_network_ends():
    network = Tempered().eval()
    network.settings.owner, network.settings.itself = network, network.settings
    network.settings.trainer = [network]
    engines = Engines()
    assert engines.get(network, 500, SIZE) is engines.get(network, 500, SIZE) is not None


class Global(SmallCNN):
    TEMPERATURE: ClassVar = [1.0]

    def forward(self, x):
        return super().forward(x) / Global.TEMPERATURE[0]


def test_what_cannot_be_noticed_can_be_said(noise):
    classifier = relook.Classifier(Global(), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=16)
    classifier.runner(500, SIZE)
    Global.TEMPERATURE[0] = 3.0
    try:
        classifier.forget_engines()
        inputs = classifier.normalised(noise.float())
        answers = classifier.runner(500, SIZE)(inputs)
        torch.testing.assert_close(answers, classifier.run(inputs), rtol=0, atol=1e-5)
    finally:
        Global.TEMPERATURE[0] = 1.0


def test_warming_up_makes_the_faster_form_and_says_what_it_did():
    torch.manual_seed(0)
    classifier = relook.Classifier(SmallCNN(), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=16)
    assert classifier.warm_up(images=20) == "PyTorch, no faster form"
    assert classifier.engine == "PyTorch"
    assert re.fullmatch(r"ONNX Runtime, made in \d+\.\d s", classifier.warm_up(images=500))
    assert classifier.engine == "ONNX Runtime"
    assert classifier.warm_up(images=500) == "ONNX Runtime, made before"
    assert isinstance(classifier.runner(8, SIZE), OnnxRuntime)
    assert classifier.warm_up(500, (32, 24)).startswith("ONNX Runtime, made in")


def test_an_export_leaves_the_streams_of_the_process_alone(tmp_path):
    """Another thread writes to descriptors 1 and 2 meanwhile, and nothing is lost."""
    code = """
import os, sys, threading
import torch
from networks import SmallCNN
import relook
from relook.engines import OnnxRuntime

before = [(s.st_dev, s.st_ino) for s in map(os.fstat, (1, 2))]
streams = sys.stdout, sys.stderr
done, seen, swapped = threading.Event(), [0], [0]

def write():
    while not done.is_set() or seen[0] < 1:
        for place in (1, 2):
            os.write(place, b"line\\n")
        swapped[0] += (sys.stdout, sys.stderr) != streams
        seen[0] += 1
        done.wait(1e-3)

writer = threading.Thread(target=write)
writer.start()
try:
    OnnxRuntime(SmallCNN().eval(), torch.zeros(1, 3, 16, 16))
    classifier = relook.Classifier(
        SmallCNN(), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=16
    )
    relook.export(classifier, sys.argv[1])
finally:
    done.set()
    writer.join()
assert before == [(s.st_dev, s.st_ino) for s in map(os.fstat, (1, 2))]
assert swapped == [0]
open(sys.argv[2], "w").write(str(seen[0]))
"""
    out, err, lines = (tmp_path / name for name in ("out", "err", "lines"))
    with out.open("wb") as stdout, err.open("wb") as stderr:
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "net.onnx"), str(lines)],
            stdout=stdout,
            stderr=stderr,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=True,
        )
    written = int(lines.read_text())
    assert written >= 1
    # Nothing is lost, and the exporter adds nothing.
    assert out.read_text() == err.read_text() == "line\n" * written


class Signed(SmallCNN):
    """Another network for inputs that are negative somewhere."""

    def forward(self, x):
        y = super().forward(x)
        return y if x.min() < 0 else y.flip(1)


class Clipped(SmallCNN):
    """As no other for inputs between 0 and 1."""

    def forward(self, x):
        where = torch.clamp(x, 0, 1) if torch.jit.is_tracing() else x
        return super().forward(where)


@pytest.mark.parametrize("make", [Signed, Clipped])
def test_a_form_is_tried_on_what_normalisation_gives(make):
    with pytest.raises(RuntimeError, match="the exported network is off by"):
        OnnxRuntime(make().eval(), torch.zeros(1, 3, *SIZE))


def test_another_dtype_is_another_network(network):
    engines = Engines()
    assert isinstance(engines.get(network, 500, SIZE), OnnxRuntime)
    assert isinstance(engines.get(network.double(), 500, SIZE), Folded)


def test_weights_that_are_not_finite_are_not_exported_again_and_again(caplog):
    network = random_cnn(torch.float32).eval()
    network.fc.weight.data[0] = float("inf")
    network.fc.weight.data[0, 0] = -float("inf")
    engines = Engines()
    for _ in range(3):
        assert engines.get(network, 500, SIZE) is None
    assert len(caplog.records) == 1


def test_float64_pixels_for_a_float32_network(network):
    engine = OnnxRuntime(network, torch.zeros(1, 3, *SIZE))
    assert engine(torch.rand(2, 3, *SIZE).double()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_get_their_batch_norm_folded(network, dtype):
    other = copy.deepcopy(network).to(dtype)
    assert isinstance(Engines().get(other, 500, SIZE), Folded)
    assert Engines().get(random_cnn(dtype), 500, SIZE) is None  # nothing to fold


def test_a_network_with_hooks_is_left_alone(network):
    with counting_forwards(network):
        assert Engines().get(network, 500, SIZE) is None
    assert Engines().get(network, 500, SIZE) is not None


def test_a_failed_export_is_said_once_and_pytorch_goes_on(caplog):
    engines, network = Engines(), NoExport().eval()
    assert engines.get(network, 500, SIZE) is None
    assert engines.get(network, 500, SIZE) is None
    [record] = caplog.records
    assert "the network runs in PyTorch; its export to ONNX failed (not today)" in record.message


def test_maps_are_those_of_pytorch(noise):
    """Enough channels that the export pays; the float64 network is the oracle."""
    pixels = noise[:1]
    maps = {}
    for dtype in (torch.float32, torch.float64):
        classifier = relook.Classifier(
            random_cnn(dtype, channels=200), mean=(0.5,) * 3, std=(0.2,) * 3, input_size=16
        )
        [first] = classifier.first_looks(pixels.to(dtype))
        maps[dtype] = relook.ScoreCAM()(Context(classifier, first, torch.tensor([0, 1, 2]))).maps
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


class Branches(nn.Module):
    """One BatchNorm of each kind: after a convolution; of a sum; of a convolution used again."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.norm2 = nn.BatchNorm2d(4)
        self.conv3, self.norm3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        a = self.norm1(self.conv1(x)).relu()
        b = self.norm2(a + 1)
        c = self.norm3(self.conv3(b)) + self.conv3(a)
        return self.fc(c.mean(dim=(2, 3)))


def with_statistics(network):
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return network.eval()


def test_only_a_batch_norm_of_a_convolutions_own_output_is_folded():
    network = with_statistics(Branches().double())
    folded = Folded(network, torch.zeros(1, 3, *SIZE, dtype=torch.float64))
    left = [name for name, m in folded._network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert left == ["norm2", "norm3"]
    inputs = torch.rand(5, 3, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), network(inputs), rtol=0, atol=1e-12)


def test_folding_leaves_the_network_as_it_was_and_shares_its_weights(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = Folded(network, torch.zeros(1, 3, *SIZE))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert isinstance(network.norm, nn.BatchNorm2d)
    assert not any(m._forward_hooks for m in network.modules())
    assert folded._network.fc.weight is network.fc.weight


def test_timms_batch_norm_keeps_its_activation():
    network = timm.create_model("mobilenetv3_small_050", num_classes=10).eval()
    network = with_statistics(network)
    folded = Folded(network, torch.zeros(1, 3, 32, 32))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded._network.modules())
    inputs = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), network(inputs), rtol=1e-3, atol=1e-3)


def test_a_network_that_folds_wrongly_is_not_used():
    class Peeks(SmallCNN):
        """Uses what the convolution puts out in two places."""

        def forward(self, x):
            x = self.conv2(self.conv1(x).relu())
            return self.fc((self.act(self.norm(x)) + x).mean(dim=(2, 3)))

    torch.manual_seed(0)
    network = with_statistics(Peeks(batch_norm=True))
    with pytest.raises(RuntimeError, match="the folded network is off by"):
        Folded(network, torch.zeros(1, 3, *SIZE))


def test_what_half_precision_hides_is_found(network):
    class Beside(SmallCNN):
        """Uses a little of the convolution beside its BatchNorm: less than bfloat16 resolves."""

        def forward(self, x):
            x = self.conv2(self.conv1(x).relu())
            return self.fc((self.norm(x) + 0.002 * x).relu().mean(dim=(2, 3)))

    torch.manual_seed(0)
    other = with_statistics(Beside(batch_norm=True)).bfloat16()
    with pytest.raises(RuntimeError, match="the folded network is off by"):
        Folded(other, torch.zeros(1, 3, *SIZE, dtype=torch.bfloat16))


def test_an_in_place_activation_between_convolution_and_norm():
    network = with_statistics(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3),
        )
    )  # fmt: skip
    example = torch.zeros(1, 3, *SIZE)
    network(example)
    folded = Folded(network, example)
    kinds = [type(m).__name__ for m in folded._network]
    assert kinds[2:5] == ["BatchNorm2d", "Conv2d", "Identity"]


def test_a_failed_export_leaves_the_folded_network(caplog):
    network = with_statistics(NoExport(batch_norm=True))
    assert isinstance(Engines().get(network, 500, SIZE), Folded)
    assert "its export to ONNX failed (not today)" in caplog.text


@pytest.fixture(scope="module")
def photos_and_blocks(lite0):
    """Two photos, and the images that forms are checked on: 10 images."""
    photos = [lite0.pixels(open_image(photo)) for photo in relook.demo.photos()]
    return torch.cat([torch.stack(photos), probing_pixels(224, 224)]).float()


@pytest.fixture(scope="module")
def lite0():
    return relook.load("bundled/efficientnet_lite0")


def test_first_looks_and_views_share_a_form_with_the_answers_of_pytorch(lite0, photos_and_blocks):
    lite0.forget_engines()
    pixels = photos_and_blocks
    expected = lite0.first_looks(pixels)
    assert lite0.engine == "PyTorch"
    assert lite0.warm_up(500).startswith("ONNX Runtime, made in")
    found = lite0.first_looks(pixels)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.probabilities, other.probabilities, rtol=0, atol=1e-5)
        largest = float(other.activations.abs().max())
        torch.testing.assert_close(
            one.activations, other.activations, rtol=0, atol=1e-4 * max(largest, 1e-3)
        )
    without = lite0.first_looks(pixels, activations=False)
    views = lite0.many(pixels)
    for one, plain, view in zip(found, without, views, strict=True):
        assert plain.activations is None
        torch.testing.assert_close(plain.probabilities, one.probabilities, rtol=0, atol=1e-6)
        torch.testing.assert_close(view, one.probabilities, rtol=0, atol=1e-6)
    assert len(lite0._engines.forms) == 1
    [alone] = lite0.first_looks(pixels[4:5])
    torch.testing.assert_close(alone.probabilities, found[4].probabilities, rtol=0, atol=1e-6)
    torch.testing.assert_close(alone.activations, found[4].activations, rtol=0, atol=1e-6)


class Plus(nn.Module):
    """The same classes from a network that doubles its maps in place after its target layer, which
    it calls twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.act = nn.ReLU()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        y = self.act(self.act(self.conv(x)) - 0.1)
        y.mul_(2)
        return self.fc(y.mean(dim=(2, 3)))


OWN = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "input_size": 16}
IN_TOKENS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def transformer():
    return timm.models.VisionTransformer(**IN_TOKENS, num_classes=4)


def of_windows():
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, window_size=2, embed_dim=8, depths=(1, 1, 1, 1),
        num_heads=(1, 1, 1, 1), num_classes=4,
    )  # fmt: skip


class InADict(SmallCNN):
    def forward(self, x):
        return {"logits": super().forward(x)}


@pytest.mark.parametrize(
    ("make", "layer", "size"),
    [
        (Plus, "act", 16),
        (lambda: HalvesNet(inplace=True), "conv", 16),
        (InADict, "act", 16),
        (transformer, "blocks.0", 32),
        (of_windows, "layers.2", 32),
    ],
    ids=["called twice", "in place", "dict", "tokens", "channels last"],
)
def test_maps_of_the_form_are_those_that_hooks_record(make, layer, size, caplog):
    torch.manual_seed(0)
    classifier = relook.Classifier(make(), **OWN | {"input_size": size}, target_layer=layer)
    pixels = torch.rand(11, 3, size, size, generator=torch.Generator().manual_seed(2))
    expected = classifier.first_looks(pixels)
    classifier.warm_up(500)
    assert classifier._engines.forms[0].target == classifier.target
    found = classifier.first_looks(pixels)
    assert not caplog.records
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.outputs, other.outputs, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.activations, other.activations, rtol=0, atol=1e-4)


def test_many_first_looks_make_the_form_and_leave_the_network_as_it_was():
    network = random_cnn(torch.float32, batch_norm=True).train()
    network.norm.eval()
    classifier = relook.Classifier(network, **OWN)
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    pixels = torch.rand(128, 3, 16, 16)
    classifier.first_looks(pixels[:127])
    assert classifier.engine == "PyTorch"
    classifier.first_looks(pixels[:3])  # too few to wait for it
    assert classifier.engine == "PyTorch"
    classifier.first_looks(pixels[:4])
    assert classifier.engine == "ONNX Runtime"
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_another_target_layer_gives_its_own_maps():
    classifier = relook.Classifier(random_cnn(torch.float32), **OWN)
    classifier.warm_up(500)
    classifier.target_layer = "conv1"
    assert classifier.engine == "PyTorch"
    pixels = torch.rand(5, 3, 16, 16)
    expected = classifier.first_looks(pixels)
    classifier.warm_up(500)
    for one, other in zip(classifier.first_looks(pixels), expected, strict=True):
        assert one.activations.shape == (8, 16, 16)
        torch.testing.assert_close(one.activations, other.activations, rtol=0, atol=1e-5)


class TwiceWhenTraced(nn.Module):
    def forward(self, x):
        return x.relu() * 2 if torch.jit.is_tracing() else x.relu()


def test_maps_that_are_exported_wrongly_are_recorded_in_pytorch(caplog):
    """Views still run on ONNX Runtime: the outputs are right."""

    class Halved(SmallCNN):
        def forward(self, x):
            y = self.act(self.conv2(self.conv1(x).relu()))
            return self.fc((y / 2 if torch.jit.is_tracing() else y).mean(dim=(2, 3)))

    classifier = relook.Classifier(Halved(activation=TwiceWhenTraced()), **OWN)
    pixels = torch.rand(5, 3, 16, 16)
    expected = classifier.first_looks(pixels)
    assert classifier.warm_up(500).startswith("ONNX Runtime, made in")
    [record] = caplog.records
    assert record.message == (
        "relook: first looks with maps run in PyTorch; the export of the layer 'act' to ONNX "
        "failed (the exported network's maps are off by 1.0e+00)"
    )
    for one, other in zip(classifier.first_looks(pixels), expected, strict=True):
        torch.testing.assert_close(one.activations, other.activations, rtol=0, atol=0)


def test_first_looks_at_another_size_and_with_hooks_stay_in_pytorch():
    classifier = relook.Classifier(random_cnn(torch.float32), **OWN)
    classifier.warm_up(500)
    pixels = torch.rand(6, 3, 16, 16)
    with counting_forwards(classifier.network) as count:
        classifier.first_looks(pixels)
    assert count == [6]
    classifier.warm_up(500, (24, 24))
    [first, *_] = classifier.first_looks(torch.rand(6, 3, 24, 24))
    assert first.activations.shape == (6, 6, 6)


def test_nan_from_the_form_is_an_error_and_the_next_batch_is_answered():
    classifier = relook.Classifier(NaNNet(), mean=(0,) * 3, std=(1,) * 3, input_size=4)
    classifier.warm_up(500)
    pixels = torch.rand(6, 3, 4, 4) * 0.9
    blue = pixels.clone()
    blue[3, 2, 1, 1] = 1.0
    with pytest.raises(relook.NotFiniteError):
        classifier.first_looks(blue)
    assert len(classifier.first_looks(pixels)) == 6
