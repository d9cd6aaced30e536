"""Full-batch solvers: one method per file, one protocol, one result, one enum of stop reasons."""

from subsetopt.solvers.catalog import SOLVERS, make_solver
from subsetopt.solvers.minimize import minimize
from subsetopt.solvers.protocol import Solver, SolveResult, State, StopReason

__all__ = ["SOLVERS", "SolveResult", "Solver", "State", "StopReason", "make_solver", "minimize"]
