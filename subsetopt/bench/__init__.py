"""Measures our solvers, side by side in one run, against those of torch, scipy and pytorch-minimize."""

from subsetopt.bench.run import PARTS, BenchSettings, run_bench

__all__ = ["PARTS", "BenchSettings", "run_bench"]
