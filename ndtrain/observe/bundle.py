"""What a report of a bug needs of a run, redacted, as one archive.

    contents = write_bundle(run_path, Path("bundle.tar.gz"), {"doctor.txt": text}, redactor)
    contents.packed, contents.left_out           # (name, bytes) and (name, why)

Configuration, status, plan, environment, the ends of metrics, events and logs (with stacks and
crash reports), each rank's last collectives, names and sizes of checkpoints. No weights, no data,
no traces, nothing that is not a file of a run. `redactor_for` knows what of this machine and this
run to take out.
"""

import getpass
import gzip
import io
import json
import os
import platform
import re
import site
import struct
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import ndtrain
from ndtrain.core.atomic import write_bytes
from ndtrain.core.errors import UserError
from ndtrain.observe.redact import Redactor, secret_values
from ndtrain.observe.run_directory import RunDirectory

MAX_LOG_BYTES = 256 * 1024  # of the end of a file
MAX_LOGS = 64  # ranks; those beyond are left out by name

_WHOLE = ("config.yaml", "overrides.txt", "origins.json", "env.json", "plan.json", "status.json")
_ENDS = ("metrics.jsonl", "events.jsonl")
_LOG = re.compile(r"log/(rank_\d+\.log|hang\.txt|[a-z0-9_]+_rank_\d+\.json|[a-z]+\.(txt|json))")
_OUTSIDE = {
    "checkpoints": "weights; their names and sizes are in checkpoints.txt",
    "trace": "large; the report shows a step of it",
    "report.html": "made from what is here",
}
# Variables that name machines.
_HOST_VARIABLES = ("HOSTNAME", "HOST", "MASTER_ADDR", "SLURMD_NODENAME", "SLURM_SUBMIT_HOST")
_PLACES = (
    ("data", "paths"),
    ("data", "tokenizer"),
    ("data", "cache_directory"),
    ("model", "weights"),
    ("checkpoint", "resume"),
    ("run", "directory"),
)


