"""Optimizers: two over the same weights, and state for the weights under a mask alone."""
