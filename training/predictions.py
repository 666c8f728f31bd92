"""What the trained trials of one activation predict, from their checkpoints: log-probabilities in float64, position by
position, all trials together, a few windows at a time.

Recomputed from the weights on the fixed evaluation windows, one forward pass per trial. Where the weights can't be used
(they were removed, or belong to code of the user's own that is gone or was changed), the predictions that the trials
stored on the probe at their last step stand in: fewer positions, rounded to float16, and for a large vocabulary in
buckets of several tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

import metrics
import storage
from config import Config, UserError
from models import own_code
from models.architectures import code_checksums, model_from
from prepare_data import Corpus
from training import trial as trials

# of float16, half the smallest number: what is stored as 0 was below it, and is not impossible
SMALLEST = 2.0**-25
MAX_BYTES = 2**26  # log-probabilities of all trials at a time


@dataclass(frozen=True)
class Chunk:
    """Predictions of M trials at R positions, whole windows one after another; B tokens, or buckets of tokens."""

    log_p: np.ndarray  # (M, R, B) float64
    targets: np.ndarray  # (R,) the true next tokens
    columns: np.ndarray | None = None  # (R,) their buckets, and
    top: np.ndarray | None = None  # (M, R) the most likely tokens, both of a probe only


class Predictions:
    """The finished trials of an activation and what they predict.

    Attributes:
        source: "weights" or "probe"; `why` says why it is the probe, else ''.
        trials: their numbers, ascending. block_size, starts: the windows of the validation split.
        whole: whether each token has its own probability.

    Raises:
        UserError: checkpoints of other settings or another text, fewer than two finished trials, neither usable
            weights nor a usable probe.
        StorageError: a checkpoint is missing, damaged, or swapped.
    """

    def __init__(self, config: Config, activation: str, corpus: Corpus, numbers: list[int], cores: int = 1):
        self.corpus, self.cores = corpus, cores
        with ThreadPoolExecutor(cores) as pool:  # checksums take a while, and leave other threads alone
            loaded = pool.map(lambda k: _load(config, activation, k, corpus), sorted(numbers))
            saved = dict(zip(sorted(numbers), loaded, strict=True))
        self._saved = {k: contents for k, contents in saved.items() if contents["record"]["status"] == "done"}
        self.config, self.trials = _here(config), list(self._saved)
        self.block_size = config.block_size
        if len(self.trials) < 2:
            raise UserError("fewer than two finished trials: there is nothing to compare")
        self.why = self._build_models(activation)
        self.source = "probe" if self.why else "weights"
        tokens = config.probe_tokens if self.why else config.eval_tokens
        self.starts = metrics.evaluation_windows(len(corpus.val), config.block_size, tokens)
        self.buckets = np.arange(corpus.vocab_size)
        if self.why:
            self.buckets = metrics.probe_buckets(corpus.train, corpus.vocab_size)
            self._check_probes()
        self.whole = int(self.buckets.max()) + 1 == corpus.vocab_size

    def _build_models(self, activation: str) -> str:
        """The models; or none, and why not."""
        self._models = []
        try:
            now = code_checksums(self.config, activation)
            for k, saved in self._saved.items():
                if not saved["weights"]:
                    return f"trial {k} has no weights left"
                for role, module, _, _ in own_code.differences(saved.get("own_code"), now):
                    return f"the code of the {role}, {module}, was changed since"
                self._models.append(model_from(saved).to(self.config.device))
        except (UserError, RuntimeError) as error:  # RuntimeError: weights that are not those of the model built now
            return " ".join(str(error).split())[:200]
        return ""

    def _check_probes(self) -> None:
        shape = (len(self.starts) * self.block_size, int(self.buckets.max()) + 1)
        for k, saved in self._saved.items():
            probe = saved.get("probe")
            usable = probe is not None and len(probe) and tuple(probe.shape[1:]) == shape
            if not usable or saved["record"]["steps"][-1] != self.config.max_iters:
                raise UserError(f"{self.why}, and no predictions of the last step are stored with trial {k}")

    def windows(self) -> np.ndarray:
        """(W, T + 1) tokens: the inputs of each window and its last target."""
        return _windows(self.corpus.val, self.starts, self.block_size)

    def chunks(self) -> Iterator[Chunk]:
        """The predictions at all positions, in order."""
        return self._from_probe() if self.why else self.at(self.windows())

    def at(self, windows: np.ndarray) -> Iterator[Chunk]:
        """The predictions in windows of any text, (W, T + 1) tokens each; needs the weights."""
        T, V = windows.shape[1] - 1, self.corpus.vocab_size
        at_once = max(1, min(2048, MAX_BYTES // (8 * V * len(self._models))) // T)

        def log_p(idx, model):
            with torch.inference_mode():  # of this thread only
                return torch.log_softmax(model(idx).flatten(0, 1).float().cpu().double(), -1).numpy()

        # side by side on one thread each: threads within a model would wait for one another wherever cores are busy
        begun: list[tuple[Iterator[np.ndarray], np.ndarray]] = []
        with trials.torch_settings(self.config, 1), ThreadPoolExecutor(self.cores) as pool:
            for lo in range(0, len(windows), at_once):
                part = windows[lo : lo + at_once].astype(np.int64)
                idx = torch.from_numpy(part[:, :-1]).to(self.config.device)
                begun.append((pool.map(functools.partial(log_p, idx), self._models), part[:, 1:].ravel()))
                if len(begun) > 1:  # so that no core waits for the last model of a chunk
                    yield _chunk(*begun.pop(0))
            yield from (_chunk(*last) for last in begun)

    def _from_probe(self) -> Iterator[Chunk]:
        targets = self.windows()[:, 1:].reshape(-1)
        rows = max(1, 2048 // self.block_size) * self.block_size
        for lo in range(0, len(targets), rows):
            part = slice(lo, lo + rows)
            p = np.stack([s["probe"][-1, part].numpy() for s in self._saved.values()]).astype(np.float64) + SMALLEST
            top = np.stack([s["probe_argmax"][-1, part].numpy() for s in self._saved.values()])
            yield Chunk(np.log(p / p.sum(-1, keepdims=True)), targets[part], self.buckets[targets[part]], top)


def _chunk(log_p: Iterator[np.ndarray], targets: np.ndarray) -> Chunk:
    return Chunk(np.stack(list(log_p)), targets)


def _load(config: Config, activation: str, number: int, corpus: Corpus) -> Mapping:
    path = storage.checkpoint_path(config.checkpoint_dir, activation, number)
    saved = storage.load_checkpoint(path)
    if (saved.get("kind"), saved.get("activation"), saved.get("trial")) != ("trial", activation, number):
        raise storage.StorageError(f"{path}: not the checkpoint of trial {number} of {activation}. {storage.REMEDY}")
    # not trial.check_same_experiment: own code that is gone is no reason to refuse the predictions it left
    if saved.get("fingerprint") != config.fingerprint() or saved.get("corpus_sha256") != corpus.sha256:
        raise UserError(f"{path}: trained with other settings or on another text than the results say")
    return saved


def _here(config: Config) -> Config:
    """The config on a device that this machine has."""
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    return config if available.get(config.device.split(":")[0], lambda: True)() else config.replace(device="cpu")


def _windows(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> np.ndarray:
    return np.asarray(tokens[starts[:, None] + np.arange(block_size + 1)])
