"""`python -m dualoptim_diffusion`, for `accelerate launch -m`."""

from dualoptim_diffusion.cli import main

if __name__ == "__main__":
    main()
