"""Text from outside: file names and text files, in any encoding."""

from __future__ import annotations

import codecs
import os
import re

from relook.errors import RelookError

_ESCAPED = re.compile(r"\\x[0-9a-f]{2}")
_MARKS = (  # UTF-32 first, as its byte order mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_REMEDY = "save it as UTF-8 (in a spreadsheet: CSV UTF-8; on a command line,"


def readable(name: str | os.PathLike[str]) -> str:
    r"""A file name as text that can be printed and encoded, different for each name.

    Bytes that are not UTF-8 are written as `\xe9`. In such names, and in names that look like them,
    backslashes are doubled, so that different names stay different.

    >>> from relook.text import readable
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
    except UnicodeEncodeError:  # a lone surrogate, which Windows allows in names
        raw = text.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")


def decode(content: bytes, what: str) -> str:
    """Decode a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Args:
        content: the whole content of the file.
        what: the name of the file, for messages.

    Returns:
        The text, without a byte order mark.

    Raises:
        RelookError: the file has another encoding, which cannot be detected reliably; the message
            names the line and a command that converts the file.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and b"\0" in content:
        raise RelookError(
            f"{what}: is UTF-16 without a byte order mark, or not text; {_REMEDY} for UTF-16: "
            "iconv -f UTF-16LE -t UTF-8)"
        )
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RelookError(
            f"{what}: is not {encoding.removesuffix('-sig').upper()} (line {line}); {_REMEDY} for "
            "Western European text: iconv -f CP1252 -t UTF-8)"
        ) from error
