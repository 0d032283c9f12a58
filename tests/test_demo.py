"""The command line, and the story that ``python -m carrot demo`` tells."""

from __future__ import annotations

import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator

import pytest

from carrot import __version__, cli, demo
from carrot.backends import queue
from tests.documentation import ROOT
from tests.servers.vhost import VirtualHost

STORY = """\
Accepted: json, yaml, pickle; pickle only because we say so

One message, polled:
  send()   json    http://example.com/news.rss
  fetch()  application/json: http://example.com/news.rss
  ack()
  fetch()  None, the queue is empty

Four messages, through callbacks:
  send()   json    http://example.com/music.rss
  send()   yaml    http://example.com/weather.rss, since 2009-07-14
  send()   pickle  http://example.com/sports.rss, tags {'tennis'}
  send()   raw     a picture of 8 x 8 pixels
  flush()  the broker has confirmed them
  Got feed import message for: http://example.com/music.rss
  Got feed import message for: http://example.com/weather.rss, since 2009-07-14
  Got feed import message for: http://example.com/sports.rss, tags {'tennis'}
  Got a picture of 8 x 8 pixels
  ack()    each; the broker forgets them
"""


@pytest.fixture(autouse=True)
def _empty_broker() -> Iterator[None]:
    queue.reset()
    yield
    queue.reset()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "carrot", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
    )


def test_story_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo needs no server, says which broker it used, and tells the story."""
    assert cli.main(["demo"]) == 0
    broker, _, story = capsys.readouterr().out.partition("\n")
    assert broker == "Broker:   memory://localhost//"
    assert story == STORY


def test_story_on_rabbitmq(rabbitmq: VirtualHost, capsys: pytest.CaptureFixture[str]) -> None:
    """On RabbitMQ the demo prints the same but for the broker, twice in a row."""
    for _ in range(2):
        assert cli.main(["demo", "--url", rabbitmq.url]) == 0
        broker, _, story = capsys.readouterr().out.partition("\n")
        assert broker.startswith(f"Broker:   amqp://guest@{rabbitmq.host}:{rabbitmq.port}/")
        assert story == STORY


def test_story_leaves_nothing_behind(rabbitmq_newest: VirtualHost) -> None:
    """The demo's queue and exchange are gone when it ends."""
    assert cli.main(["demo", "--url", rabbitmq_newest.url]) == 0
    vhost = rabbitmq_newest.vhost
    assert "carrot-demo" not in rabbitmq_newest.ctl("list_queues", "-q", "-p", vhost)
    assert "carrot-demo" not in rabbitmq_newest.ctl("list_exchanges", "-q", "-p", vhost)


def test_stories_do_not_mix(rabbitmq_newest: VirtualHost) -> None:
    """Demos that run at the same time get their own messages, each all of them."""
    codes: list[int] = []

    def tell() -> None:
        codes.append(cli.main(["demo", "--url", rabbitmq_newest.url]))

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == [0, 0, 0, 0]


def test_program() -> None:
    """``python -m carrot demo`` prints the story and nothing else."""
    done = run("demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(STORY)


def test_no_broker_there() -> None:
    """Where no broker answers, the demo says so in one line, and exits with 1."""
    done = run("demo", "--url", "amqp://guest:secret@localhost:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("carrot: cannot connect to localhost:1")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


def test_wrong_password(rabbitmq_newest: VirtualHost) -> None:
    """A refused password is one line, without the password, and exit code 1."""
    url = rabbitmq_newest.url.replace(":guest@", ":secret@")
    done = run("demo", "--url", url)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("htp://localhost", "unknown scheme 'htp'"),
        ("amqp://guest:guest@localhost:http", "the port after a host is not a number"),
        ("localhost", "needs userid and password"),
        ("memory://localhost?color=orange", "unknown parameter 'color'"),
    ],
)
def test_wrong_url(url: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL that cannot be is one line that names the wrong part, and exit code 2."""
    assert cli.main(["demo", "--url", url]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert reason in said.err
    assert said.err.count("\n") == 1


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends the demo without a traceback, with the shell's exit code for it."""

    def interrupt(url: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "main", interrupt)
    assert cli.main(["demo"]) == 130


def test_without_a_command() -> None:
    """``python -m carrot`` alone shows the help."""
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m carrot demo --url amqp://" in done.stdout


def test_version() -> None:
    """``--version`` prints name and version."""
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"carrot {__version__}\n")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """``demo --help`` says what a URL looks like and what the default is."""
    with pytest.raises(SystemExit) as exit:
        cli.main(["demo", "--help"])
    assert exit.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "amqp://user:password@host:5672/vhost" in said
    assert "default: memory://" in said


def test_picture() -> None:
    """The demo's picture is a PNG file that a viewer would show."""
    body = demo.picture(3)
    assert body.startswith(b"\x89PNG\r\n\x1a\n")
    start = body.index(b"IDAT") + 4
    size = int.from_bytes(body[start - 8 : start - 4], "big")
    assert zlib.decompress(body[start : start + size]) == (b"\0" + b"\xff\x80\x20" * 3) * 3
    assert body[start + size :][:4] == zlib.crc32(body[start - 4 : start + size]).to_bytes(
        4, "big"
    )
