"""The optimizer's state that a new run begins with: `optim.restore`.

    prior = open_prior(config.model.weights)
    prior.checkpoint, prior.num_updates

Another run's checkpoint has it, and so has what `ndtrain import --optimizer` wrote. Data position,
learning rate and step are the new run's own; to go on with those too, resume the other run.
"""

from dataclasses import dataclass
from pathlib import Path

from ndtrain.checkpoint.format import FIRST_MOMENT, TRAINING
from ndtrain.checkpoint.reader import Checkpoint
from ndtrain.checkpoint.source import open_source
from ndtrain.core.errors import UserError
from ndtrain.train.training_state import TrainingState


@dataclass(frozen=True, slots=True)
class Prior:
    checkpoint: Checkpoint
    num_updates: int  # that the moments have seen


def open_prior(weights: str | None) -> Prior:
    """weights: `model.weights`. Raises UserError if no moments are there."""
    source = None if weights is None else open_source(Path(weights).expanduser())
    if not isinstance(source, Checkpoint) or not source.state.has(FIRST_MOMENT):
        raise UserError(
            "there are no moments to begin with",
            f"optim.restore=true, model.weights={weights or 'null'}",
            "set model.weights to a run or to what `ndtrain import --optimizer` wrote, or"
            " optim.restore=false",
        )
    return Prior(source, _num_updates(source))


def _num_updates(checkpoint: Checkpoint) -> int:
    if (checkpoint.folder / TRAINING).is_file():
        return TrainingState.from_json(checkpoint.training()).num_updates
    assert checkpoint.manifest.step is not None, "an import with moments knows their updates"
    return checkpoint.manifest.step
