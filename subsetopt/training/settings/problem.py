"""Settings of a run that say what is solved and by what: data, model, subset, solver; see `fields`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from subsetopt.errors import SettingError, on_command_line
from subsetopt.training.settings.base import Settings
from subsetopt.training.settings.declaration import declared
from subsetopt.training.settings.values import ColumnNames, ImageSize, Strengths


class ProblemSettings(Settings):
    """What is solved and by what: data, model, subset, solver."""

    dataset: str = Field(
        "digits",
        description="data set; see `subsetopt list datasets`",
        examples=["mnist"],
        json_schema_extra=declared("Data"),
    )
    data_dir: Path | None = Field(
        None,
        description="where data sets lie [env: SUBSETOPT_DATA]",
        examples=["data"],
        json_schema_extra=declared("Data", free=True),
    )
    data_file: Path | None = Field(
        None,
        description="the file of --dataset npz or table, or the folder of --dataset image-folder",
        examples=["mine.npz"],
        json_schema_extra=declared("Data", free=True),
    )
    target_column: str | None = Field(
        None,
        description="the column of --dataset table to predict; `subsetopt train` takes --target, too",
        examples=["income"],
        json_schema_extra=declared("Data", metavar="COLUMN", old="target"),
    )
    test_file: Path | None = Field(
        None,
        description="a file with the test rows of --dataset table",
        examples=["test.csv"],
        json_schema_extra=declared("Data", free=True),
    )
    drop: ColumnNames = Field(
        (),
        description="columns of --dataset table to leave out, separated by commas",
        examples=["id,date"],
        json_schema_extra=declared("Data", metavar="A,B"),
    )
    embed_words: int | None = Field(
        None,
        ge=1,
        description="learn a vector for each word of columns of --dataset table with more than N words "
        "[default: one-hot, the 63 most frequent words]",
        examples=[64],
        json_schema_extra=declared("Data", metavar="N"),
    )
    task: Literal["classification", "regression"] | None = Field(
        None,
        description="what targets mean [default: whole numbers and words are classes, floats quantities]",
        json_schema_extra=declared("Data"),
    )
    image_size: ImageSize = Field(
        None,
        description="resize images to N x N or H x W pixels, stretched where their shape is another (bilinear)",
        examples=[32],
        json_schema_extra=declared("Data", metavar="N|H,W"),
    )
    normalize: Literal["auto", "none", "standard"] = Field(
        "auto",
        description="auto: standardise inputs and regression targets by the training split; none: as they are",
        json_schema_extra=declared("Data"),
    )
    validation_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the training data held out",
        examples=[0.1],
        json_schema_extra=declared("Data"),
    )
    model: str = Field(
        "auto",
        description="model name (`subsetopt list models`) or package.module:factory",
        examples=["cnn"],
        json_schema_extra=declared("Model"),
    )
    model_args: dict[str, Any] = Field(
        default_factory=dict, description="settings of the model, key=value", json_schema_extra=declared("Model")
    )
    init_from: Path | None = Field(
        None,
        description="start from the model of this finished run, or from a .safetensors file",
        examples=["runs/a"],
        json_schema_extra=declared("Model", free=True),
    )
    loss: Literal["auto", "cross_entropy", "mse"] = Field(
        "auto", description="loss function; auto: by the task of the data set", json_schema_extra=declared("Model")
    )
    subset_frac: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the training data in the subset [default: 0.1]",
        examples=[0.1],
        json_schema_extra=declared("Subset", "method"),
    )
    subset_size: int | None = Field(
        None,
        ge=1,
        description="number of samples in the subset",
        examples=[1000],
        json_schema_extra=declared("Subset", "method"),
    )
    stratify: bool = Field(
        True,
        description="draw the subset with the class shares of the training data",
        json_schema_extra=declared("Subset"),
    )
    augment_copies: int = Field(
        0,
        ge=0,
        description="fixed augmented copies beside each subset sample: K grows, and Q with it",
        examples=[1],
        json_schema_extra=declared("Subset", "method"),
    )
    require_ratio: float | None = Field(
        None,
        gt=0,
        description="refuse to train when Q of the subset, or of all data without one, is below this",
        examples=[1.0],
        json_schema_extra=declared("Subset", "method"),
    )
    solver: str = Field(
        "lbfgs",
        description="solver (`subsetopt list solvers`), or none",
        examples=["lbfgs"],
        json_schema_extra=declared("Solve", "method"),
    )
    solver_args: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of the solver, key=value",
        json_schema_extra=declared("Solve", "method", "solve", "stream", key="settings"),
    )
    solver_epochs: float | None = Field(
        None,
        gt=0,
        description="cost of the solve in epoch-equivalents at most [default: kfac-stream 3]",
        examples=[3],
        json_schema_extra=declared("Solve", "method", "solve", "stream", key="epochs"),
    )
    l2: Strengths = Field(
        1e-3,
        description="L2 strength, in units of the loss, which gains l2/2 ||w||^2; of several, held-out data choose",
        examples=[1e-3],
        json_schema_extra=declared("Solve", metavar="X|X,X,..."),
    )

    @property
    def strengths(self) -> tuple[float, ...]:
        """The L2 strengths from the strongest to the weakest, one or more."""
        return self.l2 if isinstance(self.l2, tuple) else (self.l2,)

    @property
    def one_strength(self) -> float:
        """The L2 strength; raises `SettingError` where several are given."""
        if isinstance(self.l2, tuple):
            run = "`subsetopt train`" if on_command_line() else "SubsetTrainer"
            remedy = f"give one, or choose it first by {run} with all of them"
            raise SettingError("l2", list(self.l2), "are several strengths, and this needs one", remedy)
        return self.l2
