"""Standard output and error that survive missing characters, full disks and closed pipes."""

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
"""Replacements for characters of relook's texts that an encoding lacks."""


class _Output(io.TextIOWrapper):
    """Standard output: remembers why it cannot be written."""

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
    """Standard error: messages that cannot be written are dropped, and work continues."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def prepare() -> None:
    r"""Let standard output and standard error accept any text, whatever their encoding.

    Characters that the encoding lacks are replaced by similar ones, or by their code, such as
    `\u732b`. A closed stream is replaced by one that discards all text.
    """
    codecs.register_error(_ERRORS, _plainly)
    codecs.register(lambda name: _plain_ascii() if name == _ASCII else None)
    while (place := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # otherwise a file that is opened later would take the place of a closed stream
    os.close(place)
    sys.stdout = _again(sys.stdout, _Output)
    sys.stderr = _again(sys.stderr, _Messages)


def failure() -> OSError | None:
    """The error if standard output could not be written; the unwritten text is dropped."""
    if not isinstance(sys.stdout, _Output):
        return None
    with suppress(OSError):
        sys.stdout.flush()
    if sys.stdout.failure:
        # Otherwise the interpreter tries again when it exits, and prints an error.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
    return sys.stdout.failure


def _again(stream: Any, kind: type[io.TextIOWrapper]) -> Any:
    """The stream as an instance of `kind`."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # a stream that another program has put in place
    encoding, lines, through = _encoding(stream), stream.line_buffering, stream.write_through
    return kind(stream.detach(), encoding, _ERRORS, line_buffering=lines, write_through=through)


def _encoding(stream: io.TextIOWrapper) -> str:
    """The stream's encoding, with another name for ASCII: click writes UTF-8 to "ascii" streams."""
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
