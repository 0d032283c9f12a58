"""Serializers by name and content type, what may be decoded, and what is said when not."""

from __future__ import annotations

import datetime
import pickle
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carrot import serialization
from carrot.exceptions import (
    ConfigurationError,
    DecodeError,
    EncodeError,
    SerializerNotInstalled,
)
from carrot.serialization import SerializerRegistry, builtin

JSON, YAML = "application/json", "application/x-yaml"
PICKLE, MSGPACK = "application/x-python-serialize", "application/x-msgpack"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> SerializerRegistry:
    """Return a registry of the test's own, untouched by the environment."""
    monkeypatch.delenv("CARROT_ACCEPT_CONTENT", raising=False)
    fresh = SerializerRegistry()
    builtin.register_json(fresh)
    builtin.register_yaml(fresh)
    builtin.register_pickle(fresh)
    builtin.register_msgpack(fresh)
    fresh._set_default_serializer("json")
    return fresh


FEED = {"import_feed": "http://cnn.com/rss/edition.rss", "größe": [1, 2.5, None, True]}


@pytest.mark.parametrize(
    ("data", "serializer", "content_type", "content_encoding"),
    [
        (b"\xff\x00", None, "application/data", "binary"),
        (bytearray(b"\xff\x00"), None, "application/data", "binary"),
        (memoryview(b"\xff\x00"), None, "application/data", "binary"),
        ("größe", None, "text/plain", "utf-8"),
        ("größe", "", "text/plain", "utf-8"),
        ("größe", "raw", "application/data", "utf-8"),
        (b"\xff\x00", "raw", "application/data", "binary"),
        (FEED, None, JSON, "utf-8"),
        (FEED, "json", JSON, "utf-8"),
        ("größe", "json", JSON, "utf-8"),
        (None, None, JSON, "utf-8"),
        (FEED, "yaml", YAML, "utf-8"),
        (b"\xff\x00", "yaml", YAML, "utf-8"),
        (FEED, "pickle", PICKLE, "binary"),
        (b"\xff\x00", "pickle", PICKLE, "binary"),
        (FEED, "msgpack", MSGPACK, "binary"),
        (b"\xff\x00", "msgpack", MSGPACK, "binary"),
    ],
)
def test_the_table(
    data: Any, serializer: str | None, content_type: str, content_encoding: str
) -> None:
    """Each kind of data goes out under its content type and comes back as it was."""
    found = serialization.encode(data, serializer)
    assert found[:2] == (content_type, content_encoding)
    assert type(found[2]) is bytes
    assert serialization.decode(found[2], content_type, content_encoding) == data


def test_pickles_are_for_python_2_too() -> None:
    """Pickle writes protocol 2, which Python 2 reads."""
    assert serialization.encode(FEED, "pickle")[2] == pickle.dumps(FEED, 2)


@pytest.mark.parametrize(
    ("body", "content_type", "content_encoding", "data"),
    [
        ("é".encode(), None, None, "é"),
        ("é".encode(), "", "", "é"),
        ("é".encode("latin-1"), "text/plain", "Latin-1", "é"),
        (b"\xff", "image/png", "binary", b"\xff"),
        (b"\xff", "image/png", "ASCII-8bit", b"\xff"),
        (b"<a/>", "text/xml", None, "<a/>"),
        ("already text", "text/plain", "utf-8", "already text"),
        (bytearray(b"[1]"), JSON, "utf-8", [1]),
        (memoryview(b"\xff"), None, "binary", b"\xff"),
        ("[1]", JSON, "utf-8", [1]),
        (b"[1]", JSON, "binary", [1]),
        (b"[1]", JSON, None, [1]),
        (b"[1]", JSON, "UTF8", [1]),
        (b"[1]", " Application/JSON ", "UTF-8", [1]),
        (b"[1]", "application/json; charset=utf-8", None, [1]),
        (b'["\xe9"]', 'application/json; v=1; charset="latin-1"', None, ["é"]),
        (b'["\xe9"]', "application/json; charset=utf-8", "latin-1", ["é"]),
        (b"[1]", "application/json;", None, [1]),
        (b" [1]\n", JSON, "utf-8", [1]),
        (b"\xef\xbb\xbf[1]", JSON, "utf-8", [1]),
        ("[1]".encode("utf-16"), JSON, "utf-16", [1]),
        (b"\x91\x01", MSGPACK, "utf-8", [1]),
        (b"\x91\x01", MSGPACK, None, [1]),
        (b"\x81\x01\xa1a", MSGPACK, "binary", {1: "a"}),
        (b"\x80\x02K\x01.", PICKLE, None, 1),
    ],
)
def test_what_peers_write_is_read(
    body: Any, content_type: str | None, content_encoding: str | None, data: Any
) -> None:
    """Content types and encodings are read as leniently as peers write them."""
    assert serialization.decode(body, content_type, content_encoding) == data


