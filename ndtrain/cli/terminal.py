"""What goes to the terminal: results on stdout, errors on stderr, colour where it is welcome.

Colour needs a terminal and no NO_COLOR (https://no-color.org).
"""

import json
import os
import sys
from typing import IO

import click


def print_error(text: str) -> None:
    """Print `UserError` text, "error:" in red on a terminal."""
    lines = text.splitlines() or [""]
    for line in lines:
        if line.startswith("error:"):
            line = paint("error:", "red", sys.stderr) + line.removeprefix("error:")
        # stderr escapes what its encoding lacks; click.echo would too, but it raises on surrogates.
        print(line, file=sys.stderr)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def paint(text: str, colour: str, stream: IO[str]) -> str:
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return text
    return click.style(text, fg=colour, bold=True)
