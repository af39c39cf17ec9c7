"""Labelled data: folders and tables, and their names matched to the classes."""

from __future__ import annotations

import io
import json
import os
import unicodedata

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from relook.errors import ImageError
from relook.evaluation import DataError, class_names, read_data
from relook.imagenet import imagenet_labels
from relook.labels import ClassIndices

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


@pytest.mark.parametrize(
    "labels", [ClassIndices.of(12), [f"class {i}" for i in "abcdefghijkl"]], ids=["none", "names"]
)
def test_folders_that_sort_in_two_ways_are_refused_until_one_is_said(tmp_path, labels):
    """Torchvision's ImageFolder gives 0, 1, 10, 11, 2, … the indices 0, 1, 2, 3, 4, …"""
    folders(tmp_path, *map(str, range(12)), files=("a.png",))
    with pytest.raises(DataError) as raised:
        read_data(tmp_path, labels)
    assert "As strings they are 0, 1, 10, 11, 2 …" in str(raised.value)
    assert "by the numbers in them 0, 1, 2, 3, 4 …" in str(raised.value)
    assert "--class-order string" in str(raised.value)
    string = read_data(tmp_path, labels, "string")
    assert [labels_of(string)[f"{i}/a.png"] for i in (0, 1, 2, 9, 10, 11)] == [0, 1, 4, 11, 2, 3]
    assert string.matched == "in sorted order (string)"
    natural = read_data(tmp_path, labels, order="natural")
    assert [labels_of(natural)[f"{i}/a.png"] for i in range(12)] == list(range(12))


def test_numbers_that_somebody_gave_as_labels_are_names(tmp_path):
    folders(tmp_path, *map(str, range(12)), files=("a.png",))
    labels = ["0", "1", "10", "11", *map(str, range(2, 10))]
    data = read_data(tmp_path, labels)
    assert data.matched == "by label"
    assert [labels_of(data)[f"{i}/a.png"] for i in (2, 10, 11)] == [4, 2, 3]


@pytest.mark.parametrize(
    ("names", "classes", "expected"),
    [
        (map(str, range(10)), 10, range(10)),
        ((f"{i:02}" for i in range(12)), 12, range(12)),
        (("3", "7"), 10, (3, 7)),  # not every class needs images
        (("03", "11"), 12, (3, 11)),
        (map(str, range(1, 10)), 9, range(9)),
    ],
)
def test_numbers_whose_orders_agree_are_in_sorted_order(tmp_path, names, classes, expected):
    data = read_data(folders(tmp_path, *names, files=("a.png",)), ClassIndices.of(classes))
    assert sorted(image.label for image in data.images) == list(expected)
    assert data.matched == "in sorted order"


@pytest.mark.parametrize(
    "odd", ["#N/A", "-", "inf", "?", "<NA>", "NaT", "unknown", "0x2", "1_0", "dog", "٣"]
)
@pytest.mark.parametrize("labels", [ClassIndices.of(3), ["cat", "fox", "owl"]], ids=["none", "own"])
def test_names_among_numbers_are_not_put_in_order_unasked(tmp_path, odd, labels):
    """In sorted order #N/A would be class 0, and 0 class 1."""
    file = write_table(tmp_path / "t.csv", ["0", odd, "1", odd])
    with pytest.raises(DataError) as raised:
        read_data(file, labels)
    assert f"those that are not: {odd!r} (row 3 and 1 more). Correct or remove these" in str(
        raised.value
    )
    found = [image.label for image in read_data(file, labels, "string").images]
    assert found == [sorted(["0", "1", odd]).index(name) for name in ("0", odd, "1", odd)]
    named = read_data(file, ["1", odd, "0"])
    assert [image.label for image in named.images] == [2, 1, 0, 1]
    assert named.matched == "by label"


