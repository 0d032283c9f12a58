"""The TCP proxy that the fault tests rely on."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.proxy import Proxy


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """A server that sends back what it gets, and closes when its client does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_serve, args=[listener], daemon=True).start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=[client], daemon=True).start()


def _echo(client: socket.socket) -> None:
    with client:
        try:
            while data := client.recv(65536):
                client.sendall(data)
        except OSError:
            pass


@pytest.fixture
def link(echo: tuple[str, int]) -> Iterator[Proxy]:
    """A proxy to the echo server."""
    with Proxy(*echo) as proxy:
        yield proxy


@pytest.fixture
def client(link: Proxy) -> Iterator[socket.socket]:
    """A client that has had its first byte echoed through the proxy."""
    with socket.create_connection((link.host, link.port), 5) as client:
        assert exchange(client, b"x") == b"x"
        yield client


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Send and receive as many bytes."""
    client.sendall(data)
    return receive(client, len(data))


def receive(client: socket.socket, count: int) -> bytes:
    """Receive so many bytes, or fewer if the stream ends."""
    received = b""
    while len(received) < count and (data := client.recv(count - len(received))):
        received += data
    return received


def silent(client: socket.socket) -> bool:
    """Tell whether nothing comes for a while."""
    client.settimeout(0.05)
    try:
        return not client.recv(1) and False
    except TimeoutError:
        return True
    finally:
        client.settimeout(5)


def test_forwards_and_counts(link: Proxy, client: socket.socket) -> None:
    """Bytes pass unchanged in both directions and are counted."""
    data = bytes(range(256)) * 4096
    threading.Thread(target=client.sendall, args=[data], daemon=True).start()
    assert receive(client, len(data)) == data
    link.wait_for(lambda p: p.down == p.up == len(data) + 1)
    assert (link.connections, link.open) == (1, 1)


def test_a_client_that_leaves_is_noticed(link: Proxy, client: socket.socket) -> None:
    """The link is gone after both sides have closed."""
    client.close()
    link.wait_for(lambda p: p.open == 0)


def test_cut_ends_the_stream(link: Proxy, client: socket.socket) -> None:
    """After cut() the client reads the end of the stream; a new client is served."""
    link.cut()
    assert link.open == 0
    assert client.recv(1) == b""
    with socket.create_connection((link.host, link.port), 5) as other:
        assert exchange(other, b"again") == b"again"


def test_reset_resets(link: Proxy, client: socket.socket) -> None:
    """After reset() the client gets ECONNRESET."""
    link.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_cut_after_passes_exactly_so_many_bytes(
    link: Proxy, client: socket.socket, count: int
) -> None:
    """cut(after=n) lets n bytes pass, no more and no fewer."""
    link.cut(after=count)
    client.sendall(b"0123456789abc")
    assert receive(client, 100) == b"0123456789abc"[:count]
    link.wait_for(lambda p: p.tripped == 1 and p.open == 0)


def test_reset_after_upward(link: Proxy, client: socket.socket) -> None:
    """Bytes towards the server are counted for after= when direction says so."""
    link.reset(after=4, direction="up")
    with pytest.raises(ConnectionResetError):
        while True:
            client.sendall(b"12345678")
            client.recv(1)
    assert link.up == 5


def test_stall_keeps_bytes_until_healed(link: Proxy, client: socket.socket) -> None:
    """What is sent while stalled arrives after heal(), nothing before."""
    link.stall()
    client.sendall(b"late")
    assert silent(client)
    assert link.open == 1
    link.heal()
    assert receive(client, 4) == b"late"


def test_stall_fills_the_senders_window(link: Proxy, client: socket.socket) -> None:
    """While stalled the proxy does not read, so that a sender blocks."""
    link.stall()
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.sendall(bytes(64 * 1024 * 1024))


def test_stall_in_one_direction(link: Proxy, client: socket.socket) -> None:
    """stall("down") lets bytes reach the server but none come back."""
    link.stall("down")
    client.sendall(b"12")
    link.wait_for(lambda p: p.up == 3)
    assert silent(client)


def test_stall_after(link: Proxy, client: socket.socket) -> None:
    """stall(after=n) stops when n bytes have passed and keeps the rest."""
    link.stall(after=2)
    client.sendall(b"abcd")
    assert receive(client, 2) == b"ab"
    assert silent(client)
    link.heal()
    assert receive(client, 2) == b"cd"


def test_swallow_accepts_and_answers_nothing(link: Proxy, client: socket.socket) -> None:
    """A black hole takes connections and bytes, of old clients and of new."""
    link.swallow()
    with socket.create_connection((link.host, link.port), 5) as other:
        other.sendall(b"hello")
        client.sendall(b"world")
        link.wait_for(lambda p: p.swallowed == 10)
        assert silent(other)
        assert silent(client)
        assert link.open == 2


def test_heal_cuts_what_was_swallowed(link: Proxy, client: socket.socket) -> None:
    """A stream with bytes missing does not go on."""
    link.swallow()
    link.heal()
    assert client.recv(1) == b""


def test_a_black_hole_does_not_tell_that_the_server_left(
    link: Proxy, client: socket.socket
) -> None:
    """While "down" is swallowed the end of the server's stream is swallowed too."""
    link.swallow("down")
    client.shutdown(socket.SHUT_WR)
    assert silent(client)


