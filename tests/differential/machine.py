"""The state machine: draws operations, fits them to the state, has them compared."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.differential.comparing import Difference, Pair
from tests.differential.observing import CHANNELS_EACH, SLOTS, Operation
from tests.differential.operations import OPERATIONS, PREPARATIONS
from tests.differential.reducing import difference_in, reduced, script

__all__ = ["STEPS", "Differential"]

#: Operations compared in each sequence, beside those that prepare it.
STEPS = 30


class Differential(RuleBasedStateMachine):
    """One sequence of operations."""

    #: Arguments of :class:`amqp.Connection`.
    conninfo: ClassVar[dict[str, Any]] = {}
    #: What was done in all sequences.
    tally: ClassVar[Counter[str]] = Counter()
    #: Whole sequences after which the rest is left out.
    wanted: ClassVar[int] = 200

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.is_over = self.tally["whole sequences"] >= self.wanted
        if not self.is_over:
            self.pair = Pair(**self.conninfo)
            self.tally["sequences"] += 1

    @initialize(operations=PREPARATIONS)
    def prepare(self, operations: list[Operation]) -> None:
        """Declare a few things."""
        for operation in operations:
            self._do(operation)

    @rule(operation=OPERATIONS)
    def step(self, operation: Operation) -> None:
        """Do one operation."""
        if self.steps < STEPS and self._do(operation):
            self.steps += 1

    def teardown(self) -> None:
        """Clean the server up."""
        self.tally["steps"] += self.steps
        self.tally["whole sequences"] += self.steps == STEPS
        if hasattr(self, "pair"):
            self.pair.close()

    def _do(self, operation: Operation) -> bool:
        fitted = None if self.is_over else self._fit(*operation)
        if fitted is None:
            return False
        try:
            done = self.pair.do(fitted)
        except Difference as difference:
            self.pair.close()
            operations = self.pair.log
            # Given time, does RabbitMQ still do something else?
            if difference_in(operations, self.conninfo, pause=0.03):
                operations = reduced(operations, self.conninfo)
                found = difference_in(operations, self.conninfo) or difference
                raise Difference(f"{found}\n\n{script(operations)}") from None
            # The server was slow, not different.
            self.tally["slow"] += 1
            self.is_over = True
            return False
        self.tally[fitted[1]] += done
        self.tally["left out, racy"] += not done
        return done

    def _fit(self, slot: int, method: str, arguments: dict[str, Any]) -> Operation | None:
        """Return the operation with what depends on the state filled in, if it makes sense."""
        memory = self.pair.memory
        arguments = dict(arguments)
        if "$0" in arguments.values() and not memory.names.chosen:
            return None
        if method in ("queue_declare", "exchange_declare") and len(arguments) > 3:
            # Mostly refused where it exists, with the channel closed.
            vhost, name = memory.vhost, arguments.get("queue", arguments.get("exchange"))
            if (name in vhost.queues or name in vhost.exchanges) and len(self.pair.log) % 4:
                return None
        else:
            self._aim(method, slot, arguments)
        if "delivery_tag" in arguments:
            slots = [each for each in range(SLOTS) if memory.channels[each].unacked]
            number = arguments["delivery_tag"]
            if slots:
                slot = slots[slot % len(slots)]
            elif number >= 0:
                return None
            unacked = sorted(memory.channels[slot].unacked)
            tag = unacked[number % len(unacked)] if number >= 0 else 99
            if number < 0 and arguments.get("multiple"):
                tag = 0
            arguments["delivery_tag"] = tag
        elif "again" in arguments:
            queue = memory.vhost.queues.get(arguments["queue"])
            if queue is None:
                return None
            declared = queue.declared
            arguments = {
                "queue": declared.name,
                "durable": declared.durable,
                "exclusive": declared.exclusive,
                "auto_delete": declared.auto_delete,
                "arguments": dict(declared.arguments),
            }
        elif "body" in arguments:
            # Each message looks different.
            letter = bytes([ord("A") + len(self.pair.log) % 58])
            arguments["body"] = letter * len(arguments["body"])
        elif method == "basic_consume" and not self._may_consume(slot, arguments):
            return None
        elif method == "basic_qos" and arguments["global_"] and arguments["prefetch_count"]:
            consumers = memory.channels[slot].consumers.values()
            if len({consumer.queue for consumer in consumers}) > 1:
                return None
        return slot, method, arguments

    def _aim(self, method: str, slot: int, arguments: dict[str, Any]) -> None:
        """Name a queue that exists, rather than one that does not."""
        vhost = self.pair.memory.vhost
        queues = {
            name: queue
            for name, queue in vhost.queues.items()
            if name in ("q1", "q2", "q3") and queue.owner in (None, self._connection(slot))
        }
        if method in ("basic_get", "basic_consume"):
            filled = {name: queue for name, queue in queues.items() if queue.ready.count}
            queues = filled or queues
        exchanges = [name for name in vhost.exchanges if name in ("e1", "e2", "e3")]
        if "again" in arguments or (method == "exchange_declare" and len(arguments) > 2):
            return
        for where, there in (
            ("routing_key" if arguments.get("exchange") == "" else "queue", list(queues)),
            *((key, exchanges) for key in ("exchange", "source", "destination")),
        ):
            name = arguments.get(where, "")
            if there and name in ("q1", "q2", "q3", "e1", "e2", "e3"):
                arguments[where] = there[int(name[1:]) % len(there)]

    def _connection(self, slot: int) -> Any:
        return self.pair.memory.connections[slot // CHANNELS_EACH]

    def _may_consume(self, slot: int, arguments: dict[str, Any]) -> bool:
        memory = self.pair.memory
        channel = memory.channels[slot]
        if arguments["consumer_tag"] in channel.consumers:
            # Closes the connection, whose channels then end in any order.
            first = slot - slot % CHANNELS_EACH
            for other in range(first, min(SLOTS, first + CHANNELS_EACH)):
                one = memory.channels[other]
                if other != slot and (one.unacked or one.consumers):
                    return False
        if not arguments["consumer_tag"] and _chosen(channel):
            # Both have chosen names, by whose order RabbitMQ requeues what
            # the consumers hold: chance would decide.
            return False
        if channel._shared_prefetch:
            # RabbitMQ lets chance decide which queue gets room that was made.
            name = memory.names.resolve(arguments)["queue"] or channel._last_queue
            return all(each.queue.name == name for each in channel.consumers.values())
        return True


def _chosen(channel: Any) -> bool:
    """Return whether a consumer of a channel, or of what it holds, has a tag chosen for it."""
    holders = [consumer for _, _, consumer in channel.unacked.values() if consumer]
    consumers = [*channel.consumers.values(), *holders]
    return any(consumer.tag.startswith("amq.ctag-") for consumer in consumers)
