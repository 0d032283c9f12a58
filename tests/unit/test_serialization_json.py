"""JSON: the same bytes, data and errors, with orjson and without."""

from __future__ import annotations

import datetime
import decimal
import json
import sys
import uuid
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from enum import Enum, Flag, IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from carrot.serialization import json_codec

orjson = pytest.importorskip("orjson")

STANDARD = json_codec.codec(None)
FAST = json_codec.codec(orjson)


def outcome(function: Any, *args: Any) -> tuple[str, str]:
    """What comes of a call, comparably: 1 is not 1.0, nor -0.0 0.0, nor an error another."""
    try:
        found = function(*args)
    except Exception as exc:
        return type(exc).__name__, str(exc)
    return "returned", repr(found)


def by_the_book(data: Any) -> bytes:
    """The standard library, by its public door and the arguments that define our JSON."""
    return json.dumps(
        data,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
        default=json_codec._default,
    ).encode()


def read_by_the_book(body: bytes) -> Any:
    """The standard library, given text, a byte order mark passed over."""
    text = str(body, "utf-8").removeprefix("\ufeff")
    return json.JSONDecoder(parse_constant=json_codec._no_constant).decode(text)


class Text(str):
    pass


class Number(int):
    pass


class Fraction(float):
    pass


class Items(list[Any]):
    pass


class Table(dict[Any, Any]):
    pass


class Colour(Enum):
    ORANGE = "orange"
    NOTHING = None
    UNDEFINED = float("nan")
    DAY = datetime.date(2009, 7, 14)


class Level(IntEnum):
    LOW = 1
    HUGE = 2**70


class Kind(str, Enum):
    ROOT = "root"


