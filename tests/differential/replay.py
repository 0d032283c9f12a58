"""A sequence of operations once more, both answers printed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.differential.comparing import Difference, Pair
from tests.differential.observing import Operation
from tests.servers.keeper import Keeper
from tests.servers.places import find_place
from tests.servers.server import Server

__all__ = ["conninfo", "replay"]


def conninfo(url: str) -> dict[str, Any]:
    """Return arguments of :class:`amqp.Connection` for a broker URL."""
    parts = urlsplit(url)
    return {
        "host": f"{parts.hostname}:{parts.port or 5672}",
        "userid": unquote(parts.username or "guest"),
        "password": unquote(parts.password or "guest"),
        "virtual_host": unquote(parts.path[1:]) or "/",
    }


def replay(operations: Iterable[Operation]) -> None:
    """Do operations on both sides; print what differs.

    On the server that the command line names, otherwise on one of its own.
    """
    warnings.simplefilter("ignore")  # the amqp package's, of what RabbitMQ does support
    if len(sys.argv) > 1:
        _replay(operations, sys.argv[1])
        return
    keeper = Keeper()
    server = Server(find_place("4.0"), keeper)
    try:
        server.start()
        _replay(operations, f"amqp://{server.host}:{server.port}/%2F")
    finally:
        server.close()
        keeper.close()


def _replay(operations: Iterable[Operation], url: str) -> None:
    pair = Pair(**conninfo(url))
    try:
        for operation in operations:
            print(*operation)
            pair.do(operation)
        print("no difference")
    except Difference as difference:
        print("DIFFERENCE after", difference)
    finally:
        pair.close()
