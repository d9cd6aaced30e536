"""Small model zoo, and models of the user's own through `package.module:factory`."""

from subsetopt.models.build import MODELS, build_model, check_output_shape, initialise_lazy
from subsetopt.settings import parse_model_args, refuse_reserved

__all__ = ["MODELS", "build_model", "check_output_shape", "initialise_lazy", "parse_model_args", "refuse_reserved"]
