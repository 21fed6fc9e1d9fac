"""Notes where each user error is made, in every process that the tests start.

    PYTHONPATH=tests/error_record NDTRAIN_ERROR_RECORD=FOLDER pytest ...

Python imports this module by itself. Each process appends `FILE:LINE` to a file of its own in the
folder, one line a place; `tests/error_record/unseen.py` compares them with the source.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ERRORS = "ndtrain.core.errors"


class RecordingLoader(importlib.abc.Loader):
    """Loads the module of the errors and lets each new error note the line that made it."""

    def __init__(self, loader: importlib.abc.Loader, folder: Path) -> None:
        self.loader = loader
        self.folder = folder
        self.seen: set[str] = set()

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        error = module.UserError
        make = error.__new__

        def noting(cls: type, *args: object, **options: object) -> object:
            frame = sys._getframe(1)
            self.note(f"{frame.f_code.co_filename}:{frame.f_lineno}")
            return make(cls, *args, **options)

        error.__new__ = noting

    def note(self, place: str) -> None:
        if place not in self.seen:
            self.seen.add(place)
            # A killed process flushes nothing, so nothing is left open.
            with (self.folder / str(os.getpid())).open("a", encoding="utf-8") as file:
                file.write(place + "\n")


class RecordingFinder(importlib.abc.MetaPathFinder):
    """Answers for the module of the errors alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != ERRORS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = RecordingLoader(spec.loader, self.folder)
        return spec


if "NDTRAIN_ERROR_RECORD" in os.environ:
    record = Path(os.environ["NDTRAIN_ERROR_RECORD"])
    record.mkdir(parents=True, exist_ok=True)
    sys.meta_path.insert(0, RecordingFinder(record))
