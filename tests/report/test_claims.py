"""The pages on the papers' claims say what their studies' results.csv say, and every command on them exists."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from subsetopt.compare.config import make_study

ROOT = Path(__file__).parents[2]
CLAIMS = ROOT / "reports" / "claims"
PAGES = sorted(CLAIMS.glob("*.md"))


MODULES = ("layout", "study", "claim_one", "claim_three", "claim_four", "claim_five", "tables")


def differing(claims: Path) -> list[str]:
    """Return the pages of a folder that say anything else than its studies, by the folder's own script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(claims))
        for module in MODULES:
            patch.delitem(sys.modules, module, raising=False)
        try:
            pages: list[str] = importlib.import_module("tables").write_pages(check=True)
        finally:
            for module in MODULES:
                sys.modules.pop(module, None)
    return pages


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return shutil.copytree(CLAIMS, tmp_path / "claims", ignore=shutil.ignore_patterns("__pycache__"))


def test_every_table_equals_the_studies_results() -> None:
    assert differing(CLAIMS) == []


def test_a_number_changed_on_a_page_is_found(copied: Path) -> None:
    page = copied / "c5-backward-selection.md"
    text = page.read_text(encoding="utf-8")
    number = re.search(r"\| `random-minibatch@0.1` \| (\d\d\.\d\d) \|", text)
    assert number is not None
    page.write_text(text.replace(number[1], "99.99", 1), encoding="utf-8")
    assert differing(copied) == [page.name]


def test_a_number_changed_in_a_study_is_found(copied: Path) -> None:
    results = copied / "studies" / "claim-1-digits-l2-1e-2" / "results.csv"
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    accuracy = lines[1].split(",")[lines[0].split(",").index("test_accuracy")]
    results.write_text("".join(lines).replace(accuracy, "0.5", 1), encoding="utf-8")
    assert differing(copied) == ["c1-subset-minima.md"]


@pytest.mark.parametrize("study", sorted(CLAIMS.glob("studies/*/study.toml")), ids=lambda path: path.parent.name)
def test_a_study_is_the_one_that_its_preset_asks_for(study: Path) -> None:
    """What was run, beside the preset as it is now; --l2 is in the study's name."""
    name, _, l2 = study.parent.name.partition("-l2-")
    preset = tomllib.loads((ROOT / "configs" / f"{name}.toml").read_text(encoding="utf-8"))
    ran = tomllib.loads(study.read_text(encoding="utf-8"))
    wanted = make_study(preset, {"l2": float(l2)} if l2 else {}).to_toml()
    found = make_study(ran).to_toml()
    for extended in ("methods", "method"):  # a preset may have more than what is finished of it
        of_preset, of_study = wanted.pop(extended), found.pop(extended)
        assert [method for method in of_preset if method in of_study] == list(of_study)
    assert found == wanted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_presets_and_figures_of_a_page_exist_and_are_small(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"--config (claim-[\w-]+)", text)) | set(re.findall(r"`(claim-\d-gpu)`", text))
    presets = {path.stem for path in (ROOT / "configs").glob("claim-*.toml")}
    assert {name for name in named if name not in presets} <= {"claim-3-"}  # a loop's variable follows
    for figure in re.findall(r"!\[.*?\]\(([\w.-]+)\)", text):
        assert 1000 < (CLAIMS / figure).stat().st_size < 40_000


def test_what_is_kept_is_lean() -> None:
    assert sum(path.stat().st_size for path in CLAIMS.rglob("*") if path.is_file() and path.suffix != ".pyc") < 700_000


@pytest.mark.parametrize("page", sorted(CLAIMS.glob("c[1-5]-*.md")), ids=lambda page: page.stem)
def test_the_readme_has_the_verdict_of_every_page(page: Path) -> None:
    verdict = re.search(r"^\*\*Verdict: (.*?)[.:]?\*\*", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert verdict is not None
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if f"(reports/claims/{page.name})" in line]
    assert f"**{verdict[1]}**" in line
