"""Connections configured by Django's settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carrot.connection import (
    BrokerConnection,
    DjangoAMQPConnection,
    DjangoBrokerConnection,
    get_django_conninfo,
)
from carrot.exceptions import ConfigurationError, UnknownOptionWarning

BROKER = {
    "BROKER_HOST": "broker.example",
    "BROKER_PORT": 1234,
    "BROKER_USER": "elaine",
    "BROKER_PASSWORD": "secret",
    "BROKER_VHOST": "shop",
}
AMQP = {
    "AMQP_SERVER": "amqp.example",
    "AMQP_PORT": 4321,
    "AMQP_USER": "george",
    "AMQP_PASSWORD": "hush",
    "AMQP_VHOST": "/test",
}


def connection_of(*args: Any, kwargs: dict[str, Any] | None = None, **settings: Any) -> Any:
    return DjangoBrokerConnection(*args, settings=SimpleNamespace(**settings), **(kwargs or {}))


def shown(connection: Any) -> tuple[Any, ...]:
    return (
        *(connection.hostname, connection.port, connection.userid),
        *(connection.password, connection.virtual_host),
    )


def test_broker_settings() -> None:
    """``BROKER_*`` are host, port, user, password and virtual host."""
    expected = ("broker.example", 1234, "elaine", "secret", "shop")
    assert shown(connection_of(**BROKER)) == expected


def test_amqp_settings_of_the_seed() -> None:
    """``AMQP_*``, which the README of 0.5 documents, work just as well, without a warning."""
    expected = ("amqp.example", 4321, "george", "hush", "/test")
    assert shown(connection_of(**AMQP)) == expected


def test_broker_settings_win() -> None:
    """Where both are set, ``BROKER_*`` wins, setting by setting."""
    assert shown(connection_of(**AMQP, **BROKER)) == shown(connection_of(**BROKER))
    assert shown(connection_of(**AMQP, BROKER_HOST="b"))[:2] == ("b", 4321)


def test_every_setting_is_optional() -> None:
    """Without any setting the defaults of the connection hold."""
    assert shown(connection_of()) == (None, None, None, None, "/")
    assert shown(connection_of(BROKER_HOST="", BROKER_VHOST=""))[0] is None
    assert get_django_conninfo(SimpleNamespace()) == {}


def test_carrot_backend() -> None:
    """``CARROT_BACKEND`` is the backend; ``CARROT_ACCEPT_CONTENT`` what is decoded."""
    connection = connection_of(CARROT_BACKEND="memory", CARROT_ACCEPT_CONTENT=["pickle"])
    assert connection.backend_cls == "memory"
    assert connection.accept == ["pickle"]


def test_broker_url() -> None:
    """``BROKER_URL`` says it in one piece; single settings win over its parts."""
    url = "amqp://app:word@url.example:99/v"
    assert shown(connection_of(BROKER_URL=url)) == ("url.example", 99, "app", "word", "v")
    assert shown(connection_of(BROKER_URL=url, BROKER_VHOST="w"))[4] == "w"
    with pytest.raises(ConfigurationError, match="port"):
        connection_of(BROKER_URL="amqp://host:port/")


def test_arguments_win_over_settings() -> None:
    """Explicit arguments win over settings, by position and by name."""
    assert connection_of("mine", **BROKER).hostname == "mine"
    assert connection_of("mine", "me", **BROKER).userid == "me"
    assert connection_of(kwargs={"vhost": "v"}, **BROKER).virtual_host == "v"
    assert connection_of(kwargs={"virtual_host": None, "vhost": "v"}).virtual_host == "v"
    assert connection_of(kwargs={"port": 9}, **BROKER).port == 9
    chosen = connection_of(kwargs={"transport": "memory"}, CARROT_BACKEND="amqp")
    assert chosen.backend_cls == "memory"
    assert connection_of(kwargs={"hostname": None}, **BROKER).hostname == "broker.example"


def test_a_url_argument_wins_whole() -> None:
    """A URL as argument wins over every setting that it has a part for."""
    connection = connection_of("amqp://app:word@url.example:99/v", **BROKER)
    assert shown(connection) == ("url.example", 99, "app", "word", "v")


def test_arguments_are_those_of_the_connection() -> None:
    """Too many arguments, or one given twice, are the usual errors; options warn."""
    with pytest.raises(TypeError):
        connection_of(*range(7))
    with pytest.raises(TypeError):
        connection_of("h", kwargs={"hostname": "h"})
    with pytest.warns(UnknownOptionWarning, match="hartbeat"):
        connection_of(kwargs={"hartbeat": 5})


def test_the_classes_are_connections() -> None:
    """``DjangoAMQPConnection`` is the same class, and a ``BrokerConnection``."""
    assert DjangoAMQPConnection is DjangoBrokerConnection
    assert issubclass(DjangoBrokerConnection, BrokerConnection)


def test_without_django(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Django is missing, the error says how to install it, or to do without."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "django"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "django", None)
    with pytest.raises(ConfigurationError, match=r"carrot\[django\].*settings="):
        DjangoBrokerConnection()


_PROGRAM = """
import json, sys
from django.conf import settings
settings.configure(**json.loads(sys.argv[1]))
from carrot.connection import DjangoBrokerConnection
from carrot.messaging import Consumer, Publisher
with DjangoBrokerConnection() as connection:
    consumer = Consumer(connection, queue="feed", exchange="feed", routing_key="importer")
    with Publisher(connection, exchange="feed", routing_key="importer") as publisher:
        publisher.send({"by": "Django"}, serializer="pickle")
    message = consumer.fetch()
    print(json.dumps([connection.hostname, connection.virtual_host, message.payload]))
"""


def test_with_real_django() -> None:
    """Configured by the real Django, a connection sends and receives."""
    settings = {**AMQP, "CARROT_BACKEND": "memory", "CARROT_ACCEPT_CONTENT": ["pickle"]}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["amqp.example", "/test", {"by": "Django"}]