@dataclass
class Contents:
    packed: list[tuple[str, int]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def write_bundle(
    run: Path, destination: Path, more: Mapping[str, str], redactor: Redactor
) -> Contents:
    """more: further texts, name -> text. Raises UserError for what is no run, OSError."""
    if not (run / "config.yaml").is_file() and not (run / "status.json").is_file():
        raise UserError("not a run directory", str(run), "give the folder of a run")
    contents = Contents()
    texts = _files(run, redactor, contents)
    texts |= {"checkpoints.txt": _checkpoints(run), "collectives.txt": _collectives(run)}
    texts |= {name: redactor.text(text) for name, text in more.items()}
    stream = io.BytesIO()
    # No time stamps and no owner: the archive of the same texts has the same bytes.
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, text in sorted(texts.items()):
            data = text.encode()
            entry = tarfile.TarInfo(f"ndtrain-bundle/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
            contents.packed.append((name, len(data)))
    write_bytes(destination, stream.getvalue())
    return contents


def redactor_for(run: Path) -> Redactor:
    """Of this machine, its user and environment, and of what the run's files name."""
    directory = RunDirectory(run)
    config, environment = _parsed(directory.config_file), _parsed(directory.environment_file)
    hosts = {platform.node(), str(environment.get("hostname", ""))}
    hosts |= {os.environ[name] for name in _HOST_VARIABLES if name in os.environ}
    hosts |= {host.partition(".")[0] for host in hosts}
    git = environment.get("git")
    site_packages = [Path(folder) for folder in [*site.getsitepackages(), sys.prefix]]
    roots = {
        "<run>": run.resolve(),
        "<ndtrain>": Path(ndtrain.__file__).resolve().parent,
        "<python>": Path(os.__file__).resolve().parent,
        "<site-packages>": site_packages[0],
        "<environment>": site_packages[-1],
    }
    return Redactor(
        home=Path.home(),
        user=_user(),
        hosts=[host for host in hosts if len(host) > 1],
        secrets=secret_values(os.environ),
        roots=roots,
        places=_places(config),
        commits=[str(git.get("commit"))] if isinstance(git, dict) else [],
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return ""


def _places(config: dict[str, Any]) -> list[str]:
    """Paths that the configuration names, relative ones too."""
    found: list[str] = []
    for section, key in _PLACES:
        values = config.get(section)
        value = values.get(key) if isinstance(values, dict) else None
        found += value if isinstance(value, list) else [value] if value else []
    # A bare word is no path of anybody's, and `data` would be taken out of `data.paths` too.
    return [str(place) for place in found if re.search(r"[/~*.]", str(place)) and place != "."]


def _parsed(file: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(file.read_text("utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


def _files(run: Path, redactor: Redactor, contents: Contents) -> dict[str, str]:
    texts: dict[str, str] = {}
    num_logs = 0
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        top = name.partition("/")[0]
        if top in _OUTSIDE:
            if name == top:
                contents.left_out.append((name, _OUTSIDE[top]))
        elif file.is_symlink() or (not file.is_file() and not file.is_dir()):
            contents.left_out.append((redactor.text(name), "not a plain file"))
        elif file.suffix == ".flight":
            continue  # in collectives.txt, as text
        elif file.is_file():
            is_log = _LOG.fullmatch(name) is not None
            num_logs += is_log
            if name in _WHOLE or name in _ENDS or (is_log and num_logs <= MAX_LOGS):
                texts[name] = _redacted(file, name in _WHOLE, redactor)
            else:
                why = f"more than {MAX_LOGS} logs" if is_log else "not among what a bug needs"
                contents.left_out.append((redactor.text(name), why))
    return texts


def _redacted(file: Path, whole: bool, redactor: Redactor) -> str:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = 0 if whole else max(0, size - MAX_LOG_BYTES)
        stream.seek(start)
        text = stream.read().decode("utf-8", "replace")
    if start:
        text = text.partition("\n")[2]  # from the first whole line on
    if file.suffix == ".jsonl":
        lines = [_structured(line, json.loads, json.dumps, redactor) for line in text.splitlines()]
        return "".join(f"{line}\n" for line in lines)
    if file.suffix == ".json":
        return _structured(text, json.loads, _to_json, redactor)
    if file.suffix == ".yaml":
        return _structured(text, yaml.safe_load, _to_yaml, redactor)
    return redactor.text(text)


def _structured(
    text: str,
    parse: Callable[[str], Any],
    render: Callable[[Any], str],
    redactor: Redactor,
) -> str:
    """Escapes would hide a name from a search in the text, so values are redacted one by one."""
    try:
        return render(redactor.value(parse(text)))
    except (ValueError, yaml.YAMLError):
        return redactor.text(text)


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _to_yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _checkpoints(run: Path) -> str:
    lines = []
    for folder in sorted((run / "checkpoints").glob("step_*")):
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        lines.append(f"{folder.name}: {len(files)} files")
        lines += [f"  {file.stat().st_size:>14,} {file.relative_to(folder)}" for file in files]
    return "\n".join(lines or ["none"]) + "\n"


def _collectives(run: Path) -> str:
    """The last calls of each rank and lane, from what a rank leaves however it ends."""
    from ndtrain.runtime.flight import read_flight  # imports torch

    lines = []
    for file in sorted((run / "log").glob("rank_*.flight"))[:MAX_LOGS]:
        lines.append(file.stem)
        try:
            calls = read_flight(file).calls
        except (struct.error, ValueError) as error:
            lines.append(f"  not readable: {error}")
            continue
        lines += [
            f"  {lane} {call.sequence} {call.name} ({call.axis}, {call.num_bytes:,} bytes)"
            f" {'done' if call.is_done else 'not done'}, began {call.start:.6f}"
            for lane, of_lane in calls.items()
            for call in of_lane
        ]
    return "\n".join(lines or ["none"]) + "\n"
