"""From a long sequence that shows a difference to a short script that does.

Hypothesis could do that, too, but to it every attempt is a new sequence to
draw; leaving out operations of the one at hand takes a tenth of the time.
"""

from __future__ import annotations

from pprint import pformat
from typing import Any

from tests.differential.comparing import Difference, Pair
from tests.differential.observing import Operation

__all__ = ["difference_in", "reduced", "script"]

_SCRIPT = '''\
"""Run as ``python script.py``; ``amqp://...`` as argument: on that server."""

import datetime

from tests.differential.replay import replay

replay(
    {operations}
)
'''


def difference_in(
    operations: list[Operation], conninfo: dict[str, Any], pause: float = 0.0
) -> Difference | None:
    """Do operations on both sides. Returns what differed, if anything did."""
    pair = Pair(pause=pause, patience=0.4, **conninfo)
    try:
        for operation in operations:
            pair.do(operation)
    except Difference as difference:
        return difference
    finally:
        pair.close()
    return None


def reduced(operations: list[Operation], conninfo: dict[str, Any]) -> list[Operation]:
    """Return as few of the operations as still show a difference."""
    size = len(operations) // 2
    while size:
        # From the end, since what comes later needs what comes before.
        for start in range(len(operations) - size, -1, -size):
            fewer = operations[:start] + operations[start + size :]
            if difference_in(fewer, conninfo):
                operations = fewer
        size //= 2
    return operations


def script(operations: list[Operation]) -> str:
    """Return a program that does the operations once more."""
    text = pformat(operations, width=90, sort_dicts=False)
    return _SCRIPT.format(operations=text.replace("\n", "\n    "))
