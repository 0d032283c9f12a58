"""The fixtures that :mod:`tests.servers` describes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.proxy import Proxy
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.keeper import Keeper
from tests.servers.places import NoServer, Place, SameServer, find_place
from tests.servers.server import Server
from tests.servers.vhost import VirtualHost
from tests.waiting import wait_until

#: What a 4.3 server refuses, refused by 4.0 when told so.
STRICT = """\
deprecated_features.permit.transient_nonexcl_queues = false
deprecated_features.permit.global_qos = false
"""

_BOTH = ["distribution", "4.0"]


class Servers:
    """The servers of one run: each started once, in the background."""

    def __init__(self) -> None:
        self._started: dict[str, Future[Server]] = {}
        self._all: list[Server] = []
        self._threads = ThreadPoolExecutor(max_workers=4)
        self._keeper: Keeper | None = None

    def start(self, which: str) -> Future[Server]:
        """Begin to start a server, unless that is done.

        :param which: ``"distribution"``, ``"4.0"``, ``"newest"`` (the first
            of 4.0 and distribution that can be had) or ``"strict"``.
        """
        if which not in self._started:
            self._keeper = self._keeper or Keeper()
            if which == "newest":
                self._started[which] = self.start(self._newest())
            else:
                self._started[which] = self._threads.submit(self._start, which, self._keeper)
        return self._started[which]

    def close(self) -> None:
        """Kill the servers and remove their files."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for server in self._all:
            server.close()
        if self._keeper is not None:
            self._keeper.close()

    def _newest(self) -> str:
        place = _place_or_none("4.0")
        return "distribution" if place in (None, _place_or_none("distribution")) else "4.0"

    def _start(self, which: str, keeper: Keeper) -> Server:
        place = find_place("4.0" if which == "strict" else which)
        if which == "4.0" and place == _place_or_none("distribution"):
            raise SameServer(f"the distribution's server is {place} already")
        server = Server(place, keeper, STRICT if which == "strict" else "")
        self._all.append(server)
        server.start()
        return server


_servers = pytest.StashKey[Servers]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-servers",
        action="store_true",
        help="leave out the tests that need a RabbitMQ server",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.no_servers:
        alone = [item for item in items if not any(_asked_for(item))]
        config.hook.pytest_deselected(items=[item for item in items if any(_asked_for(item))])
        items[:] = alone


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_servers] = Servers()


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_servers].close()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the servers that the chosen tests will ask for, all at once."""
    if session.config.option.collectonly:
        return
    for item in session.items:
        for which in _asked_for(item):
            session.config.stash[_servers].start(which)


def _asked_for(item: pytest.Item) -> Iterator[str]:
    callspec = getattr(item, "callspec", None)
    parameters = {} if callspec is None else callspec.params
    for name in getattr(item, "fixturenames", ()):
        if name in ("rabbitmq", "rabbitmq_of_class"):
            yield parameters[name]
        elif name == "every_rabbitmq":
            yield from _BOTH
        elif name in ("rabbitmq_newest", "rabbitmq_newest_of_class"):
            yield "newest"
        elif name == "rabbitmq_strict":
            yield "strict"


def _virtual_host(config: pytest.Config, which: str) -> VirtualHost:
    servers = config.stash[_servers]
    try:
        return VirtualHost(servers.start(which).result())
    except SameServer as error:
        pytest.skip(str(error))
    except NoServer as error:
        if _must_have():
            pytest.fail(str(error))
        pytest.skip(str(error))


def _shared_virtual_host(config: pytest.Config, which: str) -> Iterator[VirtualHost]:
    """Yield a virtual host; at the end nothing may be left in it."""
    with contextlib.closing(_virtual_host(config, which)) as vhost:
        yield vhost
        # What goes by itself, as exclusive queues do, may take a moment.
        wait_until(lambda: vhost.connection_count() == 0, what="all connections are closed")
        wait_until(lambda: vhost.queues() == [], what="all queues are deleted")
        wait_until(lambda: vhost.exchanges() == [], what="all exchanges are deleted")


def _must_have() -> bool:
    """Tell whether the lack of a server is a failure."""
    if _is_set("CARROT_REQUIRE_SERVERS"):
        return True
    return _is_set("CI") and not any(_place_or_none(other) for other in _BOTH)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() not in ("", "0", "false", "no")


def _place_or_none(which: str) -> Place | None:
    try:
        return find_place(which)
    except NoServer:
        return None


@pytest.fixture(params=_BOTH)
def rabbitmq(request: pytest.FixtureRequest) -> Iterator[VirtualHost]:
    """A virtual host on each of the servers in turn."""
    with contextlib.closing(_virtual_host(request.config, request.param)) as vhost:
        yield vhost


@pytest.fixture
def every_rabbitmq(request: pytest.FixtureRequest) -> Iterator[list[VirtualHost]]:
    """A virtual host on each of the servers, for what had better not wait in turn."""
    with contextlib.ExitStack() as stack:
        hosts = []
        for which in _BOTH:
            with contextlib.suppress(pytest.skip.Exception):
                host = _virtual_host(request.config, which)
                hosts.append(stack.enter_context(contextlib.closing(host)))
        if not hosts:
            pytest.skip("there is no RabbitMQ")
        yield hosts


@pytest.fixture
def rabbitmq_newest(request: pytest.FixtureRequest) -> Iterator[VirtualHost]:
    """A virtual host on the newest server that can be had."""
    with contextlib.closing(_virtual_host(request.config, "newest")) as vhost:
        yield vhost


@pytest.fixture(scope="class", params=_BOTH)
def rabbitmq_of_class(request: pytest.FixtureRequest) -> Iterator[VirtualHost]:
    """A virtual host on each of the servers in turn, for all tests of a class."""
    yield from _shared_virtual_host(request.config, request.param)


@pytest.fixture(scope="class")
def rabbitmq_newest_of_class(request: pytest.FixtureRequest) -> Iterator[VirtualHost]:
    """A virtual host on the newest server that can be had, for all tests of a class."""
    yield from _shared_virtual_host(request.config, "newest")


@pytest.fixture
def rabbitmq_strict(request: pytest.FixtureRequest) -> Iterator[VirtualHost]:
    """A virtual host on a 4.0 that refuses what 4.3 refuses."""
    with contextlib.closing(_virtual_host(request.config, "strict")) as vhost:
        yield vhost


@pytest.fixture
def proxy() -> Iterator[Callable[[VirtualHost], Proxy]]:
    """Make TCP proxies, closed after the test: ``proxy(rabbitmq)``."""
    with contextlib.ExitStack() as stack:

        def make(target: VirtualHost) -> Proxy:
            return stack.enter_context(
                Proxy(target.host, target.port, lambda host, port: target.url_at(host, port))
            )

        yield make


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for a TLS server of the test's own."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))
