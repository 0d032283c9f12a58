"""Old doors stay open: every import path and signature of carrot 0.5 and 0.10.7.

A signature is written as 0.10.7's users wrote it; what came since may only be
given by keyword, so that no positional argument changes its meaning.
"""

from __future__ import annotations

import importlib
import inspect
from inspect import Parameter
from typing import Any

import pytest

DOORS = {
    "carrot.connection": """BrokerConnection AMQPConnectionException AMQPConnection
        DjangoBrokerConnection DjangoAMQPConnection ConnectionPool ConnectionLimitExceeded
        DummyConnection get_django_conninfo DEFAULT_CONNECT_TIMEOUT""",
    "carrot.messaging": "Publisher Consumer ConsumerSet Messaging AMQPConnection",
    "carrot.serialization": """registry encode decode SerializerRegistry SerializerNotInstalled
        raw_encode""",
    "carrot.backends": """get_backend_cls resolve_backend DEFAULT_BACKEND BACKEND_ALIASES
        DefaultBackend""",
    "carrot.backends.base": "BaseBackend BaseMessage MessageStateError ACKNOWLEDGED_STATES",
    "carrot.backends.pyamqplib": """Backend Message Connection QueueAlreadyExistsWarning
        AMQPChannelException DEFAULT_PORT""",
    "carrot.backends.queue": "Backend Message",
    "carrot.utils": "gen_unique_id partition rpartition",
}

SIGNATURES = """
carrot.connection.BrokerConnection(
    hostname=None, userid=None, password=None, virtual_host=None, port=None, pool=None)
carrot.connection.BrokerConnection.connect()
carrot.connection.BrokerConnection.create_backend(backend_cls=None)
carrot.connection.BrokerConnection.get_backend_cls()
carrot.connection.BrokerConnection.get_channel()
carrot.connection.BrokerConnection.drain_events(timeout=None)
carrot.connection.BrokerConnection.close()
carrot.connection.BrokerConnection.release()
carrot.connection.BrokerConnection.info()
carrot.connection.BrokerConnection.channel()
carrot.connection.ConnectionPool(source, min=2, max=None, preload=True)
carrot.connection.ConnectionPool.acquire(block=False, timeout=None, connect_timeout=None)
carrot.connection.ConnectionPool.release(connection)
carrot.messaging.Consumer(connection, queue=None, exchange=None, routing_key=None)
carrot.messaging.Consumer.declare()
carrot.messaging.Consumer.fetch(no_ack=None, auto_ack=None, enable_callbacks=False)
carrot.messaging.Consumer.register_callback(callback)
carrot.messaging.Consumer.receive(message_data, message)
carrot.messaging.Consumer.iterconsume(limit=None, no_ack=None)
carrot.messaging.Consumer.consume(no_ack=None)
carrot.messaging.Consumer.wait(limit=None)
carrot.messaging.Consumer.iterqueue(limit=None, infinite=False)
carrot.messaging.Consumer.process_next()
carrot.messaging.Consumer.discard_all(filterfunc=None)
carrot.messaging.Consumer.qos(prefetch_size=0, prefetch_count=0, apply_global=False)
carrot.messaging.Consumer.flow(active)
carrot.messaging.Consumer.cancel()
carrot.messaging.Consumer.close()
carrot.messaging.Consumer.purge()
carrot.messaging.Publisher(connection, exchange=None, routing_key=None)
carrot.messaging.Publisher.send(
    message_data, routing_key=None, delivery_mode=None, mandatory=False, immediate=False,
    priority=0, content_type=None, content_encoding=None, serializer=None, exchange=None)
carrot.messaging.Publisher.create_message(
    message_data, delivery_mode=None, priority=None, content_type=None,
    content_encoding=None, serializer=None)
carrot.messaging.Publisher.declare()
carrot.messaging.Publisher.close()
carrot.messaging.Messaging(connection)
carrot.messaging.Messaging.fetch()
carrot.messaging.Messaging.close()
carrot.messaging.ConsumerSet(connection, from_dict=None, consumers=None, callbacks=None)
carrot.messaging.ConsumerSet.add_consumer_from_dict(queue)
carrot.messaging.ConsumerSet.add_consumer(consumer)
carrot.messaging.ConsumerSet.register_callback(callback)
carrot.messaging.ConsumerSet.receive(message_data, message)
carrot.messaging.ConsumerSet.consume()
carrot.messaging.ConsumerSet.iterconsume(limit=None)
carrot.messaging.ConsumerSet.discard_all()
carrot.messaging.ConsumerSet.flow(active)
carrot.messaging.ConsumerSet.qos(prefetch_size=0, prefetch_count=0, apply_global=False)
carrot.messaging.ConsumerSet.cancel()
carrot.messaging.ConsumerSet.cancel_by_queue(queue)
carrot.messaging.ConsumerSet.close()
carrot.serialization.encode(data, serializer=None)
carrot.serialization.decode(data, content_type, content_encoding)
carrot.serialization.raw_encode(data)
carrot.serialization.SerializerRegistry.register(
    name, encoder, decoder, content_type, content_encoding='utf-8')
carrot.backends.get_backend_cls(backend=None)
carrot.backends.resolve_backend(backend)
carrot.backends.base.BaseMessage(backend)
carrot.backends.base.BaseMessage.decode()
carrot.backends.base.BaseMessage.ack()
carrot.backends.base.BaseMessage.reject()
carrot.backends.base.BaseMessage.requeue()
carrot.utils.gen_unique_id()
"""

