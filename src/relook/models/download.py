"""Downloads of weights that fail at once, not after a minute, if a server cannot be reached."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

_TIMEOUT = 10
"""Timeout of one small request in seconds, the same as that of huggingface_hub."""

_STALLED = 30
"""Timeout in seconds for a download that no longer receives data."""


@contextmanager
def from_hub() -> Iterator[None]:
    """Let huggingface_hub download files, or use its cache at once if its server is unreachable.

    On its own it would try every file six times, with pauses, before it used its cache.

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
    """Return why a server cannot be reached; None if it answers, even with an error.

    The request goes through the session of huggingface_hub, including proxies. After a timeout it
    is repeated once.
    """
    from huggingface_hub import get_session

    reason = ""
    for _ in range(2):
        try:
            get_session().head(address, timeout=_TIMEOUT)
        except Exception as error:  # noqa: BLE001  its HTTP library differs from version to version
            reason = str(error) or type(error).__name__
            if "Timeout" not in type(error).__name__:
                return reason
        else:
            return None
    return reason


@contextmanager
def patience() -> Iterator[None]:
    """Abort downloads that stall; PyTorch's would wait forever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
