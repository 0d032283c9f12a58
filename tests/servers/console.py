"""Erlang expressions, evaluated on a server in a millisecond each."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Mapping
from typing import IO

__all__ = ["Console", "command"]

#: Evaluates on the node what it reads, a line at a time, and prints what came
#: of it. The two meet anew for each, as the server may have been away; the
#: node chooses the name of this side.
_PROGRAM = """
    ok = io:setopts([{encoding, unicode}]),
    Evaluate = fun(Text) ->
        {ok, Tokens, _} = erl_scan:string(Text),
        {ok, Expressions} = erl_parse:parse_exprs(Tokens),
        net_kernel:connect_node('NODE'),
        {value, Value, _} = rpc:call('NODE', erl_eval, exprs, [Expressions, []], 60000),
        Value
    end,
    Loop = fun(Again, Line) ->
        (Line =:= eof orelse Line =:= "\\n") andalso halt(0),
        try Evaluate(Line) of
            Value -> io:format("~n=ok ~0tp~n", [Value])
        catch
            _:Reason -> io:format("~n=error ~0tp~n", [Reason])
        end,
        Again(Again, io:get_line(""))
    end,
    Loop(Loop, io:get_line("")).
"""


def command(node: str, cookie: str) -> list[str]:
    """Return the command line of the program that a :class:`Console` talks to."""
    program = _PROGRAM.replace("NODE", node)
    return ["erl", "-noshell", "-sname", "undefined", "-setcookie", cookie, "-eval", program]


class Console:
    """A conversation with a server's Erlang node. Threads may share it.

    :param command: what :func:`command` gave, as it is run where the server is.
    :param environment: for it.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._command = command
        # No dump where the run is killed, and nobody is there to be answered.
        self._environment = {**environment, "ERL_CRASH_DUMP_SECONDS": "0"}
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def eval(self, erlang: str) -> str:
        """Return the value of an Erlang expression as text.

        :raises RuntimeError: it has none, or the server is down.
        """
        said = []
        with self._lock:
            for line in self._answers(f"{erlang}.\n"):
                kind, _, value = line.rstrip("\n").partition(" ")
                if kind == "=ok":
                    return value
                said.append(line)
                if kind == "=error":
                    break
        raise RuntimeError(f"{erlang}: {''.join(said).strip()}")

    def close(self) -> None:
        """End the conversation."""
        with self._lock:
            self._end()

    def _answers(self, orders: str) -> IO[str]:
        # In a container it ends when the server does.
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is not meant for it
            )
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(orders)
            self._process.stdin.flush()
        return self._process.stdout

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            # Said, not only shown by the end of the pipe: a process that a
            # test forked may hold the pipe open.
            process.communicate("\n", timeout=20.0)
