"""The RabbitMQ backend: its settings, its channel, its messages."""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import amqp
import pytest
from amqp import spec

from carrot.backends import pyamqplib
from carrot.backends.base import QueueAlreadyExistsWarning
from carrot.backends.pyamqplib.message import DeliveryTag
from carrot.confirms import Tracker
from carrot.exceptions import (
    AccessRefused,
    ConfigurationError,
    EncodeError,
    MessageStateError,
    MissingSetting,
    NotFound,
    NotSupported,
)
from tests.integration.driver_peer import Link, Peer, deliver, method
from tests.waiting import wait_until


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def link(peer: Peer) -> Iterator[Link]:
    link = Link(port=peer.port)
    yield link
    if link.driver is not None:
        link.driver.close()


@pytest.fixture
def backend(link: Link) -> pyamqplib.Backend:
    return pyamqplib.Backend(link)


# -- settings


@pytest.mark.parametrize(
    "missing", [["hostname"], ["userid"], ["password"], ["userid", "password"]]
)
def test_missing_settings(missing: list[str]) -> None:
    """Host, user and password must be set; the error, a ``KeyError``, says which is not."""
    link = Link(**dict.fromkeys(missing))
    with pytest.raises(MissingSetting, match=" and ".join(missing)) as caught:
        pyamqplib.Backend(link).establish_connection()
    assert isinstance(caught.value, KeyError)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"heartbeat": "often"}, "heartbeat='often' is no number of seconds"),
        ({"connect_timeout": -1}, "connect_timeout=-1"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"login_method": "MAGIC"}, "login_method='MAGIC' is none of AMQPLAIN"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    """A setting of the wrong kind is a ``ConfigurationError`` that names it."""
    with pytest.raises(ConfigurationError, match=words):
        pyamqplib.Backend(Link(port=1, **settings)).establish_connection()


def test_settings_reach_the_driver(peer: Peer) -> None:
    """Those of 0.10.7 and ours, where there are any; a missing port is filled in."""
    backend = pyamqplib.Backend(
        Link(port=peer.port, heartbeat=7, timeout=3, client_properties={"app": "x"})
    )
    driver = backend.establish_connection()
    assert (driver.heartbeat, driver.timeout) == (7, 3.0)
    assert driver.client_properties["app"] == "x"
    assert driver.client_properties["product"] == "carrot"
    backend.close_connection(driver)
    link = Link(hostname="::1", connect_timeout=0.1)
    with pytest.raises(OSError, match=r"cannot connect to \[::1\]:5672"):
        pyamqplib.Backend(link).establish_connection()
    assert link.port == pyamqplib.DEFAULT_PORT == 5672


@pytest.mark.parametrize(
    "login, shown",
    [
        (None, ("PLAIN", "\0user\0secret")),
        ("PLAIN", ("PLAIN", "\0user\0secret")),
        ("EXTERNAL", ("EXTERNAL", "")),
    ],
)
def test_login_methods(peer: Peer, login: str | None, shown: tuple[str, str]) -> None:
    """User and password by default; ``login_method`` asks for another way."""
    peer._start = method(
        0, spec.Connection.Start, "ooFSS", 0, 9, {}, b"PLAIN EXTERNAL AMQPLAIN", b"en_US"
    )
    link = Link(port=peer.port, login_method=login)
    pyamqplib.Backend(link).establish_connection().close()
    ((arguments),) = peer.got(spec.Connection.StartOk)
    assert tuple(amqp.serialization.loads("FsSs", arguments, 0)[0][1:3]) == shown


# -- the channel


def test_nothing_is_sent_before_the_first_use(link: Link, backend: pyamqplib.Backend) -> None:
    """Making, closing and stopping a backend connects nowhere."""
    backend.confirm_select(Tracker())
    backend.cancel("c")
    backend.stop()
    backend.close()
    assert backend.channel_closed is False
    assert link.driver is None
    assert "Backend" in repr(backend)


def test_a_channel_error_is_raised_once(peer: Peer, backend: pyamqplib.Backend) -> None:
    """After it the backend opens a new channel, and works."""
    channel = backend.channel
    peer.send(method(1, spec.Channel.Close, "BsBB", 404, "NOT_FOUND", 60, 40))
    wait_until(lambda: backend.channel_closed or link_pump(channel))
    with pytest.raises(NotFound):
        backend.queue_purge("q")
    assert backend.queue_declare("q", True, False, False).queue == "q"
    assert backend.channel is not channel


def link_pump(channel: Any) -> None:
    channel._driver.inbox.pump(5)


