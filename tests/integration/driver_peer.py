"""A peer that speaks as much AMQP as a test tells it to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from amqp import sasl, spec
from amqp.basic_message import Message
from amqp.serialization import dumps, loads

from carrot.backends import pyamqplib
from carrot.backends.pyamqplib import Connection
from tests.waiting import wait_until

__all__ = ["Link", "Peer", "deliver", "drain", "method", "sent", "subscribed"]

Signature = tuple[int, int]


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Return a frame."""
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(channel: int, sig: Signature, format: str = "", *arguments: Any) -> bytes:
    """Return the frame of a method."""
    data = dumps(format, arguments) if format else b""
    return frame(1, channel, struct.pack(">HH", *sig) + data)


def content(channel: int, body: bytes, frame_max: int = 131072, **properties: Any) -> bytes:
    """Return the header and body frames of a message."""
    encoded = Message("", **properties)._serialize_properties()
    data = frame(2, channel, struct.pack(">HHQ", 60, 0, len(body)) + encoded)
    room = frame_max - 8
    for at in range(0, len(body), room):
        data += frame(3, channel, body[at : at + room])
    return data


def deliver(
    channel: int, tag: int, body: bytes = b"x", consumer: str = "c", **properties: Any
) -> bytes:
    """Return the frames of a delivery."""
    head = method(channel, spec.Basic.Deliver, "sLbss", consumer, tag, False, "e", "k")
    return head + content(channel, body, **properties)


def subscribed(connection: Connection, tag: str = "c", **options: Any) -> tuple[Any, list[Any]]:
    """Return a channel that consumes, and the list into which it does."""
    channel, got = connection.channel(), []
    options.setdefault("callback", got.append)
    channel.basic_consume("q", tag, **options)
    return channel, got


def sent(*tags: int, channel: int = 1) -> bytes:
    """Return the frames of deliveries with these tags."""
    return b"".join(deliver(channel, tag) for tag in tags)


def drain(connection: Connection, times: int) -> None:
    """Drain so many events."""
    for _ in range(times):
        connection.drain_events(5)


