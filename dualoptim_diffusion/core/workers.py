"""A function over many files in worker processes.

Unlike multiprocessing's, these workers do not import the caller's main module again, so a script or notebook needs no
`if __name__ == "__main__"` for them. What passes between them is JSON and bytes.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import import_module
from queue import SimpleQueue
from typing import Any

from dualoptim_diffusion.core.errors import InputError

AT_ONCE = 256  # paths that a worker is sent
START = "import sys; sys.path[:] = {path!r}; from dualoptim_diffusion.core.workers import serve; serve()"


def usable_cpus() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(function: Callable[..., bytes], paths: Sequence[str], *arguments: Any) -> Iterator[bytes]:
    """`function(path, *arguments)` of each path, in order; in this process where there is one core or little to do.

    Args:
        function: one of a module's own, which workers import.
        arguments: as JSON has them; a tuple arrives as a list.

    Raises:
        InputError: that the function raises.
        RuntimeError: if a worker ends by itself.
    """
    chunks = [paths[first : first + AT_ONCE] for first in range(0, len(paths), AT_ONCE)]
    count = min(usable_cpus(), len(chunks))
    if count < 2:
        yield from (function(path, *arguments) for path in paths)
        return
    idle: SimpleQueue[_Worker] = SimpleQueue()

    def ask(chunk: Sequence[str]) -> list[bytes]:
        worker = idle.get()
        try:
            return worker.ask(chunk)
        finally:
            idle.put(worker)

    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(count))  # one waits for each worker
        for _ in range(count):
            idle.put(stack.enter_context(_Worker(function, arguments)))
        try:
            for results in threads.map(ask, chunks):
                yield from results
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


class _Worker:
    """A process that applies the function to the lists it is sent."""

    def __init__(self, function: Callable[..., bytes], arguments: Sequence[Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self._send([function.__module__, function.__name__, *arguments])

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _send(self, content: Any) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(content).encode() + b"\n")
        self._process.stdin.flush()

    def ask(self, paths: Sequence[str]) -> list[bytes]:
        """The results; raises what the function raised."""
        assert self._process.stdout
        self._send(list(paths))
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"A worker process ended with {self._process.wait()} at one of {paths[0]} to {paths[-1]}."
            )
        answer = json.loads(line)
        if isinstance(answer, str):
            raise InputError(answer)
        return [self._process.stdout.read(size) for size in answer]


def serve() -> None:
    """What a worker does until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends it
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed
    module, name, *arguments = json.loads(sys.stdin.buffer.readline())
    function = getattr(import_module(module), name)
    for line in sys.stdin.buffer:
        try:
            results = [function(path, *arguments) for path in json.loads(line)]
            answer: Any = [len(result) for result in results]
        except InputError as error:
            results, answer = [], str(error)
        answers.write(json.dumps(answer).encode() + b"\n" + b"".join(results))
        answers.flush()
