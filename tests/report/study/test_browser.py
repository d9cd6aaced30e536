"""The page in a real browser: columns sort, the key hides lines, and a phone does not scroll sideways."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from subsetopt.report.study.report import render_study
from tests.report.study.study_fixture import METHODS, NEVER, summary, write_study

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--allow-file-access-from-files",
    "--hide-scrollbars",
    "--window-size=700,900",
)
# A window of a headless browser may not be as narrow as a phone; a frame may.
DRIVER = """<!DOCTYPE html><iframe id="phone" src="report.html" style="width:360px;height:640px;border:0"></iframe>
<pre id="seen"></pre><script>
phone.onload = () => {
  const page = phone.contentDocument, seen = {};
  const table = (name) => page.querySelector(`table[aria-label="${name}"]`);
  const order = (t) => Array.from(t.tBodies[0].rows, (row) => row.cells[0].textContent);
  const press = (t, column) => t.tHead.rows[0].cells[column].querySelector("button").click();
  const results = table("After 10 epoch-equivalents"), target = table("Until the held-out loss first reaches 0.3");
  press(results, 6); seen.seconds = order(results); seen.sorted = results.tHead.rows[0].cells[6].ariaSort;
  press(results, 6); seen.dearest = order(results); seen.reversed = results.tHead.rows[0].cells[6].ariaSort;
  press(results, 0); seen.names = order(results); seen.before = results.tHead.rows[0].cells[6].ariaSort;
  press(target, 1); press(target, 1); seen.target = order(target);
  const lines = () => Array.from(page.querySelectorAll('figure g[data-s="0"]'));
  const visible = () => lines().filter((line) => page.defaultView.getComputedStyle(line).display !== "none").length;
  seen.lines = visible(); page.querySelector(".key button").click(); seen.hidden = visible();
  seen.width = page.documentElement.scrollWidth;
  seen.requests = phone.contentWindow.performance.getEntriesByType("resource").length;
  document.getElementById("seen").textContent = JSON.stringify(seen);
};
</script>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the driver saw in a frame as wide as a phone."""
    if BROWSER is None:
        pytest.skip("no chromium on this machine")
    folder = tmp_path_factory.mktemp("browser")
    render_study(write_study(folder))
    (folder / "driver.html").write_text(DRIVER, encoding="utf-8")
    command = [
        BROWSER,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        (folder / "driver.html").as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (text,) = re.findall(r'<pre id="seen">(.+?)</pre>', dom, flags=re.DOTALL)
    content: dict[str, Any] = json.loads(html.unescape(text))
    return content


def test_a_press_sorts_by_the_numbers_and_another_reverses(seen: dict[str, Any]) -> None:
    rows = [row for row in summary()["results"] if row["budget"] == 10.0]
    quickest = [row["method"] for row in sorted(rows, key=lambda row: row["seconds_mean"])]
    assert seen["seconds"] == quickest and seen["sorted"] == "ascending"
    assert seen["dearest"] == quickest[::-1] and seen["reversed"] == "descending"
    assert set(seen["names"]) == set(METHODS) and seen["names"].index("adam") < seen["names"].index("sgd")
    assert seen["before"] == "none", "one column at a time is the sorted one"


def test_a_method_without_a_value_stays_last_in_both_directions(seen: dict[str, Any]) -> None:
    assert seen["target"][-1] == NEVER


def test_the_key_hides_the_lines_of_a_method(seen: dict[str, Any]) -> None:
    assert seen["lines"] > 0 and seen["hidden"] == 0


def test_a_phone_does_not_scroll_sideways_and_nothing_is_requested(seen: dict[str, Any]) -> None:
    assert seen["width"] == 360
    assert seen["requests"] == 0
