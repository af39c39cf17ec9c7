"""Downloads of weights, with short waits for servers that cannot be reached."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

_TIMEOUT = 10
"""Seconds to wait for the answer to a small request, as huggingface_hub does."""

_STALLED = 30
"""Seconds without data after which a download is aborted."""


@contextmanager
def from_hub() -> Iterator[None]:
    """Let huggingface_hub download files, or use its cache if the server cannot be reached.

    By default, it tries every file six times, with pauses, before it uses its cache.

    Raises:
        ConnectionError: the server cannot be reached, and a file is not in the cache.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    reason = None if constants.HF_HUB_OFFLINE else unreachable(constants.ENDPOINT)
    if reason is None:
        with patience():
            yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ConnectionError(
            f"{constants.ENDPOINT} cannot be reached ({reason}), and the files are not in the "
            "local cache"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = False


def unreachable(address: str) -> str | None:
    """The reason why a server cannot be reached; None if it gives any answer.

    The request goes through huggingface_hub's session, with its proxies, and is repeated once after
    a timeout.
    """
    from huggingface_hub import get_session

    reason = ""
    for _ in range(2):
        try:
            get_session().head(address, timeout=_TIMEOUT)
        except Exception as error:  # noqa: BLE001  its HTTP library depends on its version
            reason = str(error) or type(error).__name__
            if "Timeout" not in type(error).__name__:
                return reason
        else:
            return None
    return reason


@contextmanager
def patience() -> Iterator[None]:
    """Abort downloads that stall; PyTorch's own would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
