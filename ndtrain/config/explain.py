"""A configuration in words: resolved values with their origins, the JSON schema, the reference.

show(loaded, with_origins=True)   # YAML text that loads again
json_schema()                     # what configs/schema.json holds
reference()                       # every key, commented, with its default
reference("optim.lr")             # one section or one key
"""

import json
from typing import Any

import yaml

from ndtrain.config import keys
from ndtrain.config.load import Loaded
from ndtrain.config.schema import Config
from ndtrain.core.errors import UserError

_COMMENT_COLUMN = 44
# Quoted, although ours reads some of them as text: other YAML readers do not.
_WORDS = ("null", "true", "false", "on", "off", "yes", "no", "y", "n")


def to_yaml(config: Config) -> str:
    """Every key of a configuration; loads again to an equal one."""
    return _render(config.model_dump(mode="json"), {})


def show(loaded: Loaded, with_origins: bool) -> str:
    """Every key with its value, and in a comment where the value came from."""
    origins = loaded.origins if with_origins else {}
    return _render(loaded.config.model_dump(mode="json"), origins)


def _render(values: dict[str, dict[str, Any]], origins: dict[str, str]) -> str:
    lines = []
    for section, entries in values.items():
        lines.append(f"{section}:")
        for name, value in entries.items():
            line = f"  {name}: {scalar(value)}"
            origin = origins.get(f"{section}.{name}")
            lines.append(f"{line:<{_COMMENT_COLUMN}}  # {origin}" if origin else line)
    return "\n".join(lines) + "\n"


def scalar(value: object) -> str:
    """One value as one line of YAML that the strict reader takes back unchanged."""
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return json.dumps(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        letters = value.replace("_", "").replace("/", "")
        if letters.isalpha() and value.isascii() and value.lower() not in _WORDS:
            return value
        return yaml.safe_dump(value, default_style='"', width=float("inf")).strip()
    assert isinstance(value, list | tuple)
    return f"[{', '.join(scalar(item) for item in value)}]"


def json_schema(key: str = "") -> dict[str, Any]:
    """JSON schema of a config file, of one section or of one key."""
    schema = Config.model_json_schema()
    if key:
        _require(key)
        part = keys.section(key)
        if part is not None:
            return part.model_json_schema()
        section, _, name = key.partition(".")
        return {"title": key, **schema["$defs"][section.capitalize()]["properties"][name]}
    names = {"type": "array", "items": {"type": "string"}}
    extends = {
        "anyOf": [{"type": "string"}, names],
        "description": "Presets or files whose values this file starts from, one level deep.",
    }
    schema["properties"] = {"extends": extends, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def reference(key: str = "") -> str:
    """Every key (or those of one section, or one) with meaning, legal values and default."""
    if key:
        _require(key)
    sections = [key.partition(".")[0]] if key else list(keys.SECTIONS)
    return "\n".join(_section(name, key) for name in sections)


def _section(name: str, key: str) -> str:
    section = keys.section(name)
    assert section is not None
    lines = [f"# {line}" for line in (section.__doc__ or "").strip().splitlines()]
    lines.append(f"{name}:")
    for entry, info in section.model_fields.items():
        full = f"{name}.{entry}"
        if key in ("", name, full):
            lines += [f"  # {line.strip()}" for line in (info.description or "").splitlines()]
            lines.append(f"  # Legal: {keys.legal_values(full)}.")
            lines.append(f"  {entry}: {scalar(info.default)}")
    return "\n".join(lines) + "\n"


def _require(key: str) -> None:
    if key not in keys.SECTIONS and keys.field(key) is None:
        what, help_text = keys.unknown_key(key)
        raise UserError(what, "--field", help_text)
