"""Standard output and standard error of our scripts: what can't be written there stops nothing.

A terminal lacks characters, a disk that takes the output is full, a job system closed the stream. The work goes on, its
results are saved, and the exit status and, where one can be written, a line at the end say that output was lost. A
reader that left, as `| head` does, is no such fault: it ends the script as it ends others.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable


class Output(io.TextIOBase):
    """A text stream of which the first failure is remembered and the others are spared. `stream`: None for one that was
    closed when the process began."""

    def __init__(self, name: str, stream):
        self.name, self.stream, self.problem = name, stream, None

    def write(self, text: str) -> int:
        if text:
            self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        if self.stream is not None:
            self._try(self.stream.flush)

    def _try(self, act: Callable) -> None:
        if self.problem is not None:
            return
        if self.stream is None:
            self.problem = "it is closed"
            return
        try:
            act()
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: closed by someone in this process
            self.problem = getattr(error, "strerror", None) or str(error)

    @property
    def encoding(self) -> str:
        return getattr(self.stream, "encoding", "utf-8")

    @property
    def errors(self) -> str:
        return getattr(self.stream, "errors", "replace")

    @property
    def buffer(self):
        return self.stream.buffer

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.stream is not None and self.stream.isatty()

    def fileno(self) -> int:
        if self.stream is None:
            raise io.UnsupportedOperation("fileno")
        return self.stream.fileno()


def run(main: Callable[[], int]) -> int:
    """The exit status of `main`, called with streams as above: 1 in the place of 0 where output was lost."""
    _occupy_descriptors()
    out, err = Output("standard output", sys.stdout), Output("standard error", sys.stderr)
    for output in (out, err):
        with contextlib.suppress(AttributeError, ValueError):  # not a stream of the interpreter's
            output.stream.reconfigure(errors="replace")
    sys.stdout, sys.stderr = out, err
    try:
        status = main()
    except SystemExit as ended:  # argparse, which has said why
        status = ended.code
    except BrokenPipeError:  # the reader of our output left
        status = 1
    try:
        out.flush()
        err.flush()
    except BrokenPipeError:
        sys.stdout = sys.stderr = Output("", None)  # else the interpreter tries once more, and complains
        return status or 1
    lost = [f"{output.name} can't be written ({output.problem})" for output in (out, err) if output.problem]
    if not lost:
        return status
    where = err if not err.problem else out
    where.write(f"{os.path.basename(sys.argv[0])}: {', '.join(lost)}: what was said there is lost, nothing else\n")
    where.flush()
    return status or 1


def _occupy_descriptors() -> None:
    """Closed descriptors 0, 1 and 2 would be those of the next files opened, and what a library prints be among a
    checkpoint's bytes."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
                os.set_inheritable(descriptor, True)
