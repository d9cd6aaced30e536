"""Settings of a comparison that change nothing in it: said before hours of work, as a run says them."""

from __future__ import annotations

from collections.abc import Iterator

from subsetopt.compare.cells import CellMaker
from subsetopt.compare.config import StudyConfig
from subsetopt.errors import SettingError, setting
from subsetopt.training.settings.declaration import declaration
from subsetopt.training.settings.run import RunConfig, make_config


def unused_notes(maker: CellMaker) -> list[str]:
    """Return a sentence for each setting that was changed and that no method of the study makes use of."""
    return [f"{setting(name, value)} has no effect {why}" for name, value, why in _unused(maker)]


def _unused(maker: CellMaker) -> Iterator[tuple[str, object, str]]:
    config = maker.study.config
    changed = {name: getattr(config, name) for name in StudyConfig.model_fields if getattr(config, name) != _own(name)}
    if not config.tune:
        for name in ("tuning_seeds", "max_extensions"):
            if name in changed:
                yield name, changed[name], f"with {setting('tune', 'none')}"
    if not any(_hands_over(maker, name) for name in maker.methods):
        for name in ("solve_share", "solve_stop_at"):
            if name in changed:
                yield name, changed[name], "on methods without a subset solve before a hand-off"
    if config.baseline is not None and len(maker.methods) == 1:
        yield "baseline", config.baseline, "on a single method"
    for name, value in maker.study.shared.items():
        field = RunConfig.model_fields[name]
        if declaration(field).roles and value != _default(name) and not _is_used(maker, name):
            yield name, value, "on any of these methods"


def _own(name: str) -> object:
    return StudyConfig.model_fields[name].default


def _default(name: str) -> object:
    return RunConfig.model_fields[name].get_default(call_default_factory=True, validated_data={})


def _hands_over(maker: CellMaker, name: str) -> bool:
    return any(phase.role in ("grow", "solve") for phase in maker.description(name).phases()[:-1])


def _is_used(maker: CellMaker, name: str) -> bool:
    """Return whether the phases of any method are others without the shared setting `name`."""
    shared = {key: value for key, value in maker.study.shared.items() if key != name}
    for method in maker.methods.values():
        try:
            without = make_config(shared, {"max_iterations": None}, method.settings, {"seed": 0})
        except SettingError:  # another setting needs it
            return True
        if without.phases() != maker.description(method.name).phases():
            return True
    return False
