"""How the broker refuses: reply codes and texts, as RabbitMQ 4.0 words them."""

from __future__ import annotations

from carrot.exceptions import ChannelError, channel_error

__all__ = ["CLOSES_CONNECTION", "refusal", "resource"]

_NAMES = {
    403: "ACCESS_REFUSED",
    404: "NOT_FOUND",
    405: "RESOURCE_LOCKED",
    406: "PRECONDITION_FAILED",
    503: "COMMAND_INVALID",
    504: "CHANNEL_ERROR",
    530: "NOT_ALLOWED",
    540: "NOT_IMPLEMENTED",
}

#: Reply codes with which a broker closes the whole connection
#: (AMQP 0-9-1, section 1.2: "hard" errors); the others close a channel.
CLOSES_CONNECTION = frozenset([503, 504, 530, 540])


def refusal(reply_code: int, text: str) -> ChannelError:
    """Return the error for a refused operation."""
    reply_text = f"{_NAMES[reply_code]} - {text}"
    encoded = reply_text.encode()
    if len(encoded) > 255:  # a reply text is a short string on the wire
        reply_text = encoded[:252].decode(errors="ignore") + "..."
    return channel_error(reply_code, reply_text)


def resource(kind: str, name: str, vhost: str) -> str:
    """Return how refusals name a queue or an exchange."""
    return f"{kind} '{name}' in vhost '{vhost}'"
