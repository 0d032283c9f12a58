"""A connection with all that hangs on it: backends, declarations, counts."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from carrot.confirms import Tracker
from carrot.exceptions import (
    ConnectionClosed,
    ConnectionLost,
    DrainTimeout,
    NotSupported,
    ResourceLocked,
)
from carrot.recovery.attachment import Attachment
from carrot.recovery.backend import RecoveringBackend
from carrot.recovery.bells import Bells
from carrot.recovery.connecting import is_channel_closed, is_lost
from carrot.recovery.delivery import raised_by_callback
from carrot.recovery.journal import Journal, replay
from carrot.recovery.link import Link
from carrot.recovery.publishing import wait_for_confirms
from carrot.utils import time_left, time_limit

__all__ = ["Session"]

logger = logging.getLogger("carrot.recovery")

#: Seconds for which a queue that is still locked by our own former
#: connection is asked for: until the broker misses that one's heartbeats.
LOCKED_FOR = 130.0
#: Seconds that the exit of the interpreter waits for confirms.
EXIT_TIMEOUT = 5.0

_COUNTED = ("redelivered", "stale_settles", "reconnects", "decode_failures")
_TRACKED = ("published", "confirmed", "returned", "nacked")


class Session(Link):
    """What a :class:`~carrot.connection.BrokerConnection` is connected by.

    Parameters are those of :class:`~carrot.recovery.link.Link`.
    """

    def __init__(self, connection: Any, **options: Any) -> None:
        super().__init__(connection, **options)
        self.journal = Journal()
        #: Some backends have to be restored before somebody drains.
        self.dormant = False
        self._backends: dict[int, weakref.ref[RecoveringBackend]] = {}
        self._counters = dict.fromkeys((*_TRACKED, *_COUNTED), 0)
        self._trackers: dict[int, Tracker] = {}
        _sessions.add(self)

    # -- backends

    def backend(self, backend_cls: Callable[..., Any]) -> RecoveringBackend:
        """Return a backend that goes on when the connection is lost.

        :param backend_cls: makes the backends around which it is, one after
            the other; called with ``connection=``.
        """
        backend = RecoveringBackend(backend_cls, self)
        with self.lock:
            self._backends[id(backend)] = weakref.ref(backend)
        weakref.finalize(backend, self._backends.pop, id(backend), None).atexit = False
        return backend

    @property
    def backends(self) -> Iterator[RecoveringBackend]:
        """The backends in use, oldest first."""
        for reference in list(self._backends.values()):
            backend = reference()
            if backend is not None:
                yield backend

    def is_current(self, generation: int) -> bool:
        """Return whether a backend of *generation* may be put in place."""
        return generation == self.generation and (self.state == "open" or self.is_worker())

    def _gate_all(self) -> None:
        for backend in self.backends:
            backend.gate()
        self.dormant = True

    def _abandon_all(self, cause: Exception) -> None:
        for tracker in list(self._trackers.values()):
            if tracker.outstanding:
                logger.error("%d messages are not confirmed: %s", tracker.outstanding, cause)
                tracker.fail_all(cause)

    # -- restoring

    def _restore_all(self) -> None:
        self._declarer = self._new_inner()
        replay(self.journal, self._declare_again)
        _close_quietly(self._declarer)
        self.dormant = False
        for backend in self.backends:
            if backend.is_needed() and not backend.restore(wait=False):
                self.dormant = True
            if backend.pending:
                self.dormant = True

    def _new_inner(self) -> Any:
        return self.connection.get_backend_cls()(connection=Attachment(self, self.generation))

    def _declare_again(self, method: str, declaration: dict[str, Any]) -> Any:
        attempt, deadline = 0, monotonic() + LOCKED_FOR
        while True:
            try:
                return getattr(self._declarer, method)(**declaration)
            except Exception as exc:
                if is_lost(exc, self._declarer) and not getattr(exc, "recoverable", True):
                    # Because of this declaration: the next try goes without.
                    self.journal.dropped(method, declaration)
                    logger.warning("cannot declare again: %s(%s): %s", method, declaration, exc)
                    raise ConnectionLost(str(exc)) from exc
                if not is_channel_closed(exc, self._declarer):
                    raise
                self._declarer = self._new_inner()
                if not isinstance(exc, ResourceLocked) or monotonic() > deadline:
                    logger.warning("cannot declare again: %s(%s): %s", method, declaration, exc)
                    return None
            attempt += 1
            self._rest(self._delay(attempt), lambda: self.state == "closed")
            if self.state == "closed":
                raise self._closed_error()

    def _rouse(self) -> None:
        """Restore what only a thread that drains has a use for."""
        self.dormant = False
        for backend in self.backends:
            if backend.has_consumers:
                backend.restore()

    def heal(self, drained: Any = None) -> None:
        """Restore the channels that the broker closed, of which a draining thread heard.

        :param drained: the inner backend that drained; if it cannot tell, it is blamed.
        """
        for backend in self.backends:
            backend.heal(drained)

    # -- draining

    def drain(self, timeout: float | None = None) -> Any:
        """Wait for one message and run its consumer's callbacks.

        :param timeout: seconds to wait at most; ``None`` waits as long as it
            takes, through lost connections too.
        :raises DrainTimeout: nothing came.
        """
        started = monotonic()
        if self.state == "open" and not self.dormant:
            generation = self.generation  # before the driver: too old does no harm
            driver = self.driver
            try:
                return driver.drain_events(timeout=timeout)
            except Exception as exc:
                self._drain_failed(generation, driver, exc)
        left = None if timeout is None else max(0.0, timeout - (monotonic() - started))
        with time_limit(left):
            return self._drain_again()

    def _drain_again(self) -> Any:
        while True:
            try:
                self.open(patient=True)
                if self.dormant:
                    self._rouse()
            except ConnectionLost as exc:
                raise DrainTimeout(f"no message came: {exc}") from exc
            for backend in self.backends:
                backend.raise_pending()
            generation, driver = self.generation, self.driver
            if self.state != "open":
                continue
            try:
                return driver.drain_events(timeout=time_left())
            except Exception as exc:
                self._drain_failed(generation, driver, exc)

    def _drain_failed(self, generation: int, driver: Any, error: Exception) -> None:
        """Return if the connection was lost and will be recovered; else raise."""
        if raised_by_callback(error):
            raise error
        if isinstance(error, AttributeError) and not hasattr(driver, "drain_events"):
            if self.state != "open":
                return  # lost, or closed, between two looks
            raise NotSupported(f"{driver!r} cannot drain events") from error
        backend_cls = self.connection.get_backend_cls()
        if is_channel_closed(error, backend_cls):
            self.heal()
            raise error
        if is_lost(error, backend_cls):
            self.lose(generation, error)
            self.check_given_up(generation)
            if self.recover:
                return
        if isinstance(error, TimeoutError) and not isinstance(error, DrainTimeout):
            raise DrainTimeout(f"no message came: {error}") from error
        raise error

    # -- closing

    def close(self) -> None:
        """Wait for outstanding confirms, then close. Idempotent, and quiet.

        Ends a recovery at once; what is not confirmed then fails.
        """
        if self.state == "open":
            self.settle(self.timeout)
        super().close()

    def settle(self, timeout: float) -> None:
        """Wait until all messages are answered for; those that are not by then fail."""
        with time_limit(timeout):
            for backend in self.backends:
                tracker = backend.tracker
                if tracker is None or not tracker.outstanding:
                    continue
                try:
                    wait_for_confirms(tracker, backend.pump)
                except Exception as exc:  # closing is quiet
                    tracker.fail_all(exc)
                if tracker.failed:
                    logger.error(
                        "%d messages to %s were not accepted", tracker.failed, self.host
                    )

    def _lost_text(self) -> str:
        count = sum(tracker.outstanding for tracker in list(self._trackers.values()))
        return f"{super()._lost_text()}; {count} messages are not confirmed"

    # -- counting

    def count(self, counter: str, by: int = 1) -> None:
        """Add to a counter of :meth:`stats`."""
        with self.lock:
            self._counters[counter] += by

    def stats(self) -> dict[str, int]:
        """Return the counters since the session was made."""
        with self.lock:
            counters, trackers = dict(self._counters), list(self._trackers.values())
        for tracker in trackers:
            for name in _TRACKED:
                counters[name] += getattr(tracker, name)
        return counters

    def _opened(self, state: str) -> None:
        super()._opened(state)
        if state == "recovering":
            self.count("reconnects")

    def track(self, backend: Any, tracker: Tracker) -> None:
        """Count what *tracker* counts, for good."""
        with self.lock:
            if id(tracker) not in self._trackers:
                self._trackers[id(tracker)] = tracker
                weakref.finalize(backend, self.retired, tracker).atexit = False

    def retired(self, tracker: Tracker) -> None:
        """Keep the counts of a tracker that is used no more; what it waits for has failed."""
        if tracker.outstanding:
            logger.error(
                "%d messages are not confirmed: their sender left", tracker.outstanding
            )
            tracker.fail_all(ConnectionClosed("the channel was closed"))
        with self.lock:
            if self._trackers.pop(id(tracker), None) is not None:
                for name in _TRACKED:
                    self._counters[name] += getattr(tracker, name)

    # -- forking

    def forked(self) -> None:
        """Leave the parent's connection alone: connect anew at the first use.

        In the child of a fork, where only the thread that forked exists and
        the locks of others are held for ever.
        """
        self.lock = threading.RLock()
        self._bells = Bells()
        self._worker = None
        self.journal.forked()
        for tracker in self._trackers.values():
            tracker.reset()
        for backend in self.backends:
            backend.forked()
        # Not even the garbage collector may touch it: drivers say goodbye.
        _parents.append(self.driver)
        self.driver = None
        self.dormant = True
        self.generation += 1
        if self.state != "closed":
            self.state = "new"


def _close_quietly(inner: Any) -> None:
    try:
        inner.close()
    except Exception as exc:
        logger.debug("closing a channel: %s", exc)


_sessions: weakref.WeakSet[Session] = weakref.WeakSet()
_parents: list[Any] = []


def _forked() -> None:
    for session in list(_sessions):
        session.forked()


def _settle_at_exit() -> None:
    with time_limit(EXIT_TIMEOUT):
        for session in list(_sessions):
            if session.state == "open":
                session.settle(EXIT_TIMEOUT)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
atexit.register(_settle_at_exit)
