"""`ndtrain overlap show|verify CONFIG`: a step's schedules as timelines, and proved right."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ndtrain.cli import terminal
from ndtrain.cli.arguments import PASS_ON_OPTIONS, check_overrides, complete_config
from ndtrain.cli.figures import Given, describe, figure_options, read_figures
from ndtrain.cli.overlap_graphs import compare_graphs
from ndtrain.core.errors import Unhealthy, UserError

if TYPE_CHECKING:
    from ndtrain.config.schema import Config
    from ndtrain.overlap.draw import Panel
    from ndtrain.overlap.node_cost import Figures
    from ndtrain.overlap.timeline import Timeline
    from ndtrain.parallel.layer_timeline import Part
    from ndtrain.parallel.step_timeline import BucketLayout

MODES = ("auto", "off", "serial", "bulk", "chunk", "ring", "ring2")
FORMS = ("off", "bulk", "chunk", "ring", "ring2")


@click.group()
def overlap() -> None:
    """Show and verify what runs beside what."""


@overlap.command(context_settings=PASS_ON_OPTIONS)
@click.argument("config", shell_complete=complete_config)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@figure_options
@click.option("--mode", type=click.Choice(MODES), help="The same as overlap.mode=MODE.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write an SVG picture."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def show(
    ctx: click.Context,
    config: str,
    overrides: tuple[str, ...],
    mode: str | None,
    output: Path | None,
    as_json: bool,
    **figures: Any,
) -> None:
    """Draw a layer's forward and backward, the head and the buckets as timelines, predicted.

    The step runs on meta tensors and a virtual clock, on a machine of the hardware table or of
    given figures. For instance:

      ndtrain overlap show qwen3_8b+pretrain parallel.tp=8 --hardware trn1 -o layer.svg

      ndtrain overlap show quickstart parallel.tp=2 --matmul-tflops 0.1 --link-gbps 1
    """
    from ndtrain.overlap.draw import svg
    from ndtrain.parallel.layer_timeline import panel

    loaded = _load(ctx, config, overrides, mode)
    machine = read_figures(Given(**figures), loaded.train.compute_dtype)
    parts = _parts(loaded, machine)
    panels = [panel(str(when), some) for when, some in parts.items()]
    title = _title(config, loaded)
    if output is not None:
        _write(output, svg(panels, f"{title}; {describe(machine)}"))
    if as_json:
        drawn = zip(panels, parts.values(), strict=True)
        passes = {panel.label: _as_json(panel.timeline, some) for panel, some in drawn}
        terminal.print_json({"title": title, "figures": vars(machine), "predicted": passes})
        return
    click.echo(f"{title}\n{describe(machine)}")
    for drawn_panel, some in zip(panels, parts.values(), strict=True):
        _print(drawn_panel, some)
    if output is not None:
        click.echo(f"\nwrote {output}")


def _load(ctx: click.Context, config: str, overrides: tuple[str, ...], mode: str | None) -> Config:
    from ndtrain.config.checks import check
    from ndtrain.config.load import load

    changes = check_overrides(ctx, config, overrides)
    if mode is not None:
        changes = (*changes, f"overlap.mode={mode}")
    loaded = load(config, changes)
    check(loaded.config, None, loaded.origins)
    return loaded.config


def _parts(config: Config, machine: Figures) -> dict[Any, list[Part]]:
    """By panel: a layer's passes, the head, and where there are several replicas the buckets."""
    from ndtrain.overlap.gate import decide
    from ndtrain.parallel.layer_timeline import layer_timeline
    from ndtrain.parallel.step_timeline import bucket_part, head_part
    from ndtrain.runtime.dtypes import DTYPES
    from ndtrain.train.build import shape_of
    from ndtrain.train.overlap_plan import operation_sizes

    shape, dtype = shape_of(config.model), DTYPES[config.train.compute_dtype]
    length, batch = config.data.sequence_length, config.train.micro_batch_size
    tp = config.parallel.tp
    sizes = operation_sizes(shape, length, batch, tp)
    modes = decide(config.overlap, sizes, machine, dtype).modes
    layer = layer_timeline(shape, length, batch, tp, modes, dtype, machine, config.train.recompute)
    panels: dict[Any, list[Part]] = {**layer, "head": [head_part(sizes, modes, dtype, machine)]}
    layout = _bucket_layout(config, None)
    if layout.dp > 1:
        panels["buckets"] = [bucket_part(layout, shape.num_layers, dtype, machine, layer)]
    return panels


