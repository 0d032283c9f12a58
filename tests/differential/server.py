"""RabbitMQ's side of the comparison."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import amqp
from amqp import spec
from amqp.exceptions import AMQPError, RecoverableConnectionError

from tests.differential.observing import (
    CHANNELS_EACH,
    PREDECLARED,
    SLOTS,
    Names,
    Operation,
    Seen,
)

__all__ = ["ServerSide"]


class ServerSide:
    """Connections and channels to a RabbitMQ server.

    :param conninfo: arguments of :class:`amqp.Connection`.
    """

    def __init__(self, **conninfo: Any) -> None:
        self._conninfo = conninfo
        self.names = Names()
        self._seen = [Seen() for _ in range(SLOTS)]
        #: Numbers of messages that a channel was promised an answer for.
        self._unconfirmed: list[set[int]] = [set() for _ in range(SLOTS)]
        #: How many were published on a channel since it confirms.
        self._published: list[int | None] = [None] * SLOTS
        self.connections: list[amqp.Connection] = []
        self.channels: list[amqp.Channel] = []
        #: A channel of each connection, to look at queues with.
        self.probes: list[amqp.Channel] = []
        for number in range(SLOTS // CHANNELS_EACH):
            self._connect(number)

    def close(self, queues: Iterable[str] = (), exchanges: Iterable[str] = ()) -> None:
        """Close the connections. Deletes what is named, and the queues it chose names for."""
        first, *others = self.connections
        for connection in others:
            with suppress(AMQPError, OSError):
                connection.close()
        for channel in self.channels[:CHANNELS_EACH]:
            with suppress(AMQPError, OSError):
                channel.close()
        probe = self.probes[0]
        for name in exchanges:
            probe.exchange_delete(name)
        for name in [*queues, *self.names.chosen]:
            probe.queue_delete(name)
        first.close()

    # -- operations

    def do(self, operation: Operation) -> Any:
        """Do an operation. Returns the answer, or the error."""
        slot, method, arguments = operation
        try:
            answer = self._answer(slot, method, self.names.resolve(arguments))
            if method.startswith("basic_") and method != "basic_get":
                self._round_trip(slot)  # an error answers what has no answer of its own
            return self.names.comparable(answer)
        except AMQPError as error:
            return self.names.comparable(self._failed(slot, error))

    def _answer(self, slot: int, method: str, arguments: dict[str, Any]) -> Any:
        channel = self.channels[slot]
        if method == "close_connection":
            self._close_connection(slot // CHANNELS_EACH)
            return None
        if method == "close":
            channel.close()
            self._open(slot)
            return None
        if method == "basic_publish":
            self._publish(slot, **arguments)
            return None
        if method == "basic_qos":
            channel.basic_qos(0, arguments["prefetch_count"], arguments["global_"])
            return None
        if method == "basic_consume":
            return self._consume(slot, arguments)
        if method == "confirm_select" and self._published[slot] is None:
            self._published[slot] = 0
        if method == "basic_nack":
            settled = (arguments[key] for key in ("delivery_tag", "multiple", "requeue"))
            channel.send_method((60, 120), "Lbb", tuple(settled))
            return None
        if method == "exchange_declare":
            self._declare_exchange(slot, **arguments)
            return None
        if method == "queue_declare":
            arguments.setdefault("auto_delete", False)  # True to the amqp package
        answer = getattr(channel, method)(**arguments)
        if method == "queue_declare":
            if not arguments.get("queue"):
                self.names.note(answer[0])
            return answer
        if method == "basic_get" and answer is not None:
            return [*_message(answer), answer.delivery_info["message_count"]]
        return answer if method in ("queue_delete", "queue_purge") else None

    def _declare_exchange(
        self,
        slot: int,
        exchange: str,
        type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Any = None,
    ) -> None:
        # The amqp package's own method knows of no internal exchanges.
        flags = (passive, durable, auto_delete, internal, False)
        self.channels[slot].send_method(
            spec.Exchange.Declare,
            "BssbbbbbF",
            (0, exchange, type, *flags, arguments or {}),
            wait=spec.Exchange.DeclareOk,
        )

    def _publish(
        self,
        slot: int,
        body: bytes,
        properties: dict[str, Any],
        exchange: str,
        routing_key: str,
        mandatory: bool,
    ) -> None:
        properties = dict(properties)
        if "headers" in properties:
            properties["application_headers"] = properties.pop("headers")
        number = self._published[slot]
        if number is not None:
            self._published[slot] = number + 1
            self._unconfirmed[slot].add(number + 1)
        self.channels[slot].basic_publish(
            amqp.Message(body, **properties), exchange, routing_key, mandatory=mandatory
        )

    def _consume(self, slot: int, arguments: dict[str, Any]) -> str:
        delivered, comparable = self._seen[slot].delivered, self.names.comparable
        tag = self.channels[slot].basic_consume(
            **arguments,
            callback=lambda message: delivered.append(
                comparable([message.delivery_info["consumer_tag"], *_message(message)])
            ),
            on_cancel=lambda tag: self._seen[slot].cancelled.add(comparable(tag)),
        )
        if not arguments.get("consumer_tag"):
            self.names.note(tag)
        return str(tag)

    # -- what is sent to channels

    def seen(self, busy: Iterable[int]) -> list[Seen]:
        """Return what each channel was sent since :meth:`forget`.

        :param busy: the channels that may be sent something just now.
        """
        for slot in busy:
            self._round_trip(slot)
        return self._seen

    def forget(self) -> None:
        """Begin anew with what is seen."""
        for seen in self._seen:
            # The lists are filled by callbacks that know them.
            for each in (seen.delivered, seen.returned):
                each.clear()
            for group in (seen.cancelled, seen.confirmed, seen.nacked):
                group.clear()

    def queue(self, name: str, owner: int | None) -> tuple[int, int] | str:
        """Return how many messages and consumers a queue has, or why that is not known."""
        number, name = owner or 0, self.names.resolve({"": name})[""]
        try:
            _, messages, consumers = self.probes[number].queue_declare(name, passive=True)
        except AMQPError as error:
            return str(error.reply_text)  # closed; the amqp package has opened it again
        return messages, consumers

    def _round_trip(self, slot: int) -> None:
        self.channels[slot].exchange_declare(PREDECLARED, "direct", passive=True)

    # -- connections and channels

    def _connect(self, number: int) -> None:
        connection = amqp.Connection(**self._conninfo)
        connection.connect()
        self.connections[number : number + 1] = [connection]
        self.probes[number : number + 1] = [connection.channel()]
        for slot in range(number * CHANNELS_EACH, (number + 1) * CHANNELS_EACH):
            self._open(slot)

    def _open(self, slot: int) -> None:
        channel = self.connections[slot // CHANNELS_EACH].channel()
        self.channels[slot : slot + 1] = [channel]
        self._opened(slot)

    def _opened(self, slot: int) -> None:
        self._unconfirmed[slot].clear()
        self._published[slot] = None
        self.forget_slot(slot)
        events = self.channels[slot].events
        events["basic_return"] = {partial(self._returned, slot)}
        events["basic_ack"] = {partial(self._settled, slot, "confirmed")}
        events["basic_nack"] = {partial(self._settled, slot, "nacked")}

    def forget_slot(self, slot: int) -> None:
        """Begin anew with a channel that was opened again."""
        self._seen[slot : slot + 1] = [Seen()]

    def _close_connection(self, number: int) -> None:
        # One channel after the other: RabbitMQ ends them in any order.
        for slot in range(number * CHANNELS_EACH, (number + 1) * CHANNELS_EACH):
            self.channels[slot].close()
        self.connections[number].close()
        self._connect(number)

    def _failed(self, slot: int, error: AMQPError) -> Any:
        if isinstance(error, RecoverableConnectionError) or not error.reply_code:
            raise error
        number = slot // CHANNELS_EACH
        if not self.connections[number].connected:
            self._connect(number)
        else:
            self._opened(slot)  # the amqp package has opened it again
        return ("error", error.reply_code, error.reply_text)

    # -- what the server sends

    def _returned(
        self, slot: int, error: Any, exchange: str, routing_key: str, message: amqp.Message
    ) -> None:
        self._seen[slot].returned.append(
            self.names.comparable(
                [
                    error.reply_code,
                    error.reply_text,
                    exchange,
                    routing_key,
                    _properties(message),
                    _body(message),
                ]
            )
        )

    def _settled(self, slot: int, how: str, delivery_tag: int, multiple: bool) -> None:
        unconfirmed = self._unconfirmed[slot]
        numbers = {
            number
            for number in unconfirmed
            if number == delivery_tag or (multiple and number <= delivery_tag)
        }
        unconfirmed -= numbers
        getattr(self._seen[slot], how).update(numbers)


def _message(message: amqp.Message) -> list[Any]:
    info = message.delivery_info
    return [
        info["delivery_tag"],
        info["redelivered"],
        info["exchange"],
        info["routing_key"],
        _properties(message),
        _body(message),
    ]


def _properties(message: amqp.Message) -> dict[str, Any]:
    properties = dict(message.properties)
    if "application_headers" in properties:
        properties["headers"] = properties.pop("application_headers")
    return properties


def _body(message: amqp.Message) -> bytes:
    body = message.body
    return body.encode() if isinstance(body, str) else bytes(body)
