"""The diffusion process, its randomness and its samplers, as pure functions."""
