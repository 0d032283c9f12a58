"""Backends by name, and the base that all of them share."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import carrot.backends
from carrot.backends import BACKEND_ALIASES, DEFAULT_BACKEND, get_backend_cls, resolve_backend
from carrot.backends.base import ACKNOWLEDGED_STATES, BaseBackend, BaseMessage
from carrot.confirms import Tracker
from carrot.exceptions import (
    BackendNotFound,
    ConfigurationError,
    MessageStateError,
    NotSupported,
)
from carrot.utils import lazy

# -- names


@pytest.mark.parametrize("alias", ["amqp", "amqplib", "pyamqplib"])
def test_aliases_of_amqp(alias: str) -> None:
    """``amqp``, ``amqplib`` and ``pyamqplib`` are the backend for RabbitMQ."""
    from carrot.backends.pyamqplib import Backend

    assert get_backend_cls(alias) is Backend


@pytest.mark.parametrize("alias", ["memory", "mem", "queue"])
def test_aliases_of_memory(alias: str) -> None:
    """``memory``, ``mem`` and ``queue`` are the in-memory backend."""
    from carrot.backends.queue import Backend

    assert get_backend_cls(alias) is Backend


def test_the_default_is_amqp() -> None:
    """Without a name the backend is the one for RabbitMQ."""
    from carrot.backends.pyamqplib import Backend

    assert get_backend_cls() is get_backend_cls(None) is Backend
    assert get_backend_cls(DEFAULT_BACKEND) is Backend
    assert carrot.backends.DefaultBackend is Backend
    assert not hasattr(carrot.backends, "NoSuchName")


def test_any_class_and_any_path_will_do() -> None:
    """A class is its own backend; a dotted path is imported."""

    class Mine(BaseBackend):
        pass

    assert get_backend_cls(Mine) is Mine
    assert get_backend_cls("carrot.backends.base.BaseBackend") is BaseBackend


def test_resolve_backend_splits() -> None:
    """``resolve_backend`` returns module and class of an alias or a path."""
    assert resolve_backend("my.module.Backend") == ("my.module", "Backend")
    assert resolve_backend("memory") == ("carrot.backends.queue", "Backend")


@pytest.mark.parametrize("name", ["nosuch", "", ".", "Backend.", ".Backend", "stomp"])
def test_unknown_names_list_the_known(name: str) -> None:
    """An unknown name is an error that lists the known ones."""
    with pytest.raises(BackendNotFound) as caught:
        get_backend_cls(name)
    for alias in BACKEND_ALIASES:
        assert alias in str(caught.value)
    assert isinstance(caught.value, (ImportError, ValueError))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no.such.module.Backend", "no module named 'no'"),
        ("carrot.backends.queue.Bakend", "has no 'Bakend'"),
        ("carrot.nosuch.Backend", "carrot.nosuch"),
    ],
)
def test_wrong_paths_say_what_is_missing(path: str, said: str) -> None:
    """A path that leads nowhere is an error that says which part does not exist."""
    with pytest.raises(BackendNotFound, match=said):
        get_backend_cls(path)


@pytest.mark.parametrize("value", [5, b"memory", object(), ["memory"]])
def test_names_are_strings(value: Any) -> None:
    """What is neither name nor class is an error that says its type."""
    with pytest.raises(BackendNotFound, match=type(value).__name__):
        get_backend_cls(value)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a backend's package is missing, the error says how to install it."""
    for name in [*sys.modules]:
        if name == "amqp" or name.startswith(("amqp.", "carrot.backends.pyamqplib")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "amqp", None)
    with pytest.raises(BackendNotFound, match="pip install amqp"):
        get_backend_cls("amqplib")


def test_naming_backends_loads_none() -> None:
    """Importing messaging, connections and names of backends loads no driver."""
    program = (
        "import sys, carrot.messaging, carrot.connection, carrot.backends;"
        "print([n for n in sys.modules if n.startswith(('amqp', 'carrot.backends.'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "['carrot.backends.base']", done.stderr


# -- the base


def test_absent_methods_are_harmless() -> None:
    """What a backend leaves out does nothing."""
    backend = BaseBackend(None, extra_options={"a": 1})
    assert backend.extra_options == {"a": 1}
    assert backend.establish_connection() is None  # type: ignore[func-returns-value]
    backend.close_connection(None)
    assert (
        backend.queue_declare(queue="q", durable=True, exclusive=False, auto_delete=False)
        is None
    )
    assert (
        backend.exchange_declare(exchange="x", type="direct", durable=True, auto_delete=False)
        is None
    )
    assert backend.queue_bind(queue="q", exchange="x", routing_key="k") is None
    assert not backend.queue_exists(queue="q")
    assert backend.queue_delete(queue="q", if_unused=True, if_empty=True) is None
    assert backend.queue_purge("q") is None
    assert (
        backend.declare_consumer(
            queue="q", no_ack=False, callback=print, consumer_tag="t", nowait=False
        )
        is None
    )
    assert list(backend.consume(limit=5)) == []
    for method in (backend.cancel, backend.ack, backend.reject, backend.requeue):
        assert method("x") is None
    assert backend.qos(0, 1, False) is None
    assert backend.flow(True) is None
    assert backend.message_to_python("raw") == "raw"
    assert backend.prepare_message("data", 2) == "data"
    backend.stop()
    backend.close()


def test_losing_messages_is_not_harmless() -> None:
    """``publish`` and ``get`` of the base class raise: doing nothing would lose messages."""
    backend = BaseBackend(None)
    with pytest.raises(NotSupported, match=r"publish\(\)"):
        backend.publish("m", exchange="x", routing_key="k")
    with pytest.raises(NotImplementedError, match=r"get\(\)"):
        backend.get("q", no_ack=False)


def test_confirms_are_optional() -> None:
    """A backend that does not announce confirms has none."""
    backend = BaseBackend(None)
    assert backend.features == frozenset()
    with pytest.raises(NotSupported):
        backend.confirm_select(Tracker())
    with pytest.raises(NotSupported):
        backend.pump()
    assert "BaseBackend" in repr(backend)


def test_states_of_messages() -> None:
    """A message is settled once; then it says in which state it is."""
    assert set(ACKNOWLEDGED_STATES) == {"ACK", "REJECTED", "REQUEUED"}
    message = BaseMessage(BaseBackend(None), body="text", delivery_tag=5, unknown=1)
    assert (message.headers, message.properties, message.delivery_info) == ({}, {}, {})
    assert "4 bytes" in repr(message)
    message.requeue()
    with pytest.raises(MessageStateError, match="REQUEUED"):
        message.ack()
    assert "0 bytes" in repr(BaseMessage(None, body=None))


def test_configuration_errors_are_value_errors() -> None:
    """A backend that cannot be found is a configuration error."""
    assert issubclass(BackendNotFound, ConfigurationError)


def test_what_is_lazy_is_worked_out_once_and_may_be_set() -> None:
    """Until something asks or sets it, nothing is done."""
    calls: list[str] = []

    class Thing:
        @lazy
        def costly(self) -> int:
            """What it is."""
            calls.append("costly")
            return 1

    thing, other = Thing(), Thing()
    assert calls == []
    assert (thing.costly, thing.costly, calls) == (1, 1, ["costly"])
    other.costly = 2
    assert (other.costly, calls) == (2, ["costly"])
    assert Thing.costly.__doc__ == "What it is."
