"""Small model zoo, and models of the user's own through `package.module:factory`."""

from subsetopt.models.build import MODELS, build_model, check_output_shape, initialise_lazy
from subsetopt.settings import refuse_reserved

__all__ = ["MODELS", "build_model", "check_output_shape", "initialise_lazy", "refuse_reserved"]
