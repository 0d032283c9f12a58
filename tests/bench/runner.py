"""Let the clients take turns, and collect the samples."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from tests.bench.native import CannotCompile, NativeWorker, compile_native
from tests.bench.plan import SIZES, Contender, Job, Scale
from tests.bench.target import Control, Target
from tests.proxy import Proxy

__all__ = ["FAR", "NEAR", "Progress", "PythonWorker", "Runner", "Sample", "Step", "steps"]

#: The two distances of the broker.
NEAR, FAR = "near", "far"
#: Seconds that a packet takes each way to the far broker.
DELAY = 0.01
#: Seconds that any one job may take.
PATIENCE = 120.0


@dataclass(frozen=True)
class Step:
    """One sample to take.

    :param task: ``publish``, ``consume`` or ``latency``.
    """

    round: int
    task: str
    size: str
    link: str
    contender: Contender

    def __str__(self) -> str:
        what = f"{self.task} {SIZES[self.size].name}" if self.task != "latency" else self.task
        return f"round {self.round + 1}, {self.link}: {what}"


@dataclass(frozen=True)
class Sample:
    """The numbers of a step."""

    round: int
    task: str
    size: str
    link: str
    client: str
    mode: str
    numbers: dict[str, Any]

    def asdict(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        return asdict(self)


def steps(scale: Scale, sizes: list[str], contenders: tuple[Contender, ...]) -> Iterator[Step]:
    """Yield all steps in an order that lets everybody take turns."""
    small = "85" if "85" in sizes else sizes[0]
    for number in range(scale.rounds):
        # Nobody is always the first, or always after the same one.
        turn = number * 5 % len(contenders)
        order = contenders[turn:] + contenders[:turn]
        for size in sizes:
            for contender in order:
                if contender.mode != "each" or size == small:
                    yield Step(number, "publish", size, NEAR, contender)
            for contender in order:
                if contender.consumes:
                    yield Step(number, "consume", size, NEAR, contender)
        if number >= scale.slow_rounds:
            continue
        for link in (NEAR, FAR):
            for contender in order:
                if link == FAR:
                    yield Step(number, "publish", small, link, contender)
                if link == FAR and contender.consumes:
                    yield Step(number, "consume", small, link, contender)
                if contender.paced:
                    yield Step(number, "latency", small, link, contender)


class PythonWorker:
    """A process that one client runs in; see :mod:`tests.bench.worker`."""

    def __init__(self, client: str) -> None:
        self._client = client
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._log: Any = None

    def start(self, target: Target, job: Job) -> None:
        """Begin a job."""
        if self._process is None:
            self._launch()
        assert self._process is not None and self._process.stdin is not None
        order = json.dumps({"target": asdict(target), "job": job.asdict()})
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()

    def result(self, timeout: float) -> dict[str, Any]:
        """Return the job's numbers, or an ``error``, or what is ``missing``."""
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            line = json.dumps(
                {"error": f"no answer within {timeout:g} s\n{self._complaints()}"}
            )
            self.close()
        if not line:
            line = json.dumps({"error": f"its process died\n{self._complaints()}"})
            self.close()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.kill()
        process.wait()
        self._reader.join()
        with contextlib.suppress(OSError):  # what was on its way to a dead process
            process.stdin.close()
        self._log.close()

    def _launch(self) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.worker", self._client],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._answers = queue.SimpleQueue()
        self._reader = threading.Thread(
            target=_read, args=(self._process.stdout, self._answers), daemon=True
        )
        self._reader.start()

    def _complaints(self) -> str:
        self._log.seek(0)
        return str(self._log.read()[-2000:])


def _read(source: TextIO, answers: queue.SimpleQueue[str]) -> None:
    with source:
        for line in source:
            answers.put(line)
    answers.put("")  # the end


