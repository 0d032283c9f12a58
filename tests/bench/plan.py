"""What is measured: messages, clients, jobs. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = [
    "CLIENTS",
    "CONTENDERS",
    "PREFETCH",
    "SIZES",
    "WINDOW",
    "WINDOW_BYTES",
    "Contender",
    "Job",
    "Scale",
    "Size",
    "choose",
]

#: Unsettled messages that the broker sends ahead.
PREFETCH = 250
#: Unconfirmed messages of whoever confirms in a window; carrot's default.
WINDOW = 1000
WINDOW_BYTES = 16 * 1024 * 1024

#: 85 bytes as compact JSON.
_FEED = {
    "action": "import",
    "feed_url": "http://example.com/news/feed.atom",
    "id": 1234567890123,
}


@dataclass(frozen=True)
class Size:
    """One kind of message."""

    name: str
    bytes: int
    #: Published as a Python dictionary, rather than as bytes.
    json: bool = False

    def data(self) -> Any:
        """Return what is published."""
        return dict(_FEED) if self.json else b"x" * self.bytes

    def count(self, scale: Scale) -> int:
        """Return how many are published or consumed in one sample."""
        return max(8, min(scale.messages, scale.volume // self.bytes))


SIZES = {
    "16": Size("16 B", 16),
    "85": Size("85 B JSON", 85, json=True),
    "1k": Size("1 KiB", 1024),
    "64k": Size("64 KiB", 64 * 1024),
    "1m": Size("1 MiB", 1024 * 1024),
}


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    rounds: int
    #: Messages per sample, at most.
    messages: int
    #: Bytes per sample, about, at most.
    volume: int
    #: Seconds that a sample may take, about, where each publish waits.
    seconds: float
    #: Messages of one latency sample, at 100 a second.
    latency: int
    #: Rounds of what goes through the proxy, and of latency.
    slow_rounds: int

    @classmethod
    def full(cls) -> Scale:
        """For figures to quote: some 15 minutes."""
        return cls(5, 20_000, 64 * 1024 * 1024, 0.8, 500, 3)

    @classmethod
    def quick(cls) -> Scale:
        """For a look: less than 2 minutes."""
        return cls(3, 3_000, 16 * 1024 * 1024, 0.2, 80, 1)


@dataclass(frozen=True)
class Contender:
    """A client in one way of publishing.

    :param client: name in ``peers.CLIENTS``, or ``rabbitmq-c``.
    :param mode: ``plain`` (no confirms), ``each`` (every publish waits for
        its own), ``window`` (up to :data:`WINDOW` are outstanding).
    """

    client: str
    mode: str
    #: Consumes as well: once per client.
    consumes: bool = False
    #: Its latency is of interest as well: that of confirmed messages has the
    #: broker's disk in it, so that like is to be compared with like.
    paced: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        if self.client == "raw":
            return "raw socket (the broker's limit)"
        return f"{self.client}{_SUFFIX[self.client == 'carrot', self.mode]}"

    @property
    def who(self) -> tuple[str, str]:
        """Client and mode."""
        return self.client, self.mode

    @property
    def is_confirmed(self) -> bool:
        """Whether the broker confirms what it publishes."""
        return self.mode != "plain"

    @property
    def is_peer(self) -> bool:
        """Whether it is another Python client."""
        return self.client not in ("carrot", "rabbitmq-c", "raw")


_SUFFIX = {
    (True, "window"): "",  # the default
    (True, "plain"): ", confirm=False",
    (False, "plain"): "",
    (False, "each"): ", confirmed each",
    (False, "window"): ", confirmed in a window",
}

CONTENDERS = (
    Contender("carrot", "window", consumes=True, paced=True),
    Contender("carrot", "plain", paced=True),
    Contender("kombu", "plain", consumes=True, paced=True),
    Contender("kombu", "each", paced=True),
    Contender("kombu.compat", "plain", consumes=True, paced=True),
    Contender("pika", "plain", consumes=True, paced=True),
    Contender("pika", "each", paced=True),
    Contender("amqpstorm", "plain", consumes=True, paced=True),
    Contender("amqpstorm", "each"),
    Contender("py-amqp", "plain", consumes=True, paced=True),
    Contender("py-amqp", "each", paced=True),
    Contender("py-amqp", "window"),
    Contender("rabbitpy", "plain", consumes=True, paced=True),
    Contender("rabbitpy", "each"),
    Contender("rabbitmq-c", "plain", consumes=True, paced=True),
    Contender("rabbitmq-c", "window"),
    Contender("raw", "window"),
)
CLIENTS = tuple(dict.fromkeys(contender.client for contender in CONTENDERS))


def choose(only: list[str]) -> tuple[Contender, ...]:
    """Return the contenders of these clients; of all where none is named.

    :raises ValueError: there is no such client.
    """
    unknown = set(only) - set(CLIENTS)
    if unknown:
        raise ValueError(f"no such client: {', '.join(sorted(unknown))}; {', '.join(CLIENTS)}")
    return tuple(c for c in CONTENDERS if not only or c.client in only)


@dataclass(frozen=True)
class Job:
    """What a worker does once, and answers with numbers.

    :param task: ``publish`` and ``consume`` (timed as a whole); ``send`` (100
        a second, each saying when) and ``receive`` (how long each took).
    :param size: a key of :data:`SIZES`; ``send`` and ``receive`` ignore it.
    :param seconds: ``publish`` that waits for each confirm sends what fits into them.
    """

    task: str
    mode: str
    size: str
    count: int
    seconds: float = 0.0

    def asdict(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        return asdict(self)
