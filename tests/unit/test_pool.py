"""Pools: connections are lent and come back."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from carrot.backends import queue
from carrot.connection import BrokerConnection, ConnectionPool
from carrot.exceptions import ConfigurationError, ConnectionLimitExceeded
from tests.waiting import wait_until


@pytest.fixture
def source() -> Iterator[BrokerConnection]:
    """The connection that a pool is made of."""
    host = uuid.uuid4().hex
    yield BrokerConnection(host, "user", "password", backend_cls="memory", connect_timeout=3)
    queue.reset(host)


def test_a_pool_lends_twins(source: BrokerConnection) -> None:
    """The first connection lent is the source, the others are its unconnected twins."""
    pool = ConnectionPool(source)
    lent = [pool.acquire() for _ in range(5)]
    assert any(each is source for each in lent)
    assert len(set(map(id, lent))) == 5
    assert {each.state for each in lent} == {"new"}
    assert {each.userid for each in lent} == {"user"}
    assert {each.pool for each in lent} == {pool}


def test_max_none_is_no_limit(source: BrokerConnection) -> None:
    """``max=None``, the default, lends as many as are asked for."""
    pool = ConnectionPool(source)
    assert len([pool.acquire() for _ in range(50)]) == 50
    assert "50 of any number in use" in repr(pool)


def test_the_limit_is_an_error(source: BrokerConnection) -> None:
    """Beyond ``max`` an error says what can be done."""
    pool = ConnectionPool(source, min=1, max=2)
    one, other = pool.acquire(), pool.acquire()
    with pytest.raises(ConnectionLimitExceeded, match="release"):
        pool.acquire()
    with pytest.raises(ConnectionLimitExceeded):
        pool.acquire(block=True, timeout=0.01)
    assert "2 of 2 in use" in repr(pool)
    one.release()
    assert pool.acquire() is one
    pool.release(other)
    assert pool.acquire() is other


@pytest.mark.parametrize("maximum", [0, -1])
def test_a_pool_of_nothing(source: BrokerConnection, maximum: int) -> None:
    """A pool that could lend nothing is a configuration error."""
    with pytest.raises(ConfigurationError, match="max"):
        ConnectionPool(source, max=maximum)


@pytest.mark.parametrize(
    ("options", "made"),
    [
        ({}, 2),
        ({"min": 5}, 5),
        ({"min": 5, "max": 3}, 3),
        ({"min": 1}, 1),
        ({"min": 5, "preload": False}, 1),
    ],
)
def test_preload_makes_connections_in_advance(
    source: BrokerConnection, options: dict[str, Any], made: int
) -> None:
    """``preload`` makes ``min`` connections in advance, never more than ``max``."""
    assert len(ConnectionPool(source, **options)._free) == made


def test_acquire_can_wait(source: BrokerConnection) -> None:
    """``acquire(block=True)`` waits until another thread releases a connection."""
    pool = ConnectionPool(source, min=1, max=1)
    first = pool.acquire()
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(pool.acquire(block=True, timeout=15)))
    waiting.start()
    wait_until(lambda: pool._changed._waiters, what="the thread waits")  # type: ignore[attr-defined]
    first.release()
    waiting.join(15)
    assert got == [first]


def test_acquire_waits_no_longer_than_told(source: BrokerConnection) -> None:
    """``timeout`` bounds how long ``acquire`` waits."""
    pool = ConnectionPool(source, min=1, max=1)
    pool.acquire()
    began = time.monotonic()
    with pytest.raises(ConnectionLimitExceeded):
        pool.acquire(block=True, timeout=0.05)
    assert 0.04 < time.monotonic() - began < 10


def test_connect_timeout_while_lent(source: BrokerConnection) -> None:
    """``connect_timeout`` of ``acquire`` holds while the connection is lent."""
    pool = ConnectionPool(source, max=1)
    connection = pool.acquire(connect_timeout=1)
    assert connection.connect_timeout == 1
    connection.release()
    assert pool.acquire().connect_timeout == 3


def test_lent_connections_are_context_managers(source: BrokerConnection) -> None:
    """A ``with`` block gives the connection back, unclosed, also after an exception."""
    pool = ConnectionPool(source, max=1)
    with pytest.raises(LookupError), pool.acquire() as connection:
        connection.connect()
        raise LookupError
    assert connection.state == "open"
    assert pool.acquire() is connection


def test_closed_connections_are_replaced(source: BrokerConnection) -> None:
    """A connection that was closed while it was lent is not lent again."""
    pool = ConnectionPool(source, min=1, max=1)
    connection = pool.acquire()
    connection.connect()
    connection.close()
    connection.release()
    other = pool.acquire()
    assert other is not connection
    assert other.connect() is not None


def test_releasing_twice_does_no_harm(source: BrokerConnection) -> None:
    """A connection that is released twice, or was never lent, is lent to one only."""
    pool = ConnectionPool(source, min=1)
    connection = pool.acquire()
    pool.release(connection)
    pool.release(connection)
    pool.release(BrokerConnection(backend_cls="memory"))
    assert pool.acquire() is connection
    assert pool.acquire() is not connection


def test_a_given_pool_is_kept() -> None:
    """``pool=`` of a connection is where ``release()`` gives it back."""
    pool = ConnectionPool(BrokerConnection(backend_cls="memory"))
    connection = BrokerConnection(backend_cls="memory", pool=pool)
    assert connection.pool is pool
    connection.release()


def test_closing_a_pool_closes_what_is_free(source: BrokerConnection) -> None:
    """``close()`` closes the connections that nobody holds; the others go on."""
    pool = ConnectionPool(source, min=2)
    lent = pool.acquire()
    lent.connect()
    free = pool.acquire()
    free.connect()
    free.release()
    pool.close()
    assert (lent.state, free.state) == ("open", "closed")
    assert pool.acquire() is not free
