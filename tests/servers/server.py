"""One private RabbitMQ server: its settings, its process, its life and death."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time

from tests.servers.certificates import Certificates, make_certificates
from tests.servers.console import Console, command
from tests.servers.keeper import Keeper
from tests.servers.places import Place

__all__ = ["Server", "port_of", "reserve_ports"]

#: The longest that a server may take to start or stop, seconds.
PATIENCE = 90.0
_COOKIE = "carrot"
#: epmd is the Erlang nodes' port mapper. Each server has one of its own, in
#: its own process group, so that no other server's is asked or left behind.
_RUN = 'epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 & exec rabbitmq-server'

_CONFIGURATION = """\
listeners.tcp.1 = {listen}:{port}
listeners.ssl.1 = {listen}:{tls_port}
ssl_options.cacertfile = {inside}/ca.pem
ssl_options.certfile = {inside}/server.pem
ssl_options.keyfile = {inside}/server.key
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
loopback_users = none
log.console = false
log.file = rabbit.log
vm_memory_high_watermark.absolute = 4GB
disk_free_limit.absolute = 1MB
collect_statistics = none
"""


class Server:
    """A RabbitMQ server on free ports, its files in a folder of its own.

    :param place: where RabbitMQ is run from.
    :param keeper: ends the server when the test run cannot.
    :param settings: further lines of ``rabbitmq.conf``.
    """

    host = "127.0.0.1"
    userid = password = "guest"

    def __init__(self, place: Place, keeper: Keeper, settings: str = "") -> None:
        self.place = place
        self._keeper = keeper
        self._process: subprocess.Popen[bytes] | None = None
        self._reserved = reserve_ports(8)
        self.port, self.tls_port, self._dist_port, self._epmd_port, *spare = map(
            port_of, self._reserved
        )
        #: Certificate's name -> port of the TLS listener that presents it.
        self.tls_ports = {"server": self.tls_port}
        self._spare_ports = spare
        self.folder = place.make_folder()
        keeper.remember("folder", str(self.folder))
        self.node = f"carrot-{self.port}@localhost"
        self.certificates: Certificates = make_certificates(self.folder)
        self._environment = self._configure(settings)
        self._console = Console(
            place.tool(command(self.node, _COOKIE), self.folder),
            place.environment(self._environment),
        )
        self.version = ""

    def __repr__(self) -> str:
        state = "running" if self.running else "down"
        return f"<RabbitMQ {self.version or self.place.version} on port {self.port} {state}>"

    # -- life

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server; return when it takes connections (some 5 s)."""
        if self.running:
            return
        ports = [self.port, self.tls_port, *self._spare_ports]
        with open(self.folder / "output", "ab") as output:
            self._process = subprocess.Popen(
                self.place.server(["sh", "-c", _RUN], self._environment, self.folder, ports),
                env=self.place.environment(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._keeper.remember("group", self._process.pid)
        if command := self.place.end(self.folder):
            self._keeper.remember("command", command)
        self._wait_started()
        self.version = self.version or self.eval("rabbit_misc:version()").strip('"')
        for name, port in self.tls_ports.items():
            if port != self.tls_port:
                self._listen_tls(name, port)

    def stop(self) -> None:
        """Shut the server down in good order; return when its process is gone."""
        if self._process is not None and self.running:
            self.eval("init:stop()")
            self._process.wait(PATIENCE)
        self._gone()

    def kill(self) -> None:
        """Kill the server with signal 9; return when its process is gone.

        Declarations are on disk before: Mnesia writes them some time after
        RabbitMQ has answered, and a queue that is forgotten takes confirmed
        messages with it.
        """
        if self.running:
            self.eval("mnesia:sync_log()")
        self._gone()

    def restart(self) -> None:
        """Stop the server in good order and start it again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the server and remove its files."""
        self._gone()
        self._console.close()
        for keeper in self._reserved:
            keeper.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- talk

    def eval(self, erlang: str) -> str:
        """Run an Erlang expression on the server; return its value as text."""
        try:
            return self._console.eval(erlang)
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self.log_tail()}") from None

    def ctl(self, *args: str) -> str:
        """Run ``rabbitmqctl``; return what it prints (takes half a second)."""
        return self._run(["rabbitmqctl", "-q", *args])

    def tls_port_of(self, name: str) -> int:
        """Return the port of a listener that presents this certificate.

        :param name: an attribute of :class:`~tests.servers.certificates.Certificates`,
            or ``"mutual"``: the good certificate, and clients must show one too.
        """
        if name not in self.tls_ports:
            port = self._spare_ports[len(self.tls_ports) - 1]
            self._listen_tls(name, port)
            self.tls_ports[name] = port
        return self.tls_ports[name]

    def log_tail(self, length: int = 3000) -> str:
        """Return the end of what the server printed and logged."""
        files = [self.folder / "output", self.folder / "log" / "rabbit.log"]
        return "\n".join(
            f"--- {path}\n{path.read_text(errors='replace')[-length:]}"
            for path in files
            if path.exists()
        )

    # -- inside

    def _configure(self, settings: str) -> dict[str, str]:
        """Write the server's files; return its environment."""
        inside = self.place.inside(self.folder)
        home = self.folder / "home"
        home.mkdir()
        cookie = home / ".erlang.cookie"
        cookie.write_text(_COOKIE)
        cookie.chmod(0o400)
        (self.folder / "env.conf").write_text("")
        (self.folder / "plugins").write_text("[].")
        (self.folder / "rabbitmq.conf").write_text(
            _CONFIGURATION.format(
                listen=self.place.listen,
                port=self.port,
                tls_port=self.tls_port,
                inside=inside,
            )
            + settings
        )
        return {
            "HOME": f"{inside}/home",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": f"{inside}/env.conf",
            "RABBITMQ_CONFIG_FILE": f"{inside}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{inside}/plugins",
            "RABBITMQ_MNESIA_BASE": f"{inside}/data",
            "RABBITMQ_LOG_BASE": f"{inside}/log",
            "RABBITMQ_PID_FILE": f"{inside}/pid",
            "RABBITMQ_SCHEMA_DIR": f"{inside}/schema",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{inside}/schema",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
            # Makes RabbitMQ's script become the Erlang machine, instead of
            # waiting for it, so that a signal reaches the server itself.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _wait_started(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            # The listeners open last, after recovery of queues and messages.
            for port in (self.port, self.tls_port):
                with contextlib.suppress(OSError):
                    socket.create_connection((self.host, port), 1.0).close()
                    continue
                break
            else:
                with contextlib.suppress(RuntimeError):
                    if self.eval("rabbit:is_running()") == "true":
                        return
            if not self.running or time.monotonic() > deadline:
                tail = self.log_tail()
                self._gone()
                raise RuntimeError(f"{self.place} does not start\n{tail}")
            time.sleep(0.05)

    def _gone(self) -> None:
        """See to it that nothing of the server runs."""
        process, self._process = self._process, None
        if process is None:
            return
        if command := self.place.end(self.folder):
            subprocess.run(command, capture_output=True)
            self._keeper.forget("command", command)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
        self._keeper.forget("group", process.pid)

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            self.place.tool(command, self.folder),
            env=self.place.environment(self._environment),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def _listen_tls(self, name: str, port: int) -> None:
        mutual = "true" if name == "mutual" else "false"
        certificate = "server" if name == "mutual" else name
        inside = self.place.inside(self.folder)
        options = ", ".join(
            [
                f'{{cacertfile, "{inside}/ca.pem"}}',
                f'{{certfile, "{inside}/{certificate}.pem"}}',
                f'{{keyfile, "{inside}/{certificate}.key"}}',
                f"{{verify, verify_peer}}, {{fail_if_no_peer_cert, {mutual}}}",
            ]
        )
        listener = f'{{"{self.place.listen}", {port}, inet}}'
        answer = self.eval(f"rabbit_networking:start_ssl_listener({listener}, [{options}], 1)")
        if answer != "ok":
            raise RuntimeError(f"no TLS listener at port {port}: {answer}")


def reserve_ports(count: int) -> list[socket.socket]:
    """Return sockets, each of which keeps a port that nobody uses from everyone but servers.

    Other runs look for ports, too, also while a server is down. The sockets
    do not listen: a port can still be listened on with SO_REUSEADDR, as
    servers do, and until then it refuses connections. The ports lie below the
    range from which systems take the near ends of outgoing connections.
    """
    reserved: list[socket.socket] = []
    while len(reserved) < count:
        port = random.SystemRandom().randrange(20000, 32000)
        keeper = socket.socket()
        try:
            keeper.bind(("127.0.0.1", port))
        except OSError:
            keeper.close()
        else:
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.append(keeper)
    return reserved


def port_of(reserved: socket.socket) -> int:
    """Return the port that a socket reserves."""
    port: int = reserved.getsockname()[1]
    return port
