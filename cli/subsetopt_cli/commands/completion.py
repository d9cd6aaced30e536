"""`subsetopt completion`: Tab completion for the shells that click knows."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from subsetopt_cli.output import debug_option

_WHERE = {
    "bash": "save as ~/.local/share/bash-completion/completions/subsetopt",
    "zsh": "save as _subsetopt in a folder of your $fpath",
    "fish": "save as ~/.config/fish/completions/subsetopt.fish",
}


@click.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(list(_WHERE)))
@debug_option
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    For the current shell: eval "$(subsetopt completion bash)", or zsh; fish: subsetopt completion fish | source.
    For good: save it where the comment in its last line says.
    """
    complete = get_completion_class(shell)
    assert complete is not None
    script = complete(ctx.find_root().command, {}, "subsetopt", "_SUBSETOPT_COMPLETE")
    # zsh insists that #compdef is the first line.
    click.echo(f"{script.source().rstrip()}\n# {_WHERE[shell]}")
