"""Send and receive for long while everything breaks, and count what became of it.

::

    python -m tests.faults.soak                            # minutes
    python -m tests.faults.soak --messages 2000 --cuts 5 --kills 1

Starts a RabbitMQ of its own (4.0 where it can be had). Receives until the
queue is empty; exits with 1 if a message was lost or came out of order.

What the broker had sent to a link that broke comes again, perhaps after
messages that the next link got meanwhile. That is no disorder of the queue; it
is counted by itself.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from tests.faults.traffic import declare, send, take
from tests.proxy import Proxy
from tests.servers.keeper import Keeper
from tests.servers.places import NoServer, find_place
from tests.servers.server import Server
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until

_TIMEOUT = 120.0
#: Messages that the sender may be ahead, so that faults meet both in action.
_AHEAD = 2000


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
    #: Numbers in the order of arrival, and whether each was marked redelivered.
    received: list[tuple[int, bool]]
    outages: list[float]
    cuts: int
    kills: int
    seconds: float

    @property
    def lost(self) -> int:
        return self.messages - len({number for number, _ in self.received})

    def late(self, redelivered: bool) -> int:
        """How many messages came for the first time after a later one.

        :param redelivered: of those that were sent to a link before, or of the others.
        """
        highest, count, seen = -1, 0, set()
        for number, again in self.received:
            if number not in seen:
                count += number < highest and again is redelivered
                highest = max(highest, number)
                seen.add(number)
        return count

    def __str__(self) -> str:
        longest, usual = max(self.outages, default=0), median(self.outages or [0])
        return (
            f"{self.messages} messages through {self.cuts} cuts and {self.kills} server kills"
            f" in {self.seconds:.0f} s: lost {self.lost},"
            f" duplicates {len(self.received) - self.messages + self.lost},"
            f" out of order {self.late(False)} (and {self.late(True)} that came again);"
            f" {len(self.outages)} recoveries, median {usual:.3f} s, longest {longest:.1f} s"
        )


def soak(where: VirtualHost, link: Proxy, messages: int, cuts: int, kills: int) -> Report:
    """Send that many messages and receive them, cutting and killing meanwhile."""
    declare(where)
    outages = Outages(), Outages()
    sending, receiving = (
        BrokerConnection(link.url, timeout=_TIMEOUT, heartbeat=5, on_state=each)
        for each in outages
    )
    received: list[tuple[int, bool]] = []

    def note(number: int, message: Any) -> None:
        received.append((number, message.delivery_info["redelivered"]))

    consumer, _ = take(receiving, then=note)
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

    def may_send(number: int) -> bool:
        return number < len(received) + _AHEAD or bool(errors)

    def publish() -> None:
        for number in range(messages):
            if not may_send(number):
                wait_until(partial(may_send, number), _TIMEOUT)
            send(publisher, range(number, number + 1))
        publisher.flush(_TIMEOUT)

    started = time.monotonic()
    with closing(sending), closing(receiving):
        working = [
            guarded(publish),
            guarded(lambda: _disturb(where, link, received, messages, cuts, kills)),
        ]
        ending = guarded(lambda: _stop_when_empty(where, working, consumer))
        _receive(consumer, received, messages)
        for thread in () if errors else (*working, ending):
            thread.join(_TIMEOUT)
        if errors:
            raise errors[0]
    seconds = time.monotonic() - started
    recoveries = [*outages[0].seconds, *outages[1].seconds]
    return Report(messages, received, recoveries, cuts, kills, seconds)


def _receive(consumer: Consumer, received: list[tuple[int, bool]], messages: int) -> None:
    """Receive until the consumer is stopped."""
    shown = time.monotonic()
    for _ in consumer.iterconsume():
        if time.monotonic() - shown > 1:
            shown = time.monotonic()
            print(f"\r{len(received)} of {messages}", end="", file=sys.stderr, flush=True)


def _stop_when_empty(
    where: VirtualHost, working: list[threading.Thread], consumer: Consumer
) -> None:
    """Stop the consumer when all was sent, confirmed, received and acknowledged."""
    for thread in working:
        thread.join()
    wait_until(lambda: where.messages("q") == (0, 0), _TIMEOUT)
    consumer.stop()


def _disturb(
    where: VirtualHost,
    link: Proxy,
    received: Sequence[object],
    messages: int,
    cuts: int,
    kills: int,
) -> None:
    """Spread the faults evenly over the messages received."""
    faults: list[Callable[[], None]] = [lambda: _kill(where)] * kills
    breaks = [link.cut, link.reset, lambda: _stall(link), lambda: _half_close(link)]
    faults += [random.choice(breaks) for _ in range(cuts)]
    random.shuffle(faults)
    for count, fault in enumerate(faults, 1):
        due = messages * count // (len(faults) + 1)
        wait_until(lambda due=due: len(received) >= due, _TIMEOUT, f"{due} received")  # type: ignore[misc]
        link.wait_for(lambda link: link.open == 2, _TIMEOUT)  # that it breaks two links
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


def own_server(stack: ExitStack, which: str | None) -> VirtualHost:
    """Start a server that ends with the stack; return a virtual host of it.

    :param which: ``"4.0"``, ``"distribution"``; ``None``: the first of them
        that can be had.
    """
    try:
        place = find_place(which or "4.0")
    except NoServer:
        if which is not None:
            raise
        place = find_place("distribution")
    keeper = stack.enter_context(closing(Keeper()))
    server = stack.enter_context(closing(Server(place, keeper)))
    server.start()
    return stack.enter_context(closing(VirtualHost(server)))


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
        where = own_server(stack, options.server)
        link = stack.enter_context(Proxy(where.host, where.port, where.url_at))
        report = soak(where, link, options.messages, options.cuts, options.kills)
    print(f"\nRabbitMQ {where.server.version}: {report}")
    return 1 if report.lost or report.late(redelivered=False) else 0


if __name__ == "__main__":
    sys.exit(main())
