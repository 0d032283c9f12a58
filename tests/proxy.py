"""A TCP proxy that fails on command.

It runs in a thread of its own. A command has taken effect when the call
returns; what the proxy saw can be asked and waited for, so that no test needs
to sleep. ``"up"`` is the way from client to server, ``"down"`` the way back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, TypeVar

__all__ = ["Proxy"]

Direction = Literal["up", "down"]
T = TypeVar("T")

_CHUNK = 65536
#: Chunks on their way in one direction; more wait in the sender's socket.
_IN_FLIGHT = 16
#: SO_LINGER on, 0 seconds: close() sends RST instead of FIN.
_RST = struct.pack("ii", 1, 0)


class _Link:
    """One client's connection and the connection made to the server for it."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.server: socket.socket | None = None
        self.tasks: list[asyncio.Task[None]] = []
        #: Directions whose stream has ended.
        self.ended: set[Direction] = set()

    @property
    def sockets(self) -> list[socket.socket]:
        return [self.client] if self.server is None else [self.client, self.server]

    def ends(self, direction: Direction) -> tuple[socket.socket, socket.socket]:
        """Return where the bytes of a direction come from and where they go."""
        assert self.server is not None
        if direction == "up":
            return self.client, self.server
        return self.server, self.client


#: What a fault does: to one link, or to all (``None``).
_Action = Callable[["_Link | None"], Coroutine[Any, Any, None]]


class _Way:
    """What happens to bytes in one direction, on all links."""

    def __init__(self) -> None:
        self.forwarded = 0
        self.swallowed = 0
        #: Bytes that were forwarded or are just being forwarded.
        self.claimed = 0
        self.open = asyncio.Event()
        self.open.set()
        self.swallow = False
        self.piece = _CHUNK
        self.delay = 0.0
        #: Count of claimed bytes -> the fault that is due when it is reached.
        self.traps: dict[int, _Action] = {}
        #: Counts of claimed bytes at which one byte is changed.
        self.corrupt: set[int] = set()

    def claim(self, data: bytes) -> tuple[bytes, bytes]:
        """Return what may go out now, altered where it should be, and the rest."""
        size = min([self.piece, *(at - self.claimed for at in self.traps)])
        piece, rest = bytearray(data[:size]), data[size:]
        for at in [at for at in self.corrupt if at < self.claimed + len(piece)]:
            piece[at - self.claimed] ^= 0xFF
            self.corrupt.remove(at)
        self.claimed += len(piece)
        return bytes(piece), rest


