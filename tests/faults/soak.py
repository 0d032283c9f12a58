"""Send and receive for long while everything breaks, and count what became of it.

::

    python -m tests.faults.soak                            # minutes
    python -m tests.faults.soak --messages 2000 --cuts 5 --kills 1

Starts a RabbitMQ of its own (4.0 where it can be had). Exits with 1 if a
message was lost or came out of order.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from statistics import median

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from tests.faults.traffic import declare, send, take
from tests.proxy import Proxy
from tests.servers.keeper import Keeper
from tests.servers.places import NoServer, find_place
from tests.servers.server import Server
from tests.servers.vhost import VirtualHost

_TIMEOUT = 120.0


@dataclass
class Outages:
    """Seconds from each loss to its recovery, as one connection tells."""

    seconds: list[float] = field(default_factory=list)
    _since: float | None = None

    def __call__(self, state: str, cause: BaseException | None) -> None:
        if state == "recovering":
            self._since = time.monotonic()
        elif state == "open" and self._since is not None:
            self.seconds.append(time.monotonic() - self._since)
            self._since = None


@dataclass
class Report:
    """What became of the messages."""

    messages: int
    received: list[int]
    outages: list[float]
    cuts: int
    kills: int
    seconds: float

    @property
    def lost(self) -> int:
        return self.messages - len(set(self.received))

    @property
    def disordered(self) -> int:
        """How many messages came for the first time after a later one."""
        highest, count = -1, 0
        for number in dict.fromkeys(self.received):
            count += number < highest
            highest = max(highest, number)
        return count

    def __str__(self) -> str:
        longest, usual = max(self.outages, default=0), median(self.outages or [0])
        return (
            f"{self.messages} messages through {self.cuts} cuts and {self.kills} server kills"
            f" in {self.seconds:.0f} s: lost {self.lost},"
            f" duplicates {len(self.received) - len(set(self.received))},"
            f" out of order {self.disordered}; {len(self.outages)} recoveries,"
            f" median {usual:.3f} s, longest {longest:.1f} s"
        )


def soak(where: VirtualHost, link: Proxy, messages: int, cuts: int, kills: int) -> Report:
    """Send that many messages and receive them, cutting and killing meanwhile."""
    declare(where)
    outages = Outages(), Outages()
    sending, receiving = (
        BrokerConnection(link.url, timeout=_TIMEOUT, heartbeat=5, on_state=each)
        for each in outages
    )
    consumer, received = take(receiving)
    consumer.qos(prefetch_count=100)
    publisher = Publisher(sending, routing_key="q")
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as exc:
                errors.append(exc)
                consumer.stop()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def publish() -> None:
        send(publisher, range(messages))
        publisher.flush(_TIMEOUT)

    started = time.monotonic()
    with closing(sending), closing(receiving):
        threads = [
            guarded(publish),
            guarded(lambda: _disturb(where, link, received, messages, cuts, kills)),
        ]
        _receive(consumer, received, messages, errors)
        for thread in threads:
            thread.join(_TIMEOUT)
        if errors:
            raise errors[0]
    seconds = time.monotonic() - started
    recoveries = [*outages[0].seconds, *outages[1].seconds]
    return Report(messages, received, recoveries, cuts, kills, seconds)


def _receive(
    consumer: Consumer, received: list[int], messages: int, errors: list[BaseException]
) -> None:
    seen: set[int] = set()
    checked, shown = 0, time.monotonic()
    for _ in consumer.iterconsume():
        seen.update(received[checked:])
        checked = len(received)
        if errors or len(seen) == messages:
            return
        if time.monotonic() - shown > 1:
            shown = time.monotonic()
            print(f"\r{len(seen)} of {messages}", end="", file=sys.stderr, flush=True)


def _disturb(
    where: VirtualHost, link: Proxy, received: list[int], messages: int, cuts: int, kills: int
) -> None:
    """Spread the faults evenly over the messages received."""
    faults: list[Callable[[], None]] = [lambda: _kill(where)] * kills
    breaks = [link.cut, link.reset, lambda: _stall(link), lambda: _half_close(link)]
    faults += [random.choice(breaks) for _ in range(cuts)]
    random.shuffle(faults)
    for count, fault in enumerate(faults, 1):
        due = messages * count // (len(faults) + 1)
        deadline = time.monotonic() + _TIMEOUT
        while len(received) < due:
            if time.monotonic() > deadline:
                raise TimeoutError(f"stuck at {len(received)} of {messages}")
            time.sleep(0.01)
        fault()


def _kill(where: VirtualHost) -> None:
    where.kill()
    where.start()


def _stall(link: Proxy) -> None:
    link.stall()
    time.sleep(random.uniform(0, 3))
    link.cut()
    link.heal()


def _half_close(link: Proxy) -> None:
    link.half_close("down")


def main() -> int:
    """Run the soak and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--cuts", type=int, default=50)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--server", choices=["4.0", "distribution"])
    parser.add_argument("--seed", type=int, default=None, help="of the order of the faults")
    options = parser.parse_args()
    random.seed(options.seed)
    logging.getLogger("carrot").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        keeper = stack.enter_context(closing(Keeper()))
        try:
            place = find_place(options.server or "4.0")
        except NoServer:
            if options.server is not None:
                raise
            place = find_place("distribution")
        server = stack.enter_context(closing(Server(place, keeper)))
        server.start()
        where = stack.enter_context(closing(VirtualHost(server)))
        link = stack.enter_context(Proxy(where.host, where.port, where.url_at))
        report = soak(where, link, options.messages, options.cuts, options.kills)
    print(f"\nRabbitMQ {server.version}: {report}")
    return 1 if report.lost or report.disordered else 0


if __name__ == "__main__":
    sys.exit(main())
