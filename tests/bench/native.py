"""rabbitmq-c: compiled from ``rabbitmq_c.c`` where a compiler and librabbitmq are."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.bench.plan import SIZES, Job
from tests.bench.target import Target

__all__ = ["CannotCompile", "NativeWorker", "compile_native"]

_SOURCE = Path(__file__).with_name("rabbitmq_c.c")


class CannotCompile(Exception):
    """There is no compiler, or no librabbitmq; the text says which."""


def compile_native(folder: Path) -> Path:
    """Compile the program into a folder; return its path.

    :raises CannotCompile: this machine cannot.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CannotCompile("no C compiler (cc)")
    program = folder / "rabbitmq_c"
    done = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(_SOURCE), "-lrabbitmq"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip() or "cc failed").splitlines()[0]
        raise CannotCompile(f"librabbitmq does not compile (librabbitmq-dev): {reason}")
    return program


class NativeWorker:
    """Runs the program once a job; otherwise like ``runner.PythonWorker``."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._process: subprocess.Popen[str] | None = None

    def start(self, target: Target, job: Job) -> None:
        """Begin a job."""
        size = SIZES[job.size]
        at = (target.host, target.port, target.userid, target.password, target.vhost)
        what = (job.task, job.mode, size.bytes, int(size.json), job.count)
        self._process = subprocess.Popen(
            [str(word) for word in (self._program, *at, target.exchange, target.queue, *what)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self, timeout: float) -> dict[str, Any]:
        """Return the job's numbers, or an ``error``."""
        process = self._process
        assert process is not None
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.close()
            return {"error": f"no answer within {timeout:g} s"}
        if process.returncode:
            return {"error": err.strip() or f"exit status {process.returncode}"}
        answer: dict[str, Any] = json.loads(out)
        return answer

    def close(self) -> None:
        """End what still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
