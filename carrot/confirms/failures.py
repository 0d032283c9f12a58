"""From messages that failed to the error that tells of them."""

from __future__ import annotations

from collections.abc import Sequence

from carrot.confirms.unconfirmed import Unconfirmed
from carrot.exceptions import (
    ChannelError,
    ConfirmTimeout,
    PublishError,
    PublishNacked,
    Unroutable,
    publish_refused,
)

__all__ = ["publish_error"]


def publish_error(failures: Sequence[Unconfirmed]) -> PublishError:
    """Return the error that reports *failures*, of the class that fits them all."""
    errors = [entry.error for entry in failures]
    first = errors[0]
    text = f"{_count(failures)} to {_destinations(failures)}"
    if all(isinstance(error, Unroutable) for error in errors):
        return Unroutable(
            f"{text} returned by the broker ({first}): no queue is bound there;"
            " declare the consumer first, or send without mandatory=True",
            failures,
        )
    if all(isinstance(error, PublishNacked) for error in errors):
        return PublishNacked(
            f"{text} refused by the broker (nacked): a queue is full and rejects more,"
            " or could not store them; send them again later",
            failures,
        )
    if isinstance(first, ChannelError) and all(
        isinstance(error, ChannelError) and error.reply_code == first.reply_code
        for error in errors
    ):
        return publish_refused(
            first.reply_code,
            first.reply_text,
            f"{text} refused by the broker, which closed the channel:"
            f" {first.reply_code} {first.reply_text}{_REMEDIES.get(first.reply_code, '')}",
            failures,
        )
    if all(isinstance(error, ConfirmTimeout) for error in errors):
        return ConfirmTimeout(
            f"{text} not confirmed in time: {first}; they may or may not arrive;"
            " allow more time (timeout=), or send them again and expect duplicates",
            failures,
        )
    reasons = ", ".join(sorted({f"{type(e).__name__}: {e}" for e in errors}))
    return PublishError(f"{text} not accepted ({reasons}); see .messages", failures)


_REMEDIES = {
    403: "; grant the user the permission to write to the exchange",
    404: "; declare the exchange before sending to it",
    406: "; send smaller messages or correct their properties (see what the broker says)",
}


def _count(failures: Sequence[Unconfirmed]) -> str:
    return "1 message" if len(failures) == 1 else f"{len(failures)} messages"


def _destinations(failures: Sequence[Unconfirmed]) -> str:
    places = dict.fromkeys((entry.exchange, entry.routing_key) for entry in failures)
    (exchange, routing_key), *others = places
    more = f" (and {len(others)} other destinations)" if others else ""
    verb = "was" if len(failures) == 1 else "were"
    return f"exchange {exchange!r} with routing key {routing_key!r}{more} {verb}"