@pytest.mark.parametrize(
    ("names", "odd"),
    [(("0", "1", "other"), "not: 'other'"), (("cat", "dog", "7"), "those that are: '7'")],
)
def test_folders_of_numbers_and_names_are_not_put_in_order_unasked(tmp_path, names, odd):
    folders(tmp_path, *names[:2], files=("a.png",))
    folders(
        tmp_path, names[2], files=()
    )  # a folder without images counts: it would shift the others
    with pytest.raises(DataError, match=odd):
        read_data(tmp_path, ClassIndices.of(3))
    assert labels_of(read_data(tmp_path, ClassIndices.of(3), "natural")) == {
        f"{name}/a.png": sorted(names).index(name) for name in names[:2]
    }


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("cats", "dogs"), ["dog", "cat"]),
        (("ng", "ok"), ["pass", "defect"]),
        (("cat.", "dog."), ["dog", "cat"]),
    ],
)
def test_labels_that_are_not_sorted_are_not_filled_in_sorted_order(tmp_path, names, labels):
    """The model was trained in another order: cats would be taken for dogs."""
    folders(tmp_path, *names, files=("a.png",))
    with pytest.raises(DataError, match="The model's labels are not in sorted order"):
        read_data(tmp_path, labels)
    assert labels_of(read_data(tmp_path, labels, "string")) == {
        f"{name}/a.png": index for index, name in enumerate(names)
    }


def test_names_that_are_like_other_labels_are_not_put_in_order(tmp_path):
    folders(tmp_path, "1.dog", "2.cat", files=("a.png",))
    with pytest.raises(DataError, match=r"In sorted order 1\.dog would be cat"):
        read_data(tmp_path, ["cat", "dog"])
    assert labels_of(read_data(tmp_path, ["cat", "dog"], "string")) == {
        "1.dog/a.png": 0,
        "2.cat/a.png": 1,
    }


def test_folders_that_count_from_0_mean_the_order_of_the_labels(tmp_path):
    folders(tmp_path, "0", "1", "2", files=("a.png",))
    assert labels_of(read_data(tmp_path, ["none", "mild", "proliferative"])) == {
        f"{i}/a.png": i for i in range(3)
    }


def test_letters_of_full_width_are_the_same_letters(tmp_path):
    folders(tmp_path, "ｃａｔ", "ｄｏｇ", files=("a.png",))
    assert labels_of(read_data(tmp_path, ["dog", "cat"])) == {"ｃａｔ/a.png": 1, "ｄｏｇ/a.png": 0}


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (("00", "01", "02", "03"), ["3", "1", "2", "0"], [3, 1, 2, 0]),
        (("01", "02", "03"), ["0", "1", "2", "3"], [1, 2, 3]),
        (("1.0", "2.0", "3.0"), ["3", "2", "1"], [2, 1, 0]),
        ([f"{i:02}" for i in range(1, 11)], [str(i) for i in range(1, 11)], list(range(10))),
    ],
)
def test_numbers_are_compared_by_value_with_labels_that_are_numbers(
    tmp_path, names, labels, expected
):
    data = read_data(folders(tmp_path, *names, files=("a.png",)), labels)
    assert [image.label for image in data.images] == expected
    assert data.matched == "by label"


def test_folders_of_other_things_are_no_empty_classes(tmp_path):
    """Each would shift the classes that sort after it."""
    folders(tmp_path, "ant", "bee", "dog", "eel", files=("a.png",))
    folders(tmp_path, "__pycache__", files=())
    folders(tmp_path, "annotations", files=("a.xml",))
    with pytest.raises(DataError, match="do not match the model's 5"):
        read_data(tmp_path, ClassIndices.of(5))
    data = read_data(tmp_path, ClassIndices.of(4))
    assert [image.label for image in data.images] == [0, 1, 2, 3]
    folders(tmp_path, "cat", files=())
    data = read_data(tmp_path, ClassIndices.of(5))
    assert [image.label for image in data.images] == [0, 1, 3, 4]
    assert data.matched == "in sorted order, empty folders counted as classes"


