"""One connection, many threads; one process, and its child; a signal."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from carrot.exceptions import ConnectionClosed, PublishError
from carrot.messaging import Consumer
from tests.faults.traffic import arrived, connected, declare, publisher_to, send, take
from tests.proxy import Proxy
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until

Proxies = Callable[[VirtualHost], Proxy]


@pytest.mark.parametrize("shared", [True, False], ids=["one-publisher", "own-publishers"])
@pytest.mark.parametrize("threads", [4, 32])
def test_18_threads_on_one_connection_beside_a_consumer(
    rabbitmq_newest: VirtualHost, proxy: Proxies, threads: int, shared: bool
) -> None:
    """Each thread's messages arrive in its order, through two cuts; callbacks run in one."""
    declare(rabbitmq_newest)
    link = proxy(rabbitmq_newest)
    count = 1000
    with connected(link.url, timeout=60) as connection:
        one = publisher_to(connection)
        errors: list[BaseException] = []
        callers = set()

        def publish(name: int) -> None:
            try:
                publisher = one if shared else publisher_to(connection)
                send(publisher, range(name * count, (name + 1) * count))
                publisher.flush()
            except BaseException as exc:
                errors.append(exc)

        consumer, numbers = take(
            connection, then=lambda number, message: callers.add(threading.get_ident())
        )
        consumer.qos(prefetch_count=100)
        senders = [threading.Thread(target=publish, args=(name,)) for name in range(threads)]
        for sender in senders:
            sender.start()
        cuts = {threads * count // 4, threads * count // 2}
        seen: set[int] = set()
        for _ in consumer.iterconsume():
            if len(numbers) in cuts:
                link.cut()
            seen.add(numbers[-1])
            if len(seen) == threads * count or errors:
                break
        for sender in senders:
            sender.join(60)
        assert errors == []
        assert callers == {threading.get_ident()}
        first = list(dict.fromkeys(numbers))
        for name in range(threads):
            own = [number for number in first if number // count == name]
            assert own == list(range(name * count, (name + 1) * count))


def test_18_a_publisher_that_is_closed_while_others_send(rabbitmq: VirtualHost) -> None:
    """Each message that was sent is told of, by another send or by ``close()``."""
    for _ in range(5):
        with connected(rabbitmq.url) as connection:
            publisher = publisher_to(connection, "nobody", confirm_window=100)
            sent: set[int] = set()
            told: set[int] = set()
            begun = threading.Barrier(5)

            def publish(name: int) -> None:
                begun.wait(10)  # noqa: B023
                for number in itertools.count(name, 4):
                    try:
                        publisher.send(number, mandatory=True)  # noqa: B023
                        sent.add(number)  # noqa: B023
                    except PublishError as exc:
                        told.update(int(entry.body) for entry in exc.messages)  # noqa: B023
                    except ConnectionClosed:
                        return

            senders = [threading.Thread(target=publish, args=(name,)) for name in range(4)]
            for sender in senders:
                sender.start()
            begun.wait(10)
            wait_until(lambda: len(sent) > 500)  # noqa: B023
            try:
                publisher.close()
            except PublishError as exc:
                told.update(int(entry.body) for entry in exc.messages)
            for sender in senders:
                sender.join(30)
            assert sent <= told


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_19_a_child_that_publishes_closes_and_exits(rabbitmq: VirtualHost) -> None:
    """The parent's connection, consumer and publisher go on as if nothing had happened."""
    declare(rabbitmq)
    declare(rabbitmq, "parents")
    with connected(rabbitmq.url) as connection:
        consumer, numbers = take(connection, "parents")
        consumer.consume()
        publisher = publisher_to(connection)
        send(publisher, range(10))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                send(publisher, range(10, 20))
                publisher.close()
                connection.close()
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert status == 0
        send(publisher, range(20, 30))
        publisher.flush()
        send(publisher, range(3), routing_key="parents")
        while len(numbers) < 3:
            connection.drain_events(timeout=10)
        assert connection.stats()["reconnects"] == 0
        assert connection.stats()["published"] == 23
    assert sorted(arrived(rabbitmq)) == list(range(30))


WORKER = """
import signal, sys, time
from carrot.connection import BrokerConnection
from carrot.messaging import Consumer

def work(message_data, message):
    print("working", flush=True)
    time.sleep(message_data["number"])
    message.ack()
    print("done", flush=True)

connection = BrokerConnection(sys.argv[1])
consumer = Consumer(connection, queue="q")
consumer.register_callback(work)
signal.signal(signal.SIGTERM, lambda *args: consumer.stop())
connection.on_state = lambda state, cause: print(state, flush=True)
consumer.consume()
print("ready", flush=True)
consumer.wait()
connection.close()
print("left", flush=True)
"""


class Worker:
    """A process that consumes until SIGTERM."""

    def __init__(self, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, url],
            stdout=subprocess.PIPE,
            text=True,
        )

    def says(self, word: str) -> None:
        """Wait for a word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
        raise AssertionError(f"it never said {word!r}")

    def terminate(self) -> None:
        """Send SIGTERM, and wait for a proper end."""
        self.process.send_signal(signal.SIGTERM)
        self.says("left")
        assert self.process.wait(10) == 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_20_sigterm_while_idle(rabbitmq: VirtualHost) -> None:
    """A worker that waits for messages leaves when it is asked to."""
    declare(rabbitmq)
    with Worker(rabbitmq.url) as worker:
        worker.says("ready")
        wait_until(lambda: rabbitmq.consumers("q") == 1)
        worker.terminate()


def test_20_sigterm_in_a_callback(rabbitmq: VirtualHost) -> None:
    """The current message is finished and acknowledged; then the worker leaves."""
    declare(rabbitmq)
    with connected(rabbitmq.url) as connection:
        publisher = publisher_to(connection)
        publisher.send({"number": 1})
        publisher.close()
    with Worker(rabbitmq.url) as worker:
        worker.says("working")
        worker.process.send_signal(signal.SIGTERM)
        worker.says("done")
        worker.says("left")
        assert worker.process.wait(10) == 0
    assert arrived(rabbitmq) == []


def test_20_a_worker_that_is_killed(rabbitmq: VirtualHost) -> None:
    """The message that it was working at comes again, marked redelivered, to the next one."""
    declare(rabbitmq)
    with connected(rabbitmq.url) as connection:
        with publisher_to(connection) as publisher:
            publisher.send({"number": 100})
        with Worker(rabbitmq.url) as worker:
            worker.says("working")
        consumer = Consumer(connection, queue="q")
        message = wait_until(consumer.fetch)
        assert message.delivery_info["redelivered"]
        assert message.payload == {"number": 100}
        message.ack()


@pytest.mark.parametrize("silent", [False, True], ids=["refusing", "silent"])
def test_20_sigterm_while_reconnecting(
    rabbitmq: VirtualHost, proxy: Proxies, silent: bool
) -> None:
    """A worker that lost its broker does not wait for it when it is asked to leave."""
    declare(rabbitmq)
    link = proxy(rabbitmq)
    with Worker(link.url) as worker:
        worker.says("ready")
        if silent:
            link.swallow()
        else:
            link.refuse()
        link.cut()
        worker.says("recovering")
        worker.terminate()