# -- errors


class Unknown:
    """Nothing that a serializer knows."""


CIRCULAR: list[Any] = []
CIRCULAR.append(CIRCULAR)


@pytest.mark.parametrize(
    ("data", "serializer", "said"),
    [
        (
            datetime.datetime(2009, 7, 14),
            None,
            "'json' cannot encode datetime: .*no datetime.* isoformat",
        ),
        ({"a": [datetime.date(2009, 7, 14)]}, None, "'json' cannot encode dict: .*no date; "),
        ({"a": Unknown()}, "json", "json has no Unknown"),
        (b"x", "json", "json has no bytes"),
        ({(1, 2): 3}, "json", "keys must be .* not tuple"),
        (float("nan"), "json", "not JSON compliant.*finite"),
        ({"a": float("inf")}, None, "not JSON compliant"),
        (CIRCULAR, "json", "RecursionError"),
        ({"a": "\ud800"}, "json", "surrogates not allowed"),
        ("\ud800", None, "surrogates not allowed; remove"),
        ("\ud800", "raw", "surrogates not allowed; remove"),
        ({"a": Unknown()}, "yaml", "'yaml' cannot encode dict: .*no Unknown; .*pickle"),
        ({"a": "\ud800"}, "yaml", "surrogates not allowed"),
        (threading.Lock(), "pickle", "'pickle' cannot encode lock: .*import path"),
        (lambda: None, "pickle", "'pickle' cannot encode function"),
        ({"a": Unknown()}, "msgpack", "'msgpack' cannot encode dict: .*Unknown"),
        (2**64, "msgpack", "'msgpack' cannot encode int: .*64 bits"),
        (FEED, "raw", "raw data must be str or bytes, not dict; .*serializer"),
        (None, "raw", "raw data must be str or bytes, not NoneType"),
    ],
)
def test_what_cannot_be_encoded(data: Any, serializer: str | None, said: str) -> None:
    """Data that a serializer does not know is one EncodeError: serializer, type, remedy."""
    with pytest.raises(EncodeError, match=said) as caught:
        serialization.encode(data, serializer)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("serializer", ["jsn", "application/json", 5, ["json"]])
def test_unknown_serializers_list_the_known(serializer: Any) -> None:
    """A serializer that is not registered is an error that lists those that are."""
    with pytest.raises(SerializerNotInstalled, match="json, msgpack, pickle, raw, yaml"):
        serialization.encode(FEED, serializer)


UNDECODABLE: list[tuple[Any, Any, Any, str]] = [
    (b"{", JSON, "utf-8", "JSONDecodeError"),
    (b"", JSON, "utf-8", "JSONDecodeError"),
    (b"NaN", JSON, "utf-8", "NaN is not JSON"),
    (b'"\xff"', JSON, "utf-8", "UnicodeDecodeError"),
    (b'"\xff"', JSON, None, "UnicodeDecodeError"),
    (b"[" * 100_000, JSON, "utf-8", "RecursionError"),
    (b"[1]", JSON, "klingon", "LookupError: unknown encoding: klingon"),
    (b"[1]", JSON, "zlib", "not a text encoding"),
    (b"[1]", JSON, "utf-8\x00", "ValueError"),
    (b"a: [", YAML, "utf-8", "ParserError"),
    (b"!!python/object:os.system {}", YAML, "utf-8", "ConstructorError"),
    (b"\x80\x02}q\x00X", PICKLE, "binary", "UnpicklingError|truncated"),
    (b"", PICKLE, "binary", "EOFError"),
    ("text", PICKLE, "binary", "TypeError"),
    (b"\x92\x01", MSGPACK, "binary", "ValueError"),
    (b"\x01\x02", MSGPACK, "binary", "ExtraData"),
    (b"\xa1\xff", MSGPACK, "utf-8", "UnicodeDecodeError"),
    (b"\xff", None, None, "UnicodeDecodeError"),
    (b"\xff", "text/plain", "ascii", "'ascii' codec"),
    (None, JSON, "utf-8", "TypeError"),
    (None, JSON, "binary", "TypeError"),
    (5, "image/png", "binary", "TypeError"),
    (b"[1]", 5, "utf-8", "AttributeError"),
    (b"[1]", [], "utf-8", "TypeError"),
    (b"[1]", JSON, 5, "AttributeError"),
]


