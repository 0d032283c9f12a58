"""What is seen of a broker after an operation, in words that both sides share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CHANNELS_EACH", "PREDECLARED", "SHORT", "SLOTS", "Names", "Operation", "Seen"]

#: Slot, method, arguments.
Operation = tuple[int, str, dict[str, Any]]

#: How many channels there are, and how many of them share a connection.
SLOTS, CHANNELS_EACH = 4, 2

#: An expiration, milliseconds, that is waited for whenever a message has it.
SHORT = "10"

#: An exchange that always exists: asking for it is a round trip without effect.
PREDECLARED = "amq.direct"


@dataclass
class Seen:
    """What a channel was sent during an operation."""

    #: Deliveries, in order.
    delivered: list[Any] = field(default_factory=list)
    #: Messages that came back, in order.
    returned: list[Any] = field(default_factory=list)
    #: Tags of consumers that the broker cancelled.
    cancelled: set[str] = field(default_factory=set)
    #: Numbers of messages; brokers may bundle them in any way.
    confirmed: set[int] = field(default_factory=set)
    nacked: set[int] = field(default_factory=set)


class Names:
    """Names and tags that a broker chose: ``$0`` is the first one, and so on."""

    def __init__(self) -> None:
        self.chosen: list[str] = []

    def note(self, name: str) -> str:
        """Remember a name. Returns what to call it."""
        self.chosen.append(name)
        return f"${len(self.chosen) - 1}"

    def resolve(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return arguments with the names that the broker knows."""
        return {key: self._resolved(value) for key, value in arguments.items()}

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, str) and value[:1] == "$" and int(value[1:]) < len(self.chosen):
            return self.chosen[int(value[1:])]
        return value

    def comparable(self, value: Any) -> Any:
        """Return a value without what two brokers never have in common.

        These are the names that they choose, and times of death.
        """
        if isinstance(value, Mapping):
            return {
                key: "a time" if key == "time" else self.comparable(item)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.comparable(item) for item in value]
        if isinstance(value, str):
            for number, name in enumerate(self.chosen):
                value = value.replace(name, f"${number}")
            # Of a queue that was refused, there is no more than that.
            return re.sub(r"amq\.gen-[\w-]{22}", "$", value)
        # 1 == True == 1.0, but they are not the same on the wire.
        return (
            value if isinstance(value, (bytes, type(None))) else (type(value).__name__, value)
        )
