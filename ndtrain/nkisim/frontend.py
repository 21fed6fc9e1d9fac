"""Python that the NKI compiler does not accept, found before a kernel runs.

The compiler reads the kernel and every function that it calls as a subset of Python:
nki/get-started/nki-language-guide.rst and nki/migration/index.rst of the Neuron SDK, and what the
kernels of nki-library keep to. `is None` is accepted, since those kernels use it throughout.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from ndtrain.nkisim.errors import LanguageError
from ndtrain.nkisim.objects import NKIObject

_REFUSED: dict[type[ast.AST], tuple[str, str]] = {
    ast.Lambda: ("a lambda", "define a function"),
    ast.ListComp: ("a list comprehension", "append in a for loop"),
    ast.SetComp: ("a set comprehension", "use a list and a for loop"),
    ast.DictComp: ("a dict comprehension", "fill a dict in a for loop"),
    ast.GeneratorExp: ("a generator expression", "use a for loop"),
    ast.Yield: ("`yield`", "return a list"),
    ast.YieldFrom: ("`yield from`", "return a list"),
    ast.Await: ("`await`", "kernels are synchronous"),
    ast.AsyncFor: ("`async for`", "kernels are synchronous"),
    ast.AsyncWith: ("`async with`", "kernels are synchronous"),
    ast.AsyncFunctionDef: ("an async function", "kernels are synchronous"),
    ast.Try: ("`try`", "check the condition with `assert` or `if`"),
    ast.TryStar: ("`try`", "check the condition with `assert` or `if`"),
    ast.Raise: ("`raise`", "use `assert`"),
    ast.Global: ("`global`", "pass the value as an argument; kernels are pure functions"),
    ast.Nonlocal: ("`nonlocal`", "pass the value as an argument"),
    ast.Delete: ("`del`", "leave the name alone"),
    ast.Set: ("a set", "use a list or a tuple"),
    ast.Match: ("`match`", "use `if` and `elif`"),
    ast.NamedExpr: ("`:=`", "assign on a line of its own"),
    ast.Import: ("an import inside a kernel", "import at the top of the file"),
    ast.ImportFrom: ("an import inside a kernel", "import at the top of the file"),
    ast.ClassDef: ("a class inside a kernel", "define it at the top of the file"),
}
_CONTEXTS = ("no_reorder",)
_SIMULATOR = str(Path(__file__).resolve().parent)


def function_of(kernel: Any) -> Callable[..., Any]:
    """The plain function below `@nki.jit`."""
    return getattr(kernel, "function", kernel)


@functools.lru_cache(maxsize=256)
def check(function: Callable[..., Any], api: str = "0.6") -> None:
    """Refuse constructs outside NKI's subset, in the kernel and in what it calls.

    Functions of other top-level packages are left alone. Raises LanguageError.
    """
    seen: set[Any] = set()
    package = (function.__module__ or "").split(".")[0]
    _follow(function, package, api, seen)


def _follow(function: Any, package: str, api: str, seen: set[Any]) -> None:
    if function in seen or not isinstance(function, types.FunctionType):
        return
    if function.__code__.co_filename.startswith(_SIMULATOR):
        return
    seen.add(function)
    tree = _parse(function)
    if tree is None:
        return  # typed at a prompt or generated: there is no text to check
    _Checker(function.__code__.co_filename, api).visit(tree)
    for value in _callees(tree, function):
        if (getattr(value, "__module__", "") or "").split(".")[0] != package:
            continue
        if isinstance(value, type):
            if value.__module__.split(".")[:2] != ["ndtrain", "nkisim"]:
                _check_class(value)
        else:
            _follow(value, package, api, seen)


def _parse(function: types.FunctionType) -> ast.FunctionDef | None:
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return None
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None  # an expression cut out of its line
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 1)
    found = tree.body[0]
    return found if isinstance(found, ast.FunctionDef) else None


def _callees(tree: ast.FunctionDef, function: types.FunctionType) -> Iterator[Any]:
    """What the names called in `tree` mean in the globals of `function`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        value: Any = None
        if isinstance(node.func, ast.Name):
            value = function.__globals__.get(node.func.id)
        elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            owner = function.__globals__.get(node.func.value.id)
            if isinstance(owner, types.ModuleType):
                value = getattr(owner, node.func.attr, None)
        if value is not None:
            yield function_of(value)


def _check_class(cls: type) -> None:
    if issubclass(cls, (NKIObject, Enum)) or not cls.__module__:
        others = [b for b in cls.__bases__ if not issubclass(b, (NKIObject, Enum))]
        if not others:
            return
    raise LanguageError(
        f"class {cls.__name__} is used in a kernel and does not inherit from nl.NKIObject alone",
        f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}",
        "derive it from nl.NKIObject and from nothing else",
    )


class _Checker(ast.NodeVisitor):
    """Raises LanguageError at the first construct that the compiler refuses."""

    def __init__(self, filename: str, api: str) -> None:
        self._filename = filename
        self._old = api == "0.2"
        self._depth = 0

    def _refuse(self, node: ast.AST, what: str, help: str) -> None:
        line = getattr(node, "lineno", 0)
        raise LanguageError(
            f"the NKI compiler does not accept {what}", f"{self._filename}:{line}", help
        )

    def visit(self, node: ast.AST) -> None:
        found = _REFUSED.get(type(node))
        if found is not None:
            self._refuse(node, *found)
        super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if self._depth and self._old:
            self._refuse(node, "a nested function", "NKI 0.2 has no loop bodies as functions")
        arguments = node.args
        if arguments.kwonlyargs and not self._old:
            self._refuse(node, "keyword-only parameters (`*`)", "put defaults last instead")
        if arguments.vararg or arguments.kwarg:
            self._refuse(node, "`*args` or `**kwargs`", "name every parameter")
        self._depth += 1
        for statement in node.body:
            self.visit(statement)
        self._depth -= 1

    def visit_Compare(self, node: ast.Compare) -> None:
        for op, right in zip(node.ops, node.comparators, strict=True):
            none = isinstance(right, ast.Constant) and right.value is None
            if isinstance(op, (ast.Is, ast.IsNot)) and not none and not self._old:
                self._refuse(node, "`is` between values", "compare with == or !=")
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        if node.orelse:
            self._refuse(node, "`else` of a loop", "use a flag")
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        if node.orelse:
            self._refuse(node, "`else` of a loop", "use a flag")
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key in node.keys:
            if isinstance(key, ast.Constant) and not isinstance(key.value, str):
                self._refuse(node, "a dict with keys that are no strings", "use strings")
        self.generic_visit(node)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            call = item.context_expr
            name = call.func if isinstance(call, ast.Call) else call
            last = name.attr if isinstance(name, ast.Attribute) else getattr(name, "id", "")
            if last not in _CONTEXTS:
                self._refuse(node, f"`with {ast.unparse(call)}`", "only nl.no_reorder() is one")
        self.generic_visit(node)
