"""Where do the trials disagree, and is a disagreement an error? From the checkpoints of finished trials.

`python analyze_results.py --where` predicts the fixed evaluation windows once more with every trial, one forward pass
each, and writes `results/where.json` (numbers), `results/where_passage.json` (a passage of the validation text, with
what each trial expected) and what is drawn from the two: `plots/where.png` and `plots/disagreement.html`. What was
computed from the same checkpoints before is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

import plot_utils
import storage
from analysis.results import Measured, mean
from config import Config, UserError
from questions.where import page as disagreement_page
from questions.where import positions
from questions.where.tell import (
    EMPTY,
    PAGE_FILE,
    PASSAGE_FILE,
    PASSAGE_TOKENS,
    SCHEMA,
    SHOWN,
    WHERE_FILE,
    identity,
    load,
    overview,
)


def update(folders: Config, all_results: Mapping[str, dict]) -> tuple[str, list[Path]]:
    """Bring the two files, the figure and the page up to date with the results; what they say, for a terminal, and
    their paths."""
    files = [Path(folders.results_dir) / name for name in (WHERE_FILE, PASSAGE_FILE)]
    where, passage = compute(folders, all_results, *map(load, files))
    storage.write_json(files[0], where)
    storage.write_text(files[1], json.dumps(passage, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n")
    drawn = []
    if any("reason" not in entry for entry in where["activations"].values()):
        drawn.append(plot_utils.plot_where(where, folders.plots_dir))
    if passage["activations"]:
        drawn.append(Path(folders.plots_dir) / PAGE_FILE)
        storage.write_text(drawn[-1], disagreement_page.page(passage, where))
    return overview(where), files + drawn


def compute(
    folders: Config, all_results: Mapping[str, dict], old: Mapping = EMPTY, old_passage: Mapping = EMPTY
) -> tuple[dict, dict]:
    """The contents of where.json and where_passage.json; what `old` holds of the same checkpoints is kept."""
    entries, passages = {}, {}
    study = _Study(folders)
    for name, results in all_results.items():
        key = identity(results)
        kept = old["activations"].get(name, {})
        if key and kept.get("identity") == key and "reason" not in kept:
            entries[name], passages[name] = kept, old_passage["activations"].get(name)
            continue
        try:
            entries[name], passages[name] = study.activation(name, results)
        except (UserError, storage.StorageError, ValueError) as error:
            entries[name] = {"identity": key, "reason": " ".join(str(error).split())}
    passage = {**old_passage, "activations": {name: entry for name, entry in passages.items() if entry}}
    if study.corpus:
        passage |= {"tokens": study.passage_tokens().tolist(), "context": study.context, "texts": study.texts}
    passage["texts"] = _texts(passage, passage["texts"])
    return {"schema": SCHEMA, "activations": entries}, passage


class _Study:
    """The corpus, read at the first activation that needs it, and what is the same for all activations."""

    def __init__(self, folders: Config):
        self.folders, self.corpus = folders, None

    def activation(self, name: str, results: dict) -> tuple[dict, dict | None]:
        """The entry of an activation in where.json, and in where_passage.json (None without weights)."""
        from training.pool import usable_cores
        from training.predictions import Predictions

        config = recorded_config(results, self.folders)
        done = Measured(name, results).trials
        for k, trial in done.items():
            file = storage.checkpoint_path(config.checkpoint_dir, name, k)
            if not file.exists():
                raise UserError(f"{file}: no such file; --checkpoint-dir says where the trained models are")
            if storage.sha256_file(file) != (trial.get("checkpoint") or {}).get("sha256"):
                raise UserError(f"{file}: not the checkpoint that was measured (its checksum differs)")
        self._read_corpus(config, results)
        predictions = Predictions(config, name, self.corpus, list(done), usable_cores())
        chunks = predictions.chunks()
        p = positions.Positions.joined(positions.measure(c.log_p, c.targets, c.columns, c.top) for c in chunks)
        tokens = predictions.windows()
        previous = tokens[:, :-1].reshape(-1)
        recorded = mean(Measured(name, results).pair_values("relative_pd"))
        entry = {
            "identity": identity(results),
            "source": predictions.source,
            "note": _note(predictions),
            "trials": predictions.trials,
            "positions": len(p),
            "windows": len(tokens),
            "block_size": config.block_size,
            "pd": positions.concentration(p),
            "recorded_pd": recorded,
            "where": positions.where(p, config.block_size, previous, self.texts, self.frequency),
            "error": positions.error(p, config.block_size, len(self.texts), predictions.trials, predictions.whole),
        }
        return entry, None if predictions.why else self._passage(predictions)

    def _read_corpus(self, config: Config, results: dict) -> None:
        if self.corpus is None:
            from prepare_data import load_corpus

            corpus = load_corpus(config)
            V = corpus.vocab_size
            parts = (corpus.train[lo : lo + 2**24] for lo in range(0, len(corpus.train), 2**24))
            counts = sum(np.bincount(part, minlength=V) for part in parts)
            self.frequency = counts / len(corpus.train)
            self.texts = [corpus.tokenizer.decode([token]) for token in range(V)]
            self.context = config.block_size
            self.corpus = corpus
        if self.corpus.sha256 != (results.get("dataset") or {}).get("sha256"):
            raise UserError("the prepared corpus is not the one the results were measured on")

    # the passage: the first tokens of the validation text, a choice that no prediction had a part in

    def passage_tokens(self) -> np.ndarray:
        length = min(max(PASSAGE_TOKENS, self.context), len(self.corpus.val) - 1)
        return np.asarray(self.corpus.val[: length + 1])

    def _passage(self, predictions) -> dict:
        """{"trials", "pd": [per token], "expected": [per token: per trial [token, p, token, p, …, p of the true one]]},
        of every token but the first; probabilities to four places."""
        tokens, T = self.passage_tokens(), self.context
        L = len(tokens) - 1
        stride = max(1, T // 2)  # so that behind the first window each token has at least half a window before it
        starts = np.array([*range(0, L - T, stride), L - T])
        chunks = list(predictions.at(tokens[starts[:, None] + np.arange(T + 1)]))
        log_p = np.concatenate([c.log_p for c in chunks], 1).reshape(len(predictions.trials), len(starts), T, -1)
        pieces, end = [], 0
        for w, start in enumerate(starts):
            pieces.append(log_p[:, w, end - start :])
            end = start + T
        p = np.exp(np.concatenate(pieces, 1))  # (M, L, V)
        true = tokens[1:]
        pd = np.mean([np.abs(p[i] - p[j]).sum(-1) / 2 for i, j in positions.pairs(len(p))], axis=0)
        likely = np.argsort(-p, axis=-1, kind="stable")[:, :, :SHOWN]
        expected = [list(_expected(p[:, place], likely[:, place], true[place])) for place in range(L)]
        return {"trials": predictions.trials, "pd": [round(float(x), 4) for x in pd], "expected": expected}


def recorded_config(results: Mapping, folders: Config) -> Config:
    """The settings that results record, with the folders of `folders`.

    Raises:
        UserError: they record none, or not those of their fingerprint.
    """
    if "config" not in results or "fingerprint" not in results:
        raise UserError("it records no settings: another tool's file, nothing to derive it from")
    names = ("data_dir", "checkpoint_dir", "results_dir", "plots_dir")
    config = Config.from_dict({**results["config"], "study": None, **{k: getattr(folders, k) for k in names}})
    if config.fingerprint() != results["fingerprint"]:
        raise UserError("its fingerprint is not that of the settings it records")
    return config


def _expected(p: np.ndarray, likely: np.ndarray, true: int) -> Iterator[list]:
    for one, top in zip(p, likely, strict=True):
        told = [x for token in top for x in (int(token), round(float(one[token]), 4))]
        yield [*told, round(float(one[true]), 4)]


def _texts(passage: Mapping, texts: Mapping | list[str]) -> dict[str, str]:
    """The texts of those tokens that the passage or an expectation in it names."""
    used = set(passage["tokens"])
    for entry in passage["activations"].values():
        used |= {token for place in entry["expected"] for told in place for token in told[:-1:2]}
    known = texts if isinstance(texts, Mapping) else {str(i): text for i, text in enumerate(texts)}
    return {str(token): known[str(token)] for token in sorted(used)}


def _note(predictions) -> str:
    if predictions.source == "weights":
        return ""
    coarse = (
        "" if predictions.whole else ", in buckets of tokens: PD and entropy are lower bounds, losses are not known"
    )
    return f"from the predictions stored on the probe at the last step, in float16{coarse}, since {predictions.why}"
