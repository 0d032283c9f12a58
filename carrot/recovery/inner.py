"""Keeping an inner backend in place: replaced when its channel is gone, and restored."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from carrot.confirms import Tracker, Unconfirmed
from carrot.exceptions import (
    AccessRefused,
    BrokerConnectionError,
    ConnectionClosed,
    ConnectionLost,
    DrainTimeout,
    NotFound,
)
from carrot.recovery.attachment import Attachment
from carrot.recovery.connecting import is_channel_closed, is_lost
from carrot.recovery.delivery import Guard, delivery
from carrot.utils import time_left, time_limit

if TYPE_CHECKING:
    from carrot.recovery.session import Session

__all__ = ["GONE", "Replaceable", "count_on"]

logger = logging.getLogger("carrot.recovery")


class _Gone:
    """Stands for the inner backend while there is none: any use is a lost connection."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionLost("the connection is being recovered")


GONE: Any = _Gone()


def count_on(inner: Any, tracker: Tracker) -> None:
    """Have an inner backend confirm; on one channel, since another one would count anew."""
    inner.reopens = False
    inner.confirm_select(tracker)


class Replaceable:
    """Holds an inner backend and what it takes to make another like it.

    The inner backend is taken out (:data:`GONE` in its place) as soon as its
    channel is known to be dead, and a new one put in once that is restored:
    so nobody sends on a new channel before what is owed was sent again.

    Locks: who restores holds ``_lock``, and may wait for the broker's answers
    meanwhile. The thread that recovers the session therefore never waits for
    ``_lock``: where another thread holds it, that one restores.
    """

    #: Counts confirms, where ``confirm_select`` was called.
    tracker: Tracker | None

    _base: Any = None
    #: The inner backend's, which the publisher holds too.
    _shortcuts: dict[Any, Any] | None = None

    def __init__(self, backend_cls: Callable[..., Any], session: Session) -> None:
        self._backend_cls = backend_cls
        self._session = session
        self.tracker = None
        self._lock = threading.RLock()
        self._consumers: dict[str, dict[str, Any]] = {}
        self._qos: dict[str, Any] | None = None
        #: One of the messages that are owed closed a channel: send them one by one.
        self._suspicious = False
        #: What is being restored: a consumer tag, a message, ``"qos"``.
        self._restoring: Any = None
        #: Found out while restoring; for the thread that consumes to raise.
        self.pending: list[Exception] = []
        inner = self._made(session.generation)
        #: Of the message that is being received.
        self.receiving = Guard(self, inner)
        self._put(inner, self.receiving, session.generation)
        if session.state in ("recovering", "closed"):
            self.gate()

    def _made(self, generation: int) -> Any:
        inner = self._backend_cls(connection=Attachment(self._session, generation))
        if hasattr(inner, "on_cancel"):
            inner.on_cancel = self._cancelled
        return inner

    # -- out and in; all under the session's lock

    def gate(self) -> None:
        """Take the inner backend out, and back from those who have a short way to it."""
        self._inner = GONE
        self._guard.live = False
        if self._shortcuts is not None:
            self._shortcuts.clear()

    def _put(self, inner: Any, guard: Guard, generation: int) -> None:
        self._base = inner
        self._guard = guard
        self._generation = generation
        # Of the inner backend, so that no frame stands between.
        self.prepare_message: Callable[..., Any] = inner.prepare_message
        self._guarding = "bearers" not in getattr(inner, "features", ())
        self.message_to_python: Callable[[Any], Any] = (
            self._guarded_message if self._guarding else inner.message_to_python
        )
        self._inner = inner

    def put(self, inner: Any, guard: Guard, generation: int) -> bool:
        """Put a restored inner backend in, unless its connection was lost meanwhile."""
        with self._session.lock:
            if not self._session.is_current(generation):
                return False
            self._put(inner, guard, generation)
            return True

    def _retire(self, inner: Any) -> int | None:
        """Take *inner* out, if it is still in; return the generation it was of."""
        with self._session.lock:
            if self._inner is not inner:
                return None
            self.gate()
            return self._generation

    # -- when something failed

    def _met(self, inner: Any, error: Exception) -> bool:
        """Deal with an error of an inner backend; return whether to try again."""
        if inner is GONE:
            return isinstance(error, ConnectionLost)
        if is_lost(error, inner):
            self._session.check_given_up(self._lost(inner, error))
            # Not what the broker closed the connection for: it would do so again.
            again = getattr(error, "recoverable", True) or isinstance(error, ConnectionClosed)
            return again and self._session.recover and not self._session.is_worker()
        if is_channel_closed(error, inner):
            self._channel_gone(inner)
        return False

    def _lost(self, inner: Any, error: Exception) -> int:
        """Have the connection recovered; return the generation that was lost."""
        generation = self._retire(inner)
        if generation is None:
            return self._generation  # somebody else met it first
        self._session.lose(generation, error)
        return generation

    def _channel_gone(self, inner: Any) -> None:
        """Restore what was on a channel that the broker closed."""
        if self._retire(inner) is None or not self.is_needed():
            return
        self._suspicious = self.tracker is not None
        try:
            with time_limit(self._session.timeout):
                self._ready()
        except Exception as exc:
            # Whoever uses the backend next will meet it too, and can be told.
            logger.warning("cannot restore a channel of %s yet: %s", self._session.host, exc)
            self._session.dormant = True

    def heal(self, drained: Any = None) -> None:
        """Restore the channel, if the broker closed it behind the inner backend's back."""
        inner = self._inner
        if inner is not GONE and getattr(inner, "channel_closed", inner is drained):
            self._channel_gone(inner)

    def is_needed(self) -> bool:
        """Return whether something waits for the channel to come back."""
        return bool(self._consumers or (self.tracker is not None and self.tracker.outstanding))

    @property
    def has_consumers(self) -> bool:
        """Whether there is something to receive."""
        return bool(self._consumers)

    def raise_pending(self) -> None:
        """Raise what was found out while the channel was restored."""
        if self.pending:
            raise self.pending.pop(0)

    def forked(self) -> None:
        """Forget the channel: it is the parent's."""
        self._lock = threading.RLock()
        self.pending = []
        self.gate()

    # -- restoring

    def _ready(self, until: Callable[[], bool] | None = None, patient: bool = False) -> Any:
        """Return the inner backend, restoring it first where needed.

        :param until: return :data:`GONE` as soon as this is true.
        :param patient: wait for the connection as long as it takes, and not
            only its ``timeout``.
        """
        while (inner := self._inner) is GONE:
            try:
                self._session.open(until, patient)
            except BrokerConnectionError:
                if until is None or not until():
                    raise
            if until is not None and until():
                break
            self.restore()
        return inner

    def restore(self, wait: bool = True) -> bool:
        """Make a new inner backend like the last one, unless there is one.

        :param wait: whether to wait for another thread that does it.
        :returns: whether there is an inner backend.
        """
        left = time_left() if wait else None
        if not self._lock.acquire(wait, -1 if left is None else left):
            if wait:
                raise ConnectionLost("another thread still restores the channel")
            return False
        try:
            while self._inner is GONE and self._restored():
                pass
            return self._inner is not GONE
        finally:
            self._lock.release()

    def _restored(self) -> bool:
        """Try once to restore; return whether it is worthwhile to go on."""
        session, generation = self._session, self._session.generation
        inner = self._made(generation)
        guard = Guard(self, inner)
        try:
            self._fill(inner, guard)
        except Exception as exc:
            if is_lost(exc, inner):
                session.lose(generation, exc)
                guilty = getattr(exc, "refused", False) or not getattr(exc, "recoverable", True)
                if guilty and self._blame(exc):
                    exc = ConnectionLost(str(exc))
                if session.is_worker():
                    raise exc
                return False
            if is_channel_closed(exc, inner) and self._blame(exc):
                return True
            raise
        return self.put(inner, guard, generation)

    def _fill(self, inner: Any, guard: Guard) -> None:
        if self._qos is not None:
            with self._step("qos"):
                inner.qos(**self._qos)
        for consumer_tag, subscription in list(self._consumers.items()):
            with self._step(consumer_tag):
                self._subscribe(inner, guard, subscription)
        if self.tracker is not None:
            owed = self.tracker.restart()
            count_on(inner, self.tracker)
            if self._session.refusals:
                self._suspicious = True
            for entry in owed:
                if not entry.settled:
                    self._send_again(inner, entry)
            self._suspicious = False

    @contextmanager
    def _step(self, what: Any) -> Iterator[None]:
        self._restoring = what
        yield
        self._restoring = None  # not after an error: that is what _blame asks for

    def _subscribe(self, inner: Any, guard: Guard, subscription: dict[str, Any]) -> Any:
        queue = self._session.journal.name(subscription["queue"])
        callback = delivery(guard, subscription["callback"], subscription["no_ack"])
        return inner.declare_consumer(**{**subscription, "queue": queue, "callback": callback})

    def _send_again(self, inner: Any, entry: Unconfirmed) -> None:
        with self._step(entry):
            inner.publish(
                entry.message,
                exchange=entry.exchange,
                routing_key=entry.routing_key,
                mandatory=entry.mandatory,
                immediate=False,
                headers=entry.headers,
            )
            if not self._suspicious:
                return
            with time_limit(self._session.timeout):
                while not entry.settled:
                    try:
                        inner.pump(time_left())
                    except DrainTimeout:
                        if time_left() == 0:
                            raise

    def _blame(self, error: Exception) -> bool:
        """Leave out what closed the channel that was restored; return whether that helps."""
        what, self._restoring = self._restoring, None
        if what is None:
            return False
        if isinstance(what, Unconfirmed):
            if self._suspicious:
                if getattr(error, "refused", False):
                    error = ConnectionLost(
                        f"{error}, over this message: correct its properties"
                    )
                self._fail(what, error)
            self._suspicious = True
            return True
        logger.warning("cannot restore %s on %s: %s", what, self._session.host, error)
        self.pending.append(error)
        self._session.dormant = True  # so that it is raised
        if what == "qos":
            self._qos = None
        else:
            self._forget(what)
        return True

    def _fail(self, culprit: Unconfirmed, error: Exception) -> None:
        tracker = self.tracker
        assert tracker is not None
        tracker.fail(culprit, error)
        if isinstance(error, (NotFound, AccessRefused)):
            # It is about the exchange: the others would fare no better.
            for entry in tracker.restart():
                if entry.exchange == culprit.exchange:
                    tracker.fail(entry, error)

    def _forget(self, consumer_tag: str) -> None:
        subscription = self._consumers.pop(consumer_tag, None)
        if subscription is not None:
            self._session.journal.cancelled(
                self._session.journal.name(subscription["queue"]), consumer_tag
            )

    def _guarded_message(self, raw_message: Any) -> Any:
        """Return the driver's message as a :class:`BaseMessage` that the guard settles."""
        raise NotImplementedError

    def _cancelled(self, consumer_tag: str) -> None:
        """Hear that the broker ended a subscription."""
        raise NotImplementedError

    def _settling_failed(self, guard: Guard, error: Exception) -> None:
        """Return if the channel was lost, so that nothing needs to be settled; else raise."""
        if is_lost(error, guard.inner) and self._session.recover:
            self._lost(guard.inner, error)
            return
        self._met(guard.inner, error)
        raise error

    def _settled_late(self, verb: str, delivery_tag: Any) -> None:
        """Tell that nothing was sent for a message of a channel that is gone."""
        self._session.count("stale_settles")
        logger.warning(
            "%s of delivery %r on %s comes too late: its channel is gone,"
            " and the broker delivers the message again",
            verb,
            delivery_tag,
            self._session.host,
        )
