"""Reads what `neuron-profile view --output-format json` writes.

    profile = read_profile(Path("system_profile.json"))
    profile.kind, profile.events            # "system" or "device", in the order of the file

The form was taken from AWS's documentation (Neuron Profile User Guide, "JSON"; Neuron Profiler 2.0,
"Generating JSON Output From Profiles"); no file from hardware was ever seen. So everything that is
relied on is checked, and a file of another form is refused with the name of what differs.

device: `instruction`, a list of {timestamp, duration, label, opcode, ...}; on the device's clock
system: `trace_events`, a list of {timestamp, duration, name, group, ...}; nanoseconds since 1970
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ndtrain.core.errors import UserError

Kind = Literal["device", "system"]

# Of each kind: the list, and the fields of its entries that give the track and the name.
_FORMS: dict[Kind, tuple[str, str, str]] = {
    "device": ("instruction", "label", "opcode"),
    "system": ("trace_events", "group", "name"),
}
_HELP = "write it with `neuron-profile view --output-format json`"


@dataclass(frozen=True, slots=True)
class ProfileEvent:
    """An instruction of an engine, or a call of the runtime; `details`: its other fields."""

    name: str
    track: str
    start_ns: int
    stop_ns: int
    details: dict[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Profile:
    kind: Kind
    file: Path
    events: tuple[ProfileEvent, ...]


def read_profile(file: Path) -> Profile:
    """Raises UserError for a file that is not there, of another form, or without events."""
    content = _read_object(file)
    kinds = [kind for kind, (key, _, _) in _FORMS.items() if key in content]
    if len(kinds) != 1:
        found = ", ".join(f"`{key}`" for key in sorted(content)[:8]) or "nothing"
        wanted = " and ".join(f"`{key}`" for key, _, _ in _FORMS.values())
        raise UserError(
            f"not the JSON of a Neuron profile: it has {found}, not one of {wanted}",
            str(file),
            "open it in ui.perfetto.dev itself" if "traceEvents" in content else _HELP,
        )
    (kind,) = kinds
    key, track_field, name_field = _FORMS[kind]
    entries = content[key]
    if not isinstance(entries, list) or not entries:
        raise UserError(f"`{key}` is not a list of events", str(file), _HELP)
    events = tuple(
        _event(entry, track_field, name_field, f"{key}[{index}]", file)
        for index, entry in enumerate(entries)
    )
    return Profile(kind, file, events)


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", str(file), _HELP) from None
    except ValueError as error:
        raise UserError(f"not JSON: {error}", str(file), _HELP) from None
    if not isinstance(content, dict):
        raise UserError("not a JSON object", str(file), _HELP)
    return content


def _event(
    entry: object, track_field: str, name_field: str, place: str, file: Path
) -> ProfileEvent:
    if not isinstance(entry, dict):
        raise UserError(f"`{place}` is not an object", str(file), _HELP)
    times, texts = ("timestamp", "duration"), (track_field, name_field)
    for field in (*times, *texts):
        value: Any = entry.get(field)
        if field in times:
            # JSON's true is an int of Python's.
            is_usable = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        else:
            is_usable = isinstance(value, str) and value != ""
        if not is_usable:
            form = "nanoseconds as an integer" if field in times else "a text"
            problem = f"has no `{field}`" if value is None else f"has `{field}` {value!r}"
            raise UserError(f"`{place}` {problem}; {form} is needed", str(file), _HELP)
    start_ns = entry["timestamp"]
    details = {
        field: value
        for field, value in entry.items()
        if field not in (*times, *texts) and isinstance(value, str | int | float)
    }
    return ProfileEvent(
        entry[name_field], entry[track_field], start_ns, start_ns + entry["duration"], details
    )
