"""Names and properties: what AMQP can carry, and what is said of the rest."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carrot import names
from carrot.exceptions import ConfigurationError


@given(st.text())
def test_short_strings_are_utf8_of_255_bytes(text: str) -> None:
    """A name passes unchanged if and only if it is valid UTF-8 of at most 255 bytes."""
    try:
        fits = len(text.encode()) <= 255
    except UnicodeEncodeError:
        fits = False
    if fits:
        assert names.shortstr(text, "queue") is text
    else:
        with pytest.raises(ConfigurationError, match="queue"):
            names.shortstr(text, "queue")


@pytest.mark.parametrize("text", ["x" * 256, "é" * 128, "\ud800"])
def test_what_is_too_long_or_no_utf8_is_refused(text: str) -> None:
    """255 counts bytes, not characters."""
    with pytest.raises(ConfigurationError, match=r"exchange .*(bytes long|surrogate)"):
        names.shortstr(text, "exchange")
    assert names.shortstr(text[:127], "exchange") if text != "\ud800" else True


@pytest.mark.parametrize("value", [None, 5, b"feed", ["feed"], object()])
def test_names_of_other_types_are_type_errors(value: object) -> None:
    """A name that is no str is a ConfigurationError and a TypeError that says what it is of."""
    with pytest.raises(TypeError, match="routing_key must be a str") as caught:
        names.shortstr(value, "routing_key")
    assert isinstance(caught.value, ConfigurationError)


def test_priority_is_from_0_to_255() -> None:
    """Priorities are integers that fit one octet."""

    class Level(IntEnum):
        HIGH = 9

    assert [names.priority(value) for value in (0, 255, Level.HIGH)] == [0, 255, 9]
    for value in (-1, 256):
        with pytest.raises(ConfigurationError, match="0 to 255"):
            names.priority(value)
    for wrong in (None, 1.5, "5", True):
        with pytest.raises(TypeError, match="0 to 255"):
            names.priority(wrong)


def test_delivery_modes_have_names() -> None:
    """Delivery modes are 1 and 2, or go by name; all else is refused, naming the names."""
    assert names.delivery_mode(1) == 1
    assert names.delivery_mode(2) == 2
    assert names.delivery_mode("persistent") == 2
    assert names.delivery_mode("transient") == names.delivery_mode("non-persistent") == 1
    refused: list[object] = [0, 3, True, None, "durable", "2", [], {}]
    for wrong in refused:
        with pytest.raises(ConfigurationError, match='"transient"'):
            names.delivery_mode(wrong)


@given(st.floats(0, 4_294_967) | st.integers(0, 4_294_967))
def test_expiration_is_written_in_milliseconds(seconds: float) -> None:
    """Seconds become the nearest whole milliseconds; only 0 becomes 0."""
    written = int(names.milliseconds(seconds))
    assert abs(written - seconds * 1000) <= 0.5 or written == 1
    assert (written == 0) == (seconds == 0)


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), 4_294_968, "5", True, None])
def test_other_expirations_are_refused(wrong: object) -> None:
    """What RabbitMQ would close the channel for is refused here."""
    with pytest.raises(ConfigurationError, match=r"expiration must be .* seconds"):
        names.milliseconds(wrong)


def test_timestamps_are_posix_seconds() -> None:
    """Datetimes and numbers become whole seconds since 1970."""
    zone = timezone(timedelta(hours=2))
    assert names.posix_time(datetime(2009, 7, 14, 12, 0, 0, 5, tzinfo=zone)) == 1247565600
    assert names.posix_time(1247565600.9) == 1247565600
    local = datetime(2009, 7, 14, 12)
    assert names.posix_time(local) == local.timestamp()
    first, last = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59)
    assert names.posix_time(last.replace(tzinfo=timezone.utc)) == 253402300740
    for wrong in (-1, float("nan"), float("inf"), 2**63, "now", True, None, first):
        with pytest.raises(ConfigurationError, match="timestamp must"):
            names.posix_time(wrong)


def test_properties_are_checked_each() -> None:
    """Properties come out as AMQP carries them; ``None`` is left out."""
    assert names.properties(
        {"correlation_id": "7", "expiration": 1.5, "timestamp": 10, "reply_to": None}
    ) == {"correlation_id": "7", "expiration": "1500", "timestamp": 10}
    for name in ("correlation_id", "reply_to", "message_id", "type", "user_id", "app_id"):
        assert names.properties({name: "x"}) == {name: "x"}
        with pytest.raises(TypeError, match=f"{name} must be a str"):
            names.properties({name: 5})
    with pytest.raises(ConfigurationError, match="no property 'colour'; it has correlation_id"):
        names.properties({"colour": "orange"})


def test_what_cannot_be_shown_is_named_by_its_type() -> None:
    """A value whose repr fails is refused like others."""

    class Unshown:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    with pytest.raises(names.WrongType, match="not <Unshown>"):
        names.shortstr(Unshown(), "queue")


@pytest.mark.parametrize(
    "wrong", [float("nan"), float("inf"), Decimal("nan"), Decimal("snan"), Decimal("-inf")]
)
def test_tables_hold_finite_numbers(wrong: object) -> None:
    """RabbitMQ closes the connection at others: they are refused before."""
    with pytest.raises(ConfigurationError, match=r"arguments\['n'\] is .* use None or a str"):
        names.table({"n": [wrong]}, "arguments")
    assert names.table({"n": [1.5, Decimal("1E+400")]}, "arguments")


def test_tables_end() -> None:
    """A table that contains itself is refused with what to do instead."""
    endless: dict[str, object] = {}
    endless["me"] = [endless]
    with pytest.raises(ConfigurationError, match=r"arguments contains itself.* make it flat"):
        names.table(endless, "arguments")