def test_classes_that_hold_the_same_folders_can_be_said_to_be_classes(tmp_path):
    for name in ("ng", "ok"):
        folders(tmp_path / name, "monday", "tuesday", files=("a.png",))
    with pytest.raises(DataError, match="or give their order: --class-order"):
        read_data(tmp_path, ClassIndices.of(2))
    found = labels_of(read_data(tmp_path, ClassIndices.of(2), "string"))
    assert {name.split("/")[0]: label for name, label in found.items()} == {"ng": 0, "ok": 1}


def test_one_name_in_two_forms_of_unicode_is_said_to_be_so(tmp_path):
    forms = [unicodedata.normalize(form, "café") for form in ("NFD", "NFC")]
    folders(tmp_path, *forms, files=("a.png",))
    with pytest.raises(DataError, match=r"count as two classes: composed and decomposed Uni"):
        read_data(tmp_path, ["café", "cat"])
    with pytest.raises(DataError, match="occurs in composed and in decomposed Unicode: rename"):
        read_data(tmp_path, ClassIndices.of(2))


def test_names_that_numbers_do_not_reorder_are_in_sorted_order(tmp_path):
    names = ["A-1", "A1", "A1 b", "B_2", "a"]
    data = read_data(folders(tmp_path, *names, files=("a.png",)), ClassIndices.of(5))
    assert [labels_of(data)[f"{name}/a.png"] for name in names] == [0, 1, 2, 3, 4]


def test_some_of_the_numbers_of_an_unnamed_network_need_the_order(tmp_path):
    folders(tmp_path, "3", "7", files=("a.png",))
    with pytest.raises(DataError, match="understood in two ways"):
        read_data(tmp_path, ClassIndices.of(12))
    assert labels_of(read_data(tmp_path, ClassIndices.of(12), "string")) == {
        "3/a.png": 5,
        "7/a.png": 9,
    }


def test_folders_in_decomposed_unicode_are_the_classes_of_composed_labels(tmp_path):
    names = [unicodedata.normalize("NFD", name) for name in ("café", "cafe", "ñandú", "zebra")]
    data = read_data(
        folders(tmp_path, *names, files=("a.png",)), ["zebra", "ñandú", "cafe", "café"]
    )
    assert labels_of(data) == {f"{n}/a.png": c for n, c in zip(names, (3, 2, 1, 0), strict=True)}
    assert data.matched == "by label"
    assert data.pairs[:2] == (
        (names[2], "ñandú"),
        (names[0], "café"),
    )  # different spellings come first


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("cat_1", "cat 1"), ("x-y", "X Y")])
def test_names_that_differ_in_little_are_matched_exactly(tmp_path, one, other):
    data = read_data(folders(tmp_path, one, other, files=("a.png",)), [other, one])
    assert labels_of(data) == {f"{one}/a.png": 1, f"{other}/a.png": 0}


@pytest.mark.parametrize("labels", [["cat-1", "dog"], ["cat-1", "CAT 1"]])
def test_names_that_are_the_same_once_simplified_are_not_guessed(tmp_path, labels):
    """Two folders for one label, and one spelling for two labels."""
    with pytest.raises(DataError, match="None fits: Cat 1, cat_1"):
        read_data(folders(tmp_path, "cat_1", "Cat 1"), labels)


def test_parts_of_a_data_set_are_no_classes(tmp_path):
    for part in ("train", "Validation", "test"):
        folders(tmp_path / part, "cat", "dog", "guinea pig")
    with pytest.raises(DataError, match="Validation/, test/, train/ are parts of a data set") as e:
        read_data(tmp_path, PETS)
    assert f"Pass the one that you mean: {tmp_path / 'Validation'}" in str(e.value)
    with pytest.raises(DataError, match="are parts of a data set"):
        class_names(tmp_path)
    assert len(read_data(tmp_path / "test", PETS)) == 6


