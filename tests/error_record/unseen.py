"""Names each place of the source that can refuse something and that no test made refuse.

    python tests/error_record/unseen.py FOLDER      (what sitecustomize.py wrote)

A place is a call of `UserError` or of a class below it. Exit code 1 if one was not seen.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# No refusals of their own: one carries others, the other leaves the word to the first rank.
CARRIERS = {"UserErrors", "Bystander"}


def sources() -> list[Path]:
    folders = (ROOT / "ndtrain", ROOT / "kernels")
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


def error_classes(trees: dict[Path, ast.Module]) -> set[str]:
    """`UserError` and every class below it, by name."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"UserError"}
    while below := {name for name, of in bases.items() if of & found} - found:
        found |= below
    return found - CARRIERS


def places(tree: ast.Module, names: set[str]) -> Iterator[tuple[int, int]]:
    """First and last line of each call that makes an error."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if name in names:
                yield node.lineno, node.end_lineno or node.lineno


def seen_lines(folder: Path) -> dict[Path, set[int]]:
    lines: dict[Path, set[int]] = defaultdict(set)
    for file in folder.iterdir():
        for place in file.read_text("utf-8").splitlines():
            path, _, line = place.rpartition(":")
            lines[Path(path).resolve()].add(int(line))
    return lines


def main(folder: Path) -> int:
    trees = {file: ast.parse(file.read_text("utf-8")) for file in sources()}
    names = error_classes(trees)
    seen = seen_lines(folder)
    unseen = [
        f"{file.relative_to(ROOT)}:{first}"
        for file, tree in trees.items()
        for first, last in places(tree, names)
        if not seen[file] & set(range(first, last + 1))
    ]
    total = sum(1 for tree in trees.values() for _ in places(tree, names))
    print(f"{total - len(unseen)} of {total} refusals were seen in a test")
    for place in unseen:
        print(f"  not seen: {place}")
    return bool(unseen)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