class Peer:
    """Listens on a port of its own and serves one client.

    :param answers: what to answer to a method, instead of what a broker would;
        ``None`` answers nothing.
    """

    def __init__(
        self,
        answers: dict[Signature, Callable[[int, bytes], bytes] | None] | None = None,
        heartbeat: int = 60,
        capabilities: dict[str, bool] | None = None,
    ) -> None:
        self.answers: dict[Signature, Callable[[int, bytes], bytes] | None] = {
            spec.Connection.StartOk: lambda number, _: method(
                0, spec.Connection.Tune, "BlB", 2047, 131072, heartbeat
            ),
            spec.Connection.Open: _answer(spec.Connection.OpenOk, "s", ""),
            spec.Connection.Close: _answer(spec.Connection.CloseOk),
            spec.Channel.Open: _answer(spec.Channel.OpenOk, "S", ""),
            spec.Channel.Close: _answer(spec.Channel.CloseOk),
            spec.Basic.Consume: _consume_ok,
            spec.Basic.Cancel: _cancel_ok,
            spec.Basic.Qos: _answer(spec.Basic.QosOk),
            spec.Confirm.Select: _answer(spec.Confirm.SelectOk),
            spec.Queue.Declare: _declare_ok,
            spec.Queue.Purge: _answer(spec.Queue.PurgeOk, "l", 0),
            **(answers or {}),
        }
        known = {"capabilities": capabilities or {"authentication_failure_close": True}}
        self._start = method(
            0, spec.Connection.Start, "ooFSS", 0, 9, known, b"PLAIN AMQPLAIN", b"en_US"
        )
        #: Channel, method and arguments of each method that came.
        self.received: list[tuple[int, Signature, bytes]] = []
        self.heartbeats = 0
        self.bodies: dict[int, bytes] = {}
        #: Bytes that came, and whether the client has gone.
        self.bytes_received = 0
        self.gone = threading.Event()
        self._reading = threading.Event()
        self._reading.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._connections: list[Connection] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.hang_up()
        for connection in self._connections:
            connection.close()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._listener.close()
        self._reading.set()
        self._thread.join(5)

    # -- for the test

    def connection(self, **options: Any) -> Connection:
        """Return a connection to this peer that is not connected yet."""
        connection = Connection(
            host=self.host,
            authentication=(sasl.PLAIN("user", "secret"),),
            **{"connect_timeout": 5.0, "timeout": 5.0, **options},
        )
        self._connections.append(connection)
        return connection

    def connect(self, **options: Any) -> Connection:
        """Return a connection to this peer."""
        connection = self.connection(**options)
        connection.connect()
        return connection

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        wait_until(lambda: self._client)
        assert self._client is not None
        self._client.sendall(data)

    def hang_up(self) -> None:
        """Close the client's link."""
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)

    def pause(self) -> None:
        """Read one chunk more at most, so that the link fills up."""
        self._reading.clear()

    def resume(self) -> None:
        """Read again."""
        self._reading.set()

    def got(self, *sigs: Signature, channel: int | None = None) -> list[bytes]:
        """Return the arguments of the methods that came."""
        return [
            arguments
            for number, sig, arguments in list(self.received)
            if sig in sigs and channel in (None, number)
        ]

    def expect(self, sig: Signature, count: int = 1, timeout: float = 10.0) -> list[bytes]:
        """Wait until a method has come *count* times; return the arguments of each."""
        wait_until(lambda: len(self.got(sig)) >= count, timeout, f"{count} times {sig}")
        return self.got(sig)

    def settled(self, channel: int = 1) -> list[tuple[str, int, bool]]:
        """Return how deliveries were settled: verb, delivery tag, multiple (or requeue)."""
        verbs = {spec.Basic.Ack: "ack", spec.Basic.Reject: "reject", spec.Basic.Nack: "nack"}
        return [
            (verbs[sig], *loads("Lb", arguments, 0)[0])
            for number, sig, arguments in list(self.received)
            if sig in verbs and number == channel
        ]

    # -- the thread

    def _serve(self) -> None:
        try:
            self._client, _ = self._listener.accept()
        except OSError:
            return
        client = self._client
        data = bytearray()
        greeted = False
        while True:
            self._reading.wait()
            try:
                chunk = client.recv(65536)
            except OSError:
                chunk = b""
            if not chunk:
                self.gone.set()
                client.close()
                return
            data += chunk
            self.bytes_received += len(chunk)
            if not greeted and len(data) >= 8:
                greeted = True
                assert data[:8] == b"AMQP\x00\x00\x09\x01"
                del data[:8]
                self._reply(client, self._start)
            while greeted and len(data) >= 8:
                kind, channel, size = struct.unpack_from(">BHI", data)
                if len(data) < size + 8:
                    break
                assert data[7 + size] == 0xCE
                self._take(client, kind, channel, bytes(data[7 : 7 + size]))
                del data[: 8 + size]

    def _take(self, client: socket.socket, kind: int, channel: int, payload: bytes) -> None:
        if kind == 8:
            self.heartbeats += 1
        elif kind == 3:
            self.bodies[channel] = self.bodies.get(channel, b"") + payload
        elif kind == 1:
            sig = struct.unpack_from(">HH", payload)
            self.received.append((channel, sig, payload[4:]))
            answer = self.answers.get(sig)
            if answer is not None:
                self._reply(client, answer(channel, payload[4:]))

    def _reply(self, client: socket.socket, data: bytes) -> None:
        with contextlib.suppress(OSError):
            client.sendall(data)


def _answer(sig: Signature, *arguments: Any) -> Callable[[int, bytes], bytes]:
    return lambda channel, _: method(channel, sig, *arguments)


def _consume_ok(channel: int, arguments: bytes) -> bytes:
    (_, _, tag), _ = loads("Bss", arguments, 0)
    return method(channel, spec.Basic.ConsumeOk, "s", tag)


def _cancel_ok(channel: int, arguments: bytes) -> bytes:
    (tag,), _ = loads("s", arguments, 0)
    return method(channel, spec.Basic.CancelOk, "s", tag)


def _declare_ok(channel: int, arguments: bytes) -> bytes:
    (_, queue), _ = loads("Bs", arguments, 0)
    return method(channel, spec.Queue.DeclareOk, "sll", queue, 0, 0)


class Link:
    """As much of a ``BrokerConnection`` as a backend asks for."""

    hostname: str | None = "127.0.0.1"
    userid: str | None = "user"
    password: str | None = "secret"
    virtual_host = "/"
    port: int | None = None
    ssl = False
    connect_timeout = 5.0
    timeout = 5.0

    def __init__(self, backend_cls: Any = pyamqplib.Backend, **settings: Any) -> None:
        self.backend_cls = backend_cls
        self.driver: Any = None
        self.counted: list[str] = []
        self.__dict__.update(settings)

    @property
    def host(self) -> str:
        return f"{self.hostname}:{self.port}"

    @property
    def connection(self) -> Any:
        if self.driver is None:
            self.driver = self.backend_cls(self).establish_connection()
        return self.driver

    def get_channel(self) -> Any:
        return self.connection.channel()

    def drain_events(self, timeout: float | None = None) -> Any:
        return self.connection.drain_events(timeout=timeout)

    def count(self, counter: str) -> None:
        self.counted.append(counter)
