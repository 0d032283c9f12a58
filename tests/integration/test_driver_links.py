"""The driver's link to its peer: established, kept alive, lost, closed."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from amqp import spec
from amqp.serialization import loads

from carrot.backends.pyamqplib import channel as channel_module
from carrot.backends.pyamqplib import connection as connection_module
from carrot.backends.pyamqplib.wire import HEARTBEAT
from carrot.exceptions import (
    AuthenticationFailed,
    ConfigurationError,
    ConnectFailed,
    ConnectionClosed,
    ConnectionLost,
    DrainTimeout,
)
from carrot.utils import time_limit
from tests.integration.driver_peer import Peer, deliver, method
from tests.waiting import wait_until


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


# -- establishing


def test_connecting_says_who_we_are(peer: Peer) -> None:
    """The broker is shown the client's properties and capabilities; the password stays ours."""
    connection = peer.connect(client_properties={"product": "carrot"})
    assert connection.connected
    (arguments,) = peer.got(spec.Connection.StartOk)
    (shown, mechanism, response, _), _ = loads("FsSs", arguments, 0)
    assert shown["product"] == "carrot"
    assert (mechanism, response) == ("PLAIN", "\0user\0secret")
    assert "secret" not in repr(connection)
    assert repr(connection) == f"<Connection to {peer.host}// open>"


def test_a_silent_host_fails_at_the_deadline(peer: Peer) -> None:
    """A host that accepts and says nothing is given up after ``connect_timeout``."""
    peer.pause()
    started = time.monotonic()
    with pytest.raises(ConnectFailed, match=f"cannot connect to {peer.host}: no answer"):
        peer.connect(connect_timeout=0.3)
    assert time.monotonic() - started < 2


def test_a_host_that_dribbles_fails_at_the_deadline() -> None:
    """Bytes that come one by one do not extend ``connect_timeout``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def dribble() -> None:
            client, _ = listener.accept()
            with client:
                for byte in method(0, spec.Connection.Start, "ooFSS", 0, 9, {}, "PLAIN", "en"):
                    if done.wait(0.05):
                        return
                    try:
                        client.send(bytes([byte]))
                    except OSError:
                        return

        thread = threading.Thread(target=dribble)
        thread.start()
        started = time.monotonic()
        with Peer() as peer:
            connection = peer.connection(connect_timeout=0.4)
            connection.host = address(listener)
            with pytest.raises(ConnectFailed, match="no answer"):
                connection.connect()
        assert time.monotonic() - started < 2
        done.set()
        thread.join()


def test_a_surrounding_time_limit_bounds_connecting(peer: Peer) -> None:
    """``time_limit`` bounds connecting more tightly than ``connect_timeout``."""
    peer.pause()
    started = time.monotonic()
    with time_limit(0.2), pytest.raises(ConnectFailed):
        peer.connect(connect_timeout=30)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "greeting, words",
    [
        (b"AMQP\x00\x00\x09\x01", "does AMQP 0-9-1 listen there"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does AMQP 0-9-1 listen there"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "with TLS or without"),
        (b"", "closed the connection"),
    ],
)
def test_a_host_that_speaks_something_else(greeting: bytes, words: str) -> None:
    """A peer that is no AMQP broker is a ``ConnectFailed`` that suggests why."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(8)
                client.sendall(greeting + bytes(8) * bool(greeting))

        thread = threading.Thread(target=greet)
        thread.start()
        with Peer() as peer:
            connection = peer.connection()
            connection.host = address(listener)
            with pytest.raises(ConnectFailed, match=words):
                connection.connect()
        thread.join()


def test_nobody_listens() -> None:
    """A refused connection is a ``ConnectFailed`` that names host and port."""
    with Peer() as peer:
        connection = peer.connection()
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            connection.host = address(nobody)
            with pytest.raises(ConnectFailed, match=f"{connection.host}: Connection refused"):
                connection.connect()


def refused(code: int, text: str) -> Any:
    return lambda *_: method(0, spec.Connection.Close, "BsBB", code, text, 0, 0)