@pytest.mark.parametrize(
    ("parts", "first"),
    [
        (("training_set", "test_set"), "test_set"),
        (("seg_train", "seg_test"), "seg_test"),
        (("train2017", "val2017"), "val2017"),
        (("images_train", "images_val"), "images_val"),
        (("TrainImages", "TestImages"), "TestImages"),
        (("fold0", "fold1"), "fold0"),
        (("eval", "hold-out"), "eval"),
        (("2019", "2020"), "2019"),  # recognised by their subfolders alone
        (("left", "right"), "left"),
    ],
)
def test_parts_of_a_data_set_are_known_by_a_word_or_by_what_they_hold(tmp_path, parts, first):
    for part in parts:
        folders(tmp_path / part, "cat", "dog", files=("a.png",))
    folders(tmp_path / parts[0], "fox", files=("a.png",))  # not every part has all classes
    for labels in (ClassIndices.of(2), ["cat", "dog", "fox"], ["cat", "dog"]):
        with pytest.raises(DataError, match="are parts of a data set, not classes") as raised:
            read_data(tmp_path, labels)
        assert f"Pass the one that you mean: {tmp_path / first}." in str(raised.value)
    with pytest.raises(DataError, match="are parts of a data set, not classes"):
        class_names(tmp_path)
    named = read_data(tmp_path, [*reversed(parts)])  # but the model's own names are its classes
    assert labels_of(named)[f"{parts[0]}/cat/a.png"] == 1
    assert named.matched == "by label"


def test_parts_that_share_no_class_are_known_by_a_word(tmp_path):
    folders(tmp_path / "train2017", "cat", "dog")
    folders(tmp_path / "val2017", "fox", "owl")
    with pytest.raises(DataError, match="train2017/, val2017/ are parts of a data set"):
        read_data(tmp_path, ClassIndices.of(2))


@pytest.mark.parametrize("names", [("train2017", "val2017"), ("eval", "holdout")])
def test_parts_without_class_folders_are_not_guessed_to_be_two_classes(tmp_path, names):
    folders(tmp_path, *names, files=("a.png",))
    with pytest.raises(DataError, match="Folders with these names are usually parts of a data set"):
        read_data(tmp_path, ClassIndices.of(2))
    assert sorted(labels_of(read_data(tmp_path, ClassIndices.of(2), "string")).values()) == [0, 1]


def test_class_folders_with_folders_inside_are_classes(tmp_path):
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for name in ("cat", "dog"):
        folders(one / name, "images")  # as in Tiny ImageNet
        folders(two / name, f"{name}s at home", f"{name}s outside")
        folders(three / name, "home", "outside")
    (three / "dog" / "a.png").touch()
    folders(three / "contrail", "home")  # no train
    for root, classes in ((one, 2), (two, 2), (three, 3)):
        found = {
            i.name.split("/")[0]: i.label for i in read_data(root, ClassIndices.of(classes)).images
        }
        assert found == {"cat": 0, "dog": classes - 1, **({"contrail": 1} if classes > 2 else {})}
        assert class_names(root) == tuple(sorted(found))


def test_synset_folders_with_the_same_folders_inside_are_classes(tmp_path):
    for name in ("n01443537", "n02123045"):
        folders(tmp_path / name, "images", "more", files=("a.png",))
    found = {image.label for image in read_data(tmp_path, imagenet_labels()).images}
    assert found == {1, 281}


def test_a_train_may_be_a_class(tmp_path):
    folders(tmp_path / "train", "steam")
    folders(tmp_path, "car")
    assert labels_of(read_data(tmp_path, ["train", "car"]))["train/steam/a.png"] == 0


def test_folders_called_train_and_test_are_not_guessed_to_be_two_classes(tmp_path):
    with pytest.raises(DataError, match="Folders with these names are usually parts of a data set"):
        read_data(folders(tmp_path, "train", "test"), ["cat", "dog"])


