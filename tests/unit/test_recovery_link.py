"""The link: connecting, losing, recovering, closing."""

from __future__ import annotations

import gc
import logging
import os
import re
import threading
import time
import weakref
from typing import Any

import pytest

from carrot.connection import BrokerConnection
from carrot.exceptions import (
    AuthenticationFailed,
    BrokerConnectionError,
    ConfigurationError,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    DrainTimeout,
    NotSupported,
)
from carrot.messaging import Consumer, Publisher
from tests.unit.faulty import World
from tests.waiting import wait_until


def states(connection: BrokerConnection) -> list[str]:
    """Return the list to which the connection's states are added."""
    heard: list[str] = []
    connection.on_state = lambda state, cause: heard.append(state)
    return heard


def lose(world: World, connection: BrokerConnection) -> None:
    """Break the connection, and let it be noticed."""
    world.lose()
    session = connection._session
    session.lose(session.generation, ConnectionLost("the wire was cut"))


# -- the first connection


def test_nothing_is_sent_before_the_first_use() -> None:
    """Making a connection and a backend connects to nothing."""
    world = World()
    connection = world.connection()
    connection.create_backend()
    assert (connection.state, world.tried) == ("new", [])
    assert connection.connection is world.drivers[0]
    assert connection.state == "open"


def test_the_first_connection_fails_fast_with_the_reason() -> None:
    """A broker that is not there is an error at once, and the next use tries again."""
    world = World()
    world.refuse(1)
    connection = world.connection()
    heard = states(connection)
    with pytest.raises(ConnectFailed, match="refused"):
        connection.connect()
    assert connection.state == "new"
    connection.connect()
    assert heard == ["connecting", "new", "connecting", "open"]
    assert world.pauses == []


def test_each_host_is_tried_once_and_each_reason_told() -> None:
    """With a list of hosts the error says why each of them could not be connected to."""
    world = World()
    world.refusals = [OSError("no route"), ConnectFailed("refused"), TimeoutError("silence")]
    connection = BrokerConnection("one;two:99;three", backend_cls=world.backend_cls)
    with pytest.raises(ConnectFailed) as caught:
        connection.connect()
    assert [host for host, _ in world.tried] == ["one", "two", "three"]
    for words in ("one:7: no route", "two:99: refused", "three:7: silence"):
        assert words in str(caught.value)


def test_the_first_host_that_answers_is_taken_and_asked_first_the_next_time() -> None:
    """A dead host costs time once only; all hosts stay in the list."""
    world = World()
    world.refuse(1)
    connection = BrokerConnection("one;two;three", backend_cls=world.backend_cls)
    connection.connect()
    assert connection.hostname == "two"
    world.refuse(1)
    lose(world, connection)
    wait_until(lambda: connection.state == "open")
    assert [host for host, _ in world.tried] == ["one", "two", "two", "one"]


def test_the_application_may_change_the_host_between_two_connections() -> None:
    """A host set by hand counts, also after the list was used."""
    world = World()
    connection = BrokerConnection("one;two", backend_cls=world.backend_cls)
    connection.connect()
    connection.close()
    connection.hostname = "three"
    connection.connect()
    assert [host for host, _ in world.tried] == ["one", "three"]


def test_wrong_credentials_are_told_at_once_and_not_tried_elsewhere() -> None:
    """Authentication errors are not retried, neither on other hosts nor with waiting."""
    world = World()
    world.refuse(1, AuthenticationFailed)
    connection = BrokerConnection(
        "one;two", backend_cls=world.backend_cls, wait_for_broker=True
    )
    with pytest.raises(AuthenticationFailed):
        connection.connect()
    assert len(world.tried) == 1


def test_waiting_for_the_broker_tries_until_it_is_there() -> None:
    """With `wait_for_broker` the first connection is retried, more and more slowly."""
    world = World()
    world.refuse(4)
    world.connection(wait_for_broker=True).connect()
    assert world.pauses == [0.1, 0.2, 0.4, 0.8]


