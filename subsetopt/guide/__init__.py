"""The manual: one Markdown page per topic, printed by `subsetopt guide TOPIC`.

Pages hold tables that the registries feed; `python -m subsetopt.guide` writes them again, and a test compares.
"""

from subsetopt.guide.pages import Page, page, pages

__all__ = ["Page", "page", "pages"]
