"""How long before the end of its time a job has to be told to stop: two saves and two steps.

    lead = measure_lead(Path("runs/large"))
    lead.seconds, lead.reason       # 412, "2 x the longest save (180.0 s) + 2 x the ..."

A request is met at the end of the step that runs when it comes; a save that is in flight then has
to end before the last one starts. SLURM may send the signal up to a minute early, never late.
"""

import math
from pathlib import Path
from typing import NamedTuple

from ndtrain.core.errors import UserError
from ndtrain.observe.sinks import read_jsonl

DEFAULT_S = 300  # for a run that has not saved yet
LEAST_S = 60  # SLURM looks at the clock once a minute
MOST_S = 65535  # sbatch(1), --signal
COMPILED_STEPS = 2  # the first steps compile, and say nothing about the last
RECENT_STEPS = 100


class Lead(NamedTuple):
    seconds: int
    reason: str
    is_measured: bool = True


def measure_lead(run_directory: Path) -> Lead:
    """From the run's `metrics.jsonl`; the default where there is no save in it yet.

    Raises UserError if the file is damaged.
    """
    file = run_directory / "metrics.jsonl"
    records = read_jsonl(file) if file.exists() else []
    saves = [record["save_ms"] / 1e3 for record in records if "save_ms" in record]
    steps = [record["step_ms"] / 1e3 for record in records if "step_ms" in record]
    if not saves or not steps:
        reason = f"the default: {run_directory} has no save to measure yet"
        return Lead(DEFAULT_S, reason, is_measured=False)
    late_steps = steps[COMPILED_STEPS:] or steps
    save_s, step_s = max(saves), max(late_steps[-RECENT_STEPS:])
    seconds = max(LEAST_S, math.ceil(2 * save_s + 2 * step_s))
    reason = f"2 x the longest save ({save_s:.1f} s) + 2 x the longest late step ({step_s:.1f} s)"
    if seconds > MOST_S:
        raise UserError(
            f"a stop takes {seconds} s: {reason}",
            str(file),
            f"SLURM signals at most {MOST_S} s early; save faster, or set train.max_minutes",
        )
    return Lead(seconds, reason if seconds > LEAST_S else f"the least; {reason}")
