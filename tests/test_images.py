"""Every kind of image becomes upright 8-bit RGB; everything else is an error for people."""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

import relook
from relook.images import image_name, image_suffixes, open_image

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


def pgm(maxval, value):
    kind = ">u2" if maxval > 255 else "u1"
    return b"P5\n4 4\n%d\n" % maxval + np.full(16, value, kind).tobytes()


@pytest.mark.parametrize(
    ("maxval", "value", "expected"),
    [(65535, 200, 1), (65535, 32896, 128), (1000, 200, 51), (300, 150, 128), (255, 200, 200)],
)
def test_a_pgm_is_scaled_by_its_maxval(tmp_path, maxval, value, expected):
    """And not by its values: those of the first could be of 8 bits."""
    (tmp_path / "scan.pgm").write_bytes(pgm(maxval, value))
    assert first_pixel(tmp_path / "scan.pgm") == (expected,) * 3
    with Image.open(tmp_path / "scan.pgm") as opened:
        assert first_pixel(opened) == (expected,) * 3


def tiff(bits, kind, values):
    """A TIFF of one row of such integers; kind 1: unsigned, 2: signed."""
    content = np.array(values, f"<{'ui'[kind - 1]}{bits // 8}").tobytes()
    tags = {256: len(values), 257: 1, 258: bits, 259: 1, 262: 1, 273: 134, 277: 1, 278: 1,
            279: len(content), 339: kind}  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + table + bytes(4) + content


@pytest.mark.parametrize(
    ("bits", "kind", "values", "expected"),
    [
        (16, 1, [0, 200, 32896, 65535], [0, 1, 128, 255]),
        (16, 2, [0, 200, 16448, 32767], [0, 2, 128, 255]),
        (32, 1, [0, 200, 2**31, 2**32 - 1], [0, 0, 128, 255]),
        (32, 2, [0, 200, 2**30, 2**31 - 1], [0, 0, 128, 255]),
    ],
)
def test_a_deep_tiff_is_scaled_by_its_depth(tmp_path, bits, kind, values, expected):
    (tmp_path / "scan.tif").write_bytes(tiff(bits, kind, values))
    image = open_image(tmp_path / "scan.tif")
    assert [image.getpixel((x, 0)) for x in range(4)] == [(value,) * 3 for value in expected]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_dark_deep_image_is_dark(tmp_path, suffix):
    Image.new("I;16", (4, 4), 200).save(tmp_path / f"dark.{suffix}")
    assert first_pixel(tmp_path / f"dark.{suffix}") == (1, 1, 1)


