"""Threads that share a connection: several publish while one consumes."""

import sys
import threading

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher

THREADS, EACH = 4, 250


def publish(connection, name):
    # A publisher of its own; one that all threads share works as well.
    with Publisher(connection, exchange="readings") as publisher:
        for number in range(EACH):
            publisher.send({"from": name, "number": number})


def main(url):
    received = {}

    def count(message_data, message):
        received.setdefault(message_data["from"], []).append(message_data["number"])
        message.ack()

    with BrokerConnection(url) as connection:
        consumer = Consumer(connection, queue="readings", exchange="readings")
        consumer.register_callback(count)
        threads = [
            threading.Thread(target=publish, args=(connection, f"thread {number}"))
            for number in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        consumer.wait(limit=THREADS * EACH)
        for thread in threads:
            thread.join()
    for name, numbers in sorted(received.items()):
        order = "in order" if numbers == list(range(EACH)) else "out of order"
        print(name, len(numbers), order)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["memory://"])
