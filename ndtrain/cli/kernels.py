"""`ndtrain kernels ls|test|show|api`: the NKI kernels, run on the simulator of the NeuronCore."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ndtrain.cli import terminal
from ndtrain.core.errors import Unhealthy, UserError
from ndtrain.core.suggest import advice

if TYPE_CHECKING:
    from ndtrain.nkisim import Options, Run

TARGETS = ("trn1", "trn2", "trn3")
# Largest error, relative to the largest element of a result (or to 1). bf16: four units in the last
# place, since P or dS and the result are rounded; fp32: sums of a thousand products.
BOUNDS = {"bf16": 2.0**-6, "fp32": 1e-5}


class Row(NamedTuple):
    """One result of one rank, compared; `error` and `bound` are relative."""

    rank: int
    output: str
    shape: tuple[int, ...]
    error: float
    bound: float

    @property
    def within(self) -> bool:
        return self.error <= self.bound  # False for NaN

    def text(self) -> str:
        verdict = "within" if self.within else "OUTSIDE"
        shape = str(list(self.shape))
        return (
            f"rank {self.rank}  {self.output:12} {shape:20} error {self.error:.1e}, "
            f"{verdict} {self.bound:.1e}"
        )


@click.group()
def kernels() -> None:
    """Run the NKI kernels without hardware."""


@kernels.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ls(as_json: bool) -> None:
    """List the kernels, their targets and what was shown on each."""
    from ndtrain.kernels import KERNELS

    if as_json:
        rows = [
            {"name": k.name, "targets": k.targets, "evidence": k.evidence, "summary": k.summary}
            for k in KERNELS.values()
        ]
        terminal.print_json(rows)
        return
    width = max(len(name) for name in KERNELS)
    for kernel in KERNELS.values():
        click.echo(f"{kernel.name:{width}}  {', '.join(kernel.targets):16}  {kernel.summary}")
    click.echo(f"\nevery kernel, on every target listed: {kernel.evidence}")


_HELP = {
    "shape": "Sizes other than the default: queries=300,heads=4.",
    "target": "The machine whose rules and NKI version apply.",
    "dtype": "Of the inputs.",
    "cores": "Physical cores; 2 is a launch on LNC2.",
}
_SHARED = (
    click.argument("name"),
    click.option("--shape", default="", help=_HELP["shape"]),
    click.option("--target", type=click.Choice(TARGETS), default="trn2", help=_HELP["target"]),
    click.option("--dtype", type=click.Choice(list(BOUNDS)), default="bf16", help=_HELP["dtype"]),
    click.option("--cores", type=click.IntRange(1, 2), default=1, help=_HELP["cores"]),
)


def _options(command: Any) -> Any:
    """The arguments that `test` and `show` share."""
    for decorate in reversed(_SHARED):
        command = decorate(command)
    return command


@kernels.command("test")
@_options
@click.option("--seed", default=0, show_default=True, help="Of the random inputs.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test(
    name: str, shape: str, target: str, dtype: str, cores: int, seed: int, as_json: bool
) -> None:
    """Run kernel NAME on the simulator and compare it with its float64 reference.

    Exit code 3 if a result is outside the bound for the dtype.
    """
    from ndtrain.kernels.examples import OUTPUTS, wanted_results

    _require_simulator()
    sizes = _sizes(name, shape)
    calls, runs = _run(name, sizes, target, dtype, cores, seed=seed)
    wanted = wanted_results(name, calls)
    rows = []
    for rank, run in enumerate(runs):
        outputs = run.outputs if isinstance(run.outputs, tuple) else (run.outputs,)
        for label, ours, want in zip(OUTPUTS[name], outputs, wanted[rank], strict=True):
            rows.append(Row(rank, label, want.shape, _relative_error(ours, want), BOUNDS[dtype]))
    if as_json:
        results = [row._asdict() for row in rows]
        terminal.print_json({"kernel": name, "target": target, "sizes": sizes, "results": results})
    else:
        click.echo(f"{name} on {target} (simulated), {dtype}, {_sizes_text(sizes)}")
        for row in rows:
            click.echo("  " + row.text())
    failed = [row for row in rows if not row.within]
    if failed:
        what = f"{len(failed)} of {len(rows)} results of {name} are outside the bound"
        raise Unhealthy(what, f"{target}, {dtype}", "ndtrain kernels show prints the instructions")


@kernels.command("show")
@_options
@click.option("-n", "count", default=40, show_default=True, help="Instructions to print; 0: all.")
@click.option("--first", default=0, show_default=True, help="Index of the first one.")
def show(
    name: str, shape: str, target: str, dtype: str, cores: int, count: int, first: int
) -> None:
    """Print the instructions of kernel NAME and draw SBUF and PSUM over them."""
    _require_simulator()
    from ndtrain import nkisim
    from ndtrain.cli.kernel_drawing import describe, draw

    sizes = _sizes(name, shape)
    settings = nkisim.Options(arithmetic=False)
    _, runs = _run(name, sizes, target, dtype, cores, settings=settings)
    run = runs[0]
    click.echo(f"{name} on {target} (simulated), {dtype}, {_sizes_text(sizes)}")
    for line in describe(run, first, count):
        click.echo(line)
    for space in ("sbuf", "psum"):
        click.echo("\n" + "\n".join(draw(run, space)))


@kernels.command("api")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def api(as_json: bool) -> None:
    """List the names of nki, what the simulator does with each, and who uses it."""
    _require_simulator()
    from ndtrain.cli.kernel_drawing import api_rows

    rows = api_rows()
    if as_json:
        terminal.print_json([row._asdict() for row in rows])
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        users = f"used by {len(row.users)} files" if row.users else ""
        first = f"NKI {row.since:12}  gen{row.generation}+"
        click.echo(f"{row.name:{width}}  {first}  {row.status:15}  {users}".rstrip())


def _require_simulator() -> None:
    """The simulator computes bf16 and fp8 with ml_dtypes, which is an extra of the installation."""
    try:
        import ml_dtypes  # noqa: F401
    except ImportError:
        help_text = "pip install 'ndtrain[nkisim]'"
        raise UserError("the simulator needs ml_dtypes", "this installation", help_text) from None


def _sizes(name: str, shape: str) -> dict[str, int]:
    """The sizes of `--shape` over the defaults of the kernel."""
    from ndtrain.kernels import KERNELS
    from ndtrain.kernels.examples import SIZES

    if name not in KERNELS:
        help_text = advice(name, KERNELS, "`ndtrain kernels ls` lists them")
        raise UserError(f"there is no kernel `{name}`", "the command line", help_text)
    sizes = dict(SIZES[name])
    for part in filter(None, shape.split(",")):
        key, _, value = part.partition("=")
        if key not in sizes:
            help_text = advice(key, sizes, f"sizes of {name}: {', '.join(sizes)}")
            raise UserError(f"{name} has no size `{key}`", "--shape", help_text)
        try:
            sizes[key] = int(value)
        except ValueError:
            raise UserError(f"`{part}` is not of the form size=number", "--shape") from None
    return sizes


def _sizes_text(sizes: dict[str, int]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sizes.items())


def _run(
    name: str, sizes: dict[str, int], target: str, dtype: str, cores: int, *, seed: int = 0,
    settings: Options | None = None,
) -> tuple[list, list[Run]]:  # fmt: skip
    """The calls and the runs of all ranks."""
    import importlib

    import ml_dtypes
    import numpy as np

    from ndtrain import nkisim
    from ndtrain.kernels import KERNELS, NKI_VERSIONS
    from ndtrain.kernels.examples import make_calls

    kernel = KERNELS[name]
    if target not in kernel.targets:
        legal = ", ".join(kernel.targets)
        raise UserError(f"{name} does not run on {target}", "--target", f"legal here: {legal}")
    chosen = ml_dtypes.bfloat16 if dtype == "bf16" else np.float32
    values = settings is None or settings.arithmetic
    calls = make_calls(name, sizes, chosen, seed, values)
    with nkisim.as_nki(NKI_VERSIONS[target], fresh="ndtrain.kernels"):
        module = importlib.import_module(f"ndtrain.kernels.{kernel.module}")
    function = getattr(module, kernel.function)
    try:
        runs = nkisim.run_ranks(
            function, calls, target=target, cores=2 if cores == 2 else None, options=settings
        )
    except AssertionError as error:
        raise UserError(str(error), f"{name} {_sizes_text(sizes)}", "see its docstring") from None
    return calls, runs


def _relative_error(ours: Any, want: Any) -> float:
    import numpy as np

    difference = np.max(np.abs(np.asarray(ours).astype(np.float64) - want))
    return float(difference / max(float(np.max(np.abs(want))), 1.0))
