"""The benchmark for GPUs at tiny sizes on the CPU: what its parts measure, and that none can lose another's results."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from subsetopt.bench.gpu import eigen, epochs, iterations, products, race, runner, solve
from subsetopt.bench.gpu.__main__ import main
from subsetopt.bench.gpu.clocks import by_turns, host_counts, peak_bytes
from subsetopt.bench.gpu.data import images
from subsetopt.bench.gpu.models import resnet18, transformer
from subsetopt.bench.gpu.part import BenchPart
from subsetopt.bench.gpu.table import table

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Made-up data wherever the tests run."""
    monkeypatch.setenv("SUBSETOPT_DATA", str(tmp_path / "nothing"))


def part(name: str, path: Path | None = None, seconds: float = 600.0) -> BenchPart:
    return BenchPart(name, CPU, True, time.monotonic() + seconds, path)


def rows_of(module: Any) -> list[dict[str, Any]]:
    measured = part(module.__name__)
    module.measure(measured)
    assert measured.title and measured.data
    assert [row["error"] for row in measured.rows if "error" in row] == []
    return measured.rows


def test_models_have_the_parameters_that_are_told() -> None:
    sizes = [sum(p.numel() for p in model.parameters()) for model in (resnet18(), transformer(384, 6, 6, 128))]
    assert sizes == [11_173_962, 10_893_312]


def test_transformer_looks_at_no_later_token_and_agrees_with_torch_attention() -> None:
    model = transformer(16, 1, 2, 8).double()
    layer, h = model.layers[0], torch.randn(3, 8, 16, dtype=torch.float64)
    q, k, v = layer.qkv(layer.norm(h)).view(3, 8, 3, 2, 8).permute(2, 0, 3, 1, 4)
    mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(3, 8, 16)
    after = h + layer.out(mixed)
    expected = after + layer.narrow(torch.nn.functional.gelu(layer.wide(layer.mlp_norm(after))))
    torch.testing.assert_close(layer(h), expected)


def test_products_are_measured_for_every_model() -> None:
    rows = rows_of(products)
    assert [row["model"] for row in rows] == ["mlp", "cnn", "resnet18", "transformer"]
    for row in rows:
        assert row["chunks"] == row["hvp_stored_chunks"] == row["ggnvp_stored_chunks"] == 2
        assert min(row["gradient_ms"], row["hvp_in_gradients"], row["first_ggnvp_in_gradients"]) > 0
        assert row["hvp_peak_MiB"] > row["gradient_peak_MiB"] > 0


def test_iterations_read_the_device_less_often_than_torch() -> None:
    rows = rows_of(iterations)
    assert [row["parameters"] for row in rows] == [1000, 1000, 2000, 2000]
    for ours, torchs in zip(rows[::2], rows[1::2], strict=True):
        assert ours["evaluations"] >= 1 and torchs["evaluations"] >= 1
        assert ours["reads"] < torchs["reads"] and ours["operators"] < torchs["operators"]


def test_eigendecompositions_in_all_places() -> None:
    narrow, wide = rows_of(eigen)
    assert {"device_ms", "batched_ms", "host_ms"} <= narrow.keys() and "subspace_ms" not in narrow
    assert wide["subspace_ms"] > 0


def test_second_moment_has_the_spectrum_that_is_told() -> None:
    moment = eigen.second_moment(300, CPU)
    torch.testing.assert_close(moment.diagonal(), 1 / torch.arange(1.0, 301), rtol=0.3, atol=0.0)


def test_epochs_of_both_loops() -> None:
    rows = rows_of(epochs)
    assert [row["precision"] for row in rows] == ["float32", "bfloat16", "float32"]
    assert all(row["plain_s"] > 0 and row["subsetopt_s"] <= row["with_setup_s"] for row in rows)


def test_solve_is_the_same_whatever_runs_it() -> None:
    plain, graphs = rows_of(solve)
    assert plain["loss"] == pytest.approx(graphs["loss"], rel=1e-6) and plain["iterations"] == solve.TINY_MOST
    assert "cuda_graphs" in graphs["note"] and "note" not in plain


