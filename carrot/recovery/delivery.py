"""What one channel delivered: whose callback it is, and who may settle it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carrot.recovery.inner import Replaceable

__all__ = ["Guard", "delivery", "raised_by_callback"]


class Guard:
    """Settles the messages of one inner backend, for as long as that is in use.

    Messages have it as their ``backend``. A delivery tag means something to
    the channel that issued it and to no other: sent on another it would cost
    that channel (406), or settle a different message.
    """

    __slots__ = ("backend", "inner", "live")

    def __init__(self, backend: Replaceable, inner: Any) -> None:
        self.backend = backend
        self.inner = inner
        #: False once the inner backend was replaced.
        self.live = True

    def __repr__(self) -> str:
        return f"<Guard of {self.backend!r}, {'live' if self.live else 'stale'}>"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def ack(self, delivery_tag: Any) -> Any:
        """Acknowledge a delivery; sends nothing when its channel is gone."""
        if self.live:
            try:
                return self.inner.ack(delivery_tag)
            except Exception as exc:
                self.backend._settling_failed(self, exc)
        return self.backend._settled_late("ack", delivery_tag)

    def reject(self, delivery_tag: Any) -> Any:
        """Discard a delivery; sends nothing when its channel is gone."""
        if self.live:
            try:
                return self.inner.reject(delivery_tag)
            except Exception as exc:
                self.backend._settling_failed(self, exc)
        return self.backend._settled_late("reject", delivery_tag)

    def requeue(self, delivery_tag: Any) -> Any:
        """Give a delivery back; sends nothing when its channel is gone."""
        if self.live:
            try:
                return self.inner.requeue(delivery_tag)
            except Exception as exc:
                self.backend._settling_failed(self, exc)
        return self.backend._settled_late("requeue", delivery_tag)


def delivery(
    guard: Guard, callback: Callable[[Any], Any], no_ack: bool
) -> Callable[[Any], Any]:
    """Return the callback of a subscription on the guard's inner backend.

    A delivery of a channel that was replaced meanwhile is dropped, because
    the broker sends it again; unless it forgot the message as it was sent.
    """

    backend = guard.backend

    def deliver(raw_message: Any) -> Any:
        if guard.live or no_ack:
            backend.receiving = guard
            return callback(raw_message)
        return None

    return deliver


_DELIVER = delivery(Guard(None, None), id, False).__code__  # type: ignore[arg-type]


def raised_by_callback(error: BaseException) -> bool:
    """Return whether an application's callback raised, rather than the backend below it.

    An application may lose connections of its own; this one is not to blame.
    """
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code is _DELIVER:
            return True
        traceback = traceback.tb_next
    return False