@pytest.mark.parametrize(("body", "content_type", "content_encoding", "said"), UNDECODABLE)
def test_what_cannot_be_decoded(
    body: Any, content_type: Any, content_encoding: Any, said: str
) -> None:
    """Whatever fails in decoding is one DecodeError, which has the body and what it was."""
    with pytest.raises(DecodeError, match=said) as caught:
        serialization.decode(body, content_type, content_encoding)
    error = caught.value
    assert (error.body, error.content_type, error.content_encoding) == (
        body,
        content_type,
        content_encoding,
    )
    assert repr(content_type) in str(error)
    assert len(str(error)) < 800


def test_an_error_shows_little_of_a_long_body() -> None:
    """The text has the length of the body, and its beginning only."""
    with pytest.raises(DecodeError, match=r"1000001 bytes and begins b'xx") as caught:
        serialization.decode(b"x" * 1_000_000 + b"!", JSON, "utf-8")
    assert len(str(caught.value)) < 500


@settings(deadline=None)
@given(st.binary(), st.sampled_from([JSON, YAML, MSGPACK, None]), st.text() | st.none())
def test_garbage_is_decoded_or_refused(
    body: bytes, content_type: str | None, encoding: str | None
) -> None:
    """Any bytes under any encoding decode, or are a DecodeError."""
    for content_encoding in (encoding, "utf-8", "binary"):
        with suppress(DecodeError):
            serialization.decode(body, content_type, content_encoding)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A known serializer without its package says what to install, and loses no message."""
    monkeypatch.setitem(sys.modules, "msgpack", None)
    builtin._msgpack.cache_clear()
    try:
        with pytest.raises(SerializerNotInstalled, match=r"pip install carrot\[msgpack\]"):
            serialization.encode(FEED, "msgpack")
        with pytest.raises(
            SerializerNotInstalled, match=r"pip install carrot\[msgpack\]"
        ) as caught:
            serialization.decode(b"\x01", MSGPACK, "binary")
        assert isinstance(caught.value, DecodeError)
        assert caught.value.body == b"\x01"
    finally:
        builtin._msgpack.cache_clear()


# -- serializers of the application


def test_own_serializers(registry: SerializerRegistry) -> None:
    """A registered serializer encodes by name, decodes by content type, and is accepted."""
    registry.register("words", " ".join, str.split, "Text/X-Words", "latin-1")
    encoded = registry.encode(["größe", "x"], "words")
    assert encoded == ("Text/X-Words", "latin-1", "größe x".encode("latin-1"))
    body = encoded[2]
    assert registry.decode(body, "Text/X-Words", "latin-1") == ["größe", "x"]
    assert registry.decode_accepted(body, "text/x-words", "latin-1", None) == ["größe", "x"]
    registry._set_default_serializer("words")
    assert registry.encode(["a"])[0] == "Text/X-Words"


def test_decoders_get_text_or_bytes(registry: SerializerRegistry) -> None:
    """A decoder is given str, or bytes where the content encoding is binary."""
    registry.register("same", None, lambda payload: payload, "application/x-same")
    assert registry.decode(b"x", "application/x-same", None) == "x"
    assert registry.decode(b"x", "application/x-same", "binary") == b"x"


def test_serializers_of_one_direction(registry: SerializerRegistry) -> None:
    """A serializer without encoder only decodes; one without decoder only encodes."""
    registry.register("in", None, len, "application/x-in")
    registry.register("out", str, None, "application/x-out")
    assert registry.decode(b"abc", "application/x-in", None) == 3
    with pytest.raises(SerializerNotInstalled, match="'in'"):
        registry.encode([], "in")
    assert registry.encode(5, "out") == ("application/x-out", "utf-8", b"5")
    assert registry.decode(b"5", "application/x-out", None) == "5"


def test_own_serializers_may_replace_ours(registry: SerializerRegistry) -> None:
    """A decoder registered for a content type of ours is the one that is used."""
    registry.register("json", lambda data: bytearray(b"{}"), lambda text: ("mine", text), JSON)
    assert registry.encode({}) == (JSON, "utf-8", b"{}")
    assert registry.decode_accepted(b"{}", JSON, "utf-8", None) == ("mine", "{}")


def test_unregister(registry: SerializerRegistry) -> None:
    """A serializer that was unregistered neither encodes nor decodes."""
    registry.unregister("yaml")
    with pytest.raises(SerializerNotInstalled, match="known are json, msgpack, pickle, raw;"):
        registry.encode({}, "yaml")
    assert registry.decode(b"a: 1", YAML, "utf-8") == "a: 1"
    for forget in (registry.unregister, registry._set_default_serializer):
        with pytest.raises(SerializerNotInstalled, match="'yaml'"):
            forget("yaml")
    with pytest.raises(SerializerNotInstalled, match="no serializer None"):
        SerializerRegistry().encode({})


def _fail(error: BaseException) -> Callable[[Any], Any]:
    def coder(data: Any) -> Any:
        raise error

    return coder


@pytest.mark.parametrize(
    "error", [KeyError("x"), MemoryError(), ConfigurationError("x"), StopIteration()]
)
def test_own_coders_may_raise_anything(registry: SerializerRegistry, error: Exception) -> None:
    """Whatever an application's coder raises is an EncodeError or a DecodeError."""
    registry.register("bad", _fail(error), _fail(error), "application/x-bad")
    with pytest.raises(EncodeError, match=f"'bad' cannot encode dict: {type(error).__name__}"):
        registry.encode({}, "bad")
    for content_encoding in ("utf-8", "binary"):
        with pytest.raises(DecodeError, match=type(error).__name__):
            registry.decode_accepted(b"", "application/x-bad", content_encoding, None)


