"""An image file without its metadata: what is left when those are damaged."""

from __future__ import annotations

import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 297, 317}
    | {320, 322, 323, 324, 325, 332, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532}
)
"""Of a TIFF file: all that says how its pixels are stored, and the orientation."""


def without_metadata(content: bytes) -> bytes:
    """A PNG or TIFF file without texts, profiles and the like; other content as it is.

    The orientation stays, and so does everything that the pixels are made of, damaged or not.
    """
    try:
        if content.startswith(_PNG):
            return _png(content)
        if content[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(content)
    except (struct.error, IndexError):  # cut off: this is not about metadata
        pass
    return content


def _png(content: bytes) -> bytes:
    """Critical chunks, transparency and EXIF; the checksum of the last is made good."""
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
    """The first image's tags that its pixels need, in the place where they were."""
    order = "<" if content[:2] == b"II" else ">"
    (place,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, place)
    entries = [content[place + 2 + 12 * n : place + 14 + 12 * n] for n in range(count)]
    kept = [e for e in entries if struct.unpack_from(f"{order}H", e)[0] in _PIXEL_TAGS]
    # The rest of the table is of no use; the four bytes behind it say that no image follows.
    table = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return content[:place] + table + content[place + len(table) :]
