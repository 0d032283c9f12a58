"""The record that dead-lettered messages carry: when, where and why they died."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, NamedTuple

from carrot.broker.ready import Message

__all__ = ["Death", "buried", "is_cycle"]


class Death(NamedTuple):
    """Deaths of a message on one queue for one reason."""

    queue: str
    #: ``"rejected"``, ``"expired"`` or ``"maxlen"``.
    reason: str
    exchange: str
    routing_keys: tuple[str, ...]
    #: Time of the first one: POSIX, seconds.
    time: float
    #: The expiration that the message had, in milliseconds as on the wire.
    expiration: str | None
    times: int = 1

    def header(self) -> dict[str, Any]:
        """Return the entry of the header ``x-death``."""
        entry = {
            "count": self.times,
            "reason": self.reason,
            "queue": self.queue,
            # As the amqp package decodes timestamps: naive, in UTC.
            "time": datetime.fromtimestamp(int(self.time), timezone.utc).replace(tzinfo=None),
            "exchange": self.exchange,
            "routing-keys": list(self.routing_keys),
        }
        if self.expiration is not None:
            entry["original-expiration"] = self.expiration
        return entry


def buried(message: Message, queue: str, reason: str, time: float) -> Message:
    """Return the message as it is dead-lettered, with its death recorded.

    It does not expire again by the time to live that it was published with.

    :param time: POSIX time, seconds.
    """
    properties = dict(message.properties)
    death = Death(
        queue,
        reason,
        message.exchange,
        (message.routing_key, *(message.copies.shown if message.copies else ())),
        time,
        properties.pop("expiration", None),
    )
    others = []
    for former in message.deaths:
        if former.queue == queue and former.reason == reason:
            death = former._replace(times=former.times + 1)
        else:
            others.append(former)
    deaths = (death, *others)
    headers = dict(properties.get("headers") or {})
    headers["x-death"] = [each.header() for each in deaths]
    if not message.deaths:
        _tell(headers, "first", reason, queue, message.exchange)
    _tell(headers, "last", reason, queue, message.exchange)
    properties["headers"] = headers
    return Message(
        message.body,
        properties,
        message.exchange,
        message.routing_key,
        message.copies,
        deaths,
    )


def _tell(headers: dict[str, Any], which: str, reason: str, queue: str, exchange: str) -> None:
    headers[f"x-{which}-death-reason"] = reason
    headers[f"x-{which}-death-queue"] = queue
    headers[f"x-{which}-death-exchange"] = exchange


def is_cycle(message: Message, queue: str) -> bool:
    """Return whether a message came round to a queue without anyone rejecting it.

    RabbitMQ drops it there, since it would go round for ever.
    """
    for death in message.deaths:
        if death.reason == "rejected":
            return False
        if death.queue == queue:
            return True
    return False
