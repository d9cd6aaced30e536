"""Data sets, the subsets drawn from them, fixed augmented copies and downloads.

scikit-learn and Pillow are imported by the readers that need them, when they need them.
"""

from subsetopt.data.augment import augmented_copies
from subsetopt.data.catalog import DATASETS
from subsetopt.data.coercion import as_batches, as_dataset, as_dataset_of_batches, as_samples
from subsetopt.data.dataset import Dataset, Normalization, Split, Task
from subsetopt.data.download import download
from subsetopt.data.given.reading import require_readable
from subsetopt.data.loading import dataset_from_arrays, load_dataset
from subsetopt.data.normalization import Preprocess, Restore, standardised_targets
from subsetopt.data.publishers import PUBLISHED, PublishedFile
from subsetopt.data.subset import disjoint, draw, missing_classes, require_all_classes, subset_size

__all__ = [
    "DATASETS",
    "PUBLISHED",
    "Dataset",
    "Normalization",
    "Preprocess",
    "PublishedFile",
    "Restore",
    "Split",
    "Task",
    "as_batches",
    "as_dataset",
    "as_dataset_of_batches",
    "as_samples",
    "augmented_copies",
    "dataset_from_arrays",
    "disjoint",
    "download",
    "draw",
    "load_dataset",
    "missing_classes",
    "require_all_classes",
    "require_readable",
    "standardised_targets",
    "subset_size",
]
