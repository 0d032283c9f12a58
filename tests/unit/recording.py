"""A connection whose backends write down how they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from carrot.backends import get_backend_cls
from carrot.backends.base import BaseBackend, BaseMessage
from carrot.confirms import Tracker

__all__ = ["Call", "RecordingBackend", "RecordingConnection"]

#: Method, positional arguments, keyword arguments.
Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class RecordingBackend(BaseBackend):
    """Does nothing, and remembers what it was asked to do."""

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        self.calls: list[Call] = []
        #: What methods return, by name.
        self.answers: dict[str, Any] = {}
        #: What ``get`` returns, one after the other.
        self.waiting: list[Any] = []
        if connection is not None:
            connection.backends.append(self)

    def _record(name: str) -> Callable[..., Any]:  # type: ignore[misc]
        def method(self: RecordingBackend, *args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answers.get(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return method

    queue_declare = _record("queue_declare")
    queue_purge = _record("queue_purge")
    exchange_declare = _record("exchange_declare")
    queue_bind = _record("queue_bind")
    declare_consumer = _record("declare_consumer")
    cancel = _record("cancel")
    ack = _record("ack")
    reject = _record("reject")
    requeue = _record("requeue")
    qos = _record("qos")
    flow = _record("flow")
    publish = _record("publish")
    close = _record("close")

    def get(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(("get", args, kwargs))
        return self.waiting.pop(0) if self.waiting else None

    def prepare_message(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(("prepare_message", args, kwargs))
        return BaseMessage(
            self,
            body=args[0],
            content_type=kwargs["content_type"],
            content_encoding=kwargs["content_encoding"],
        )

    def consume(self, limit: int | None = None) -> Iterator[Any]:
        self.calls.append(("consume", (), {"limit": limit}))
        yield from self.answers.get("consume", ())

    def called(self, *names: str) -> list[Call]:
        """Return the calls of these methods, in order."""
        return [call for call in self.calls if call[0] in names]

    @property
    def last(self) -> Call:
        """The latest call."""
        return self.calls[-1]


class ConfirmingBackend(RecordingBackend):
    """Announces publisher confirms and properties."""

    features = frozenset(["confirms", "properties"])
    tracker: Tracker | None = None

    def confirm_select(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def flush(self, timeout: float | None = None) -> None:
        self.calls.append(("flush", (timeout,), {}))


class RecordingConnection:
    """What messaging is handed: makes backends, and nothing else."""

    accept: Any = None

    def __init__(self, backend_cls: type[RecordingBackend] = RecordingBackend) -> None:
        self.backends: list[Any] = []
        self.backend_cls = backend_cls

    def __repr__(self) -> str:
        return "<connection>"

    def create_backend(self, backend_cls: Any = None) -> Any:
        return get_backend_cls(backend_cls or self.backend_cls)(connection=self)
