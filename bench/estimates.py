"""Is the time that train.py announces the time that it takes, and is it ever silent meanwhile?

    python bench/estimates.py --json figures.json                   # every case: about a quarter of an hour
    python bench/estimates.py --cases smoke one resumed             # some of them
    python bench/estimates.py --cases smoke --transcript outputs    # every output with its time, a file for each run

Each case is train.py as a person starts it, on a pseudo-terminal of 100 columns, in a folder of its own: what it
writes is recorded piece by piece with its time. Announced is what the line before training says, took is the time from
the start of the command to its end, and the silence is the longest time in which not a character came, from the start
on. The corpus is prepared and the kernels are compiled before.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tabulate import tabulate

import storage

ONE = ["--preset", "quick", "--activation", "relu"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
CASES = {
    "smoke": ("smoke, five activations", [], ["--preset", "smoke"]),
    "one": ("quick, one activation", [], ONE),
    "all": ("quick, five activations", [], ["--preset", "quick"]),
    "resumed": ("quick, one activation, killed midway and run again", [], [*ONE, "--snapshot-seconds", "2"]),
    "torchrun": ("quick, one activation, two ranks", TORCHRUN, ONE),
}
UNITS = {"hours": 3600, "minutes": 60, "min": 60, "seconds": 1, "s": 1}


@dataclass
class Run:
    """What a command wrote: (seconds since its start, text) of each piece, and when it ended."""

    pieces: list[tuple[float, str]]
    took: float
    status: int

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.pieces)

    @property
    def announced(self) -> float | None:
        return announced(self.text)

    @property
    def silence(self) -> tuple[float, float, str]:
        """(how long the longest was, when it began, what stood there then)."""
        times = [0.0, *(at for at, _ in self.pieces), self.took]
        longest, i = max((b - a, i) for i, (a, b) in enumerate(zip(times, times[1:], strict=False)))
        return longest, times[i], shown("".join(text for _, text in self.pieces[:i]))


def announced(text: str) -> float | None:
    """The seconds that the line before training announces; None before it has come."""
    found = re.search(r"about ([0-9][^:()]*?) in all", text)
    if not found:
        return None
    return sum(float(n) * UNITS[unit] for n, unit in re.findall(r"([0-9.]+) ([a-z]+)", found[1]))


def shown(text: str) -> str:
    """The last line that stands on the terminal."""
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text))
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


def run(command: list[str], kill_at: float | None = None) -> Run:
    """The command on a pseudo-terminal. `kill_at`: the share of the announced time after which it is killed."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (30, 100))
    start, pieces, end = time.monotonic(), [], None
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    while True:
        ready, _, _ = select.select([master], [], [], 0.05)
        try:
            data = os.read(master, 65536) if ready else b""
        except OSError:  # nobody holds the other end any more
            break
        now = time.monotonic() - start
        if data:
            pieces.append((now, data.decode("utf-8", "replace")))
            expected = announced("".join(text for _, text in pieces)) if kill_at and end is None else None
            end = expected and kill_at * expected
        if end and now > end:
            os.killpg(process.pid, signal.SIGKILL)
        if process.poll() is not None and not ready:
            break
    os.close(master)
    return Run(pieces, time.monotonic() - start, process.wait())


def case(name: str, folder: Path) -> Run:
    _, launcher, flags = CASES[name]
    kept = {"results": "results", "plots": "plots", "checkpoint": "checkpoints"}
    command = [*launcher, "train.py", *flags, *(f"--{key}-dir={folder / name / value}" for key, value in kept.items())]
    if name == "resumed":
        run(command, kill_at=0.5)
        time.sleep(5)  # the workers notice, save and leave
    return run(command)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--transcript", help="write every output with its time into this folder")
    args = parser.parse_args()
    subprocess.run([sys.executable, "prepare_data.py"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "tools/doctor.py"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as name:
        for key in args.cases:
            done = case(key, Path(name))
            if args.transcript:
                lines = [f"{at:8.2f}  {text!r}" for at, text in done.pieces]
                storage.write_text(Path(args.transcript) / f"{key}.txt", "\n".join(lines) + "\n")
            if done.status or done.announced is None:
                raise SystemExit(f"{key}: status {done.status}; {shown(done.text)}")
            longest, at, before = done.silence
            rows.append(
                (CASES[key][0], done.announced, done.took, done.took / done.announced, longest, f"{at:.1f} s: {before}")
            )
            figures[key] = {"announced": done.announced, "took": done.took, "silence": longest, "at": at}
            print(tabulate(rows[-1:], tablefmt="plain", floatfmt=".2f"), flush=True)
    print(f"\n{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f} in the last minute")
    headers = ("", "announced, s", "took, s", "ratio", "longest silence, s", "after")
    formats = ("", ".0f", ".1f", ".2f", ".2f", "")
    print(tabulate(rows, headers=headers, floatfmt=formats, maxcolwidths=[None] * 5 + [60]))
    if args.json:
        storage.write_json(args.json, figures)


if __name__ == "__main__":
    main()
