"""What lies in a study's folders, and from checkpoints to results: everything that is measured on the trained trials.

Nothing here trains. All results can be derived again from the checkpoints and the corpus, which is what
`analyze_results.py --verify` does.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import lzma
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import metrics
import storage
import tokenizer as tokenizers
from config import Config, UserError, option
from model import generate
from models.architectures import code_checksums, model_from
from prepare_data import Corpus
from training import trial as trials
from training.forecast import Costs
from training.schedule import total_steps

PYTHON_SECONDS = 0.0032  # of slowness_of_python's work on the machine of bench/RESULTS.md

# -- what is there ------------------------------------------------------------------------------------------------


def existing_trials(config: Config, activation: str) -> list[int]:
    """Numbers of the trials that have a checkpoint, ascending."""
    return storage.trial_numbers(config.checkpoint_dir, activation)


def missing_trials(config: Config, activation: str, corpus: Corpus) -> list[int]:
    """Trials still to be trained.

    Raises:
        UserError: what is there was trained with other settings, on another text or with other code of the user's own.
        StorageError: a damaged or swapped checkpoint.
    """
    code_checksums(config, activation)  # read before anything is trained, and remembered
    existing = existing_trials(config, activation)
    for number in existing:
        path = storage.checkpoint_path(config.checkpoint_dir, activation, number)
        saved = storage.load_checkpoint(path)
        trials.check_same_experiment(config, activation, number, saved, corpus, path)
    return [k for k in range(1, config.trials_per_activation + 1) if k not in existing]


# Of what such a file holds, all that is compared with the settings of a study.
COMPARED = "config fingerprint dataset kind activation trial corpus_sha256 own_code teachers".split()


@dataclass(frozen=True)
class Existing:
    """A results file, checkpoint or snapshot in a study's folders, and what it says of its settings."""

    path: Path
    activation: str
    kind: str  # results, trial or snapshot
    says: dict  # {one of COMPARED: None where there is none, or the file can't be read}


def existing_files(config: Config) -> list[Existing]:
    """Everything of all activations that is compared with the settings before anything is trained."""
    files = []

    def add(path: Path, name: str, kind: str, read: Callable[[Path], dict]) -> None:
        contents = {}
        with contextlib.suppress(storage.StorageError):  # named where it is in the way
            contents = read(path)
        files.append(Existing(path, storage.activation_name(name), kind, {key: contents.get(key) for key in COMPARED}))

    for path in sorted(Path(config.results_dir).glob("*_results.json")):
        add(path, path.name.removesuffix("_results.json"), "results", storage.read_results)
    for path in sorted(Path(config.checkpoint_dir).glob("[!.]*/trial_*")):
        if re.fullmatch(r"trial_[1-9][0-9]*(\.pt|\.step-\d+\.snapshot)", path.name):
            kind = "trial" if path.suffix == ".pt" else "snapshot"
            add(path, path.parent.name, kind, functools.partial(storage.load_checkpoint, whole=False))
    return files


def going_on_with(config: Config, files: list[Existing]) -> tuple[Config, str]:
    """The config with which a study goes on: settings that were chosen for this machine give way to what all that is
    there was trained with. Beside it a line that says so; '' where nothing changes."""
    recorded: dict[str, list] = {name: [] for name in config.automatic}
    for file in files:
        with contextlib.suppress(UserError, TypeError, AttributeError):  # another tool's: it decides nothing
            settings = Config.from_dict(file.says["config"]).result_settings()
            for name, values in recorded.items():
                values.append(settings[name])
    mine = config.result_settings()
    changes = {
        name: values[0] for name, values in recorded.items() if values and set(values) == {values[0]} != {mine[name]}
    }
    if not changes:
        return config, ""
    theirs = ", ".join(f"{name}={value!r}" for name, value in sorted(changes.items()))
    chosen = ", ".join(f"{name}={mine[name]!r}" for name in sorted(changes))
    folders = f"{config.checkpoint_dir} and {config.results_dir}"
    return config.replace(**changes), f"going on with {theirs}, as what is in {folders} (a new study here: {chosen})"


