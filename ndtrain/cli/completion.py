"""`ndtrain completion bash|zsh|fish`: the shell code that completes ndtrain's command lines."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print completion code.

    \b
    bash: eval "$(ndtrain completion bash)"          in ~/.bashrc
    zsh:  eval "$(ndtrain completion zsh)"           in ~/.zshrc, after compinit
    fish: ndtrain completion fish > ~/.config/fish/completions/ndtrain.fish
    """
    from ndtrain.cli.main import cli

    kind = get_completion_class(shell)
    assert kind is not None
    complete = kind(cli, {}, "ndtrain", "_NDTRAIN_COMPLETE")
    # `source()` would look for a bash on this machine and judge its version.
    click.echo(complete.source_template % complete.source_vars())
