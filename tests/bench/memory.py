"""``python -m tests.bench.memory``: the in-memory broker, beside kombu's and at depth.

Prints the CPU time per message of publishing, and of receiving and
acknowledging, for carrot and for kombu's memory transport (in turns, each
through its public interface, in one thread, the same messages); then what an
operation costs while a thousand to a million messages wait in the queue, what
a message weighs, and what a topic exchange with 10,000 bindings takes.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from random import Random
from statistics import median
from time import process_time
from tracemalloc import get_traced_memory
from tracemalloc import start as start_tracing
from tracemalloc import stop as stop_tracing
from typing import Any

from carrot.backends.queue import reset
from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from carrot.topology import TopicRoutes

__all__ = ["Figures", "beside_kombu", "bindings", "depths", "main", "weight"]

#: What is sent: 85 bytes of JSON, as in the benchmark over a wire.
PAYLOAD = {"id": 12345, "name": "x" * 30, "tags": ["a", "b"], "price": 12.5, "ok": True}

_numbers = count()


@dataclass
class Figures:
    """CPU time per message, microseconds: the median of the rounds."""

    publish: float
    receive: float


Pair = tuple[Callable[[], object], Callable[[], object]]


def beside_kombu(messages: int, rounds: int) -> dict[str, Figures]:
    """Measure publishing and receiving, carrot and kombu in turns.

    :param messages: published, then received, in each round.
    """
    clients = {"carrot": carrot_client(messages), "kombu": kombu_client(messages)}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in clients}
    for _ in range(rounds):
        for name, (publish, receive) in clients.items():
            samples[name].append((cpu_time(publish), cpu_time(receive)))
    per_message = 1e6 / messages
    return {
        name: Figures(*(median(column) * per_message for column in zip(*rows, strict=True)))
        for name, rows in samples.items()
    }


def cpu_time(work: Callable[[], object]) -> float:
    """Return the CPU seconds of *work*, without collections of garbage."""
    gc.collect()
    gc.disable()
    try:
        started = process_time()
        work()
        return process_time() - started
    finally:
        gc.enable()


def carrot_client(messages: int) -> Pair:
    """Return what publishes and what receives *messages*, confirmed and acknowledged."""
    _, publisher, consumer = carrot_queue()
    consumer.qos(prefetch_count=250)
    consumer.register_callback(lambda data, message: message.ack())

    def publish() -> None:
        for _ in range(messages):
            publisher.send(PAYLOAD)
        publisher.flush()

    def receive() -> None:
        for _ in consumer.iterconsume(limit=messages):
            pass

    return publish, receive


def carrot_queue() -> tuple[BrokerConnection, Publisher, Consumer]:
    """Return a connection to a broker of its own, with a publisher and a consumer."""
    connection = BrokerConnection(f"bench-{next(_numbers)}", backend_cls="memory")
    consumer = Consumer(connection, queue="bench", exchange="bench", routing_key="bench")
    return connection, Publisher(connection, exchange="bench", routing_key="bench"), consumer


def kombu_client(messages: int) -> Pair:
    """Return the same as :func:`carrot_client` of kombu."""
    kombu: Any = import_module("kombu")
    connection = kombu.Connection(f"memory://bench-{next(_numbers)}")
    channel = connection.channel()
    queue = kombu.Queue("bench", kombu.Exchange("bench"), routing_key="bench")
    queue(channel).declare()
    producer = kombu.Producer(channel, exchange=queue.exchange, routing_key="bench")
    received = 0

    def callback(body: Any, message: Any) -> None:
        nonlocal received
        received += 1
        message.ack()

    def publish() -> None:
        for _ in range(messages):
            producer.publish(PAYLOAD)

    def receive() -> None:
        end = received + messages
        with kombu.Consumer(channel, [queue], callbacks=[callback], prefetch_count=250):
            while received < end:
                connection.drain_events(timeout=5)

    return publish, receive


# -- depth


def depths(steps: list[int], operations: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield what operations cost, in microseconds of CPU, at each depth of the queue."""
    connection, publisher, consumer = carrot_queue()
    depth = 0
    for step in steps:
        while depth < step:
            publisher.send(PAYLOAD)
            depth += 1
        yield step, at_depth(publisher, consumer, operations)
    connection.close()
    reset(connection.hostname)


