"""The sending half of a recovering backend: each message once at least, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from carrot.confirms import Tracker, Unconfirmed, publish_error
from carrot.exceptions import (
    BrokerConnectionError,
    ConfirmTimeout,
    ConnectionLost,
    DrainTimeout,
    NotSupported,
)
from carrot.recovery.connecting import is_channel_closed
from carrot.recovery.inner import GONE, Replaceable, count_on
from carrot.utils import time_left, time_limit

__all__ = ["PublishingBackend", "wait_for_confirms"]


class PublishingBackend(Replaceable):
    """Publishes, and waits for confirms."""

    def publish(
        self,
        message: Any,
        exchange: str,
        routing_key: str,
        mandatory: bool | None = None,
        immediate: bool | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> Any:
        """Send a message; wait only while the window is full, or the connection lost.

        :raises ConnectionLost: it did not come back within the connection's
            ``timeout``. This message was given up; ``.messages`` lists it and
            what was not confirmed before, which is still sent once the
            connection is back.
        :raises PublishError: as many messages as the window holds failed, and
            nobody asked; nothing was sent.
        """
        inner = self._inner
        since = self.tracker.published if self.tracker is not None else 0
        started = monotonic()
        try:
            return inner.publish(
                message,
                exchange=exchange,
                routing_key=routing_key,
                mandatory=mandatory,
                immediate=immediate,
                headers=headers,
            )
        except Exception as exc:
            arguments = {
                "exchange": exchange,
                "routing_key": routing_key,
                "mandatory": mandatory,
                "immediate": immediate,
                "headers": headers,
            }
            left = self._session.timeout - (monotonic() - started)
            with time_limit(max(0.0, left)):
                return self._publish_again(inner, exc, since, message, arguments)

    def _publish_again(
        self,
        inner: Any,
        error: Exception,
        since: int,
        message: Any,
        arguments: dict[str, Any],
    ) -> Any:
        tracker = self.tracker
        while True:
            # What the tracker holds is sent again, in its turn, by who
            # restores the channel.
            entered = tracker is not None and tracker.holds(message, since)
            again = self._met(inner, error)
            if not again and not (tracker is not None and is_channel_closed(error, inner)):
                raise error
            try:
                inner = self._ready()
            except ConnectionLost as exc:
                if tracker is not None:
                    exc.messages = tracker.unconfirmed()
                    tracker.withdraw(message, since)
                if not entered:
                    exc.messages = [*exc.messages, _record(message, arguments)]
                raise
            except DrainTimeout as exc:
                raise ConfirmTimeout(
                    f"the broker did not confirm earlier messages in time: {exc}",
                    tracker.unconfirmed() if tracker is not None else (),
                ) from error
            if entered:
                return None
            if tracker is not None:
                since = tracker.published
            try:
                return inner.publish(message, **arguments)
            except Exception as exc:
                error = exc

    def shortcuts(self, kind: tuple[Any, ...]) -> dict[Any, Any]:
        """Return the short ways of the channel as it is: none once that is gone."""
        with self._session.lock:
            inner = self._inner
            self._shortcuts = {} if inner is GONE else inner.shortcuts(kind)
            return self._shortcuts

    # -- confirms

    def confirm_select(self, tracker: Tracker) -> None:
        """Have the broker confirm each message, on the channels to come too."""
        if "confirms" not in getattr(self._base, "features", ()):
            raise NotSupported(f"{self._base!r} knows no publisher confirms")
        with self._lock:
            if self._inner is not GONE:
                count_on(self._inner, tracker)
            self.tracker = tracker
            self._session.track(self, tracker)

    def pump(self, timeout: float | None = None) -> None:
        """Read what the broker has to say; after a lost connection, once it is back."""
        inner = self._inner
        try:
            inner.pump(timeout)
        except DrainTimeout:
            raise
        except Exception as exc:
            if not self._met(inner, exc) and not is_channel_closed(exc, inner):
                raise
            with time_limit(self._session.timeout if timeout is None else timeout):
                self._ready()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the broker has answered for every message sent so far.

        :param timeout: seconds to wait at most, recovering included;
            ``None``: the connection's ``timeout``.
        :raises PublishError: messages were not accepted, or not confirmed in
            time (:class:`ConfirmTimeout`); ``.messages`` has them. They were
            given up, and are not sent again.
        """
        if self.tracker is None:
            return
        with time_limit(self._session.timeout if timeout is None else timeout):
            wait_for_confirms(self.tracker, self.pump)
        failures = self.tracker.take_failures()
        if failures:
            raise publish_error(failures)


def _record(message: Any, arguments: dict[str, Any]) -> Unconfirmed:
    given = {name: value for name, value in arguments.items() if name != "immediate"}
    return Unconfirmed(message, **given)


def wait_for_confirms(tracker: Tracker, pump: Callable[[float | None], object]) -> None:
    """Wait until what was sent so far is settled, within :func:`carrot.utils.time_limit`.

    What is not settled by then becomes a failure of the tracker.

    :param pump: ``pump`` of the backend.
    """
    last = tracker.published
    while (oldest := tracker.oldest) is not None and oldest <= last:
        left = time_left()
        error: Exception
        if left is not None and left <= 0:
            error = ConfirmTimeout("no answer from the broker")
        else:
            try:
                pump(left)
                continue
            except DrainTimeout:
                continue
            except ConnectionLost as exc:
                error = ConfirmTimeout(str(exc))
            except BrokerConnectionError as exc:  # closed, refused: nothing to wait for
                error = exc
        tracker.fail_all(error, last)