#: The frozen seam: what callers pass, by keyword.
SEAM = """
queue_declare(queue, durable, exclusive, auto_delete, arguments, warn_if_exists)
queue_exists(queue)
queue_delete(queue, if_unused, if_empty)
queue_purge(queue)
exchange_declare(exchange, type, durable, auto_delete)
queue_bind(queue, exchange, routing_key, arguments)
get(queue, no_ack)
declare_consumer(queue, no_ack, callback, consumer_tag, nowait)
consume(limit)
cancel(consumer_tag)
ack(delivery_tag)
reject(delivery_tag)
requeue(delivery_tag)
message_to_python(raw_message)
prepare_message(message_data, delivery_mode, priority, content_type, content_encoding)
publish(message, exchange, routing_key, mandatory, immediate, headers)
qos(prefetch_size, prefetch_count, apply_global)
flow(active)
establish_connection()
close_connection(connection)
close()
"""

DEFAULTS = {
    "carrot.messaging.Consumer": {
        **{"durable": True, "exclusive": False, "auto_delete": False, "auto_declare": True},
        **{"exchange_type": "direct", "warn_if_exists": False, "auto_ack": False},
        **{"no_ack": False, "queue_arguments": None},
    },
    "carrot.messaging.Publisher": {
        **{"exchange_type": "direct", "durable": True, "auto_delete": False},
        **{"serializer": None, "delivery_mode": 2, "auto_declare": True},
    },
    "carrot.connection.BrokerConnection": {"virtual_host": "/", "port": None},
    "carrot.connection": {"DEFAULT_CONNECT_TIMEOUT": 5},
    "carrot.backends.pyamqplib": {"DEFAULT_PORT": 5672},
    "carrot.backends.pyamqplib.Backend": {"default_port": 5672},
}


def found(path: str) -> Any:
    """Return what a dotted path names."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            thing = getattr(thing, name)
        return thing
    raise LookupError(path)


def written(calls: str) -> list[tuple[str, inspect.Signature]]:
    """Read signatures as they are written above."""
    whole = " ".join(calls.split()).replace(") ", ")\n").splitlines()
    result = []
    for call in whole:
        path, _, arguments = call.partition("(")
        names: dict[str, Any] = {}
        exec(f"def f({arguments}: ...", names)
        result.append((path, inspect.signature(names["f"])))
    return result


def positional(thing: Any) -> list[Parameter]:
    """Return the parameters that can be given without their names, self aside."""
    parameters = list(inspect.signature(thing).parameters.values())
    if parameters and parameters[0].name == "self":
        del parameters[0]
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in parameters if parameter.kind in kinds]


@pytest.mark.parametrize(
    ("module", "name"),
    [(door, name) for door, names in DOORS.items() for name in names.split()],
)
def test_door(module: str, name: str) -> None:
    """A name that carrot 0.5 or 0.10.7 exported is there."""
    assert getattr(importlib.import_module(module), name) is not None


def test_old_names_are_the_same_classes() -> None:
    """Old and new names of one thing are one class."""
    assert found("carrot.connection.AMQPConnection") is found(
        "carrot.connection.BrokerConnection"
    )
    assert found("carrot.messaging.AMQPConnection") is found(
        "carrot.connection.BrokerConnection"
    )
    assert found("carrot.connection.DjangoAMQPConnection") is found(
        "carrot.connection.DjangoBrokerConnection"
    )
    assert found("carrot.backends.DefaultBackend") is found("carrot.backends.pyamqplib.Backend")


@pytest.mark.parametrize(("path", "expected"), written(SIGNATURES), ids=lambda v: str(v)[:70])
def test_signature(path: str, expected: inspect.Signature) -> None:
    """Positional arguments have their names, order and defaults; nothing joined them."""
    assert [(p.name, p.default) for p in positional(found(path))] == [
        (p.name, p.default) for p in expected.parameters.values()
    ]


@pytest.mark.parametrize("cls", ["base.BaseBackend", "queue.Backend", "pyamqplib.Backend"])
@pytest.mark.parametrize(("name", "expected"), written(SEAM), ids=lambda v: str(v)[:40])
def test_seam(cls: str, name: str, expected: inspect.Signature) -> None:
    """A backend's method takes the keywords of 0.10.7, and needs no others."""
    method = getattr(found(f"carrot.backends.{cls}"), name)
    inspect.signature(method).bind(None, **dict.fromkeys(expected.parameters))


@pytest.mark.parametrize("path", DEFAULTS)
def test_defaults(path: str) -> None:
    """Options have the defaults of 0.10.7, as class attributes."""
    thing = found(path)
    assert {name: getattr(thing, name) for name in DEFAULTS[path]} == DEFAULTS[path]


def test_old_aliases() -> None:
    """Every old alias of a backend still names one."""
    aliases = found("carrot.backends.BACKEND_ALIASES")
    assert {"amqp", "amqplib", "pyamqplib", "memory", "mem", "queue"} <= set(aliases)


@pytest.mark.parametrize("cls", ["queue.Message", "pyamqplib.Message", "base.BaseMessage"])
def test_message(cls: str) -> None:
    """A message made by hand has every attribute that callbacks read."""
    message = found(f"carrot.backends.{cls}")(backend=None, body=b"x", delivery_tag="none")
    attributes = """body delivery_tag content_type content_encoding delivery_info headers
        properties payload acknowledged _state"""
    assert all(hasattr(message, name) for name in attributes.split())
    assert message._state == "RECEIVED"
    message.anything = 1


def test_pyamqplib_messages_show_the_drivers() -> None:
    """pyamqplib's messages have both old names of the driver's message."""
    cls = found("carrot.backends.pyamqplib.Message")
    message = cls(backend=None, body=b"x", delivery_tag="none")
    assert hasattr(message, "amqp_message")
    assert hasattr(message, "_amqp_message")
