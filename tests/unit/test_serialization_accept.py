"""What may be decoded: lists of accepted content, and pickle refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from carrot.exceptions import (
    ConfigurationError,
    ContentDisallowed,
    SerializationError,
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


# -- what may be decoded

PICKLED = pickle.dumps([1], 2)
SWITCHES = (
    r"accept=\[.*Consumer, ConsumerSet or BrokerConnection.*"
    r"carrot\.serialization\.accept\('pickle'\).*CARROT_ACCEPT_CONTENT=json,pickle"
)


@pytest.mark.parametrize(
    "content_type",
    [PICKLE, PICKLE.upper(), f" {PICKLE} ", f"{PICKLE}; charset=x", f"{PICKLE};"],
)
@pytest.mark.parametrize("content_encoding", ["binary", "utf-8", None, "klingon"])
def test_pickle_is_refused(
    registry: SerializerRegistry, content_type: str, content_encoding: str | None
) -> None:
    """However its content type is spelled, pickle is not decoded unless asked for."""
    with pytest.raises(ContentDisallowed, match=SWITCHES):
        registry.decode_accepted(PICKLED, content_type, content_encoding, None)


def test_all_else_is_accepted(registry: SerializerRegistry) -> None:
    """Without a word from anyone, every other serializer decodes."""
    for name in ("json", "yaml", "msgpack", "raw"):
        content_type, encoding, body = registry.encode("text", name)
        assert registry.decode_accepted(body, content_type, encoding, None) == "text"


def test_pickle_may_be_accepted_in_the_process(registry: SerializerRegistry) -> None:
    """accept() adds to what the process decodes."""
    registry.accept("pickle")
    assert registry.decode_accepted(PICKLED, PICKLE, "binary", None) == [1]
    assert registry.decode_accepted(b"[1]", JSON, "utf-8", None) == [1]
    registry.accept(YAML)
    with pytest.raises(
        ConfigurationError, match=r"cannot accept 'pikle'.*json, msgpack, pickle"
    ):
        registry.accept("pikle")


def test_an_explicit_list_is_exact(registry: SerializerRegistry) -> None:
    """What accept= names decodes, and nothing else does; raw data and text always pass."""
    registry.register("mine", str, str.upper, "x/mine")
    accept = registry.accepted(["pickle", YAML.upper()])
    assert accept == frozenset([PICKLE, YAML])
    assert registry.decode_accepted(PICKLED, PICKLE, "binary", accept) == [1]
    for content_type in (JSON, MSGPACK, "x/mine"):
        with pytest.raises(ContentDisallowed, match=content_type):
            registry.decode_accepted(b"[1]", content_type, "utf-8", accept)
    nothing = registry.accepted([])
    assert nothing == frozenset()
    for passing in ("application/data", "text/plain", "x/unknown", None):
        assert registry.decode_accepted(b"[1]", passing, None, nothing) == "[1]"
        assert registry.decode_accepted(b"[1]", passing, "binary", nothing) == b"[1]"
    registry.accept("json")
    with pytest.raises(ContentDisallowed):
        registry.decode_accepted(b"[1]", JSON, "utf-8", nothing)


def test_accepted_reads_names(registry: SerializerRegistry) -> None:
    """Names, content types and texts with commas stand for content types."""
    assert registry.accepted(None) is None
    assert registry.accepted("json, yaml,") == frozenset([JSON, YAML])
    assert registry.accepted(("raw", "text/plain")) == frozenset(
        ["application/data", "text/plain"]
    )
    wrong: list[Any] = [["jsn"], [5], "x/unknown", [None]]
    for names in wrong:
        with pytest.raises(
            ConfigurationError, match="known are json, msgpack, pickle, raw, yaml"
        ):
            registry.accepted(names)


def test_the_environment_is_the_exact_list(
    registry: SerializerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CARROT_ACCEPT_CONTENT is what the process decodes, and all that it decodes."""
    monkeypatch.setenv("CARROT_ACCEPT_CONTENT", " json,pickle,mine ")
    registry.register("mine", str, str.upper, "x/mine")
    assert registry.decode_accepted(PICKLED, PICKLE, "binary", None) == [1]
    assert registry.decode_accepted(b"[1]", JSON, "utf-8", None) == [1]
    assert registry.decode_accepted(b"a", "x/mine", "utf-8", None) == "A"
    with pytest.raises(ContentDisallowed, match="serializer 'yaml'"):
        registry.decode_accepted(b"a: 1", YAML, "utf-8", None)
    registry.accept("yaml")
    assert registry.decode_accepted(b"a: 1", YAML, "utf-8", None) == {"a": 1}


def test_an_unknown_name_in_the_environment_is_an_error(
    registry: SerializerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in CARROT_ACCEPT_CONTENT does not silently refuse messages."""
    monkeypatch.setenv("CARROT_ACCEPT_CONTENT", "json,pikle")
    with pytest.raises(
        ConfigurationError, match="CARROT_ACCEPT_CONTENT: cannot accept 'pikle'"
    ):
        registry.decode_accepted(b"[1]", JSON, "utf-8", None)


def test_own_pickle_is_the_applications_affair(registry: SerializerRegistry) -> None:
    """A decoder of the application is accepted; what only encodes changes nothing."""
    registry.register("outgoing", pickle.dumps, None, PICKLE, "binary")
    with pytest.raises(ContentDisallowed):
        registry.decode_accepted(PICKLED, PICKLE, "binary", None)
    registry.register("careful", None, lambda body: "careful", PICKLE, "binary")
    assert registry.decode_accepted(PICKLED, PICKLE, "binary", None) == "careful"


def test_direct_decoding_is_not_restricted(registry: SerializerRegistry) -> None:
    """The registry's own decode does what the application asks it to."""
    assert registry.decode(PICKLED, PICKLE, "binary") == [1]
    assert issubclass(ContentDisallowed, SerializationError)
