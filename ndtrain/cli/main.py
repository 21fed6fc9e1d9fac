"""The command `ndtrain`: finds the subcommand, prints errors, decides the exit code.

Exit codes: 0 done; 1 a bug or a failure of the system; 2 a mistake in the command or the config;
3 the run is unhealthy; 75 the run was stopped, saved, and can be started again; 130 Ctrl-C; 143
TERM before anything could be saved. Importing this module costs click and nothing heavier.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

import ndtrain
from ndtrain.cli import terminal
from ndtrain.cli.commands import COMMANDS
from ndtrain.core.errors import UserError
from ndtrain.core.suggest import advice

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands come from the table, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        module, _, attribute = row.target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            help_text = advice(args[0], COMMANDS, "`ndtrain --help` lists the commands")
            raise UserError(f"there is no command `{args[0]}`", "the command line", help_text)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in dict.fromkeys(row.group for row in COMMANDS.values()):
            rows = [(name, row.help) for name, row in COMMANDS.items() if row.group == group]
            with formatter.section(group):
                formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ndtrain.__version__, prog_name="ndtrain", message="%(prog)s %(version)s")
def cli() -> None:
    """Train Qwen3 with tensor and sequence parallelism, and hide the communication.

    First run: ndtrain train quickstart
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code and raises nothing."""
    try:
        result = cli.main(arguments, prog_name="ndtrain", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except UserError as error:
        terminal.print_error(str(error))
        return error.exit_code
    except click.ClickException as error:
        terminal.print_error(str(_as_user_error(error)))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        terminal.print_error("error: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except Exception as error:
        return _unexpected(error)


def _as_user_error(error: click.ClickException) -> UserError:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "ndtrain"
    message = error.format_message().rstrip(".")
    what = message[:1].lower() + message[1:]
    return UserError(what, "the command line", f"see `{command} --help`")


def _unexpected(error: Exception) -> int:
    what = f"{type(error).__name__}: {str(error) or 'no message'}"
    if os.environ.get("NDTRAIN_DEBUG") == "1":
        traceback.print_exc()
        terminal.print_error(str(UserError(what, "", "this is a bug in ndtrain or below it")))
    else:
        help_text = "not a mistake of yours; NDTRAIN_DEBUG=1 shows the traceback"
        terminal.print_error(str(UserError(what, "", help_text)))
    return EXIT_FAILED


def _reader_left() -> int:
    # `ndtrain config schema | head`: the rest of the output has no reader, and the interpreter
    # would complain once more when it flushes stdout on exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
