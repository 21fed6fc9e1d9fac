"""`ndtrain data show CONFIG`: the rows that a run would train on, and what of them counts."""

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ndtrain.cli import terminal
from ndtrain.cli.arguments import PASS_ON_OPTIONS, check_overrides, complete_config

if TYPE_CHECKING:
    from ndtrain.data.batch import Row
    from ndtrain.data.show import Run, ShownDocument


@click.group()
def data() -> None:
    """Look at the data."""


@data.command(context_settings=PASS_ON_OPTIONS)
@click.argument("config", shell_complete=complete_config)
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "-n",
    "num_rows",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Rows to print.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def show(
    ctx: click.Context, config: str, overrides: tuple[str, ...], num_rows: int, as_json: bool
) -> None:
    """Print the first rows of a run, as text.

    Tokens that the loss does not count are dim on a terminal, and [[in brackets]] elsewhere.
    Encodes the data if that has not been done.
    """
    from ndtrain.config.load import load
    from ndtrain.data import Loader, prepare
    from ndtrain.data.show import shown_documents

    settings = load(config, check_overrides(ctx, config, overrides)).config
    dataset = prepare(settings.data, settings.model.vocab_size, _log)
    loader = Loader(
        dataset,
        settings.data.sequence_length,
        global_batch_size=num_rows,
        seed=settings.run.seed,
        document_mask=settings.data.document_mask,
        shuffle=settings.data.shuffle,
    )
    _log(f"data: {loader.describe()}")
    rows = loader.rows(slice(0, num_rows))
    documents = [shown_documents(row, dataset.tokenizer) for row in rows]
    if as_json:
        terminal.print_json([_as_json(*pair) for pair in zip(rows, documents, strict=True)])
        return
    for number, (row, shown) in enumerate(zip(rows, documents, strict=True)):
        _print_row(number, row, shown)


def _log(line: str) -> None:
    click.echo(line, err=True)


def _print_row(number: int, row: "Row", documents: "list[ShownDocument]") -> None:
    from ndtrain.data.show import printable

    num_padding = len(row.tokens) - row.num_filled
    padding = f", {num_padding} of padding" if num_padding else ""
    click.echo(f"=== row {number}: {row.num_filled} tokens{padding}, {row.counted.sum()} counted")
    for document in documents:
        num_counted = int(row.counted[document.begin : document.end].sum())
        click.echo(f"--- tokens {document.begin} to {document.end - 1}, {num_counted} counted")
        click.echo("".join(_mark(printable(run.text), run.counted) for run in document.runs))


def _mark(text: str, counted: bool) -> str:
    if counted:
        return text
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return f"[[{text}]]"
    return click.style(text, dim=True)


def _as_json(row: "Row", documents: "list[ShownDocument]") -> dict[str, Any]:
    def as_runs(runs: "list[Run]") -> list[dict[str, Any]]:
        return [{"text": run.text, "counted": run.counted} for run in runs]

    return {
        "num_tokens": row.num_filled,
        "num_counted": int(row.counted.sum()),
        "documents": [
            {"begin": document.begin, "end": document.end, "runs": as_runs(document.runs)}
            for document in documents
        ],
    }
