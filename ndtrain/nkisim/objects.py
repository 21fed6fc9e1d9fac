"""`NKIObject`: the base class of configuration objects that kernels pass around."""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from typing import Any


class NKIObject:
    """Base of kernel classes, with or without `@dataclass`.

    The compiler makes an initializer over the class attributes, annotated or not, with None for
    those that have no value, and calls `__post_init__` (nki/get-started/nki-language-guide.rst).
    """

    __slots__ = ("__dict__", "__weakref__")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields = _fields(type(self))
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} has {len(fields)} fields, got {len(args)}")
        given = dict(zip(fields, args, strict=False)) | kwargs
        for name in fields:
            setattr(self, name, given.pop(name, getattr(type(self), name, None)))
        for name, value in given.items():
            setattr(self, name, value)
        post = getattr(self, "__post_init__", None)
        if post is not None:
            post()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = inspect.get_annotations(cls)
        plain = {n: Any for n, v in cls.__dict__.items() if n not in own and _is_field(n, v)}
        if plain:
            # An annotation makes `@dataclass` see the attribute as the compiler does.
            cls.__annotations__ = own | plain


def _fields(cls: type) -> list[str]:
    names: dict[str, None] = {}
    for base in reversed(cls.__mro__):
        names |= dict.fromkeys(inspect.get_annotations(base))
    return list(names)


def _is_field(name: str, value: Any) -> bool:
    if name.startswith("_") or not isinstance(value, Hashable):
        return False
    return not (callable(value) or hasattr(value, "__get__"))
