"""Waiting for something that another thread, or a signal handler, brings about."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from carrot.utils import time_left

__all__ = ["Bells"]

#: Seconds after which whoever waits looks around unasked. The system may hand
#: a signal to another thread, which interrupts no wait of this one; only then
#: does Python call the handler.
LOOK = 1.0


class Bells:
    """A condition to wait for and to ring for.

    Unlike :class:`threading.Condition`, ringing takes no lock, so that a signal
    handler may do it in the thread that waits; and a ring between the check of
    the condition and the wait is not missed.
    """

    def __init__(self) -> None:
        # One lock for each waiting thread, held unless rung since.
        self._bells: list[threading.Lock] = []

    def ring(self) -> None:
        """Have each waiting thread check its condition again."""
        for bell in tuple(self._bells):
            with suppress(RuntimeError):  # rung already, and not heard yet
                bell.release()

    def wait(self, condition: Callable[[], object]) -> bool:
        """Block until *condition* is true, or :func:`carrot.utils.time_limit` is over.

        :returns: whether the condition is true.
        """
        bell = threading.Lock()
        bell.acquire()
        self._bells.append(bell)
        try:
            while not condition():
                left = time_left()
                if left is not None and left <= 0:
                    return False
                bell.acquire(timeout=LOOK if left is None else min(left, LOOK))
            return True
        finally:
            self._bells.remove(bell)
