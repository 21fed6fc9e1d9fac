"""The kernels use no name, keyword or import beyond what API_SUBSET.json lists."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import ndtrain.kernels
import pytest
from ndtrain.kernels import API_SUBSET, KERNELS

FOLDER = Path(ndtrain.kernels.__file__).parent
FILES = sorted(FOLDER.glob("*.py"))
SUBSET = json.loads(API_SUBSET.read_text())
MODULES = {"nki": "nki", "nl": "nki.language", "nisa": "nki.isa", "ncc": "nki.collectives"}
POSITIONAL = {
    ("nl", "ndarray"): 1,
    ("nl", "program_id"): 1,
    ("nl", "num_programs"): 1,
    ("ncc", "ReplicaGroup"): 1,
}


def uses(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of every nki.x, nl.x, nisa.x and ncc.x."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        if node.value.id in MODULES:
            yield MODULES[node.value.id], node.attr


def calls(tree: ast.AST) -> Iterator[tuple[str, str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id in MODULES and owner.id != "nki":
                yield owner.id, node.func.attr, node


def siblings(path: Path) -> set[Path]:
    """The file and the files of this package that it imports, in turn."""
    found, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        found.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                other = FOLDER / f"{node.module}.py"
                if other not in found:
                    waiting.append(other)
    return found


def names_of_targets(files: set[Path]) -> set[tuple[str, str]]:
    return {use for file in files for use in uses(ast.parse(file.read_text()))}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots = {str(node.module).split(".")[0]}
        else:
            continue
        allowed = {"nki", "numpy"} | set(sys.stdlib_module_names)
        assert roots <= allowed, f"{path.name}:{node.lineno} imports {roots - allowed}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_calls_use_listed_keywords(path: Path) -> None:
    """By keyword only: the positions of affine_select changed between 0.2 and 0.3."""
    for owner, name, call in calls(ast.parse(path.read_text())):
        entry = SUBSET[MODULES[owner]].get(name, {})
        keywords = {keyword.arg for keyword in call.keywords}
        assert keywords <= set(entry.get("keywords", ())), f"{path.name}:{call.lineno} {name}"
        assert len(call.args) <= POSITIONAL.get((owner, name), 0), f"{path.name}:{call.lineno}"


def test_the_list_is_exactly_what_is_used() -> None:
    used = names_of_targets(set(FILES))
    listed = {(m, name) for m in MODULES.values() for name in SUBSET.get(m, {})}
    assert used == listed


@pytest.mark.parametrize("name", KERNELS)
def test_trn1_has_what_its_kernels_use(name: str) -> None:
    """Clusters of trn1 are pinned to NKI 0.2."""
    kernel = KERNELS[name]
    for module, attribute in names_of_targets(siblings(FOLDER / f"{kernel.module}.py")):
        entry = SUBSET[module][attribute]
        if "trn1" in kernel.targets:
            assert entry["since"] == "0.2", f"{module}.{attribute} is of {entry['since']}"
        if "generations" in entry:
            # Only core_barrier: reached with two cores, which trn1 cannot launch.
            assert attribute == "core_barrier" or not set(kernel.targets) - set(
                entry["generations"]
            )
