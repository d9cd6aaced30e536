"""Entry point: the group that imports a command only when it is called, and the exit code of every error."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from subsetopt.distributed import environment_size
from subsetopt.errors import SettingError, command_line
from subsetopt_cli.failures import exit_code_of
from subsetopt_cli.output import fonts_unmentioned, plain_output

_COMMANDS = {
    "train": "Train on a random subset to its minimum, then hand over to the full set.",
    "ratio": "Compute the overdetermination ratio of a subset: Q = K·M/P.",
    "plan": "Predict the cost of each strategy on this problem and machine, and recommend one.",
    "compare": "Compare methods at equal cost, with tuning, seeds and tests.",
    "study": "Study how far subset minima stand for the full set.",
    "learn-curve": "Find how much data are needed, and what more would bring.",
    "evaluate": "Evaluate the trained model of a run.",
    "predict": "Predict new data with the trained model of a run.",
    "export": "Write the trained model of a run for other programs.",
    "verify": "Check whether a run found a minimum, by the Hessian's eigenvalues.",
    "resume": "Continue an interrupted run.",
    "report": "Render the report of a study or a run again.",
    "bench": "Measure our solvers against torch and scipy on this machine.",
    "coverage": "Compute how much of the data redrawn samplers see, and how often.",
    "guide": "Print a page of the manual, or the list of its topics.",
    "list": "List data sets, models, solvers, samplers, augmentations, presets or examples.",
    "download": "Fetch a data set from its publisher.",
    "completion": "Print the completion script of a shell.",
}


class LazyGroup(click.Group):
    """A group whose help needs none of its commands: names and summaries stand in `_COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a user's way through the tool."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import `subsetopt_cli.commands.NAME` and return its `command`."""
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"subsetopt_cli.commands.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, with "did you mean" where there is none of that name."""
        name = args[0]
        if name in _COMMANDS and name not in ("train", "resume") and environment_size() > 1:
            raise SettingError("command", name, "it runs in one process", "start it without torchrun")
        if name not in _COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from subsetopt.errors import unknown_name

            raise unknown_name("command", name, _COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from subsetopt import __version__

        click.echo(f"subsetopt {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `subsetopt train`: it needs no data and no settings. "
    "Tab completion: `subsetopt completion bash|zsh|fish` prints the script and says where it goes. "
    "Exit codes: 0 done, 2 a mistake in what was asked, 130 interrupted, 1 anything else.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Train PyTorch models on random subsets with second-order methods, and know how small a subset is enough."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; errors become one line on standard error."""
    with plain_output(), fonts_unmentioned():
        try:
            with command_line(arguments):
                result = cli.main(list(arguments), prog_name="subsetopt", standalone_mode=False)
        except SystemExit:
            raise
        except BaseException as error:  # a user's code may raise what is no Exception
            return exit_code_of(error, debug="--debug" in arguments)
    return result if isinstance(result, int) else 0


def main() -> None:
    """Run `subsetopt` with the arguments of the process."""
    sys.exit(run(sys.argv[1:]))
