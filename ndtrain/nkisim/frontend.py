"""Python that the NKI compiler does not accept, found before a kernel runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def function_of(kernel: Any) -> Callable[..., Any]:
    """The plain function below `@nki.jit`."""
    return getattr(kernel, "function", kernel)


def check(function: Callable[..., Any]) -> None:
    """Refuse constructs outside NKI's subset of Python."""
