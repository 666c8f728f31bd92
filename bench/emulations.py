"""Do the tests pass on other machines, as far as this one can stand in for them?

    python bench/emulations.py                    # the whole suite under each setting: hours
    python bench/emulations.py --fast             # the tests that are not marked slow
    python bench/emulations.py --only "no compiler" --json figures.json
    python bench/emulations.py --only "locale C" "ASCII streams" optimised --together    # all of it at once

One row for each setting: what passed, failed and was skipped, and the minutes. Names what failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent

SETTINGS: dict[str, dict[str, str]] = {
    "as it is": {},
    "no AVX": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "AVX2, no bfloat16": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "AVX-512, no bfloat16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "no compiler": {"CXX": "/nonexistent"},
    "locale C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII streams": {"PYTHONIOENCODING": "ascii"},
    "one core": {},
    "optimised": {"PYTHONOPTIMIZE": "1"},  # the tests' own asserts stay: pytest rewrites them
}


def run(names: list[str], arguments: list[str]) -> dict:
    """The suite under these settings, all at once."""
    name = ", ".join(names)
    command = [sys.executable, "-m", "pytest", "-q", "-rf", *arguments]
    if "one core" in names:
        if not shutil.which("taskset"):
            return {"setting": name, "failed tests": ["taskset is not here"]}
        command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), *command, "-n", "1"]
    environment = {**os.environ, **{k: v for each in names for k, v in SETTINGS[each].items()}}
    begun = time.time()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", errors="replace")
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", done.stdout[-2000:])}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    if not counts:
        failed = [done.stdout[-500:] + done.stderr[-500:]]
    return {
        "setting": name,
        "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0),
        "skipped": counts.get("skipped", 0),
        "minutes": (time.time() - begun) / 60,
        "failed tests": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fast", action="store_true", help="without the tests marked slow")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="SETTING")
    parser.add_argument("--together", action="store_true", help="all these settings at once: one row")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("tests", nargs="*", help="files (default: all)")
    args = parser.parse_args()
    arguments = [*(["-m", "not slow"] if args.fast else []), *args.tests]
    rows = []
    for names in [args.only] if args.together else [[name] for name in args.only]:
        rows.append(run(names, arguments))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    shown = [{k: v for k, v in row.items() if k != "failed tests"} for row in rows]
    print(tabulate(shown, headers="keys", floatfmt=".1f"))
    for row in rows:
        for test in row["failed tests"]:
            print(f"{row['setting']}: {test}")


if __name__ == "__main__":
    main()
