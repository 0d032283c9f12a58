"""Methods that the broker answers, within a deadline, for connection and channel alike."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import amqp.exceptions
from amqp.serialization import dumps

from carrot.exceptions import CarrotError, ConfigurationError, NotSupported
from carrot.utils import time_left

__all__ = ["Caller", "Reply", "within"]


def within(seconds: float) -> float:
    """Return how many of *seconds* a surrounding time limit leaves."""
    left = time_left(seconds)
    return seconds if left is None else left


class Reply:
    """What the broker answers, once it has."""

    __slots__ = ("arguments", "error", "ready")

    def __init__(self) -> None:
        self.ready = False
        self.arguments: tuple[Any, ...] = ()
        self.error: Exception | None = None

    def __call__(self, signature: Any, *arguments: Any) -> None:
        """Take the answer; called by ``dispatch_method`` of the ``amqp`` package."""
        self.arguments = arguments
        self.ready = True

    def fail(self, error: Exception) -> None:
        """Take the reason why there will be no answer."""
        self.error = error
        self.ready = True


class Caller:
    """Replaces what ``AbstractChannel`` of the ``amqp`` package does to send and wait.

    Waiting here reads what comes for others as well, and runs none of their
    callbacks. Threads may share it: calls of one channel take turns.
    """

    _driver: Any
    _pending: dict[Any, Any]
    channel_id: Any

    def _prepare_calls(self, driver: Any) -> None:
        self._driver = driver
        self._turns = threading.Lock()

    def send_method(
        self,
        sig: tuple[int, int],
        format: str | None = None,
        args: Any = None,
        content: Any = None,
        wait: Any = None,
        callback: Callable[[], Any] | None = None,
        returns_tuple: bool = False,
    ) -> Any:
        """Send a method; with *wait*, return the arguments of the answer.

        :param content: of a message, for which this is too slow.
        :raises ConfigurationError: the arguments cannot be encoded.
        :raises ConnectionLost: the answer did not come in time.
        """
        if content is not None:
            raise NotSupported("messages are written by basic_publish()")
        arguments = _encoded(sig, format, args)
        if wait is None:
            self._send(sig, arguments)
            if callback is not None:
                callback()
            return None
        answer = self.call(sig, arguments, wait if isinstance(wait, list) else [wait])
        return answer if returns_tuple else (answer[0] if answer else None)

    def call(
        self, sig: tuple[int, int], arguments: bytes, answers: list[Any], vital: bool = True
    ) -> Any:
        """Send an encoded method and wait for one of its answers.

        :param vital: whether the connection is of no use without an answer.
        """
        driver, turns = self._driver, self._turns
        driver.check(sig)
        limit = within(driver.timeout)
        deadline = monotonic() + limit
        reply = Reply()  # here: nothing may raise between taking a turn and the try
        if not turns.acquire(timeout=limit):
            # Another thread still waits for its answer, and will see to it.
            raise driver.gave_up(sig, limit, vital=False)
        try:
            # Before it is sent: another thread may read the answer at once.
            for answer in answers:
                self._pending[answer] = reply
            self._send(sig, arguments)
            driver.inbox.pump_until(reply, sig, deadline, vital)
        except BaseException as exc:
            if vital and not driver.is_closing and not isinstance(exc, CarrotError):
                # The answer would be taken for that of the next such call.
                driver.outbox.interrupted("waiting for an answer")
            raise
        finally:
            for answer in answers:
                self._pending.pop(answer, None)
            turns.release()
        if reply.error is not None:
            raise reply.error
        return reply.arguments

    def _send(self, sig: tuple[int, int], arguments: bytes) -> None:
        raise NotImplementedError


def _encoded(sig: tuple[int, int], format: str | None, args: Any) -> bytes:
    if not format:
        return b""
    try:
        data: bytes = dumps(format, args)
    except (
        amqp.exceptions.FrameSyntaxError,
        struct.error,
        AttributeError,
        TypeError,
        ValueError,
        RecursionError,
    ) as exc:
        name = amqp.exceptions.METHOD_NAME_MAP.get(sig, sig)
        text = getattr(exc, "reply_text", None) or exc
        raise ConfigurationError(f"cannot send {name} with {args!r:.200}: {text}") from exc
    return data
