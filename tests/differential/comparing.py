"""Both sides side by side."""

from __future__ import annotations

import time
from typing import Any

from tests.differential.memory import MemorySide
from tests.differential.observing import SHORT, Operation, Seen
from tests.differential.server import ServerSide

__all__ = ["Difference", "Pair"]


class Difference(AssertionError):
    """The in-memory broker and RabbitMQ did not do the same."""


class Pair:
    """An in-memory broker and a RabbitMQ server.

    :param conninfo: arguments of :class:`amqp.Connection`.
    :param pause: seconds to leave RabbitMQ alone after each operation.
    :param patience: seconds that it may take to show what is expected of it.
    """

    def __init__(self, pause: float = 0.0, patience: float = 1.0, **conninfo: Any) -> None:
        self._vhost = conninfo["virtual_host"]
        self._pause, self._patience = pause, patience
        self._is_closed = False
        self.server = ServerSide(**conninfo)
        self.memory = MemorySide(self._vhost, [])
        #: The operations done so far.
        self.log: list[Operation] = []

    def do(self, operation: Operation) -> bool:
        """Do an operation on both sides and compare.

        :returns: ``False`` if it was left out, its outcome being up to RabbitMQ's scheduler.
        :raises Difference: they did not do the same.
        """
        memory, server = self.memory, self.server
        before = memory.queues()
        expected = memory.do(operation)
        if memory.is_racy:
            self.memory = MemorySide(self._vhost, self.log)
            return False
        self.log.append(operation)
        answer = server.do(operation)
        if answer != expected:
            self._differ(f"RabbitMQ answers {answer!r}\n  memory answers {expected!r}")
        if operation[2].get("properties", {}).get("expiration") == SHORT:
            self._wait()
        time.sleep(self._pause)
        self._compare(set(before))
        return True

    def _wait(self) -> None:
        seconds = int(SHORT) / 1000
        self.memory.do((0, "wait", {"seconds": seconds}))
        # Longer here: what is due there shall be due here.
        time.sleep(2 * seconds + 0.01)

    def _compare(self, before: set[str]) -> None:
        seen = self.memory.seen()
        queues = self.memory.queues()
        deadline = time.monotonic() + self._patience
        while fault := self._fault(seen, queues, before - set(queues)):
            if time.monotonic() > deadline:
                self._differ(fault)
            time.sleep(0.001)
        self.server.forget()

    def _fault(
        self, expected: list[Seen], queues: dict[str, tuple[int, int]], gone: set[str]
    ) -> str | None:
        for name, counts in queues.items():
            found = self.server.queue(name, self.memory.owner(name))
            if found != counts:
                return f"queue {name}: RabbitMQ has {found}, memory {counts} (ready, consumers)"
        for name in gone:
            found = self.server.queue(name, None)
            if not isinstance(found, str) or "no queue" not in found:
                return f"queue {name}: RabbitMQ still has {found}"
        # Round trips are what all this takes time for.
        busy = [
            slot
            for slot, channel in enumerate(self.memory.channels)
            if channel.consumers or expected[slot] != Seen()
        ]
        sent = self.server.seen(busy)
        for slot, (seen, wanted) in enumerate(zip(sent, expected, strict=True)):
            if seen != wanted:
                return f"channel {slot}: RabbitMQ sent {seen}\n  memory sent {wanted}"
        return None

    def _differ(self, what: str) -> None:
        raise Difference(f"{self.log[-1]}\n  {what}")

    def close(self) -> None:
        """Close the connections, and delete whatever was declared."""
        if self._is_closed:
            return
        self._is_closed = True
        queues, exchanges = set(), set()
        for _, method, arguments in self.log:
            if method == "queue_declare" and arguments.get("queue"):
                queues.add(arguments["queue"])
            elif method == "exchange_declare":
                exchanges.add(arguments["exchange"])
        self.server.close(queues, {name for name in exchanges if name[:4] not in ("", "amq.")})