def at_depth(publisher: Publisher, consumer: Consumer, operations: int) -> dict[str, float]:
    """Measure each operation on a queue, and leave it as deep as it was."""
    messages: list[Any] = []

    def publish() -> None:
        for _ in range(operations):
            publisher.send(PAYLOAD)

    def fetch() -> None:
        messages.clear()
        for _ in range(operations):
            messages.append(consumer.fetch())

    def requeue() -> None:
        for message in messages:
            message.requeue()

    def ack() -> None:
        for message in messages:
            message.ack()

    steps: list[tuple[str, Callable[[], object]]] = [
        ("publish", publish),
        ("fetch", fetch),
        ("requeue", requeue),
        ("fetch", fetch),
        ("", lambda: Random(7).shuffle(messages)),
        ("requeue in disorder", requeue),
        ("fetch", fetch),
        ("ack", ack),
    ]
    found: dict[str, list[float]] = {}
    for _ in range(5):
        for name, work in steps:
            found.setdefault(name, []).append(cpu_time(work) * 1e6 / operations)
    return {name: min(samples) for name, samples in found.items() if name}


def weight(messages: int) -> float:
    """Return the bytes of memory that a message takes while it waits."""
    connection, publisher, _ = carrot_queue()
    publisher.send(PAYLOAD)
    gc.collect()
    start_tracing()
    before = get_traced_memory()[0]
    for _ in range(messages):
        publisher.send(PAYLOAD)
    gc.collect()
    weighed = get_traced_memory()[0] - before
    stop_tracing()
    connection.close()
    reset(connection.hostname)
    return weighed / messages


def bindings(numbers: list[int]) -> Iterator[tuple[int, float]]:
    """Yield what matching a key costs, in microseconds, with so many topic bindings."""
    random = Random(11)
    routes: TopicRoutes[int] = TopicRoutes()
    keys = [".".join(random.choices("abcdefghij", k=4)) for _ in range(1000)]
    bound = 0
    for number in numbers:
        while bound < number:
            words = random.choices("abcdefghij", k=4)
            words[random.randrange(4)] = random.choice("#*ab")
            routes.add(".".join([*words, str(bound)]), {}, bound)
            bound += 1

        def match() -> None:
            for key in keys:
                routes.match(key, {})

        yield number, min(cpu_time(match) for _ in range(5)) * 1e6 / len(keys)


# -- the program


def powers(first: int, most: int) -> list[int]:
    """Return the powers of ten from ``10**first`` to *most*."""
    return [10**power for power in range(first, 10) if 10**power <= most]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark and print what was found. Returns the exit status."""
    made = argparse.ArgumentParser(
        prog="python -m tests.bench.memory", description=(__doc__ or "").partition("\n\n")[2]
    )
    made.add_argument("--messages", type=int, default=1000, help="per round")
    made.add_argument("--rounds", type=int, default=25)
    made.add_argument("--deepest", type=int, default=1_000_000, help="messages in the queue")
    made.add_argument("--bindings", type=int, default=10_000, help="of a topic exchange")
    options = made.parse_args(arguments)

    figures = beside_kombu(options.messages, options.rounds)
    print("CPU time per message, microseconds (median of rounds, in turns)")
    for name, figure in figures.items():
        print(f"  {name:8}publish {figure.publish:6.2f}   receive + ack {figure.receive:6.2f}")
    ours, theirs = figures["carrot"], figures["kombu"]
    print(
        f"  ratio   publish {ours.publish / theirs.publish:6.2f}"
        f"   receive + ack {ours.receive / theirs.receive:6.2f}"
    )

    print("CPU time per operation, microseconds, by messages that wait in the queue")
    for depth, costs in depths(powers(3, options.deepest), options.messages):
        shown = "   ".join(f"{name} {cost:5.2f}" for name, cost in costs.items())
        print(f"  {depth:9,}   {shown}", flush=True)
    print(f"a waiting message of {len(repr(PAYLOAD))} bytes weighs", end=" ")
    print(f"{weight(min(20_000, options.deepest)):.0f} bytes of memory")

    print("CPU time to match a key, microseconds, by bindings of a topic exchange")
    for number, cost in bindings(powers(1, options.bindings)):
        print(f"  {number:9,}   {cost:5.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
