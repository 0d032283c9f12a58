"""How the tests' own servers are found, started and, above all, cleaned up after."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import places
from tests.servers.certificates import make_certificates
from tests.servers.keeper import Keeper
from tests.servers.places import Docker, Installed, NoServer, Tree, find_place
from tests.servers.server import port_of, reserve_ports
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent


def sleeper() -> subprocess.Popen[bytes]:
    """Start a process that would outlive the tests."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True)


def test_keeper_undoes_what_is_left(tmp_path: Path) -> None:
    """At its end the keeper kills, runs and removes what is still remembered."""
    keeper = Keeper()
    process, folder = sleeper(), tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    keeper.remember("group", process.pid)
    keeper.remember("command", ["touch", str(tmp_path / "ran")])
    keeper.remember("folder", str(folder))
    keeper.close()
    assert process.wait(10) == -signal.SIGKILL
    assert (tmp_path / "ran").exists()
    assert not folder.exists()


def test_keeper_leaves_what_was_forgotten(tmp_path: Path) -> None:
    """What is undone already is not undone again."""
    keeper = Keeper()
    keeper.remember("folder", str(tmp_path))
    keeper.forget("folder", str(tmp_path))
    keeper.close()
    assert tmp_path.exists()


def test_keeper_outlives_a_killed_run(tmp_path: Path) -> None:
    """When the test run is killed with signal 9 the keeper cleans up all the same."""
    program = (
        "import sys, os, subprocess; from tests.servers.keeper import Keeper; k = Keeper();"
        "p = subprocess.Popen(['sleep', '600'], start_new_session=True);"
        "k.remember('group', p.pid); k.remember('folder', sys.argv[1]); print(p.pid);"
        "sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.returncode == -signal.SIGKILL
    wait_until(lambda: not folder.exists())
    assert state_of(int(run.stdout)) in ("", "Z")


def state_of(process: int) -> str:
    """Return the letter for a process's state, nothing if there is none."""
    answer = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], stdout=subprocess.PIPE, text=True
    )
    return answer.stdout[:1]


def test_reserved_ports_are_for_servers() -> None:
    """A reserved port refuses connections, and only who listens as servers do gets it."""
    with contextlib.ExitStack() as stack:
        ports = [port_of(stack.enter_context(keeper)) for keeper in reserve_ports(5)]
        assert len(set(ports)) == 5
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            with socket.socket() as other, pytest.raises(OSError):
                other.bind(("127.0.0.1", port))
            socket.create_server(("127.0.0.1", port)).close()


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No RabbitMQ on this machine, and a folder for programs that are found first."""
    monkeypatch.setenv("CARROT_RABBITMQ40_TREE", str(tmp_path / "tree"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(places, "_installed", lambda: None)
    for found in (places._docker, places._in_tree):
        found.cache_clear()
    return tmp_path


def program(path: Path, lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("which", ["distribution", "4.0"])
def test_no_server(nothing_installed: Path, which: str) -> None:
    """Where no server can be had, the reason says what is missing."""
    program(nothing_installed / "docker", "exit 1")
    with pytest.raises(NoServer, match="Docker"):
        find_place(which)


@pytest.mark.parametrize(("which", "image"), [("distribution", "3.10"), ("4.0", "4.0")])
def test_docker(nothing_installed: Path, which: str, image: str) -> None:
    """Docker is the fallback where its engine answers and has the image."""
    program(nothing_installed / "docker", "exit 0")
    place = find_place(which)
    assert isinstance(place, Docker)
    assert place.image == f"rabbitmq:{image}"


def test_installed_4_is_4(nothing_installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the distribution has RabbitMQ 4 no tree is needed."""
    system = Installed((4, 1), "/usr/lib/rabbitmq/bin")
    monkeypatch.setattr(places, "_installed", lambda: system)
    assert find_place("4.0") is find_place("distribution") is system


@pytest.mark.skipif(os.geteuid() != 0, reason="only root enters a tree")
def test_tree(nothing_installed: Path) -> None:
    """The tree that the environment names is entered, its version read off its folders."""
    home = nothing_installed / "tree/usr/lib/rabbitmq/lib/rabbitmq_server-4.0.5/sbin"
    program(home / "rabbitmq-server", "")
    programs = nothing_installed / "tree/usr/lib/rabbitmq/bin"
    programs.mkdir()
    (programs / "rabbitmq-server").symlink_to(home / "rabbitmq-server")
    place = find_place("4.0")
    assert isinstance(place, Tree)
    assert place.version == (4, 0)
    assert place.inside(place.tree / "tmp" / "x") == "/tmp/x"


def test_certificates(tmp_path: Path) -> None:
    """Every certificate has its two files."""
    certificates = make_certificates(tmp_path)
    assert all(one.cert.exists() and one.key.exists() for one in vars(certificates).values())
