"""The serializers that come with the library."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

from carrot.exceptions import SerializerNotInstalled
from carrot.serialization import json_codec
from carrot.serialization.registry import SerializerRegistry

__all__ = ["register_json", "register_msgpack", "register_pickle", "register_yaml"]


def register_json(registry: SerializerRegistry) -> None:
    """Register ``json``: compact, UTF-8, standard JSON."""
    registry.register("json", json_codec.dumps, json_codec.loads, "application/json")
    registry.take_bytes("json", "utf-8")


def register_yaml(registry: SerializerRegistry) -> None:
    """Register ``yaml``: the safe subset, with libyaml where PyYAML has it."""
    registry.register("yaml", _yaml_dumps, _yaml_loads, "application/x-yaml")


def register_pickle(registry: SerializerRegistry) -> None:
    """Register ``pickle``: protocol 2, decoded only where it is accepted by name."""
    registry.register(
        "pickle", _pickle_dumps, pickle.loads, "application/x-python-serialize", "binary"
    )
    registry.take_bytes("pickle")
    registry.restrict("pickle")


def register_msgpack(registry: SerializerRegistry) -> None:
    """Register ``msgpack``; using it needs the package of that name."""
    registry.register(
        "msgpack", _msgpack_dumps, _msgpack_loads, "application/x-msgpack", "binary"
    )
    # carrot 0.10.7 labelled msgpack utf-8.
    registry.take_bytes("msgpack")


def _pickle_dumps(data: Any) -> bytes:
    # Protocol 2 is the newest that Python 2 reads.
    return pickle.dumps(data, protocol=2)


@cache
def _yaml_classes() -> tuple[Any, Any, Any]:
    # Imported at first use: it takes longer than the rest of the library.
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml, loader, dumper


def _yaml_dumps(data: Any) -> str:
    yaml, _, dumper = _yaml_classes()
    text: str = yaml.dump(data, Dumper=dumper, allow_unicode=True, sort_keys=False)
    return text


def _yaml_loads(text: str) -> Any:
    yaml, loader, _ = _yaml_classes()
    return yaml.load(text, Loader=loader)


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError as exc:
        raise SerializerNotInstalled(
            "serializer 'msgpack' needs the package msgpack: pip install carrot[msgpack]"
        ) from exc
    return msgpack


def _msgpack_dumps(data: Any) -> bytes:
    packed: bytes = _msgpack().packb(data, use_bin_type=True)
    return packed


def _msgpack_loads(body: bytes) -> Any:
    return _msgpack().unpackb(body, raw=False, strict_map_key=False)
