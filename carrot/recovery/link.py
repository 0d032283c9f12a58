"""The link to the broker: established, lost, recovered, closed."""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import get_ident
from time import monotonic
from typing import Any

from carrot.exceptions import ConnectionClosed, ConnectionLost
from carrot.recovery.bells import Bells
from carrot.recovery.connecting import Connector, is_lost, may_pass
from carrot.utils import time_left, time_limit

__all__ = ["Link"]

logger = logging.getLogger("carrot.recovery")

#: Seconds before the second try to reconnect (the first is made at once);
#: doubled for each further try, up to the longest.
FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0

_BUSY = ("connecting", "recovering")

#: Seconds that a goodbye may take, where the connection bounds nothing.
_GOODBYE = 5.0


class Link:
    """The driver's connection, whichever it is at the time.

    ::

        new --> connecting --> open --> recovering --> open ...
         ^          |           |           |
         `----------'           `-> closed <'   from any state; reopen() makes it new

    A driver that has an attribute ``on_lost``, ``None`` at first, is asked to
    call it with the error when it loses its connection; from others that is
    heard when they are used next.

    A thread of its own recovers a lost connection; the others wait for it,
    each no longer than it may. Threads share a link.

    :param connection: read at each use: ``hosts``, ``recover``, ``timeout``,
        ``wait_for_broker``, ``on_state``, ``get_backend_cls()``.
    :param pause: waits for so many seconds between two tries, or until the
        link is closed; for tests.
    :param jitter: a random number from 0 to 1; for tests.
    """

    def __init__(
        self,
        connection: Any,
        *,
        pause: Callable[[float], object] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.connection = connection
        #: ``"new"``, ``"connecting"``, ``"open"``, ``"recovering"`` or ``"closed"``.
        self.state = "new"
        #: Number of the driver's connection; grows with each.
        self.generation = 1
        #: The driver's connection, if there is one.
        self.driver: Any = None
        #: Guards what is above, and which inner backend is in place; held for
        #: moments only. Reentrant, for signal handlers.
        self.lock = threading.RLock()
        self._bells = Bells()
        self._pause = pause
        self._jitter = jitter
        self._connector = Connector(connection)
        # The thread that connects or recovers: it may use the driver already.
        self._worker: int | None = None
        # Whether the next connection, though not recovered, has to be restored.
        self._replay = False
        # Why recovering was given up, or the connection closed by itself.
        self._cause: BaseException | None = None
        # The generation that was lost last.
        self._lost = 0
        # Why the connection was lost, or the last try to recover failed.
        self._trouble: BaseException | None = None
        #: How many connections in a row the broker ended over what it was sent.
        self.refusals = 0
        # When the connection was established.
        self._opened_at = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.generation} of {self.host} {self.state}>"

    @property
    def host(self) -> str:
        """Host and port, for people."""
        return str(self.connection.host or "the broker")

    @property
    def recover(self) -> bool:
        """Whether a lost connection is to be recovered."""
        return bool(getattr(self.connection, "recover", True))

    @property
    def timeout(self) -> float:
        """Seconds that an operation may take, recovering included."""
        return float(getattr(self.connection, "timeout", 30.0))

    def is_worker(self) -> bool:
        """Return whether this thread is the one that connects or recovers."""
        return self._worker == get_ident()

    # -- what hangs on the link

    def _restore_all(self) -> None:
        """Bring back what there was on the connection before. In the worker's thread."""
        raise NotImplementedError

    def _gate_all(self) -> None:
        """Let nobody use what was on the connection. Under the lock."""
        raise NotImplementedError

    def _abandon_all(self, cause: Exception) -> None:
        """Give up what waits for the connection: it will not come back."""
        raise NotImplementedError

    # -- opening

    def open(self, until: Callable[[], bool] | None = None, patient: bool = False) -> Any:
        """Return the driver's connection: connect, or wait while it is recovered.

        :param until: return ``None`` as soon as this is true.
        :param patient: wait for a recovery as long as it takes, and not only
            the connection's ``timeout``.
        :raises ConnectFailed: the first connection failed; with
            ``wait_for_broker`` that is tried again for as long.
        :raises AuthenticationFailed: at once.
        :raises ConnectionLost: the connection was not recovered in time.
        :raises ConnectionClosed: the link is closed.
        """
        if self.state == "open" or self._worker == get_ident():
            return self.driver
        # A caller that bounds itself may wait longer: flush(timeout=60), say.
        bounded = patient or time_left() is not None
        with time_limit(None if bounded else self.timeout):
            return self._open(until or _never)

    def _open(self, until: Callable[[], bool]) -> Any:
        while True:
            with self.lock:
                state = self.state
                if state == "new":
                    self.state, self._worker = "connecting", get_ident()
            if state == "open":
                return self.driver
            if state == "closed":
                raise self._closed_error()
            if state == "new":
                return self._connect_first(until)
            over = self._bells.wait(lambda: self.state not in _BUSY or until())
            if until():
                return None
            if not over:  # that it is lost again, meanwhile, is no reason to give up
                raise ConnectionLost(self._lost_text()) from self._trouble
            if state == "recovering" and self.state == "new" and self._cause is not None:
                raise self._cause

    def _connect_first(self, until: Callable[[], bool]) -> Any:
        self._announce("connecting", None)
        driver = None
        try:
            driver = self._connect(until)
            self._adopt(driver, "connecting")
            if self._replay:
                self._restore_all()
            self._opened("connecting")
        except BaseException as exc:
            with self.lock:
                self._worker = None
                failed = self.state == "connecting"
                if failed:
                    self.state, self.driver = "new", None
                    self._gate_all()
            self._connector.close(driver, 0)
            if failed:
                self._announce("new", exc)
            raise
        self._announce("open", None)
        return driver

    def _connect(self, until: Callable[[], bool]) -> Any:
        attempt = 0
        while True:
            try:
                return self._connector.connect()
            except Exception as exc:
                if not getattr(self.connection, "wait_for_broker", False) or not may_pass(exc):
                    raise
                logger.info("waiting for the broker: %s", exc)
                attempt += 1
                self._rest(self._delay(attempt), lambda: self.state == "closed" or until())
                if self.state == "closed" or until() or time_left() == 0:
                    raise

    def _adopt(self, driver: Any, state: str) -> None:
        with self.lock:
            if self.state != state:
                raise self._closed_error()
            self.driver = driver
            if state == "recovering":
                self.generation += 1
            if getattr(driver, "on_lost", driver) is None:
                driver.on_lost = partial(_heard, weakref.ref(self), self.generation)

    def _opened(self, state: str) -> None:
        with self.lock:
            if self.state != state:
                raise self._closed_error()
            self.state, self._worker, self._replay = "open", None, False
            self._opened_at = monotonic()
            self._cause = self._trouble = None

    def reopen(self) -> None:
        """Let the link connect again, after it was closed."""
        with self.lock:
            if self.state == "closed":
                self.state, self._cause, self._replay = "new", None, self.recover

    # -- losing and recovering

    def lose(self, generation: int, cause: Exception) -> None:
        """Note that the connection of *generation* broke; have it recovered.

        Does not wait, and does nothing when it was noted before.
        """
        with self.lock:
            if self.state != "open" or generation != self.generation:
                return
            recover = self.recover
            driver, self.driver = self.driver, None
            self._lost = generation
            self.state = "recovering" if recover else "closed"
            self._cause, self._trouble = (None if recover else cause), cause
            stood = monotonic() - self._opened_at >= LONGEST_DELAY
            before = 0 if stood else self.refusals
            self.refusals = before + 1 if getattr(cause, "refused", False) else 0
            self._gate_all()
        if recover:
            logger.warning("lost the connection to %s: %s; reconnecting", self.host, cause)
            self._announce("recovering", cause)
            self._start_recovering(driver)
            return
        logger.warning("lost the connection to %s: %s", self.host, cause)
        self._abandon_all(cause)
        self._announce("closed", cause)
        self._connector.close(driver, 0)

    def check_given_up(self, generation: int) -> None:
        """Raise why recovering was given up, if it was, after *generation* was lost.

        For those who met the loss. Others simply connect anew.
        """
        with self.lock:
            if self.state == "new" and self._lost == generation and self._cause is not None:
                raise self._cause

    def _start_recovering(self, driver: Any) -> None:
        thread = threading.Thread(
            target=_recover,
            args=(weakref.ref(self), driver, self._bells, self._pause),
            name="carrot-recovery",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as exc:  # no threads any more: the interpreter exits
            self._give_up(exc)

    def try_to_recover(self, attempt: int, since: float) -> bool:
        """Connect and restore; return whether there is nothing left to do.

        :param attempt: number of the try, from 1.
        :param since: when the connection was lost, of the monotonic clock.
        """
        self._worker = get_ident()
        driver = None
        try:
            driver = self._connector.connect()
            self._adopt(driver, "recovering")
            self._restore_all()
            self._opened("recovering")
        except Exception as exc:
            with self.lock:
                self._worker = None
                wanted = self.state == "recovering"
                if wanted:
                    self.driver, self._trouble = None, exc
                    self._gate_all()
            self._connector.close(driver, 0)
            if wanted and may_pass(exc):
                logger.info("try %d to reconnect to %s: %s", attempt, self.host, exc)
                return False
            self._give_up(exc)
            return True
        seconds = monotonic() - since
        logger.info("reconnected to %s at try %d, after %.1f s", self.host, attempt, seconds)
        self._announce("open", None)
        return True

    def _give_up(self, cause: Exception) -> None:
        with self.lock:
            if self.state != "recovering":
                return
            self.state, self._cause, self._replay = "new", cause, True
            self.generation += 1
        logger.error("cannot recover the connection to %s: %s", self.host, cause)
        self._announce("new", cause)

    def _delay(self, attempt: int) -> float:
        if attempt == 0:
            return 0.0
        longest = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt - 1, 16))
        # Jitter keeps a fleet of clients from coming back all at once.
        return longest * (0.5 + 0.5 * self._jitter())

    def _rest(self, seconds: float, until: Callable[[], bool]) -> None:
        if self._pause is not None:
            self._pause(seconds)
            return
        with time_limit(seconds):
            self._bells.wait(until)

    # -- closing

    def close(self) -> None:
        """Close; at once where a recovery runs. Idempotent, and quiet."""
        with self.lock:
            if self.state == "closed":
                return
            driver, self.driver = self.driver, None
            self.state, self._cause = "closed", None
            self.generation += 1
            self._gate_all()
        self._announce("closed", None)
        self._abandon_all(ConnectionClosed(f"the connection to {self.host} was closed"))
        timeout = getattr(self.connection, "connect_timeout", None) or _GOODBYE
        self._connector.close(driver, timeout)

    def wake(self) -> None:
        """Have waiting threads look whether they should still wait. For signal handlers too."""
        self._bells.ring()

    def _closed_error(self) -> ConnectionClosed:
        why = f" ({self._cause})" if self._cause is not None else ""
        error = ConnectionClosed(
            f"the connection to {self.host} is closed{why}; call its connect() to use it again"
        )
        error.__cause__ = self._cause
        return error

    def _lost_text(self) -> str:
        return (
            f"the connection to {self.host} is lost and did not come back in time:"
            f" {self._trouble}"
        )

    def _announce(self, state: str, cause: BaseException | None) -> None:
        """Tell of a change of state; outside of locks."""
        self._bells.ring()
        listener = getattr(self.connection, "on_state", None)
        if listener is None:
            return
        try:
            listener(state, cause)
        except Exception:
            logger.exception("on_state(%r) failed", state)