def test_threads_open_one_channel(peer: Peer, backend: pyamqplib.Backend) -> None:
    """However many threads use a new backend at once, it opens one channel."""
    threads = [threading.Thread(target=lambda: backend.channel) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(peer.got(spec.Channel.Open)) == 1


@pytest.mark.parametrize(
    "code, error, exists",
    [(404, None, False), (405, None, True), (403, AccessRefused, None)],
)
def test_queue_exists(
    peer: Peer, backend: pyamqplib.Backend, code: int, error: Any, exists: bool | None
) -> None:
    """It asks on a channel of its own; a queue that others have locked exists."""
    backend.channel  # noqa: B018
    assert backend.queue_exists("q") is True
    peer.answers[spec.Queue.Declare] = lambda number, _: method(
        number, spec.Channel.Close, "BsBB", code, "no", 50, 10
    )
    if error is None:
        assert backend.queue_exists("q") is exists
    else:
        with pytest.raises(error):
            backend.queue_exists("q")
    assert backend.channel.is_open


def test_warn_if_exists(peer: Peer, backend: pyamqplib.Backend) -> None:
    """Declaring a queue that exists warns where that was asked for."""
    with pytest.warns(QueueAlreadyExistsWarning, match="'q' exists already"):
        backend.queue_declare("q", True, False, False, warn_if_exists=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.queue_declare("q", True, False, False)


def test_what_rabbitmq_cannot_do(peer: Peer, backend: pyamqplib.Backend) -> None:
    """It is refused before a byte is sent, since RabbitMQ would close the connection."""
    message = backend.prepare_message(b"x", 2)
    backend.channel  # noqa: B018
    before = len(peer.received)
    with pytest.raises(NotSupported, match="immediate"):
        backend.publish(message, "e", "k", immediate=True)
    with pytest.raises(NotSupported, match="prefetch_size"):
        backend.qos(1, 0)
    with pytest.raises(NotSupported, match="pause"):
        backend.flow(False)
    backend.qos(0, 5, True)
    assert len(peer.received) == before + 1


# -- messages


def test_messages_to_publish() -> None:
    """They are of the amqp package's kind; what the properties say can be changed."""
    backend = pyamqplib.Backend(Link())
    arguments = {"priority": 3, "content_type": "a/b", "content_encoding": "utf-8"}
    message, twin = (backend.prepare_message(b"x", 2, **arguments) for _ in range(2))
    assert isinstance(message, amqp.Message)
    assert message.properties == {"delivery_mode": 2, **arguments}
    assert (message.body, message.content_type, message.priority) == (b"x", "a/b", 3)
    message.properties["priority"] = 4
    assert message.encoded is None
    assert twin.properties["priority"] == 3
    more = backend.prepare_message(b"x", 2, properties={"type": "t", "headers": {"a": 1}})
    assert more.properties == {
        **{"delivery_mode": 2, "type": "t"},
        "application_headers": {"a": 1},
    }
    assert repr(message) == "<Outgoing of 1 bytes>"
    with pytest.raises(EncodeError, match="priority=300"):
        backend.prepare_message(b"x", 2, priority=300)


@pytest.mark.parametrize(
    "body", ["é", b"\xc3\xa9", bytearray(b"\xc3\xa9"), memoryview(b"\xc3\xa9")]
)
def test_bodies_are_bytes(body: Any) -> None:
    """Text is UTF-8; what is neither text nor bytes is an ``EncodeError``."""
    backend = pyamqplib.Backend(Link())
    assert backend.prepare_message(body, 2).body == b"\xc3\xa9"
    with pytest.raises(EncodeError, match="bytes or str, not int"):
        backend.prepare_message(5, 2)


def test_more_kinds_of_messages_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Properties that never repeat do not fill the memory."""
    from carrot.backends.pyamqplib import sending

    monkeypatch.setattr(sending, "_CACHED", 3)
    backend = pyamqplib.Backend(Link())
    for number in range(20):
        message = backend.prepare_message(b"x", 2, content_type=str(number))
        assert message.properties["content_type"] == str(number)
    assert len(sending._prepared) <= 3


def test_a_message_received_by_hand(backend: pyamqplib.Backend) -> None:
    """What was made to be sent can be passed to a consumer, as unit tests do."""
    raw = backend.prepare_message(b'{"a": 1}', 2, content_type="application/json")
    raw.delivery_tag = "no number"
    message = backend.message_to_python(raw)
    assert message.payload == {"a": 1}
    assert (message.headers, message.delivery_info) == ({}, {})
    message.ack()
    assert message.acknowledged
    with pytest.raises(MessageStateError):
        message.reject()
    assert backend.message_to_python(message) is message


def test_a_message_made_by_hand(link: Link, backend: pyamqplib.Backend) -> None:
    """It decodes and settles without touching the broker."""
    message = pyamqplib.Message(backend=backend, body="text", delivery_tag=None, extra=1)
    assert (message.headers, message.properties, message.delivery_info) == ({}, {}, {})
    message.requeue()
    assert message._state == "REQUEUED"
    assert message._amqp_message is message.amqp_message is None
    with pytest.raises(AttributeError, match="'Message' object has no attribute 'nothing'"):
        message.nothing  # noqa: B018
    assert link.driver is None


def received(peer: Peer, backend: pyamqplib.Backend, number: int = 1) -> pyamqplib.Message:
    got: list[Any] = []
    backend.declare_consumer("q", False, got.append, "c")
    headers = {"a": [1]}
    peer.send(
        deliver(number, 7, b"[1]", content_type="application/json", application_headers=headers)
    )
    backend.connection.drain_events(5)
    message = backend.message_to_python(got[0])
    assert isinstance(message, pyamqplib.Message)
    return message


def test_a_message_received(peer: Peer, backend: pyamqplib.Backend) -> None:
    """It has the attributes of 0.10.7, and AMQP's names in its properties."""
    message = received(peer, backend)
    assert message.payload == [1]
    assert (message.body, message.content_encoding) == (b"[1]", None)
    assert message.delivery_info == {
        **{"consumer_tag": "c", "delivery_tag": 7, "redelivered": False},
        **{"exchange": "e", "routing_key": "k"},
    }
    assert message.headers == {"a": [1]}
    assert message.properties == {"content_type": "application/json", "headers": {"a": [1]}}
    assert message._amqp_message.properties["application_headers"] == {"a": [1]}
    message.headers["mine"] = message.anything = 1
    assert "mine" in message.headers


def test_a_delivery_tag_is_a_number(peer: Peer, backend: pyamqplib.Backend) -> None:
    """It compares, prints, copies and pickles as one."""
    tag = received(peer, backend).delivery_tag
    assert (tag, repr(tag), tag.__class__) == (7, "7", DeliveryTag)
    assert copy.deepcopy(tag) == pickle.loads(pickle.dumps(tag)) == 7


@pytest.mark.parametrize(
    "verb, sent_",
    [("ack", ("ack", False)), ("reject", ("reject", False)), ("requeue", ("reject", True))],
)
def test_settling(
    peer: Peer, backend: pyamqplib.Backend, verb: str, sent_: tuple[str, bool]
) -> None:
    """A message is settled on the channel that bore it; so is a bare number."""
    message = received(peer, backend)
    getattr(message, verb)()
    getattr(backend, verb)(8)
    wait_until(lambda: len(peer.settled()) == 2)
    assert peer.settled() == [(sent_[0], 7, sent_[1]), (sent_[0], 8, sent_[1])]


@pytest.mark.parametrize("verb", ["ack", "reject", "requeue"])
def test_settling_too_late(
    peer: Peer,
    link: Link,
    backend: pyamqplib.Backend,
    caplog: pytest.LogCaptureFixture,
    verb: str,
) -> None:
    """On a successor of its channel nothing is sent; it is logged and counted."""
    message = received(peer, backend)
    backend.close()
    backend.queue_declare("q", True, False, False)
    before = len(peer.received)
    getattr(backend, verb)(message.delivery_tag)
    getattr(message, verb)()
    assert message.acknowledged
    assert (backend.stale_settles, link.counted) == (2, ["stale_settles"] * 2)
    assert "the channel that it came by is gone" in caplog.text
    assert len(peer.received) == before


def test_a_tag_counts_on_its_own_channel(
    peer: Peer, link: Link, backend: pyamqplib.Backend
) -> None:
    """Whichever backend is told to settle it."""
    message = received(peer, backend)
    other = pyamqplib.Backend(link)
    other.queue_declare("other", True, False, False)
    other.ack(message.delivery_tag)
    wait_until(lambda: peer.settled(1) == [("ack", 7, False)])
    assert peer.settled(2) == []


def test_what_overrides_ack_is_called(peer: Peer, link: Link) -> None:
    """A message acknowledges itself only where its backend would do just that."""
    acknowledged: list[Any] = []

    class Counting(pyamqplib.Backend):
        def ack(self, delivery_tag: Any) -> None:
            acknowledged.append(delivery_tag)
            super().ack(delivery_tag)

    message = received(peer, Counting(link))
    message.ack()
    assert acknowledged == [7]
    wait_until(lambda: peer.settled() == [("ack", 7, False)])


def test_a_tag_that_was_set_counts(peer: Peer, backend: pyamqplib.Backend) -> None:
    """What an application says is the tag is what is settled."""
    message = received(peer, backend)
    message.delivery_tag = 8
    message.ack()
    assert message.delivery_tag == 8
    wait_until(lambda: peer.settled() == [("ack", 8, False)])