def _bucket_layout(config: Config, ranks: int | None) -> BucketLayout:
    """ranks: in all; None: as the config asks for."""
    from ndtrain.config.checks import data_parallel
    from ndtrain.config.overlapping import data_form
    from ndtrain.parallel.step_timeline import BucketLayout
    from ndtrain.train.build import shape_of

    form = data_form(config)
    return BucketLayout.of(
        shape_of(config.model),
        config.parallel.tp,
        data_parallel(config, ranks) or 1,
        round(config.overlap.bucket_megabytes * 1e6),
        in_background=form != "off",
        serial=form == "serial",
    )


def _title(name: str, config: Config) -> str:
    return (
        f"{name}: one layer, head and buckets, predicted; tp={config.parallel.tp}, "
        f"{config.train.micro_batch_size} x {config.data.sequence_length} tokens, "
        f"{config.train.compute_dtype}, overlap.mode={config.overlap.mode}"
    )


def _write(output: Path, text: str) -> None:
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}", "--output") from None


def _print(panel: Panel, parts: list[Part]) -> None:
    from ndtrain.overlap.draw import rows

    click.echo(f"\n{panel.label}: {_summary(panel.timeline)}")
    for line in rows(panel, shutil.get_terminal_size((100, 24)).columns):
        click.echo(line)
    for part in parts:
        if part.mode is not None:
            click.echo(f"  {part.name:<16} {part.mode:<6} {_summary(part.timeline)}")


def _summary(timeline: Timeline) -> str:
    hidden, slowdown = timeline.efficiency, timeline.compute_slowdown
    return (
        f"{timeline.makespan_s * 1e3:.3f} ms, compute {timeline.compute_s * 1e3:.3f}, "
        f"communication {timeline.communication_s * 1e3:.3f}, "
        f"exposed {timeline.exposed_s * 1e3:.3f}, "
        f"efficiency {'n/a' if hidden is None else f'{round(hidden, 2) + 0.0:.2f}'}"
        f"{f', compute x{slowdown:.2f}' if slowdown >= 1.005 else ''}"
    )


def _as_json(timeline: Timeline, parts: list[Part]) -> dict[str, Any]:
    listed = [{"name": part.name, "mode": part.mode, **_figures(part.timeline)} for part in parts]
    spans = [span._asdict() for span in timeline.spans]
    return {**_figures(timeline), "parts": listed, "spans": spans}


def _figures(timeline: Timeline) -> dict[str, float | None]:
    return {
        "makespan_s": timeline.makespan_s,
        "compute_s": timeline.compute_s,
        "communication_s": timeline.communication_s,
        "exposed_s": timeline.exposed_s,
        "efficiency": timeline.efficiency,
        "compute_slowdown": timeline.compute_slowdown,
    }