def test_waiting_for_the_broker_ends_at_the_deadline() -> None:
    """`wait_for_broker` does not outlast the connection's timeout."""
    world = World()
    world.down = True
    connection = BrokerConnection(
        "host", backend_cls=world.backend_cls, wait_for_broker=True, timeout=0.3
    )
    started = time.monotonic()
    with pytest.raises(ConnectFailed, match="refused"):
        connection.connect()
    assert 0.2 < time.monotonic() - started < 5


def test_threads_that_connect_at_once_get_one_connection() -> None:
    """Whoever comes second waits for the connection that the first one makes."""
    world = World()
    connection = world.connection()
    begin = threading.Barrier(8)
    found = []

    def use() -> None:
        begin.wait()
        found.append(connection.connection)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == world.drivers * 8
    assert len(world.tried) == 1


def test_a_foreign_error_while_connecting_is_not_hidden() -> None:
    """What is no trouble with the connection comes through as it is."""
    world = World()
    world.refusals = [ConfigurationError("nonsense")]
    connection = world.connection()
    with pytest.raises(ConfigurationError, match="nonsense"):
        connection.connect()
    assert connection.state == "new"


# -- losing and recovering


def test_a_lost_connection_comes_back_by_itself() -> None:
    """A connection that was established is recovered, without anybody asking again."""
    world = World()
    connection = world.connection()
    connection.connect()
    heard = states(connection)
    lose(world, connection)
    wait_until(lambda: connection.state == "open")
    wait_until(lambda: heard == ["recovering", "open"])
    assert connection.connection is world.drivers[1]
    assert connection.stats()["reconnects"] == 1
    assert world.drivers[0].goodbyes == 1


def test_tries_come_more_and_more_slowly_up_to_a_bound() -> None:
    """The first try is made at once; the pauses double up to 5 seconds."""
    world = World()
    connection = world.connection()
    connection.connect()
    world.refuse(10)
    lose(world, connection)
    wait_until(lambda: connection.state == "open")
    assert world.pauses == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5, 5]


def test_pauses_are_shortened_at_random() -> None:
    """Clients that lost the same broker do not come back all at once."""
    world = World()
    session = world.connection()._session
    session._jitter = lambda: 0.5
    assert session._delay(4) == pytest.approx(0.8 * 0.75)


def test_wrong_credentials_end_a_recovery() -> None:
    """A password that is refused is not tried again; who waits is told, and can go on later."""
    world = World()
    connection = world.connection()
    heard: list[Any] = []
    consumer = Consumer(connection, queue="q")
    consumer.register_callback(lambda data, message: message.ack())
    consumer.consume()
    connection.on_state = lambda state, cause: heard.append((state, type(cause)))
    world.refusals = [ConnectFailed("not yet"), AuthenticationFailed("wrong password")]
    world.lose()
    with pytest.raises(AuthenticationFailed, match="wrong password"):
        connection.drain_events(timeout=10)
    assert len(world.tried) == 3
    wait_until(lambda: heard == [("recovering", ConnectionLost), ("new", AuthenticationFailed)])
    with Publisher(connection, routing_key="q") as publisher:
        publisher.send(b"again")
    connection.drain_events(timeout=10)
    assert world.bodies("q") == []


def test_a_deadline_ends_the_waiting_but_not_the_recovery() -> None:
    """An operation gives up after `timeout` and says why; the connection comes back later."""
    world = World()
    connection = BrokerConnection("host", backend_cls=world.backend_cls, timeout=0.3)
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    world.down = True
    world.lose()
    started = time.monotonic()
    with pytest.raises(ConnectionLost, match=r"did not come back in time: refused"):
        backend.queue_declare("q", True, False, False)
    assert 0.2 < time.monotonic() - started < 5
    assert connection.state == "recovering"
    world.down = False
    wait_until(lambda: connection.state == "open")


def test_draining_for_a_time_ends_in_time_while_the_connection_is_lost() -> None:
    """`drain_events(timeout)` finds nothing, and says that the connection is lost."""
    world = World()
    connection = world.connection()
    connection.connect()
    world.down = True
    world.lose()
    with pytest.raises(DrainTimeout, match="lost"):
        connection.drain_events(timeout=0.2)
    connection.close()


