"""What the schema knows about a key: does it exist, what was meant instead, which values are legal.

field("optim.lr")          # -> pydantic's FieldInfo; None for a section or an unknown key
unknown_key("optm.lr")     # -> (what, help) for the error
legal_values("optim.lr")   # -> "a number above 0"
"""

import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ndtrain.config.foreign_keys import foreign
from ndtrain.config.schema import Config
from ndtrain.core.suggest import nearest

# What other trainers call our keys; difflib cannot see that these mean the same.
SYNONYMS = {
    "learning_rate": "optim.lr",
    "max_steps": "train.steps",
    "num_steps": "train.steps",
    "num_train_steps": "train.steps",
    "batch_size": "train.global_batch_size",
    "per_device_train_batch_size": "train.micro_batch_size",
    "seq_len": "data.sequence_length",
    "seq_length": "data.sequence_length",
    "max_seq_length": "data.sequence_length",
    "dtype": "train.compute_dtype",
    "activation_checkpointing": "train.recompute",
    "gradient_checkpointing": "train.recompute",
    "max_grad_norm": "optim.clip_norm",
    "warmup": "optim.warmup_steps",
    "lr_scheduler_type": "optim.schedule",
    "tensor_parallel_size": "parallel.tp",
    "data_parallel_size": "parallel.dp",
    "save_steps": "checkpoint.every_steps",
    "save_interval": "checkpoint.every_steps",
    "logging_steps": "observe.log_every",
    "eval_steps": "train.eval_every",
    "num_hidden_layers": "model.num_layers",
    "num_attention_heads": "model.num_heads",
    "num_key_value_heads": "model.num_kv_heads",
    "tie_word_embeddings": "model.tie_embeddings",
    "output_dir": "run.directory",
    "dataset": "data.paths",
}


def section(name: str) -> type[BaseModel] | None:
    info = Config.model_fields.get(name)
    return info.annotation if info else None  # type: ignore[return-value]


SECTIONS = tuple(Config.model_fields)
FIELDS = tuple(f"{name}.{key}" for name in SECTIONS for key in section(name).model_fields)  # type: ignore[union-attr]


def field(key: str) -> FieldInfo | None:
    name, _, rest = key.partition(".")
    owner = section(name)
    return owner.model_fields.get(rest) if owner else None


def unknown_key(key: str) -> tuple[str, str]:
    """What is wrong with a key that the schema lacks, and the key that was probably meant."""
    what = f"unknown key `{key}`"
    name, _, rest = key.partition(".")
    parent = key.rpartition(".")[0]
    if field(parent) is not None:
        return what, f"`{parent}` takes {legal_values(parent)}, no keys below it"
    if key.replace("-", "_") in (*FIELDS, *SECTIONS):
        return what, f"write it with underscores: `{key.replace('-', '_')}`"
    last = (rest or name).replace("-", "_")
    if last in SYNONYMS:
        return what, _meant(SYNONYMS[last])
    if (row := foreign(key, bool(rest) and name in SECTIONS)) is not None:
        meant = f"here it is `{row.ours}`" if row.ours else "there is no key for it"
        return what, f"{meant}: {row.note}" if row.note else _meant(row.ours)
    homes = [candidate for candidate in FIELDS if candidate.partition(".")[2] == last]
    if homes:
        joined = " or ".join(f"`{home}`" for home in homes)
        return what, f"`{last}` belongs to another section: write {joined}"
    return what, _nearest_key(name, rest)


def _nearest_key(name: str, rest: str) -> str:
    if not rest:
        by_last = {candidate.partition(".")[2]: candidate for candidate in FIELDS}
        match = nearest(name, SECTIONS) or nearest(name, by_last)
        return (
            _meant(by_last.get(match, match))
            if match
            else f"the sections are {', '.join(SECTIONS)}"
        )
    if name not in SECTIONS:
        match = nearest(f"{name}.{rest}", FIELDS)
        return _meant(match) if match else f"the sections are {', '.join(SECTIONS)}"
    # Bare names: the section's name in common would make everything look near.
    names = [
        candidate.partition(".")[2] for candidate in FIELDS if candidate.startswith(f"{name}.")
    ]
    match = nearest(rest, names)
    return _meant(f"{name}.{match}") if match else f"`{name}` has {', '.join(names)}"


def _meant(key: str) -> str:
    return f"did you mean `{key}`? (`ndtrain config schema --field {key}` explains it)"


def choices(key: str) -> list[str]:
    """The words a key may have as its value; empty where it takes anything but words."""
    info = field(key)
    return [] if info is None else _literals(info.annotation)


def _literals(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) in (Union, types.UnionType, list):
        return [word for part in get_args(annotation) for word in _literals(part)]
    return []


def legal_values(key: str) -> str:
    """The legal values of a field, in words; of a section, its keys."""
    info = field(key)
    if info is None:
        return "keys: " + ", ".join(name for name in section(key).model_fields)  # type: ignore[union-attr]
    return _words(info.annotation, list(info.metadata))


def _words(annotation: Any, limits: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [m for item in arguments[1:] for m in getattr(item, "metadata", [item])]
        return _words(arguments[0], inner + limits)
    if origin is Literal:
        return ", ".join(str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part, limits) for part in arguments)
    if origin is list:
        words = _literals(arguments[0])
        return f"a list of {', '.join(words)}" if words else "a list of texts such as [a, b]"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {_words(arguments[0], [])}"
    name = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if annotation is type(None):
        return "null"
    return name[annotation] + _limits(limits)


def _limits(limits: list[Any]) -> str:
    words = []
    for limit in limits:
        match limit:
            case Gt():
                words.append(f" above {limit.gt}")
            case Ge():
                words.append(f" of at least {limit.ge}")
            case Le():
                words.append(f" of at most {limit.le}")
            case Lt():
                words.append(f" below {limit.lt}")
            case _ if getattr(limit, "pattern", None):
                words.append(f" that matches {limit.pattern}")
    return " and".join(words)


def misread(value: object, key: str) -> str:
    """Help for texts that older YAML, or a reader, would have taken for something else."""
    words = legal_values(key)
    if not isinstance(value, str):
        if isinstance(value, float) and value.is_integer() and "whole number" in words:
            return f"write {int(value)}"
        if words.startswith("text") and value is not None and not isinstance(value, list | dict):
            return "write it in quotes"
        return ""
    if "true or false" in words and value.lower() in ("on", "off", "yes", "no", "y", "n"):
        return "write true or false: YAML 1.2 has no other booleans"
    if "number" in words and re.fullmatch(r"[-+]?[0-9]+(_[0-9]+)+", value):
        return f"write {value.replace('_', '')}: numbers have no underscores"
    if "number" in words and re.fullmatch(r"[-+]?0[0-9]+", value):
        return f"write {int(value)}: a number has no leading zero"
    if "number" in words and re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", value):
        return f"write {value} without quotes"
    if "a list" in words:
        return f'write ["{value}"]'
    return ""
