"""Loads a configuration: schema defaults < what it extends < the file < overrides.

    loaded = load("quickstart", ["optim.lr=1e-4"])
    loaded = load("qwen3_0.6b+pretrain")          # a size and a recipe, no file for the product
    loaded.config.optim.lr                        # typed and frozen
    loaded.origins["optim.lr"]                    # "the command line"

A file may say `extends: [sizes/tiny, recipes/pretrain]`; what is extended may not extend again.
Raises UserErrors with everything that is wrong, each with its file and line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from pydantic import ValidationError

from ndtrain.config import keys, presets, reader
from ndtrain.config.presets import Source
from ndtrain.config.reader import Node
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError, UserErrors
from ndtrain.core.suggest import nearest

COMMAND_LINE = "the command line"
DEFAULT = "default"

Layer = dict[str, Node]
"""Dotted key -> value, as one file or the command line gives them."""


@dataclass(frozen=True)
class Loaded:
    """A configuration and how it came about."""

    config: Config
    origins: dict[str, str]
    """Dotted key -> "default", "configs/sizes/tiny.yaml:12" or "the command line"."""
    source: str
    """The preset, path or `+` expression that was asked for."""
    overrides: tuple[str, ...] = ()


def load(config: str, overrides: Sequence[str] = ()) -> Loaded:
    """Load a preset name, a path to YAML, or fragments joined by `+`; then apply `a.b=v`."""
    errors: list[UserError] = []
    layers = [*_read_all(config, errors), _read_overrides(overrides, errors)]
    merged: Layer = {}
    for layer in layers:
        merged |= _known(layer, errors)
    parsed = _validate(merged, errors)
    if errors:
        fail(errors)
    assert parsed is not None
    origins = {key: merged[key].where if key in merged else DEFAULT for key in keys.FIELDS}
    return Loaded(parsed, origins, config, tuple(overrides))


def fail(errors: list[UserError]) -> NoReturn:
    """Raise one error as itself and several together, without repetitions."""
    unique = list({str(error): error for error in errors}.values())
    raise unique[0] if len(unique) == 1 else UserErrors(unique)


def _read_all(config: str, errors: list[UserError]) -> list[Layer]:
    try:
        sources = presets.split(config)
    except UserError as error:
        errors.append(error)
        return []
    may_extend = len(sources) == 1
    return [layer for source in sources for layer in _read(source, may_extend, errors)]


def _read(source: Source, may_extend: bool, errors: list[UserError]) -> list[Layer]:
    """The layers of one file: those it extends, then its own."""
    try:
        mapping = reader.read_file(source.path, source.shown, errors)
    except UserError as error:
        errors.append(error)
        return []
    extends = mapping.pop("extends", None)
    layers = _read_bases(source, extends, may_extend, errors) if extends else []
    return [*layers, _flatten(mapping, errors)]


def _read_bases(
    source: Source, extends: Node, may_extend: bool, errors: list[UserError]
) -> list[Layer]:
    bases = [extends.value] if isinstance(extends.value, str) else extends.value
    if not may_extend:
        what = f"{source.shown} extends others, so it can be neither extended nor joined by `+`"
        help_text = f"name what it extends instead: {bases}"
        errors.append(UserError(what, extends.where, help_text))
        return []
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        help_text = "write e.g. `extends: [sizes/tiny, recipes/pretrain]`"
        errors.append(UserError("`extends` takes one name or a list", extends.where, help_text))
        return []
    layers: list[Layer] = []
    for base in bases:
        try:
            found = presets.locate(base, source.path.parent, extends.where)
        except UserError as error:
            errors.append(error)
        else:
            layers += _read(found, False, errors)
    return layers


def _flatten(mapping: dict[str, Node], errors: list[UserError], prefix: str = "") -> Layer:
    layer: Layer = {}
    for name, node in mapping.items():
        key = f"{prefix}{name}"
        if "." in name:
            help_text = f"write `{name.partition('.')[0]}:` and the rest indented below it"
            errors.append(
                UserError(f"`{key}`: dots are for the command line", node.where, help_text)
            )
        elif isinstance(node.value, dict) and node.value:
            layer |= _flatten(node.value, errors, f"{key}.")
        else:
            layer[key] = node
    return layer


def _read_overrides(overrides: Sequence[str], errors: list[UserError]) -> Layer:
    layer: Layer = {}
    for override in overrides:
        key, equals, text = override.removeprefix("--").partition("=")
        if not equals or not key:
            what = f"`{override}` is not an override"
            errors.append(UserError(what, COMMAND_LINE, _override_help(key)))
            continue
        try:
            node = reader.read_value(text, COMMAND_LINE, errors)
        except UserError as error:
            what = f"`{override}`: {error.what}"
            errors.append(UserError(what, COMMAND_LINE, error.help))
        else:
            if isinstance(node.value, dict) and node.value:
                layer |= _flatten(node.value, errors, f"{key}.")
            else:
                layer[key] = node
    return layer


def _override_help(key: str) -> str:
    example = key if key in keys.FIELDS else nearest(key, keys.FIELDS) or "optim.lr"
    return f"overrides look like `{example}=VALUE`"


def _known(layer: Layer, errors: list[UserError]) -> Layer:
    """The layer without keys that the schema lacks, each of which becomes an error."""
    known: Layer = {}
    for key, node in layer.items():
        if key in keys.SECTIONS:
            # `optim:` with every line below it commented out.
            if node.value not in (None, {}) or node.where == COMMAND_LINE:
                what = f"`{key}` is a section, not a value"
                errors.append(UserError(what, node.where, f"it has {keys.legal_values(key)}"))
        elif keys.field(key) is None:
            what, help_text = _unknown(key, node)
            errors.append(UserError(what, node.where, help_text))
        else:
            known[key] = node
    return known


def _unknown(key: str, node: Node) -> tuple[str, str]:
    what, help_text = keys.unknown_key(key)
    if key == "extends" and node.where == COMMAND_LINE:
        help_text = "join presets with `+`, e.g. `tiny+pretrain`"
    return what, help_text


def _validate(merged: Layer, errors: list[UserError]) -> Config | None:
    values: dict[str, dict[str, object]] = {}
    for key, node in merged.items():
        name, _, rest = key.partition(".")
        values.setdefault(name, {})[rest] = reader.plain(node)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        wrong = dict.fromkeys(".".join(map(str, detail["loc"][:2])) for detail in error.errors())
        errors.extend(_wrong_value(key, merged[key]) for key in wrong)
        return None


def _wrong_value(key: str, node: Node) -> UserError:
    """One error a key, whatever number of union members pydantic tried."""
    value = reader.plain(node)
    legal = f"`{key}` takes {keys.legal_values(key)}"
    hint = keys.misread(value, key)
    if not hint and isinstance(value, str):
        word = nearest(value, keys.choices(key))
        hint = f"did you mean `{word}`" if word else ""
    return UserError(
        f"{key}={_shown(value)} is not legal", node.where, "; ".join(filter(None, (hint, legal)))
    )


def _shown(value: object) -> str:
    """A value as YAML would have it, cut to a line's length."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
