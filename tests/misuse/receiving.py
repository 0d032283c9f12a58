"""Misuse of consumers and messages."""

from __future__ import annotations

from typing import Any

from carrot.messaging import Consumer, ConsumerSet
from carrot.testing.contract import Inbox, Scene
from tests.misuse.register import misuse


def fetched(scene: Scene, data: Any = "x", **options: Any) -> Any:
    """Send to a queue, and return the message as it arrives."""
    consumer = scene.consumer()
    scene.put(consumer.queue, data, **options)
    return scene.fetched(consumer)


@misuse("A consumer without callbacks")
def no_callbacks(scene: Scene) -> None:
    scene.filled("x").wait(limit=1)


@misuse("A callback that is no function")
def callback_of_a_wrong_type(scene: Scene) -> None:
    scene.consumer().register_callback("import_feed")  # type: ignore[arg-type]


@misuse("A body that is not what its content type says")
def undecodable(scene: Scene) -> None:
    _ = fetched(scene, b"{", content_type="application/json").payload


@misuse("A body in a charset that Python does not know")
def unknown_charset(scene: Scene) -> None:
    _ = fetched(scene, b"x", content_type="text/plain", content_encoding="utf-9").payload


@misuse("A pickle that nobody accepts")
def refused_content(scene: Scene) -> None:
    _ = fetched(scene, {"a": 1}, serializer="pickle").payload


@misuse("Acknowledging a message twice")
def double_ack(scene: Scene) -> None:
    message = fetched(scene)
    message.ack()
    message.ack()


@misuse("Acknowledging what ``auto_ack`` acknowledged")
def ack_after_auto_ack(scene: Scene) -> None:
    scene.filled("x", auto_ack=True).fetch().ack()


@misuse("Acknowledging what was received with ``no_ack``")
def ack_after_no_ack(scene: Scene) -> None:
    scene.filled("x").fetch(no_ack=True).ack()


@misuse("A consumer that was never told a queue")
def no_queue(scene: Scene) -> None:
    Consumer(scene.connection).fetch()


@misuse("A ``limit`` that is no number from 0 up")
def limit(scene: Scene) -> None:
    scene.consumer().wait(limit="5")  # type: ignore[arg-type]


@misuse("A ``prefetch_size``")
def prefetch_size(scene: Scene) -> None:
    scene.consumer().qos(prefetch_size=4096)


@misuse("A ``prefetch_count`` that is no number from 0 to 65535")
def prefetch_count(scene: Scene) -> None:
    scene.consumer().qos(prefetch_count=-1)


@misuse("``flow(False)``")
def flow(scene: Scene) -> None:
    scene.consumer().flow(False)


@misuse("An unknown ``on_decode_error``")
def on_decode_error(scene: Scene) -> None:
    scene.consumer(on_decode_error="ignore")


@misuse("``discard_all(filter)`` with ``auto_ack`` or ``no_ack``")
def filter_with_auto_ack(scene: Scene) -> None:
    scene.consumer(auto_ack=True).discard_all(lambda message: True)


@misuse("Receiving after ``close()``")
def fetch_after_close(scene: Scene) -> None:
    consumer = scene.consumer()
    consumer.close()
    consumer.fetch()


@misuse("Consuming with a set after ``close()``")
def set_after_close(scene: Scene) -> None:
    consumers = ConsumerSet(scene.connection, callbacks=[Inbox()])
    consumers.close()
    consumers.consume()


@misuse("Waiting for messages that do not come")
def nothing_comes(scene: Scene) -> None:
    scene.consumer().consume()
    scene.connection.drain_events(timeout=0.01)
