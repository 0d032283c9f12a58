"""Headers and arguments in memory are what they would be after a wire."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from carrot.backends.pyamqplib import tables
from carrot.backends.queue.values import as_received
from carrot.exceptions import EncodeError

NESTED: dict[str, Any] = {"deep": [1, {"deeper": ()}]}
ITSELF: dict[str, Any] = {}
ITSELF["me"] = ITSELF


def over_a_wire(table: dict[str, Any]) -> Any:
    """Return what the AMQP backend makes of a table, there and back."""
    encoded = tables.encode_properties({"application_headers": table})
    return tables.decode_properties(encoded)["application_headers"]


@pytest.mark.parametrize(
    "value",
    [
        "text",
        b"bytes",
        bytearray(b"bytes"),
        True,
        0,
        -1,
        2**31,
        2**63 - 1,
        -(2**63),
        0.5,
        None,
        (1, "two"),
        NESTED,
        Decimal("1.50"),
        Decimal("-2e9"),
        datetime(2020, 1, 1, 12, 0, 0, 999),
        datetime(2020, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_values_arrive_as_over_a_wire(value: Any) -> None:
    """What AMQP changes on the way is changed in memory as well, types included."""
    here, there = as_received({"name": value}), over_a_wire({"name": value})
    assert here == there
    assert type(here["name"]) is type(there["name"])


@pytest.mark.parametrize(
    "table",
    [
        {"name": object()},
        {"name": {1}},
        {"name": 2**63},
        {"name": [{"fine": [2**64]}]},
        {"name": Decimal("NaN")},
        {"name": Decimal("12345678901.5")},
        {"name": Decimal("1e99")},
        {"name": datetime(1969, 12, 31)},
        {5: "name"},
        {"x" * 256: 1},
        ITSELF,
    ],
)
def test_what_cannot_travel_is_refused(table: dict[Any, Any]) -> None:
    """What AMQP has no type for is an error of the sender, in memory too."""
    for carry in (as_received, over_a_wire):
        with pytest.raises(EncodeError):
            carry(table)


def test_later_changes_do_not_arrive() -> None:
    """What is received is a copy, however deep."""
    received = as_received({"name": NESTED})
    NESTED["deep"].append("late")
    try:
        assert received == {"name": {"deep": [1, {"deeper": []}]}}
    finally:
        NESTED["deep"].pop()


def test_no_table() -> None:
    """No table is an empty one."""
    assert as_received(None) == {}
