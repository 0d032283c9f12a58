"""Connections to a broker: where it is, who we are, and the link itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from carrot import conninfo, recovery
from carrot.backends import get_backend_cls
from carrot.exceptions import (
    AuthenticationFailed,
    BrokerConnectionError,
    ChannelError,
    ConfigurationError,
    ConnectionClosed,
    ConnectionLimitExceeded,
    NotSupported,
)
from carrot.options import checked_seconds, set_options
from carrot.pool import ConnectionPool

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "DEFAULT_CONNECT_TIMEOUT",
    "AMQPConnection",
    "AMQPConnectionException",
    "BrokerConnection",
    "ConnectionLimitExceeded",
    "ConnectionPool",
    "DjangoAMQPConnection",
    "DjangoBrokerConnection",
    "DummyConnection",
    "get_django_conninfo",
]

#: Seconds that establishing a connection may take.
DEFAULT_CONNECT_TIMEOUT = 5

#: The error of a connection; the name is that of carrot 0.10.7.
AMQPConnectionException = BrokerConnectionError

_Self = TypeVar("_Self", bound="BrokerConnection")


class BrokerConnection:
    """A connection to a broker.

    Lazy: nothing is sent before the first use. Threads may share it: any
    number may publish while one consumes. Each attribute of the class is the
    default of the option of that name; subclasses may set them and need not
    call this constructor.

    :param hostname: name or address of the broker; several, separated by
        ``;`` or in a list, are tried in turn; or one broker URL
        (``amqp://user:password@host:5672/vhost``, ``amqps://``,
        ``memory://``), whose parts the other arguments override.
    :param vhost: another name of *virtual_host*.
    :param pool: the :class:`ConnectionPool` that lent the connection.

    As a context manager it closes (or goes back to its pool) at the end.
    """

    #: Host that is, or was last, connected to.
    hostname: Any = None
    userid: str | None = None
    password: str | None = None
    virtual_host: str = "/"
    #: ``None`` means the backend's ``default_port``.
    port: int | None = None
    pool: ConnectionPool | None = None
    #: Passed on to backends; RabbitMQ has no use for it.
    insist: bool = False
    #: Seconds that establishing a connection may take, per host.
    connect_timeout: float | None = DEFAULT_CONNECT_TIMEOUT
    #: ``True`` for TLS with chain and host name verified; or a dictionary of
    #: ``ca_certs``, ``certfile``, ``keyfile``, ``server_hostname``,
    #: ``cert_reqs``; or an :class:`ssl.SSLContext`.
    ssl: Any = False
    #: Alias, dotted path or class; see :mod:`carrot.backends`.
    backend_cls: Any = None
    #: Whether a connection that was once established comes back by itself.
    recover: bool = True
    #: Seconds that a send, a declaration or a flush may take in all,
    #: reconnecting included.
    timeout: float = 30.0
    #: Seconds between heartbeats to ask for; ``None`` takes the broker's.
    heartbeat: float | None = None
    #: Whether the first connection waits for the broker, rather than fail.
    wait_for_broker: bool = False
    #: What consumers decode: serializer names or content types. ``None``
    #: means what the process accepts (:func:`carrot.serialization.accept`).
    accept: Any = None
    #: Called with the new :attr:`state` and its cause (an exception or
    #: ``None``) by the thread that brings the change about.
    on_state: Callable[[str, BaseException | None], Any] | None = None
    #: Further properties to show in the broker's list of connections.
    client_properties: Mapping[str, Any] | None = None

    ConnectionException = BrokerConnectionError

    _options = (
        "insist",
        "connect_timeout",
        "ssl",
        "backend_cls",
        "recover",
        "timeout",
        "heartbeat",
        "wait_for_broker",
        "accept",
        "on_state",
        "client_properties",
    )

    def __init__(
        self,
        hostname: Any = None,
        userid: str | None = None,
        password: str | None = None,
        virtual_host: str | None = None,
        port: int | None = None,
        pool: ConnectionPool | None = None,
        **options: Any,
    ) -> None:
        options.update(
            hostname=hostname,
            userid=userid,
            password=password,
            virtual_host=virtual_host,
            port=port,
        )
        self.pool = pool
        known = ("hostname", "userid", "password", "virtual_host", "port", "_hosts")
        settled = conninfo.settle(_under_todays_names(options))
        for name in ("timeout", "connect_timeout", "heartbeat"):
            checked_seconds(settled.get(name), name)
        set_options(self, settled, (*known, *self._options))

    # -- state

    @property
    def _session(self) -> recovery.Session:
        # Made at first use: subclasses need not call our constructor.
        session: recovery.Session | None = self.__dict__.get("_live_session")
        if session is None:
            session = self.__dict__.setdefault("_live_session", recovery.Session(self))
        return session

    @property
    def state(self) -> str:
        """``"new"``, ``"connecting"``, ``"open"``, ``"recovering"`` or ``"closed"``."""
        return self._session.state

    @property
    def _closed(self) -> bool:
        return self.state == "closed"

    def stats(self) -> dict[str, int]:
        """Return the counters of this connection since it was made.

        :returns: ``published``, ``confirmed``, ``returned``, ``nacked``,
            ``redelivered``, ``stale_settles``, ``reconnects``,
            ``decode_failures``.
        """
        return self._session.stats()

    def count(self, counter: str, by: int = 1) -> None:
        """Add to a counter of :meth:`stats`."""
        self._session.count(counter, by)

    @property
    def hosts(self) -> tuple[tuple[str | None, int | None], ...]:
        """The hosts to try, in turn: pairs of name and port (or ``None``)."""
        known: tuple[tuple[str | None, int | None], ...] | None = self.__dict__.get("_hosts")
        return known or conninfo.host_list(self.hostname, self.port)

    @property
    def host(self) -> str:
        """Host and port, joined by a colon."""
        port = self.port or self.get_backend_cls().default_port
        return f"{self.hostname or 'localhost'}:{port}" if port else str(self.hostname or "")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {conninfo.display(self)} {self.state}>"

    # -- backends

    def get_backend_cls(self) -> type[Any]:
        """Return the class of the backend in use.

        :raises BackendNotFound: :attr:`backend_cls` names none.
        """
        return get_backend_cls(self.backend_cls)

    def create_backend(self, backend_cls: Any = None) -> Any:
        """Return a new backend: a channel of this connection, opened at first use.

        :param backend_cls: class or name, instead of :attr:`backend_cls`.
        :raises BackendNotFound: it names none.
        """
        cls = self.get_backend_cls() if backend_cls is None else get_backend_cls(backend_cls)
        return self._session.backend(cls)

    def channel(self) -> Any:
        """Return a new backend; the name is that of carrot's successor."""
        return self.create_backend()

    def get_channel(self) -> Any:
        """Open a channel and return the driver's object for it.

        Blocks up to :attr:`timeout` seconds.

        :raises ConnectionClosed: the connection was closed.
        """
        connection = self.connection
        if connection is None:
            raise ConnectionClosed(
                f"the connection to {conninfo.display(self)} is closed;"
                " call its connect() to use it again"
            )
        return connection.channel()

    # -- the link

    @property
    def connection(self) -> Any:
        """The driver's connection, established at first access; ``None`` once closed.

        Blocks up to :attr:`connect_timeout` seconds per host.

        :raises ConnectFailed: no host could be reached; the text says why.
        :raises AuthenticationFailed: the broker refused user, password or virtual host.
        """
        if self._closed:
            return None
        return self._session.open()

    def connect(self) -> Any:
        """Establish the connection, again after :meth:`close`; return the driver's.

        Blocks and raises as :attr:`connection` does.
        """
        self._session.reopen()
        return self.connection

    def ensure_connection(
        self,
        errback: Callable[[BaseException, float], Any] | None = None,
        max_retries: int | None = None,
        interval_start: float = 2,
        interval_step: float = 2,
        interval_max: float = 30,
    ) -> Any:
        """Connect, trying again until it succeeds; return this connection.

        :param errback: called with the error and the seconds until the next try.
        :param max_retries: give up after so many further tries; ``None``: never.
        :raises AuthenticationFailed: at once; trying again would not help.
        """
        tries = 0
        while True:
            try:
                self.connect()
                return self
            except AuthenticationFailed:
                raise
            except self.connection_errors as exc:
                if max_retries is not None and tries >= max_retries:
                    raise
                interval = min(interval_start + interval_step * tries, interval_max)
                tries += 1
                if errback is not None:
                    errback(exc, interval)
                # Jitter keeps a fleet from coming back all at once.
                time.sleep(interval * random.uniform(0.8, 1.0))

    def drain_events(self, timeout: float | None = None) -> Any:
        """Wait for one message and run its consumer's callbacks.

        :param timeout: seconds to wait at most, heartbeats notwithstanding;
            ``None`` waits as long as it takes, through lost connections too.
        :raises DrainTimeout: nothing came (a :exc:`TimeoutError`).
        """
        # Once for each message: what is plainly right is not checked further,
        # and the session is not looked up through its property.
        if timeout is not None and (timeout.__class__ not in (int, float) or timeout < 0):
            checked_seconds(timeout, "timeout")
        return (self.__dict__.get("_live_session") or self._session).drain(timeout)

    def close(self) -> None:
        """Wait for outstanding confirms, then close. Idempotent, and quiet."""
        self._session.close()

    def release(self) -> None:
        """Give the connection back to its pool.

        :raises NotSupported: it is not part of a pool.
        """
        if self.pool is None:
            raise NotSupported("this connection is not part of a pool; to end it, call close()")
        self.pool.release(self)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.pool is not None:
            self.pool.release(self)
        else:
            self.close()

    def __copy__(self: _Self) -> _Self:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin.__dict__.pop("_live_session", None)
        twin.__dict__.pop("pool", None)
        return twin

    # -- from carrot's unreleased master

    @property
    def connection_errors(self) -> tuple[type[BaseException], ...]:
        """Exceptions that mean the connection is lost or cannot be had."""
        return (
            BrokerConnectionError,
            *getattr(self.get_backend_cls(), "connection_errors", ()),
        )

    @property
    def channel_errors(self) -> tuple[type[BaseException], ...]:
        """Exceptions that mean the broker refused an operation."""
        return (ChannelError, *getattr(self.get_backend_cls(), "channel_errors", ()))

    def info(self) -> dict[str, Any]:
        """Return the settings of this connection, the password among them."""
        backend_cls = self.backend_cls or "amqplib"
        return {
            "hostname": self.hostname,
            "userid": self.userid,
            "password": self.password,
            "virtual_host": self.virtual_host,
            "port": self.port or self.get_backend_cls().default_port,
            "insist": self.insist,
            "ssl": self.ssl,
            "transport_cls": backend_cls,
            "backend_cls": backend_cls,
            "connect_timeout": self.connect_timeout,
        }


def _under_todays_names(options: dict[str, Any]) -> dict[str, Any]:
    # `vhost` is the seed's name, `transport` one that 0.10.7 knew as well.
    for old, name in (("vhost", "virtual_host"), ("transport", "backend_cls")):
        value = options.pop(old, None)
        if options.get(name) is None:
            options[name] = value
    return options


#: Name of :class:`BrokerConnection` in carrot 0.5.
AMQPConnection = BrokerConnection


class DummyConnection:
    """The connection of backends that have nothing to connect to."""

    host = ""
    _closed = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._closed = False

    def __enter__(self) -> DummyConnection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def connect(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Note that it was closed."""
        self._closed = True


def get_django_conninfo(settings: Any = None) -> dict[str, Any]:
    """Return what Django's settings say of the connection.

    :param settings: any object with the settings as attributes; ``None``
        means ``django.conf.settings``.
    :returns: keyword arguments of :class:`BrokerConnection`; a setting that
        is absent is absent here.
    :raises ConfigurationError: Django is not installed.
    """
    if settings is None:
        try:
            from django import conf
        except ModuleNotFoundError as exc:
            raise ConfigurationError(
                "Django is not installed: pip install carrot[django]; or pass settings=,"
                " an object with the settings as attributes"
            ) from exc
        settings = conf.settings
    return conninfo.from_django(settings)


class DjangoBrokerConnection(BrokerConnection):
    """A connection configured by Django's settings.

    :param settings: an object to read instead of ``django.conf.settings``.

    Arguments win over settings. Every setting is optional: ``BROKER_HOST``,
    ``BROKER_PORT``, ``BROKER_USER``, ``BROKER_PASSWORD``, ``BROKER_VHOST``
    (or ``AMQP_SERVER``, ``AMQP_PORT``, ``AMQP_USER``, ``AMQP_PASSWORD``,
    ``AMQP_VHOST``), ``BROKER_URL``, ``CARROT_BACKEND``,
    ``CARROT_ACCEPT_CONTENT``.
    """

    _arguments = signature(BrokerConnection)

    def __init__(self, *args: Any, settings: Any = None, **kwargs: Any) -> None:
        given = self._arguments.bind(*args, **kwargs).arguments
        options = given.pop("options", {})
        given = _under_todays_names({**given, **options})
        if conninfo.is_url(given.get("hostname")):
            # The address is said in one piece; half of another one in the
            # settings would not belong to it.
            given = conninfo.settle(given)
        explicit = {name: value for name, value in given.items() if value is not None}
        super().__init__(**{**get_django_conninfo(settings), **explicit})


#: Name of :class:`DjangoBrokerConnection` in carrot 0.5.
DjangoAMQPConnection = DjangoBrokerConnection
