"""Is the time that train.py announces the time that it takes, and is it ever silent meanwhile?

    python bench/estimates.py --json figures.json                   # every case: about a quarter of an hour
    python bench/estimates.py --cases smoke one resumed             # some of them
    python bench/estimates.py --cases smoke --transcript outputs    # every output with its time, a file for each run
    python bench/estimates.py --cases one --flags --max-iters 300   # with anything else that train.py understands
    python bench/estimates.py --parts                               # the constants of training/forecast.py

Each case is train.py as a person starts it, on a pseudo-terminal of 100 columns, in a folder of its own: what it
writes is recorded piece by piece with its time. Announced is what the line before training says, took is the time from
the start of the command to its end, and the silence is the longest time in which not a character came, from the start
on. The corpus is prepared and the kernels are compiled before. `--parts` takes CPU time, which is about the same
whatever else the machine does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import re
import resource
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
import train

ONE = ["--preset", "quick", "--activation", "relu"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
CASES = {
    "smoke": ("smoke, five activations", [], ["--preset", "smoke"]),
    "one": ("quick, one activation", [], ONE),
    "all": ("quick, five activations", [], ["--preset", "quick"]),
    "resumed": ("quick, one activation, killed midway and run again", [], [*ONE, "--snapshot-seconds", "2"]),
    "torchrun": ("quick, one activation, two ranks", TORCHRUN, ONE),
}
KEPT = {"results": "results", "plots": "plots", "checkpoint": "checkpoints"}
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


def case(name: str, folder: Path, more: list[str]) -> Run:
    _, launcher, flags = CASES[name]
    folders = [f"--{key}-dir={folder / name / value}" for key, value in KEPT.items()]
    command = [*launcher, "train.py", *flags, *folders, *more]
    if name == "resumed":
        run(command, kill_at=0.5)
        time.sleep(5)  # the workers notice, save and leave
    return run(command)


def parts(folder: Path) -> dict[str, float]:
    """CPU seconds of what the constants of training/forecast.py and experiment.py stand for."""
    study = [f"--{key}-dir={folder / value}" for key, value in KEPT.items()]
    subprocess.run([sys.executable, "train.py", "--preset", "smoke", "--quiet", *study], cwd=ROOT, check=True)
    import analyze_results
    from config import Config
    from prepare_data import load_corpus
    from training import experiment, forecast

    results = storage.read_results(folder / "results/relu_results.json")
    config = Config.from_dict(results["config"])
    corpus, found = load_corpus(config), {}

    def took(act) -> float:
        start = time.process_time()
        act()
        return time.process_time() - start

    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    worker, before = [sys.executable, "-P", "training/pool.py"], resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        worker, input=json.dumps(["trial", config.to_dict()]) + "\n", encoding="utf-8", cwd=ROOT, check=True, env=path
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found["WORKER"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    costs = experiment.measured_costs(config, "relu", corpus, time.process_time)
    slow = costs.slowness
    again = config.replace(checkpoint_dir=str(folder / "again"))
    found["TRIAL"] = took(lambda: train.train_trial(again, "relu", 1, corpus)) + forecast.TRIAL * slow
    found["TRIAL"] -= forecast.trial_seconds(config, costs)
    rest = slow * (forecast.MEASURING * 1.75 + forecast.FIGURES) - forecast.finish_seconds(config, costs, 3)
    found["MEASURING"] = (took(lambda: experiment.measure(config, "relu", corpus)) + rest) / 1.75
    found["FIRST_FIGURE"] = took(lambda: importlib.import_module("plot_utils"))
    draw = importlib.import_module("plot_utils").OF_ONE.values()
    found["FIGURES"] = took(lambda: [figure(results, "relu", folder / "drawn") for figure in draw])

    def compare():
        return analyze_results.write_all(folder / "results", folder / "plots")

    first, five = took(compare), took(compare)
    for name in ("gelu", "swish", "smelu_1"):
        (folder / f"results/{name}_results.json").unlink()
    found["PER_ACTIVATION"] = (five - took(compare)) / 3
    found["COMPARISON"] = first - 5 * found["PER_ACTIVATION"]
    return {**found, "PYTHON_SECONDS": slow**2 * experiment.PYTHON_SECONDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--transcript", help="write every output with its time into this folder")
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="the rest goes to train.py")
    parser.add_argument("--parts", action="store_true", help="the constants of training/forecast.py instead")
    args = parser.parse_args()
    subprocess.run([sys.executable, "prepare_data.py"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "tools/doctor.py"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as name:
        if args.parts:
            print(tabulate(parts(Path(name)).items(), headers=("CPU seconds", ""), floatfmt=".4f"))
            return
        for key in args.cases:
            done = case(key, Path(name), args.flags)
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
