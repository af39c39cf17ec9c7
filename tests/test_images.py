"""Every kind of image becomes upright 8-bit RGB; everything else is an error for people."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from PIL import Image

import relook
from relook.images import image_name, open_image

RED, GREY = (255, 0, 0), (128, 128, 128)


def first_pixel(source):
    image = open_image(source)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("RGB", RED, "png", RED),
        ("L", 128, "png", GREY),
        ("LA", (128, 255), "png", GREY),
        ("1", 1, "png", (255, 255, 255)),
        ("I;16", 32896, "png", GREY),
        ("I;16", 32896, "tif", GREY),
        ("CMYK", (0, 255, 255, 0), "tif", RED),
        ("RGBA", (255, 0, 0, 255), "png", RED),
        ("RGB", RED, "webp", (254, 0, 0)),
        ("RGB", RED, "bmp", RED),
        ("RGB", RED, "gif", RED),
        ("F", 128 / 255, "tif", GREY),
    ],
)
def test_formats(tmp_path, mode, colour, suffix, expected):
    file = tmp_path / f"image.{suffix}"
    Image.new(mode, (8, 6), colour).save(file)
    assert first_pixel(file) == pytest.approx(expected, abs=2)


def test_cmyk_jpeg(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert first_pixel(tmp_path / "print.jpg") == pytest.approx(RED, abs=4)


def test_transparent_pixels_are_white(tmp_path):
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    image.save(tmp_path / "icon.png")
    opened = open_image(tmp_path / "icon.png")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 0)) == RED


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 255, 0, 255, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    opened = open_image(tmp_path / "palette.png")
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 0)) == RED


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (8, 4))
    image.paste(RED, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what was left comes to the top
    image.save(tmp_path / "phone.png", exif=exif)
    opened = open_image(tmp_path / "phone.png")
    assert opened.size == (4, 8)
    assert opened.getpixel((0, 0)) == RED
    assert opened.getpixel((0, 7)) == (0, 0, 0)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 255, 0))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert first_pixel(tmp_path / "moving.gif") == RED


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((4, 5), 128, np.uint8), GREY),
        (np.full((4, 5, 1), 128, np.uint8), GREY),
        (np.tile(np.uint8(RED), (4, 5, 1)), RED),
        (np.tile(np.uint8((255, 0, 0, 255)), (4, 5, 1)), RED),
        (np.full((4, 5, 3), 128 / 255), GREY),
        (np.full((4, 5, 3), 128 / 255, np.float16), GREY),
        (np.full((4, 5, 3), 32896, np.uint16), GREY),
        (np.full((4, 5), 128, np.int64), GREY),
        (np.ones((4, 5), bool), (255, 255, 255)),
    ],
)
def test_arrays(array, expected):
    assert first_pixel(array) == expected
    assert open_image(array).size == (5, 4)


def test_a_pil_image_is_converted_too():
    assert first_pixel(Image.new("L", (3, 3), 128)) == GREY


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 2)), r"array of shape \(4, 5, 2\): expected \(H, W\)"),
        (np.zeros(4), "expected"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.full((4, 5, 3), -1.5), "pixel values from -1.5 to -1.5, expected 0 to 1"),
        (np.full((4, 5, 3), 128.0), "expected 0 to 1; rescale"),
        (np.full((4, 5), np.nan), "NaN"),
        (np.zeros((1, 1, 3), np.uint8), "1×1"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(relook.ImageError, match=message):
        open_image(array)


def test_missing_path(tmp_path):
    with pytest.raises(relook.ImageError, match=r"nowhere\.jpg: no such file; check the path"):
        open_image(tmp_path / "nowhere.jpg")


def test_folder(tmp_path):
    with pytest.raises(relook.ImageError, match="is a folder, not an image; name the files"):
        open_image(str(tmp_path))


def test_empty_file(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(relook.ImageError, match=r"empty\.jpg: the file is empty; copy"):
        open_image(tmp_path / "empty.jpg")


def test_not_an_image(tmp_path):
    (tmp_path / "notes.jpg").write_text("no image at all")
    with pytest.raises(relook.ImageError, match=r"notes\.jpg: not an image .* convert it"):
        open_image(tmp_path / "notes.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(whole)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(relook.ImageError, match=r"cut\.\w+: the image data is damaged or cut off"):
        open_image(cut)


@pytest.mark.parametrize("suffix", ["png", "jpg", "ppm", "dds", "sgi", "qoi", "gif", "webp", "tif"])
def test_damage_of_any_kind_is_an_image_error_or_an_image(tmp_path, suffix):
    """Bytes turned at random: read all the same, or one line for people, never a traceback."""
    rng = np.random.default_rng(0)
    whole = tmp_path / f"whole.{suffix}"
    try:
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(whole)
    except KeyError:
        pytest.skip(f"this Pillow does not write {suffix}")
    content = np.frombuffer(whole.read_bytes(), np.uint8)
    errors = []
    for _ in range(60):
        damaged = content.copy()
        damaged[rng.integers(0, min(len(content), 120), 3)] = rng.integers(0, 256, 3)
        (tmp_path / "damaged").write_bytes(damaged.tobytes())
        try:
            open_image(tmp_path / "damaged")
        except relook.ImageError as error:
            errors.append(str(error))
    assert errors
    assert all("damaged" in error for error in errors)


def test_names_that_the_system_refuses():
    with pytest.raises(relook.ImageError, match=r"cannot be read .* check the path"):
        open_image("x" * 300)
    with pytest.raises(relook.ImageError, match=r"cannot be read .* check the path"):
        open_image("nul\0byte.png")


def test_pipes_are_read(tmp_path):
    Image.new("RGB", (4, 4), RED).save(tmp_path / "red.png")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = (tmp_path / "red.png").read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    assert first_pixel(pipe) == RED
    writer.join()


def test_a_lazily_opened_truncated_image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with Image.open(tmp_path / "cut.png") as opened, pytest.raises(relook.ImageError):
        open_image(opened)


def test_decompression_bomb(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    with pytest.raises(relook.ImageError, match=r"bomb\.png: more than .*decompression bomb; shr"):
        open_image(tmp_path / "bomb.png")


def test_large_but_no_bomb_is_read_without_a_warning(tmp_path, monkeypatch, recwarn):
    Image.new("1", (300, 200)).save(tmp_path / "scene.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    assert open_image(tmp_path / "scene.png").size == (300, 200)
    assert not recwarn.list


def test_one_pixel(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(relook.ImageError, match=r"dot\.png: the image is 1×1 pixel"):
        open_image(tmp_path / "dot.png")


def test_names():
    assert image_name("a/b.jpg") == "a/b.jpg"
    assert image_name(np.zeros((2, 2))) == "<ndarray>"
