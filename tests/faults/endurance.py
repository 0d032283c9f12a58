"""Reconnect, and open channels, ten thousand times, and look at what that leaves behind.

::

    python -m tests.faults.endurance                       # minutes
    python -m tests.faults.endurance --reconnects 300 --channels 1000

Starts a RabbitMQ of its own (4.0 where it can be had). Prints memory, file
descriptors, threads and objects at the beginning, after a tenth, and at the
end. Exits with 1 if they grew after the first tenth, in which caches fill.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import NamedTuple

from carrot.connection import BrokerConnection
from carrot.messaging import Consumer, Publisher
from tests.faults.soak import own_server
from tests.faults.traffic import take

__all__ = ["Footprint", "footprint", "open_channels", "reconnect"]

#: Done before the first look, so that everything was used once.
WARM = 20
#: What memory may differ by without having grown: the allocator's pages.
SLACK_MIB = 2.0


class Footprint(NamedTuple):
    """What this process holds."""

    #: Resident memory.
    mib: float
    descriptors: int
    threads: int
    objects: int

    def grew(self, since: Footprint) -> bool:
        """Return whether it is more than it was, by more than chance."""
        return (
            self.mib > since.mib + SLACK_MIB
            or self.descriptors > since.descriptors + 2
            or self.threads > since.threads + 1
            or self.objects > since.objects + 200
        )


def footprint() -> Footprint:
    """Return what this process holds now, garbage aside."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return Footprint(
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        len(gc.get_objects()),
    )


@dataclass
class Report:
    """What was held at the beginning, after a tenth, and at the end."""

    what: str
    times: int
    begin: Footprint
    tenth: Footprint
    end: Footprint
    seconds: float

    @property
    def flat(self) -> bool:
        return not self.end.grew(self.tenth)

    def __str__(self) -> str:
        lines = [f"{self.times} {self.what} in {self.seconds:.0f} s"]
        marks = (WARM, WARM + self.times // 10, WARM + self.times)
        for mark, held in zip(marks, (self.begin, self.tenth, self.end), strict=True):
            lines.append(
                f"  after {mark:6}: {held.mib:6.1f} MiB, {held.descriptors} descriptors,"
                f" {held.threads} threads, {held.objects} objects"
            )
        return "\n".join([*lines, "  flat" if self.flat else "  GROWN"])


def measured(what: str, times: int, do: Callable[[int], None]) -> Report:
    """Do something so many times, and look at the footprint meanwhile.

    :param do: does it as many times as it is told to.
    """
    do(WARM)
    started, begin = time.monotonic(), footprint()
    do(times // 10)
    tenth = footprint()
    do(times - times // 10)
    return Report(what, times, begin, tenth, footprint(), time.monotonic() - started)


def reconnect(url: str, times: int) -> Report:
    """Break the link, send and receive a message over the next one, so many times."""
    with closing(BrokerConnection(url)) as connection:
        consumer, numbers = take(connection)
        consumer.consume()
        publisher = Publisher(connection, routing_key="q")

        def again(times: int) -> None:
            for _ in range(times):
                # As the network would: no goodbye, and neither side was asked.
                connection.connection._transport.sock.shutdown(socket.SHUT_RDWR)
                publisher.send({"number": len(numbers)})
                publisher.flush()
                sent = numbers[-1] if numbers else -1
                while not numbers or numbers[-1] == sent:
                    connection.drain_events(timeout=30)

        report = measured("reconnects", times, again)
        reconnects = connection.stats()["reconnects"]
        assert reconnects == times + WARM, reconnects
    return report


def open_channels(url: str, times: int) -> Report:
    """Open a channel, send or fetch a message on it and close it, so many times."""
    # On a queue where nothing comes again because its acknowledgement was cut off.
    queue = "channels"
    with closing(BrokerConnection(url)) as connection:
        Consumer(connection, queue=queue).close()

        def again(times: int) -> None:
            for count in range(times):
                if count % 2 == 0:
                    with Publisher(connection, routing_key=queue) as publisher:
                        publisher.send({"number": count})
                else:
                    with Consumer(connection, queue=queue, auto_ack=True) as consumer:
                        message = consumer.fetch()
                        assert message.payload == {"number": count - 1}

        report = measured("channels", times, again)
        assert connection.stats()["reconnects"] == 0
    return report


def main() -> int:
    """Run both and print the reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reconnects", type=int, default=10_000)
    parser.add_argument("--channels", type=int, default=10_000)
    parser.add_argument("--server", choices=["4.0", "distribution"])
    parser.add_argument("--url", help="of a server that runs; uses its queues q and channels")
    options = parser.parse_args()
    logging.getLogger("carrot").setLevel(logging.CRITICAL)
    print(f"Python {sys.version.split()[0]}", end="")
    with ExitStack() as stack:
        url = options.url
        if url is None:
            where = own_server(stack, options.server)
            url = where.url
            print(f", RabbitMQ {where.server.version}", end="")
        print()
        reports = [reconnect(url, options.reconnects), open_channels(url, options.channels)]
    print(*reports, sep="\n")
    return 0 if all(report.flat for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