class Proxy:
    """Listen on a free port of 127.0.0.1 and pass everything on to a server.

    :param host: the server's.
    :param port: the server's.
    :param url_at: makes the proxy's :attr:`url` out of its host and port.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        host: str,
        port: int,
        url_at: Callable[[str, int], str] = "amqp://guest:guest@{}:{}//".format,
    ) -> None:
        self._target = (host, port)
        self._url_at = url_at
        self._changed = threading.Condition()
        self._links: list[_Link] = []
        self._connections = 0
        self._tripped = 0
        self._listener: socket.socket | None = None
        self._faults: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._ways: dict[Direction, _Way] = self._do(self._make_ways)
        #: The port that clients connect to.
        self.port = 0
        self.accept()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<Proxy {self.port} to {self._target[1]}: {self.open} of {self.connections} open,"
            f" {self.up} bytes up, {self.down} down>"
        )

    def close(self) -> None:
        """Cut everything and end the thread."""
        if self._loop.is_closed():
            return
        self.refuse()
        self.cut()
        self._await(_cancel(list(self._faults)))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # -- what it saw

    @property
    def url(self) -> str:
        """Broker URL of the server, by way of the proxy."""
        return self._url_at(self.host, self.port)

    @property
    def connections(self) -> int:
        """How many connections were accepted in all."""
        return self._connections

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    @property
    def up(self) -> int:
        """Bytes passed on to the server."""
        return self._ways["up"].forwarded

    @property
    def down(self) -> int:
        """Bytes passed on to clients."""
        return self._ways["down"].forwarded

    @property
    def swallowed(self) -> int:
        """Bytes taken and thrown away, both ways."""
        return self._ways["up"].swallowed + self._ways["down"].swallowed

    @property
    def tripped(self) -> int:
        """How many faults that were set for later (``after=``) have happened."""
        return self._tripped

    def wait_for(self, condition: Callable[[Proxy], T], timeout: float = 15.0) -> T:
        """Wait until the proxy has seen something: ``wait_for(lambda p: p.up > 100)``.

        :param timeout: seconds; after them the test fails.
        """
        with self._changed:
            answer = self._changed.wait_for(lambda: condition(self), timeout)
            if not answer:
                raise AssertionError(f"not within {timeout:g} s at {self!r}")
            return answer

    # -- faults now, or after a number of further bytes in one direction

    def cut(self, *, after: int | None = None, direction: Direction = "down") -> None:
        """Close all connections on both sides (FIN).

        :param after: so many bytes from now in *direction*, close the one
            connection that passed the last of them.
        """
        self._fault(after, direction, lambda link: self._drop(link, rst=False))

    def reset(self, *, after: int | None = None, direction: Direction = "down") -> None:
        """Reset all connections on both sides (RST). *after* as in :meth:`cut`."""
        self._fault(after, direction, lambda link: self._drop(link, rst=True))

    def stall(
        self, *ways: Direction, after: int | None = None, direction: Direction = "down"
    ) -> None:
        """Pass nothing on, keep everything open; senders' windows fill.

        A client that leaves meanwhile is noticed after :meth:`heal` only.

        :param ways: default is both.
        :param after: as in :meth:`cut`.
        """

        async def stall(link: _Link | None) -> None:
            for way in ways or ("up", "down"):
                self._ways[way].open.clear()

        self._fault(after, direction, stall)

    def swallow(
        self, *ways: Direction, after: int | None = None, direction: Direction = "down"
    ) -> None:
        """Be a black hole: accept connections and bytes, and throw the bytes away.

        :param ways: default is both; then nothing is asked of the server any more.
        """

        async def swallow(link: _Link | None) -> None:
            for way in ways or ("up", "down"):
                self._ways[way].swallow = True

        self._fault(after, direction, swallow)

    def half_close(self, direction: Direction) -> None:
        """End the stream in one direction only (shutdown): ``"down"`` is towards the client."""

        def half_close() -> None:
            for link in self._links:
                with contextlib.suppress(OSError):
                    to = link.server if direction == "up" else link.client
                    if to is not None:
                        to.shutdown(socket.SHUT_WR)

        self._do(half_close)

    def refuse(self) -> None:
        """Stop listening: new connections are refused, open ones stay."""

        def refuse() -> None:
            if self._listener is not None:
                self._loop.remove_reader(self._listener)
                self._listener.close()
                self._listener = None

        self._do(refuse)

    # -- manners

    def corrupt(self, direction: Direction, after: int = 0) -> None:
        """Flip all bits of one byte, the one that follows *after* further bytes."""
        way = self._ways[direction]
        self._do(lambda: way.corrupt.add(way.claimed + after))

    def trickle(self, size: int = 1) -> None:
        """Pass on so many bytes at a time, each piece in a segment of its own."""
        for way in self._ways.values():
            way.piece = size

    def delay(self, seconds: float) -> None:
        """Let everything take so much longer, each way. No less passes per second."""
        for way in self._ways.values():
            way.delay = seconds

    def target(self, host: str, port: int) -> None:
        """Connect further clients to another server."""
        self._target = (host, port)

    def accept(self) -> None:
        """Listen, after :meth:`refuse`, on the same port again."""

        def accept() -> None:
            if self._listener is None:
                self._listener = socket.create_server((self.host, self.port), backlog=128)
                self._listener.setblocking(False)
                self.port = self._listener.getsockname()[1]
                self._loop.add_reader(self._listener, self._welcome)

        self._do(accept)

    def heal(self) -> None:
        """End all faults and manners; forget those set for later.

        What was stalled goes on. What was swallowed is lost: those
        connections are cut.
        """

        async def heal() -> None:
            if any(way.swallow for way in self._ways.values()):
                await self._drop(None, rst=False)
            for way in self._ways.values():
                way.swallow, way.piece, way.delay = False, _CHUNK, 0.0
                way.traps.clear()
                way.corrupt.clear()
                way.open.set()

        self._await(heal())
        self.accept()

    # -- the thread's part

    def _do(self, action: Callable[[], T]) -> T:
        """Run something in the proxy's thread; return when it is done."""

        async def do() -> T:
            return action()

        return self._await(do())

    def _await(self, steps: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(steps, self._loop).result(15.0)

    def _make_ways(self) -> dict[Direction, _Way]:
        return {"up": _Way(), "down": _Way()}

    def _notice(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fault(
        self,
        after: int | None,
        direction: Direction,
        action: _Action,
    ) -> None:
        if after is None:
            self._await(action(None))
            return
        way = self._ways[direction]
        self._do(lambda: way.traps.__setitem__(way.claimed + after, action))

    def _welcome(self) -> None:
        """Accept a client. No coroutine: cancelled, one would lose the socket."""
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError):
            client, _ = self._listener.accept()
            client.setblocking(False)
            link = _Link(client)
            self._links.append(link)
            self._connections += 1
            link.tasks.append(self._loop.create_task(self._attend(link)))
            self._notice()

    async def _attend(self, link: _Link) -> None:
        """Connect a client to the server, then pass bytes on in both directions."""
        if self._ways["up"].swallow and self._ways["down"].swallow:
            await self._sink(link)
            return
        server = socket.socket()
        server.setblocking(False)
        link.server = server
        try:
            await self._loop.sock_connect(server, self._target)
        except OSError:
            self._begin(self._drop(link, rst=True))
            return
        for end in link.sockets:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        directions: tuple[Direction, ...] = ("up", "down")
        for direction in directions:
            pipe: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_IN_FLIGHT)
            link.tasks.append(self._loop.create_task(self._take(link, direction, pipe)))
            link.tasks.append(self._loop.create_task(self._give(link, direction, pipe)))

    async def _sink(self, link: _Link) -> None:
        """Read and forget until the client closes."""
        with contextlib.suppress(OSError):
            while data := await self._loop.sock_recv(link.client, _CHUNK):
                self._ways["up"].swallowed += len(data)
                self._notice()
        self._begin(self._drop(link, rst=False))

    async def _take(
        self, link: _Link, direction: Direction, pipe: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        """Read one direction into its pipe, as far as that has room."""
        way, (source, _) = self._ways[direction], link.ends(direction)
        data = b"?"
        while data:
            await way.open.wait()
            try:
                data = await self._loop.sock_recv(source, _CHUNK)
            except OSError:
                if not way.swallow:  # pass the reset on
                    self._begin(self._drop(link, rst=True))
                    return
                data = b""
            await pipe.put((self._loop.time() + way.delay, data))

    async def _give(
        self, link: _Link, direction: Direction, pipe: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        """Write what the pipe holds, when it is due, until its stream ends."""
        way = self._ways[direction]
        while True:
            due, data = await pipe.get()
            if (early := due - self._loop.time()) > 0:
                await asyncio.sleep(early)
            await way.open.wait()
            if not data:
                break
            try:
                await self._forward(link, direction, data)
            except OSError:
                self._begin(self._drop(link, rst=True))
                return
        self._end(link, direction)

    async def _forward(self, link: _Link, direction: Direction, data: bytes) -> None:
        way, (_, target) = self._ways[direction], link.ends(direction)
        while data:
            await way.open.wait()
            if way.swallow:
                way.swallowed += len(data)
                self._notice()
                return
            armed = len(way.corrupt)
            piece, data = way.claim(data)
            await self._loop.sock_sendall(target, piece)
            way.forwarded += len(piece)
            self._tripped += armed - len(way.corrupt)
            self._notice()
            if way.claimed in way.traps:
                # In a task of its own: it may cancel this one.
                await asyncio.shield(self._begin(self._spring(way, link)))

    async def _spring(self, way: _Way, link: _Link) -> None:
        await way.traps.pop(way.claimed)(link)
        self._tripped += 1
        self._notice()

    def _end(self, link: _Link, direction: Direction) -> None:
        """Pass the end of a stream on; after both ends the link is gone."""
        link.ended.add(direction)
        if self._ways[direction].swallow:
            if direction == "down":  # a black hole does not tell that the server left
                return
        elif len(link.ended) < 2:
            with contextlib.suppress(OSError):
                link.ends(direction)[1].shutdown(socket.SHUT_WR)
            return
        self._begin(self._drop(link, rst=False))

    async def _drop(self, link: _Link | None, rst: bool) -> None:
        """Close a link, or all, on both sides."""
        links = [one for one in self._links if link in (one, None)]
        await _cancel([task for one in links for task in one.tasks])
        for one in links:
            for end in one.sockets:
                if rst:
                    with contextlib.suppress(OSError):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                end.close()
            if one in self._links:
                self._links.remove(one)
        self._notice()

    def _begin(self, steps: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run steps that may cancel the task that begins them."""
        task = self._loop.create_task(steps)
        self._faults.add(task)
        task.add_done_callback(self._faults.discard)
        return task


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