def test_race_says_when_the_target_is_reached() -> None:
    rows = rows_of(race)
    methods = ["adam", "kfac-stream", "sgd", "muon", "soap"]
    assert [(row["dataset"], row["method"]) for row in rows] == [(d, m) for d in ("mnist", "cifar10") for m in methods]
    for row in rows:
        if "last_test_loss" not in row:
            assert row["method"] == "soap" and "not installed" in row["note"]
        elif row["method"] == "adam":
            assert row["target"] == row["last_test_loss"] and row["seconds_to_target"] <= row["seconds"]
        elif row["last_test_loss"] <= row["target"]:
            assert row["epochs_to_target"] <= row["epoch_equivalents"]


def test_made_up_data_say_so_and_repeat() -> None:
    (first, label), (second, _) = images("cifar10", True), images("cifar10", True)
    assert "made up" in label and first.in_shape == (3, 32, 32) and first.n_outputs == 10
    assert torch.equal(first.train.inputs, second.train.inputs) and first.train.inputs.dtype == torch.uint8


def test_a_failed_row_keeps_what_it_had_and_later_rows_come(tmp_path: Path) -> None:
    measured = part("x", tmp_path / "x.json")

    def fail(row: dict[str, Any]) -> None:
        row["before"] = float("nan")
        raise ValueError("first line\nsecond line")

    measured.measure({"case": 1}, fail)
    measured.measure({"case": 2}, lambda row: row.update(value=3.0))
    saved = json.loads((tmp_path / "x.json").read_text())
    assert saved["rows"] == [
        {"case": 1, "before": None, "error": "ValueError: first line"},
        {"case": 2, "value": 3.0},
    ]
    assert "| 1 |  |  | ValueError: first line |" in table(saved["rows"])


def test_rows_after_the_deadline_are_left_out() -> None:
    measured = part("x", seconds=0.0)
    assert "time was over" in measured.measure({"case": 1}, lambda row: row.update(value=1))["error"]
    assert "value" not in measured.rows[0]


def test_by_turns_ends_at_the_deadline_but_measures_once() -> None:
    calls: list[str] = []
    found = by_turns({n: lambda n=n: calls.append(n) for n in "ab"}, 50, CPU, time.monotonic())  # type: ignore[misc]
    assert calls == ["a", "b", "a", "b"] and found.keys() == {"a", "b"}


def test_counts_of_known_work() -> None:
    x = torch.ones(1000)
    assert host_counts(lambda: (x + 1).view(10, 100).sum().item())["reads"] == 1
    assert host_counts(lambda: (x + 1).view(10, 100).mul(2))["operators"] == 2
    assert peak_bytes(lambda: [x + 1, x + 2], CPU) == 8000


def test_a_part_that_fails_or_hangs_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script stands for the process of a part: `iterations` writes a row and hangs, `products` breaks off."""
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$5" = products ]; then exit 139; fi\n'
        'echo \'{"title": "t", "rows": [{"kept": 1}], "seconds": 1}\' > "$3/$5.json"\n'
        '[ "$5" = eigen ] || exec sleep 600\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(script))
    out, start = tmp_path / "out", time.monotonic()
    products_, iterations_, eigen_ = runner.run_parts(out, ["products", "iterations", "eigen"], 1.0, 60.0, True, "cpu")
    assert time.monotonic() - start < 30
    assert products_["status"] == "failed" and "139" in products_["error"]
    assert iterations_["status"] == "timed out" and iterations_["rows"] == [{"kept": 1}]
    assert eigen_["status"] == "done" and json.loads((out / "eigen.json").read_text())["rows"] == [{"kept": 1}]
    page = (out / "table.md").read_text()
    assert "**timed out**" in page and "**failed**" in page


def test_the_command_measures_a_part_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert main([str(tmp_path), "--parts", "eigen", "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "eigen.json").read_text())["tiny"] is True
    assert json.loads((tmp_path / "bench-environment.json").read_text())["packages"]["torch"] == torch.__version__
    assert "| 200 |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "eigenn"], "--parts = 'eigenn': unknown name; did you mean 'eigen'?"),
        (["--seconds-per-part", "-1"], "--seconds-per-part = -1.0: must be a finite number above 0"),
        (["--seconds", "nan"], "--seconds = nan: must be a finite number above 0"),
        (["--device", "tpu"], "--device = 'tpu': must be auto, cuda or cpu"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