def refuse_other_settings(
    config: Config, names: list[str], files: list[Existing], corpus: Corpus | None = None
) -> None:
    """Before anything is trained: all that lies in the folders must be of the same settings and of the same text (where
    a corpus is given), also what belongs to activations that are not trained now, since all are compared in the end.
    What another tool wrote records no settings and is let through, unless it is in the place of results to come.
    Results of `names` may be of other positions: their models are measured anew.

    Raises:
        UserError: names the file, the settings that differ and the ways on.
        StorageError: the results of an activation to be trained are damaged.
    """
    for file in files:
        named = file.activation in names
        if file.kind == "results":
            _refuse_results(config, file, named, corpus)
        elif isinstance(file.says["config"], dict):
            ways = _ways_on(named)
            trials.refuse_other_settings(config, file.says, corpus, file.path, ways)
            if named and file.kind == "snapshot":
                number = file.says["trial"]
                with contextlib.suppress(storage.StorageError):  # the trial will go on from the one before
                    trials.check_same_experiment(
                        config, file.activation, number, file.says, corpus, file.path, kind="snapshot"
                    )


def _ways_on(replaceable: bool, goes_on: str = "") -> str:
    """What can be done where something is in the place of results to come: first what keeps everything."""
    anew = f"train anew in its place ({option('overwrite')})" if replaceable else ""
    *ways, last = filter(None, [goes_on, f"keep it and use another folder ({option('study', 'NAME')})", anew])
    return f"{', '.join(ways)}, or {last}" if ways else last


def _refuse_results(config: Config, file: Existing, named: bool, corpus: Corpus | None) -> None:
    recorded = file.says["config"]
    if file.says["fingerprint"] is None:  # another tool's, or damaged
        if not named:
            return  # the comparison will name it
        storage.read_results(file.path)
    like = option("like", str(file.path))
    like = like if like.startswith("--") else f"Config.like({str(file.path)!r})"
    ways = _ways_on(named, f"go on with its settings ({like})" if recorded else "")
    try:
        fields = config.describe_differences(recorded, weights=named) if recorded else "it records none"
        if fields and recorded and not config.differences(recorded, weights=True):
            ways = f"name {file.activation} too, whose models are then measured anew, {ways}"
    except UserError:
        fields = "it records some that are not of this program"
    if fields:
        raise UserError(f"{file.path}: measured with other settings ({fields}); {ways}")
    text = (file.says["dataset"] or {}).get("sha256")
    if corpus is not None and text not in (None, corpus.sha256):
        raise UserError(
            f"{file.path}: measured on another text (sha256 {text[:12]}… there, {corpus.sha256[:12]}… now); {ways}"
        )


def tidy(config: Config, names: list[str]) -> None:
    """Remove what killed runs left: temporaries, and snapshots of trials that are finished."""
    folders = [config.data_dir, config.results_dir, config.plots_dir]
    for name in names:
        folders.append(storage.checkpoint_path(config.checkpoint_dir, name, 1).parent)
        for number in existing_trials(config, name):
            storage.remove_snapshots(config.checkpoint_dir, name, number, keep=0)
    for folder in folders:
        storage.clean_temporaries(folder)


def share_left(config: Config, activation: str, trial: int) -> float:
    """How much of a trial is still to be trained, by the name of its newest snapshot."""
    snapshots = storage.snapshot_paths(config.checkpoint_dir, activation, trial)
    step = int(re.search(r"step-(\d+)", snapshots[0].name)[1]) if snapshots else 0
    return max(0.0, 1 - step / total_steps(config))


