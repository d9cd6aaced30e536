"""The JSON documents that this package writes: each is written and read by the same class.

Those of studies are imported when they are asked for: a run has no use for them, and building their classes takes time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from subsetopt.documents.base import Document
from subsetopt.documents.run import RunDocument

if TYPE_CHECKING:
    from subsetopt.documents.comparison import ComparisonDocument
    from subsetopt.documents.representativeness import RepresentativenessDocument

__all__ = ["ComparisonDocument", "Document", "RepresentativenessDocument", "RunDocument"]
_OF_STUDIES = {
    "ComparisonDocument": "subsetopt.documents.comparison",
    "RepresentativenessDocument": "subsetopt.documents.representativeness",
}


def __getattr__(name: str) -> Any:
    """Import the document of a study."""
    if name not in _OF_STUDIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_OF_STUDIES[name]), name)
