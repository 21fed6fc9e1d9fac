"""One line of what `ndtrain doctor` found, on this machine or on a node of a cluster."""

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    state: Literal["ok", "warn", "fail"]
    name: str
    detail: str
    help: str = ""
