"""Image files without their metadata, which may be damaged while the pixels are intact."""

from __future__ import annotations

import struct
import zlib

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*")

_EXIF, _ADOBE, _SCAN, _COMMENT = 0xE1, 0xEE, 0xDA, 0xFE
_BARE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})
"""JPEG markers that are not followed by a length."""

_OF_PROGRAMS = frozenset({*range(0xE0, 0xF0), _COMMENT})
_EXIF_HEAD = b"Exif\0\0"
_ADOBE_LENGTH = 12

_PIXEL_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 297, 317}
    | {320, 322, 323, 324, 325, 332, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532}
)
"""TIFF tags that describe how the pixels are stored, and the orientation."""


def without_metadata(content: bytes) -> bytes:
    """The content of a JPEG, PNG or TIFF file without its texts, profiles and other metadata.

    The orientation and all pixel data are kept, damaged or not. Other content is returned
    unchanged.
    """
    try:
        if content.startswith(_JPEG):
            return _jpeg(content)
        if content.startswith(_PNG):
            return _png(content)
        if content[:4] in _TIFF:
            return _tiff(content)
    except (struct.error, IndexError):  # the file is truncated, which is not a matter of metadata
        pass
    return content


def _jpeg(content: bytes) -> bytes:
    """A JPEG file without comments and application segments.

    Of the application segments, the orientation is kept, and Adobe's, which describes how the
    colours are stored, if it is complete.
    """
    kept, place = [content[:2]], 2
    while content[place] == 0xFF:
        while content[place + 1] == 0xFF:  # padding between segments
            place += 1
        kind = content[place + 1]
        if kind == _SCAN or kind in _BARE:
            break
        (length,) = struct.unpack_from(">H", content, place + 2)
        if length < 2:
            break
        end = place + 2 + length
        data = content[place + 4 : end]
        if kind == _EXIF and data.startswith(_EXIF_HEAD):
            kept.append(_orientation(data[len(_EXIF_HEAD) :]))
        elif kind == _ADOBE and data.startswith(b"Adobe"):
            kept.append(content[place:end] if len(data) >= _ADOBE_LENGTH else b"")
        elif kind not in _OF_PROGRAMS:
            kept.append(content[place:end])
        place = end
    return b"".join(kept) + content[place:]


def _orientation(exif: bytes) -> bytes:
    """An EXIF segment with only the orientation; empty if the tags cannot be read."""
    try:
        tags = _EXIF_HEAD + _tiff(exif) if exif[:4] in _TIFF else b""
    except (struct.error, IndexError):
        return b""
    whole = bool(tags) and len(tags) + 2 < 1 << 16
    return struct.pack(">BBH", 0xFF, _EXIF, len(tags) + 2) + tags if whole else b""


def _png(content: bytes) -> bytes:
    """The critical chunks, transparency and EXIF of a PNG file; the EXIF checksum is corrected."""
    kept, place = [_PNG], len(_PNG)
    while place < len(content):
        (length,) = struct.unpack_from(">I", content, place)
        kind = content[place + 4 : place + 8]
        end = place + 12 + length
        if kind == b"eXIf":
            data = content[place + 4 : end - 4]
            kept.append(content[place : end - 4] + struct.pack(">I", zlib.crc32(data)))
        elif kind[:1].isupper() or kind == b"tRNS":
            kept.append(content[place:end])
        place = end
        if kind == b"IEND":
            break
    return b"".join(kept)


def _tiff(content: bytes) -> bytes:
    """A TIFF file with only the tags that the first image's pixels need, in their old place."""
    order = "<" if content[:2] == b"II" else ">"
    (place,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, place)
    entries = [content[place + 2 + 12 * n : place + 14 + 12 * n] for n in range(count)]
    kept = [e for e in entries if struct.unpack_from(f"{order}H", e)[0] in _PIXEL_TAGS]
    # The four zero bytes behind the table mean that no image follows.
    table = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return content[:place] + table + content[place + len(table) :]
