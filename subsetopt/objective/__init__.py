"""Full-batch losses, gradients and curvature products over chunks, as functions of one flat parameter vector."""

from subsetopt.objective.chunks import resident_bytes
from subsetopt.objective.evaluation import evaluate_split, update_batch_norm
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.function import FunctionObjective
from subsetopt.objective.functional import Functional, functional
from subsetopt.objective.last_layer import evaluate_last_layer, has_last_layer
from subsetopt.objective.losses import CallableLoss, CrossEntropy, Loss, MeanSquaredError, make_loss
from subsetopt.objective.meters import CountingMeter
from subsetopt.objective.model_loss import ModelLoss, model_loss
from subsetopt.objective.objective import Objective
from subsetopt.objective.prices import FALLBACK_PRICES, Prices, calibrate_prices, calibrated_prices
from subsetopt.objective.protocol import BudgetExhausted, CallKind, Linearisation, Meter, Purpose, SmoothObjective
from subsetopt.objective.residuals import Residuals
from subsetopt.objective.tuning import tuned_chunk_size

__all__ = [
    "FALLBACK_PRICES",
    "BudgetExhausted",
    "CallKind",
    "CallableLoss",
    "CountingMeter",
    "CrossEntropy",
    "FlatModel",
    "FunctionObjective",
    "Functional",
    "Linearisation",
    "Loss",
    "MeanSquaredError",
    "Meter",
    "ModelLoss",
    "Objective",
    "Prices",
    "Purpose",
    "Residuals",
    "SmoothObjective",
    "calibrate_prices",
    "calibrated_prices",
    "evaluate_last_layer",
    "evaluate_split",
    "functional",
    "has_last_layer",
    "make_loss",
    "model_loss",
    "resident_bytes",
    "tuned_chunk_size",
    "update_batch_norm",
]
