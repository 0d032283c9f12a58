"""A virtual host of a test's own, and what a test may ask of its server."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from tests.servers.certificates import Certificates
from tests.servers.server import Server

__all__ = ["VirtualHost"]

_numbers = itertools.count(1)

#: The Erlang term that a queue is known by.
_QUEUE = "rabbit_misc:r({vhost}, queue, {queue})"
_CONNECTIONS = (
    "[P || P <- rabbit_networking:connections(),"
    # A connection may be gone before it is asked.
    " (catch rabbit_networking:connection_info(P, [vhost])) =:= [{{vhost, {vhost}}}]]"
)


class VirtualHost:
    """A virtual host on a server that other tests share.

    Questions and commands are about this virtual host only, but for
    :meth:`blocked` and :meth:`ctl`.
    """

    def __init__(self, server: Server) -> None:
        server.start()  # a test before may have left it down
        self.server = server
        #: Name of the virtual host.
        self.vhost = f"test-{os.getpid()}-{next(_numbers)}"
        self.userid, self.password = server.userid, server.password
        self._users: list[str] = []
        self._policies = 0
        self.eval(f"rabbit_vhost:add({binary(self.vhost)}, <<>>)")
        self._permit(self.userid, ".*", ".*", ".*")

    def __repr__(self) -> str:
        return f"<{self.vhost} of {self.server!r}>"

    # -- where it is

    @property
    def host(self) -> str:
        """The server's address, ``127.0.0.1``; its certificate is valid for it."""
        return self.server.host

    @property
    def port(self) -> int:
        """Port for plain connections."""
        return self.server.port

    @property
    def tls_port(self) -> int:
        """Port for TLS connections, with a certificate that is in order."""
        return self.server.tls_port

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version, as in ``(3, 10, 8)``."""
        return tuple(int(number) for number in re.findall(r"\d+", self.server.version)[:3])

    @property
    def certificates(self) -> Certificates:
        """The files for TLS: the authority, a client's certificate, bad ones."""
        return self.server.certificates

    @property
    def url(self) -> str:
        """Broker URL of the virtual host."""
        return self.url_at(self.host, self.port)

    @property
    def tls_url(self) -> str:
        """Broker URL of the virtual host over TLS."""
        return self.url_at("localhost", self.tls_port, "amqps")

    @property
    def conninfo(self) -> dict[str, Any]:
        """Keyword arguments for a connection to the virtual host."""
        return {
            "hostname": self.host,
            "port": self.port,
            "userid": self.userid,
            "password": self.password,
            "virtual_host": self.vhost,
        }

    def url_at(self, host: str, port: int, scheme: str = "amqp") -> str:
        """Return the URL by which the virtual host is reached at another address."""
        vhost = quote(self.vhost, safe="")
        return f"{scheme}://{self.userid}:{self.password}@{host}:{port}/{vhost}"

    def tls_port_of(self, name: str) -> int:
        """Return the port at which the server presents another certificate.

        :param name: ``"expired"``, ``"wrong_host"``, ``"self_signed"``; or
            ``"mutual"``: the good one, where clients must show one as well.
        """
        return self.server.tls_port_of(name)

    @contextlib.contextmanager
    def another(self) -> Iterator[VirtualHost]:
        """Lend one more virtual host of the same server, for the ``with`` block (30 ms)."""
        with contextlib.closing(VirtualHost(self.server)) as vhost:
            yield vhost

    # -- the server

    def eval(self, erlang: str) -> str:
        """Run an Erlang expression on the server; return its value as text."""
        return self.server.eval(erlang)

    def ctl(self, *args: str) -> str:
        """Run ``rabbitmqctl``; return what it prints (takes half a second)."""
        return self.server.ctl(*args)

    def stop(self) -> None:
        """Shut the server down in good order (1 s)."""
        self.server.stop()

    def start(self) -> None:
        """Start the server and wait until it takes connections (5 s)."""
        self.server.start()

    def kill(self) -> None:
        """Kill the server with signal 9."""
        self.server.kill()

    def restart(self) -> None:
        """Stop the server in good order and start it again."""
        self.server.restart()

    @contextlib.contextmanager
    def blocked(self) -> Iterator[None]:
        """Raise the memory alarm: the server sends ``connection.blocked`` to publishers."""
        alarm = "{resource_limit, memory, node()}"
        self.eval(f"rabbit_alarm:set_alarm({{{alarm}, []}})")
        try:
            yield
        finally:
            self.eval(f"rabbit_alarm:clear_alarm({alarm})")

    # -- queues

    def messages(self, queue: str) -> tuple[int, int]:
        """Return how many messages of a queue are ready, and how many unacknowledged."""
        ready, unacknowledged = self._queue_info(
            queue, "messages_ready, messages_unacknowledged"
        )
        return ready, unacknowledged

    def consumers(self, queue: str) -> int:
        """Return how many consumers a queue has."""
        return self._queue_info(queue, "consumers")[0]

    def queues(self) -> list[str]:
        """Return the names of all queues."""
        answer = self.eval(
            f"[binary_to_list(element(4, amqqueue:get_name(Q)))"
            f" || Q <- rabbit_amqqueue:list({binary(self.vhost)})]"
        )
        return re.findall(r'"([^"]*)"', answer)

    def exchanges(self) -> list[str]:
        """Return the names of the exchanges that were declared."""
        answer = self.eval(
            f"[binary_to_list(element(4, element(2, X)))"
            f" || X <- rabbit_exchange:list({binary(self.vhost)})]"
        )
        names = re.findall(r'"([^"]*)"', answer)
        return [name for name in names if name and not name.startswith("amq.")]

    def delete_queue(self, queue: str) -> None:
        """Delete a queue behind its consumers' back; the server cancels them."""
        name = _QUEUE.format(vhost=binary(self.vhost), queue=binary(queue))
        self.eval(
            f"rabbit_amqqueue:with({name}, fun(Q) ->"
            " rabbit_amqqueue:delete(Q, false, false, <<>>) end)"
        )

    def set_policy(self, pattern: str, apply_to: str = "queues", **definition: Any) -> None:
        """Set a policy; it ends with the virtual host.

        :param pattern: regular expression of the names that it is for.
        :param definition: as in ``max_length=10``, underscores for hyphens.
        """
        self._policies += 1
        keys = json.dumps({key.replace("_", "-"): value for key, value in definition.items()})
        self._expect_ok(
            f'rabbit_policy:parse_set({binary(self.vhost)}, <<"policy-{self._policies}">>,'
            f" {binary(pattern)}, {binary(keys)}, 0, {binary(apply_to)}, <<>>)"
        )

    # -- users and connections

    def add_user(
        self,
        name: str,
        password: str,
        configure: str = ".*",
        write: str = ".*",
        read: str = ".*",
    ) -> None:
        """Make a user with permissions for this virtual host; it ends with the test."""
        self._expect_ok(
            f"rabbit_auth_backend_internal:add_user({binary(name)}, {binary(password)}, <<>>)"
        )
        self._users.append(name)
        self._permit(name, configure, write, read)

    def connection_count(self) -> int:
        """Return how many connections the virtual host has."""
        return int(self.eval(f"length({self._connections})"))

    def close_connections(self, reason: str = "closed by the test") -> None:
        """Have the server close all connections of the virtual host (320)."""
        self.eval(
            f'[rabbit_networking:close_connection(P, "{reason}") || P <- {self._connections}]'
        )

    def close(self) -> None:
        """Remove the virtual host, its connections and users; heal the server."""
        self.server.start()
        for name in self._users:
            self.eval(f"rabbit_auth_backend_internal:delete_user({binary(name)}, <<>>)")
        self.eval(f"rabbit_vhost:delete({binary(self.vhost)}, <<>>)")

    # -- inside

    @property
    def _connections(self) -> str:
        return _CONNECTIONS.format(vhost=binary(self.vhost))

    def _queue_info(self, queue: str, items: str) -> list[int]:
        name = _QUEUE.format(vhost=binary(self.vhost), queue=binary(queue))
        answer = self.eval(
            f"case rabbit_amqqueue:lookup({name}) of {{ok, Q}} ->"
            # A tuple: small numbers in a list would be shown as the text they spell.
            f" list_to_tuple([V || {{_, V}} <- rabbit_amqqueue:info(Q, [{items}])]);"
            " _ -> missing end"
        )
        if answer == "missing":
            raise LookupError(f"no queue {queue!r} in {self!r}")
        return [int(number) for number in re.findall(r"\d+", answer)]

    def _permit(self, user: str, configure: str, write: str, read: str) -> None:
        rights = ", ".join(binary(pattern) for pattern in (configure, write, read))
        self._expect_ok(
            "rabbit_auth_backend_internal:set_permissions("
            f"{binary(user)}, {binary(self.vhost)}, {rights}, <<>>)"
        )

    def _expect_ok(self, erlang: str) -> None:
        answer = self.eval(erlang)
        if answer != "ok":
            raise RuntimeError(f"{erlang}: {answer}")


def binary(text: str) -> str:
    """Return the Erlang binary of a text."""
    return f"<<{','.join(str(byte) for byte in text.encode())}>>"
