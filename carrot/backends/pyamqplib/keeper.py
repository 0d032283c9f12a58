"""The thread that keeps links alive while the application does other things."""

from __future__ import annotations

import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import get_ident
from time import monotonic, sleep
from typing import Any

__all__ = ["attend", "tell", "unwatch", "watch"]

logger = logging.getLogger("carrot.backends.pyamqplib")

#: Seconds between two looks, unless heartbeats have to be more frequent.
INTERVAL = 1.0
#: Seconds that what is sent in a burst is kept by the kernel at most.
BURST_INTERVAL = 0.005


class _Keeper:
    """Calls ``tick(now)`` of each connection now and then.

    Runs while there are connections, and holds none of them.
    """

    def __init__(self) -> None:
        self.connections: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()
        # Not an event, whose lock stays locked if a signal's handler raises
        # while it is set.
        self._poke: SimpleQueue[None] = SimpleQueue()
        self._running = False
        self._due = 0.0
        self._bursts: list[Any] = []
        # The thread, and the signals that it would not take as it began.
        self._thread = 0
        self._blocked: set[Any] = set()

    def attend(self, outbox: Any) -> None:
        """Push what is written in a burst every few milliseconds, until it ends."""
        self._bursts.append(outbox)
        self._poke.put(None)

    def watch(self, connection: Any) -> None:
        """Tick this connection from now on, until it is closed or gone."""
        with self._lock:
            self.connections.add(connection)
            self._due = 0.0
            self._poke.put(None)
            if self._running:
                return
            self._running = True
        try:
            threading.Thread(target=self._run, name="carrot-keeper", daemon=True).start()
        except RuntimeError:  # no more threads: the next connection tries again
            self._running = False
            raise

    def unwatch(self, connection: Any) -> None:
        """Tick this connection no more."""
        self.connections.discard(connection)

    def _run(self) -> None:
        # Signals are for threads that run the application: one that is taken
        # here would not interrupt their waiting.
        if hasattr(signal, "pthread_sigmask"):
            self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            self._thread = get_ident()
        while True:
            left = self._due - monotonic()
            if self._bursts:
                sleep(max(0.0, min(left, BURST_INTERVAL)))
                self._push()
            else:
                with suppress(Empty):
                    self._poke.get(timeout=max(0.0, left))
            if monotonic() < self._due:
                continue
            with self._lock:
                if not self.connections:
                    self._running, self._thread = False, 0
                    self._bursts.clear()  # of dead ones, which it would hold
                    return
            self._tick()
            with self._lock:
                self._due = monotonic() + self._interval()

    def tell(self, listener: Callable[[Any], object], error: Exception) -> None:
        """Call a listener; in the keeper's thread with signals as they are elsewhere."""
        if self._thread != get_ident():
            listener(error)
            return
        # Threads and programs that are begun there would take none either.
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
        try:
            listener(error)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def _push(self) -> None:
        for outbox in list(self._bursts):
            more = False
            try:
                more = outbox.push()
            except Exception:  # must not be the end of the others
                logger.exception("while writing what waits")
            if not more:
                self._bursts.remove(outbox)

    def _tick(self) -> None:
        # Holds them only as long as this takes.
        for connection in self._watched():
            try:
                connection.tick(monotonic())
            except Exception:  # must not be the end of the others
                logger.exception("while keeping %r alive", connection)

    def _interval(self) -> float:
        heartbeats: list[float] = [c.heartbeat for c in self._watched() if c.heartbeat]
        return min([INTERVAL, *(heartbeat / 4 for heartbeat in heartbeats)])

    def _watched(self) -> list[Any]:
        while True:
            with suppress(RuntimeError):  # another thread changed the set meanwhile
                return list(self.connections)


_keeper = _Keeper()


def watch(connection: Any) -> None:
    """Keep a connection alive, without holding it."""
    _keeper.watch(connection)


def attend(outbox: Any) -> None:
    """Push what an outbox writes in a burst."""
    _keeper.attend(outbox)


def tell(listener: Callable[[Any], object], error: Exception) -> None:
    """Call a listener with an error, from whichever thread this is."""
    _keeper.tell(listener, error)


def unwatch(connection: Any) -> None:
    """Leave a connection alone."""
    _keeper.unwatch(connection)


def _forked() -> None:
    """Make the child of a fork leave the parent's links alone.

    No lock of the parent may be waited for: the thread that holds it does
    not exist here.
    """
    global _keeper
    connections, _keeper = list(_keeper.connections), _Keeper()
    for connection in connections:
        connection.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
