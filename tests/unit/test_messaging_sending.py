"""What a publisher asks of a backend: the calls of carrot 0.10.7, and none besides."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from carrot.backends.base import BaseMessage
from carrot.exceptions import (
    ConfigurationError,
    NotSupported,
    PublishError,
)
from carrot.messaging import Publisher
from tests.unit.recording import ConfirmingBackend, RecordingConnection


def message(body: Any = b"x", **options: Any) -> BaseMessage:
    return BaseMessage(None, body=body, delivery_tag=1, content_type="text/plain", **options)


# -- sending


def test_prepare_message_is_called_as_of_old() -> None:
    """``prepare_message`` gets data and mode by position, the rest by keyword."""
    publisher = Publisher(RecordingConnection(), exchange="x", auto_declare=False)
    publisher.send({"a": 1}, "k", priority=3)
    prepared, published = publisher.backend.calls
    assert prepared == (
        "prepare_message",
        (b'{"a":1}', 2),
        {"priority": 3, "content_type": "application/json", "content_encoding": "utf-8"},
    )
    name, args, kwargs = published
    assert (name, len(args)) == ("publish", 1)
    assert kwargs == {
        "exchange": "x",
        "routing_key": "k",
        "mandatory": False,
        "immediate": False,
        "headers": None,
    }


def test_a_routing_key_that_was_no_text_can_be_sent_on() -> None:
    """One that was received, with bytes that are no UTF-8, goes back as it came."""
    publisher = Publisher(RecordingConnection(), exchange="x", auto_declare=False)
    for options in ({}, {"headers": {"a": 1}}, {"exchange": "other"}):
        publisher.send("x", "caf\udce9", **options)
    sent = publisher.backend.called("publish")
    assert [kwargs["routing_key"] for _, _, kwargs in sent] == ["caf\udce9"] * 3


def test_properties_go_to_backends_that_know_them() -> None:
    """New keywords of ``send`` are properties, for backends that announce them."""
    publisher = Publisher(RecordingConnection(ConfirmingBackend))
    publisher.send("x", expiration=1.5, timestamp=datetime(2020, 1, 1, tzinfo=timezone.utc))
    [(_, _, kwargs)] = publisher.backend.called("prepare_message")
    assert kwargs["properties"] == {"expiration": "1500", "timestamp": 1577836800}
    old = Publisher(RecordingConnection())
    with pytest.raises(NotSupported, match="reply_to"):
        old.send("x", reply_to="answers")
    assert old.backend.called("publish") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("expiration", -1),
        ("expiration", "soon"),
        ("expiration", 1e12),
        ("expiration", float("nan")),
        ("correlation_id", 5),
        ("reply_to", "x" * 256),
        ("message_id", b"1"),
        ("timestamp", "now"),
        ("timestamp", -5),
        ("type", []),
        ("user_id", object()),
        ("app_id", "\ud800"),
    ],
)
def test_properties_that_cannot_be(name: str, value: Any) -> None:
    """A property that AMQP cannot carry is an error that names it; nothing is sent."""
    publisher = Publisher(RecordingConnection(ConfirmingBackend))
    with pytest.raises(ConfigurationError, match=name):
        publisher.send("x", **{name: value})
    assert publisher.backend.called("publish") == []


def test_a_dict_as_routing_key_is_the_headers() -> None:
    """Over a headers exchange a dict ``routing_key`` becomes the headers of the message."""
    publisher = Publisher(RecordingConnection(), exchange="x", exchange_type="headers")
    publisher.send("x", routing_key={"a": 1, "b": 1}, headers={"b": 2})
    assert publisher.backend.last[2]["headers"] == {"a": 1, "b": 2}
    assert publisher.backend.last[2]["routing_key"] == ""
    always = Publisher(
        RecordingConnection(), exchange="x", exchange_type="headers", routing_key={"a": 1}
    )
    always.send("x")
    assert always.backend.last[2]["headers"] == {"a": 1}
    always.send("x", routing_key="text")
    assert always.backend.last[2]["routing_key"] == "text"


@pytest.mark.parametrize("routing_key", [5, ["a"], b"bytes"])
def test_other_routing_keys_of_headers_exchanges(routing_key: Any) -> None:
    """Over a headers exchange a routing key is a dict or text; else the error says so."""
    publisher = Publisher(RecordingConnection(), exchange="x", exchange_type="headers")
    with pytest.raises(ConfigurationError, match="routing_key"):
        publisher.send("x", routing_key=routing_key)


@pytest.mark.parametrize("headers", [["a"], "text", 5])
def test_headers_that_are_no_table(headers: Any) -> None:
    """``headers`` that are no dictionary are an error that says so."""
    for exchange_type in ("direct", "headers"):
        publisher = Publisher(
            RecordingConnection(ConfirmingBackend), exchange="x", exchange_type=exchange_type
        )
        with pytest.raises(ConfigurationError, match="headers"):
            publisher.send("x", headers=headers)


def test_flush_and_close_wait_for_confirms() -> None:
    """``flush`` waits while something is unconfirmed, and takes failures once."""
    publisher = Publisher(RecordingConnection(ConfirmingBackend))
    publisher.flush()
    assert publisher.backend.called("flush") == []
    from carrot.confirms import Unconfirmed

    tracker = publisher._tracker
    assert tracker is not None
    tracker.add(Unconfirmed(b"x", "", "k"))
    publisher.flush(timeout=3)
    assert publisher.backend.called("flush") == [("flush", (3,), {})]
    tracker.fail_all(PublishError("no"))
    with pytest.raises(PublishError) as caught:
        publisher.close()
    assert [entry.routing_key for entry in caught.value.messages] == ["k"]
    assert publisher.backend.last[0] == "close"
    publisher.close()
    assert len(publisher.backend.called("close")) == 1


def test_a_failed_flush_does_not_replace_an_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Leaving a ``with`` block by an exception logs what was not accepted."""
    from carrot.confirms import Unconfirmed

    publisher = Publisher(RecordingConnection(ConfirmingBackend))
    assert publisher._tracker is not None
    with pytest.raises(LookupError), publisher:
        publisher._tracker.add(Unconfirmed(b"x", "", "k"))
        publisher._tracker.fail_all(PublishError("no"))
        raise LookupError
    assert "not accepted" in caplog.text
    assert publisher._closed
