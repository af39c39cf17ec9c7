"""Downloads of weights: what cannot be reached is noticed at once, and not after a minute."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

_TIMEOUT = 10
"""Seconds for the answer to one small request; huggingface_hub gives its own as many."""

_STALLED = 30
"""Seconds in which not a byte arrives."""


@contextmanager
def from_hub() -> Iterator[None]:
    """Use huggingface_hub; where its server cannot be reached, what it has in its cache.

    By itself it would try every file six times, with pauses in between, and look into its cache
    after that.

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
            f"{constants.ENDPOINT} cannot be reached, {reason}, and they are not in the local cache"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = False


def unreachable(address: str) -> str | None:
    """Why a server cannot be reached, by the way that huggingface_hub takes, proxies among it;
    None if it answers, whatever that is. A server that is only slow is asked twice.
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
    """A download that stalls is given up; PyTorch's would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_STALLED if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
