"""`nki.typing`: annotations of kernel parameters, `nt.tensor[128, 512]`; they change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TensorAnnotation:
    """A tensor parameter and, when it was given, the shape that is expected."""

    mutable: bool
    shape: tuple[Any, ...] | None = None

    def __getitem__(self, shape: Any) -> TensorAnnotation:
        return TensorAnnotation(self.mutable, shape if isinstance(shape, tuple) else (shape,))


tensor = TensorAnnotation(mutable=False)
mutable_tensor = TensorAnnotation(mutable=True)
