from dualoptim_diffusion import ConditionalDiTPipeline  # noqa: F401
