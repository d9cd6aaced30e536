"""`subsetopt report`: render what a study or a run shows, from its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from subsetopt_cli.output import debug_option, json_option, print_json


@click.command("report", short_help="Render the report of a study or a run again.")
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
@debug_option
def command(directory: Path, as_json: bool) -> None:
    """Render the report of a study or a run again.

    DIRECTORY is what `subsetopt compare`, `study` or `train` wrote. A comparison gets report.html and report.md, a
    representativeness study its figure, a run loss.png; verdict or summary are printed. Nothing is trained again.
    """
    from subsetopt.errors import RunDirectoryError
    from subsetopt.report.study.files import is_study

    if is_study(directory):
        document, text = _study(directory)
    elif (directory / "config.toml").is_file():
        document, text = _run(directory)
    else:
        problem = "holds neither a study nor a run" if directory.is_dir() else "is not a directory"
        raise RunDirectoryError(
            f"directory = {str(directory)!r}: {problem}; "
            "give the --output directory of `subsetopt compare` or `subsetopt train`"
        )
    if as_json:
        print_json({"directory": str(directory), **document})
    else:
        click.echo(text)


def _study(directory: Path) -> tuple[dict[str, Any], str]:
    from subsetopt.report.study.files import read_study, study_kind

    if study_kind(directory) == "representativeness":
        from subsetopt.report.learning_curve import FILE, learning_curve_figure
        from subsetopt.report.representativeness import FILE as DRAWN
        from subsetopt.report.representativeness import representativeness_figure

        figures: list[str] = []

        if (directory / FILE).is_file():
            figures.append(str(learning_curve_figure(directory)))
        if not (directory / FILE).is_file() or (directory / DRAWN).is_file():
            figures.append(str(representativeness_figure(directory)))
        return {"kind": "representativeness", "files": figures}, f"Written: {' and '.join(figures)}"

    from subsetopt.report.study.report import render_study
    from subsetopt.report.study.terminal import study_text

    report, study = render_study(directory), read_study(directory)
    document = {
        "kind": "study",
        "files": [str(path) for path in report],
        "verdict": study.verdict,
        "comparisons": study.content()["comparisons"],
    }
    return document, f"{study_text(study)}\n\nWritten: {report.html} and {report.markdown}"


def _run(directory: Path) -> tuple[dict[str, Any], str]:
    from subsetopt.errors import RunDirectoryError, UserError, typed
    from subsetopt.files import MALFORMED
    from subsetopt.report import loss_figure, summary
    from subsetopt.report.l2_path import path_files
    from subsetopt.report.result_file import read_result_file

    result = read_result_file(directory, f"finish it with `subsetopt resume {typed(directory)}`")
    try:
        figure = loss_figure(directory, result)
        files = [str(path) for path in (figure, *path_files(directory, result))]
        return {"kind": "run", "files": files, "result": result.content()}, summary(result, directory)
    except UserError:
        raise
    except MALFORMED as error:
        raise RunDirectoryError(
            f"run = {str(directory)!r}: result.json or metrics.jsonl holds what cannot be shown "
            f"({type(error).__name__}: {error}); train anew"
        ) from None
