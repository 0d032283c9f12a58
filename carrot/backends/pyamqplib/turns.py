"""Who reads: one thread at a time, while the others wait for what it finds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident

__all__ = ["Turns"]

#: Seconds after which whoever waits looks around unasked. The system may hand
#: a signal to another thread, which interrupts no wait of this one; only then
#: does Python call the handler.
LOOK = 1.0


class Turns:
    """Passes of a reading loop that threads make in turn.

    Whoever needs something looks for it, remembers :attr:`passes` *before*
    looking, and if it is not there calls :meth:`take`: so no pass is missed.
    """

    #: Identifies the thread that reads; 0: nobody does.
    leader: int
    #: Passes that found something.
    passes: int

    def __init__(self) -> None:
        # The lock itself is taken, not the condition: that would run Python
        # code in which a signal's handler may raise, before the lock is
        # taken or released.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._over = False
        self.leader = self.passes = 0

    def take(
        self, seen: int, timeout: float | None, read: Callable[[float | None], bool]
    ) -> None:
        """Have a pass made, by this thread or by the one that reads already.

        Returns at once if there were other passes than *seen*. May return
        without any pass: callers look again.

        :param timeout: seconds to wait; ``None``: as long as callers look again.
        :param read: makes a pass; returns whether it found something.
        """
        timeout = LOOK if timeout is None else min(timeout, LOOK)
        me, leading, found = get_ident(), False, True
        try:
            with self._lock:
                if self.passes != seen or self._over:
                    return
                if self.leader:
                    self._changed.wait(timeout)
                    return
                self.leader, leading = me, True
            found = read(timeout)
        finally:
            # Whatever interrupts, a signal's handler included: nobody else
            # could read any more.
            if leading:
                with self._lock:
                    self.leader = 0
                    self.passes += found
                    self._changed.notify_all()

    def end(self) -> None:
        """Let nobody wait any more."""
        with self._lock:
            self._over = True
            self._changed.notify_all()
