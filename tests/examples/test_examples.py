"""Every example runs as `python -m subsetopt.examples.NAME` does, and prints what its docstring promises."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
from subsetopt_cli.main import run

import subsetopt.examples
from subsetopt.examples import examples

FOLDER = Path(subsetopt.examples.__file__).parent


def output(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_module(f"subsetopt.examples.{name}", run_name="__main__")
    return capsys.readouterr().out


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


def test_own_arrays_predicts_new_rows_far_better_than_their_mean(capsys: pytest.CaptureFixture[str]) -> None:
    """Reference: the noise of the prices has standard deviation 1, their mean misses by about 26."""
    text = output("own_arrays", capsys)
    assert "stop reason of the subset solve: gradient" in text
    assert 0.8 < number(r"error on new rows: ([\d.]+)", text) < 3
    assert number(r"deviation of their prices: ([\d.]+)", text) > 20


def test_own_loop_sees_half_of_the_samples_per_epoch_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    text = output("own_loop", capsys)
    assert text.count(": 647 of 1294 samples") == 8
    assert number(r"test accuracy: ([\d.]+)", text) > 0.9


def test_lbfgs_reaches_the_minimum_that_adam_left_far_away(capsys: pytest.CaptureFixture[str]) -> None:
    text = output("finish_adam_with_lbfgs", capsys)
    assert number(r"after L-BFGS: ([\d.e+-]+)", text) < 1e-3 * number(r"after Adam: +([\d.e+-]+)", text)
    assert number(r"max\|g\| ([\d.e+-]+)", text) <= 1e-5 and "stop reason: gradient" in text


def test_newton_cg_ends_at_a_certified_minimum(capsys: pytest.CaptureFixture[str]) -> None:
    text = output("newton_cg_certified_minimum", capsys)
    assert number(r"max\|g\| ([\d.e+-]+)", text) <= 1e-9
    assert number(r"between ([\d.e+-]+)", text) > 0 and ": minimum" in text


def test_two_methods_are_compared_with_a_test_of_the_difference(capsys: pytest.CaptureFixture[str]) -> None:
    text = output("compare_two_methods", capsys)
    assert text.count("test accuracy") == 2 and "page: report.html" in text
    assert 0 <= number(r"adam, accuracy: [\w ]+, p = ([\d.e-]+)", text) <= 1


def test_a_physics_informed_network_nears_the_wave_it_should_be(capsys: pytest.CaptureFixture[str]) -> None:
    """Reference: the travelling wave in closed form; new points must not make it worse."""
    first, second = output("pinn", capsys).splitlines()
    assert number(r"relative error ([\d.e+-]+)", first) < 1e-2
    assert number(r"relative error ([\d.e+-]+)", second) < 2e-3


def test_forces_of_a_learned_potential_are_those_of_the_true_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert number(r"error of forces ([\d.]+)", output("energy_and_forces", capsys)) < 0.02


def test_a_gaussian_process_finds_the_noise_and_the_input_that_does_not_matter(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = output("gaussian_process", capsys)
    assert number(r"noise ([\d.]+)", text) == pytest.approx(0.1, rel=0.3)
    assert number(r"and ([\d.e+]+)", text) > 10 * number(r"lengths ([\d.]+)", text)


def test_a_model_with_an_output_object_is_trained_on_the_mean_over_its_tokens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = output("huggingface_style", capsys)
    assert number(r"new tokens: ([\d.]+)", text) > 0.95 and "stop reason: gradient" in text


def test_a_lightning_module_is_finished_at_the_minimum(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning", reason="Lightning is not installed")
    text = output("finish_lightning_with_lbfgs", capsys)
    assert number(r"after L-BFGS: ([\d.e+-]+),", text) < 1e-2 * number(r"after Adam: +([\d.e+-]+)", text)
    assert "stop reason: gradient" in text


def test_a_skorch_net_is_finished_at_the_minimum(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skorch", reason="skorch is not installed")
    text = output("finish_skorch_with_lbfgs", capsys)
    assert number(r"after L-BFGS: ([\d.e+-]+),", text) < 0.7 * number(r"after Adam: +([\d.e+-]+)", text)
    assert "stop reason: gradient" in text and number(r"test accuracy: ([\d.]+)", text) > 0.93


def test_a_loop_of_accelerate_is_finished_at_the_minimum(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("accelerate", reason="Accelerate is not installed")
    text = output("finish_accelerate_with_lbfgs", capsys)
    assert number(r"after L-BFGS: ([\d.e+-]+),", text) < 1e-2 * number(r"after Adam: +([\d.e+-]+)", text)
    assert "stop reason: gradient" in text


def test_deepxde_solves_its_equation_with_our_lbfgs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: the solution in closed form."""
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    pytest.importorskip("deepxde", reason="DeepXDE is not installed")
    assert number(r"error of the solution: ([\d.e+-]+)", output("deepxde_with_lbfgs", capsys)) < 0.01


def test_a_trainer_of_transformers_is_finished_at_the_minimum(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    text = output("finish_transformers_with_lbfgs", capsys)
    assert number(r"after L-BFGS: ([\d.e+-]+),", text) < number(r"after AdamW: +([\d.e+-]+)", text)
    assert "stop reason: gradient" in text


def test_a_path_of_eight_strengths_costs_at_most_two_solves(capsys: pytest.CaptureFixture[str]) -> None:
    text = output("linear_probe", capsys)
    assert text.count("accuracy") == 8 and number(r"ratio ([\d.]+)", text) <= 2


def test_a_transformer_learns_more_than_the_frequencies_of_letters(capsys: pytest.CaptureFixture[str]) -> None:
    text = output("char_transformer", capsys)
    assert number(r"step 120: loss ([\d.]+)", text) < 0.8 * number(r"without context ([\d.]+)", text)


def test_every_example_is_tested_here_short_and_summarised_in_one_line() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    for name, summary in examples().items():
        assert f'output("{name}", capsys)' in source
        assert summary.endswith(".") and len(summary) < 118
        assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 60
    assert set(examples()) == {path.stem for path in FOLDER.glob("[a-z]*.py")}


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "examples", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {entry["name"]: entry["summary"] for entry in listed} == examples()


def test_the_guide_names_every_example() -> None:
    page = (FOLDER.parent / "guide" / "python.md").read_text(encoding="utf-8")
    assert set(re.findall(r"subsetopt\.examples\.(\w+)", page)) == set(examples())
