"""A topic exchange: the broker matches routing keys against patterns."""

import sys

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher

PATTERNS = {"every stock": "*.stock.#", "all of the euro": "eur.#", "databases": "#.db"}


class StockConsumer(Consumer):
    exchange = "stocks"
    exchange_type = "topic"
    exclusive = True  # the queue is this connection's alone, and ends with it
    auto_ack = True


class StockPublisher(Publisher):
    exchange = "stocks"
    exchange_type = "topic"
    auto_delete = True  # as the consumers have it, because they are exclusive


def main(url):
    with BrokerConnection(url) as connection:
        # queue="" has the broker choose a name.
        consumers = {
            name: StockConsumer(connection, queue="", routing_key=pattern)
            for name, pattern in PATTERNS.items()
        }
        with StockPublisher(connection) as publisher:
            for key in ("usd.stock", "eur.stock.db", "eur", "stock.nasdaq"):
                publisher.send(f"news of {key}", routing_key=key)
        for name, consumer in consumers.items():
            keys = [m.delivery_info["routing_key"] for m in consumer.iterqueue()]
            print(f"{name:16}{PATTERNS[name]:9}", *keys)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["memory://"])
