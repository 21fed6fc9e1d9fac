"""Did-you-mean, wherever a user types a name: keys, presets, commands, values.

nearest("trian", ["train", "validate"])   # -> "train"
did_you_mean("trian", ["train"])          # -> "did you mean `train`?"; "" without a candidate
"""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The candidate that `name` most likely meant; None where nothing is near.

    Case and the difference between `-` and `_` do not count. cutoff: of difflib's ratio, by default
    difflib's own; 1 is equal.
    """
    plain: dict[str, str] = {}
    for candidate in candidates:
        plain.setdefault(_plain(candidate), candidate)
    matches = get_close_matches(_plain(name), plain, n=1, cutoff=cutoff)
    return plain[matches[0]] if matches else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    candidate = nearest(name, candidates)
    return f"did you mean `{candidate}`?" if candidate else ""


def advice(name: str, candidates: Iterable[str], more: str) -> str:
    """The nearest candidate with `more` in brackets, or `more` alone."""
    hint = did_you_mean(name, candidates)
    return f"{hint} ({more})" if hint else more


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