class Progress:
    """Says how far it is: a bar on a terminal, lines elsewhere."""

    _WIDTH = 28

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total, self._stream = total, stream
        self._done, self._last = 0, ""
        self._bar = stream.isatty()
        self._began = time.monotonic()

    def step(self, step: Step) -> None:
        """A step begins."""
        text = str(step)
        if self._bar:
            filled = self._WIDTH * self._done // self._total
            bar = "#" * filled + "." * (self._WIDTH - filled)
            line = f"[{bar}] {self._done}/{self._total} {text}, {step.contender.name}"
            self._stream.write(f"\r\x1b[K{line[:100]}")
        elif text != self._last:
            elapsed = time.monotonic() - self._began
            self._stream.write(f"{elapsed:5.0f} s  {self._done}/{self._total}  {text}\n")
        self._stream.flush()
        self._done, self._last = self._done + 1, text

    def end(self) -> None:
        """All steps are done."""
        if self._bar:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


class Runner:
    """Takes the samples.

    :param far: the target behind a proxy that delays, for steps at a distance.
    """

    def __init__(self, target: Target, scale: Scale, folder: Path) -> None:
        self.target = target
        self.scale = scale
        self.samples: list[Sample] = []
        #: Contender's name -> why there are no figures, or not all.
        self.failures: dict[str, str] = {}
        self._control = Control(target)
        self._workers: dict[tuple[str, str], PythonWorker | NativeWorker] = {}
        self._folder = folder
        self._program: Path | None = None
        self._proxy: Proxy | None = None

    @property
    def server(self) -> str:
        """Name and version of the broker."""
        return self._control.server

    def run(self, todo: list[Step], progress: Progress) -> None:
        """Take the samples of all steps, in order."""
        missing: set[str] = set()
        for step in todo:
            progress.step(step)
            if step.contender.client in missing:
                continue
            try:
                numbers = self._take(step)
            except CannotCompile as reason:
                numbers = {"missing": str(reason)}
            if "missing" in numbers:
                missing.add(step.contender.client)
                self.failures[step.contender.client] = f"not installed: {numbers['missing']}"
            elif "error" in numbers:
                self.failures[f"{step.contender.name}, {step}"] = numbers["error"]
            else:
                contender = step.contender
                self.samples.append(
                    Sample(
                        *(step.round, step.task, step.size, step.link),
                        *(contender.client, contender.mode, numbers),
                    )
                )
        progress.end()

    def close(self) -> None:
        """End the workers, and delete the queue."""
        for worker in self._workers.values():
            worker.close()
        if self._proxy is not None:
            self._proxy.close()
        self._control.close()

    def _take(self, step: Step) -> dict[str, Any]:
        size = SIZES[step.size]
        if step.task == "latency":
            return self._latency(step)
        count = size.count(self.scale)
        if step.task == "publish":
            self._control.empty()
        else:
            self._control.fill(size, count)
        worker = self._worker(step.contender.client, "first")
        mode, seconds = step.contender.mode, self.scale.seconds
        worker.start(self._at(step), Job(step.task, mode, step.size, count, seconds))
        return worker.result(PATIENCE)

    def _latency(self, step: Step) -> dict[str, Any]:
        client, mode, count = step.contender.client, step.contender.mode, self.scale.latency
        self._control.empty()
        receiver, sender = self._worker(client, "first"), self._worker(client, "second")
        receiver.start(self._at(step), Job("receive", mode, step.size, count))
        deadline = time.monotonic() + PATIENCE / 8
        # Only once it listens does the time of a message mean anything.
        while not self._control.consumers() and time.monotonic() < deadline:
            time.sleep(0.01)
        sender.start(self._at(step), Job("send", mode, step.size, count))
        sent = sender.result(PATIENCE)
        if "count" not in sent:
            receiver.close()
            return sent
        return receiver.result(PATIENCE)

    def _at(self, step: Step) -> Target:
        if step.link == NEAR:
            return self.target
        if self._proxy is None:
            self._proxy = Proxy(self.target.host, self.target.port)
            self._proxy.delay(DELAY)
        return self.target.through(self._proxy.port)

    def _worker(self, client: str, role: str) -> PythonWorker | NativeWorker:
        if (client, role) not in self._workers:
            if client == "rabbitmq-c":
                self._program = self._program or compile_native(self._folder)
                self._workers[client, role] = NativeWorker(self._program)
            else:
                self._workers[client, role] = PythonWorker(client)
        return self._workers[client, role]
