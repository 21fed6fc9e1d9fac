"""Strict YAML: bytes of a file, or the text of one override, to values that know their line.

    read_file(Path("my.yaml"), "my.yaml", errors)   # -> dict[str, Node]
    read_value("[1e-4, off]", where, errors)        # -> Node([0.0001, "off"], where)

Scalars follow YAML 1.2's core schema, so the traps of YAML 1.1 are closed: `1e-4` is a number;
`off`, `no`, `010`, `12:30` and `1_000` are strings, which the schema then refuses where it wants a
number or a boolean. Tags, anchors, aliases, merge keys and duplicate keys are errors, because each
hides a value from the reader.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from ndtrain.core.errors import UserError

MAX_FILE_BYTES = 1_000_000
MAX_DEPTH = 20

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_NULL = re.compile(r"~|null|Null|NULL|")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NO_ALIAS = "an alias (`*name`) is not read; a text that starts with * needs quotes"
_NO_ANCHOR = "an anchor (`&name`) is not read; a text that starts with & needs quotes"
_NO_TAG = "a tag (`!name`) is not read; a text that starts with ! needs quotes"
_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Node:
    """A value and the place it was written. `value` is a scalar, a list, or a dict of Nodes."""

    value: object
    where: str


class _Loader(yaml.SafeLoader):
    """Composes nodes with YAML 1.2 tags; values are built by `_Builder`, never by PyYAML.

    The pure-Python loader, because libyaml's composer cannot be overridden; configs are short.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refuse(event, _NO_ALIAS)
        if event.anchor is not None:
            raise _refuse(event, _NO_ANCHOR)
        if getattr(event, "tag", None) is not None:
            raise _refuse(event, _NO_TAG)
        if self.depth >= MAX_DEPTH:
            raise _refuse(event, f"nested more than {MAX_DEPTH} deep")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that ndtrain does not read."""


def _refuse(event: yaml.Event, problem: str) -> _Refused:
    mark = event.start_mark
    assert isinstance(mark, yaml.Mark)
    return _Refused(problem=problem, problem_mark=mark)


# Ours instead of YAML 1.1's. PyYAML indexes them by a scalar's first character; None means any.
_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern in (("null", _NULL), ("bool", _BOOL), ("int", _INT), ("float", _FLOAT)):
    _whole = re.compile(rf"(?:{_pattern.pattern})\Z")
    _Loader.add_implicit_resolver(_PREFIX + _kind, _whole, None)


@dataclass(frozen=True)
class _Builder:
    """Turns composed nodes into `Node`s and notes what is wrong with single keys and values."""

    place: str
    is_file: bool
    errors: list[UserError]

    def where(self, node: yaml.Node) -> str:
        return f"{self.place}:{node.start_mark.line + 1}" if self.is_file else self.place

    def build(self, node: yaml.Node) -> Node:
        where = self.where(node)
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node), where)
        if isinstance(node, yaml.SequenceNode):
            return Node([plain(self.build(item)) for item in node.value], where)
        assert isinstance(node, yaml.ScalarNode)
        return Node(self._scalar(node), where)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Node]:
        mapping: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key, where = key_node.value, self.where(key_node)
            if not isinstance(key, str):
                self.errors.append(
                    UserError("a key must be a name, not a list or a mapping", where)
                )
            elif key in mapping:
                first = f"first written at {mapping[key].where}"
                self.errors.append(UserError(f"duplicate key {key!r}", where, first))
            else:
                # The key's line, not the value's: a value may start on the next line.
                mapping[key] = Node(self.build(value_node).value, where)
        return mapping

    def _scalar(self, node: yaml.ScalarNode) -> object:
        text, kind = node.value, node.tag.removeprefix(_PREFIX)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if kind == "int":
            try:
                return int(text)
            except ValueError:  # Python refuses to convert more than 4300 digits
                self.errors.append(UserError("a number of thousands of digits", self.where(node)))
        return text


def plain(node: Node) -> object:
    """The value alone, without places, for a node of any depth."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return node.value


def read_file(path: Path, shown: str, errors: list[UserError]) -> dict[str, Node]:
    """The mapping in a YAML file; errors name `shown`, the path as the user knows it.

    Faults of single keys are appended to `errors`; a file that cannot be read at all raises.
    """
    node = _compose(_read_text(path, shown), _Builder(shown, True, errors))
    if node is None:
        raise UserError(
            "the file is empty", shown, "`ndtrain config schema --format yaml` has every key"
        )
    if not isinstance(node.value, dict):
        kind = "a list" if isinstance(node.value, list) else "a single value"
        raise UserError(
            f"the file holds {kind} instead of sections",
            node.where,
            "write e.g. `train:` and below it `  steps: 100`",
        )
    return node.value


def read_value(text: str, where: str, errors: list[UserError]) -> Node:
    """The value of an override such as `1e-4`, `[a, b]` or `null`."""
    node = _compose(text, _Builder(where, False, errors))
    if node is None:
        raise UserError(
            "a value is missing", where, "write `null` or '\"\"' if that is what you mean"
        )
    return node


def _compose(text: str, builder: _Builder) -> Node | None:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _from_yaml(error, builder) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        where = f"{builder.place}:{line}" if builder.is_file else builder.place
        raise UserError(
            f"the character U+{ord(text[error.position]):04X} is not allowed in YAML", where
        ) from None
    return None if root is None else builder.build(root)


def _from_yaml(error: yaml.MarkedYAMLError, builder: _Builder) -> UserError:
    mark = error.problem_mark or error.context_mark
    where = f"{builder.place}:{mark.line + 1}" if builder.is_file and mark else builder.place
    problem = error.problem or error.context or "cannot be parsed"
    if "alias" in (error.context or ""):
        # A glob such as *.txt: the scanner stumbles over it before it is an alias.
        return UserError(_NO_ALIAS, where)
    help_text = "YAML indents with spaces, never with tabs" if "'\\t'" in problem else ""
    what = problem if isinstance(error, _Refused) else f"not valid YAML: {problem}"
    return UserError(what, where, help_text)


def _read_text(path: Path, shown: str) -> str:
    if path.is_dir():
        raise UserError("a folder, where a YAML file was expected", shown)
    if path.exists() and not path.is_file():
        raise UserError("not a regular file", shown)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", shown) from None
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"larger than {MAX_FILE_BYTES} bytes, so hardly a config", shown)
    if content.startswith(_UTF16_MARKS):
        raise UserError("encoded as UTF-16", shown, "save it as UTF-8")
    if b"\0" in content:
        raise UserError("a binary file, where YAML was expected", shown)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError("not UTF-8 text", f"{shown}:{line}", "save it as UTF-8") from None