class Permission(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Record:
    name: str = "x"


Pair = namedtuple("Pair", "a b")

texts = st.text(max_size=8) | st.text(
    st.characters(categories=["Cs", "Cc", "Zl", "Zp", "Zs", "Co"]), max_size=4
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.floats(-1e-3, 1e-3),
    st.floats(1e14, 1e23),
    texts,
    st.sampled_from(["null", "nullable", "0e", "1e5", "0.00001", "NaN"]),
    texts.map(Text),
    st.integers().map(Number),
    st.floats().map(Fraction),
    st.sampled_from([*Colour, *Level, *Kind, *Permission, Permission(3)]),
    st.uuids(),
    st.sampled_from(
        [
            b"x",
            decimal.Decimal("1.5"),
            datetime.datetime(2009, 7, 14),
            datetime.time(1),
            Record(),
            {1, 2},
            1j,
            object,
            Pair(1, "b"),
        ]
    ),
)
keys = st.one_of(
    texts,
    texts.map(Text),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.none() | st.booleans(),
    st.sampled_from([*Level, *Kind, Colour.ORANGE, (1, 2), b"k", uuid.UUID(int=1)]),
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.lists(inner, max_size=3).map(Items),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(texts, inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3).map(Table),
        st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(anything)
@example(float("nan"))
@example({"a": float("inf"), "b": None})
@example([1e-5, 1e-6, 1e16, 1e22, 1e-4, 5e-324, -0.0])
@example([2**63, 2**64, -(2**63), -(2**63) - 1, 10**5000])
@example(["\ud800", "\ude00\ud83d"])
@example({1: 1, "1": 2, False: 3, None: 4, 1.5: 5})
def test_encoding_is_the_standard_librarys(data: Any) -> None:
    """Any data gives the same bytes or the same error, with orjson and without."""
    expected = outcome(by_the_book, data)
    assert outcome(STANDARD[0], data) == expected
    assert outcome(FAST[0], data) == expected


@settings(max_examples=400, deadline=None)
@given(plain)
def test_plain_data_comes_back(data: Any) -> None:
    """What can be encoded decodes to the same, by either codec."""
    for dumps, loads in (STANDARD, FAST):
        try:
            body = dumps(data)
        except ValueError:  # not finite, or a lone surrogate
            continue
        assert repr(STANDARD[1](body)) == repr(loads(body)) == repr(data)


numbers = st.from_regex(
    r"-?(0|[1-9][0-9]{0,24})([.][0-9]{1,25})?([eE][-+]?[0-9]{1,3})?", fullmatch=True
)
tokens = st.sampled_from(
    [
        *'{}[],:"\\ \t\n\r-+.eE0123456789',
        "true",
        "false",
        "null",
        "NaN",
        "-Infinity",
        '""',
        "01",
        '"a"',
        r'"\ud800"',
        r'"\ud83d\ude00"',
        r'"\u00e9"',
        '"\\x"',
        '"é"',
        "\ufeff",
        "\x00",
        "\x0b",
    ]
)
documents = st.one_of(
    numbers.map(str.encode),
    st.lists(numbers).map(lambda items: f" [{', '.join(items)}]\n".encode()),
    st.lists(tokens, max_size=12).map(lambda parts: "".join(parts).encode()),
    st.lists(numbers | tokens, max_size=12).map(
        lambda parts: ("[" + ",".join(parts) + "]").encode()
    ),
    st.lists(st.tuples(tokens, numbers), max_size=4).map(
        lambda pairs: ("{" + ",".join(f'"{k}":{v}' for k, v in pairs) + "}").encode()
    ),
    st.text().map(
        lambda text: json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ),
    plain.map(lambda data: json.dumps(data).encode()),
    st.binary(),
    st.binary().map(lambda raw: b'"' + raw + b'"'),
)


@settings(max_examples=600, deadline=None)
@given(documents)
@example(b"")
@example(b"-0")
@example(b"1e400")
@example(b"1e-400")
@example(b"18446744073709551616")
@example(b"-9223372036854775809")
@example(b"NaN")
@example(b'"\xed\xa0\x80"')
@example(b'{"a":1,"b":2,"a":3}')
@example(b"\xef\xbb\xbf{}")
@example(b"\xff\xfe1\x00")
@example(b"1" * 5000)
def test_decoding_is_the_standard_librarys(body: bytes) -> None:
    """Any body gives the same data or the same error, with orjson and without."""
    expected = outcome(read_by_the_book, body)
    assert outcome(STANDARD[1], body) == expected
    assert outcome(FAST[1], body) == expected


def depth(value: Any) -> int:
    """How deep lists nest in one another."""
    levels = 0
    while isinstance(value, list):
        levels += 1
        value = value[0] if value else None
    return levels


@pytest.mark.parametrize("levels", [1, 255, 399, 400, 401, 700, 1023, 1024, 1025, 100_000])
def test_nesting_ends_alike(levels: int) -> None:
    """A document nests as deep without orjson as with it."""
    body = b"[" * levels + b"]" * levels
    ends = {outcome(lambda loads: depth(loads(body)), loads) for _, loads in (STANDARD, FAST)}
    assert len(ends) == 1, ends
    data: list[Any] = []
    for _ in range(min(levels, 5_000) - 1):
        data = [data]
    assert outcome(STANDARD[0], data) == outcome(FAST[0], data)


def test_what_contains_itself_is_refused() -> None:
    """A circular structure is an error, in either."""
    data: list[Any] = []
    data.append(data)
    for dumps, _ in (STANDARD, FAST):
        with pytest.raises(RecursionError):
            dumps(data)


def test_the_wire_form() -> None:
    """JSON is compact, in the order given, in UTF-8, with nothing escaped needlessly."""
    data = {"b": [1, 2.0, True, None], "a": "é/\u2028\x7f😀", 1: (), None: Level.LOW}
    expected = '{"b":[1,2.0,true,null],"a":"é/\u2028\x7f😀","1":[],"null":1}'.encode()
    for dumps, _ in (STANDARD, FAST):
        assert dumps(data) == expected
        assert dumps([uuid.UUID(int=5), Colour.ORANGE, Kind.ROOT]) == (
            b'["00000000-0000-0000-0000-000000000005","orange","root"]'
        )


def test_text_is_decoded_too() -> None:
    """A body that a driver decoded already is taken as it is."""
    for _, loads in (STANDARD, FAST):
        assert loads('{"é": "\ud800"}') == {"é": "\ud800"}


def fake_orjson(**functions: Any) -> ModuleType:
    """A module that stands where orjson would."""
    options = {
        "OPT_PASSTHROUGH_SUBCLASS": 1,
        "OPT_PASSTHROUGH_DATETIME": 2,
        "OPT_PASSTHROUGH_DATACLASS": 4,
    }
    return cast(ModuleType, SimpleNamespace(**options, **functions))


@pytest.mark.parametrize("text", ["null", '"null"', "[0.00001]", "1e16", "1.5e-7"])
def test_doubtful_output_is_not_believed(text: str) -> None:
    """Where the fast package may spell otherwise, the standard library is asked."""
    answers = iter([b'"fast"', text.encode()])
    fake = fake_orjson(dumps=lambda *args: next(answers), loads=None)
    dumps, _ = json_codec.codec(fake)
    assert dumps("slow") == b'"fast"'
    assert dumps("slow") == b'"slow"'


@pytest.mark.parametrize(
    ("text", "believed"),
    [
        ('{"id":"4cc7438e-afd4-4f8f-a2f3-f46567e7ca77"}', True),
        ('["5e",1]', True),
        ("1e16", False),
        ("-1.5e-7", False),
        ("[1e16]", False),
        ("[0,-1.5e-7]", False),
        ('{"a":1.5e16}', False),
        ('["5,5e"]', False),
    ],
)
def test_exponents_are_told_from_text(text: str, believed: bool) -> None:
    """A digit and an e within a text, as in a UUID, do not cost the fast way."""
    dumps, _ = json_codec.codec(fake_orjson(dumps=lambda *args: text.encode(), loads=None))
    assert dumps("slow") == (text.encode() if believed else b'"slow"')


def test_doubtful_input_is_not_given_away() -> None:
    """Integers that may not fit 64 bits never reach the fast package; small ones do."""
    _, loads = json_codec.codec(fake_orjson(dumps=None, loads=lambda body: "fast"))
    assert loads(b"123456789012345678") == "fast"
    assert loads(b"1234567890123456789") == 1234567890123456789


def test_orjson_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast package is used where it is installed, and nowhere missed."""
    assert json_codec._installed() is orjson
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert json_codec._installed() is None
