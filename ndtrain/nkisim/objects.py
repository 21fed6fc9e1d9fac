"""`NKIObject`: the base class of configuration objects that kernels pass around."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any


class NKIObject:
    """Base of kernel dataclasses; without a decorator it stores its keyword arguments.

    Class attributes without an annotation count as fields of a dataclass below this base: the
    compiler treats them so, and kernels of nki-library pass them to the constructor.
    """

    __slots__ = ("__dict__", "__weakref__")

    def __init__(self, **kwargs: Any) -> None:
        for name, value in kwargs.items():
            setattr(self, name, value)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = dict(cls.__dict__.get("__annotations__", {}))
        fields = {n: Any for n, v in cls.__dict__.items() if n not in own and _is_field(n, v)}
        if fields:
            cls.__annotations__ = own | fields


def _is_field(name: str, value: Any) -> bool:
    if name.startswith("_") or not isinstance(value, Hashable):
        return False
    return not (callable(value) or hasattr(value, "__get__"))
