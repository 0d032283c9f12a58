"""The RabbitMQ backend on connections of other drivers, shaped like amqplib's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import amqp
import pytest

from carrot.backends import pyamqplib
from carrot.backends.pyamqplib.message import Outgoing
from carrot.confirms import Tracker
from carrot.exceptions import (
    AccessRefused,
    ConnectionLost,
    NotFound,
    NotSupported,
    ResourceLocked,
)
from tests.integration.driver_peer import Link

# -- connections of another shape


class FakeChannel:
    """Records its calls, as mock channels of applications' tests do."""

    def __init__(self, **answers: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.answers = answers

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_") or name in ("is_open", "auto_decode", "connection"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answers.get(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


class FakeConnection:
    def __init__(self, **answers: Any) -> None:
        self.channels = [FakeChannel(**answers)]

    def channel(self) -> FakeChannel:
        return self.channels[-1]

    def drain_events(self, timeout: float | None = None) -> None:
        name, _, kwargs = self.channels[-1].calls[-1]
        assert name == "basic_consume"
        kwargs["callback"](SimpleNamespace(body="text", delivery_tag=3))

    def close(self) -> None:
        raise OSError("gone")


class FakeBackend(pyamqplib.Backend):
    def establish_connection(self) -> Any:
        return FakeConnection(**self.connection.answers)


def publish(backend: pyamqplib.Backend, body: bytes = b"x", **options: Any) -> None:
    backend.publish(backend.prepare_message(body, 2), "e", "k", **options)


def faked(**answers: Any) -> tuple[FakeBackend, FakeChannel]:
    link = Link(FakeBackend, answers=answers)
    return FakeBackend(link), link.connection.channels[0]


def test_a_channel_of_amqplibs_shape() -> None:
    """It is called by the names and keywords of amqplib, and with nothing that is ours."""
    backend, channel = faked(queue_declare=("q", 0, 0))
    assert backend.features == {"properties", "exchange_arguments", "consumer_arguments"}
    backend.queue_declare("q", True, False, False, {"x": 1})
    backend.exchange_declare("e", "direct", True, False)
    backend.queue_bind("q", "e", "k")
    backend.queue_purge("q")
    backend.queue_delete("q", if_unused=True)
    backend.qos(0, 3)
    backend.flow(False)
    backend.ack(1)
    backend.reject(2)
    backend.requeue(3)
    assert channel.calls == [
        (
            "queue_declare",
            (),
            {
                **{"queue": "q", "durable": True, "exclusive": False, "auto_delete": False},
                "arguments": {"x": 1},
            },
        ),
        (
            "exchange_declare",
            (),
            {"exchange": "e", "type": "direct", "durable": True, "auto_delete": False},
        ),
        (
            "queue_bind",
            (),
            {"queue": "q", "exchange": "e", "routing_key": "k", "arguments": None},
        ),
        ("queue_purge", (), {"queue": "q"}),
        ("queue_delete", (), {"queue": "q", "if_unused": True, "if_empty": False}),
        ("basic_qos", (), {"prefetch_size": 0, "prefetch_count": 3, "a_global": False}),
        ("flow", (False,), {}),
        ("basic_ack", (1,), {}),
        ("basic_reject", (2,), {"requeue": False}),
        ("basic_reject", (3,), {"requeue": True}),
    ]


def test_messages_of_amqplibs_shape() -> None:
    """They are published, consumed and settled through the channel."""
    backend, channel = faked(basic_get=None)
    message = backend.prepare_message(b"x", 2)
    backend.publish(message, exchange="e", routing_key="k", mandatory=False)
    assert channel.calls == [
        (
            "basic_publish",
            (message,),
            {"exchange": "e", "routing_key": "k", "mandatory": False},
        )
    ]
    assert isinstance(message, Outgoing)
    assert backend.get("q") is None
    got: list[Any] = []
    backend.declare_consumer("q", False, got.append, "c")
    assert "on_cancel" not in channel.calls[-1][2]
    assert list(backend.consume(limit=2)) == [True, True]
    received_ = backend.message_to_python(got[0])
    assert (received_.body, received_.content_type) == (b"text", None)
    received_.ack()
    assert channel.calls[-1] == ("basic_ack", (3,), {})
    backend.cancel("c")
    backend.close()
    assert [name for name, _, _ in channel.calls[-2:]] == ["basic_cancel", "close"]
    backend.close_connection(backend.connection.connection)


def amqplibs(code: int) -> Exception:
    error = Exception(code, "text", (60, 40))
    error.__dict__.update(amqp_reply_code=code, amqp_reply_text="text")
    return error


@pytest.mark.parametrize(
    "raised, error",
    [
        (amqp.exceptions.NotFound("text", (50, 10), reply_code=404), NotFound),
        (amqp.exceptions.AccessRefused("text", reply_code=403), AccessRefused),
        (amqp.exceptions.ResourceLocked("text", reply_code=405), ResourceLocked),
        (amqp.exceptions.ConnectionForced("text"), ConnectionLost),
        (amqp.exceptions.AMQPNotImplementedError("text"), NotSupported),
        (OSError(32, "text"), ConnectionLost),
        (ConnectionResetError(104, "text"), ConnectionLost),
        (amqplibs(404), NotFound),
        (amqplibs(320), ConnectionLost),
        (amqplibs(530), ConnectionLost),
        (ZeroDivisionError("text"), ZeroDivisionError),
    ],
)
def test_errors_of_other_drivers(raised: Exception, error: type[Exception]) -> None:
    """They are translated to ours, whatever call they come out of; bugs stay what they are."""
    backend, _ = faked(queue_purge=raised, basic_publish=raised, flow=raised, basic_ack=raised)
    for call in (
        lambda: backend.queue_purge("q"),
        lambda: backend.publish(backend.prepare_message(b"x", 2), "e", "k"),
        lambda: backend.flow(True),
    ):
        with pytest.raises(error, match="text") as caught:
            call()
        assert type(caught.value) is error
    if error is ConnectionLost:
        backend.ack(1)  # what is not settled comes again: nothing to do about it
        assert backend.stale_settles == 1
    else:
        with pytest.raises(error, match="text"):
            backend.ack(1)


def test_confirms_are_not_for_others() -> None:
    """A channel that cannot count them says so, if it is asked all the same."""
    backend, channel = faked()
    backend.confirm_select(Tracker())
    with pytest.raises(NotSupported, match="confirms"):
        publish(backend)
    backend, channel = faked()
    with pytest.raises(NotSupported, match="callbacks"):
        backend.pump(1)
    assert channel.calls == []


def test_features_of_subclasses() -> None:
    """Who replaces the connection may say what it can do; others inherit."""

    class Named(FakeBackend):
        features = pyamqplib.Backend.features

    class Derived(pyamqplib.Backend):
        pass

    assert Named.features == Derived.features == pyamqplib.Backend.features
