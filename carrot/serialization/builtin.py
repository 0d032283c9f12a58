"""The serializers that come with the library."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from carrot.exceptions import SerializerNotInstalled
from carrot.serialization import json_codec
from carrot.serialization.registry import SerializerRegistry

__all__ = ["register_json", "register_msgpack", "register_pickle", "register_yaml"]


def register_json(registry: SerializerRegistry) -> None:
    """Register ``json``: compact, standard JSON in UTF-8."""
    registry.register("json", json_codec.dumps, json_codec.loads, "application/json")
    registry.take_bytes("json", "utf-8")


def register_yaml(registry: SerializerRegistry) -> None:
    """Register ``yaml``: the safe subset, by libyaml where PyYAML has it."""
    registry.register("yaml", _yaml_dumps, _yaml_loads, "application/x-yaml")


def register_pickle(registry: SerializerRegistry) -> None:
    """Register ``pickle``: decoded only where it is accepted by name."""
    registry.register(
        "pickle", _pickle_dumps, pickle.loads, "application/x-python-serialize", "binary"
    )
    registry.take_bytes("pickle", "binary", "utf-8")
    registry.restrict("pickle")


def register_msgpack(registry: SerializerRegistry) -> None:
    """Register ``msgpack``; its use needs the package of that name."""
    registry.register(
        "msgpack", _msgpack_dumps, _msgpack_loads, "application/x-msgpack", "binary"
    )
    # carrot 0.10.7 wrote utf-8 where it meant binary.
    registry.take_bytes("msgpack", "binary", "utf-8")


def _pickle_dumps(data: Any) -> bytes:
    # Protocol 2 is the newest that Python 2 reads.
    return pickle.dumps(data, protocol=2)


@cache
def _yaml() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    # At first use: importing it takes longer than importing all of this library.
    import yaml

    libyaml = yaml.__with_libyaml__
    dumper: Any = yaml.CSafeDumper if libyaml else yaml.SafeDumper
    loader: Any = yaml.CSafeLoader if libyaml else yaml.SafeLoader

    def dumps(data: Any) -> str:
        try:
            # The emitter in Python loses U+0085 unless all but ASCII is escaped.
            text: str = yaml.dump(data, Dumper=dumper, allow_unicode=libyaml, sort_keys=False)
        except yaml.representer.RepresenterError as exc:
            # Its own text shows the whole object and not its type.
            raise TypeError(f"the safe subset has no {type(exc.args[-1]).__name__}") from None
        return text

    def loads(text: str) -> Any:
        return yaml.load(text, Loader=loader)

    return dumps, loads


def _yaml_dumps(data: Any) -> str:
    return _yaml()[0](data)


def _yaml_loads(text: str) -> Any:
    return _yaml()[1](text)


@cache
def _msgpack() -> Any:
    try:
        return import_module("msgpack")
    except ImportError as exc:
        raise SerializerNotInstalled(
            "serializer 'msgpack' needs a package that is not installed:"
            " pip install carrot[msgpack]"
        ) from exc


def _msgpack_dumps(data: Any) -> bytes:
    packed: bytes = _msgpack().packb(data, use_bin_type=True)
    return packed


def _msgpack_loads(body: bytes) -> Any:
    return _msgpack().unpackb(body, raw=False, strict_map_key=False)
