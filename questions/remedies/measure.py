"""What brings trials together, and at what cost? From the checkpoints and results of finished studies.

`python analyze_results.py --remedies` takes the study in the named folders as it is, and beside it

- what its trials give without any training: the mean predictions of two or three of them (with four or six trials),
  and the means of their weights that `train.py --averages` kept;
- every other study that differs in a remedy alone: `--remedy`, `--min-lr`, `--cooldown`.

It writes `results/remedies.json` (numbers), `results/remedies.csv`, and `plots/remedies.png`; the report has a section.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

import metrics
import storage
from analysis.products import Folder, check_checkpoints, measured
from analysis.results import Measured, load_all_results, mean, seeds_shared
from config import Config, RunFailed, UserError
from prepare_data import Corpus, load_corpus
from questions.remedies import tell as remedies


def measure(folder: Folder) -> dict[Path, object]:
    """{remedies.json: its contents}.

    Raises:
        RunFailed: no activation has an arm beside none.
    """
    others = other_studies(folder)
    entries = measured(folder, lambda name, results: _activation(folder, name, results, others))
    if not remedies.with_remedies(entries):
        why = "".join(f"; {line}" for line in remedies.lacking(entries))
        raise RunFailed(f"no remedies to compare (train.py --averages or --remedy, or four trials){why}")
    return {folder.results / remedies.REMEDIES_FILE: {"schema": remedies.SCHEMA, "activations": entries}}


def other_studies(folder: Folder) -> dict[str, dict[str, dict]]:
    """{study: its results} of the flat folders and of the other studies, without the one in `folder`. One that can't be
    read is none."""
    paths = {"main": Path("results"), **{path.name: path / "results" for path in storage.listed(folder.studies)}}
    studies = {}
    for name, path in paths.items():
        if path.is_dir() and path.resolve() != folder.results.resolve():
            with contextlib.suppress(UserError, storage.StorageError):
                studies[name] = load_all_results(path)
    return studies


def _activation(folder: Folder, name: str, results: dict, others: Mapping) -> dict:
    m = Measured(name, results)
    ids = m.pd_ids
    if len(ids) < 2:
        raise UserError("fewer than two finished trials: there is nothing to compare")
    arms, notes = [_of_results(remedies.NONE, m, "", paired=True)], []
    try:
        arms += _free(folder, m)
    except (UserError, storage.StorageError) as error:
        notes.append(f"nothing without training: {' '.join(str(error).split())}")
    arms += _trained(m, others)
    return {"arms": arms, "notes": notes}


def _of_results(arm: str, m: Measured, study: str, paired: bool) -> dict:
    """A study's trials as they are."""
    ids, config = m.pd_ids, m.record("config")
    taught = config.get("remedy", "none") != "none" and config.get("strength")
    return {
        "arm": arm,
        "study": study,
        "size": 1,
        "paired": paired,
        "units": [[k] for k in ids],
        "pd": m.pd(ids).tolist(),
        "losses": m.losses(ids).tolist(),
        "time": mean(m.trials[k].training_time for k in ids),
        "parameters": m.results.get("parameters"),
        "seconds": None,
        "teachers": len(config.get("teacher") or []) if taught else 0,
    }


def _trained(m: Measured, others: Mapping) -> Iterator[dict]:
    """The arms that other studies are."""
    seen = set()
    for study, all_results in others.items():
        if m.name not in all_results:
            continue
        other = Measured(m.name, all_results[m.name])
        arm = remedies.arm_of(m.results, other.results)
        if arm and len(other.pd_ids) > 1 and not other.unfit:
            yield _of_results(f"{arm} ({study})" if arm in seen else arm, other, study, seeds_shared(m, other))
            seen.add(arm)


# -- without training ---------------------------------------------------------------------------------------------


def _free(folder: Folder, m: Measured) -> list[dict]:
    from training.pool import usable_cores
    from training.predictions import Predictions

    config = folder.config(m.results)
    check_checkpoints(config, m.name, {k: m.trials[k] for k in m.pd_ids})
    corpus = load_corpus(config)
    if corpus.sha256 != m.record("dataset").get("sha256"):
        raise UserError("the prepared corpus is not the one the results were measured on")
    like = _of_results("", m, "", paired=True)
    arms = []
    if partitions := {k: units for k in remedies.SIZES if len(units := remedies.groups(m.pd_ids, k)) > 1}:
        predictions = Predictions(config, m.name, corpus, m.pd_ids, usable_cores())
        if predictions.why:
            raise UserError(predictions.why)
        arms += _ensembles(predictions, partitions, like)
    return arms + [_averaged(config, m, corpus, name, like) for name in config.averages]


def _ensembles(predictions, partitions: Mapping[int, list[list[int]]], like: dict) -> list[dict]:
    """The mean predictions of groups of trials, all in one forward pass of each trial."""
    row = {k: i for i, k in enumerate(predictions.trials)}
    sums = {k: [0.0, 0.0] for k in partitions}  # of PD between two units, and of each unit's loss
    positions = 0
    for chunk in predictions.chunks():
        p = np.exp(chunk.log_p)  # (M, R, V)
        for k, units in partitions.items():
            means = np.stack([p[[row[i] for i in unit]].mean(0) for unit in units])
            pds = np.array([[np.abs(a - b).sum() / 2 for b in means] for a in means])
            losses = -np.log(means[:, np.arange(p.shape[1]), chunk.targets]).sum(1)
            sums[k] = [sums[k][0] + pds, sums[k][1] + losses]
        positions += p.shape[1]
    arms = []
    for k, units in partitions.items():
        pd, losses = (total / positions for total in sums[k])
        more = {"arm": f"ensemble of {k}", "size": k, "units": units, "pd": pd.tolist(), "losses": losses.tolist()}
        costs = {name: k * like[name] if like[name] else None for name in ("time", "parameters")}
        arms.append({**like, **more, **costs})
    return arms


def _averaged(config: Config, m: Measured, corpus: Corpus, name: str, like: dict) -> dict:
    """The means of the weights of each trial in the place of its final weights."""
    from models.architectures import model_from
    from training.machine import torch_settings
    from training.pool import usable_cores

    models, ids = [], m.pd_ids
    for k in ids:
        saved = storage.load_checkpoint(storage.checkpoint_path(config.checkpoint_dir, m.name, k))
        if name not in saved.get("averages", {}):
            raise UserError(f"trial {k} kept no {name}")
        models.append(model_from(saved, saved["averages"][name]).to(config.device))
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)
    with torch_settings(config, usable_cores()):
        both = metrics.evaluate_models(models, corpus.val, starts, config.block_size, config.device)
    pd = np.zeros((len(ids), len(ids)))
    pd[np.triu_indices(len(ids), 1)] = [pair["relative_pd"] for pair in both.pairs]
    return {
        **like,
        "arm": name,
        "pd": (pd + pd.T).tolist(),
        "losses": [values["val_loss"] for values in both.models],
        # processor time that was spent on all of the means together
        "seconds": mean(m.trials[k].value("averages_time") for k in ids),
    }
