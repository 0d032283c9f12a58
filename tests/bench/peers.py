"""How each client publishes and consumes: as its manual shows, at its best.

All send the same message (persistent, with content type and encoding) to the
same exchange and settle each message by itself. Clients that do not serialize
get their JSON from the fastest package there is, like carrot; what can be
made once, such as pika's properties, is made once. A client's packages are
imported when it is used, so that any of them may be missing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tests.bench.client import Carrot, Client, Raw, Seen
from tests.bench.plan import PREFETCH, WINDOW, Size
from tests.bench.raw import Tally

if TYPE_CHECKING:
    from tests.bench.target import Target

__all__ = ["CLIENTS", "connect"]


class Kombu(Client):
    """kombu, whose serializers are used as carrot's are."""

    def open(self) -> None:
        target = self.target
        self.kombu: Any = import_module("kombu")
        self.connection: Any = self.kombu.Connection(
            hostname=target.host,
            port=target.port,
            userid=target.userid,
            password=target.password,
            virtual_host=target.vhost,
            transport_options={"confirm_publish": self.mode == "each"},
        )
        self.channel: Any = self.connection.channel()
        # Bytes are sent as they are; a dictionary has its serializer.
        self.options: dict[str, Any] = {}
        if not self.size.json:
            self.options["content_type"] = self.content_type
            self.options["content_encoding"] = self.content_encoding
        self.prepare()

    def prepare(self) -> None:
        exchange = self.kombu.Exchange(self.target.exchange, "direct", durable=True)
        self.producer: Any = self.kombu.Producer(
            self.channel, exchange=exchange, routing_key=self.target.queue
        )
        self.queue: Any = self.kombu.Queue(
            self.target.queue, exchange, routing_key=self.target.queue, durable=True
        )

    def publish(self, data: Any, count: int) -> None:
        publish, options = self.producer.publish, self.options
        for _ in range(count):
            publish(data, **options)

    def settle(self) -> None:
        self.channel.queue_declare(self.target.queue, passive=True)

    def consume(self, count: int, seen: Seen = None) -> None:
        consumer = self.kombu.Consumer(self.channel, [self.queue])
        consumer.qos(prefetch_count=PREFETCH)
        consumer.register_callback(self._receiver(seen))
        consumer.consume()
        drain_events = self.connection.drain_events
        for _ in range(count):
            drain_events()
        self.settle()

    def _receiver(self, seen: Seen) -> Callable[[Any, Any], None]:
        def on_message(data: Any, message: Any) -> None:
            if seen is not None:
                seen(data)
            message.ack()

        return on_message

    def close(self) -> None:
        self.connection.close()


class KombuCompat(Kombu):
    """kombu behind the interface of carrot that it keeps."""

    def prepare(self) -> None:
        self.compat: Any = import_module("kombu.compat")
        self.producer = self.compat.Publisher(
            self.connection, exchange=self.target.exchange, routing_key=self.target.queue
        )
        self.channel = self.producer.channel

    def publish(self, data: Any, count: int) -> None:
        send, options = self.producer.send, self.options
        for _ in range(count):
            send(data, **options)

    def consume(self, count: int, seen: Seen = None) -> None:
        target = self.target
        consumer = self.compat.Consumer(
            self.connection,
            queue=target.queue,
            exchange=target.exchange,
            routing_key=target.queue,
        )
        consumer.qos(prefetch_count=PREFETCH)
        consumer.register_callback(self._receiver(seen))
        for _ in _compat_events(self.connection, consumer, count):
            pass
        consumer.backend.queue_declare(target.queue, passive=True)


def _compat_events(connection: Any, consumer: Any, count: int) -> Any:
    # Its own iterconsume() asks the channel for drain_events(), which
    # channels do not have; this is the same without that mistake.
    consumer.consume()
    for _ in range(count):
        yield connection.drain_events()


class Pika(Client):
    """pika's BlockingConnection."""

    def open(self) -> None:
        target = self.target
        pika: Any = import_module("pika")
        self.connection: Any = pika.BlockingConnection(
            pika.ConnectionParameters(
                host=target.host,
                port=target.port,
                virtual_host=target.vhost,
                credentials=pika.PlainCredentials(target.userid, target.password),
            )
        )
        self.channel: Any = self.connection.channel()
        if self.mode == "each":
            self.channel.confirm_delivery()
        self.properties: Any = pika.BasicProperties(
            content_type=self.content_type,
            content_encoding=self.content_encoding,
            delivery_mode=2,
        )

    def publish(self, data: Any, count: int) -> None:
        dumps, _ = self.codec()
        publish, properties = self.channel.basic_publish, self.properties
        exchange, key = self.target.exchange, self.target.queue
        for _ in range(count):
            publish(exchange, key, dumps(data), properties)

    def settle(self) -> None:
        self.channel.queue_declare(self.target.queue, passive=True)

    def consume(self, count: int, seen: Seen = None) -> None:
        _, loads = self.codec()
        left = count

        def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            nonlocal left
            data = loads(body)
            if seen is not None:
                seen(data)
            channel.basic_ack(method.delivery_tag)
            left -= 1
            if not left:
                channel.stop_consuming()

        self.channel.basic_qos(prefetch_count=PREFETCH)
        self.channel.basic_consume(self.target.queue, on_message)
        self.channel.start_consuming()
        self.settle()

    def close(self) -> None:
        self.connection.close()


