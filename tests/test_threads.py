"""One classifier, one corrector, many threads: the answers are those of one thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import relook
from networks import SmallCNN, random_cnn
from relook.attribution import Context
from relook.layers import exclusive

THREADS = 8
OWN = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "input_size": 16}


class Regularised(SmallCNN):
    """BatchNorm and dropout: in train mode its answers are others."""

    def forward(self, x):
        x = self.act(self.norm(self.conv2(self.conv1(x).relu())))
        return self.fc(nn.functional.dropout(x, 0.5, self.training).mean(dim=(2, 3)))


@pytest.fixture
def often():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(ask, images, calls):
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda call: ask(images[call % len(images)]), range(calls)))


@pytest.fixture
def images():
    return torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def in_train_mode(tmp_path):
    torch.manual_seed(0)
    network = Regularised(batch_norm=True)
    with torch.no_grad():
        network.fc.weight.mul_(8)
    network.train()
    network.norm.eval()  # as where a part is frozen
    return relook.Classifier(network, **OWN)


def as_onnx(tmp_path):
    file = tmp_path / "net.onnx"
    relook.export(relook.Classifier(random_cnn(torch.float32), **OWN), file)
    return relook.load(file)


@pytest.mark.parametrize("make", [in_train_mode, as_onnx])
@pytest.mark.parametrize(
    ("look", "calls"), [("poster", 200), pytest.param("best", 1000, marks=pytest.mark.slow)]
)
def test_threads_get_the_answers_of_one_thread(make, look, calls, images, tmp_path, often):
    classifier = make(tmp_path)
    flags = [module.training for module in classifier.network.modules()]
    corrector = relook.Corrector(classifier, k=2, gate="none", look=look)
    expected = [corrector(image[None]) for image in images]
    answers = in_threads(lambda image: corrector(image[None]), images, calls)
    for call, answer in enumerate(answers):
        torch.testing.assert_close(answer, expected[call % len(images)], rtol=0, atol=1e-5)
    assert [module.training for module in classifier.network.modules()] == flags
    assert not any(module._forward_hooks for module in classifier.network.modules())


def test_maps_and_gradients_in_threads(images, tmp_path, often):
    """Hooks of one thread see nothing of another's image."""
    classifier = in_train_mode(tmp_path)
    classes = torch.tensor([0, 1])

    def ask(image):
        [first] = classifier.first_looks(image[None])
        return first.activations, relook.GradCAM()(Context(classifier, first, classes)).maps

    expected = [ask(image) for image in images]
    for call, (activations, maps) in enumerate(in_threads(ask, images, 200)):
        own = expected[call % len(images)]
        torch.testing.assert_close(activations, own[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(maps, own[1], rtol=0, atol=1e-4)


def test_engines_made_in_threads(images, often):
    """Faster forms of several networks are made at once, while others answer."""
    classifiers = [
        relook.Classifier(random_cnn(torch.float32, seed, channels=150), **OWN) for seed in range(4)
    ]
    correctors = [relook.Corrector(classifier, k=2) for classifier in classifiers]
    oracles = [
        relook.Corrector(
            relook.Classifier(random_cnn(torch.float64, seed, channels=150), **OWN), k=2
        )
        for seed in range(4)
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda i: correctors[i % 4](images[i : i + 1]), range(16)))
    assert {classifier.engine for classifier in classifiers} == {"ONNX Runtime"}
    for i, answer in enumerate(answers):
        expected = oracles[i % 4](images[i : i + 1].double())
        torch.testing.assert_close(answer.double(), expected, rtol=0, atol=1e-4)


class Temperature(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.5))
        self.inner = inner

    def forward(self, x):
        return self.inner(x) / self.temperature


class Ensemble(nn.Module):
    def __init__(self, *members):
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x):
        return sum(member(x) for member in self.members)


@pytest.mark.slow
def test_classifiers_that_share_modules_in_threads(images, tmp_path, often):
    """A network, a temperature around it, the same with a softmax behind it, an ensemble of two."""
    own, other = (in_train_mode(tmp_path).network for _ in range(2))
    behind = nn.Sequential(own, nn.Softmax(dim=1))
    networks = [own, Temperature(own), Ensemble(own, other), other]
    classifiers = [relook.Classifier(network.train(), **OWN) for network in networks]
    classifiers.append(relook.Classifier(behind.train(), **OWN, outputs="probabilities"))
    correctors = [relook.Corrector(c, k=2, gate="none", look="best") for c in classifiers]
    expected = [torch.cat([c(image[None]) for image in images[:4]]) for c in correctors]
    with ThreadPoolExecutor(THREADS) as pool:
        answers = pool.map(lambda i: correctors[i % 5](images[i % 4][None])[0], range(400))
        for i, answer in enumerate(answers):
            torch.testing.assert_close(answer, expected[i % 5][i % 4], rtol=0, atol=1e-5)
    assert all(module.training for network in networks for module in network.modules())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_that_is_forked_while_a_thread_is_at_work():
    """The lock that the thread holds is nobody's in the child."""
    held, done = threading.Event(), threading.Event()

    def hold():
        with exclusive():
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        free = exclusive().acquire(timeout=5)
        os._exit(0 if free else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done.set()
    thread.join()
    assert status == 0


EXPORTS = """
import sys, threading
sys.path.insert(0, "tests")
import torch
from networks import SmallCNN
from relook.engines import Engines

class Odd(SmallCNN):
    def forward(self, x):
        return torch.special.bessel_j0(super().forward(x))

stop = threading.Event()
def chatter():
    count = 0
    while not stop.is_set() or count < 500:
        print("said", flush=True)
        count += 1
    print(count, flush=True)
thread = threading.Thread(target=chatter)
thread.start()
engine = Engines().get(Odd().eval(), 500, (16, 16))
stop.set()
thread.join()
print(engine)
"""


def test_an_export_leaves_the_standard_output_of_the_process_alone():
    """A failed one too, of which PyTorch's exporter would print the whole graph."""
    root = os.path.dirname(os.path.dirname(__file__))
    done = subprocess.run(
        [sys.executable, "-c", EXPORTS], capture_output=True, text=True, cwd=root, check=True
    )
    *said, count, engine = done.stdout.splitlines()
    assert said == ["said"] * int(count)
    assert engine == "None"
    assert "graph(" not in done.stderr
    assert "its export to ONNX failed" in done.stderr
