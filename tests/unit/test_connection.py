"""Connections, where no broker is needed to see what they do."""

from __future__ import annotations

import copy
import random
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from carrot import connection as door
from carrot.backends import queue
from carrot.connection import BrokerConnection, ConnectionPool, DummyConnection
from carrot.exceptions import (
    AuthenticationFailed,
    BackendNotFound,
    BrokerConnectionError,
    ChannelError,
    ConfigurationError,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLimitExceeded,
    MissingSetting,
    UnknownOptionWarning,
)


@pytest.fixture
def host() -> Iterator[str]:
    """The name of an in-memory broker of the test's own."""
    name = uuid.uuid4().hex
    yield name
    queue.reset(name)


# -- names


def test_the_doors_of_old() -> None:
    """The names that code of old imports from here are here."""
    assert door.AMQPConnection is BrokerConnection
    assert door.DjangoAMQPConnection is door.DjangoBrokerConnection
    assert door.AMQPConnectionException is BrokerConnectionError
    assert door.ConnectionPool is ConnectionPool
    assert door.ConnectionLimitExceeded is ConnectionLimitExceeded
    assert door.DEFAULT_CONNECT_TIMEOUT == 5
    assert BrokerConnection.ConnectionException is BrokerConnectionError


# -- arguments


def test_arguments_by_position() -> None:
    """The first six arguments are host, user, password, virtual host, port and pool."""
    connection = BrokerConnection("host", "user", "password", "vhost", 1234, None)
    assert (connection.hostname, connection.userid) == ("host", "user")
    assert (connection.password, connection.virtual_host) == ("password", "vhost")
    assert (connection.port, connection.pool) == (1234, None)


def test_options_by_name() -> None:
    """Options are attributes of the connection."""

    def listen(state: str, cause: BaseException | None) -> None:
        """Not be called."""

    options: dict[str, Any] = {
        "insist": True,
        "connect_timeout": 3,
        "ssl": True,
        "backend_cls": "memory",
        "recover": False,
        "timeout": 4.0,
        "heartbeat": 5,
        "wait_for_broker": True,
        "accept": ["pickle"],
        "on_state": listen,
        "client_properties": {"a": 1},
    }
    connection = BrokerConnection(**options)
    assert {name: getattr(connection, name) for name in options} == options


def test_the_defaults() -> None:
    """Without arguments, the class attributes are the settings."""
    connection = BrokerConnection()
    assert connection.virtual_host == "/"
    assert connection.port is None
    assert connection.connect_timeout == 5
    assert (connection.ssl, connection.insist, connection.recover) == (False, False, True)
    assert connection.timeout == 30
    assert connection.hosts == ((None, None),)


def test_none_means_the_value_of_the_class() -> None:
    """An argument of ``None`` leaves the class's value."""

    class Ours(BrokerConnection):
        hostname = "rabbit.example"
        virtual_host = "shop"
        backend_cls = "memory"

    connection = Ours(None, virtual_host=None, vhost=None, backend_cls=None, transport=None)
    assert connection.hostname == "rabbit.example"
    assert connection.virtual_host == "shop"
    assert connection.backend_cls == "memory"


def test_vhost_is_virtual_host() -> None:
    """``vhost=``, as the README of 0.5 writes it, is ``virtual_host=``."""
    assert BrokerConnection(vhost="shop").virtual_host == "shop"
    assert BrokerConnection(virtual_host="one", vhost="other").virtual_host == "one"


def test_transport_is_backend_cls() -> None:
    """``transport=`` is another name of ``backend_cls=``."""
    assert BrokerConnection(transport="memory").get_backend_cls() is queue.Backend
    connection = BrokerConnection(transport="amqp", backend_cls="memory")
    assert connection.get_backend_cls() is queue.Backend


def test_unknown_options_warn() -> None:
    """An unknown option warns, naming the nearest real one."""
    with pytest.warns(UnknownOptionWarning, match="did you mean 'heartbeat'") as caught:
        BrokerConnection(hartbeat=5)
    assert caught[0].filename == __file__


