"""Numbers per seed from where trainings leave them: trackers, evaluation harnesses, Trainer, folders of logs.

Understood: TensorBoard (event files where tensorboard is installed, and the CSV that its page exports), W&B
(wandb-summary.json of local runs), databases of Trackio and MLflow, MLflow's folders, results of
lm-evaluation-harness and of this project, Trainer's trainer_state.json, any text with a pattern. A run's value is its
last.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import sqlite3
from pathlib import Path

from config import UserError

USUAL = ("eval_loss", "val_loss", "val/loss", "validation_loss", "pattern")


def text_of(path):
    """The text of a file: UTF-8 with or without a byte-order mark, or UTF-16 with one."""
    try:
        data = Path(path).read_bytes()
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: no text in UTF-8; export the table as CSV or JSON") from None


def column(header, name, option):
    """The one of the names in `header` that is `name`, or has it as a part. UserError: none, or several."""
    near = [h for h in header if h == name] or [h for h in header if name.lower() in str(h).lower()]
    if len(near) != 1:
        raise UserError(f"{option}={name!r}: must be one of {', '.join(map(str, near or header))}")
    return near[0]


def is_source(path):
    """Is this file one of those above, rather than a table?"""
    return _reader(Path(path)) is not None


def cells(paths, asked, arm=""):
    """Cells, how seeds are known and notes, as in reading, of one metric of all runs below `paths`; `arm`: all are its.

    A setting that the tracker recorded may be named as the arm (`--arm activation`) or seed; the seed is `seed` where
    there is one, else arms and seeds are read from the names of runs. UserError: nothing understood there, several
    metrics and none chosen, a run whose files say two things."""
    runs = {}
    for path in map(Path, paths):
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            if any(part.startswith(".") for part in file.relative_to(path).parts):
                continue
            reader = _logs(asked.pattern) if asked.pattern else _reader(file)
            for run, values in (reader(file) if reader else {}).items():
                before = runs.setdefault(run, {})
                if reader is not _tensorboard and any(values[key] != before[key] for key in values.keys() & before):
                    hint = f"give each seed its name or folder, as {run}/seed_1"
                    raise UserError(f"{file}: there are two runs {run}; {hint}")
                before.update(values)
    if not runs:
        logs = f"no match of {asked.pattern!r}" if asked.pattern else "logs need --pattern 'loss ([0-9.]+)'"
        trackers = "TensorBoard, W&B, Trackio, MLflow, lm-evaluation-harness, Trainer"
        raise UserError(f"{', '.join(map(str, paths))}: no results of {trackers}; {logs}")
    every = [(name, isinstance(value, str)) for values in runs.values() for name, value in values.items()]
    metric = _metric(list(dict.fromkeys(name for name, text in every if not text and name != "seed")), asked)
    settings = dict.fromkeys(name for name, text in every if text)
    arm_of = asked.arm and column(settings, asked.arm, "arm")
    seed_of = column(settings, asked.seed, "seed") if asked.seed else "seed"
    rows = []
    for run, values in runs.items():
        name, seed = arm_and_seed(run)
        name = values.get(arm_of, name) if arm_of else arm or name
        rows.append((name, values.get(seed_of, seed or run), values.get(metric), run))
    return rows, "named", [f"{metric} of {len(runs)} runs: {', '.join(dict.fromkeys(name for name, *_ in rows))}"]


def arm_and_seed(name):
    """The arm and the seed that a run's name or path holds, or None for a seed. A number that follows no 'seed',
    'trial' or the like must stand apart at the end: 'lr3' is an arm, 'relu-3' its third seed, 'relu/seed_3/log' too."""
    match = re.search(r"(?<![a-z])(?:seed|trial|run|rep|s)[\s_=:-]*(\d+)(?![\d.]*\d)", name, re.I)
    match = match or re.search(r"(?:^|[\s_./-])#?(\d+)$", name)
    if match is None:
        return name, None
    ends = [part.strip(" _./-=") for part in (name[: match.start()], name[match.end() :])]
    return "-".join(part for part in ends if part) or "runs", match[1]


def _metric(metrics, asked):
    if asked.value:
        last = [m for m in metrics if m.rpartition("/")[2] == asked.value]
        return last[0] if len(last) == 1 else column(metrics, asked.value, "value")
    usual = [name for name in USUAL if name in metrics]
    if len(metrics) > 1 and not usual:
        more = " and others" if len(metrics) > 12 else ""
        raise UserError(f"which metric? --value NAME, of {', '.join(metrics[:12])}{more}")
    return usual[0] if usual else metrics[0]


# -- readers: each returns {run: {metric: number, setting: text}} ---------------------------------------------------


def _reader(path):
    if path.name in BY_NAME:
        return BY_NAME[path.name]
    if path.name.startswith("events.out.tfevents"):
        return _tensorboard
    if path.suffix in (".db", ".sqlite", ".sqlite3"):
        return _database
    if path.parent.name == "metrics" and (path.parent.parent / "meta.yaml").exists():
        return _mlflow
    if path.suffix == ".json":
        with contextlib.suppress(UserError):
            loaded = _loaded(path)
            if {"activation", "trials", "study"} <= loaded.keys():
                return _study
            results = loaded.get("results")
            if isinstance(results, dict) and all(isinstance(v, dict) for v in results.values()):
                return _harness
    if path.suffix == ".csv" and text_of(path).lstrip().lower().startswith("wall time,step,value"):
        return _tensorboard_csv
    return None


def _loaded(path):
    try:
        loaded = json.loads(text_of(path))
    except ValueError:
        raise UserError(f"{path}: no valid JSON") from None
    return loaded if isinstance(loaded, dict) else {}


def _real(metrics):
    return {n: float(v) for n, v in metrics.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def _run_of(path):
    """What of a path names a run: its last part, with the one before where that is a bare seed."""
    folders = r"checkpoint-\d+|files|(train|eval)?_?logs?|out(put)?|train|tensorboard|/"
    parts = [part for part in Path(path).parts if not re.fullmatch(folders, part)] or ["run"]
    return "/".join(parts[-2:]) if arm_and_seed(parts[-1])[0] == "runs" else parts[-1]


def _logs(pattern):
    def read(path):
        matches = []
        try:
            matches = re.findall(pattern, text_of(path))
            return {_run_of(path.with_suffix("")): {"pattern": float(matches[-1])}} if matches else {}
        except re.error as error:
            raise UserError(f"pattern={pattern!r}: {error}") from None
        except (TypeError, ValueError):
            hint = "the pattern needs one group, as 'loss ([0-9.]+)'"
            raise UserError(f"{path}: {matches[-1]!r} is no number; {hint}") from None

    return read


def _trainer(path):
    steps = [int(p.name[11:]) for p in path.parent.parent.glob("checkpoint-*") if p.name[11:].isdigit()]
    if path.parent.name.startswith("checkpoint-") and steps and path.parent.name != f"checkpoint-{max(steps)}":
        return {}  # an earlier state of the same run
    metrics = {}
    for entry in _loaded(path).get("log_history", []):
        metrics |= _real(entry)
    return {_run_of(path.parent): metrics}


def _wandb(path):
    """config.yaml beside the summary has each setting as `name:` and, below, `value: x`."""
    config = path.with_name("config.yaml")
    pattern = r"^([\w.-]+):\n(?:[ \t]+desc:.*\n)?[ \t]+value: *(\S.*)$"
    settings = dict(re.findall(pattern, text_of(config), re.M)) if config.exists() else {}
    return {_run_of(path.parent.parent): settings | _real(_loaded(path))}


def _study(path):
    """Results of this project, an activation with its trials."""
    results = _loaded(path)
    return {f"{results['activation']}-seed{t['seed']}": _real(t) for t in results["trials"]}


def _harness(path):
    """Metrics as task/acc; a filter other than none stays in the name, as task/exact_match,strict-match."""
    metrics = {}
    for task, values in _loaded(path)["results"].items():
        metrics |= {f"{task}/{n.removesuffix(',none')}": v for n, v in _real(values).items() if "_stderr" not in n}
    stamped = re.fullmatch(r"results(_\d[\dT:.-]+)?", path.stem)
    return {_run_of(path.parent) if stamped else path.stem.removeprefix("results_"): metrics}


def _tensorboard(path):
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        hint = "event files need tensorboard (pip install tensorboard), or export CSV from it"
        raise UserError(f"{path}: {hint}") from None
    events = EventAccumulator(os.fspath(path), size_guidance={"scalars": 0}).Reload()
    return {_run_of(path.parent): {tag: float(events.Scalars(tag)[-1].value) for tag in events.Tags()["scalars"]}}


def _tensorboard_csv(path):
    """The page names a file run-RUN-tag-TAG.csv."""
    rows = list(csv.DictReader(text_of(path).splitlines()))
    run, _, tag = path.stem.removeprefix("run-").partition("-tag-")
    return {run: {tag or "value": float(rows[-1]["Value"])}} if rows else {}


def _mlflow(path):
    """mlruns/EXPERIMENT/RUN/metrics/NAME holds lines of time, value and step; params/NAME a setting."""
    run = path.parent.parent
    last = max((line.split() for line in text_of(path).splitlines() if line.strip()), key=lambda cells: int(cells[-1]))
    settings = {file.name: text_of(file).strip() for file in (run / "params").glob("*")}
    name = run / "tags" / "mlflow.runName"
    return {text_of(name).strip() if name.exists() else run.name: settings | {path.name: float(last[1])}}


def _database(path):
    """Trackio has `metrics` (run_name, step, JSON) and `configs`; MLflow `runs`, `latest_metrics` and `params`."""
    runs = {}
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
            if "latest_metrics" in tables:
                of = "select r.run_uuid, r.name, key, value from {} x join runs r on r.run_uuid = x.run_uuid"
                for query in (of.format("params"), of.format("latest_metrics") + " where not is_nan"):
                    for uuid, name, key, value in database.execute(query):
                        runs.setdefault((uuid, name), {})[key] = value
                names = [name for _, name in runs]
                return {n if names.count(n) == 1 else f"{n} {uuid}": run for (uuid, n), run in runs.items()}
            if "configs" in tables:
                for run, config in database.execute("select run_name, config from configs"):
                    runs[run] = {key: str(value) for key, value in json.loads(config).items()}
            for run, metrics in database.execute("select run_name, metrics from metrics order by step"):
                runs.setdefault(run, {}).update(_real(json.loads(metrics)))
    except (sqlite3.Error, ValueError) as error:
        raise UserError(f"{path}: no database of Trackio or MLflow ({error})") from None
    return runs


BY_NAME = {"trainer_state.json": _trainer, "wandb-summary.json": _wandb}
