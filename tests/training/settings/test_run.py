"""Configuration: every bad value is one line that names setting, value and remedy; flags become phases."""

import pytest

from subsetopt.errors import SettingError
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.settings.run import RunConfig, make_config, read_toml


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"subset_frac": 0}, ["subset_frac", "0", "greater than 0"]),
        ({"subset_frac": 1.5}, ["subset_frac", "1.5", "less than or equal to 1", "0.1"]),
        ({"subset_frac": "abc"}, ["subset_frac", "abc", "valid number"]),
        ({"subset_frac": float("nan")}, ["subset_frac", "nan"]),
        ({"l2": float("inf")}, ["l2", "inf", "finite"]),
        ({"gtol": 0}, ["gtol", "0", "greater than 0"]),
        ({"subset_size": 2.5}, ["subset_size", "2.5", "integer"]),
        ({"subset_frac": 0.1, "subset_size": 10}, ["subset_frac or subset_size"]),
        ({"chunk_size": 0}, ["chunk_size", "0"]),
        ({"dtype": "float16"}, ["dtype", "float16", "float64"]),
        ({"solvr": "lbfgs"}, ["solvr", "did you mean 'solver'"]),
        ({"phase": [{"method": "sgd", "lrr": 1}]}, ["lrr", "did you mean 'lr'"]),
        ({"phase": [{"method": "sgd"}]}, ["needs epochs"]),
        ({"solver": "none", "handoff": "none"}, ["nothing would be trained"]),
        ({"handoff": "none", "handoff_args": {"fraction": 0.1}}, ["handoff_args", "fraction", "leave one of them out"]),
        ({"stop_at": "validation", "validation_fraction": 0}, ["validation_fraction"]),
        ({"solver_args": "memory=3"}, ["solver_args", "'memory=3'", "is no table of names and values"]),
        ({"phase": {"method": "lbfgs"}}, ["phase", "is no list; a list of tables has each of them under [[name]]"]),
        ({"lr": 0.1}, ["lr", "did you mean 'handoff_lr' or 'warmup_lr'?"]),
        ({"max-epochs": 3}, ["max-epochs", "did you mean 'max_epochs'?"]),
        ({"Batch-Size": 3}, ["Batch-Size", "did you mean 'handoff_batch_size'?"]),
    ],
)
def test_bad_settings_are_one_line_with_setting_value_and_remedy(settings, parts):
    with pytest.raises(SettingError) as caught:
        make_config(settings)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


def test_later_layers_override_earlier_ones_also_across_the_two_ways_to_size_a_subset():
    config = make_config({"subset_frac": 0.5, "l2": 0.1}, {"subset_size": 30})
    assert (config.subset_frac, config.subset_size, config.l2) == (None, 30, 0.1)


def test_flags_for_warmup_solve_and_handoff_are_three_phases():
    config = make_config({"warmup": "adam", "solver": "newton-cg", "handoff": "sgd", "handoff_epochs": 2})
    phases = config.phases()
    assert [(p.role, p.method, p.data) for p in phases] == [
        ("warmup", "adam", "subset"),
        ("solve", "newton-cg", "subset"),
        ("handoff", "sgd", "full"),
    ]
    assert phases[2].epochs == 2


def test_the_settings_of_a_handoff_to_a_solver_are_that_solvers():
    def last(**settings):
        return make_config({"handoff": "full", **settings}).phases()[-1]

    stream = last(solver="kfac-stream", solver_args={"rate": 0.1}, handoff_args={"preconditioner": "kfac"})
    assert (stream.method, stream.settings) == ("lbfgs", {"preconditioner": "kfac"})
    same = last(solver="lbfgs", solver_args={"memory": 5, "damping": 0.1}, handoff_args={"damping": 1.0})
    assert same.settings == {"memory": 5, "damping": 1.0}


def test_explicit_phases_replace_the_flags():
    config = make_config({"phase": [{"method": "ncg", "data": "full"}]})
    assert config.phases() == (PhaseConfig(method="ncg", data="full"),)


def test_settings_survive_the_toml_file(tmp_path):
    import tomli_w

    config = make_config({"model_args": {"widths": "32,16"}, "phase": [{"method": "adam", "epochs": 1.5}], "l2": 1e-4})
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
    assert make_config(read_toml(path)) == config


def test_every_setting_has_a_description():
    assert all(field.description for field in (RunConfig.model_fields | PhaseConfig.model_fields).values())


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "no such file"),
        (b"a = [", "TOML"),
        (b"\xff\xfe", "TOML"),
        (b"a = " + b"[" * 3000 + b"]" * 3000, "TOML .nested too deeply"),
        (b"a = " + b"{b = " * 3000 + b"1" + b"}" * 3000, "TOML .nested too deeply"),
    ],
)
def test_unreadable_toml_is_one_line(tmp_path, content, part):
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=part):
        read_toml(path)


def test_a_file_may_begin_with_the_mark_of_windows_editors(tmp_path):
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbfseed = 3\r\n[solver_args]\r\nmemory = 4\r\n")
    assert read_toml(tmp_path / "c.toml") == {"seed": 3, "solver_args": {"memory": 4}}
