"""Small model zoo, and models of the user's own through `package.module:factory`."""

from subsetopt.models.arguments import refuse_reserved
from subsetopt.models.build import MODELS, build_model, check_output_shape, initialise_lazy

__all__ = ["MODELS", "build_model", "check_output_shape", "initialise_lazy", "refuse_reserved"]
