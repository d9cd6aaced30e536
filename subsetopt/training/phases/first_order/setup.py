"""What a first-order phase is made of, from its settings; everything that cannot work is refused before step 0."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from subsetopt.errors import SettingError, setting
from subsetopt.objective import CrossEntropy, FlatModel, Loss, has_last_layer, make_loss
from subsetopt.objective.weighting import without_weights
from subsetopt.samplers import Sampler, default_settings, make_sampler
from subsetopt.seeding import derive_seed
from subsetopt.training.budget import Budget
from subsetopt.training.context import RunContext
from subsetopt.training.ledger import Ledger
from subsetopt.training.model_loss_data import CHECKED, gives_mean
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.settings.names import setting_name
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData


def learning_rate(config: PhaseConfig, setting: str = "optimizer") -> float:
    """Return the peak learning rate; `setting` is what the user called the setting that names the optimizer."""
    return OPTIMIZERS.get(config.method).default_rate(setting) if config.lr is None else config.lr


def weight_decay_of(config: PhaseConfig, l2: float) -> float:
    """Return the setting, else the run's strength `l2` where it means the same; decoupled decay has a default."""
    if config.weight_decay is not None:
        return config.weight_decay
    method = OPTIMIZERS.get(config.method)
    if method.has_own_decay(config.settings):
        return 0.0
    if method.decoupled_decay is None:
        return l2
    return 0.0 if config.coupled_l2 else method.decoupled_decay


def coupled_l2_of(config: PhaseConfig, l2: float) -> float:
    """Return the L2 strength that is added to the gradient; other optimizers have it as their weight decay."""
    decoupled = OPTIMIZERS.get(config.method).decoupled_decay is not None
    return l2 if decoupled and config.coupled_l2 else 0.0


def schedule_of(config: PhaseConfig) -> str:
    """Return the setting, else the schedule that suits the optimizer."""
    return OPTIMIZERS.get(config.method).schedule if config.schedule is None else config.schedule


def optimizer_of(
    config: PhaseConfig, flat: FlatModel, w: Tensor, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return the optimizer of the one flat parameter `w` (P,), which is made to require its gradient."""
    w.requires_grad_(True)
    return OPTIMIZERS.get(config.method).make(config, flat, w, lr, weight_decay)


def check_optimizer(config: PhaseConfig, run: RunContext) -> None:
    """Raise `SettingError` where the optimizer is not there, cannot train the model, or refuses its settings."""
    method = OPTIMIZERS.get(config.method)
    named = setting_name(run.config, config, "method")
    method.check(run.model.flat, named)
    method.arguments(config, named)
    if config.weight_decay is not None and method.has_own_decay(config.settings):
        name = setting_name(run.config, config, "weight_decay")
        problem = f"{config.method} has a weight_decay of its own in its arguments"
        raise SettingError(name, config.weight_decay, problem, "leave one of them out")
    method.rehearse(config, run.model.flat, learning_rate(config, named), named)


def loss_of(config: PhaseConfig, run: RunContext) -> Loss:
    """Return the run's loss, smoothed where asked; raises `SettingError` where it cannot be."""
    smoothing = config.label_smoothing
    if smoothing and run.model.loss != "cross_entropy":
        name = setting_name(run.config, config, "label_smoothing")
        raise SettingError(name, smoothing, "only cross-entropy has it", "use 0")
    return CrossEntropy(smoothing) if smoothing else make_loss(run.model.loss)


def sampler_of(
    config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext, samples: int, stream: str
) -> Sampler:
    """Return the sampler over `samples` rows; a sampler that has a window in time gets the planned number of steps."""
    settings = dict(config.sampler_settings)
    batch_size = min(config.batch_size, samples)
    if "total_steps" in default_settings(config.sampler) and config.epochs is not None:
        # As if every batch were trained whole. Selection saves cost, so a few more steps may follow; not fewer.
        rows = min(config.epochs, budget.ledger.budget) * data.full_size
        settings.setdefault("total_steps", max(1, math.floor(rows / batch_size)))
    sampler = make_sampler(
        config.sampler,
        samples,
        batch_size,
        derive_seed(run.config.seed, f"{stream}:{config.sampler}"),
        device=data.device,
        **settings,
    )
    if run.model.flat.batch_dependent and min(sampler.rows_per_proposal, sampler.epoch_rows) < 2:
        raise SettingError(
            setting_name(run.config, config, "batch_size"),
            config.batch_size,
            "leaves one row per step, and BatchNorm needs two",
            "use a larger one",
        )
    return sampler


def check_phase(config: PhaseConfig, data: TrainingData, run: RunContext, sampler: Sampler) -> None:
    """Raise `SettingError` for what would otherwise fail in the middle of the training."""
    named = partial(setting_name, run.config, config)
    if not data.samples(SplitName.VALIDATION):
        remedy = f"set {setting('validation_fraction')} above 0"
        if sampler.needs_validation_scan:
            raise SettingError(named("sampler"), sampler.name, "needs held-out data", remedy)
        if config.stop_at == "validation":
            raise SettingError(named("stop_at"), "validation", "needs held-out data", remedy)
    if config.amp and run.config.dtype == "float64":
        raise SettingError(
            named("amp"), True, "float64 parameters are never autocast", f"use {setting('dtype', 'float32')}"
        )
    if (sampler.needs_scan or "features" in sampler.needs) and not has_last_layer(run.model.flat):
        raise SettingError(
            named("sampler"), sampler.name, "needs a model that ends in a linear layer", "use another sampler or model"
        )
    few = data.dataset.train.inputs[:CHECKED]
    flat = run.model.flat
    if "losses" in sampler.needs and flat.is_called_by_loss and gives_mean(flat, few, data.preprocess):
        raise SettingError(
            named("sampler"),
            sampler.name,
            "chooses by losses of samples",
            "have loss(model, batch) return one for each",
        )
    if (sampler.needs_scan or "probabilities" in sampler.needs) and data.dataset.task != "classification":
        raise SettingError(
            named("sampler"),
            sampler.name,
            "works on class probabilities",
            "use a classification data set or another sampler",
        )
    loss = without_weights(make_loss(run.model.loss))
    wanted = sampler.needs - getattr(sampler, "does_without", frozenset())
    if "probabilities" in wanted and not isinstance(loss, CrossEntropy):
        raise SettingError(
            named("sampler"),
            sampler.name,
            "works on the class probabilities of cross-entropy, and the loss is another",
            f"use {setting('loss', 'cross_entropy')}, or another sampler",
        )


def check_affordable(config: PhaseConfig, ledger: Ledger, run: RunConfig, sampler: str, rows: int) -> None:
    """Raise `SettingError` where preparing the sampler, for the price of `rows` gradients, leaves nothing to train."""
    cost = ledger.price("gradient", rows)
    exact = config.sampler_settings.get("estimator") == "exact"
    what, cheaper = ("comparing", "estimator=sketch") if exact else ("hashing", "repetitions=8")
    if config.epochs is not None and cost >= min(config.epochs, ledger.budget):
        raise SettingError(
            setting_name(run, config, "sampler"),
            sampler,
            f"preparing it ({what} all inputs) costs {cost:.2g} epoch-equivalents of a model as small as this",
            f"allow it more by {setting(setting_name(run, config, 'epochs'))}, or give it cheaper "
            f"settings, for example {cheaper}",
        )