def _heard(reference: weakref.ref[Link], generation: int, error: Exception) -> None:
    """Hear from the driver that it lost its connection, perhaps while nobody used it.

    Called with whatever locks the driver holds: the rest is another thread's.
    """
    link = reference()
    if link is not None and link.state == "open" and is_lost(error, None):
        with suppress(RuntimeError):  # no threads any more: the interpreter exits
            threading.Thread(target=link.lose, args=(generation, error), daemon=True).start()


def _never() -> bool:
    return False


def _recover(
    reference: weakref.ref[Link],
    driver: Any,
    bells: Bells,
    pause: Callable[[float], object] | None,
) -> None:
    """Recover a link for as long as it is wanted. Runs in a thread of its own."""

    def wanted() -> Link | None:
        link = reference()
        return link if link is not None and link.state == "recovering" else None

    since, attempt = monotonic(), 0
    while (link := wanted()) is not None:
        link._connector.close(driver, 0)
        driver = None
        # What the broker refuses again and again is not sent without a pause.
        delay = link._delay(attempt + max(0, link.refusals - 1))
        attempt += 1
        del link  # not held while pausing: nobody might want it any more
        if pause is not None:
            pause(delay)
        else:
            with time_limit(delay):
                bells.wait(lambda: wanted() is None)
        link = wanted()
        if link is None or link.try_to_recover(attempt, since):
            return
        del link
