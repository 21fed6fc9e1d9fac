"""Numbers that go wrong: what is not finite never reaches the weights, spikes are called out.

    losses = LossWatch(settings, losses_of_the_checkpoint)
    warnings = losses.add(step, loss)           # sentences; raises Unhealthy
    dump_nonfinite(folder, step, ...)           # which layers, which rows, on this rank

A verdict is the same on all ranks: it comes from figures that are the same on all of them.
"""

import math
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ndtrain.config.schema import Guards
from ndtrain.core.atomic import write_json
from ndtrain.core.errors import Unhealthy
from ndtrain.data.loader import Loader
from ndtrain.parallel.zero import ShardedAdamW

WINDOW = 64  # losses that a new one is compared with
ENOUGH = 16  # of them, before anything is said
_TO_DEVIATION = 1.4826  # of a normal distribution: standard / median absolute deviation


class LossWatch:
    """The last losses, and how far the newest is above them."""

    def __init__(self, settings: Guards, losses: Iterable[float] = ()) -> None:
        self._settings = settings
        self._losses = deque(losses, maxlen=WINDOW)
        self._in_a_row = 0

    @property
    def losses(self) -> list[float]:
        return list(self._losses)

    def add(self, step: int, loss: float) -> list[str]:
        """A warning if the loss is a spike. Raises Unhealthy after guards.spike_abort of them."""
        if not math.isfinite(loss):
            return []  # of a step that was left out
        score = self.score(loss)
        limit = self._settings.spike_score
        # A spike joins the window too: if it is the new level, it stops being one.
        self._losses.append(loss)
        if limit is None or score is None or score <= limit:
            self._in_a_row = 0
            return []
        self._in_a_row += 1
        what = f"loss {loss:.4f} of step {step} is {score:.1f} deviations above the median"
        if self._settings.spike_abort and self._in_a_row >= self._settings.spike_abort:
            raise Unhealthy(
                f"{what}, the {self._in_a_row}. in a row",
                f"step {step}",
                "look at the data of these steps, lower optim.lr, or raise guards.spike_abort",
            )
        return [f"warning: {what} of the last {len(self._losses) - 1} steps"]

    def score(self, loss: float) -> float | None:
        """Robust z-score (Iglewicz and Hoaglin 1993); None while there are too few losses."""
        if len(self._losses) < ENOUGH:
            return None
        centre = median(self._losses)
        deviation = _TO_DEVIATION * median(abs(value - centre) for value in self._losses)
        # A loss that hardly moves has hardly a deviation; a thousandth of it is no spike.
        return (loss - centre) / max(deviation, 1e-3 * abs(centre), 1e-12)


class NonFinitePolicy:
    """abort, or leave out up to K steps in a row."""

    def __init__(self, policy: str) -> None:
        self._allowed = 0 if policy == "abort" else int(policy.removeprefix("skip:"))
        self._in_a_row = 0

    def skips(self) -> bool:
        """Whether this step is left out. The answer is the same on all ranks."""
        self._in_a_row += 1
        return self._in_a_row <= self._allowed

    def good(self) -> None:
        self._in_a_row = 0


def dump_nonfinite(
    folder: Path,
    step: int,
    rank: int,
    losses: list[float],
    optimizer: ShardedAdamW,
    loader: Loader,
    rows: list[slice],
) -> str:
    """Writes what was not finite on this rank, layer by layer, and the rows of its micro-batches.

    Returns it in short; empty if this rank has nothing that is not finite. Gradients of norms are
    sums over tensor ranks by now: what one of these ranks put in, all of them have.
    """
    gradients = {
        member.name: bucket.view(bucket.gradients, member)
        for bucket in optimizer.buckets
        for member in bucket.members
    }
    bad = {name: _account(g) for name, g in gradients.items() if not torch.isfinite(g).all()}
    report: dict[str, Any] = {
        "step": step,
        "rank": rank,
        "micro_batch_losses": [str(loss) for loss in losses],
        "data": loader.state(),
        "rows": [[part.start, part.stop] for part in rows],
        "documents": [loader.documents(part) for part in rows],
        "gradients_not_finite": bad,
        "gradient_norms": {name: str(g.norm().item()) for name, g in gradients.items()},
    }
    path = folder / f"nonfinite_step_{step:08d}_rank_{rank:04d}.json"
    write_json(path, report)
    if not bad and all(map(math.isfinite, losses)):
        return ""
    bad_losses = [str(loss) for loss in losses if not math.isfinite(loss)]
    parts = [f"loss {bad_losses[0]}"] if bad_losses else []
    if bad:
        # The last layer comes first in backward: what is bad there came from the loss.
        first = next(iter(bad))
        parts.append(f"gradient of {first}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else ""))
    return f"rank {rank}: {', '.join(parts)}"


def _account(gradient: torch.Tensor) -> dict[str, int]:
    return {
        "nan": int(torch.isnan(gradient).sum()),
        "infinite": int(torch.isinf(gradient).sum()),
        "elements": gradient.numel(),
    }
