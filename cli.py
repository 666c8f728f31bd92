"""The parts of our command lines: errors of one line, flags, and streams.

What can't be written to standard output or standard error stops nothing: a terminal lacks characters, a disk that takes
the output is full, a job system closed the stream. The work goes on, its results are saved, and the exit status and,
where one can be written, a line at the end say that output was lost. A reader that left, as `| head` does, is no such
fault: it ends the script as it ends others.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import errno
import functools
import importlib.util
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import storage

# -- errors -------------------------------------------------------------------------------------------------------


class UserError(ValueError):
    """The input is wrong. The message is one line: what is wrong, where, and what would be right."""


class RunFailed(Exception):
    """Some trials failed; what was finished is kept. One line."""


PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "pandas", "tabulate", "tqdm")


def require_packages(script: str) -> None:
    """End a script in one line where it would end in a traceback: packages that it needs are not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        print(
            f"{script}: {', '.join(missing)} {are} not installed for this Python: ./setup.sh, then venv/bin/python "
            f"{script}",
            file=sys.stderr,
        )
        sys.exit(2)


_flags_are_named = False


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Within, messages name flags: the user typed a command. Elsewhere they name arguments."""
    global _flags_are_named
    before, _flags_are_named = _flags_are_named, True
    try:
        yield
    finally:
        _flags_are_named = before


def option(name: str, value=True) -> str:
    """A setting as the user would give it: `--study NAME` on the command line, `study='NAME'` in Python."""
    if not _flags_are_named:
        return f"{name}={value!r}"
    flag = "--trials" if name == "trials_per_activation" else "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return flag if value else flag.replace("--", "--no-", 1)
    return f"{flag} {value}"


def answers(script: str, interrupted: str = "interrupted") -> Callable:
    """Makes of the `main(argv)` of a command line one that ends in one line on stderr, which names flags, where the
    work can't be done. Its exit status is 0 done, 1 failed or damaged, 2 wrong input, 130 `interrupted`."""

    def decorated(main: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(main)
        def answering(argv: Sequence[str] | None = None) -> int:
            try:
                with command_line():
                    return main(argv)
            except UserError as error:
                complaint, status = error, 2
            except (storage.StorageError, RunFailed) as error:
                complaint, status = error, 1
            except KeyboardInterrupt as stopped:
                complaint, status = str(stopped) or interrupted, 130
            print(f"{script}: {complaint}".replace("\n", " "), file=sys.stderr)
            return status

        return answering

    return decorated


def words(name: str) -> dict:
    """What a TOML file of templates/ says."""
    return tomllib.loads((Path(__file__).parent / "templates" / f"{name}.toml").read_text(encoding="utf-8"))


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """'1 trial', '1,200 trials'."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    if seconds < 89.5:
        return counted(round(seconds), "second")
    if seconds < 597.5:  # to five seconds: whole minutes would be off by a quarter
        minutes, rest = divmod(5 * round(seconds / 5), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} minutes"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook, as tqdm.auto asks it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and "IPKernelApp" in shell.config


# -- flags --------------------------------------------------------------------------------------------------------

# Settings that there are no more: {name: (the value at which nothing was done that isn't done now, what to do instead)}
GONE: dict[str, tuple[object, str]] = {
    "data_parallel": (1, "each trial is trained on one device; torchrun and Slurm train several trials at a time"),
}


class _Help(argparse.Action):
    """--help shows the flags that most users need, `--help all` all of them."""

    def __call__(self, parser, namespace, values, option_string=None):
        parser._print_message(parser.format_help() if values == "all" else parser.format_first(), sys.stdout)
        parser.exit()


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line on stderr with exit status 2, without the page of usage.

    Args:
        examples: command lines, with what they do behind them, with which --help begins.
        first: the flags that --help then shows, the others only with `--help all`; without any it shows all.
    """

    def __init__(self, *, examples: Sequence[str] = (), first: Sequence[str] = (), **kwargs):
        super().__init__(allow_abbrev=False, add_help=not first, **kwargs)
        self.examples, self.first = examples, first
        if first:
            self.add_argument(
                "-h", "--help", action=_Help, nargs="?", choices=["all"], help="these flags, or with all every flag"
            )

    def format_first(self) -> str:
        named = {flag: action for action in self._actions for flag in action.option_strings}
        formatter = self._get_formatter()
        formatter.add_arguments(named[flag] for flag in (*self.first, "--help"))
        return "\n".join([self.description, "", *(f"    {x}" for x in self.examples), "", formatter.format_help()])

    def error(self, message):
        flags = [name for action in self._actions for name in action.option_strings]
        if message.startswith("unrecognized arguments:"):
            first, *more = message.split(":", 1)[1].split() or [""]
            name = first.split("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
            if name in GONE:
                self.exit(2, f"{self.prog}: {first.split('=')[0]}: no longer a setting: {GONE[name][1]}\n")
            near = difflib.get_close_matches(first.split("=")[0], flags, n=1)
            if not first.startswith("-") and "--activation" in flags:
                near = [" ".join(["--activation", first, *(word for word in more if not word.startswith("-"))])]
            message += f" (did you mean {near[0]}?)" if near else ""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n".replace("\n", " ").strip() + "\n")


def add_arguments(
    parser: argparse.ArgumentParser, fields: Mapping[str, dataclasses.Field], groups: Mapping[str, Mapping[str, str]]
) -> None:
    """Add a flag for every field of a dataclass: {title of a group: {name of a field: what it is}}."""
    for title, words in groups.items():
        group = parser.add_argument_group(title)
        for name, text in words.items():
            f, flags = fields[name], ["--" + name.replace("_", "-")]
            if name == "trials_per_activation":
                flags.append("--trials")
            text += "" if f.default in (None, ()) or name == "vary" else f" (default: {_shown(f.default)})"
            options = {"default": None, "dest": name, "help": text.replace("%", "%%")}
            if kind(f) is bool:
                group.add_argument(*flags, action=argparse.BooleanOptionalAction, **options)
            elif kind(f) is tuple:
                group.add_argument(*flags, nargs="+" if f.default else "*", metavar="X", **options)
            else:
                group.add_argument(*flags, metavar={int: "N", float: "X", str: "NAME"}[kind(f)], **options)


def given(args: argparse.Namespace, fields: Iterable[dataclasses.Field]) -> dict:
    """{field: value} of the flags that were given, in the fields' types. Raises UserError: a number that is none."""
    values = {f.name: getattr(args, f.name, None) for f in fields}
    return {f.name: _parsed(f, values[f.name]) for f in fields if values[f.name] is not None}


def kind(f: dataclasses.Field) -> type:
    """The type of a setting's values, None apart, as its annotation (a text) begins."""
    return {"int": int, "float": float, "str": str, "bool": bool, "tuple": tuple}[re.match(r"\w+", f.type)[0]]


def _shown(value) -> str:
    return " ".join(f"{x:g}" for x in value) if isinstance(value, tuple) else str(value)


def _parsed(f: dataclasses.Field, text):
    if f.name == "teacher":  # paths, which may have spaces in them
        return tuple(text)
    of_kind = kind(f)
    if of_kind is tuple:
        return tuple(word for part in text for word in part.replace(",", " ").split())
    if of_kind in (int, float) and isinstance(text, str):
        try:
            # int("1e3") is an error although 1e3 is a whole number that people do write
            return of_kind(text) if of_kind is float or "e" not in text.lower() else _whole(float(text))
        except (ValueError, OverflowError):
            raise UserError(f"{f.name}={text!r}: {expected(f)}") from None
    return text


def _whole(x: float) -> int:
    if x != int(x):
        raise ValueError(x)
    return int(x)


def expected(f: dataclasses.Field) -> str:
    meta = f.metadata
    noun = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind(f)]
    if meta["choices"]:
        return "must be one of " + ", ".join(meta["choices"])
    bounds = []
    if meta["above"] is not None:
        bounds.append(f"above {meta['above']:g}")
    if meta["low"] is not None:
        bounds.append(f"at least {meta['low']}")
    if meta["high"] is not None:
        bounds.append(f"at most {meta['high']}")
    return f"must be {noun}" + (" " + " and ".join(bounds) if bounds else "")


def choices(given, names: Iterable[str]) -> str:
    """'must be one of …', with the nearest name first when one is near."""
    names = sorted(names)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}must be one of {', '.join(names)}"


# -- streams ------------------------------------------------------------------------------------------------------


class Output:
    """A text stream that remembers its first failure, and drops what is written after it; else it is as `stream` is, or
    as an empty one where that is None: it was closed when the process began."""

    def __init__(self, name: str, stream):
        self.name, self.closed_before, self.problem = name, stream is None, None
        self.stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        if text and self.closed_before:
            self.problem = "it is closed"
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, act: Callable) -> None:
        if self.problem is not None:
            return
        try:
            act()
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:  # ValueError: closed by someone in this process
            self.problem = getattr(error, "strerror", None) or str(error)


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
    """Open what is closed of descriptors 0, 1 and 2. The next files opened would get them, and what a library prints
    would end up among a checkpoint's bytes."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
                os.set_inheritable(descriptor, True)
