"""Backends by name. Importing this module loads none of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from carrot.exceptions import BackendNotFound

__all__ = [
    "BACKEND_ALIASES",
    "DEFAULT_BACKEND",
    "get_backend_cls",
    "resolve_backend",
]

#: What a connection without ``backend_cls`` uses.
DEFAULT_BACKEND = "carrot.backends.pyamqplib.Backend"

_AMQP = "carrot.backends.pyamqplib.Backend"
_MEMORY = "carrot.backends.queue.Backend"

#: Short names of the backends that come with carrot.
BACKEND_ALIASES = {
    "amqp": _AMQP,
    "amqplib": _AMQP,
    "pyamqplib": _AMQP,
    "memory": _MEMORY,
    "mem": _MEMORY,
    "queue": _MEMORY,
}


def resolve_backend(backend: str) -> tuple[str, str]:
    """Split the name of a backend into module and class.

    :param backend: an alias (:data:`BACKEND_ALIASES`) or ``"module.Class"``.
    :raises BackendNotFound: it is neither.
    """
    path = BACKEND_ALIASES.get(backend, backend)
    module_name, _, cls_name = path.rpartition(".")
    if not module_name or not cls_name:
        known = ", ".join(sorted(BACKEND_ALIASES))
        raise BackendNotFound(
            f"unknown backend {backend!r}: use one of {known},"
            " or the dotted path of a class, as in 'my.module.Backend'"
        )
    return module_name, cls_name


def get_backend_cls(backend: str | type[Any] | None = None) -> type[Any]:
    """Return the class of a backend, importing its module.

    :param backend: an alias, a dotted path, a class (returned as it is), or
        ``None`` for :data:`DEFAULT_BACKEND`.
    :raises BackendNotFound: there is no such module or class, or a package
        that it needs is not installed.
    """
    if isinstance(backend, type):
        return backend
    if backend is None:
        backend = DEFAULT_BACKEND
    if not isinstance(backend, str):
        raise BackendNotFound(
            f"backend_cls must be a name or a class, not {type(backend).__name__}"
        )
    module_name, cls_name = resolve_backend(backend)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as exc:
        raise BackendNotFound(
            f"cannot load backend {backend!r}: no module named {exc.name!r};"
            f" {_remedy(backend, str(exc.name))}"
        ) from exc
    try:
        cls: type[Any] = getattr(module, cls_name)
    except AttributeError as exc:
        raise BackendNotFound(
            f"cannot load backend {backend!r}: module {module_name!r} has no"
            f" {cls_name!r}; is the name spelled right?"
        ) from exc
    return cls


def _remedy(backend: str, missing: str) -> str:
    if backend in BACKEND_ALIASES or backend in BACKEND_ALIASES.values():
        return f"install it: pip install {missing.partition('.')[0]}"
    known = ", ".join(sorted(BACKEND_ALIASES))
    return f"is the path right, or one of {known} meant?"


def __getattr__(name: str) -> Any:
    # Resolved at access, so that naming the default loads no driver.
    if name == "DefaultBackend":
        return get_backend_cls(DEFAULT_BACKEND)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
