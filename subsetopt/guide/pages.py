"""Find the pages of the manual, and read their titles and code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from subsetopt.errors import unknown_name

_BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^\n]*) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text, and why tests do not run it (None where they do)."""

    language: str
    code: str
    not_run: str | None


@dataclass(frozen=True)
class Page:
    """One page of the manual: the topic that `subsetopt guide` takes, and its Markdown text."""

    topic: str
    text: str

    @property
    def title(self) -> str:
        """Return the page's heading."""
        return self.text.splitlines()[0].removeprefix("# ")

    def blocks(self) -> Iterator[Block]:
        """Yield the code blocks, in the order of the page."""
        for found in _BLOCK.finditer(self.text):
            yield Block(found["language"], found["code"], found["reason"])


def pages() -> dict[str, Page]:
    """Return all pages by topic, in the order in which a newcomer would read them."""
    found = [
        Page(entry.name.removesuffix(".md"), entry.read_text(encoding="utf-8"))
        for entry in files("subsetopt.guide").iterdir()
        if entry.name.endswith(".md")
    ]
    return {page.topic: page for page in sorted(found, key=lambda page: (_rank(page.topic), page.topic))}


def page(topic: str) -> Page:
    """Return the page on `topic`; raises `SettingError`, with "did you mean", where there is none."""
    known = pages()
    if topic not in known:
        raise unknown_name("guide topic", topic, known)
    return known[topic]


_ORDER = (
    "start",
    "data",
    "models",
    "losses",
    "estimators",
    "strategies",
    "solvers",
    "minima",
    "samplers",
    "comparing",
    "reports",
    "python",
)


def _rank(topic: str) -> int:
    return _ORDER.index(topic) if topic in _ORDER else len(_ORDER)
