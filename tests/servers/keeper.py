"""A process that cleans up after the test run, however that ends.

It lives in a session of its own, so that Ctrl-C does not reach it, and reads
what there is to undo from a pipe. When the pipe ends (the run closed it, or
was killed) it kills, runs and removes what is still on its list.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

__all__ = ["Keeper"]


class Keeper:
    """The test run's end of the pipe. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def remember(self, kind: str, what: int | str | list[str]) -> None:
        """Undo this at the end.

        :param kind: ``"group"`` (kill a process group), ``"command"`` (run it)
            or ``"folder"`` (remove it), undone in this order.
        """
        self._tell("remember", kind, what)

    def forget(self, kind: str, what: int | str | list[str]) -> None:
        """This is undone already."""
        self._tell("forget", kind, what)

    def close(self, timeout: float = 20.0) -> None:
        """Have everything undone that is still remembered; wait for it."""
        # Said, not only shown by the end of the pipe: a process that a test
        # forked may hold the pipe open.
        self._tell("end")
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout)

    def _tell(self, *words: object) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()


def keep(orders: TextIO) -> None:
    """Read orders until they end, then undo what they named."""
    undo: dict[str, list[object]] = {"group": [], "command": [], "folder": []}
    for line in orders:
        verb, *rest = json.loads(line)
        if verb == "end":
            break
        kind, what = rest
        if verb == "remember":
            undo[kind].append(what)
        elif what in undo[kind]:
            undo[kind].remove(what)
    for group in undo["group"]:
        _kill_group(int(str(group)))
    for command in undo["command"]:
        assert isinstance(command, list)
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for folder in undo["folder"]:
        _remove(Path(str(folder)))


def _kill_group(group: int, timeout: float = 2.0) -> None:
    deadline = time.monotonic() + timeout
    try:
        os.killpg(group, signal.SIGKILL)
        while time.monotonic() < deadline:  # until its parent has noticed
            os.killpg(group, 0)
            time.sleep(0.02)
    except (ProcessLookupError, PermissionError):
        pass


def _remove(folder: Path, timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while folder.exists():  # a process that is just dying may still write
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    keep(sys.stdin)
