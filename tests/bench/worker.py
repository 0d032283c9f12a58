"""The process that one client runs in.

``python -m tests.bench.worker CLIENT``: reads lines of JSON, a target and a
job each, and answers each with a line of JSON.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from typing import Any, TextIO

from tests.bench.client import Client
from tests.bench.peers import connect
from tests.bench.plan import SIZES, Job, Size
from tests.bench.target import Target

__all__ = ["PACE", "SKIPPED", "do", "serve"]

#: Seconds between the messages of ``send``.
PACE = 0.01
#: The first messages of ``receive``, which are not counted.
SKIPPED = 10
#: What ``send`` sends: the time, in bytes.
_CLOCK = Size("clock", 32)


def do(client_name: str, target: Target, job: Job) -> dict[str, Any]:
    """Do a job on a new connection; return its numbers.

    ``publish`` and ``consume``: ``count`` messages took ``cpu`` seconds of
    this process, all threads, user and system, in ``wall`` seconds.
    ``receive``: ``seconds`` of each message from sending to receiving.

    :raises ModuleNotFoundError: the client is not installed.
    """
    size = SIZES[job.size] if job.task in ("publish", "consume") else _CLOCK
    client = connect(client_name, target, job.mode, size)
    try:
        if job.task == "publish":
            return _publish(client, size.data(), job)
        if job.task == "consume":
            return _timed(lambda: client.consume(job.count), job.count)
        if job.task == "send":
            return _send(client, job.count)
        return _receive(client, job.count)
    finally:
        client.close()


def _publish(client: Client, data: Any, job: Job) -> dict[str, Any]:
    def publish(count: int) -> dict[str, Any]:
        def run() -> None:
            client.publish(data, count)
            client.settle()

        return _timed(run, count)

    # Warm up; who waits for each confirm may be too slow for so many.
    publish(4)
    warm = publish(max(4, min(job.count // 20, 100)) if job.mode != "each" else 8)
    if job.mode == "each":
        return publish(max(8, min(job.count, int(job.seconds * _rate(warm)))))
    return publish(job.count)


def _rate(sample: dict[str, Any]) -> float:
    return float(sample["count"] / sample["wall"])


def _timed(run: Any, count: int) -> dict[str, Any]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"count": count, "cpu": cpu, "wall": wall}


def _send(client: Client, count: int) -> dict[str, Any]:
    due = time.monotonic()
    for _ in range(count):
        due += PACE
        time.sleep(max(0.0, due - time.monotonic()))
        # The clock is the same in all processes of the machine.
        client.publish(b"%d" % time.monotonic_ns(), 1)
    client.settle()
    return {"count": count}


def _receive(client: Client, count: int) -> dict[str, Any]:
    seconds: list[float] = []

    def seen(data: Any) -> None:
        seconds.append((time.monotonic_ns() - int(data)) / 1e9)

    client.consume(count, seen)
    return {"count": count, "seconds": seconds[SKIPPED:]}


def serve(client_name: str, orders: TextIO, answers: TextIO) -> None:
    """Do jobs until there are no more orders."""
    for line in orders:
        order = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = do(client_name, Target(**order["target"]), Job(**order["job"]))
        except ModuleNotFoundError as error:
            answer = {"missing": str(error)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    # Whatever a client prints must not stand between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, answers)
