"""`subsetopt download`: fetch a published data set."""

from __future__ import annotations

from pathlib import Path

import click

from subsetopt_cli.output import debug_option


@click.command("download", short_help="Fetch a data set from its publisher.")
@click.argument("name")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where to put it  [env: SUBSETOPT_DATA; default: ~/.cache/subsetopt]",
)
@click.option("--quiet", is_flag=True, help="No progress; print only where the data are.")
@debug_option
def command(name: str, data_dir: Path | None, quiet: bool) -> None:
    """Fetch a data set from its publisher.

    NAME is one of `subsetopt list datasets`. Files are checked against the publisher's checksums; an interrupted
    download goes on where it stopped.
    """
    from subsetopt.data import download

    click.echo(download(name, data_dir=data_dir, progress=None if quiet else _Bar()))
