"""Misuse of queues, exchanges and bindings."""

from __future__ import annotations

from carrot.testing.contract import Scene
from tests.misuse.register import misuse


@misuse("A name (queue, exchange, routing key) that is no ``str``")
def name_of_a_wrong_type(scene: Scene) -> None:
    scene.consumer(b"feed")  # type: ignore[arg-type]


@misuse("A name longer than 255 bytes")
def long_name(scene: Scene) -> None:
    scene.publisher("ö" * 128)


@misuse("A name with a lone surrogate")
def surrogate(scene: Scene) -> None:
    scene.consumer(exchange="x\ud800")


@misuse("A name that belongs to the broker (``amq.`` ...)")
def reserved_name(scene: Scene) -> None:
    scene.consumer("amq.feed")


@misuse("Receiving from an unknown queue")
def unknown_queue(scene: Scene) -> None:
    scene.consumer(auto_declare=False).fetch()


@misuse("Subscribing to an unknown queue")
def consume_of_an_unknown_queue(scene: Scene) -> None:
    scene.consumer(auto_declare=False).consume()


@misuse("Binding to an unknown exchange")
def unknown_exchange(scene: Scene) -> None:
    consumer = scene.consumer()
    consumer.backend.queue_bind(
        queue=consumer.queue, exchange=scene.name("exchange"), routing_key="k"
    )


@misuse("A queue declared again with other settings")
def other_queue(scene: Scene) -> None:
    scene.consumer(scene.consumer().queue, auto_delete=True)


@misuse("A queue declared again with other arguments")
def other_arguments(scene: Scene) -> None:
    scene.consumer(scene.consumer().queue, queue_arguments={"x-max-length": 5})


@misuse("An exchange declared again with another type")
def other_exchange(scene: Scene) -> None:
    exchange = scene.new_exchange()
    scene.publisher(exchange)
    scene.publisher(exchange, exchange_type="topic")


@misuse("An unknown type of exchange")
def unknown_exchange_type(scene: Scene) -> None:
    scene.publisher(scene.new_exchange(), exchange_type="random")


@misuse("A type of exchange that is no ``str``")
def exchange_type_of_a_wrong_type(scene: Scene) -> None:
    scene.publisher(scene.new_exchange(), exchange_type=5)


@misuse("A queue that another connection holds exclusively")
def exclusive_queue(scene: Scene) -> None:
    queue = scene.consumer(exclusive=True).queue
    scene.consumer(queue, exclusive=True, connection=scene.connect())


@misuse("A queue argument with a value that cannot be")
def wrong_argument(scene: Scene) -> None:
    scene.consumer(queue_arguments={"x-max-length": "many"})


@misuse("A queue argument that AMQP cannot carry")
def unencodable_argument(scene: Scene) -> None:
    scene.consumer(queue_arguments={"x-object": object()})


@misuse("A queue argument with a float that is not finite")
def infinite_argument(scene: Scene) -> None:
    scene.consumer(queue_arguments={"x-message-ttl": float("inf")})


@misuse("Queue arguments of more bytes than the broker takes at once", only="rabbitmq")
def large_argument(scene: Scene) -> None:
    scene.consumer(queue_arguments={"x-note": "a" * 200_000})


@misuse("``queue_arguments`` that are no dictionary")
def arguments_of_a_wrong_type(scene: Scene) -> None:
    scene.consumer(queue_arguments=["x-max-length"])


@misuse("A routing key for a headers exchange that is no dictionary")
def headers_binding(scene: Scene) -> None:
    scene.consumer(exchange=scene.new_exchange(), exchange_type="headers", routing_key="k")


@misuse("An unknown ``x-match`` in a headers binding")
def unknown_match(scene: Scene) -> None:
    scene.consumer(
        exchange=scene.new_exchange(),
        exchange_type="headers",
        routing_key={"x-match": "some", "a": 1},
    )


@misuse("Deleting a queue ``if_empty`` that is not")
def delete_what_is_not_empty(scene: Scene) -> None:
    consumer = scene.filled("x")
    consumer.backend.queue_delete(queue=consumer.queue, if_empty=True)
