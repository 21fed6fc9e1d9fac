"""`NKIObject`: the base class of configuration objects that kernels pass around."""

from __future__ import annotations

from typing import Any


class NKIObject:
    """Base of kernel dataclasses; without a decorator it stores its keyword arguments."""

    __slots__ = ("__dict__", "__weakref__")

    def __init__(self, **kwargs: Any) -> None:
        for name, value in kwargs.items():
            setattr(self, name, value)
