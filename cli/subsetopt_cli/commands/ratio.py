"""`subsetopt ratio`: the overdetermination ratio of a model, and the subset that reaches a target."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from subsetopt.documents.analysis import RatioDocument, RatioTarget
from subsetopt.errors import SettingError, flag_of
from subsetopt.overdetermination import (
    count_parameters,
    fraction_table,
    overdetermination_ratio,
    samples_for_ratio,
    verdict,
)
from subsetopt.report.table import text_table
from subsetopt.training.settings.run import RunConfig, make_config
from subsetopt_cli.effective import show_effective
from subsetopt_cli.options import HeadedCommand, HeadedOption, given_settings, setting_options
from subsetopt_cli.output import debug_option, json_option, print_json, standard_output_reserved
from subsetopt_cli.whole_number import WholeNumber

_SETTINGS = (
    "dataset",
    "data_dir",
    "data_file",
    "target_column",
    "test_file",
    "drop",
    "embed_words",
    "task",
    "image_size",
    "validation_fraction",
    "model",
    "model_args",
    "subset_frac",
    "subset_size",
    "augment_copies",
)
_WITH_EFFECTIVE = frozenset({"data_dir", "subset_frac", "subset_size"})
_BARE = (
    ("samples", "N, training samples (instead of a data set)"),
    ("outputs", "M, outputs per sample (instead of a data set)"),
    ("parameters", "P, trainable parameters (instead of a model)"),
)
_MOST = 2**63  # that JSON documents of ours hold
_COUNT = WholeNumber(1, _MOST)
_OF_MODEL = ("model", "model_args")
_OF_SUBSET = ("subset_frac", "subset_size", "augment_copies", "task")


@dataclass(frozen=True)
class _Sizes:
    """P trainable parameters, N training samples, M outputs per sample, and the task that the verdict is for."""

    parameters: int
    samples: int
    outputs: int
    task: str


@click.command(
    "ratio",
    cls=HeadedCommand,
    params=[
        *setting_options(RunConfig, _SETTINGS, taken=("--target",)),
        *[HeadedOption([f"--{name}"], type=_COUNT, metavar="N", help=text, heading="Model") for name, text in _BARE],
    ],
    short_help="Compute the overdetermination ratio of a subset: Q = K·M/P.",
    epilog="Examples: subsetopt ratio --dataset mnist --model cnn --target 2; "
    "subsetopt ratio --samples 60000 --outputs 10 --parameters 11274 --subset-frac 0.1",
)
@click.option(
    "--target",
    type=click.FloatRange(min=0, min_open=True),
    metavar="Q",
    help="Find the smallest subset that reaches Q.",
)
@click.option(
    "--effective",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Measure the effective ratio at the minimum that a run found; --subset-frac or --subset-size then ask for "
    "the excess of another subset.",
)
@click.option(
    "--excess",
    type=float,
    metavar="X",
    help="With --effective: the subset whose loss on the full set is at most X times the full minimum's above it.",
)
@click.option(
    "--on", type=click.Choice(["subset", "full"]), help="With --effective: measure at the last solve on these data."
)
@click.option(
    "--rows",
    type=int,
    metavar="N",
    help="With --effective: samples left out in turn; 0 for none.  [default: 32]",
)
@json_option
@debug_option
def command(
    samples: int | None,
    outputs: int | None,
    parameters: int | None,
    target: float | None,
    effective: Path | None,
    excess: float | None,
    on: Literal["subset", "full"] | None,
    rows: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Compute the overdetermination ratio of a subset: Q = K·M/P.

    K samples with M outputs each set K·M equations for P trainable parameters. Without --subset-frac or --subset-size,
    K is the whole training set. With --effective RUN, compute the effective ratio K/p at the minimum that a run found:
    p is the number of parameters that its data determine.
    """
    given = given_settings(RunConfig, flags)
    config = make_config(given)
    if effective is not None:
        bare = {"samples": samples, "outputs": outputs, "parameters": parameters, "target": target}
        _refuse({*given, *(name for name, value in bare.items() if value is not None)} - _WITH_EFFECTIVE)
        show_effective(effective, config, on=on, excess=excess, rows=32 if rows is None else rows, as_json=as_json)
        return
    for name, value in (("excess", excess), ("on", on), ("rows", rows)):
        if value is not None:
            raise SettingError(name, value, "needs --effective RUN", "name a run")
    _refuse_unused(given, samples, outputs, parameters)
    with standard_output_reserved():
        sizes = _sizes(config, given, samples, outputs, parameters)
    document = _document(config, sizes, target)
    if as_json:
        print_json(document.content())
    else:
        click.echo(_text(config, sizes, document))


def _refuse(names: set[str]) -> None:
    for name in sorted(names):
        raise SettingError(name, "given", "the run named by --effective says it", f"leave out {flag_of(name)}")


