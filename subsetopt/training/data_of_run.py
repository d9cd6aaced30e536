"""The data set of a run: read by its name, made of what was given, or taken as it is."""

from __future__ import annotations

from subsetopt.data import Dataset, as_dataset, as_dataset_of_batches, load_dataset
from subsetopt.data.catalog import LearntTable
from subsetopt.distributed import Ranks
from subsetopt.errors import SettingError
from subsetopt.training.settings.run import RunConfig


def data_of(config: RunConfig, given: object, ranks: Ranks, whole: bool, learnt: LearntTable | None = None) -> Dataset:
    """Return the data of a run; with `whole` samples are not taken apart into inputs and targets.

    `learnt` is what another run has learnt of a table. Raises `DataError` and `SettingError` in one line.
    """
    if given is None:
        return load_dataset(
            config.dataset,
            learnt=learnt,
            embed_words=config.embed_words,
            data_dir=config.data_dir,
            data_file=config.data_file,
            validation_fraction=config.validation_fraction,
            seed=config.seed,
            normalize=config.normalize,
            task=config.task,
            image_size=config.image_size,
            target_column=config.target_column,
            test_file=config.test_file,
            drop=config.drop,
            ranks=ranks,
        )
    if isinstance(given, Dataset):
        if config.task not in (None, given.task):
            raise SettingError("task", config.task, f"the data set given is for {given.task}", "leave it out")
        return given
    if not whole:
        return as_dataset(
            given,
            task=config.task,
            validation_fraction=config.validation_fraction,
            seed=config.seed,
            normalize=config.normalize,
        )
    for name, value in (("normalize", config.normalize), ("task", config.task)):
        if value not in (None, "auto", "none"):
            remedy = "leave it out, or give as_dataset(data): then a batch is (inputs, targets)"
            raise SettingError(name, value, "has no effect: a loss(model, batch) gets batches as they are", remedy)
    return as_dataset_of_batches(given, validation_fraction=config.validation_fraction, seed=config.seed)