def test_a_table_in_the_folder_is_named(tmp_path):
    folders(tmp_path, "images", "masks")
    table = tmp_path / "labels.csv"
    table.write_text("image,label\nimages/a.png,cat\n")
    with pytest.raises(DataError) as raised:
        read_data(tmp_path, ["cat", "dog"])
    assert f"It contains a table of images: pass that instead ({table})" in str(raised.value)
    assert labels_of(read_data(table, ["cat", "dog"])) == {"images/a.png": 0}
    table.write_text("id,breed\na,cat\n")
    with pytest.raises(
        DataError, match=r"It also contains labels.csv; .* needs the columns image and"
    ):
        read_data(tmp_path, ["cat", "dog", "fox"])
    table.write_text("image,label\nimages/a.png,cat\n")
    other = tmp_path / "images"
    (other / "labels.csv").write_text("image,label\na.png,cat\n")
    with pytest.raises(DataError, match=r"contains no folders.*It contains a table of images"):
        read_data(other, ["cat", "dog"])


def test_what_pillow_opens_is_used_and_the_rest_is_counted(tmp_path):
    cat = folders(tmp_path / "data", "cat", files=()) / "cat"
    used = ["a.jfif", "b.jpe", "c.AVIF", "d.jp2", "e.pgm", "f.mpo"]
    left = ["notes.txt", "more.txt", "Thumbs.db", "clip.mpg", "page.pdf", "._a.png", "plain"]
    for name in [*used, *left]:
        (cat / name).touch()
    Image.new("RGB", (4, 4)).save(cat / "real", "PNG")  # an image without a suffix
    for folder in (".ipynb_checkpoints", "@eaDir", "more", "0.png"):
        (cat / folder).mkdir()
    for folder in (".ipynb_checkpoints", "@eaDir", "more"):
        (cat / folder / "x.png").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "y.png").touch()
    (cat / "link").symlink_to(tmp_path / "elsewhere")
    (cat / "loop").symlink_to(cat)
    os.mkfifo(cat / "pipe.png")
    (cat / "dangling.png").symlink_to("nowhere")
    folders(tmp_path / "data", "dog", files=())
    (tmp_path / "data" / "loose.png").touch()
    data = read_data(tmp_path / "data", PETS)
    assert {image.name for image in data.images} == {
        f"cat/{name}" for name in [*used, "real", "more/x.png", "link/y.png", "dangling.png"]
    }
    assert data.left_out == (
        "6 files that Pillow does not open as an image (.txt 2, .db 1, .mpg 1, .pdf 1, without a "
        "suffix 1), 1 image outside the class folders, 2 images in hidden or system folders "
        "(.ipynb_checkpoints, @eaDir), 1 hidden file, 1 special file (a pipe or a device), 1 link "
        "to a folder that contains it, 1 class folder without an image (dog)"
    )


def test_an_empty_class_folder_keeps_its_place_in_sorted_order(tmp_path):
    folders(tmp_path, "x", "z", files=("a.png",))
    folders(tmp_path, "y", files=())
    assert labels_of(read_data(tmp_path, PETS)) == {"x/a.png": 0, "z/a.png": 2}


def test_names_that_are_no_utf8_are_readable_and_no_two_the_same(tmp_path):
    folder = os.fsencode(folders(tmp_path, "cat", files=("a\\xe9.png",)) / "cat")
    for raw in (b"a\xe9.png", b"a\xe8.png"):
        (tmp_path / os.fsdecode(folder + b"/" + raw)).touch()
    data = read_data(tmp_path, PETS)
    assert {image.name for image in data.images} == {
        "cat/a\\\\xe9.png",
        "cat/a\\xe9.png",
        "cat/a\\xe8.png",
    }
    assert all(image.path.exists() for image in data.images)
    assert len({image.name.encode() for image in data.images}) == 3


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


def write_table(file, labels, between=",", header=("image", "label")):
    rows = [header, *((f"{i}.png", str(label)) for i, label in enumerate(labels))]
    file.write_text("".join(f"{between.join(row)}\n" for row in rows), encoding="utf-8")
    return file