def deep_png(kind, values):
    """A PNG of 16 bits a channel; kind 0: grey, 2: RGB, 4: grey and alpha, 6: RGB and alpha."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(values, ">u2"))
    head = struct.pack(">IIBBBBB", len(values[0]), len(values), 16, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: deep_png(0, [[4095, 0]]), "4095 of 65535; if it holds 12-bit values"),
        (lambda: deep_png(2, [[[4095] * 3, [0] * 3]]), "at most 4095 of 65535; if it holds 12-bit"),
        (lambda: deep_png(2, [[[200] * 3, [0] * 3]]), "at most 255 of 65535; if it holds 8-bit"),
        (lambda: deep_png(4, [[[4095, 65535]] * 2]), "at most 4095 of 65535"),
        (lambda: deep_png(0, [[8191, 0]]), "8191 of 65535; if it holds 14-bit values"),
        (lambda: deep_png(0, [[8192, 0]]), None),
        (lambda: deep_png(0, [[0, 0]]), None),
        (lambda: deep_png(2, [[[65535, 0, 0], [0] * 3]]), None),
        (lambda: tiff(32, 2, [4095, 0]), "4095 of 2147483647; if it holds 12-bit values"),
        (lambda: tiff(32, 2, [32767, 0]), "32767 of 2147483647; if it holds 16-bit values"),
        (lambda: tiff(16, 2, [4095, 0]), "4095 of 32767; if it holds 12-bit values"),
        (lambda: np.full((4, 4, 3), 4095, np.uint16), "4095 of 65535; if it holds 12-bit values"),
        (lambda: np.full((4, 4, 3), 0.01), None),
        (lambda: np.full((4, 4, 3), 5, np.uint8), None),
    ],
)
def test_a_deep_image_that_fills_little_of_its_range_is_said_once(
    monkeypatch, caplog, content, said
):
    monkeypatch.setattr("relook.images._told_dark", set())
    open_image(content(), "scan.png")
    open_image(content(), "other.png")
    if said is None:
        assert not caplog.messages
        return
    [message] = caplog.messages
    name = "array of shape (4, 4, 3)" if isinstance(content(), np.ndarray) else "scan.png"
    assert message.startswith(f"{name}: its brightest pixel is {said}")


def test_a_dark_image_of_565_bits_is_none_of_more_than_8(monkeypatch, caplog):
    monkeypatch.setattr("relook.images._told_dark", set())
    head = b"BM" + struct.pack("<IHHI", 62, 0, 0, 54)
    head += struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 0, 8, 0, 0, 0, 0)
    open_image(head + bytes(8), "a.bmp")
    assert not caplog.messages


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32, np.int64, np.uint64])
def test_integers_are_from_0_to_255_whatever_their_values(dtype):
    assert first_pixel(np.full((4, 5), 200, dtype)) == (200, 200, 200)
    with pytest.raises(relook.ImageError, match="expected 0 to 255; rescale it, or pass 16-bit"):
        open_image(np.full((4, 5), 300, dtype))


TURNED = b"Exif\0\0MM\0*\0\0\0\x08"


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (TURNED + b"\xff\xff\xff\xff", (8, 4)),  # as it lies
        (b"Exif\0\0no TIFF at all", (8, 4)),
        (TURNED + b"\0\x02" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)
         + struct.pack(">HHII", 0x013B, 5, 1, 38) + bytes(4) + struct.pack(">II", 1, 2), (4, 8)),
    ],
    ids=["cut off", "no TIFF", "artist as a rational"],
)  # fmt: skip
def test_pixels_behind_a_broken_exif_block_are_read(tmp_path, suffix, exif, size):
    Image.new("RGB", (8, 4), RED).save(tmp_path / f"a.{suffix}", exif=exif)
    opened = open_image(tmp_path / f"a.{suffix}")
    assert opened.size == size
    assert opened.getpixel((1, 1)) == pytest.approx(RED, abs=2)


def chunk(kind, data, checksum=None):
    own = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", own)


@pytest.mark.parametrize("place", [33, -12], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize(
    "broken",
    [
        chunk(b"tEXt", b"Title\0red", 7),
        chunk(b"iCCP", b"profile\0\0no zlib", 7),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no zlib", 7),
        chunk(b"pHYs", b"\0"),
    ],
    ids=["text", "profile", "large text", "XMP", "resolution"],
)
def test_pixels_behind_broken_chunks_of_a_png_are_read(tmp_path, broken, place):
    image = Image.new("RGB", (8, 4), RED)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[:place] + broken + content[place:])
    opened = open_image(tmp_path / "a.png")
    assert opened.size == (4, 8)
    assert opened.getpixel((0, 0)) == RED


def test_pixels_of_a_tiff_behind_a_tag_of_the_wrong_type_are_read(tmp_path):
    """Artist as a rational; and the orientation still holds."""
    content = bytearray(tiff(16, 1, [0, 65535]))
    tags = [(256, 2), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (274, 6), (277, 1),
            (278, 1), (279, 4)]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    table += struct.pack("<HHII", 0x013B, 5, 1, 12)
    content = b"II*\0\x14\0\0\0" + np.array([0, 65535], "<u2").tobytes()
    content += struct.pack("<II", 1, 2) + struct.pack("<H", len(tags) + 1) + table + bytes(4)
    (tmp_path / "a.tif").write_bytes(content)
    image = open_image(tmp_path / "a.tif")
    assert image.size == (1, 2)
    assert [image.getpixel((0, y)) for y in (0, 1)] == [(0, 0, 0), (255, 255, 255)]


def jpeg(mode, colour, **options):
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new(mode, (16, 8), colour).save(stream, "JPEG", exif=exif, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe2\0\x0eICC_PROFILE\0",
        b"\xff\xee\0\x08Adobe\0",
        b"\xff\xe0\0\x06JFIF",
        b"\xff\xff\xff\xe0\0\x06JFIF",
        b"\xff\xed\0\x10Photoshop 3.0\0",
        b"\xff\xfe\0\x02",
    ],
    ids=["profile", "Adobe", "JFIF", "JFIF after fill bytes", "Photoshop", "comment"],
)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (jpeg("RGB", RED), RED),
        (jpeg("RGB", RED, progressive=True), RED),
        (jpeg("RGB", RED, keep_rgb=True), RED),  # as its Adobe segment alone says
        (jpeg("CMYK", (0, 255, 255, 0)), RED),
        (jpeg("L", 128), GREY),
    ],
    ids=["RGB", "progressive", "kept RGB", "CMYK", "grey"],
)
def test_pixels_behind_broken_segments_of_a_jpeg_are_read(segment, content, expected):
    opened = open_image(content[:2] + segment + content[2:])
    assert opened.size == (8, 16)
    assert opened.getpixel((3, 3)) == pytest.approx(expected, abs=4)


def test_a_jpeg_of_broken_segments_and_damaged_pixels_stays_an_error():
    content = jpeg("RGB", RED)
    for broken in (content[:-40], content[:100], content[:3], b"\xff\xd8\xff\xe0\0\1" + content):
        with pytest.raises(relook.ImageError):
            open_image(broken[:2] + b"\xff\xe0\0\x06JFIF" + broken[2:])


def test_damaged_pixels_stay_an_error_behind_broken_metadata(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    broken = content[:33] + chunk(b"tEXt", b"Title\0red", 7) + content[33:2000]
    (tmp_path / "a.png").write_bytes(broken)
    with pytest.raises(relook.ImageError, match="damaged or cut off"):
        open_image(tmp_path / "a.png")


def test_the_content_of_a_file(tmp_path):
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png")
    assert first_pixel((tmp_path / "a.png").read_bytes()) == RED
    with pytest.raises(relook.ImageError, match=r"^row 3: not an image"):
        open_image(b"no image", "row 3")
    with pytest.raises(relook.ImageError, match=r"^<bytes>: the file is empty"):
        open_image(b"")


def test_files_that_are_open(tmp_path):
    """Read once, from where they stand to their end, and left open."""
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    behind = io.BytesIO(b"head" + content)
    behind.seek(4)
    with (tmp_path / "a.png").open("rb") as file:
        assert first_pixel(file) == first_pixel(behind) == first_pixel(io.BytesIO(content)) == RED
        assert not file.closed
        assert image_name(file) == str(tmp_path / "a.png")
        with pytest.raises(relook.ImageError, match=r"a\.png: nothing is left to read; go back"):
            open_image(file)
        file.seek(0)
        assert first_pixel(file) == RED
    assert image_name(io.BytesIO(content)) == "<BytesIO>"
    with os.fdopen(os.open(tmp_path / "a.png", os.O_RDONLY), "rb") as numbered:
        assert image_name(numbered) == "<BufferedReader>"
        assert first_pixel(numbered) == RED


def test_files_that_give_no_bytes(tmp_path, recwarn):
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png")

    class Upload:
        filename = "upload.png"

        async def read(self):
            return b""

    class Lines:
        def read(self):
            return "text"

    with (tmp_path / "a.png").open(encoding="latin-1") as text:
        for file, said in (
            (text, r'a\.png: is open as text; open it for reading bytes: open\(file, "rb"\)'),
            (io.StringIO("text"), "<StringIO>: is open as text"),
            (Lines(), "<Lines>: is open as text"),
            (Upload(), r"upload\.png: its read\(\) gives a coroutine, not bytes; pass the bytes"),
        ):
            with pytest.raises(relook.ImageError, match=said):
                open_image(file)
    closed = io.BytesIO(b"")
    closed.close()
    with pytest.raises(
        relook.ImageError, match=r"<BytesIO>: cannot be read \(I/O operation on clo"
    ):
        open_image(closed)
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


def test_suffixes_of_images_and_of_what_is_none():
    suffixes = image_suffixes()
    assert {".jfif", ".jpe", ".avif", ".jp2", ".pgm", ".mpo", ".tif", ".png"} <= suffixes
    assert not suffixes & {".pdf", ".eps", ".ps", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".txt"}


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
    assert image_name(os.fsdecode(b"a/caf\xe9.jpg")) == "a/caf\\xe9.jpg"
    assert image_name("a/b.jpg") == "a/b.jpg"
    assert image_name(np.zeros((2, 2))) == "<ndarray>"
