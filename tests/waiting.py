"""Wait for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

__all__ = ["wait_until"]


def wait_until(condition: Callable[[], T], timeout: float = 15.0, what: str = "") -> T:
    """Return what *condition* answers as soon as that is true.

    :param timeout: seconds; after them the test fails.
    :param what: words for the failure; default is the condition's name.
    """
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or condition!r}")
        time.sleep(0.005)
    return answer
