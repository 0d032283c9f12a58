"""Misuse of connections."""

from __future__ import annotations

import socket
import sys
from typing import Any

from carrot.connection import BrokerConnection, ConnectionPool
from carrot.messaging import Consumer, Publisher
from carrot.testing.contract import Scene
from tests.misuse.register import misuse

_AMQP = {"hostname": "localhost", "userid": "guest", "password": "guest"}


@misuse("An unknown alias as ``backend_cls``")
def unknown_alias(scene: Scene) -> None:
    BrokerConnection(backend_cls="rabbit").connect()


@misuse("A dotted path whose module does not exist")
def unknown_module(scene: Scene) -> None:
    BrokerConnection(backend_cls="my.module.Backend").connect()


@misuse("A dotted path whose class does not exist")
def unknown_class(scene: Scene) -> None:
    BrokerConnection(backend_cls="carrot.backends.queue.Bakend").connect()


@misuse("A ``backend_cls`` that is neither name nor class")
def backend_of_a_wrong_type(scene: Scene) -> None:
    BrokerConnection(backend_cls=5).connect()


@misuse("A backend whose package is not installed")
def missing_package(scene: Scene) -> None:
    ours = ("amqp", "carrot.backends.pyamqplib")
    hidden = {
        name: sys.modules.pop(name)
        for name in [*sys.modules]
        if name in ours or name.startswith(tuple(f"{each}." for each in ours))
    }
    try:
        sys.modules["amqp"] = None  # type: ignore[assignment]
        BrokerConnection(**_AMQP, backend_cls="amqp").connect()
    finally:
        sys.modules.pop("amqp")
        sys.modules.update(hidden)


@misuse("Over AMQP, no ``hostname``")
def missing_hostname(scene: Scene) -> None:
    BrokerConnection(**{**_AMQP, "hostname": None}).connect()


@misuse("Over AMQP, no ``userid``")
def missing_userid(scene: Scene) -> None:
    BrokerConnection(**{**_AMQP, "userid": None}).connect()


@misuse("Over AMQP, no ``password``")
def missing_password(scene: Scene) -> None:
    BrokerConnection(**{**_AMQP, "password": None}).connect()


@misuse("A wrong password", only="rabbitmq")
def wrong_password(scene: Scene) -> None:
    scene.connect(password="wrong").connect()


@misuse("An unknown user", only="rabbitmq")
def unknown_user(scene: Scene) -> None:
    scene.connect(userid="nobody").connect()


@misuse("An unknown virtual host", only="rabbitmq")
def unknown_virtual_host(scene: Scene) -> None:
    scene.connect(virtual_host="nowhere").connect()


@misuse("A host where nothing listens")
def nothing_listens(scene: Scene) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    BrokerConnection("127.0.0.1", "guest", "guest", port=port).connect()


@misuse("A URL with an unknown scheme")
def unknown_scheme(scene: Scene) -> None:
    BrokerConnection("http://guest:guest@localhost/")


@misuse("A URL whose port is no number")
def port_of_a_url(scene: Scene) -> None:
    BrokerConnection("amqp://guest:guest@localhost:port/")


@misuse("A URL whose virtual host has a bare slash in it")
def virtual_host_of_a_url(scene: Scene) -> None:
    BrokerConnection("amqp://guest:guest@localhost/a/b")


@misuse("A URL with a ``%`` that is no escape")
def escape_of_a_url(scene: Scene) -> None:
    BrokerConnection("amqp://guest:100%@localhost/")


@misuse("A URL with an unknown parameter")
def parameter_of_a_url(scene: Scene) -> None:
    BrokerConnection("amqp://guest:guest@localhost/?hartbeat=5")


@misuse("A ``port`` that is none")
def port(scene: Scene) -> None:
    BrokerConnection("localhost", port=123456)


@misuse("A ``hostname``, ``userid`` or ``password`` that is no text")
def settings_of_a_wrong_type(scene: Scene) -> None:
    BrokerConnection("localhost", "guest", b"guest")  # type: ignore[arg-type]


@misuse("A ``timeout``, ``connect_timeout`` or ``heartbeat`` that is no number")
def seconds_of_a_wrong_type(scene: Scene) -> None:
    scene.connect(timeout="30")


@misuse("A misspelt option")
def misspelt_option(scene: Scene) -> None:
    scene.connect(hartbeat=5)


@misuse("``accept`` with an unknown serializer")
def unknown_serializer_to_accept(scene: Scene) -> None:
    scene.consumer(connection=scene.connect(accept=["pikle"]))


@misuse("``release()`` of a connection that no pool lent")
def release_without_a_pool(scene: Scene) -> None:
    scene.connection.release()


@misuse("More connections than the pool may lend")
def pool_exhausted(scene: Scene) -> None:
    pool = ConnectionPool(scene.connect(), max=1)
    pool.acquire()
    pool.acquire()


@misuse("A pool that may lend nothing")
def pool_of_nothing(scene: Scene) -> None:
    ConnectionPool(scene.connect(), max=0)


@misuse("Sending over a closed connection")
def send_after_close(scene: Scene) -> None:
    connection = scene.connect()
    publisher = Publisher(connection, routing_key="q")
    connection.close()
    publisher.send({})


@misuse("Receiving over a closed connection")
def receive_after_close(scene: Scene) -> None:
    connection = scene.connect()
    consumer = Consumer(connection, queue=scene.new_queue())
    connection.close()
    consumer.fetch()


@misuse("``drain_events()`` on a closed connection")
def drain_after_close(scene: Scene) -> None:
    connection = scene.connect()
    connection.close()
    connection.drain_events(timeout=1)


@misuse("A ``timeout`` of ``drain_events()`` that is no number")
def timeout_of_a_wrong_type(scene: Scene) -> None:
    scene.consumer().consume()
    timeout: Any = "5"
    scene.connection.drain_events(timeout=timeout)
