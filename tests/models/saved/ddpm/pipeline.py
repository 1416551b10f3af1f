from dualoptim_diffusion import ConditionalDDPMPipeline  # noqa: F401
