"""Standard output and standard error that no character, full disk or closed end breaks."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress
from typing import Any

_ASCII, _ERRORS = "relook_ascii", "relook.plain"
_PLAIN = {
    "→": "->", "×": "x", "−": "-", "–": "-", "—": "-", "·": "-", "…": "...", "\u00a0": " ",
    "“": '"', "”": '"', "’": "'", "≤": "<=", "≥": ">=", "±": "+-", "′": "'",
}  # fmt: skip
"""What stands for the characters of relook's own texts where an encoding lacks them."""


class _Output(io.TextIOWrapper):
    """What was asked for: remembers why it cannot be written."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.failure = error
            raise


class _Messages(io.TextIOWrapper):
    """Progress, remarks and complaints: work goes on where they cannot be written."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def prepare() -> None:
    r"""Make standard output and standard error fit for any text, whatever their encoding.

    What the encoding lacks is written as something like it, or as its code, such as `\u732b`.
    A stream that was closed becomes one that leads nowhere.
    """
    codecs.register_error(_ERRORS, _plainly)
    codecs.register(lambda name: _plain_ascii() if name == _ASCII else None)
    while (place := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # else a file that is opened later would be taken for the closed stream
    os.close(place)
    sys.stdout = _again(sys.stdout, _Output)
    sys.stderr = _again(sys.stderr, _Messages)


def failure() -> OSError | None:
    """Why standard output could not be written, if so; what is left of it is dropped then."""
    if not isinstance(sys.stdout, _Output):
        return None
    with suppress(OSError):
        sys.stdout.flush()
    if sys.stdout.failure:
        # Else the interpreter tries again when it ends, and complains.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    return sys.stdout.failure


def _again(stream: Any, kind: type[io.TextIOWrapper]) -> Any:
    """The same stream as one of that kind."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # somebody else's
    encoding, lines, through = _encoding(stream), stream.line_buffering, stream.write_through
    return kind(stream.detach(), encoding, _ERRORS, line_buffering=lines, write_through=through)


def _encoding(stream: io.TextIOWrapper) -> str:
    """Its own, but ASCII by another name: click writes UTF-8 to a stream that says "ascii"."""
    return _ASCII if codecs.lookup(stream.encoding).name == "ascii" else stream.encoding


def _plain_ascii() -> codecs.CodecInfo:
    own = codecs.lookup("ascii")
    return codecs.CodecInfo(
        own.encode, own.decode, own.streamreader, own.streamwriter,
        own.incrementalencoder, own.incrementaldecoder, _ASCII,
    )  # fmt: skip


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking)
    return "".join(plain), error.end
