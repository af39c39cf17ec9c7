"""The images that `relook predict` is given: files, folders and tables."""

from __future__ import annotations

import os

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from relook.errors import DataError, ImageError
from relook.prediction.images import find_images


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The folder of the test is the current one, so that paths can be as users write them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def image(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), colour).save(path)
    return path


def names(*inputs):
    return [item.name for item in find_images(inputs).items]


def test_a_folder_is_all_images_below_it_sorted(here):
    for name in ("b.png", "a/2.JPG", "a/deep/er/1.webp", "a-b/3.png", ".hidden/x.png", "a/.y.png"):
        image(here / "photos" / name)
    (here / "photos" / "notes.txt").touch()
    image(here / "photos" / "untitled.png").rename(here / "photos" / "untitled")
    (here / "photos" / "empty").touch()
    os.symlink(here / "photos", here / "photos" / "a" / "loop")
    found = find_images(["photos"])
    assert [item.name for item in found.items] == [
        "a/2.JPG",
        "a/deep/er/1.webp",
        "a-b/3.png",
        "b.png",
        "untitled",
    ]
    assert [item.index for item in found.items] == [0, 1, 2, 3, 4]
    assert {item.label for item in found.items} == {-1}
    assert all(item.open().size == (3, 2) for item in found.items)
    assert found.left_out == (
        "2 files that Pillow does not open as an image (.txt 1, without a suffix 1), "
        "1 image in hidden or system folders (.hidden), 1 hidden file, "
        "1 link to a folder that contains it"
    )


def test_names_of_several_inputs_begin_with_the_input(here):
    for name in ("photos/a.png", "photos/in/b.png", "other/c.png", "d.png"):
        image(here / name)
    expected = ["other/c.png", "d.png", "photos/a.png", "photos/in/b.png"]
    assert names("other", "d.png", "photos/") == expected
    assert names(here / "other", "d.png") == [f"{here.as_posix()}/other/c.png", "d.png"]
    assert names("photos") == ["a.png", "in/b.png"]
    assert names("photos/a.png") == ["photos/a.png"]
    assert names(".") == ["d.png", "other/c.png", "photos/a.png", "photos/in/b.png"]


def test_an_image_given_twice_is_used_once_and_that_is_said(here):
    image(here / "photos/a.png")
    image(here / "photos/b.png")
    found = find_images(["photos/b.png", "photos", "./photos/a.png"])
    assert [item.name for item in found.items] == ["photos/b.png", "photos/a.png"]
    assert found.left_out == "2 images given more than once"


def test_a_file_that_is_named_is_used_whatever_it_is(here):
    (here / "notes.txt").write_text("no image")
    found = find_images(["notes.txt", "nowhere.jpg"])
    assert [item.name for item in found.items] == ["notes.txt", "nowhere.jpg"]
    for item, said in zip(
        found.items, ("not an image that Pillow can read", "no such file"), strict=True
    ):
        with pytest.raises(ImageError, match=said):
            item.open()


def test_nothing_found_is_an_error(here):
    (here / "empty").mkdir()
    (here / "texts").mkdir()
    (here / "texts" / "a.txt").touch()
    for inputs, said in (
        ([], "no image is given; pass image files, folders or tables"),
        (["empty"], "^empty: contains no image; pass image files, or folders of images"),
        (["texts"], r"^texts: contains no image \(it contains 1 file .*\.txt 1\)\); pass"),
        (["texts", "empty"], r"^texts, empty: contains no image \(found 1 file"),
        (["none.csv"], "^none.csv: there is no such table; check the path"),
    ):
        with pytest.raises(DataError, match=said):
            find_images(inputs)


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_a_table_needs_no_labels_and_ignores_them(here, kind):
    for name in ("b.png", "in/a.png"):
        image(here / "lists" / name)
    columns = {"label": ["", "", ""], "image": ["b.png", "in/a.png", "b.png"]}
    file = here / "lists" / f"t.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    else:
        between = "," if kind == "csv" else "\t"
        file.write_text(
            "\n".join(map(between.join, (columns, *zip(*columns.values(), strict=True))))
        )
    found = find_images([file])
    assert [item.name for item in found.items] == ["b.png", "in/a.png"]
    assert found.left_out == "1 image given more than once"
    assert all(item.open().size == (3, 2) for item in found.items)
    assert names(f"lists/t.{kind}", "lists") == ["lists/b.png", "lists/in/a.png"]


def test_images_inside_a_table(here):
    content = image(here / "a.png").read_bytes()
    for name in ("one", "two"):
        pyarrow.parquet.write_table(pyarrow.table({"image": [content, content]}), f"{name}.parquet")
    found = find_images(["one.parquet"])
    assert [item.name for item in found.items] == ["row 1", "row 2"]
    assert found.items[1].open().size == (3, 2)
    assert names("one.parquet", "two.parquet") == [
        "one.parquet: row 1",
        "one.parquet: row 2",
        "two.parquet: row 1",
        "two.parquet: row 2",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("picture\na.png\n", "has no column image, only picture$"),
        ("Image\na.png\n", "has no column image, only Image; write 'Image' in lower case"),
        ("image\n", "the table has no rows"),
        ("", "the file is empty; expected column image$"),
        ("image,label\n,1\n", "row 2 lacks its image$"),
    ],
)
def test_tables_that_cannot_be_used(here, text, said):
    (here / "t.csv").write_text(text)
    with pytest.raises(DataError, match=f"^t.csv: {said}"):
        find_images(["t.csv"])


def test_other_images_have_another_digest(here):
    image(here / "photos/a.png")
    first = find_images(["photos"]).content
    assert find_images(["photos"]).content == first
    (here / "photos/a.png").write_bytes((here / "photos/a.png").read_bytes() + b"more")
    second = find_images(["photos"]).content
    (here / "photos/a.png").rename(here / "photos/b.png")
    assert len({first, second, find_images(["photos"]).content}) == 3


def test_odd_names_are_printable_and_differ(here):
    image(here / "a.png")
    try:
        os.rename("a.png", os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this disk takes only UTF-8 names")
    image(here / "b.png").rename(here / r"caf\xe9.png")
    found = find_images(["."])
    assert sorted(item.name for item in found.items) == [r"caf\\xe9.png", r"caf\xe9.png"]
    assert all(item.open().size == (3, 2) for item in found.items)
