"""Arguments that several commands share: CONFIG, and overrides that look like options.

`a.b=v` and `--a.b=v` are the same override. click passes on the options it does not know;
`check_overrides` keeps those with a dot and a `=` and refuses the rest, so that a mistyped
option is not taken for a key.
"""

from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

from ndtrain.core.errors import UserError
from ndtrain.core.suggest import advice

PASS_ON_OPTIONS = {"ignore_unknown_options": True}


def complete_config(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Presets first, then files, for the shell's completion of CONFIG."""
    from ndtrain.config import presets

    short = [name.rpartition("/")[2] for name in presets.names()]
    items = [CompletionItem(name) for name in short if name.startswith(incomplete)]
    return [*items, CompletionItem(incomplete, type="file")]


def check_overrides(ctx: click.Context, config: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides, after refusing options that the command of `ctx` does not have."""
    for override in (config, *overrides):
        name = override.partition("=")[0]
        if override.startswith("-") and "." not in name:
            known = [option for item in ctx.command.params for option in item.opts]
            long = [option for option in known if option.startswith("--")]
            help_text = advice(name, long, f"see `{ctx.command_path} --help`")
            raise UserError(f"there is no option `{name}`", "the command line", help_text)
    return tuple(overrides)
