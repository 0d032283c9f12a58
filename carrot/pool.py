"""A pool of connections."""

from __future__ import annotations

import copy
import threading
from time import monotonic
from typing import Any

from carrot.exceptions import ConnectionLimitExceeded
from carrot.options import checked_connection, checked_count, checked_seconds

__all__ = ["ConnectionPool"]


class ConnectionPool:
    """Connections to lend, all twins of one. Threads may share it.

    :param source: the connection that the others are made like; it is the first
        to be lent.
    :param min: connections to make in advance (they connect at first use).
    :param max: connections that may be in use at once; ``None`` is no limit.
    :param preload: ``False`` makes none in advance.

    ::

        with pool.acquire() as connection:
            ...
    """

    def __init__(
        self,
        source: Any,
        min: int = 2,
        max: int | None = None,
        preload: bool = True,
    ) -> None:
        checked_connection(source)
        checked_count(min, "min")
        checked_count(max, "max", least=1)
        self.source_connection = source
        self.min = min if max is None or min < max else max
        self.max = max
        self.preload = preload
        source.pool = self
        self._default_connect_timeout = source.connect_timeout
        self._free: list[Any] = [source]
        self._lent: list[Any] = []
        self._changed = threading.Condition()
        if preload:
            self._free += [copy.copy(source) for _ in range(self.min - 1)]

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of {self.source_connection!r},"
            f" {len(self._lent)} of {self.max or 'any number'} in use>"
        )

    def acquire(
        self,
        block: bool = False,
        timeout: float | None = None,
        connect_timeout: float | None = None,
    ) -> Any:
        """Lend a connection.

        :param block: whether to wait for one when all are in use.
        :param timeout: seconds to wait at most; ``None`` is no bound.
        :param connect_timeout: the connection's, while it is lent.
        :raises ConnectionLimitExceeded: all are in use (still, after *timeout*).
        """
        checked_seconds(timeout, "timeout")
        checked_seconds(connect_timeout, "connect_timeout")
        deadline = None if timeout is None else monotonic() + timeout
        with self._changed:
            while self.max is not None and len(self._lent) >= self.max:
                left = None if deadline is None else deadline - monotonic()
                if not block or (left is not None and left <= 0):
                    raise ConnectionLimitExceeded(
                        f"all {self.max} connections of the pool are in use;"
                        " release one, raise max=, or wait with acquire(block=True)"
                    )
                self._changed.wait(left)
            connection = self._free.pop() if self._free else self.source_connection
            if connection.state == "closed" or connection in self._lent:
                connection = copy.copy(connection)
            self._lent.append(connection)
        connection.pool = self
        connection.connect_timeout = (
            self._default_connect_timeout if connect_timeout is None else connect_timeout
        )
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back. Releasing it twice does no harm."""
        with self._changed:
            for index, lent in enumerate(self._lent):
                if lent is connection:
                    del self._lent[index]
                    self._free.append(connection)
                    self._changed.notify()
                    return

    def close(self) -> None:
        """Close every connection that is not lent."""
        with self._changed:
            free = list(self._free)
        for connection in free:
            connection.close()
