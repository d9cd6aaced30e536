"""`python -m subsetopt.guide`: write the tables of the manual's pages again, from the registries."""

from __future__ import annotations

from pathlib import Path

from subsetopt.files import replace_file
from subsetopt.guide.pages import pages
from subsetopt.guide.tables import filled

if __name__ == "__main__":
    for topic, page in pages().items():
        if (text := filled(page.text)) != page.text:
            replace_file(Path(__file__).parent / f"{topic}.md", text.encode())
            print(f"{topic}.md: tables written")
