"""Mini-batch training with first-order optimizers and samplers."""
