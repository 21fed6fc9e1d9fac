"""Rules of this repository that no linter knows: sizes, and tests that can fail."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
FOLDERS = ("ndtrain", "kernels", "tests")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"), str(file))


def code_lines(function: Function) -> int:
    """Lines from `def` to the end, without decorators and docstring."""
    start = function.lineno
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        start += (first.end_lineno or first.lineno) - first.lineno + 1
    return (function.end_lineno or start) - start + 1


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_longer_than_its_reader_bears(folder: str) -> None:
    lengths = {file: len(file.read_text("utf-8").splitlines()) for file in sources(folder)}
    too_long = {
        str(file.relative_to(ROOT)): length
        for file, length in lengths.items()
        if length > MAX_FILE_LINES
    }
    assert lengths
    assert not too_long


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_function_fits_a_screen(folder: str) -> None:
    too_long = {
        f"{file.relative_to(ROOT)}:{function.lineno} {function.name}": code_lines(function)
        for file in sources(folder)
        for function in functions(parsed(file))
        if code_lines(function) > MAX_FUNCTION_LINES
    }
    assert not too_long


def test_every_source_is_ascii() -> None:
    files = sources("ndtrain", "kernels")
    assert not [str(file) for file in files if not file.read_text("utf-8").isascii()]


def test_every_module_says_what_it_is() -> None:
    files = [file for file in sources("ndtrain", "kernels") if file.read_text("utf-8").strip()]
    undescribed = [str(file) for file in files if not ast.get_docstring(parsed(file))]
    assert files
    assert not undescribed


def asserts(node: ast.AST, asserting: set[str]) -> bool:
    """Whether anything in `node` can fail a test: directly, or in a function that it names."""
    for part in ast.walk(node):
        if isinstance(part, ast.Assert):
            return True
        if isinstance(part, ast.keyword) and ast.unparse(part) == "check=True":
            return True  # subprocess.run
        name = part.attr if isinstance(part, ast.Attribute) else getattr(part, "id", "")
        if name in asserting or name.startswith("assert_"):
            return True
    return False


def test_every_test_can_fail() -> None:
    trees = {file: parsed(file) for file in sources("tests")}
    asserting = {"raises", "warns", "fail", "gradcheck", "simplefilter"}
    helpers = [
        function
        for tree in trees.values()
        for function in functions(tree)
        if not function.name.startswith("test_")
    ]
    # Helpers call helpers: repeat until no new one is found.
    while new := {f.name for f in helpers if f.name not in asserting and asserts(f, asserting)}:
        asserting |= new
    idle = [
        f"{file.relative_to(ROOT)}:{function.lineno} {function.name}"
        for file, tree in trees.items()
        for function in functions(tree)
        if function.name.startswith("test_") and not asserts(function, asserting)
    ]
    assert len(trees) > 10
    assert not idle
