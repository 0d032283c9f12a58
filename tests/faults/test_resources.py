"""Time, memory and file descriptors are bounded, whatever the broker does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from carrot.connection import BrokerConnection
from carrot.exceptions import ConfirmTimeout, ConnectionBlocked
from carrot.messaging import Consumer, Publisher
from tests.faults.traffic import connected, declare, publisher_to
from tests.proxy import Proxy
from tests.servers.vhost import VirtualHost

Proxies = Callable[[VirtualHost], Proxy]

#: Seconds that a send may take, and to say so.
TIMEOUT, MOMENT = 0.5, 0.5
MIB = 1024 * 1024
#: Bytes of unconfirmed messages that are kept by default, and what else may be held.
WINDOW, MORE = 16 * MIB, 4 * MIB


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail if what is allocated meanwhile is more than the window may hold."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < WINDOW + MORE


def send_in_vain(publisher: Publisher, times: int = 1000) -> tuple[list[str], list[bytes]]:
    """Send until that failed three times, each within its deadline.

    :returns: why it failed, and the bodies that were taken.
    """
    reasons: list[str] = []
    taken: list[bytes] = []
    while len(reasons) < 3 and times:
        times -= 1
        body = b"%010d" % times * 10_000
        started = time.monotonic()
        try:
            publisher.send(body)
            taken.append(body[:10])
        except (ConnectionBlocked, ConfirmTimeout) as exc:
            reasons.append(str(exc))
        assert time.monotonic() - started < TIMEOUT + MOMENT
    return reasons, taken


def give(connection: BrokerConnection, seconds: float) -> None:
    """Set what an operation may take, on a connection that is established."""
    connection.connect().timeout = connection.timeout = seconds


def everything(connection: BrokerConnection) -> list[bytes]:
    """Take what is on the queue; return the beginnings of the bodies."""
    consumer = Consumer(connection, queue="q", no_ack=True)
    return [message.payload[:10] for message in consumer.iterqueue()]


def test_21_a_blocked_broker(rabbitmq: VirtualHost) -> None:
    """At a memory alarm send() raises in time, with the reason; what it took is not lost."""
    declare(rabbitmq)
    with connected(rabbitmq.url) as connection:
        publisher = publisher_to(connection)
        give(connection, TIMEOUT)
        with rabbitmq.blocked(), little_memory():
            reasons, taken = send_in_vain(publisher)
        assert len(reasons) == 3
        assert all("memory" in reason for reason in reasons)
        give(connection, 30)
        publisher.close()
        assert everything(connection) == taken
        assert connection.stats()["reconnects"] == 0


def test_21_a_real_alarm(rabbitmq_newest: VirtualHost) -> None:
    """So it is when the broker itself finds that its memory is used up."""
    declare(rabbitmq_newest)
    with connected(rabbitmq_newest.url) as connection:
        publisher = publisher_to(connection)
        give(connection, TIMEOUT)
        rabbitmq_newest.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            reasons, taken = send_in_vain(publisher)
        finally:
            rabbitmq_newest.ctl("set_vm_memory_high_watermark", "absolute", "4GB")
        assert len(reasons) == 3
        give(connection, 30)
        publisher.close()
        assert everything(connection) == taken


def test_21_a_full_window(rabbitmq: VirtualHost, proxy: Proxies) -> None:
    """A peer that reads nothing: send() raises in time, and goes on when there is room."""
    declare(rabbitmq)
    link = proxy(rabbitmq)
    with connected(link.url) as connection:
        publisher = publisher_to(connection)
        publisher.send(b"0" * 10)
        publisher.flush()
        give(connection, TIMEOUT)
        link.stall("up")
        with little_memory():
            reasons, taken = send_in_vain(publisher)
        assert len(reasons) == 3
        link.heal()
        give(connection, 30)
        publisher.send(b"1" * 10)
        publisher.close()
        assert everything(connection) == [b"0" * 10, *taken, b"1" * 10]
        assert connection.stats()["reconnects"] == 0


def test_22_nothing_is_left_behind(rabbitmq_newest: VirtualHost) -> None:
    """Memory, descriptors, threads and objects after 100 reconnects, 300 channels are what
    they were.
    """
    # In a process that coverage does not measure: it keeps something for each thread.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    program = [sys.executable, "-m", "tests.faults.endurance", "--url", rabbitmq_newest.url]
    done = subprocess.run(
        [*program, "--reconnects", "100", "--channels", "300"],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("  flat") == 2
