"""Misuse of publishers."""

from __future__ import annotations

from typing import Any

from carrot.messaging import Publisher
from carrot.testing.contract import Scene
from tests.misuse.register import misuse


def send(scene: Scene, data: Any, **options: Any) -> None:
    """Send to a queue, and wait until the broker has it."""
    publisher, _ = scene.feed()
    publisher.send(data, **options)
    publisher.flush()


@misuse("An object that JSON cannot express")
def unserializable(scene: Scene) -> None:
    send(scene, {"object": object()})


@misuse("``bytes`` within what goes as JSON")
def bytes_in_json(scene: Scene) -> None:
    send(scene, {"picture": b"\xff\xd8"})


@misuse("NaN or infinity, which JSON has not")
def nan(scene: Scene) -> None:
    send(scene, {"ratio": float("nan")})


@misuse("Data that refers to itself")
def endless(scene: Scene) -> None:
    data: list[Any] = []
    data.append(data)
    send(scene, data)


@misuse("A lone surrogate in a text")
def surrogate_in_text(scene: Scene) -> None:
    send(scene, "x\ud800")


@misuse("An object that YAML cannot express")
def unserializable_yaml(scene: Scene) -> None:
    send(scene, {"object": object()}, serializer="yaml")


@misuse("An object that cannot be pickled")
def unserializable_pickle(scene: Scene) -> None:
    send(scene, lambda: None, serializer="pickle")


@misuse("``raw`` data that is neither text nor bytes")
def unserializable_raw(scene: Scene) -> None:
    send(scene, {"a": 1}, serializer="raw")


@misuse("An unknown serializer")
def unknown_serializer(scene: Scene) -> None:
    send(scene, {}, serializer="jsonn")


@misuse("``content_type`` given with data that is neither text nor bytes")
def content_type_of_data(scene: Scene) -> None:
    send(scene, {"a": 1}, content_type="application/json")


@misuse("A ``content_encoding`` that Python does not know")
def unknown_encoding(scene: Scene) -> None:
    send(scene, "text", content_type="text/plain", content_encoding="utf-9")


@misuse("A text that the ``content_encoding`` has no characters for")
def unencodable_text(scene: Scene) -> None:
    send(scene, "日本", content_type="text/plain", content_encoding="latin-1")


@misuse("A ``content_type`` or ``content_encoding`` that is no ``str``")
def content_type_of_a_wrong_type(scene: Scene) -> None:
    send(scene, b"x", content_type=5)


@misuse("An attribute of a publisher set, later, to what its argument cannot be")
def attribute_set_later(scene: Scene) -> None:
    publisher = scene.publisher(scene.new_exchange(), "k")
    publisher.send({})
    publisher.delivery_mode = "eternal"
    publisher.send({})


@misuse("A URL, or nothing, in place of the connection")
def no_connection(scene: Scene) -> None:
    Publisher("amqp://guest:guest@127.0.0.1/", exchange="x")


@misuse("A ``priority`` outside 0 to 255")
def priority(scene: Scene) -> None:
    send(scene, {}, priority=256)


@misuse("A ``priority`` that is no number")
def priority_of_a_wrong_type(scene: Scene) -> None:
    send(scene, {}, priority="high")


@misuse("An unknown ``delivery_mode``")
def delivery_mode(scene: Scene) -> None:
    send(scene, {}, delivery_mode="eternal")


@misuse("``immediate=True``")
def immediate(scene: Scene) -> None:
    send(scene, {}, immediate=True)


@misuse("A negative ``expiration``")
def negative_expiration(scene: Scene) -> None:
    send(scene, {}, expiration=-1)


@misuse("An ``expiration`` that is no number of seconds")
def expiration_of_a_wrong_type(scene: Scene) -> None:
    send(scene, {}, expiration="60000")


@misuse("A property that is no ``str``")
def property_of_a_wrong_type(scene: Scene) -> None:
    send(scene, {}, correlation_id=5)


@misuse("A property longer than 255 bytes")
def long_property(scene: Scene) -> None:
    send(scene, {}, message_id="x" * 256)


@misuse("A ``timestamp`` that is no time")
def timestamp(scene: Scene) -> None:
    send(scene, {}, timestamp="yesterday")


@misuse("The ``user_id`` of somebody else")
def user_id(scene: Scene) -> None:
    send(scene, {}, user_id="somebody-else")


@misuse("``headers`` that are no dictionary")
def headers_of_a_wrong_type(scene: Scene) -> None:
    send(scene, {}, headers=["a"])


@misuse("A header with a value that AMQP cannot carry")
def unencodable_header(scene: Scene) -> None:
    send(scene, {}, headers={"object": object()})


@misuse("A header with a float that is not finite")
def infinite_header(scene: Scene) -> None:
    send(scene, {}, headers={"score": [1.5, float("nan")]})


@misuse("A header with an integer beyond 64 bits")
def large_header(scene: Scene) -> None:
    send(scene, {}, headers={"large": 2**64})


@misuse("A header whose name is no ``str``, or longer than 255 bytes")
def header_name(scene: Scene) -> None:
    send(scene, {}, headers={5: "x"})


@misuse("A routing key told to ``send()`` that is no ``str``")
def routing_key_of_a_wrong_type(scene: Scene) -> None:
    send(scene, {}, routing_key=5)


@misuse("A message to an exchange that nobody declared")
def missing_exchange(scene: Scene) -> None:
    send(scene, {}, exchange=scene.name("exchange"))


@misuse("A message to an exchange that nobody declared, without confirms", only="rabbitmq")
def missing_exchange_unconfirmed(scene: Scene) -> None:
    publisher = scene.publisher(scene.name("x"), auto_declare=False, confirm=False)
    publisher.send({})
    # The broker's answer is heard by the next operation that waits for one.
    publisher.backend.queue_declare(
        queue=scene.new_queue(), durable=True, exclusive=False, auto_delete=False
    )


@misuse("A ``mandatory`` message that no queue gets")
def unroutable(scene: Scene) -> None:
    send(scene, {}, routing_key="nobody", mandatory=True)


@misuse("A ``confirm_window`` that is no number from 1 up")
def confirm_window(scene: Scene) -> None:
    scene.publisher(confirm_window=0)


@misuse("Sending after ``close()``")
def send_after_close(scene: Scene) -> None:
    publisher, _ = scene.feed()
    publisher.close()
    publisher.send({})
