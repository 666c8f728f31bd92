"""From checkpoints to results: everything that is measured on the trained trials of one activation.

Nothing here trains. All of it can be derived again from the checkpoints and the corpus, which is what
`analyze_results.py --verify` does.
"""

from __future__ import annotations

import datetime
import itertools
import time
from pathlib import Path

import numpy as np

import audit
import metrics
import storage
from analysis.checks import after_training
from analysis.results import pd_at_val_loss
from config import Config, UserError
from models.architectures import code_checksums
from prepare_data import Corpus
from training import trial as trials

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


def refuse_other_settings(config: Config, names: list[str]) -> None:
    """Before hours are spent: results that lie in the folder must be of the same settings, also those of activations
    that are not trained now, since all are compared in the end. What another tool wrote records no settings and is let
    through, unless it is in the place of results to come.

    Raises:
        UserError: names the file, the settings that differ and the ways on.
        StorageError: the results of an activation to be trained are damaged.
    """
    to_come = {storage.results_path(config.results_dir, name) for name in names}
    for path in sorted(Path(config.results_dir).glob("*_results.json")):
        try:
            results = storage.read_results(path)
        except storage.StorageError:
            if path in to_come:
                raise
            continue  # the comparison will name it
        recorded = results.get("fingerprint")
        if recorded == config.fingerprint() or (recorded is None and path not in to_come):
            continue
        try:
            fields = config.describe_differences(results.get("config") or {})
        except UserError:  # it records none, or some that are not ours
            fields = ""
        ways = "use --overwrite to replace it, or another folder" if path in to_come else "use another folder"
        raise UserError(f"{path}: measured with other settings ({fields or 'it records none'}); {ways} (--study NAME)")


def tidy(config: Config, names: list[str]) -> None:
    """Remove what killed runs left: temporaries, and snapshots of trials that are finished."""
    folders = [config.data_dir, config.results_dir, config.plots_dir]
    for name in names:
        folders.append(storage.checkpoint_path(config.checkpoint_dir, name, 1).parent)
        for number in existing_trials(config, name):
            storage.remove_snapshots(config.checkpoint_dir, name, number, keep=0)
    for folder in folders:
        storage.clean_temporaries(folder)


def seconds_per_step(config: Config, activation: str, corpus: Corpus) -> float:
    """A quick measurement for the estimate of the time left; nothing is kept. Of a run that compiles it is an upper
    limit: compiling for the estimate would take longer than the estimate is worth."""
    config = config.replace(compile=False)
    with trials.torch_settings(config), trials.own_randomness(config.device):
        training = trials.Training(config, activation, 1, corpus)
        training.model.train()
        training.warm_up()
        durations = []
        for step in range(5):
            start = time.perf_counter()
            float(training.one_step(step))  # the loss on the host: the device is done
            durations.append(time.perf_counter() - start)
    return sorted(durations)[len(durations) // 2]


# -- audit --------------------------------------------------------------------------------------------------------


def audit_before(config: Config, names: list[str], corpus: Corpus, strict: bool, display) -> dict[str, list[dict]]:
    """The checks that need no training, for each activation; a failed one stops the run unless not `strict`."""
    checks = {}
    for name in names:
        checks[name] = audit.before_training(config, name, corpus)
        failed = [check for check in checks[name] if check["status"] == "fail"]
        for check in failed:
            display.line(f"audit of {name} FAILED: {check['name']}: {check['measured']}; needed: {check['threshold']}")
        if failed and strict:
            raise UserError(
                f"audit of {name} failed: {failed[0]['name']}: {failed[0]['measured']} (needed: "
                f"{failed[0]['threshold']}); --no-strict-audit records it and goes on"
            )
        if not failed:
            display.line(f"audit of {name}: {sum(c['status'] == 'pass' for c in checks[name])} checks passed")
    return checks


# -- measuring ----------------------------------------------------------------------------------------------------


def finish(
    config: Config, activation: str, corpus: Corpus, checks: list[dict] | None, display, threads: int | None = None
) -> dict:
    """Measure the trials of an activation, write its results and its figures; what is up to date is left alone.
    `threads` as for `measure`."""
    import plot_utils

    path = storage.results_path(config.results_dir, activation)
    results = storage.read_results(path) if path.exists() else None
    if results and (reason := outdated(results)):
        display.line(f"{path}: {reason}; measured again from the checkpoints")
    if results is None or not up_to_date(results, config, activation):
        results = measure(config, activation, corpus, threads)
        checks = checks if checks is not None else audit.before_training(config, activation, corpus)
        checks = checks + after_training(results)
        results["audit"] = {"passed": all(c["status"] != "fail" for c in checks), "checks": checks}
        storage.write_results(results, config.results_dir)
    newest = path.stat().st_mtime
    stem = storage.file_name(activation)
    figures = {
        f"{stem}_training_curves.png": plot_utils.plot_training_curves,
        f"{stem}_reproducibility.png": plot_utils.plot_reproducibility_metrics,
        f"{stem}_summary.png": plot_utils.plot_summary_metrics,
        f"{stem}_divergence.png": plot_utils.plot_divergence,
    }
    for name, draw in figures.items():
        figure = Path(config.plots_dir) / name
        if not figure.exists() or figure.stat().st_mtime < newest:
            draw(results, activation, config.plots_dir)
    display.line(_headline(results))
    return results


def _headline(results: dict) -> str:
    loss, pd = results["avg_val_loss"], results["avg_relative_pd"]
    parts = [results["activation"]]
    parts.append("all trials diverged" if loss is None else f"validation loss {loss:.4f} nats/token")
    parts.append("no pair to compare" if pd is None else f"relative PD {pd:.4f}")
    parts.append("audit passed" if results["audit"]["passed"] else "audit FAILED")
    return ": ".join(parts[:2]) + ", " + ", ".join(parts[2:])


def outdated(results: dict) -> str:
    """What an earlier program did not measure, or recorded in another form; '' for results of this one."""
    version, measured = results.get("schema_version"), results.get("metrics") or []
    if version != storage.SCHEMA_VERSION:
        return f"written with schema {version}, this program's is {storage.SCHEMA_VERSION}"
    missing = [metric.key for metric in metrics.METRICS if metric.key not in measured]
    return f"{', '.join(missing)} not measured yet" if missing else ""


def up_to_date(results: dict, config: Config, activation: str) -> bool:
    """Whether the results were measured on the very checkpoints that are there, and hold all that is measured today."""
    recorded = {t["trial_id"]: t.get("checkpoint", {}).get("sha256") for t in results["trials"]}
    existing = existing_trials(config, activation)
    return (
        results.get("fingerprint") == config.fingerprint()
        and not outdated(results)
        and sorted(recorded) == existing
        and all(
            storage.sha256_file(storage.checkpoint_path(config.checkpoint_dir, activation, k)) == recorded[k]
            for k in existing
        )
    )


def measure(config: Config, activation: str, corpus: Corpus, threads: int | None = None) -> dict:
    """The results dict of an activation (all but its audit) from its checkpoints: n forward passes for n trials.
    `threads`: how many cores are free for it (default: as many as a trial has)."""
    records, models, probes, environment, code = [], [], {}, None, None
    for number in existing_trials(config, activation):
        path = storage.checkpoint_path(config.checkpoint_dir, activation, number)
        saved = storage.load_checkpoint(path)
        trials.check_same_experiment(config, activation, number, saved, corpus, path)
        record = {**saved["record"], "checkpoint": {"path": str(path), "sha256": storage.sha256_file(path)}}
        records.append(record)
        environment = environment or saved["environment"]
        code = code or saved.get("own_code")
        if record["status"] == "done":
            models.append(trials.model_from(saved).to(config.device))
            probes[number] = (saved["probe"].numpy(), saved["probe_argmax"].numpy())
    done = [r for r in records if r["status"] == "done"]
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)
    evaluation = {
        "positions": len(starts) * config.block_size,
        "windows": len(starts),
        "block_size": config.block_size,
        "sha256": metrics.windows_checksum(corpus.val, starts, config.block_size),
        "compressed_nats_per_token": audit.compressed_nats_per_token(corpus),
    }
    pairs, set_pd, self_pd, along_training = [], None, None, divergence(done, probes)
    for record in records:
        record.update(val_loss=None, val_accuracy=None)
    if models:
        with trials.torch_settings(config, threads):
            measured = metrics.evaluate_models(models, corpus.val, starts, config.block_size, config.device)
            self_pd = self_difference(models[0], corpus, starts, config)
        for record, values in zip(done, measured.models, strict=True):
            record.update(values)
        for (i, j), values in zip(itertools.combinations(range(len(done)), 2), measured.pairs, strict=True):
            name = f"{done[i]['trial_id']}_vs_{done[j]['trial_id']}"
            pairs.append({"model_pair": name, **values})
        set_pd = measured.set_prediction_difference
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
        "evaluation": evaluation,
        "steps": max((r["steps"] for r in records), key=len, default=[]),
        "seeds": [r["seed"] for r in records],
        "environment": environment,
        "parameters": records[0]["parameters"] if records else None,
        "trials": records,
        "reproducibility_metrics": pairs,
        "set_prediction_difference": set_pd,
        "self_prediction_difference": self_pd,
        "divergence": along_training,
        "pd_at_val_loss": pd_at_val_loss(along_training),
        "avg_train_loss": _mean(done, "train_loss"),
        "avg_val_loss": _mean(done, "val_loss"),
        "std_val_loss": _std(done, "val_loss"),
        "avg_train_accuracy": _mean(done, "train_accuracy"),
        "avg_val_accuracy": _mean(done, "val_accuracy"),
        "std_val_accuracy": _std(done, "val_accuracy"),
        "avg_relative_pd": _mean(pairs, "relative_pd"),
        "avg_training_time": _mean(done, "training_time"),
    }


def self_difference(model, corpus: Corpus, starts: np.ndarray, config: Config) -> float:
    """The relative PD of a trial with itself through the whole path, on the first windows: the noise floor, 0."""
    measured = metrics.evaluate_models([model, model], corpus.val, starts[:32], config.block_size, config.device)
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


# -- the comparison -----------------------------------------------------------------------------------------------


def update_comparison(config: Config, display) -> None:
    """Bring table, comparison figures and report up to date once results of two or more activations exist."""
    import analyze_results

    all_results = analyze_results.load_all_results(config.results_dir)
    if len(all_results) < 2:
        return
    written = analyze_results.write_all(config.results_dir, config.plots_dir)
    display.line("written: " + ", ".join(str(p) for p in written))