def test_labels_that_became_floats_are_the_class_indices(tmp_path):
    floats = [f"{i}.0" for i in range(12)]
    table = pyarrow.table({"image": [f"{i}.png" for i in range(12)], "label": map(float, floats)})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    for file in (write_table(tmp_path / "t.csv", floats), tmp_path / "t.parquet"):
        data = read_data(file, ClassIndices.of(12))
        assert [image.label for image in data.images] == list(range(12))
        assert data.matched == "by class index"


@pytest.mark.parametrize("label", ["1.5", "nan", "-1", "NA", "inf", "1e400"])
def test_what_is_no_class_index_among_numbers_is_an_error_with_its_row(tmp_path, label):
    if label != "inf":
        with pytest.raises(DataError, match=rf"row 3 \(1.png\) has the label {label}"):
            read_data(write_table(tmp_path / "t.csv", ["0", label]), PETS)
    if label in ("NA", "1e400"):
        return
    table = pyarrow.table({"image": ["0.png", "1.png"], "label": [0.0, float(label)]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=rf"row 2 \(1.png\) has the label {label}"):
        read_data(tmp_path / "t.parquet", PETS)


def test_numbers_in_a_table_are_names_first_where_labels_are_numbers(tmp_path):
    file = write_table(tmp_path / "t.csv", ["0", "10", "2"])
    data = read_data(file, ["0", "1", "10", "2"])
    assert [image.label for image in data.images] == [0, 2, 3]
    assert data.matched.startswith("by label (the model's labels are numbers")
    assert [i.label for i in read_data(file, ClassIndices.of(12)).images] == [0, 10, 2]
    assert [i.label for i in read_data(write_table(file, ["1", "-1"]), ["-1", "1"]).images] == [
        1,
        0,
    ]


def test_class_indices_from_1_on_are_not_guessed(tmp_path):
    file = write_table(tmp_path / "t.csv", ["1", "2", "3"])
    with pytest.raises(DataError, match="Class indices begin at 0; the last one is 2"):
        read_data(file, PETS)
    assert [i.label for i in read_data(file, PETS, "natural").images] == [0, 1, 2]


def test_names_that_mean_nothing_elsewhere_are_names(tmp_path):
    names = ["NA", "nan", "null", "None", "cat"]
    data = read_data(write_table(tmp_path / "t.csv", names), names)
    assert [image.label for image in data.images] == [0, 1, 2, 3, 4]
    assert class_names(tmp_path / "t.csv") == ("NA", "None", "cat", "nan", "null")


@pytest.mark.parametrize("between", [";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_other_programs_write_them(tmp_path, between, encoding):
    file = write_table(tmp_path / "t.csv", ["café", "dog"], between)
    file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    assert [i.label for i in read_data(file, ["dog", "café"]).images] == [1, 0]


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;;"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_of_excel_that_names_the_separator_is_none_of_the_table(tmp_path, line, end):
    file = tmp_path / "t.csv"
    file.write_text(f"{line}{end}image;label{end}a.png;dog{end}", newline="", encoding="utf-8-sig")
    assert labels_of(read_data(file, PETS)) == {"a.png": 1}
    file.write_text(f"sep=\x01{end}image\x01label{end}a.png\x01{end}", newline="")
    with pytest.raises(DataError, match="row 3 lacks its image or its label"):
        read_data(file, PETS)


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("latin-1", r"is not UTF-8 \(line 2\); save it as UTF-8 .*iconv -f CP1252 -t UTF-8"),
        ("utf-16-le", "is UTF-16 without a byte order mark.*iconv -f UTF-16LE -t UTF-8"),
    ],
)
def test_encodings_that_cannot_be_told_are_named_with_the_remedy(tmp_path, encoding, message):
    file = write_table(tmp_path / "t.csv", ["café", "dog"])
    file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    with pytest.raises(DataError, match=message):
        read_data(file, ["dog", "café"])


def test_paths_from_windows_and_absolute_paths(tmp_path):
    folders(tmp_path, "x", files=("a.png", "b.png"))
    (tmp_path / "t.csv").write_text(f"image,label\nx\\a.png,0\n{tmp_path}/x/b.png,1\nc.png,1\n")
    found = read_data(tmp_path / "t.csv", PETS).images
    assert [image.path for image in found] == [
        tmp_path / "x" / "a.png", tmp_path / "x" / "b.png", tmp_path / "c.png"
    ]  # fmt: skip


def png(colour):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


HUGGING_FACE = {
    "info": {"features": {"label": {"names": ["cat", "dog", "fox"], "_type": "ClassLabel"}}}
}


def test_images_in_the_table_itself(tmp_path):
    red, green = png((255, 0, 0)), png((0, 255, 0))
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = [
        {"bytes": red, "path": "a.png"},
        {"bytes": green, "path": "a.png"},
        {"bytes": green, "path": None},
        {"bytes": None, "path": "b.png"},
        {"bytes": b"no image", "path": "c.png"},
    ]
    table = pyarrow.table({"image": pyarrow.array(images, kind), "label": [0, 1, 2, 0, 1]})
    named = table.replace_schema_metadata({"huggingface": json.dumps(HUGGING_FACE)})
    pyarrow.parquet.write_table(named, tmp_path / "t.parquet")
    (tmp_path / "b.png").write_bytes(red)
    data = read_data(tmp_path / "t.parquet", ["fox", "dog", "cat"])
    assert [(image.name, image.label) for image in data.images] == [
        ("a.png", 2), ("a.png (row 2)", 1), ("row 3", 0), ("b.png", 2), ("c.png", 1)
    ]  # fmt: skip
    assert data.matched == "by label"
    assert ("0 (cat)", "cat") in data.pairs
    colours = [image.open().getpixel((0, 0)) for image in data.images[:4]]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 255, 0), (255, 0, 0)]
    with pytest.raises(ImageError, match=r"^c\.png: not an image"):
        data.images[4].open()
    assert class_names(tmp_path / "t.parquet") == ("cat", "dog", "fox")
    assert [i.label for i in read_data(tmp_path / "t.parquet", ClassIndices.of(3)).images] == [
        0, 1, 2, 0, 1
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"at other indices: 0 \(cat\)"):
        read_data(tmp_path / "t.parquet", ["dog", "cat", "puma"])


def test_other_data_have_another_digest_where_the_table_holds_them(tmp_path):
    for name, image in (("one", b"12"), ("two", b"123")):
        table = pyarrow.table({"image": [image], "label": [0]})
        pyarrow.parquet.write_table(table, tmp_path / f"{name}.parquet")
    one, two = (read_data(tmp_path / f"{n}.parquet", PETS) for n in ("one", "two"))
    assert one.images[0].name == two.images[0].name == "row 1"
    assert one.content != two.content


def test_a_pipe_in_a_table_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "t.csv").write_text("image,label\npipe,0\n")
    with pytest.raises(ImageError, match="is a pipe or a device"):
        read_data(tmp_path / "t.csv", PETS).images[0].open()


def test_a_parquet_table_with_integers(tmp_path):
    table = pyarrow.table({"image": ["a.png"], "label": pyarrow.array([2], pyarrow.int64())})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert labels_of(read_data(tmp_path / "t.parquet", PETS)) == {"a.png": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,class\na.png,0\n", "has no column label, only image, class"),
        ("image,label\n", "has no rows"),
        ("image,label\na.png,\n", "row 2 lacks its image or its label"),
        ("image,label\na.png,0\na.png,1\n", "a.png is listed twice; keep one row"),
        ("image,label,label\na.png,0,1\n", "has the column label twice; keep one"),
        ("", "is empty"),
        ("Image, label \na.png,0\n", "write 'Image' and ' label ' in lower case without spaces"),
        ("image,label\nb'\\x89PNG',0\n", "row 2 is the content of a file"),
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
    with pytest.raises(DataError, match="it contains no folders"):
        read_data(tmp_path, PETS)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="none of its 1 folders contains an image"):
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