def test_trickle_sends_single_bytes(link: Proxy, client: socket.socket) -> None:
    """trickle() passes everything on, a byte at a time."""
    link.trickle()
    assert exchange(client, b"0123456789") == b"0123456789"


def test_delay_lets_bytes_come_later(link: Proxy, client: socket.socket) -> None:
    """delay(s) adds s each way, without slowing what follows behind."""
    link.delay(0.05)
    started = time.monotonic()
    assert exchange(client, b"a") == b"a"
    assert time.monotonic() - started >= 0.1
    link.delay(0)


def test_corrupt_changes_one_byte(link: Proxy, client: socket.socket) -> None:
    """corrupt() flips the one byte at the offset, once."""
    link.corrupt("up", after=2)
    assert exchange(client, b"abcd") == b"ab\x9cd"
    assert exchange(client, b"abcd") == b"abcd"
    link.wait_for(lambda p: p.tripped == 1)


def test_half_close_ends_one_direction(link: Proxy, client: socket.socket) -> None:
    """half_close("down") ends what the client reads; what it writes still passes."""
    link.half_close("down")
    assert client.recv(1) == b""
    client.sendall(b"more")
    link.wait_for(lambda p: p.up == 5)


def test_refuse_and_accept(link: Proxy, client: socket.socket) -> None:
    """refuse() refuses new clients, leaves old ones; accept() listens on the same port."""
    port = link.port
    link.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((link.host, link.port), 5)
    assert exchange(client, b"old") == b"old"
    link.accept()
    assert link.port == port
    socket.create_connection((link.host, link.port), 5).close()


def test_a_dead_server_resets_the_client(link: Proxy) -> None:
    """Where the server refuses, the client is reset."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        link.target(*unused.getsockname())
        address = (link.host, link.port)
        with pytest.raises(ConnectionResetError), socket.create_connection(address) as client:
            client.recv(1)


def test_repr_tells_the_state(link: Proxy, client: socket.socket) -> None:
    """The repr counts connections and bytes."""
    link.wait_for(lambda p: p.down == 1)
    assert "1 of 1 open, 1 bytes up, 1 down" in repr(link)


def test_wait_for_fails_at_its_deadline(link: Proxy) -> None:
    """wait_for() fails the test when nothing happens."""
    with pytest.raises(AssertionError, match="not within"):
        link.wait_for(lambda p: p.open, timeout=0.01)


def test_close_twice(echo: tuple[str, int]) -> None:
    """close() may be called again."""
    proxy = Proxy(*echo)
    proxy.close()
    proxy.close()
