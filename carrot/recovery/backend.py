"""A backend around a backend: its channel comes back when it is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from carrot.exceptions import NotFound
from carrot.recovery.connecting import is_channel_closed, is_lost
from carrot.recovery.delivery import Guard, raised_by_callback
from carrot.recovery.inner import GONE
from carrot.recovery.journal import replay
from carrot.recovery.publishing import PublishingBackend
from carrot.utils import time_limit

__all__ = ["RecoveringBackend"]

logger = logging.getLogger("carrot.recovery")


class RecoveringBackend(PublishingBackend):
    """Does what an inner backend does, and goes on when its channel is lost.

    Made by :meth:`carrot.recovery.Session.backend`. It has the methods of
    :class:`~carrot.backends.base.BaseBackend`; whatever else is asked of it
    it answers as the inner backend does, whose instance it says it is.

    Methods that declare, send or fetch are tried again on the recovered
    connection, within the connection's ``timeout`` in all; :meth:`consume`
    waits as long as it takes. Threads may share it as far as they may share
    the inner backend.
    """

    _stopping = False

    def __repr__(self) -> str:
        return repr(self._base)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        return type(self._base)

    @property
    def connection(self) -> Any:
        """The :class:`~carrot.connection.BrokerConnection` this channel belongs to."""
        return self._session.connection

    @property
    def features(self) -> frozenset[str]:
        """What the inner backend can do beyond carrot 0.10.7."""
        features: frozenset[str] = getattr(self._base, "features", frozenset())
        return features

    # -- operations that may be repeated

    def _perform(self, method: str, kwargs: dict[str, Any], stateful: bool = False) -> Any:
        """Call a method of the inner backend, again after a recovery.

        :param stateful: what it does is lost with the channel; the caller
            holds ``_lock``.
        """
        queue = kwargs.get("queue")
        kwargs = dict(kwargs)
        with time_limit(self._session.timeout):
            while True:
                inner = self._ready()
                if queue:
                    kwargs["queue"] = self._session.journal.name(queue)
                try:
                    result = getattr(inner, method)(**kwargs)
                except Exception as exc:
                    if not self._met(inner, exc):
                        raise
                    continue
                if stateful and self._inner is not inner:
                    continue  # its channel is gone again
                return result

    def queue_declare(
        self,
        queue: str,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any] | None = None,
        warn_if_exists: bool = False,
    ) -> Any:
        """Declare a queue, now and after each recovery."""
        declaration = {
            "queue": queue,
            "durable": durable,
            "exclusive": exclusive,
            "auto_delete": auto_delete,
            "arguments": arguments,
            "warn_if_exists": warn_if_exists,
        }
        result = self._perform("queue_declare", declaration)
        journal = self._session.journal
        if queue:
            journal.queue_declared(declaration, journal.name(queue))
        elif isinstance(result, (tuple, list)) and result:
            journal.queue_declared(declaration, result[0])
        return result

    def follow(self, follower: Callable[[str, str], Any]) -> None:
        """Have a method called with the former and the new name of each queue that gets one.

        The broker gives queues that it named another name when they are
        declared again. The method's object is held weakly.
        """
        self._session.journal.follow(follower)

    def queue_exists(self, queue: str) -> Any:
        """Return whether the queue exists."""
        if not self.is_needed():
            return self._perform("queue_exists", {"queue": queue})
        # The broker closes the channel to say no: not the one that is in use.
        scout = self._session.backend(self._backend_cls)
        try:
            return scout.queue_exists(queue)
        finally:
            scout.close()

    def queue_delete(self, queue: str, if_unused: bool = False, if_empty: bool = False) -> Any:
        """Delete a queue. It is not declared again."""
        result = self._perform(
            "queue_delete", {"queue": queue, "if_unused": if_unused, "if_empty": if_empty}
        )
        journal = self._session.journal
        journal.queue_deleted(journal.name(queue))
        return result

    def queue_purge(self, queue: str) -> Any:
        """Remove what is ready on a queue. Returns how many that were."""
        return self._perform("queue_purge", {"queue": queue})

    def exchange_declare(
        self, exchange: str, type: str, durable: bool, auto_delete: bool, **more: Any
    ) -> Any:
        """Declare an exchange, now and after each recovery."""
        declaration = {
            "exchange": exchange,
            "type": type,
            "durable": durable,
            "auto_delete": auto_delete,
            **more,
        }
        result = self._perform("exchange_declare", declaration)
        self._session.journal.exchange_declared(declaration)
        return result

    def queue_bind(
        self,
        queue: str,
        exchange: str,
        routing_key: str,
        arguments: Mapping[str, Any] | None = None,
    ) -> Any:
        """Bind a queue to an exchange, now and after each recovery."""
        binding = {
            "queue": queue,
            "exchange": exchange,
            "routing_key": routing_key,
            "arguments": arguments,
        }
        result = self._perform("queue_bind", binding)
        journal = self._session.journal
        journal.bound({**binding, "queue": journal.name(queue)})
        return result

    def flow(self, active: bool) -> Any:
        """Ask the broker to pause (``False``) or resume deliveries."""
        return self._perform("flow", {"active": active})

    def qos(self, prefetch_size: int, prefetch_count: int, apply_global: bool = False) -> Any:
        """Bound what the broker sends before it is settled, also after a recovery."""
        bounds = {
            "prefetch_size": prefetch_size,
            "prefetch_count": prefetch_count,
            "apply_global": apply_global,
        }
        with self._lock:
            result = self._perform("qos", bounds, stateful=True)
            self._qos = bounds
        return result

    # -- receiving

    def get(self, queue: str, no_ack: bool = False) -> Any:
        """Return the next message of a queue, or ``None``."""
        with time_limit(self._session.timeout):
            while True:
                inner, guard = self._ready(), self._guard
                try:
                    message = inner.get(self._session.journal.name(queue), no_ack=no_ack)
                except Exception as exc:
                    if not self._met(inner, exc):
                        raise
                    continue
                if self._guarding:
                    _guard(message, guard)
                return message

    def _guarded_message(self, raw_message: Any) -> Any:
        guard = self.receiving
        message = guard.inner.message_to_python(raw_message)
        _guard(message, guard)
        return message

    def declare_consumer(
        self,
        queue: str,
        no_ack: bool,
        callback: Callable[[Any], Any],
        consumer_tag: str,
        nowait: bool = False,
        **more: Any,
    ) -> Any:
        """Subscribe to a queue, now and after each recovery."""
        subscription = {
            "queue": queue,
            "no_ack": no_ack,
            "callback": callback,
            "consumer_tag": consumer_tag,
            "nowait": nowait,
            **more,
        }
        with self._lock, time_limit(self._session.timeout):
            while True:
                inner, guard = self._ready(), self._guard
                try:
                    result = self._subscribe(inner, guard, subscription)
                except Exception as exc:
                    if not self._met(inner, exc):
                        raise
                    continue
                if self._inner is inner:
                    break  # else its channel is gone again
            self._consumers[consumer_tag] = subscription
        journal = self._session.journal
        journal.consumed(journal.name(queue), consumer_tag)
        return result

    def cancel(self, consumer_tag: str) -> Any:
        """End a subscription. On a lost connection it has ended already."""
        with self._lock:
            inner = self._inner
            self._forget(consumer_tag)
            if inner is GONE:
                return None
            try:
                return inner.cancel(consumer_tag)
            except Exception as exc:
                if not self._met(inner, exc):
                    raise
        return None

    def consume(self, limit: int | None = None) -> Iterator[Any]:
        """Deliver messages to the consumers' callbacks, through lost connections too."""
        left = limit or None
        while True:
            inner = self._ready(until=self._stop_requested, patient=True)
            if self._stop_requested():
                self._stopping = False
                if inner is not GONE and "stop" in self.features:
                    # Use up the request that it was given: asked once more,
                    # it ends at once, whether it had one or not.
                    inner.stop()
                    next(inner.consume(), None)
                return
            self.raise_pending()
            try:
                for event in inner.consume(limit=left):
                    yield event
                    if left is not None:
                        left -= 1
                        if not left:
                            return
                    if self._inner is not inner:
                        break  # recovered by another thread, or by the callback
                else:
                    self._stopping = False
                    return
            except Exception as exc:
                if isinstance(exc.__cause__, StopIteration) and not raised_by_callback(exc):
                    # PEP 479: a backend of the time before it ends its
                    # generator by raising StopIteration inside.
                    return
                if raised_by_callback(exc):
                    raise
                if is_channel_closed(exc, inner):
                    self._session.heal(inner)
                    raise
                if not self._met(inner, exc):
                    raise

    def stop(self) -> None:
        """End :meth:`consume`, also while it waits for a lost connection."""
        self._stopping = True
        inner = self._inner
        if inner is not GONE and "stop" in self.features:
            inner.stop()
        self._session.wake()

    def _stop_requested(self) -> bool:
        return self._stopping

    def _cancelled(self, consumer_tag: str) -> None:
        """Subscribe again after the broker ended a subscription."""
        subscription = self._consumers.get(consumer_tag)
        if subscription is None:
            return
        journal = self._session.journal
        queue = journal.name(subscription["queue"])
        if not self._session.recover:
            self._forget(consumer_tag)
            raise NotFound(
                404, f"the broker cancelled the consumer of queue {queue!r}: it was deleted"
            )
        logger.warning(
            "the broker cancelled the consumer of queue %r on %s; subscribing again",
            queue,
            self._session.host,
        )
        inner, guard = self._inner, self._guard
        try:
            replay(journal, lambda method, kwargs: getattr(inner, method)(**kwargs), queue)
            self._subscribe(inner, guard, subscription)
        except Exception as exc:
            if not is_lost(exc, inner):
                self._forget(consumer_tag)
            if not self._met(inner, exc):
                raise

    # -- settling, for messages made by hand and for the application's own messages

    def ack(self, delivery_tag: Any) -> Any:
        """Acknowledge a delivery of the channel as it is now."""
        return self._guard.ack(delivery_tag)

    def reject(self, delivery_tag: Any) -> Any:
        """Discard or dead-letter a delivery of the channel as it is now."""
        return self._guard.reject(delivery_tag)

    def requeue(self, delivery_tag: Any) -> Any:
        """Give a delivery of the channel as it is now back to its queue."""
        return self._guard.requeue(delivery_tag)

    def close(self) -> None:
        """Close the channel. Quiet when it is closed or its connection lost."""
        with self._lock:
            for consumer_tag in list(self._consumers):
                self._forget(consumer_tag)
            self._qos = None
            if self.tracker is not None:
                self._session.retired(self.tracker)
            if self._inner is not GONE:
                _close_quietly(self._inner)


def _guard(message: Any, guard: Guard) -> None:
    try:
        if message.backend is guard.inner:
            message.backend = guard
    except AttributeError:
        pass  # whatever it is, it settles itself


def _close_quietly(inner: Any) -> None:
    try:
        inner.close()
    except Exception as exc:
        logger.debug("closing a channel: %s", exc)