def test_a_url_says_it_all() -> None:
    """A broker URL as the first argument is taken apart; other arguments go before it."""
    url = "amqp://app:s%40cret@rabbit.example:1234/shop?heartbeat=10"
    connection = BrokerConnection(url)
    assert (connection.hostname, connection.port) == ("rabbit.example", 1234)
    assert (connection.userid, connection.password) == ("app", "s@cret")
    assert (connection.virtual_host, connection.heartbeat) == ("shop", 10)
    assert BrokerConnection(url, vhost="other").virtual_host == "other"
    assert BrokerConnection("memory://somewhere").get_backend_cls() is queue.Backend


def test_several_hosts() -> None:
    """Several hosts are tried in turn; the first is the connection's hostname."""
    connection = BrokerConnection("one;two:1234", port=5)
    assert connection.hosts == (("one", 5), ("two", 1234))
    assert (connection.hostname, connection.port) == ("one", 5)
    assert BrokerConnection(["one", "two"]).hosts == (("one", None), ("two", None))


def test_host_joins_host_and_port() -> None:
    """``.host`` is host and port; the port is the backend's where none was given."""
    assert BrokerConnection("one").host == "one:5672"
    assert BrokerConnection().host == "localhost:5672"
    assert BrokerConnection("one", port=1).host == "one:1"
    assert BrokerConnection("one", backend_cls="memory").host == "one"
    assert BrokerConnection(backend_cls="memory").host == ""


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"hostname": "amqp://user:secret@host:port/"}, "port"),
        ({"hostname": "gopher://host/"}, "gopher"),
        ({"hostname": "amqp://user:secret@host/a/b"}, "virtual host"),
        ({"hostname": "amqp://host/?hartbeat=5"}, "hartbeat"),
        ({"hostname": 5}, "hostname"),
        ({"port": "many"}, "port"),
        ({"port": 70000}, "port"),
        ({"userid": 5}, "userid"),
        ({"password": b"secret"}, "password"),
        ({"virtual_host": 5}, "virtual_host"),
        ({"backend_cls": 5}, "backend_cls"),
        ({"backend_cls": "rabbit"}, "amqplib"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], part: str) -> None:
    """A wrong argument is an error that names it, and never shows a password."""
    with pytest.raises(ConfigurationError, match=part) as caught:
        BrokerConnection(**options).create_backend()
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("missing", ["hostname", "userid", "password"])
def test_missing_settings_are_named(missing: str) -> None:
    """Over AMQP a missing hostname, userid or password is an error that says which."""
    settings: dict[str, Any] = {"hostname": "h", "userid": "u", "password": "p"}
    settings[missing] = None
    connection = BrokerConnection(**settings)
    with pytest.raises(MissingSetting, match=missing) as caught:
        connection.connect()
    assert isinstance(caught.value, KeyError)
    assert connection.state == "new"


def test_the_memory_broker_needs_no_settings() -> None:
    """The in-memory broker needs neither host nor user nor password."""
    with BrokerConnection(backend_cls="memory") as connection:
        assert connection.connect() is not None


def test_an_unknown_backend_lists_the_known() -> None:
    """An unknown alias is an error that lists the known ones, also an ``ImportError``."""
    connection = BrokerConnection(backend_cls="nosuch")
    for use in (connection.connect, connection.create_backend, connection.get_backend_cls):
        with pytest.raises(BackendNotFound, match=r"amqplib.*memory") as caught:
            use()
        assert isinstance(caught.value, ImportError)
    assert "nosuch" in repr(connection)


def test_reprs_hide_the_password() -> None:
    """``repr`` shows address and state, and no password."""
    connection = BrokerConnection("rabbit.example", "app", "secret", "shop")
    assert repr(connection) == "<BrokerConnection amqp://app@rabbit.example:5672/shop new>"


def test_info_tells_the_settings() -> None:
    """``info()`` returns the settings under the names of carrot's successor."""
    info = BrokerConnection("h", "u", "p", "v").info()
    assert info == {
        "hostname": "h",
        "userid": "u",
        "password": "p",
        "virtual_host": "v",
        "port": 5672,
        "insist": False,
        "ssl": False,
        "transport_cls": "amqplib",
        "backend_cls": "amqplib",
        "connect_timeout": 5,
    }


