"""What a command says while it works: on stderr, above the progress bar."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """Logs go to stderr; stdout is for results."""
    tqdm.write(text, file=sys.stderr)
