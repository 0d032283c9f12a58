"""The command line: ``python -m carrot``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from carrot import __version__, demo
from carrot.exceptions import CarrotError, ConfigurationError

__all__ = ["main"]

#: Exit codes: the broker failed; the command line is wrong; Ctrl-C.
FAILED, MISUSED, INTERRUPTED = 1, 2, 130

_DEMO = """\
Tell the feed story: a publisher sends messages as JSON, YAML, pickle and a raw
picture; a consumer receives them with callbacks and acknowledges them; one more
message is polled with fetch(). Without --url it needs no server."""

_EXAMPLES = """\
examples:
  python -m carrot demo
  python -m carrot demo --url amqp://guest:guest@localhost
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code.

    :param arguments: without the name of the program; ``None``: ``sys.argv``.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    # What the library logs beside its errors would be said twice here.
    logging.getLogger("carrot").addHandler(logging.NullHandler())
    try:
        demo.main(options.url)
    except ConfigurationError as exc:
        return _complain(exc, MISUSED)
    except CarrotError as exc:
        return _complain(exc, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m carrot",
        description="Carrot: messaging for Python, in memory and on RabbitMQ.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"carrot {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    command = commands.add_parser(
        "demo",
        help="tell the feed story on a broker, printing what happens",
        description=_DEMO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--url",
        default="memory://",
        help="of the broker, as in amqp://user:password@host:5672/vhost"
        " (default: %(default)s, a broker inside this process)",
    )
    return parser


def _complain(error: Exception, code: int) -> int:
    print(f"carrot: {error}", file=sys.stderr)
    return code
