"""The contract of serialization, as far as it travels over a broker."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from carrot import serialization
from carrot.exceptions import ContentDisallowed, DecodeError, SerializationError
from carrot.testing.contract.scene import Scene

_DATA: dict[str, Any] = {
    "text": "ö日本 \U0001f955",
    "list": [1, -2.5, None, True, [], {}],
    "table": {"nested": {"deep": "er"}},
}

#: Data, serializer, content type, content encoding.
_TABLE = [
    (b"\x00\xff raw", None, "application/data", "binary"),
    ("häuser", None, "text/plain", "utf-8"),
    ("häuser", "raw", "application/data", "utf-8"),
    (b"\x00\xff raw", "raw", "application/data", "binary"),
    (_DATA, None, "application/json", "utf-8"),
    (_DATA, "json", "application/json", "utf-8"),
    (_DATA, "yaml", "application/x-yaml", "utf-8"),
    (_DATA, "pickle", "application/x-python-serialize", "binary"),
    (_DATA, "msgpack", "application/x-msgpack", "binary"),
]


class SerializingContract(Scene):
    """What is sent is what is received, under the content type that says how."""

    def sent(self, data: Any, accept: Any = None, **options: Any) -> Any:
        """Send data to a queue of its own, and return the message that arrives."""
        consumer = self.consumer(accept=accept)
        self.put(consumer.queue, data, **options)
        return self.fetched(consumer, no_ack=True)

    @pytest.mark.parametrize(("data", "serializer", "content_type", "encoding"), _TABLE)
    def test_each_serializer_has_its_content_type(
        self, data: Any, serializer: str | None, content_type: str, encoding: str
    ) -> None:
        """Each serializer announces its content type and encoding, and the data come back."""
        if serializer == "msgpack":
            pytest.importorskip("msgpack")
        accept = [serializer] if serializer == "pickle" else None
        message = self.sent(data, accept=accept, serializer=serializer)
        assert (message.content_type, message.content_encoding) == (content_type, encoding)
        assert message.payload == data
        assert type(message.payload) is type(data)

    def test_pickle_carries_what_others_cannot(self) -> None:
        """Pickle carries any Python data, to those who accept it."""
        data = {"when": uuid.UUID(int=5), "set": {1, 2}, "tuple": (1, b"\x00")}
        assert self.sent(data, accept=["pickle"], serializer="pickle").payload == data

    def test_pickle_is_protocol_2(self) -> None:
        """Pickles are of protocol 2, which Python 2 peers read."""
        assert self.sent([1], serializer="pickle").body[:2] == b"\x80\x02"

    def test_pickle_is_refused_unless_accepted(self) -> None:
        """A pickle is not decoded where nobody accepts it; the error names the switch."""
        message = self.sent([1], serializer="pickle")
        for switch in ("accept=", "carrot.serialization.accept", "CARROT_ACCEPT_CONTENT"):
            with pytest.raises(ContentDisallowed) as caught:
                message.decode()
            assert switch in str(caught.value)
        registry = serialization.registry
        assert registry.decode(message.body, message.content_type, "binary") == [1]

    def test_accept_is_the_exact_list(self) -> None:
        """``accept`` decodes what it names, by serializer or content type, and nothing else."""
        assert self.sent([1], accept=["application/x-yaml"], serializer="yaml").payload == [1]
        message = self.sent([1], accept=["yaml"], serializer="json")
        with pytest.raises(ContentDisallowed, match="json"):
            _ = message.payload

    def test_msgpack_labelled_utf8_decodes(self) -> None:
        """A msgpack body labelled ``utf-8``, as carrot 0.10.7 wrote it, decodes."""
        msgpack = pytest.importorskip("msgpack")
        message = self.sent(
            msgpack.packb({"a": 1}),
            content_type="application/x-msgpack",
            content_encoding="utf-8",
        )
        assert message.content_encoding == "utf-8"
        assert message.payload == {"a": 1}

    def test_an_unknown_content_type_returns_what_came(self) -> None:
        """A body of unknown content type is text where it has a charset, else bytes."""
        assert self.sent("text", content_type="text/x-unknown").payload == "text"
        assert self.sent(b"\xff", content_type="image/x-unknown").payload == b"\xff"
        latin = self.sent("ö", content_type="text/x-unknown", content_encoding="iso-8859-1")
        assert latin.payload == "ö"

    @pytest.mark.parametrize(
        ("body", "content_type", "encoding"),
        [
            (b"{not json", "application/json", "utf-8"),
            (b'"\xff\xfe"', "application/json", "utf-8"),
            (b"[" * 100_000, "application/json", "utf-8"),
            (b"\xff\xfe", "text/plain", "utf-8"),
            (b"text", "text/plain", "no-such-charset"),
            (b"a: [", "application/x-yaml", "utf-8"),
            (b"!!python/object:os.system {}", "application/x-yaml", "utf-8"),
        ],
    )
    def test_what_cannot_be_decoded_is_one_error(
        self, body: bytes, content_type: str, encoding: str
    ) -> None:
        """Whatever is wrong with a body, ``payload`` raises ``DecodeError``, and only that."""
        message = self.sent(body, content_type=content_type, content_encoding=encoding)
        with pytest.raises(DecodeError) as caught:
            _ = message.payload
        assert caught.value.content_type == content_type
        assert caught.value.content_encoding == encoding
        assert caught.value.body == body
        assert len(str(caught.value)) < 1000

    def test_own_serializers_travel(self) -> None:
        """A serializer that the application registered decodes without ``accept``."""
        registry = serialization.registry
        name = self.name("serializer")
        content_type = f"application/x-{name}"
        registry.register(name, _reversed, _reversed, content_type, "utf-8")
        try:
            message = self.sent("stressed", serializer=name)
            assert message.content_type == content_type
            assert message.body == b"desserts"
            assert message.payload == "stressed"
        finally:
            registry.unregister(name)
        with pytest.raises(SerializationError):
            self.sent("stressed", serializer=name)


def _reversed(data: str) -> str:
    return data[::-1]
