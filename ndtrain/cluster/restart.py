"""What a job on a cluster does before and after its ranks: by `status.json`, not by exit codes.

    python -m ndtrain.cluster.restart begin RUN START LEAD     # notes where the run stands
    python -m ndtrain.cluster.restart end RUN START CODE       # tells the truth, then decides

RUN is the run directory, START the folder of this start of the job, LEAD the seconds that SLURM
gives it to stop, CODE what srun returned.
`end` exits with REQUEUE (75) when the run shall go on in a new start, with 0 when it is finished,
else with 1. torchrun makes every code a 1, and a killed rank cannot speak, so the status decides:
a new start needs a state that starting again may help, and a checkpoint that the last start did
not have. Without that condition a job that cannot train would start over and over.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ndtrain.cluster.lead import measure_lead
from ndtrain.core.atomic import write_json
from ndtrain.core.errors import UserError
from ndtrain.observe.run_directory import RunDirectory, Status
from ndtrain.train.stop import EXIT_STOPPED, Request

FINISHED, STAYS, REQUEUE = 0, 1, EXIT_STOPPED
_START = "start.json"
# Somebody wants the run to rest, or SLURM ends the job and requeues it by its own rules.
_WANTED_STOPS = (Request.FILE.reason, Request.TERM.reason)


class Decision(NamedTuple):
    code: int
    reason: str


def begin(run: Path, start: Path) -> str:
    """Notes the checkpoint that this start finds. Returns a line for the job's log."""
    status = RunDirectory(run).status()
    write_json(start / _START, {"checkpoint_step": _saved_step(status)})
    if status is None:
        return f"{run}: a new run"
    return f"{run}: {status.state} at step {status.step}, checkpoint {status.checkpoint or 'none'}"


def too_short(run: Path, lead_s: int) -> str | None:
    """A warning where a stop takes longer by now than the older script has SLURM wait."""
    try:
        lead = measure_lead(run)
    except UserError as error:  # no reason not to train
        return f"warning: {error.what}"
    if not lead.is_measured or lead.seconds <= lead_s:
        return None
    return (
        f"warning: USR1 comes {lead_s} s early, and it takes {lead.reason}: write the script anew"
    )


def end(run: Path, start: Path, code: int) -> Decision:
    """Corrects a status that says a dead run is running, then decides."""
    directory = RunDirectory(run)
    status = directory.status()
    if status is None:
        return Decision(STAYS, "the run did not come so far that it has a status")
    if status.state == "running":
        status = replace(
            status,
            state="failed",
            reason=f"the ranks ended without a word (srun's exit code {code})",
            retryable=True,
        )
        directory.write_status(status)
    begun = json.loads((start / _START).read_bytes())["checkpoint_step"]
    return decide(status, begun)


def decide(status: Status, begun: int) -> Decision:
    """begun: the step of the checkpoint that this start of the job found; 0 if there was none."""
    what = f"{status.state} at step {status.step}" + (f": {status.reason}" if status.reason else "")
    if status.state == "finished":
        return Decision(FINISHED, what)
    if not status.retryable:
        return Decision(STAYS, f"{what}; starting again would not help")
    if status.state == "preempted" and status.reason in _WANTED_STOPS:
        return Decision(STAYS, f"{what}; that was asked for")
    saved = _saved_step(status)
    if saved <= begun:
        return Decision(STAYS, f"{what}; nothing was saved since step {begun}, so it would loop")
    return Decision(REQUEUE, f"{what}; saved steps {begun} to {saved}, so it goes on")


def _saved_step(status: Status | None) -> int:
    """Of the newest checkpoint; 0 without one, or where it is another run's with another name."""
    step = "" if status is None else Path(status.checkpoint or "").name.removeprefix("step_")
    return int(step) if step.isdecimal() else 0


def main(arguments: list[str]) -> int:
    moment, run, start, number = *arguments[:3], int(arguments[3])
    try:
        if moment == "begin":
            print(begin(Path(run), Path(start)))
            if (warning := too_short(Path(run), number)) is not None:
                print(warning)
            return 0
        decision = end(Path(run), Path(start), number)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(decision.reason)
    return decision.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