def test_interrupts_pass(registry: SerializerRegistry) -> None:
    """What is no error of the payload is not made one."""
    registry.register("stop", _fail(KeyboardInterrupt()), _fail(SystemExit()), "x/stop")
    with pytest.raises(KeyboardInterrupt):
        registry.encode({}, "stop")
    with pytest.raises(SystemExit):
        registry.decode(b"", "x/stop", None)


@pytest.mark.parametrize(
    ("payload", "encoding", "said"),
    [
        (5, "utf-8", "returned int, not str or bytes"),
        ("é", "ascii", "UnicodeEncodeError"),
        ("x", "binary", "LookupError"),
    ],
)
def test_encoders_return_text_or_bytes(
    registry: SerializerRegistry, payload: Any, encoding: str, said: str
) -> None:
    """An encoder that returns what cannot be sent is an EncodeError."""
    registry.register("odd", lambda data: payload, None, "x/odd", encoding)
    with pytest.raises(EncodeError, match=said):
        registry.encode({}, "odd")


# -- yaml


yaml_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.text(
        "a \n\t\x85\u2028\ufeff:#-?'\"%@`!&*|>{}[],~=<é\U0001f600\x00\x07\x7f", max_size=99
    )
    | st.binary()
    | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(yaml_data)
def test_yaml_is_the_same_without_libyaml(data: Any) -> None:
    """What is dumped with or without libyaml is loaded by either as it was."""
    yaml = pytest.importorskip("yaml")
    with pytest.MonkeyPatch.context() as patch:
        coders = [builtin._yaml()]
        patch.setattr(yaml, "__with_libyaml__", not yaml.__with_libyaml__)
        coders.append(builtin._yaml.__wrapped__())
    for dumps, _ in coders:
        for _, loads in coders:
            assert repr(loads(dumps(data))) == repr(data)


# -- peers


@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle", "msgpack", "raw"])
def test_kombu_reads_and_writes_the_same(serializer: str) -> None:
    """What one encodes the other decodes, and under the same content type."""
    kombu = pytest.importorskip("kombu.serialization")
    data: Any = b"\xff" if serializer == "raw" else {"a": [1, "é", None, 2.5]}
    ours = serialization.encode(data, serializer)
    theirs = kombu.dumps(data, serializer=serializer)
    assert ours[:2] == tuple(theirs[:2])
    assert serialization.decode(theirs[2], theirs[0], theirs[1]) == data
    assert kombu.loads(ours[2], ours[0], ours[1], accept=[serializer, ours[0]]) == data


# -- cost


@pytest.mark.usefixtures("no_collector")
def test_call_budget() -> None:
    """Encoding and decoding a JSON message takes two calls inside the library each."""
    content_type, content_encoding, body = serialization.encode(FEED)
    serialization.decode_accepted(body, content_type, content_encoding, None)
    calls: list[str] = []

    def profile(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and "/carrot/" in frame.f_code.co_filename:
            calls.append(frame.f_code.co_name)

    sys.setprofile(profile)
    try:
        serialization.encode({"id": 5, "feed": "http://cnn.com"})
        serialization.decode_accepted(body, content_type, content_encoding, None)
    finally:
        sys.setprofile(None)
    assert len(calls) == 4, calls
