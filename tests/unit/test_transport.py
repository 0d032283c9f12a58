"""The link by itself: a pair of sockets, no broker."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Reads 64 messages of 1 MiB, one alive at a time, and prints how many pages
#: the system had to hand out for the second half of them.
_READ_LARGE_ONES = """
import os, resource, select, socket
from carrot.backends.pyamqplib.parser import Parser
from carrot.backends.pyamqplib.transport import Transport

SIZE, FRAME, COUNT = 1024 * 1024, 131064, 64

def frame(kind, payload):
    return bytes([kind, 0, 1]) + len(payload).to_bytes(4, "big") + payload + b"\\xce"

method = b"\\0\\x3c\\0\\x3c\\1t" + bytes(7) + b"\\1\\0\\0\\1q"
header = b"\\0\\x3c\\0\\0" + SIZE.to_bytes(8, "big") + b"\\0\\0"
pieces = [bytes(min(FRAME, SIZE - at)) for at in range(0, SIZE, FRAME)]
message = frame(1, method) + frame(2, header) + b"".join(frame(3, each) for each in pieces)

here, there = socket.socketpair()
if not os.fork():
    here.close()
    for _ in range(COUNT):
        there.sendall(message)
    os._exit(0)
there.close()
here.setblocking(False)
transport = Transport("nowhere:1")
transport.sock = here
transport._setup_transport()
parser, seen, half, body = Parser({1: object()}), 0, 0, b""
while seen < COUNT:
    select.select([here], [], [])
    data, events = transport.receive(), []
    if data is not None:
        parser.feed(data, events)
    for event in events:
        body = event.body
        assert len(body) == SIZE
        seen += 1
        if seen == COUNT // 2:
            half = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - half)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="how memory is kept is the C library's matter"
)
def test_large_messages_are_received_into_memory_of_earlier_ones() -> None:
    """Freed blocks stay: the 32 MiB of bodies need not 8,192 new pages each time around."""
    printed = subprocess.run(
        [sys.executable, "-c", _READ_LARGE_ONES], capture_output=True, check=True, timeout=60
    ).stdout
    assert int(printed) < 2048