def announce_trials(config: Config, seconds: dict[tuple[str, int], float]) -> None:
    """Leave word for `--status` of trials that are asked for and not begun, with the seconds that each will take."""
    for (name, number), left in seconds.items():
        path = storage.progress_path(config.checkpoint_dir, name, number)
        if not path.exists():
            now = {"state": "waiting", "step": 0, "max_iters": total_steps(config), "time": time.time()}
            storage.write_json(path, {"activation": name, "trial": number, **now, "seconds_left": left})


def steps_done(config: Config, activation: str, trial: int) -> float:
    """How many steps of a trial are done, as the process that trains it last wrote."""
    with contextlib.suppress(storage.StorageError, KeyError, TypeError, ValueError):
        return float(storage.read_json(storage.progress_path(config.checkpoint_dir, activation, trial))["step"])
    return 0.0


def measured_costs(config: Config, activation: str, corpus: Corpus, clock: Callable = time.perf_counter) -> Costs:
    """Quick measurements for the estimate of the time; nothing is kept. Of a run that compiles they are upper limits:
    compiling for the estimate would take longer than the estimate is worth."""
    typical = functools.partial(_typical, clock=clock)
    config = config.replace(compile=False)
    block, device = config.block_size, config.device
    with trials.torch_settings(config), trials.own_randomness(device):
        training = trials.Training(config, activation, 1, corpus)
        model = training.model.train()
        training.warm_up()
        training.optimiser.use_master_weights()
        model.eval()  # before any step: a few can be enough for a recipe that diverges, and then nothing is evaluated
        starts = training.probe_starts[: max(1, 1024 // block)]
        one = typical(lambda _: metrics.evaluate_loss(model, corpus.val, starts, block, device))
        two = typical(lambda _: metrics.evaluate_models([model, model], corpus.val, starts, block, device))
        prompt = torch.zeros((1, block), dtype=torch.long, device=device)
        token = typical(lambda _: generate(model, prompt, 1))
        model.train()
        training.optimiser.use_working_weights()
        step = typical(lambda k: float(training.one_step(k)))  # the loss on the host: the device is done
    positions = len(starts) * block
    pair, sample = max(0.0, two - 2 * one) / positions, trials.SAMPLE_TOKENS * token
    return Costs(step, one / positions, pair, sample, slowness_of_python(clock))


def _typical(act: Callable[[int], object], enough: float = 0.08, clock: Callable = time.perf_counter) -> float:
    """The median time of up to fifteen calls, fewer where they take long."""
    durations = []
    while len(durations) < 15 and (len(durations) < 3 or sum(durations) < enough) and sum(durations) < 10:
        start = clock()
        act(len(durations))
        durations.append(clock() - start)
    return sorted(durations)[len(durations) // 2]


def slowness_of_python(clock: Callable = time.perf_counter) -> float:
    """How much slower than the machine of bench/RESULTS.md this one imports, draws and writes: the root of the ratio of
    their times for a fixed piece of Python's own work. Such a loop differs between two makes of processor by about the
    square of what figures and tables do (1.6 against 1.25), and the root halves the noise of so short a measurement."""

    def work(_):
        return sum(hash((i, str(i))) & 1 for i in range(20_000))

    return math.sqrt(_typical(work, 0.05, clock) / PYTHON_SECONDS)


def load_trial(path: str | os.PathLike):
    """A trained model from its checkpoint alone: (model in eval mode on the CPU, tokenizer, record). Raises
    StorageError: missing, damaged, or the checkpoint of a diverged trial, which holds no model."""
    saved = storage.load_checkpoint(path)
    if saved.get("kind") != "trial":
        raise storage.StorageError(f"{path}: not the checkpoint of a finished trial")
    if not saved["weights"]:
        step = saved["record"]["diverged_at_step"]
        raise storage.StorageError(f"{path}: this trial diverged at step {step}; there is no model to load")
    model = model_from(saved)
    return model, tokenizers.from_dict(saved["tokenizer"]), saved["record"]


# -- measuring ----------------------------------------------------------------------------------------------------

BRANCH_KEYS = "trial_id weights_sha256 val_loss val_loss_se val_accuracy val_accuracy_se".split()  # of its trials


def finish(
    config: Config,
    activation: str,
    corpus: Corpus,
    before_training: Callable[[], list[dict]],
    after_training: Callable[[dict], list[dict]],
    display,
    threads: int | None = None,
) -> dict:
    """Measure the trials of an activation and write its results; what is up to date is left alone. Their audit is what
    `before_training` gives and what `after_training` finds in them. `threads` as for `measure`."""
    path = storage.results_path(config.results_dir, activation)
    results = storage.read_results(path) if path.exists() else None
    if results and (reason := outdated(results, config)):
        display.line(f"{path}: {reason}; measured again from the checkpoints")
    if results is None or not up_to_date(results, config, activation):
        results = measure(config, activation, corpus, threads)
        checks = before_training() + after_training(results)
        results["audit"] = {"passed": all(c["status"] != "fail" for c in checks), "checks": checks}
        storage.write_results(results, config.results_dir)
    return results


def outdated(results: dict, config: Config) -> str:
    """Why the results have to be measured again: with other settings, or by an earlier program, which recorded them in
    another form or measured less. '' where this one would measure the same."""
    version, measured = results.get("schema_version"), results.get("metrics") or []
    if version != storage.SCHEMA_VERSION:
        return f"written with schema {version}, this program's is {storage.SCHEMA_VERSION}"
    if fields := config.describe_differences(results.get("config") or {}):
        return f"measured with {fields}"
    missing = [metric.key for metric in metrics.METRICS if metric.key not in measured]
    return f"{', '.join(missing)} not measured yet" if missing else ""


def up_to_date(results: dict, config: Config, activation: str) -> bool:
    """Whether the results were measured on the very checkpoints that are there, and hold all that is measured today."""
    recorded = {t["trial_id"]: t.get("checkpoint", {}).get("sha256") for t in results["trials"]}
    existing = existing_trials(config, activation)
    return (
        results.get("fingerprint") == config.fingerprint()
        and not outdated(results, config)
        and sorted(recorded) == existing
        and all(
            storage.sha256_file(storage.checkpoint_path(config.checkpoint_dir, activation, k)) == recorded[k]
            for k in existing
        )
    )


def measure(
    config: Config, activation: str, corpus: Corpus, threads: int | None = None, device: str | None = None
) -> dict:
    """The results dict of an activation (all but its audit) from its checkpoints: n forward passes for n trials.
    `threads`: how many cores are free for it (default: as many as a trial has); `device`: another than the config's."""
    here = config.replace(device=device) if device else config
    records, checkpoints, models, probes, environment, code = [], [], [], {}, None, None
    for number in existing_trials(config, activation):
        path = storage.checkpoint_path(config.checkpoint_dir, activation, number)
        saved = storage.load_checkpoint(path)
        trials.check_same_experiment(config, activation, number, saved, corpus, path)
        checkpoint = {"path": str(path), "sha256": storage.sha256_file(path)}
        record = {**saved["record"], "checkpoint": checkpoint, "environment": saved["environment"]}
        record.update(val_loss=None, val_accuracy=None)
        if record["status"] == "done" and saved["config"]["eval_tokens"] != config.eval_tokens:
            record.update(_training_loss(here, saved, corpus))
        records.append(record)
        environment = environment or saved["environment"]
        code = code or saved.get("own_code")
        if record["status"] == "done":
            checkpoints.append(saved)
            models.append(model_from(saved).to(here.device))
            probes[number] = (saved["probe"].numpy(), saved["probe_argmax"].numpy())
    done = [r for r in records if r["status"] == "done"]
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)
    pairs, set_pd, self_pd, along_training = [], None, None, divergence(done, probes)
    if models:
        with trials.torch_settings(here, threads):
            measured = metrics.evaluate_models(models, corpus.val, starts, config.block_size, here.device)
            self_pd = self_difference(models[0], corpus, starts, config.block_size, here.device)
        for record, values in zip(done, measured.models, strict=True):
            record.update(values)
        pairs, set_pd = _named_pairs(done, measured), measured.set_prediction_difference
    trunk = bool(done) and config.schedule == "trunk"
    branches = {"frontier": frontier(here, corpus, checkpoints, done, pairs, threads)} if trunk else {}
    return {
        "schema_version": storage.SCHEMA_VERSION,
        "metrics": [metric.key for metric in metrics.METRICS],
        "activation": activation,
        "model_name": config.model,
        "study": config.study,
        "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": config.to_dict(),
        "fingerprint": config.fingerprint(),
        "own_code": code or {},
        "dataset": corpus.info,
        "evaluation": _evaluation(config, corpus, starts),
        "steps": max((r["steps"] for r in records), key=len, default=[]),
        "seeds": [r["seed"] for r in records],
        "environment": environment,
        "parameters": records[0]["parameters"] if records else None,
        "trials": records,
        "reproducibility_metrics": pairs,
        "set_prediction_difference": set_pd,
        "self_prediction_difference": self_pd,
        "divergence": along_training,
        **branches,
        **averages(done, pairs),
    }


def _named_pairs(done: list[dict], measured: metrics.Evaluation) -> list[dict]:
    names = (f"{a['trial_id']}_vs_{b['trial_id']}" for a, b in itertools.combinations(done, 2))
    return [{"model_pair": name, **values} for name, values in zip(names, measured.pairs, strict=True)]


def frontier(
    config: Config, corpus: Corpus, checkpoints: list[dict], done: list[dict], pairs: list[dict], threads: int | None
) -> list[dict]:
    """The models at the ends of the branches, the shortest branch first, each measured as the final models are. Of the
    last branch they are the final models: their `done` records and `pairs`.

    [{"leaves", "ends" (steps of the trunk before, and of its models in all), "trials": [{"trial_id", "val_loss", …}],
    "pairs": [{"model_pair", "relative_pd", …}], "avg_val_loss", "avg_relative_pd"}].
    """
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)
    *sides, final = config.branches
    measured_branches = []
    for branch in sides:
        saved_models = [saved["branches"][str(branch.leaves)] for saved in checkpoints]
        models = [model_from(*both).to(config.device) for both in zip(checkpoints, saved_models, strict=True)]
        with trials.torch_settings(config, threads):
            measured = metrics.evaluate_models(models, corpus.val, starts, config.block_size, config.device)
        entries = [
            {"trial_id": r["trial_id"], "weights_sha256": b["record"]["weights_sha256"], **values}
            for r, b, values in zip(done, saved_models, measured.models, strict=True)
        ]
        measured_branches.append((branch, entries, _named_pairs(done, measured)))
    return [
        {
            "leaves": branch.leaves,
            "ends": branch.ends,
            "trials": [{key: entry[key] for key in BRANCH_KEYS} for entry in entries],
            "pairs": [{key: x for key, x in pair.items() if not isinstance(x, list)} for pair in compared],
            "avg_val_loss": _mean(entries, "val_loss"),
            "avg_relative_pd": _mean(compared, "relative_pd"),
        }
        for branch, entries, compared in [*measured_branches, (final, done, pairs)]
    ]


def _evaluation(config: Config, corpus: Corpus, starts: np.ndarray) -> dict:
    """Where the trials are compared, and how many nats per token a compressor needs for the text there."""
    return {
        "positions": len(starts) * config.block_size,
        "windows": len(starts),
        "block_size": config.block_size,
        "sha256": metrics.windows_checksum(corpus.val, starts, config.block_size),
        "bytes": evaluated_bytes(corpus, starts, config.block_size),
        "compressed_nats_per_token": compressed_nats_per_token(corpus),
    }


def averages(done: list[dict], pairs: list[dict]) -> dict:
    return {
        "avg_train_loss": _mean(done, "train_loss"),
        "avg_val_loss": _mean(done, "val_loss"),
        "std_val_loss": _std(done, "val_loss"),
        "avg_train_accuracy": _mean(done, "train_accuracy"),
        "avg_val_accuracy": _mean(done, "val_accuracy"),
        "std_val_accuracy": _std(done, "val_accuracy"),
        "avg_relative_pd": _mean(pairs, "relative_pd"),
        "avg_training_time": _mean(done, "training_time"),
    }


def _training_loss(config: Config, saved: dict, corpus: Corpus) -> dict:
    """train_loss and train_accuracy at other positions than those that the trial itself evaluated when it ended."""
    starts = metrics.evaluation_windows(len(corpus.train), config.block_size, config.eval_tokens)
    model = model_from(saved).to(config.device)
    with trials.torch_settings(config):
        loss, accuracy = metrics.evaluate_loss(model, corpus.train, starts, config.block_size, config.device)
    return {"train_loss": loss, "train_accuracy": accuracy}


def evaluated_bytes(corpus: Corpus, starts: np.ndarray, length: int) -> int:
    """Bytes of UTF-8 that the evaluated tokens stand for: nats per token become bits per byte by it."""
    lengths = corpus.tokenizer.token_bytes()
    return sum(int(lengths[corpus.val[start + 1 : start + length + 1]].sum()) for start in starts)


def compressed_nats_per_token(corpus) -> float:
    """Nats per token that LZMA needs for the beginning of the validation split when it has seen the end of the
    training split: an upper bound on the information in the text, whatever the text is. For the floor under losses."""
    kind = np.uint8 if corpus.vocab_size <= 256 else np.uint32
    seen, new = (np.asarray(part).astype(kind).tobytes() for part in (corpus.train[-400_000:], corpus.val[:100_000]))
    sizes = [len(lzma.compress(data, lzma.FORMAT_ALONE, preset=1)) for data in (seen, seen + new)]
    added = max(0, sizes[1] - sizes[0] - 16)  # to within the few bytes in which its range coder ends
    return added * 8 * math.log(2) / min(len(corpus.val), 100_000)


def self_difference(model, corpus: Corpus, starts: np.ndarray, length: int, device: str) -> float:
    """The relative PD of a trial with itself through the whole path, on the first windows: the noise floor, 0."""
    measured = metrics.evaluate_models([model, model], corpus.val, starts[:32], length, device)
    return measured.pairs[0]["relative_pd"]


def divergence(done: list[dict], probes: dict[int, tuple]) -> dict:
    """How the pairs part along training, from the predictions that the trials stored on the probe.

    {"steps", "positions", "val_loss": {trial: [...]}, "pairs": {"1_vs_2": {"relative_pd", "top1_mismatch_pct",
    "val_loss_difference"}}}, lists along the steps.
    """
    pairs = {}
    for a, b in itertools.combinations(done, 2):
        i, j = a["trial_id"], b["trial_id"]
        differences = [
            metrics.probe_difference((p, top_p), (q, top_q))
            for p, top_p, q, top_q in zip(*probes[i], *probes[j], strict=True)
        ]
        losses = zip(a["val_loss_history"], b["val_loss_history"], strict=True)
        pairs[f"{i}_vs_{j}"] = {
            "relative_pd": [d["relative_pd"] for d in differences],
            "top1_mismatch_pct": [d["top1_mismatch_pct"] for d in differences],
            "val_loss_difference": [abs(x - y) for x, y in losses],
        }
    return {
        "positions": probes[done[0]["trial_id"]][1].shape[1] if done else 0,
        "steps": done[0]["steps"] if done else [],
        "val_loss": {str(r["trial_id"]): r["val_loss_history"] for r in done},
        "pairs": pairs,
    }


def _mean(entries: list[dict], key: str) -> float | None:
    values = [e[key] for e in entries]
    return float(np.mean(values)) if values else None


def _std(entries: list[dict], key: str) -> float | None:
    values = [e[key] for e in entries]
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