def test_closing_ends_a_recovery_at_once() -> None:
    """close() does not wait for a broker that is gone, and who waited is told."""
    world = World()
    connection = BrokerConnection("host", backend_cls=world.backend_cls)
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    world.down = True
    lose(world, connection)
    errors: list[Exception] = []

    def declare() -> None:
        try:
            backend.queue_declare("q", True, False, False)
        except Exception as exc:
            errors.append(exc)

    waiting = threading.Thread(target=declare)
    waiting.start()
    wait_until(lambda: len(world.tried) > 2)
    started = time.monotonic()
    connection.close()
    assert time.monotonic() - started < 1
    waiting.join(10)
    assert [type(error) for error in errors] == [ConnectionClosed]
    assert not [t for t in threading.enumerate() if t.name == "carrot-recovery" and _ends(t)]


def _ends(thread: threading.Thread) -> bool:
    thread.join(10)
    return thread.is_alive()


def test_a_connection_that_comes_too_late_is_closed() -> None:
    """What a recovery establishes after close() is not left open."""
    world = World()
    connection = world.connection()
    connection.connect()
    arrived, go_on = threading.Event(), threading.Event()
    connect = world.backend_cls.establish_connection

    def slowly(self: Any) -> Any:
        arrived.set()
        go_on.wait(10)
        return connect(self)

    world.backend_cls.establish_connection = slowly
    lose(world, connection)
    assert arrived.wait(10)
    connection.close()
    go_on.set()
    wait_until(lambda: len(world.drivers) == 2 and not world.drivers[1].alive)
    assert connection.state == "closed"


