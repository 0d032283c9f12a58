"""The socket: connected within a deadline, then never blocking.

Python gives a socket with a timeout an extra ``poll`` for each call, so the
timeout is zero here and whoever must wait polls by itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import ssl as ssl_module
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import amqp.transport

from carrot.backends.pyamqplib.tls import TLS

__all__ = ["TLSTransport", "Transport"]

#: Bytes to ask of the kernel at once: usually, and where that was too little.
#: A large buffer that stays nearly empty costs 12 us (measured on Linux), one
#: that is filled saves a third of what a body of a megabyte costs.
_LITTLE = 64 * 1024
_MUCH = 1024 * 1024
#: Bytes of a block that is taken and freed, once, before much is received: glibc
#: then keeps about twice as many freed bytes for the next message. It would give
#: the pages back and fault them in anew, which can cost more than the receiving.
_PRECEDENT = 16 * 1024 * 1024
#: What OpenSSL returns at most, a record.
_RECORD = 16 * 1024

#: Receiving so much suggests that there is more: try again before polling.
_PLENTY = 4096

#: Options of TCP, where the system has them. The ``amqp`` package would set
#: TCP_USER_TIMEOUT to one second, which ends links that are merely full, and
#: would pin down the receive window.
_TCP_OPTIONS = {"TCP_NODELAY": 1, "TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 9}


@functools.cache
def _keep_freed_memory() -> None:
    """Have the C library keep the memory of large blocks that are freed (mallopt(3))."""
    with contextlib.suppress(MemoryError):  # then keeping is not the worry
        bytes(_PRECEDENT)


class Transport(amqp.transport.TCPTransport):  # type: ignore[misc]
    """A TCP link.

    :param host: ``host:port``.
    :param connect_timeout: seconds in which :meth:`connect` has to succeed.
    """

    #: Whether :meth:`receive` may have something although the socket looks idle.
    eager = False

    _ask = _LITTLE

    def __init__(self, host: str, connect_timeout: float | None = None, **kwargs: Any) -> None:
        super().__init__(host, connect_timeout=connect_timeout, **kwargs)
        self._process = os.getpid()
        self._deadline = monotonic() + (30.0 if connect_timeout is None else connect_timeout)

    # -- connecting; called by connect() of the base class

    def _connect(self, host: str, port: int, timeout: float | None) -> None:
        # The resolver has time limits of its own, which nobody can shorten.
        addresses = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            left = self._left()
            sock = socket.socket(family, kind, protocol)
            try:
                # Leave time for the addresses that follow.
                sock.settimeout(left / (len(addresses) - index))
                sock.connect(address)
            except OSError:
                sock.close()
                if index == len(addresses) - 1:
                    raise
            else:
                self.sock: Any = sock
                return

    def _init_socket(self, *settings: Any) -> None:
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _TCP_OPTIONS.items():
            option = getattr(socket, name, None)
            if option is not None:
                self.sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self._setup_transport()
        # The only write before the peer's first: the buffer is empty.
        self.send(amqp.transport.AMQP_PROTOCOL_HEADER)

    def _setup_transport(self) -> None:
        self.send = self.sock.send
        self._raw_receive = self.sock.recv

    def _left(self) -> float:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    # -- moving bytes

    #: Send what the kernel takes now; return how many bytes that were. Raises
    #: one of :attr:`full` if that is none, other errors if the link is broken.
    send: Callable[[Any], int]
    full: tuple[type[OSError], ...] = (BlockingIOError,)

    def send_pieces(self, pieces: list[Any]) -> int:
        """Send several pieces as :attr:`send` does one."""
        # Without copying; the kernel takes so many at once (IOV_MAX).
        sent: int = self.sock.sendmsg(pieces[:1024])
        return sent

    def receive(self) -> bytes | None:
        """Return what has arrived; ``None`` if nothing has.

        :raises OSError: the link is broken, or the peer closed it.
        """
        try:
            data: bytes = self._raw_receive(self._ask)
        except BlockingIOError:
            self.eager = False
            return None
        if not data:
            raise ConnectionResetError("the broker closed the connection")
        self.eager = len(data) >= _PLENTY
        if len(data) < _LITTLE:
            self._ask = _LITTLE
        elif self._ask == _LITTLE:
            _keep_freed_memory()
            self._ask = _MUCH
        return data

    def join_writes(self, joined: bool) -> None:
        """Have the kernel join small writes while earlier ones are on their way (Nagle).

        Turning it off sends what was kept at once.
        """
        if self.sock is not None:
            with contextlib.suppress(OSError):  # whoever writes next will know
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, not joined)

    # -- ending

    def sever(self) -> None:
        """End the link at once, from any thread; whoever polls it wakes up."""
        if self.sock is not None and self._process == os.getpid():
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        self.abandon()

    close = sever

    def abandon(self) -> None:
        """Drop this process's hold of the socket without a byte or a FIN.

        For the child of a fork: the parent goes on using the link. (With TLS
        no goodbye is said either: closing the socket only drops its state.)
        """
        self.connected = False
        if self.sock is not None:
            self.sock.close()


class TLSTransport(Transport):
    """A TLS link over TCP.

    :param ssl: how to verify the peer and who we are.
    """

    eager = True
    full = (ssl_module.SSLWantWriteError, ssl_module.SSLWantReadError)

    def __init__(self, host: str, ssl: TLS, **kwargs: Any) -> None:
        super().__init__(host, **kwargs)
        self._tls = ssl
        # OpenSSL's objects must not be used by two threads at once.
        self._lock = threading.Lock()

    def _setup_transport(self) -> None:
        self.sock = self._tls.wrap(self.sock, self.host)
        self._raw_send, self._raw_receive = self.sock.send, self.sock.recv
        self.send = self._locked_send
        while True:
            try:
                self.sock.do_handshake()
                return
            except ssl_module.SSLWantReadError:
                self._wait(select.POLLIN)
            except ssl_module.SSLWantWriteError:
                self._wait(select.POLLOUT)

    def _wait(self, event: int) -> None:
        poller = select.poll()
        poller.register(self.sock, event)
        poller.poll(self._left() * 1000)

    def _locked_send(self, data: Any) -> int:
        with self._lock:
            sent: int = self._raw_send(data)
            return sent

    def send_pieces(self, pieces: list[Any]) -> int:
        # OpenSSL takes a record at a time.
        data, sent = memoryview(b"".join(pieces)), 0
        with contextlib.suppress(*self.full):
            while sent < len(data):
                sent += self.send(data[sent:])
        if not sent:
            raise ssl_module.SSLWantWriteError
        return sent

    def receive(self) -> bytes | None:
        # A record holds 16 KiB at most; empty OpenSSL's buffer, which no
        # poll sees.
        chunks: list[bytes] = []
        size = 0
        while size < _MUCH:
            try:
                with self._lock:
                    data = self._raw_receive(_RECORD)
            except self.full:
                break
            except OSError:
                if chunks:
                    break  # it will be raised again
                raise
            if not data:
                if chunks:
                    break
                raise ConnectionResetError("the broker closed the connection")
            chunks.append(data)
            size += len(data)
        if size >= _LITTLE:
            _keep_freed_memory()
        return b"".join(chunks) if chunks else None

    def sever(self) -> None:
        if self._process != os.getpid():
            self.abandon()  # nobody here releases a lock that was held
            return
        with self._lock:
            super().sever()

    close = sever
