"""Encode and decode message data, by name and by content type.

==========  ==================================  ================
name        content type                        encoding
==========  ==================================  ================
(bytes)     ``application/data``                binary
(str)       ``text/plain``                      utf-8
raw         ``application/data``                utf-8 or binary
json        ``application/json``                utf-8
yaml        ``application/x-yaml``              utf-8
pickle      ``application/x-python-serialize``  binary
msgpack     ``application/x-msgpack``           binary
==========  ==================================  ================

Pickle runs what the sender wants it to run, so that receiving it has to be
asked for: :func:`accept`, the environment variable ``CARROT_ACCEPT_CONTENT``,
or ``accept=`` where messages are consumed.
"""

from __future__ import annotations

from carrot.exceptions import SerializerNotInstalled
from carrot.serialization import builtin
from carrot.serialization.registry import SerializerRegistry, raw_encode

__all__ = [
    "SerializerNotInstalled",
    "SerializerRegistry",
    "accept",
    "accepted",
    "decode",
    "decode_accepted",
    "encode",
    "raw_encode",
    "registry",
]

#: The serializers of this process.
registry = SerializerRegistry()
builtin.register_json(registry)
builtin.register_yaml(registry)
builtin.register_pickle(registry)
builtin.register_msgpack(registry)
registry._set_default_serializer("json")

encode = registry.encode
decode = registry.decode
decode_accepted = registry.decode_accepted
accept = registry.accept
accepted = registry.accepted