@pytest.mark.parametrize(
    "code, text, error",
    [
        (403, "ACCESS_REFUSED - Login was refused", AuthenticationFailed),
        (530, "NOT_ALLOWED - vhost nope not found", AuthenticationFailed),
        (530, "NOT_ALLOWED - connection limit (3) is reached", ConnectFailed),
        (541, "INTERNAL_ERROR - vhost is down", ConnectFailed),
    ],
)
def test_logins_that_are_refused(code: int, text: str, error: type[Exception]) -> None:
    """What the broker says against a login is in the error, whose class says if it may pass."""
    with Peer({spec.Connection.Open: refused(code, text)}) as peer:
        with pytest.raises(error) as caught:
            peer.connect()
        assert text in str(caught.value)
        assert peer.host in str(caught.value)
        assert type(caught.value) is error


@pytest.mark.parametrize(
    "capabilities, error",
    [
        ({"authentication_failure_close": True}, ConnectFailed),
        ({"old": True}, AuthenticationFailed),
    ],
)
def test_a_link_that_ends_during_the_login(
    capabilities: dict[str, bool], error: type[Exception]
) -> None:
    """It means a wrong password only from brokers that cannot say so otherwise."""
    with Peer(capabilities=capabilities) as peer:
        peer.answers[spec.Connection.StartOk] = lambda *_: (peer.hang_up(), b"")[1]
        with pytest.raises(error) as caught:
            peer.connect()
        assert type(caught.value) is error


def test_no_common_mechanism() -> None:
    """A broker that knows none of our login mechanisms is an ``AuthenticationFailed``."""
    with Peer() as peer:
        peer._start = method(0, spec.Connection.Start, "ooFSS", 0, 9, {}, b"EXTERNAL", b"en_US")
        with pytest.raises(AuthenticationFailed, match="EXTERNAL"):
            peer.connect()


# -- keeping alive


@pytest.mark.parametrize("asked, agreed", [(None, 60), (10, 10), (0.4, 1), (0, 0)])
def test_heartbeats_are_negotiated(peer: Peer, asked: float | None, agreed: int) -> None:
    """The broker's interval is taken unless another is asked for, in whole seconds."""
    connection = peer.connect(heartbeat=asked)
    (arguments,) = peer.got(spec.Connection.TuneOk)
    assert loads("BlB", arguments, 0)[0] == [2047, 131072, agreed]
    assert connection.heartbeat == agreed


def test_heartbeats_are_sent_whatever_the_application_does(peer: Peer) -> None:
    """A connection that nobody uses sends a heartbeat at least once per interval."""
    peer.connect(heartbeat=1)
    wait_until(lambda: peer.heartbeats >= 2, 5)


def test_a_silent_peer_is_dead_after_two_intervals(peer: Peer) -> None:
    """Whoever waits for a peer that says nothing gets ``ConnectionLost``."""
    connection = peer.connect(heartbeat=1)
    started = time.monotonic()
    with pytest.raises(ConnectionLost, match="nothing came for"):
        connection.drain_events()
    assert 1.9 < time.monotonic() - started < 5
    with pytest.raises(ConnectionLost, match="nothing came for"):
        connection.channel()
    assert not connection.connected


def test_heartbeats_do_not_extend_a_wait(peer: Peer) -> None:
    """``drain_events(timeout)`` ends at its deadline though heartbeats keep coming."""
    connection = peer.connect()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(0.02):
            peer.send(HEARTBEAT)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        started = time.monotonic()
        with pytest.raises(DrainTimeout):
            connection.drain_events(timeout=0.3)
        assert 0.28 < time.monotonic() - started < 1.5
    finally:
        done.set()
        thread.join()


def test_what_comes_is_heard_though_nobody_reads(peer: Peer) -> None:
    """An idle publisher's confirms, and the end of its link, are heard within seconds."""
    connection = peer.connect()
    channel = connection.channel()
    heard: list[Any] = []
    channel.events["basic_ack"].add(lambda *confirm: heard.append(confirm))
    peer.send(method(1, spec.Basic.Ack, "Lb", 7, True))
    wait_until(lambda: heard == [(7, True)], 5)
    peer.hang_up()
    wait_until(lambda: not connection.connected, 5)
    with pytest.raises(ConnectionLost):
        connection.channel()


