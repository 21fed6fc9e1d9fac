"""What resuming needs besides weights and moments: `training.json` of a checkpoint.

    state = TrainingState.from_json(checkpoint.training())
    changes_of_config(state.config, config)        # ["optim.lr: 0.001 -> 0.002"]

Nothing draws random numbers while training (no dropout; data order and initial weights are pure
functions of run.seed), so there is no generator's state to keep.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ndtrain.config.schema import Config
from ndtrain.core.atomic import write_json
from ndtrain.core.errors import UserError
from ndtrain.observe.run_directory import RunDirectory

PLAN = "plan.json"  # in the run directory


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """step: completed ones. num_updates: of the optimizer, fewer where steps were skipped.

    data: `Loader.state()` behind the step. losses: the last ones, for the spike detector. plan:
    what was decided once for the run and holds when it goes on. config: as resolved at the save.
    """

    step: int
    num_updates: int
    data: dict[str, int]
    data_fingerprint: str
    losses: list[float]
    config: dict[str, Any]
    plan: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "TrainingState":
        """Raises UserError for what another version wrote."""
        try:
            return cls(**value)
        except TypeError as error:
            raise UserError(
                f"the training state is not usable: {error}",
                "training.json",
                "resume with the ndtrain that wrote it, or start from its weights",
            ) from None


def read_plan(run: RunDirectory) -> dict[str, Any]:
    """What was decided once for the run; empty if there was nothing to decide."""
    path = run.path / PLAN
    return json.loads(path.read_bytes()) if path.exists() else {}


def write_plan(run: RunDirectory, plan: dict[str, Any]) -> None:
    """For a new run directory that goes on from a checkpoint of another."""
    if plan:
        write_json(run.path / PLAN, plan)


def changes_of_config(saved: dict[str, Any], config: Config) -> list[str]:
    """A line for each key whose value differs; keys that only one of them has count too."""
    old, new = _flat(saved), _flat(config.model_dump(mode="json"))
    names = [name for name in {**old, **new} if not name.startswith(("run.", "checkpoint."))]
    missing = "absent"
    return [
        f"{name}: {old.get(name, missing)} -> {new.get(name, missing)}"
        for name in names
        if old.get(name, missing) != new.get(name, missing)
    ]


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{name}": value
        for section, fields in config.items()
        for name, value in fields.items()
    }
