"""Text from outside: file names and text files in whatever encoding they are in."""

from __future__ import annotations

import codecs
import os
import re

from relook.errors import RelookError

_ESCAPED = re.compile(r"\\x[0-9a-f]{2}")
_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_REMEDY = "save it as UTF-8 (in a spreadsheet: CSV UTF-8; on a command line,"


def readable(name: str | os.PathLike[str]) -> str:
    r"""A file's name as text that can be written anywhere, one for each name.

    Bytes that are no UTF-8 are written as `\xe9`. In such names, and in those that look like
    them, backslashes are doubled, so that no two names come out the same.

    >>> readable("caf\udce9.png")
    'caf\\xe9.png'
    >>> readable("café.png")
    'café.png'
    """
    text = os.fspath(name)
    try:
        text.encode("utf-8")
        if not _ESCAPED.search(text):
            return text
    except UnicodeEncodeError:
        pass
    text = text.replace("\\", "\\\\")
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # not of bytes: half a character, as Windows allows in names
        raw = text.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")


def decode(content: bytes, what: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; without the mark.

    Args:
        content: all of the file.
        what: the file, for the message.

    Raises:
        RelookError: it is in another encoding, which cannot be told for sure; the message says
            where, and how to convert it.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in content:
        raise RelookError(
            f"{what}: is UTF-16 without a byte order mark, or no text; {_REMEDY} of UTF-16: "
            "iconv -f UTF-16LE -t UTF-8)"
        )
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RelookError(
            f"{what}: is not {encoding.removesuffix('-sig').upper()} (line {line}); {_REMEDY} of "
            "Western European text: iconv -f CP1252 -t UTF-8)"
        ) from error
