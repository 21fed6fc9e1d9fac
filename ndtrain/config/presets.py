"""The presets of `configs/`: which exist, and which file a name means.

    names()                    # -> ["quickstart", "recipes/finetune_chat", ..., "sizes/tiny"]
    locate("qwen3_0.6b")       # -> Source(path=.../sizes/qwen3_0.6b.yaml, ...)
    locate("mine/run.yaml")    # -> that file
    split("qwen3_8b+pretrain") # -> [Source, Source]

A preset's folder may be left out (`tiny` for `sizes/tiny`), because no name occurs twice.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import ndtrain
from ndtrain.core.errors import UserError
from ndtrain.core.suggest import advice

SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Source:
    """A file with configuration, and what to call it in messages."""

    path: Path
    shown: str


def folder() -> Path:
    """`configs/`: inside the package when installed, beside it in a checkout."""
    for base in ndtrain.__path__:
        candidate = Path(base) / "configs"
        if candidate.is_dir():
            return candidate
    raise AssertionError("ndtrain is installed without its configs/")


def names() -> list[str]:
    root = folder()
    files = root.rglob("*.yaml")
    return sorted(file.relative_to(root).with_suffix("").as_posix() for file in files)


def path_of(name: str) -> Path | None:
    """The file of a preset, None where no preset has this name."""
    for preset in names():
        if name in (preset, preset.rpartition("/")[2]):
            # Not `with_suffix`: the names of sizes have dots.
            return folder() / f"{preset}.yaml"
    return None


def split(config: str) -> list[Source]:
    """The sources of what a user typed: one, or several joined by `+`."""
    is_one = os.path.exists(config) or "+" not in config
    return [locate(part) for part in ([config] if is_one else config.split("+"))]


def locate(text: str, relative_to: Path | None = None, where: str = "") -> Source:
    """The source that `text` names: a path when it ends in .yaml, .yml or .json, else a preset.

    relative_to: folder that a path starts from; None: the current one.
    Raises UserError when there is none, with the nearest preset.
    """
    if text.lower().endswith(SUFFIXES):
        path = (relative_to or Path()) / text
        if not os.path.exists(path):
            raise UserError(f"there is no file {text}", where or "the command line", _help(text))
        return Source(path, str(path))
    preset = path_of(text)
    if preset is not None:
        return Source(preset, f"configs/{preset.relative_to(folder()).as_posix()}")
    if relative_to is None and os.path.exists(text):
        return Source(Path(text), text)
    raise UserError(f"there is no preset `{text}`", where or "the command line", _help(text))


def _help(text: str) -> str:
    short = [name.rpartition("/")[2] for name in names()]
    stem = Path(text).name
    for suffix in SUFFIXES:
        stem = stem.removesuffix(suffix)
    return advice(stem, [*short, *names()], "`ndtrain config ls` lists the presets")


def summary(name: str) -> str:
    """The first comment of a preset that is not for the editor."""
    path = path_of(name)
    assert path is not None
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("# ")]
    return next(line[2:] for line in lines if not line.startswith(_EDITOR_LINE))


_EDITOR_LINE = "# yaml-language-server: $schema="


def text_of_copy(config: str) -> str:
    """A preset's text for a file elsewhere; for `a+b`, a file that extends both."""
    head = f"{_EDITOR_LINE}{(folder() / 'schema.json').as_posix()}\n"
    sources = split(config)
    if len(sources) == 1:
        text = sources[0].path.read_text("utf-8-sig")
        first, _, rest = text.partition("\n")
        return head + rest if first.startswith(_EDITOR_LINE) else text
    shown = [source.shown.removeprefix("configs/").removesuffix(".yaml") for source in sources]
    return f"{head}\nextends: [{', '.join(shown)}]\n\n# Your own values go below and win.\n"