def test_reading_ahead_is_bounded(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is for consumers that do not drain is read ahead up to a bound, and no further."""
    monkeypatch.setattr(connection_module, "BACKLOG", 100_000)
    connection = peer.connect(heartbeat=1)
    channel = connection.channel()
    got: list[int] = []
    channel.basic_consume("q", "c", callback=lambda message: got.append(message.delivery_tag))
    bodies = 200
    sender = threading.Thread(
        target=lambda: [peer.send(deliver(1, n, bytes(50_000))) for n in range(1, bodies + 1)]
    )
    sender.start()
    wait_until(lambda: connection.inbox.backlog >= 100_000, 10)
    ahead = len(connection.inbox.events)
    # It is not read, so its silence must not be held against the peer either.
    beats = peer.heartbeats
    wait_until(lambda: peer.heartbeats >= beats + 6, 10)
    assert len(connection.inbox.events) == ahead < bodies
    while len(got) < bodies:
        connection.drain_events(5)
    sender.join()
    assert got == list(range(1, bodies + 1))


# -- losing


def test_an_answer_that_does_not_come(peer: Peer) -> None:
    """A broker that does not answer in ``timeout`` seconds has lost the connection."""
    connection = peer.connect(timeout=0.3)
    channel = connection.channel()
    peer.answers[spec.Queue.Declare] = None
    started = time.monotonic()
    with pytest.raises(ConnectionLost, match=r"did not answer Queue.declare within 0\.\d+ sec"):
        channel.queue_declare("q")
    assert time.monotonic() - started < 2
    with pytest.raises(ConnectionLost, match=r"did not answer Queue.declare"):
        connection.channel()


def test_garbage_loses_the_connection(peer: Peer) -> None:
    """Bytes that are no AMQP end the connection; what came before them is delivered."""
    connection = peer.connect()
    channel = connection.channel()
    channel.basic_consume("q", "c", callback=print)
    peer.send(b"\xff" * 20)
    with pytest.raises(ConnectionLost, match=peer.host):
        connection.drain_events(5)


@pytest.mark.parametrize(
    "data",
    [
        method(0, (10, 99)),
        method(1, (60, 99)),
        method(9, spec.Queue.PurgeOk, "l", 1),
        method(1, spec.Queue.DeclareOk, "l", 1)[:-3] + b"\xff\xff\xce",
        deliver(9, 1),
    ],
)
def test_methods_that_nobody_understands(peer: Peer, data: bytes) -> None:
    """Unknown methods, unknown channels and garbled arguments end the connection."""
    connection = peer.connect()
    channel = connection.channel()
    peer.answers[spec.Queue.Declare] = lambda *_: data
    with pytest.raises(ConnectionLost, match=r"lost|understands"):
        channel.queue_declare("q")


def test_a_broker_that_closes_the_connection(peer: Peer) -> None:
    """Its reason is in the error, and its goodbye is answered."""
    connection = peer.connect()
    peer.send(method(0, spec.Connection.Close, "BsBB", 320, "CONNECTION_FORCED - bye", 0, 0))
    with pytest.raises(ConnectionLost, match="320 CONNECTION_FORCED - bye") as caught:
        connection.drain_events(5)
    assert caught.value.recoverable
    peer.expect(spec.Connection.CloseOk)


def test_an_operation_because_of_which_the_connection_is_closed(peer: Peer) -> None:
    """For that operation the error is not worth a retry; for others it is."""
    connection = peer.connect()
    channel = connection.channel()
    peer.answers[spec.Queue.Declare] = lambda *_: method(
        0, spec.Connection.Close, "BsBB", 541, "INTERNAL_ERROR", *spec.Queue.Declare
    )
    with pytest.raises(ConnectionLost, match="541") as caught:
        channel.queue_declare("q")
    assert not caught.value.recoverable
    with pytest.raises(ConnectionLost, match="541") as caught:
        connection.drain_events()
    assert caught.value.recoverable


# -- closing


def test_closing_says_goodbye(peer: Peer) -> None:
    """``close()`` is idempotent; what is used afterwards says that it was closed."""
    connection = peer.connect()
    channel = connection.channel()
    connection.close()
    connection.close()
    channel.close()
    peer.expect(spec.Connection.Close)
    assert repr(connection).endswith("closed>")
    with pytest.raises(ConnectionClosed, match=f"the connection to {peer.host} was closed"):
        connection.drain_events()
    assert peer.gone.wait(5)


def test_closing_has_a_deadline(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not answer the goodbye is left after a few seconds, quietly."""
    monkeypatch.setattr(connection_module, "CLOSE_TIMEOUT", 0.2)
    connection = peer.connect()
    peer.answers[spec.Connection.Close] = None
    started = time.monotonic()
    connection.close()
    assert time.monotonic() - started < 2


def test_closing_wakes_who_waits(peer: Peer) -> None:
    """A thread that waits for messages is told at once that the connection was closed."""
    connection = peer.connect()
    errors: list[Exception] = []

    def drain() -> None:
        try:
            connection.drain_events()
        except Exception as exc:
            errors.append(exc)

    thread = threading.Thread(target=drain)
    thread.start()
    wait_until(lambda: connection.inbox.turns.leader)
    connection.close()
    thread.join(5)
    assert [type(error) for error in errors] == [ConnectionClosed]


def test_a_channels_close_that_is_answered_late(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs nothing: the connection goes on, and the number is free once it is answered."""
    monkeypatch.setattr(channel_module, "CLOSE_TIMEOUT", 0.2)
    connection = peer.connect()
    channel = connection.channel()
    peer.answers[spec.Channel.Close] = None
    channel.close()
    assert connection.channel().channel_id == 2
    peer.send(method(1, spec.Channel.CloseOk))
    wait_until(lambda: 1 not in connection.channels, 5)
    assert connection.channel().channel_id == 1


def test_the_broker_allows_no_more_channels(peer: Peer) -> None:
    """One channel too many is an error that says so; the connection goes on."""
    peer.answers[spec.Connection.StartOk] = lambda *_: method(
        0, spec.Connection.Tune, "BlB", 1, 131072, 60
    )
    connection = peer.connect()
    channel = connection.channel()
    with pytest.raises(ConfigurationError, match="no channel left"):
        connection.channel()
    channel.close()
    assert connection.channel().is_open


def test_a_connection_that_is_forgotten(peer: Peer) -> None:
    """The garbage collector ends the link, without a warning."""
    connection = peer.connection()
    peer._connections.clear()
    connection.connect()
    connection.channel()
    del connection
    wait_until(lambda: gc.collect() >= 0 and peer.gone.is_set(), 5)


# -- forking


def in_a_child(function: Any) -> int:
    """Run *function* in a forked child; return its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_leaves_the_link_alone(peer: Peer) -> None:
    """Whatever the child does, its parent's connection goes on; the child's uses are told."""
    connection = peer.connect()
    channel = connection.channel()

    def child() -> None:
        for use in (
            connection.channel,
            connection.drain_events,
            lambda: channel.queue_declare("q"),
            lambda: channel.basic_get("q"),
        ):
            with pytest.raises(ConnectionLost, match="forked"):
                use()
        assert channel.basic_ack(1) is False
        channel.close()
        connection.close()
        connection._transport.sever()

    before = len(peer.received)
    assert in_a_child(child) == 0
    assert channel.queue_declare("q").queue == "q"
    assert len(peer.received) == before + 1


def test_a_child_of_a_fork_in_the_middle_of_things(peer: Peer) -> None:
    """Locks that another thread held at the fork do not stop the child."""
    connection = peer.connect()

    def child() -> None:
        for use in (connection.channel, channel.queue_declare, channel.basic_get):
            with pytest.raises(ConnectionLost, match="forked"):
                use()

    channel = connection.channel()
    with connection.outbox.lock, connection._opening, connection._ending, channel._turns:
        assert in_a_child(child) == 0
    assert connection.channel().is_open