def test_a_copy_shares_no_state(host: str) -> None:
    """A copy has the settings, and nothing of the link or the pool."""
    source = BrokerConnection("one;two", "u", "p", "v", 7, heartbeat=3)
    ConnectionPool(source)
    twin = copy.copy(source)
    assert (twin.hosts, twin.userid, twin.heartbeat) == (source.hosts, "u", 3)
    assert (twin.state, twin.pool) == ("new", None)
    with BrokerConnection(host, backend_cls="memory") as opened:
        opened.connect()
        assert copy.copy(opened).state == "new"


def test_errors_to_catch_include_the_backends() -> None:
    """``connection_errors`` and ``channel_errors`` include those that the backend names."""

    class Backend(queue.Backend):
        connection_errors = (ZeroDivisionError,)
        channel_errors = (LookupError,)

    connection = BrokerConnection(backend_cls=Backend)
    assert connection.connection_errors == (BrokerConnectionError, ZeroDivisionError)
    assert connection.channel_errors == (ChannelError, LookupError)


# -- states


def test_states_are_announced(host: str) -> None:
    """``on_state`` is called with each new state and its cause."""
    states: list[Any] = []
    connection = BrokerConnection(
        host, backend_cls="memory", on_state=lambda state, cause: states.append((state, cause))
    )
    assert connection.state == "new"
    connection.connect()
    connection.close()
    assert states == [("connecting", None), ("open", None), ("closed", None)]


def test_counters_begin_at_zero(host: str) -> None:
    """``stats()`` has every counter from the beginning; ``count`` adds to one."""
    connection = BrokerConnection(host, backend_cls="memory")
    assert set(connection.stats().values()) == {0}
    connection.count("decode_failures")
    connection.count("decode_failures", 2)
    assert connection.stats()["decode_failures"] == 3


def test_get_channel_opens_the_driver(host: str) -> None:
    """``get_channel()`` returns a channel of the driver's connection."""
    with BrokerConnection(host, backend_cls="memory") as connection:
        assert connection.get_channel() is not connection.get_channel()
        connection.close()
        with pytest.raises(ConnectionClosed, match=r"connect\(\)"):
            connection.get_channel()


# -- ensure_connection


class Refusing(queue.Backend):
    """Fails to connect as often as it is told."""

    left = 2
    error: type[Exception] = ConnectFailed

    def establish_connection(self) -> Any:
        if type(self).left:
            type(self).left -= 1
            raise self.error("refused")
        return super().establish_connection()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleep no more; the lengths of what would have been slept."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    return slept


def refusing(left: int, error: type[Exception] = ConnectFailed) -> type[Refusing]:
    return type("Refusing", (Refusing,), {"left": left, "error": error})


def test_ensure_connection_tries_again(host: str, naps: list[float]) -> None:
    """``ensure_connection`` tries again, more slowly each time, and tells of each failure."""
    told: list[tuple[str, float]] = []
    with BrokerConnection(host, backend_cls=refusing(3)) as connection:
        answer = connection.ensure_connection(
            errback=lambda exc, interval: told.append((type(exc).__name__, interval)),
            interval_start=1,
            interval_step=2,
            interval_max=4,
        )
        assert answer is connection
        assert connection.state == "open"
    assert told == [("ConnectFailed", 1), ("ConnectFailed", 3), ("ConnectFailed", 4)]
    assert naps == [1, 3, 4]


def test_ensure_connection_gives_up(host: str, naps: list[float]) -> None:
    """``max_retries`` is how often it tries again before it raises."""
    connection = BrokerConnection(host, backend_cls=refusing(5))
    with pytest.raises(ConnectFailed):
        connection.ensure_connection(max_retries=2)
    assert len(naps) == 2


def test_ensure_connection_does_not_retry_credentials(host: str, naps: list[float]) -> None:
    """A refused password is raised at once."""
    connection = BrokerConnection(host, backend_cls=refusing(5, AuthenticationFailed))
    with pytest.raises(AuthenticationFailed):
        connection.ensure_connection()
    assert naps == []


# -- DummyConnection


def test_the_dummy_connection() -> None:
    """``DummyConnection`` is what backends without one return: it opens and closes."""
    assert DummyConnection._closed
    with DummyConnection("any", argument=1) as dummy:
        dummy.connect()
        assert not dummy._closed
        assert dummy.host == ""
    assert dummy._closed
