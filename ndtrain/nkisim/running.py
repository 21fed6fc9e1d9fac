"""Which core runs the calling kernel: all that a tensor or an operator has to know of it.

    with executing(core): ...
    core()            # inside; NkiSimError outside a kernel
    is_running()

The core itself is `machine.Core`, which is made of tensors and operators.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from ndtrain.nkisim.errors import NkiSimError


class Running(Protocol):
    @property
    def api(self) -> str:
        """The version of NKI that the kernel keeps to."""
        ...

    def call_operator(self, operator: Any, *args: Any, **kwargs: Any) -> Any:
        """Issue what `nl.operator(*args, **kwargs)` stands for; returns a new tile."""
        ...


_core: contextvars.ContextVar[Running] = contextvars.ContextVar("nkisim_core")


def core() -> Running:
    """The one that instructions go to."""
    found = _core.get(None)
    if found is None:
        raise NkiSimError(
            "an NKI instruction was called outside a kernel",
            help="call it from a function that runs under nki.simulate or @nki.jit",
        )
    return found


def is_running() -> bool:
    """True inside a kernel."""
    return _core.get(None) is not None


@contextmanager
def executing(core: Running) -> Iterator[None]:
    """Make `core` the one that instructions go to."""
    token = _core.set(core)
    try:
        yield
    finally:
        _core.reset(token)
