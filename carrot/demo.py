"""The feed story: publish, poll, and consume through callbacks, told as it happens."""

from __future__ import annotations

import struct
import zlib
from datetime import date
from typing import Any

from carrot import conninfo
from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from carrot.utils import gen_unique_id

__all__ = ["FeedConsumer", "FeedPublisher", "main", "picture"]

_FEEDS = "http://example.com/"


class FeedPublisher(Publisher):
    """Asks for feeds to be imported."""

    exchange = "feed"
    routing_key = "importer"
    auto_delete = True

    def import_feed(self, feed_url: str, serializer: str | None = None, **details: Any) -> None:
        """Send a request to import a feed."""
        message_data = {"import_feed": feed_url, **details}
        self.send(message_data, serializer=serializer)
        print(f"  send()   {serializer or 'json':8}{_described(message_data)}")

    def send_picture(self, body: bytes) -> None:
        """Send a PNG picture as it is."""
        self.send(body, content_type="image/png")
        print(f"  send()   {'raw':8}{_described(body)}")


class FeedConsumer(Consumer):
    """Imports the feeds that it is asked to."""

    queue = "feed"
    exchange = "feed"
    routing_key = "importer"
    # Gone with the connection, and the exchange with its last queue: the
    # story leaves nothing behind.
    exclusive = True
    # Unpickling runs what the sender wants, so that it has to be asked for.
    accept = ("json", "yaml", "pickle")


def import_feed(message_data: Any, message: Any) -> None:
    """Pretend to import what the message is about."""
    if message.content_type == "image/png":
        print(f"  Got {_described(message_data)}")
    else:
        print(f"  Got feed import message for: {_described(message_data)}")


def acknowledge(message_data: Any, message: Any) -> None:
    """Tell the broker that the message was processed."""
    message.ack()


def picture(size: int = 8) -> bytes:
    """Return a PNG file: an orange square.

    :param size: pixels a side.
    """
    rows = (b"\0" + b"\xff\x80\x20" * size) * size

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def _described(message_data: Any) -> str:
    if isinstance(message_data, bytes):
        width, height = struct.unpack(">II", message_data[16:24])
        return f"a picture of {width} x {height} pixels"
    feed_url, *details = message_data.items()
    return ", ".join([feed_url[1], *(f"{name} {value}" for name, value in details)])


def main(url: str) -> None:
    """Tell the story on a broker, printing what happens.

    Its names are its own, and vanish at its end: nothing of the broker's
    other users is touched, and it can be told many times at once.

    :param url: of the broker.
    :raises BrokerError: the broker cannot be reached, or failed.
    """
    with BrokerConnection(url) as connection:
        connection.connect()
        print(f"Broker:   {conninfo.display(connection)}")
        print(f"Accepted: {', '.join(FeedConsumer.accept)}; pickle only because we say so\n")
        name = f"carrot-demo-{gen_unique_id()}"
        consumer = FeedConsumer(connection, queue=name, exchange=name)
        consumer.register_callback(import_feed)
        consumer.register_callback(acknowledge)
        publisher = FeedPublisher(connection, exchange=name)
        _poll(publisher, consumer)
        _wait(publisher, consumer)
        publisher.close()
        consumer.close()


def _poll(publisher: FeedPublisher, consumer: FeedConsumer) -> None:
    print("One message, polled:")
    publisher.import_feed(_FEEDS + "news.rss")
    publisher.flush()
    message = consumer.fetch()
    print(f"  fetch()  {message.content_type}: {_described(message.payload)}")
    message.ack()
    print("  ack()")
    print(f"  fetch()  {consumer.fetch()}, the queue is empty")


def _wait(publisher: FeedPublisher, consumer: FeedConsumer) -> None:
    print("\nFour messages, through callbacks:")
    publisher.import_feed(_FEEDS + "music.rss")
    publisher.import_feed(_FEEDS + "weather.rss", "yaml", since=date(2009, 7, 14))
    publisher.import_feed(_FEEDS + "sports.rss", "pickle", tags={"tennis"})
    publisher.send_picture(picture())
    publisher.flush()
    print("  flush()  the broker has confirmed them")
    consumer.wait(limit=4)
    print("  ack()    each; the broker forgets them")
