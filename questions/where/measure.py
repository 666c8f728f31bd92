"""Where do the trials disagree, and is a disagreement an error? From the checkpoints of finished trials.

`python analyze_results.py --where` predicts the fixed evaluation windows once more with every trial, one forward pass
each, and writes `results/where.json` (numbers), `results/where_passage.json` (a passage of the validation text, with
what each trial expected) and what is drawn from the two: `plots/where.png` and `plots/disagreement.html`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from analysis.products import Folder, check_checkpoints, measured
from analysis.results import Measured, mean
from config import Config, UserError
from questions.where import positions
from questions.where.tell import PASSAGE_FILE, PASSAGE_TOKENS, SCHEMA, SHOWN, WHERE_FILE


def measure(folder: Folder) -> dict[Path, object]:
    """{where.json: …, where_passage.json: …}: their contents.

    Raises:
        RunFailed: no activation has predictions of two trials.
    """
    study = _Study(folder)
    entries = measured(folder, study.activation)
    passage = {"schema": SCHEMA, "activations": study.passages, "tokens": study.passage_tokens().tolist()}
    passage["context"] = study.context
    passage["texts"] = {str(token): study.texts[token] for token in passage_vocabulary(passage)}
    files = {WHERE_FILE: {"schema": SCHEMA, "activations": entries}, PASSAGE_FILE: passage}
    return {folder.results / name: contents for name, contents in files.items()}


class _Study:
    """The corpus, read at the first activation that needs it, what is the same for all activations, and the passages of
    those measured by now that have weights."""

    def __init__(self, folder: Folder):
        self.folder, self.corpus, self.passages = folder, None, {}

    def activation(self, name: str, results: dict) -> dict:
        """The entry of an activation in where.json; that in where_passage.json is one of the passages then."""
        from training.pool import usable_cores
        from training.predictions import Predictions

        config = self.folder.config(results)
        of_results = Measured(name, results)
        check_checkpoints(config, name, of_results.trials)
        self._read_corpus(config, results)
        predictions = Predictions(config, name, self.corpus, list(of_results.trials), usable_cores())
        chunks = predictions.chunks()
        p = positions.Positions.joined(positions.measure(c.log_p, c.targets, c.columns, c.top) for c in chunks)
        tokens = predictions.windows()
        previous = tokens[:, :-1].reshape(-1)
        entry = {
            "source": predictions.source,
            "note": _note(predictions),
            "trials": predictions.trials,
            "positions": len(p),
            "windows": len(tokens),
            "block_size": config.block_size,
            "pd": positions.concentration(p),
            "recorded_pd": mean(of_results.pair_values("relative_pd")),
            "where": positions.where(p, config.block_size, previous, self.texts, self.frequency),
            "error": positions.error(p, config.block_size, predictions.whole),
        }
        if not predictions.why:
            self.passages[name] = self._passage(predictions)
        return entry

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
        tokens, T = self.passage_tokens(), self.context
        windows, new = passage_windows(len(tokens) - 1, T)
        chunks = list(predictions.at(tokens[windows]))
        log_p = np.concatenate([c.log_p for c in chunks], 1).reshape(len(predictions.trials), *new.shape, -1)
        return passage_entry(predictions.trials, np.exp(log_p[:, new]), tokens[1:])


def passage_windows(length: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """What a passage is predicted from: the places of its tokens (W, T + 1), and which of these predictions (W, T) are
    told of its `length` tokens but the first, in their order. Behind the first window each has at least half a window
    before it."""
    starts = np.array([*range(0, length - block_size, max(1, block_size // 2)), length - block_size])
    places = starts[:, None] + np.arange(block_size + 1)
    predicted = np.concatenate(([0], starts[:-1] + block_size))  # so many by the windows before
    return places, places[:, :-1] >= predicted[:, None]


def passage_entry(trials: Sequence, p: np.ndarray, true: np.ndarray) -> dict:
    """What trials or models expected of a passage, from their predictions (M, L, V) of its tokens (L,).

    Returns:
        {"trials", "pd": [per token], "expected": [per token: per trial [token, p, token, p, …, p of the true one]]};
        probabilities to four places.
    """
    pd = np.mean([np.abs(p[i] - p[j]).sum(-1) / 2 for i, j in positions.pairs(len(p))], axis=0)
    likely = np.argsort(-p, axis=-1, kind="stable")[:, :, :SHOWN]
    expected = [
        [[*_likely(p[m, place], likely[m, place]), round(float(p[m, place, true[place]]), 4)] for m in range(len(p))]
        for place in range(len(true))
    ]
    return {"trials": trials, "pd": [round(float(x), 4) for x in pd], "expected": expected}


def _likely(p: np.ndarray, tokens: np.ndarray) -> Iterator[float]:
    for token in tokens:
        yield from (int(token), round(float(p[token]), 4))


def passage_vocabulary(passage: Mapping) -> list[int]:
    """Those tokens that the passage or an expectation in it names."""
    used = set(passage["tokens"])
    for entry in passage["activations"].values():
        used |= {token for place in entry["expected"] for expected in place for token in expected[:-1:2]}
    return sorted(used)


def _note(predictions) -> str:
    if predictions.source == "weights":
        return ""
    buckets = ", in buckets of tokens: PD and entropy are lower bounds, losses are not known"
    coarse = "" if predictions.whole else buckets
    return f"from the predictions stored on the probe at the last step, in float16{coarse}, since {predictions.why}"
