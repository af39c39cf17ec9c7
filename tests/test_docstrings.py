"""Every public class and function has an example in its docstring, and the examples run as written.

Public is what relook and its packages list in `__all__`. The examples of one docstring run in order,
in a folder with

- photo.jpg, and photos/, which holds a folder of images for each of two classes;
- scenes/, small images of three colours in train/ and test/, trained/, a MultiCAM of a toy network
  that was trained on them, and compared/, its comparison.

They find `relook`, `torch`, `classifier` (the bundled network) and `corrector` (it looks again at
the mirror image).
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import shutil
from pathlib import Path

import pytest
import torch

import relook
from networks import write_scenes
from relook.demo import photos
from relook.multicam import compare, load_trained, train_multicam, unseen_images


def public() -> dict[str, object]:
    """Classes and functions by the shortest name that they are public under."""
    packages = ["relook", *(f"relook.{m.name}" for m in pkgutil.iter_modules(relook.__path__))]
    found: dict[int, tuple[str, object]] = {}
    for package in packages:
        if package == "relook.__main__":
            continue
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                found.setdefault(id(thing), (f"{package}.{name}", thing))
    return dict(sorted(found.values(), key=lambda named: named[0]))


def examples(thing: object, name: str) -> list[doctest.DocTest]:
    """Of a class with its methods, or of a function."""
    thing = inspect.unwrap(thing) if inspect.isfunction(thing) else thing
    return [test for test in doctest.DocTestFinder().find(thing, name) if test.examples]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("examples")
    chelsea, _, coffee, _ = photos()
    relook.images.open_image(chelsea).save(root / "photo.jpg", quality=95)
    for label, photo in (("Egyptian cat", chelsea), ("espresso", coffee)):
        (root / "photos" / label).mkdir(parents=True)
        shutil.copy(photo, root / "photos" / label)
    write_scenes(root / "scenes")
    toy = {"load": relook.load, "backbone": "networks:make_grey", "epochs": 2}
    train_multicam(root / "scenes", root / "trained", **toy)
    trained = load_trained(root / "trained", load=relook.load)
    images = unseen_images(trained.training, root / "scenes")
    compare(trained, images, root / "compared", budget="fast")
    return root


@pytest.fixture(scope="module")
def names(lite0) -> dict[str, object]:
    corrector = relook.Corrector(lite0, look="flip")
    return {"relook": relook, "torch": torch, "classifier": lite0, "corrector": corrector}


@pytest.mark.parametrize("name", public())
def test_public_things_have_an_example_that_runs(name, folder, names, monkeypatch, tmp_path):
    thing = public()[name]
    own = [test for test in examples(thing, name) if test.name == name]
    assert own, f"the docstring of {name} has no example"
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for test in examples(thing, name):
        test.globs = dict(names)
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert runner.run(test, out=report.append).failed == 0, "".join(report)


def test_what_is_no_public_name_is_not_asked_for():
    assert "relook.Corrector" in public()
    assert not any(name.rpartition(".")[2].startswith("_") for name in public())
