"""The command line: verbs, thin. Torch is imported only after parsing, so that help is instant."""

import logging
import sys

from dualoptim_diffusion.cli import forget, images, models  # noqa: F401, these add their verbs
from dualoptim_diffusion.cli.options import app
from dualoptim_diffusion.errors import EXIT_FAILED, EXIT_STOPPED, InputError, NonFiniteError, Stopped


def main() -> None:
    """Entry point: every failure is one sentence on stderr and a non-zero exit."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # diffusers imports it: warnings of 4-bit kernels
    try:
        app()
    except (InputError, NonFiniteError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except Stopped as stop:
        print(f"{stop} Run the same command again to go on (forget: with --resume).", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        sys.exit(EXIT_FAILED)