def _refuse_unused(given: Mapping[str, Any], samples: int | None, outputs: int | None, parameters: int | None) -> None:
    """Raise `SettingError` for a setting of what the numbers stand for instead."""
    instead = {}
    if parameters is not None:
        instead = dict.fromkeys(_OF_MODEL, f"--parameters {parameters}")
    if samples is not None and outputs is not None and parameters is not None:
        unread = [name for name in _SETTINGS if name not in (*_OF_MODEL, *_OF_SUBSET)]
        instead |= dict.fromkeys(unread, "--samples, --outputs and --parameters")
    for name in given:
        if name in instead:
            raise SettingError(name, given[name], f"has no effect beside {instead[name]}", "leave one of them out")


def _sizes(
    config: RunConfig,
    given: Mapping[str, Any],
    samples: int | None,
    outputs: int | None,
    parameters: int | None,
) -> _Sizes:
    """Take what was given as numbers, and the rest from the data set and the model."""
    bare = {"samples": samples, "outputs": outputs, "parameters": parameters}
    missing = [name for name, value in bare.items() if value is None]
    if samples is not None and outputs is not None and parameters is not None:
        return _Sizes(parameters, samples, outputs, config.task or "classification")
    if len(missing) < len(bare) and not {"dataset", "data_file", "model"} & set(given):
        flags = " and ".join(f"--{name}" for name in missing)
        raise SettingError(
            f"--{missing[0]}", None, "not given", f"add {flags}, or name a --dataset and --model instead"
        )

    from subsetopt.data import load_dataset
    from subsetopt.models import build_model
    from subsetopt.training.resolving import resolve_model

    data = load_dataset(
        config.dataset,
        data_dir=config.data_dir,
        data_file=config.data_file,
        validation_fraction=config.validation_fraction,
        seed=config.seed,
        task=config.task,
        image_size=config.image_size,
        target_column=config.target_column,
        test_file=config.test_file,
        drop=config.drop,
    )
    for note in data.notes:
        click.echo(f"Warning: {note}", err=True)
    if parameters is None:
        name = resolve_model(config.model, data)
        model = build_model(name, in_shape=data.in_shape, n_outputs=data.n_outputs, **config.model_args)
        parameters = count_parameters(model)
    return _Sizes(
        parameters,
        len(data.train) if samples is None else samples,
        data.n_outputs if outputs is None else outputs,
        config.task or data.task,
    )


def _document(config: RunConfig, sizes: _Sizes, target: float | None) -> RatioDocument:
    """Return what --json prints."""
    drawn = sizes.samples
    if config.subset_size is not None:
        drawn = config.subset_size
    elif config.subset_frac is not None:
        drawn = max(1, round(config.subset_frac * sizes.samples))  # as `subsetopt.data.draw` does
    if drawn * (config.augment_copies + 1) > _MOST:
        problem = f"makes more than {_MOST} samples"
        raise SettingError("augment_copies", config.augment_copies, problem, "ask for fewer")
    if drawn > sizes.samples:
        raise SettingError("subset_size", drawn, f"there are {sizes.samples} training samples", "ask for fewer")
    copies = config.augment_copies + 1
    subset = overdetermination_ratio(sizes.parameters, drawn * copies, sizes.outputs)
    full = overdetermination_ratio(sizes.parameters, sizes.samples, sizes.outputs)
    reach = None
    if target is not None:
        needed = math.ceil(samples_for_ratio(sizes.parameters, sizes.outputs, target) / copies)
        if needed > _MOST:
            raise SettingError("target", target, f"takes more than {_MOST} samples", "give a smaller one")
        reach = RatioTarget(ratio=target, samples=needed, fraction=needed / sizes.samples)
    document = RatioDocument(
        parameters=sizes.parameters,
        samples=subset.samples,
        outputs=sizes.outputs,
        ratio=subset.ratio,
        samples_full=full.samples,
        ratio_full=full.ratio,
        verdict=verdict(subset, full, task=sizes.task),
    )
    return document if reach is None else document.model_copy(update={"target": reach})


def _text(config: RunConfig, sizes: _Sizes, document: RatioDocument) -> str:
    """Return the same for people: the numbers, the verdict, the target, and a table over subset fractions."""
    lines = [
        f"P = {sizes.parameters} parameters, M = {sizes.outputs} outputs, N = {sizes.samples} training samples",
        f"K = {document.samples} samples: Q = K·M/P = {document.ratio:.3g}",
        "",
        *textwrap.wrap(document.verdict, 96),
    ]
    target = document.target
    if target is not None:
        reach = (
            f"Q = {target.ratio:g} needs --subset-size {target.samples}, "
            f"{100 * target.fraction:.3g} % of the training samples"
        )
        if target.fraction > 1:
            reach = f"Q = {target.ratio:g} needs {target.samples} samples, more than the training set has"
        lines += ["", reach]
    copies = config.augment_copies + 1
    rows = [["subset", "samples", "K", "Q"]]
    for row in fraction_table(sizes.parameters, sizes.outputs, sizes.samples):
        rows.append(
            [f"{100 * row.fraction:g} %", str(row.samples), str(row.samples * copies), f"{row.ratio * copies:.3g}"]
        )
    return "\n".join([*lines, "", *text_table(rows, indent="", left=0)])