@overlap.command(context_settings=PASS_ON_OPTIONS)
@click.argument("config", shell_complete=complete_config)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--world-size",
    type=click.IntRange(min=1),
    help="Ranks in all; by default what the config asks for.",
)
@click.option("--mode", type=click.Choice(FORMS), help="Only this form; by default all of them.")
@click.option(
    "--hlo", is_flag=True, help="Also trace layer and step with torch-xla and compare the graphs."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def verify(
    ctx: click.Context,
    config: str,
    overrides: tuple[str, ...],
    world_size: int | None,
    mode: str | None,
    hlo: bool,
    as_json: bool,
) -> int:
    """Prove every schedule of a config right, on all ranks, without a process.

    No race, no deadlock, the same communications in the same order on all ranks, every buffer
    written once and before it is read, every shape as it should be. Exit code 3 if anything is not.

    --hlo: torch-xla traces each rank's layer, forward and backward, on this machine, and the step
    of ZeRO's buckets, behind compute, on a narrow copy of the model. For every pair of compute and
    a communication the graph has to say what the schedules say: what waits for what, and what is
    free to run beside it. Whether a compiler uses that, only a device shows. Given up is what
    separate streams would run side by side, and one order of all communications does not.
    """
    loaded, layout = _load_for(ctx, config, overrides, world_size)
    tp, dp = loaded.parallel.tp, layout.dp
    if hlo and tp * dp == 1:
        raise UserError("on one rank nothing is communicated", "--hlo", "set parallel.tp above 1")
    found = _verified(loaded, layout, (mode,) if mode else FORMS)
    if hlo:
        compare_graphs(loaded, layout.dp, found)
    if as_json:
        num_problems = sum(len(row["problems"]) for row in found)
        terminal.print_json({"tp": tp, "dp": dp, "ok": num_problems == 0, "schedules": found})
    else:
        for row in found:
            state = "ok  " if not row["problems"] else "fail"
            pairs = _pairs(row)
            click.echo(f"{state}  {row['mode']:<6} {row['operation']:<8} {row['pass']:<8}{pairs}")
            for problem in row["problems"]:
                click.echo(f"      {problem}")
        click.echo(f"{len(found)} schedules on {tp} tensor x {dp} data ranks")
    return Unhealthy.exit_code if any(row["problems"] for row in found) else 0


def _pairs(row: dict[str, Any]) -> str:
    """Of a schedule that was compared with a graph."""
    if "pairs" not in row:
        return ""
    given_up = f", {row['given_up']} given up" if row["given_up"] else ""
    return f"  {row['pairs']:>5} pairs, {row['free']} free{given_up}"


def _load_for(
    ctx: click.Context, config: str, overrides: tuple[str, ...], world_size: int | None
) -> tuple[Config, BucketLayout]:
    from ndtrain.config import checks
    from ndtrain.config.load import load

    loaded = load(config, check_overrides(ctx, config, overrides))
    ranks = world_size or checks.world_size(loaded.config)
    checks.check(loaded.config, ranks, loaded.origins)
    return loaded.config, _bucket_layout(loaded.config, ranks)


def _verified(config: Config, layout: BucketLayout, modes: tuple[str, ...]) -> list[dict[str, Any]]:
    """A row a schedule, of the forms that it has: the head no ring, the buckets off and bulk."""
    from dataclasses import replace

    from ndtrain.parallel.layer_schedules import layer_problems
    from ndtrain.parallel.step_schedules import HEAD_MODES, bucket_problems, head_problems
    from ndtrain.runtime.dtypes import DTYPES
    from ndtrain.train.build import shape_of

    shape, dtype = shape_of(config.model), DTYPES[config.train.compute_dtype]
    step = (shape, config.data.sequence_length, config.train.micro_batch_size, config.parallel.tp)
    found = []
    for mode in modes:
        linears = layer_problems(*step, mode, dtype)  # type: ignore[arg-type]
        problems: list[tuple[str, str, list[str]]]
        problems = [(*name, listed) for name, listed in linears.items()]
        if mode in HEAD_MODES:
            problems.append(("head", "forward", head_problems(*step, mode, dtype)))
        if layout.dp > 1 and mode in ("off", "bulk"):
            form = replace(layout, in_background=mode == "bulk")
            problems.append(("buckets", "step", bucket_problems(form)))
        for operation, when, listed in problems:
            row = {"mode": mode, "operation": operation, "pass": when, "problems": listed}
            found.append(row)
    return found
