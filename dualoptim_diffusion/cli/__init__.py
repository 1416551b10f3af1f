"""The command line: verbs, thin. Torch is imported only after parsing, so that help is instant."""

import logging
import signal
import sys

from dualoptim_diffusion.cli import forget, images, models  # noqa: F401, these add their verbs
from dualoptim_diffusion.cli.options import app
from dualoptim_diffusion.errors import (
    EXIT_DIVERGED,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    DivergedError,
    InputError,
    Stopped,
)

WRONG_PATH = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def main() -> None:
    """Entry point: every failure is one sentence on stderr and a non-zero exit."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # diffusers imports it: warnings of 4-bit kernels
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except Interrupted:
        print("Interrupted at once. The same command again goes on (forget: with --resume).", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except (InputError, DivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_DIVERGED if isinstance(error, DivergedError) else EXIT_FAILED)
    except Stopped as stop:
        print(f"{stop} Run the same command again to go on (forget: with --resume).", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except OSError as error:
        remedy = "; choose another path." if isinstance(error, WRONG_PATH) else ""
        print(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": ") + remedy, file=sys.stderr)
        sys.exit(EXIT_FAILED)
    finally:
        signal.signal(signal.SIGINT, before)


class Interrupted(BaseException):
    """Ctrl-C outside of training, or a second time; a KeyboardInterrupt would end as typer ends it."""


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted
