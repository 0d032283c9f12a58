"""Consumers of queues that hold more than memory should."""

from __future__ import annotations

import tracemalloc
from typing import Any

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from tests.servers.vhost import VirtualHost

COUNT, SIZE = 64, 1024 * 1024


def test_a_full_queue_does_not_fill_the_memory(rabbitmq: VirtualHost) -> None:
    """Without any prefetch count, little of what is on the queue is read ahead."""
    with BrokerConnection(**rabbitmq.conninfo) as connection:
        consumer = Consumer(connection, queue="full", exchange="full")
        with Publisher(connection, exchange="full") as publisher:
            for _ in range(COUNT):
                publisher.send(bytes(SIZE))
        received = []

        def note(body: bytes, message: Any) -> None:
            if not received:
                # Not the block that a process takes and frees once, before it
                # receives much: see carrot/backends/pyamqplib/transport.py.
                tracemalloc.reset_peak()
            received.append(len(body))
            message.ack()

        consumer.register_callback(note)
        tracemalloc.start()
        try:
            consumer.wait(limit=COUNT)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert received == [SIZE] * COUNT
    assert peak < 8 * SIZE
