"""Where a RabbitMQ is to be had: installed, in a tree of another system, in Docker."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Docker", "Installed", "NoServer", "Place", "SameServer", "Tree", "find_place"]

#: Where Debian's package keeps the programs that any user may run; those on
#: the PATH of a Debian system insist on its one server and its one user.
_DEBIAN = Path("usr/lib/rabbitmq/bin")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NoServer(Exception):
    """This machine has no such RabbitMQ; the text says what would help."""


class SameServer(NoServer):
    """This RabbitMQ is the one that another parameter of the test uses."""


@dataclass(frozen=True)
class Place:
    """Something that runs RabbitMQ's programs."""

    #: ``(major, minor)``.
    version: tuple[int, int]
    #: Folder of the programs, as they see it.
    programs: str
    #: The address at which the server listens.
    listen = "127.0.0.1"

    def make_folder(self) -> Path:
        """Return a new empty folder that the server can write to."""
        return Path(tempfile.mkdtemp(prefix="carrot-rabbitmq-"))

    def inside(self, path: Path) -> str:
        """Return how the server calls this path."""
        return str(path)

    def environment(self, settings: dict[str, str]) -> dict[str, str]:
        """Return the environment to call :meth:`server` and :meth:`tool` in."""
        return {"PATH": f"{self.programs}:{_SYSTEM_PATH}", "LANG": "C.UTF-8", **settings}

    def server(
        self, command: list[str], settings: dict[str, str], folder: Path, ports: list[int]
    ) -> list[str]:
        """Return the command line that runs a server until it ends."""
        return command

    def tool(self, command: list[str], folder: Path) -> list[str]:
        """Return the command line that runs a tool beside the server of *folder*."""
        return command

    def end(self, folder: Path) -> list[str] | None:
        """Return what kills the server, where killing its process is not enough."""
        return None


class Installed(Place):
    """The RabbitMQ of this system."""

    def __str__(self) -> str:
        return f"RabbitMQ {self.version[0]}.{self.version[1]} of {self.programs}"


@dataclass(frozen=True)
class Tree(Place):
    """A RabbitMQ in the folder tree of another Linux system; needs root.

    The tree's /proc and /dev are mounted in a name space of the server's
    own, so that nothing is left to unmount, whatever becomes of the run. So
    is /etc/hosts: a server that finds this machine's name only by asking the
    network stands still, five seconds at a time, where nobody answers.
    """

    tree: Path

    _ENTER = (
        'mount --bind /proc "$0/proc" && mount --rbind /dev "$0/dev" || exit 1;'
        ' touch "$0/etc/hosts"; mount --bind /etc/hosts "$0/etc/hosts" || exit 1;'
        ' exec chroot "$0" "$@"'
    )

    def __str__(self) -> str:
        return f"RabbitMQ {self.version[0]}.{self.version[1]} in {self.tree}"

    def make_folder(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="carrot-rabbitmq-", dir=self.tree / "tmp"))

    def inside(self, path: Path) -> str:
        return "/" + str(path.relative_to(self.tree))

    def server(
        self, command: list[str], settings: dict[str, str], folder: Path, ports: list[int]
    ) -> list[str]:
        return self.tool(command, folder)

    def tool(self, command: list[str], folder: Path) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", self._ENTER, str(self.tree), *command]


@dataclass(frozen=True)
class Docker(Place):
    """A RabbitMQ image of Docker's library, run as the calling user."""

    image: str
    listen = "0.0.0.0"  # of the container; only 127.0.0.1 is published

    def __str__(self) -> str:
        return f"Docker image {self.image}"

    def environment(self, settings: dict[str, str]) -> dict[str, str]:
        return dict(os.environ)

    def server(
        self, command: list[str], settings: dict[str, str], folder: Path, ports: list[int]
    ) -> list[str]:
        variables = [f"--env={name}={value}" for name, value in settings.items()]
        published = [f"--publish=127.0.0.1:{port}:{port}" for port in ports]
        return [
            *("docker", "run", "--rm", f"--name={folder.name}", "--hostname=localhost"),
            *(f"--user={os.getuid()}:{os.getgid()}", f"--volume={folder}:{folder}"),
            *(*variables, *published, f"--entrypoint={command[0]}", self.image, *command[1:]),
        ]

    def tool(self, command: list[str], folder: Path) -> list[str]:
        return ["docker", "exec", "--interactive", folder.name, *command]

    def end(self, folder: Path) -> list[str] | None:
        return ["docker", "kill", folder.name]


def find_place(which: str) -> Place:
    """Return where to run a server from.

    :param which: ``"distribution"`` or ``"4.0"``.
    :raises NoServer: it is nowhere.
    """
    system = _installed()
    if which == "distribution":
        if system is None:
            return _docker("rabbitmq:3.10", "no rabbitmq-server is installed")
        return system
    tree = os.environ.get("CARROT_RABBITMQ40_TREE", "") or "~/.cache/carrot/debian13"
    found = _in_tree(Path(tree).expanduser())
    if found is not None:
        return found
    if system is not None and system.version[0] >= 4:
        return system
    return _docker("rabbitmq:4.0", f"no RabbitMQ in {tree} (CARROT_RABBITMQ40_TREE)")


@functools.cache
def _installed() -> Installed | None:
    on_path = shutil.which("rabbitmq-server", path=os.environ.get("PATH", "") + ":/usr/sbin")
    programs = "/" / _DEBIAN
    if not (programs / "rabbitmq-server").exists():
        if on_path is None:
            return None
        programs = Path(on_path).resolve().parent
    return Installed(_version(programs), str(programs))


@functools.cache
def _in_tree(tree: Path) -> Tree | None:
    programs = tree / _DEBIAN
    if not (programs / "rabbitmq-server").exists() or os.geteuid() != 0:
        return None
    return Tree(_version(programs), f"/{_DEBIAN}", tree.resolve())


def _version(programs: Path) -> tuple[int, int]:
    """Read the version off the folder's name, ``rabbitmq_server-3.10.8``."""
    home = str((programs / "rabbitmq-server").resolve())
    match = re.search(r"rabbitmq_server-(\d+)\.(\d+)|/(\d+)\.(\d+)\.\d+/", home)
    if match is None:
        return (0, 0)
    major, minor = (int(number) for number in match.groups() if number is not None)
    return (major, minor)


@functools.cache
def _docker(image: str, otherwise: str) -> Docker:
    # Asks for the image, and with that whether there is an engine; a test run
    # is no time to load it.
    try:
        subprocess.run(
            ["docker", "image", "inspect", image], check=True, capture_output=True, timeout=15
        )
    except (OSError, subprocess.SubprocessError):
        raise NoServer(
            f"{otherwise}, and Docker has no image {image}: docker pull it"
        ) from None
    major, minor = image.split(":")[1].split(".")
    return Docker((int(major), int(minor)), "", image)