class AmqpStorm(Client):
    """amqpstorm, without its guessing whether bodies are text."""

    def open(self) -> None:
        target = self.target
        amqpstorm: Any = import_module("amqpstorm")
        self.connection: Any = amqpstorm.Connection(
            target.host,
            target.userid,
            target.password,
            port=target.port,
            virtual_host=target.vhost,
        )
        self.channel: Any = self.connection.channel()
        if self.mode == "each":
            self.channel.confirm_deliveries()

    def publish(self, data: Any, count: int) -> None:
        dumps, _ = self.codec()
        publish = self.channel.basic.publish
        exchange, key = self.target.exchange, self.target.queue
        properties = {
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "delivery_mode": 2,
        }
        for _ in range(count):
            publish(dumps(data), key, exchange, properties)

    def settle(self) -> None:
        self.channel.queue.declare(self.target.queue, passive=True)

    def consume(self, count: int, seen: Seen = None) -> None:
        _, loads = self.codec()
        left = count

        def on_message(message: Any) -> None:
            nonlocal left
            data = loads(message.body)
            if seen is not None:
                seen(data)
            message.ack()
            left -= 1
            if not left:
                self.channel.stop_consuming()

        self.channel.basic.qos(PREFETCH)
        self.channel.basic.consume(on_message, self.target.queue)
        self.channel.start_consuming(auto_decode=False)
        self.settle()

    def close(self) -> None:
        self.connection.close()


class PyAmqp(Client):
    """The ``amqp`` package by itself, which also confirms in a window, by hand."""

    def open(self) -> None:
        target = self.target
        self.amqp: Any = import_module("amqp")
        self.connection: Any = self.amqp.Connection(
            host=f"{target.host}:{target.port}",
            userid=target.userid,
            password=target.password,
            virtual_host=target.vhost,
            confirm_publish=self.mode == "each",
        )
        self.connection.connect()
        self.channel: Any = self.connection.channel()
        self.published, self.tally = 0, Tally()
        if self.mode == "window":
            self.channel.confirm_select()
            self.channel.events["basic_ack"].add(self.tally.confirm)

    def publish(self, data: Any, count: int) -> None:
        dumps, _ = self.codec()
        make, publish = self.amqp.Message, self.channel.basic_publish
        exchange, key = self.target.exchange, self.target.queue
        content_type, content_encoding = self.content_type, self.content_encoding
        windowed = self.mode == "window"
        for _ in range(count):
            message = make(
                dumps(data),
                content_type=content_type,
                content_encoding=content_encoding,
                delivery_mode=2,
            )
            publish(message, exchange=exchange, routing_key=key)
            if windowed:
                self.published += 1
                while self.published - self.tally.confirmed >= WINDOW:
                    self.connection.drain_events()

    def settle(self) -> None:
        while self.published > self.tally.confirmed:
            self.connection.drain_events()
        self.channel.queue_declare(self.target.queue, passive=True)

    def consume(self, count: int, seen: Seen = None) -> None:
        _, loads = self.codec()
        channel, drain_events = self.channel, self.connection.drain_events

        def on_message(message: Any) -> None:
            data = loads(message.body)
            if seen is not None:
                seen(data)
            channel.basic_ack(message.delivery_tag)

        channel.basic_qos(0, PREFETCH, False)
        channel.basic_consume(self.target.queue, callback=on_message)
        for _ in range(count):
            drain_events()
        self.settle()

    def close(self) -> None:
        self.connection.close()


class RabbitPy(Client):
    """rabbitpy."""

    def open(self) -> None:
        target = self.target
        self.rabbitpy: Any = import_module("rabbitpy")
        quote = import_module("urllib.parse").quote
        self.connection: Any = self.rabbitpy.Connection(
            f"amqp://{quote(target.userid, '')}:{quote(target.password, '')}"
            f"@{target.host}:{target.port}/{quote(target.vhost, '')}"
        )
        self.channel: Any = self.connection.channel()
        self.queue: Any = self.rabbitpy.Queue(self.channel, target.queue, durable=True)
        if self.mode == "each":
            self.channel.enable_publisher_confirms()

    def publish(self, data: Any, count: int) -> None:
        dumps, _ = self.codec()
        make, channel = self.rabbitpy.Message, self.channel
        exchange, key = self.target.exchange, self.target.queue
        content_type, content_encoding = self.content_type, self.content_encoding
        for _ in range(count):
            properties = {
                "content_type": content_type,
                "content_encoding": content_encoding,
                "delivery_mode": 2,
            }
            make(channel, dumps(data), properties).publish(exchange, key)

    def settle(self) -> None:
        self.queue.declare(passive=True)

    def consume(self, count: int, seen: Seen = None) -> None:
        _, loads = self.codec()
        left = count
        for message in self.queue.consume(prefetch=PREFETCH):
            data = loads(message.body)
            if seen is not None:
                seen(data)
            message.ack()
            left -= 1
            if not left:
                break
        self.settle()  # leaving the loop has cancelled the consumer

    def close(self) -> None:
        self.connection.close()


CLIENTS: dict[str, type[Client]] = {
    "carrot": Carrot,
    "kombu": Kombu,
    "kombu.compat": KombuCompat,
    "pika": Pika,
    "amqpstorm": AmqpStorm,
    "py-amqp": PyAmqp,
    "rabbitpy": RabbitPy,
    "raw": Raw,
}


def connect(client: str, target: Target, mode: str, size: Size) -> Client:
    """Return a connected client.

    :raises ModuleNotFoundError: its package is not installed.
    """
    return CLIENTS[client](target, mode, size)
