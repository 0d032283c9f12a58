"""Small things that every floor may use."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

__all__ = [
    "gen_unique_id",
    "lazy",
    "partition",
    "rpartition",
    "shown",
    "time_left",
    "time_limit",
]


def gen_unique_id() -> str:
    """Return a random identifier (UUID 4, 36 characters)."""
    return str(uuid.uuid4())


def shown(value: object, most: int = 60) -> str:
    """Return the repr of a value for an error's text; its type, where the repr fails.

    :param most: characters; what is longer is cut.
    """
    try:
        return repr(value)[:most]
    except Exception:  # of whoever wrote it; or nested too deeply
        return f"<{type(value).__name__}>"[:most]


class lazy:
    """Attribute that a method works out at the first access; may be set.

    What ``functools.cached_property`` is since Python 3.12; before, it took a
    lock that all objects share, and the child of a fork waited for it for ever.
    """

    def __init__(self, method: Callable[[Any], Any]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self._method.__name__] = self._method(instance)
        return value


def partition(text: str, separator: str) -> tuple[str, str, str]:
    """Split at the first separator, as :meth:`str.partition` does."""
    return text.partition(separator)


def rpartition(text: str, separator: str) -> tuple[str, str, str]:
    """Split at the last separator, as :meth:`str.rpartition` does."""
    return text.rpartition(separator)


class _Deadline(threading.local):
    at: float | None = None


_deadline = _Deadline()


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Bound everything that the calling thread does inside to *seconds*.

    Limits nest: the earliest deadline counts, so that the several steps of
    one public call (reconnect, declare again, send again) share one bound.

    :param seconds: ``None`` adds no bound.
    """
    outer = _deadline.at
    if seconds is not None:
        at = monotonic() + seconds
        _deadline.at = at if outer is None else min(at, outer)
    try:
        yield
    finally:
        _deadline.at = outer


def time_left(seconds: float | None = None) -> float | None:
    """Return how long a step may still block.

    :param seconds: the step's own bound; ``None`` means none.
    :returns: seconds, never negative: the lesser of *seconds* and what the
        surrounding :func:`time_limit` has left; ``None`` where neither bounds.
    """
    at = _deadline.at
    if at is None:
        return seconds
    left = max(0.0, at - monotonic())
    return left if seconds is None else min(left, seconds)
