"""`subsetopt download`: fetch a published data set."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import click
from tqdm import tqdm

from subsetopt_cli.output import debug_option


@click.command("download", short_help="Fetch a data set from its publisher.")
@click.argument("name")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder to save it in  [env: SUBSETOPT_DATA; default: ~/.cache/subsetopt]",
)
@click.option("--quiet", is_flag=True, help="No progress; print only the files.")
@debug_option
def command(name: str, data_dir: Path | None, quiet: bool) -> None:
    """Fetch a data set from its publisher.

    NAME is a published set, e.g. mnist. Files are checked by checksum, complete ones are left alone, and an interrupted
    download continues where it stopped. Print the paths of the files.
    """
    from subsetopt.data import download
    from subsetopt.data.catalog import default_data_dir

    root = default_data_dir() if data_dir is None else data_dir
    with _FileBar(silent=quiet or not sys.stderr.isatty()) as bar:
        files = download(name, root, progress=bar.update)
    click.echo("\n".join(os.fspath(path) for path in files))


class _FileBar:
    """Shows the bytes of the file at hand; a new file begins where the count falls back."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> _FileBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def update(self, done: int, total: int | None) -> None:
        """Record that `done` of `total` bytes of the current file have arrived."""
        if self._bar is None or done < self._bar.n or total != self._bar.total:
            self._close()
            self._bar = self._open(done, total)
        self._bar.update(done - self._bar.n)

    def _open(self, done: int, total: int | None) -> tqdm[NoReturn]:
        return tqdm(total=total, initial=done, unit="B", unit_scale=True, file=sys.stderr, disable=self._silent)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
