"""Class names in all accepted forms, or none; and text in all accepted encodings."""

from __future__ import annotations

import json

import numpy as np
import pytest

import relook
from networks import HalvesNet
from relook.errors import ModelError, RelookError
from relook.labels import ClassIndices, class_labels, read_labels
from relook.models.export import export
from relook.record import Record
from relook.text import readable


def halves(labels=None):
    return relook.Classifier(
        HalvesNet(), mean=(0, 0, 0), std=(1, 1, 1), input_size=4, labels=labels
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["red", "green"], ("red", "green")),
        ({0: "red", 1: "green"}, ("red", "green")),
        ({"1": "green", "0": "red"}, ("red", "green")),
        ({"green": 1, "red": 0}, ("red", "green")),
        ({"green": "1", "red": "0"}, ("red", "green")),
        ({"label2id": {"green": 1, "red": 0}, "architecture": "resnet"}, ("red", "green")),
        ({"id2label": {"0": "red", "1": "green"}, "label2id": {"LABEL_0": 0}}, ("red", "green")),
        ([3, 4.0], ("3", "4")),
        (range(2), ("0", "1")),
        (np.array(["red", "green"]), ("red", "green")),
        ({0: 0, 1: 1}, ("0", "1")),
    ],
)
def test_names_in_the_order_of_the_classes(labels, expected):
    assert class_labels(labels) == expected
    assert halves(labels).labels == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("red", "not one string"),
        ({"red", "green"}, "a set has no order"),
        ({1: "red", 2: "green"}, "must have the class indices 0 to 1, each once"),
        ({0: "red", 2: "green"}, "must have the class indices 0 to 1, each once"),
        ({"red": 0, "green": 0}, "must have the class indices 0 to 1, each once"),
        ({"0": 1, "1": 2, "2": 0}, "can be read in two ways"),
        ([{"name": "red"}, {"name": "green"}], "names, one per class; dict is not a name"),
        (["red", None], "NoneType is not a name"),
        (["red", float("nan")], "NaN is not a name"),
    ],
)
def test_what_is_no_list_of_names(labels, message):
    with pytest.raises(ModelError, match=message):
        class_labels(labels)


def test_a_network_knows_whether_its_classes_were_named(tmp_path):
    assert halves().labels == ("0", "1")
    assert isinstance(halves().labels, ClassIndices)
    assert not halves().labels_given
    assert halves(["0", "1"]).labels_given
    assert relook.load("networks:make_torn", labels=["0", "1", "2", "3"]).labels_given
    assert not relook.load("networks:make_torn").labels_given
    for name, labels in (("unnamed", None), ("named", ["0", "1"])):
        export(halves(labels), tmp_path / f"{name}.onnx")
        assert relook.load(tmp_path / f"{name}.onnx").labels_given == (labels is not None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "café\nred dog\n\n"),
        ("labels.json", json.dumps(["café", "red dog"], ensure_ascii=False)),
        ("id2label.json", '{"0": "café", "1": "red dog"}'),
        ("label2id.JSON", '{"red dog": 1, "café": 0}'),
        ("config.json", '{"id2label": {"1": "red dog", "0": "café"}}'),
    ],
)
def test_label_files(tmp_path, name, text, encoding):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read_labels(tmp_path / name) == ("café", "red dog")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.txt", "café\n".encode("latin-1"), r"labels.txt: is not UTF-8 .*iconv -f CP1252"),
        ("labels.json", b'{"1": "a", "2": "b"}', "must have the class indices 0 to 1, each once"),
        ("labels.json", b'"red"', "must be a JSON list of names, or a dict"),
        ("labels.json", b"[1", "cannot be read as labels"),
    ],
)
def test_label_files_that_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RelookError, match=message):
        read_labels(tmp_path / name)


def test_numbers_in_a_label_file_are_names(tmp_path):
    (tmp_path / "labels.json").write_text("[10, 20]")
    assert read_labels(tmp_path / "labels.json") == ("10", "20")


def test_a_dict_beside_an_onnx_file(tmp_path):
    (tmp_path / "net.json").write_text('{"labels": {"green": 1, "red": 0}}')
    assert Record.read(tmp_path / "net.onnx").labels == ("red", "green")


def test_readable_names_are_utf8_and_no_two_the_same():
    names = ["é.png", "\udce9.png", "\\xe9.png", "\\\udce9.png", "a\\b.png", "\ud800.png", "🦊"]
    shown = [readable(name) for name in names]
    assert shown[:3] == ["é.png", "\\xe9.png", "\\\\xe9.png"]
    assert shown[4] == "a\\b.png"
    assert len({name.encode() for name in shown}) == len(names)
