"""One try to reach a broker, and what errors mean."""

from __future__ import annotations

from typing import Any

from carrot.exceptions import (
    AuthenticationFailed,
    BrokerConnectionError,
    ChannelError,
    ConnectFailed,
    ConnectionBlocked,
    PublishError,
)
from carrot.utils import time_left, time_limit

__all__ = ["Connector", "is_channel_closed", "is_lost", "may_pass"]

Host = tuple[Any, Any]


def is_lost(error: BaseException, inner: Any) -> bool:
    """Return whether an error of the backend *inner* means that its connection broke."""
    if isinstance(error, BrokerConnectionError):
        return not isinstance(error, (AuthenticationFailed, ConnectFailed, ConnectionBlocked))
    # Backends that are not ours let the errors of their drivers through, or
    # those of the socket; amqplib's was a bare OSError.
    lost = getattr(inner, "connection_errors", ())
    return isinstance(error, (ConnectionError, *lost)) or type(error) is OSError


def is_channel_closed(error: BaseException, inner: Any) -> bool:
    """Return whether an error of the backend *inner* means that its channel is closed."""
    if isinstance(error, PublishError):
        return False  # tells of a channel that was closed, and dealt with, before
    return isinstance(error, (ChannelError, *getattr(inner, "channel_errors", ())))


def may_pass(error: BaseException) -> bool:
    """Return whether connecting may succeed later, after it failed with *error*."""
    if isinstance(error, BrokerConnectionError):
        return error.recoverable
    return isinstance(error, (ChannelError, OSError))


class Connector:
    """Establishes connections for a :class:`~carrot.connection.BrokerConnection`."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._hosts: list[Host] = []
        self._last: Host | None = None

    def connect(self) -> Any:
        """Try each host once and return the driver's connection.

        Begins with the host that answered last. Blocks up to the
        connection's ``connect_timeout`` for each.

        :raises AuthenticationFailed: a host refused user, password or virtual
            host; others are not asked.
        :raises BrokerConnectionError: no host could be reached.
        """
        hosts = self._refresh()
        failures: list[tuple[str, Exception]] = []
        for host in list(hosts):
            if failures and time_left() == 0:
                break
            self._set(host)
            inner = self.connection.get_backend_cls()(connection=self.connection)
            try:
                driver = inner.establish_connection()
            except AuthenticationFailed:
                raise
            except (OSError, *getattr(inner, "connection_errors", ())) as exc:
                failures.append((self.connection.host, exc))
            else:
                hosts.remove(host)
                hosts.insert(0, host)
                return driver
            finally:
                self._last = self._current()  # the backend may have written the port
        raise self._failed(failures) from failures[-1][1]

    def close(self, driver: Any, timeout: float) -> None:
        """Close a driver's connection, quietly, for it may be dead.

        :param timeout: seconds that saying goodbye may take; 0 for a lost connection.
        """
        if driver is None:
            return
        try:
            with time_limit(timeout):
                inner = self.connection.get_backend_cls()(connection=self.connection)
                inner.close_connection(driver)
        except Exception:  # whatever it is, the connection is of no use any more
            pass

    def _refresh(self) -> list[Host]:
        # Connecting sets the connection's hostname and port, so that its list
        # of hosts is read again only when the application changed them.
        current = self._current()
        if self._last != current:
            self._hosts = list(self.connection.hosts)
            if self._last is not None and current[0] not in [name for name, _ in self._hosts]:
                self._hosts = [current]
        return self._hosts

    def _current(self) -> Host:
        return self.connection.hostname, self.connection.port

    def _set(self, host: Host) -> None:
        if host != self._current():
            self.connection.hostname, self.connection.port = host

    def _failed(self, failures: list[tuple[str, Exception]]) -> BrokerConnectionError:
        if len(failures) == 1:
            host, error = failures[0]
            if isinstance(error, BrokerConnectionError) and not is_lost(error, None):
                return error
            return ConnectFailed(f"cannot connect to {host}: {error}")
        reasons = "; ".join(f"{host}: {error}" for host, error in failures)
        failed = ConnectFailed(f"none of {len(failures)} hosts can be connected to: {reasons}")
        failed.recoverable = any(may_pass(error) for _, error in failures)
        return failed
