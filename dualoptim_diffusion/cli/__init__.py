"""The command line: a file for each verb. Torch is imported after parsing, so that help is instant."""

import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from dualoptim_diffusion.cli import (  # noqa: F401  # isort: skip, help lists the verbs in this order
    init,
    forget,
    saliency,
    encode,
    evaluate,
    audit,
    report,
    grid,
    sample,
    pretrain,
    train_classifier,
    import_,
    export,
    delta,
    apply,
    push,
    recipes,
    methods,
    classes,
)
from dualoptim_diffusion.cli.options import app
from dualoptim_diffusion.core.environment import LOG, settle_streams, show_libraries
from dualoptim_diffusion.core.errors import (
    EXIT_DIVERGED,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    DivergedError,
    InputError,
    Stopped,
    reason,
)
from dualoptim_diffusion.core.terminal import say

WRONG_PATH = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)

LESS = (
    "lower data.batch_size or sampling.batch_size, or set run.micro_batch_size, run.gradient_checkpointing=true or "
    "optimizers.forget_state=compact."
)


def main() -> None:
    """Entry point: every failure is one sentence on stderr and a non-zero exit; --verbose adds its traceback."""
    settle_streams()
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        with _messages():
            app(prog_name="dualoptim")  # also where python -m runs it
    except Interrupted:
        say("Interrupted. Run the command again to continue (forget: with --resume).")
        sys.exit(EXIT_INTERRUPTED)
    except (InputError, DivergedError) as error:
        say(f"error: {error}")
        sys.exit(EXIT_DIVERGED if isinstance(error, DivergedError) else EXIT_FAILED)
    except Stopped as stop:
        say(f"{stop} Run the command again to continue (forget: with --resume).")
        sys.exit(EXIT_STOPPED)
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except OSError as error:
        remedy = "; choose another path." if isinstance(error, WRONG_PATH) else ""
        say(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": ") + remedy)
        sys.exit(EXIT_FAILED)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        say(f"error: There is not enough memory ({reason(error, 150)}); {LESS}")
        sys.exit(EXIT_FAILED)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _messages() -> Iterator[None]:
    """Libraries are silent, and the traceback of what ends the command is logged; --verbose shows both."""
    with warnings.catch_warnings():
        show_libraries(False)
        try:
            yield
        except Exception:
            LOG.debug("This ended the command:", exc_info=True)
            raise
        finally:
            logging.disable(logging.NOTSET)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no more of it; torch says so in several ways."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory"))
    )


class Interrupted(BaseException):
    """Ctrl-C outside of training, or a second time; a KeyboardInterrupt would end as typer ends it."""


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted
