"""The JSON documents that this package writes: each is written and read by the same class."""

from subsetopt.documents.base import Document
from subsetopt.documents.comparison import ComparisonDocument
from subsetopt.documents.representativeness import RepresentativenessDocument
from subsetopt.documents.run import RunDocument

__all__ = ["ComparisonDocument", "Document", "RepresentativenessDocument", "RunDocument"]
