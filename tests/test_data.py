"""Labelled data: folders and tables, and their names matched to the classes."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet
import pytest

from relook.evaluation import DataError, read_data
from relook.imagenet import imagenet_labels

PETS = ["cat", "dog", "guinea pig"]


def folders(root, *names, files=("a.png", "b.JPG")):
    for name in names:
        (root / name).mkdir(parents=True)
        for file in files:
            (root / name / file).touch()
    return root


def labels_of(data):
    return {image.name: image.label for image in data.images}


def test_class_folders_by_label_whatever_the_case(tmp_path):
    data = read_data(folders(tmp_path, "Guinea_Pig", "cat"), PETS)
    assert labels_of(data) == {
        "Guinea_Pig/a.png": 2,
        "Guinea_Pig/b.JPG": 2,
        "cat/a.png": 0,
        "cat/b.JPG": 0,
    }
    assert data.matched == "by label"
    assert data.images[0].path == tmp_path / "Guinea_Pig" / "a.png"


def test_other_files_and_hidden_ones_are_no_images(tmp_path):
    folders(tmp_path, "cat", files=("a.png", "notes.txt", ".b.png"))
    folders(tmp_path, ".git")
    (tmp_path / "cat" / "more").mkdir()
    (tmp_path / "cat" / "more" / "c.webp").touch()
    (tmp_path / "labels.csv").touch()
    assert [i.name for i in read_data(tmp_path, PETS).images] == ["cat/a.png", "cat/more/c.webp"]


@pytest.mark.parametrize(
    ("names", "matched", "expected"),
    [
        (("n01443537", "n02123045"), "by synset id", [1, 281]),
        (("tench", "tabby"), "by label", [0, 281]),
        (("281", "0007"), "by class index", [7, 281]),
    ],
)
def test_imagenet_by_label_synset_or_index(tmp_path, names, matched, expected):
    data = read_data(folders(tmp_path, *names, files=("a.png",)), imagenet_labels())
    assert data.matched == matched
    assert sorted(image.label for image in data.images) == expected


def test_sorted_order_where_the_counts_agree(tmp_path):
    data = read_data(folders(tmp_path, "z", "x", "y", files=("a.png",)), PETS)
    assert labels_of(data) == {"x/a.png": 0, "y/a.png": 1, "z/a.png": 2}
    assert data.matched == "in sorted order"


def test_numbers_sort_as_numbers(tmp_path):
    labels = [f"class {i}" for i in range(11)]
    data = read_data(folders(tmp_path, *map(str, range(1, 12)), files=("a.png",)), labels)
    assert labels_of(data)["2/a.png"] == 1
    assert labels_of(data)["11/a.png"] == 10


def test_a_label_of_two_classes_names_neither(tmp_path):
    with pytest.raises(DataError, match="1 of them fit the model's labels; these do not: crane"):
        read_data(folders(tmp_path, "crane", "heron"), ["crane", "crane", "heron"])


def test_names_that_do_not_match_show_both_lists(tmp_path):
    with pytest.raises(DataError) as error:
        read_data(folders(tmp_path, "cat", "horse"), PETS)
    assert "these do not: horse. The model has: cat, dog, guinea pig." in str(error.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("labels", "matched"), [(["dog", "cat"], "by label"), (["1", "0"], "by class index")]
)
def test_tables(tmp_path, kind, labels, matched):
    table = pyarrow.table({"image": ["x/a.png", "b.png"], "label": labels, "author": ["A", "B"]})
    file = tmp_path / f"labels.{kind}"
    if kind == "csv":
        file.write_text(
            "\n".join(
                [
                    "image,label,author",
                    *map(",".join, zip(*table.to_pydict().values(), strict=True)),
                ]
            )
        )
    else:
        pyarrow.parquet.write_table(table, file)
    data = read_data(file, PETS)
    assert labels_of(data) == {"x/a.png": 1, "b.png": 0}
    assert data.matched == matched
    assert data.images[0].path == tmp_path / "x" / "a.png"


def test_a_parquet_table_with_integers(tmp_path):
    table = pyarrow.table({"image": ["a.png"], "label": pyarrow.array([2], pyarrow.int64())})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert labels_of(read_data(tmp_path / "t.parquet", PETS)) == {"a.png": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,class\na.png,0\n", "has no column label, but image, class"),
        ("image,label\n", "has no rows"),
        ("image,label\na.png,\n", "row 2 lacks its image or its label"),
        ("image,label\na.png,0\na.png,1\n", "a.png is there twice"),
        (
            "image,label\na.png,0\nb.png,7\n",
            "1 of them fit the model's class indices; these do not: 7",
        ),
        ("image,label\na.png\n", "cannot be read as a table"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_data(tmp_path / "t.csv", PETS)


def test_what_is_no_data(tmp_path):
    with pytest.raises(DataError, match="there is no such folder or table"):
        read_data(tmp_path / "nowhere", PETS)
    with pytest.raises(DataError, match="it holds no folders"):
        read_data(tmp_path, PETS)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="none of its 1 folders holds an image"):
        read_data(tmp_path, PETS)
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="neither a folder of class folders nor a table"):
        read_data(tmp_path / "a.png", PETS)


def test_one_mistyped_label_is_named_alone(tmp_path):
    lines = ["image,label", *(f"{i}.png,{i}" for i in range(40)), "x.png,tabby catt"]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as raised:
        read_data(tmp_path / "t.csv", imagenet_labels())
    assert "40 of them fit the model's class indices; these do not: tabby catt." in str(
        raised.value
    )
    assert "or all by its class indices, or all by its synset ids" in str(raised.value)


def test_names_that_fit_in_part_are_not_taken_in_sorted_order(tmp_path):
    with pytest.raises(DataError, match="2 of them fit the model's labels; these do not: dogg"):
        read_data(folders(tmp_path, "cat", "dogg", "guinea pig"), PETS)
