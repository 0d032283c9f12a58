"""A publisher and a consumer, defined as classes."""

import sys

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher


class FeedPublisher(Publisher):
    exchange = "feed"
    routing_key = "importer"

    def import_feed(self, feed_url):
        self.send({"action": "import_feed", "feed_url": feed_url})


class FeedConsumer(Consumer):
    queue = "feed"
    exchange = "feed"
    routing_key = "importer"

    def receive(self, message_data, message):
        if message_data["action"] != "import_feed":
            raise ValueError(f"unknown action {message_data['action']!r}")
        print("importing", message_data["feed_url"])
        message.ack()


def main(url):
    with BrokerConnection(url) as connection:
        consumer = FeedConsumer(connection)
        with FeedPublisher(connection) as publisher:
            publisher.import_feed("http://example.com/news.rss")
            publisher.import_feed("http://example.com/weather.rss")
        consumer.wait(limit=2)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["memory://"])