def test_nobody_recovers_what_nobody_wants(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that the application dropped is garbage, though it was being recovered."""
    caplog.set_level(logging.CRITICAL, "carrot.recovery")  # kept records keep tracebacks
    world = World()
    connection = BrokerConnection("host", backend_cls=world.backend_cls)
    connection.connect()
    world.down = True
    lose(world, connection)
    wait_until(lambda: len(world.tried) > 2)
    session = weakref.ref(connection._session)
    del connection

    def gone() -> bool:
        gc.collect()
        return session() is None

    wait_until(gone)


def test_without_recovery_the_error_comes_as_it_is() -> None:
    """`recover=False`: the first error is raised, and the connection is closed."""
    world = World()
    connection = world.connection(recover=False)
    heard = states(connection)
    connection.connect()
    world.lose()
    with pytest.raises(ConnectionLost, match="the wire was cut"):
        connection.drain_events(timeout=5)
    assert (connection.state, connection.connection) == ("closed", None)
    assert heard == ["connecting", "open", "closed"]
    with pytest.raises(ConnectionClosed, match="the wire was cut"):
        connection.create_backend().queue_declare("q", True, False, False)
    connection.connect()
    assert len(world.drivers) == 2


def test_a_closed_connection_says_so() -> None:
    """Using what hangs on a closed connection is an error that names the remedy."""
    world = World()
    connection = world.connection()
    backend = connection.create_backend()
    backend.queue_declare("q", True, False, False)
    connection.close()
    connection.close()
    assert world.drivers[0].goodbyes == 1
    for use in (
        lambda: backend.queue_declare("q", True, False, False),
        lambda: backend.get("q"),
        lambda: backend.publish(backend.prepare_message(b"", 2), "", "q"),
        lambda: connection.drain_events(timeout=1),
        lambda: list(backend.consume(limit=1)),
    ):
        with pytest.raises(ConnectionClosed, match=r"call its connect\(\)"):
            use()
    backend.close()


def test_a_closed_connection_can_be_connected_again() -> None:
    """After connect() the same publishers and consumers go on."""
    world = World()
    connection = world.connection()
    received = []
    consumer = Consumer(connection, queue="q")
    consumer.register_callback(lambda data, message: (received.append(data), message.ack()))
    consumer.consume()
    publisher = Publisher(connection, routing_key="q")
    publisher.send(b"before")
    connection.close()
    connection.connect()
    publisher.send(b"after")
    connection.drain_events(timeout=5)
    connection.drain_events(timeout=5)
    assert received == ["before", "after"]


def test_a_listener_that_fails_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in `on_state` is logged, and everything goes on."""
    world = World()
    connection = world.connection()

    def fail(state: str, cause: BaseException | None) -> None:
        raise ValueError(state)

    connection.on_state = fail
    connection.connect()
    lose(world, connection)
    wait_until(lambda: connection.state == "open")
    assert "on_state('open') failed" in caplog.text


def test_the_log_tells_of_loss_and_recovery(caplog: pytest.LogCaptureFixture) -> None:
    """A loss is a warning with host and reason; a recovery is told with tries and seconds."""
    caplog.set_level(logging.INFO, "carrot.recovery")
    world = World()
    connection = world.connection(password="secret")
    connection.connect()
    world.refuse(1)
    lose(world, connection)
    wait_until(lambda: "reconnected" in caplog.text)
    lost, *_, recovered = caplog.records
    assert lost.levelno == logging.WARNING
    assert lost.getMessage() == "lost the connection to host:7: the wire was cut; reconnecting"
    assert recovered.levelno == logging.INFO
    expected = r"reconnected to host:7 at try 2, after \d\.\d s"
    assert re.fullmatch(expected, recovered.getMessage())
    assert "secret" not in caplog.text


def test_a_backend_without_events_says_so() -> None:
    """Where the driver cannot drain, `drain_events` is not supported rather than a mystery."""
    world = World()
    world.backend_cls.establish_connection = lambda self: object()
    connection = world.connection()
    connection.connect()
    with pytest.raises(NotSupported, match="cannot drain"):
        connection.drain_events(timeout=1)


def test_foreign_timeouts_are_ours() -> None:
    """A driver's own TimeoutError is what `drain_events` promises, by its name."""
    world = World()
    connection = world.connection()
    connection.connect()

    def drain_events(timeout: float | None = None) -> None:
        raise TimeoutError("the driver's own")

    world.drivers[0].drain_events = drain_events  # type: ignore[assignment,method-assign]
    with pytest.raises(DrainTimeout, match="the driver's own"):
        connection.drain_events(timeout=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_leaves_its_parents_connection_alone() -> None:
    """After fork the child connects anew, and leaves the consumers to its parent."""
    world = World()
    connection = world.connection()
    consumer = Consumer(connection, queue="q")
    consumer.register_callback(lambda data, message: message.ack())
    consumer.consume()
    publisher = Publisher(connection, routing_key="q")
    publisher.send(b"the parent's")
    connection.create_backend().queue_declare("other", True, True, False)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        report = b"failed"
        try:
            assert connection.state == "new"
            assert publisher._tracker is not None
            assert publisher._tracker.outstanding == 0
            publisher.send(b"the child's")
            publisher.flush()
            connection.close()
            parents = world.drivers[0]
            consumers = len(world.broker.vhost("/").queues["q"].consumers)
            report = (
                f"{len(world.drivers)} {parents.alive} {parents.goodbyes} {consumers}".encode()
            )
        finally:
            os.write(write, report)
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"2 True 0 1"
    os.close(read)
    os.close(write)
    publisher.flush()
    connection.drain_events(timeout=5)
    assert len(world.drivers) == 1


def test_errors_of_connecting_tell_whether_trying_again_may_help() -> None:
    """A recovery goes on for what may pass, and ends for what will not."""
    world = World()
    connection = world.connection()
    connection.connect()
    hopeless = ConnectFailed("certificate verify failed")
    hopeless.recoverable = False
    world.refusals = [OSError("unplugged"), TimeoutError("silence"), hopeless]
    world.lose()
    with pytest.raises(BrokerConnectionError, match="certificate"):
        connection.drain_events(timeout=10)
    assert len(world.tried) == 4
