"""Dumps of predictions: what a model said at N positions, in a file that any tool can write.

    .npy            probabilities, log-probabilities or logits (N, V); the targets in a file of their own
    .npz            the same as `probabilities`, `logprobs` or `logits`, and `targets` (N,)
    .safetensors    the same
    .parquet        the same as columns: a list of V numbers in each of N rows, and `targets`

or the k most likely tokens alone: `tokens` (N, k) beside `probabilities` or `logprobs` (N, k), `targets`, the
log-probability of each target as `target_logprobs` (N,), and optionally `vocab_size`.

`.npy` and `.safetensors` are read a few rows at a time; the others as a whole, so they have a largest size. Which of
the three kinds of numbers an `.npy` holds is told from them: rows of probabilities add up to 1, and so do exponentials
of log-probabilities.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from config import UserError
from questions.foreign.member import Member, steps_of_name

SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
VALUES = ("probabilities", "logprobs", "logits")
MAX_WHOLE_BYTES = 2**31  # of a file that can't be read in parts
TOLERANCE = 0.01  # of a row's sum: float16 rounds each of its values by 0.05 %


class Dump(Member):
    kind, is_dump = "predictions", True

    def __post_init__(self):
        self.path, self.steps = Path(self.path), steps_of_name(self.path)
        self._arrays = self._open()
        given = [name for name in VALUES if name in self._arrays]
        if len(given) != 1:
            raise UserError(f"{self.path}: must hold one of {', '.join(VALUES)}; it holds {self._held()}")
        self._values, self.values = given[0], self._arrays[given[0]]
        if len(self.values.shape) != 2 or 0 in self.values.shape:
            raise UserError(f"{self.path}: {given[0]} must have shape (N, V), not {tuple(self.values.shape)}")
        if "float" not in str(getattr(self.values, "dtype", "float")):
            raise UserError(f"{self.path}: {given[0]} must be floating-point numbers, not {self.values.dtype}")
        self.positions = self.values.shape[0]
        self.is_top_k = "tokens" in self._arrays
        self.vocab_size = self._vocabulary()
        self.targets = self._checked_targets()

    def _held(self) -> str:
        return ", ".join(f"{name} {tuple(array.shape)}" for name, array in sorted(self._arrays.items())) or "nothing"

    # reading

    def _open(self) -> dict:
        size = self.path.stat().st_size
        if self.path.suffix in (".npz", ".parquet") and size > MAX_WHOLE_BYTES:
            raise UserError(
                f"{self.path}: {size / 2**30:.1f} GiB in a format that is read as a whole; save it as .npy or "
                f".safetensors, which are read in parts"
            )
        try:
            return READERS[self.path.suffix](self.path)
        except UserError:
            raise
        except ImportError as error:
            raise UserError(f"{self.path}: needs the package {error.name} (pip install {error.name})") from None
        except Exception as error:  # a damaged file makes these readers raise nearly anything
            line = " ".join(str(error).split())[:200]
            raise UserError(f"{self.path}: can't be read as {self.path.suffix}: {line}") from None

    # checking

    def _vocabulary(self) -> int | None:
        if not self.is_top_k:
            return self.values.shape[1]
        tokens = self._arrays["tokens"]
        if tokens.shape != tuple(self.values.shape) or tokens.dtype.kind not in "iu":
            raise UserError(f"{self.path}: tokens must be integers of shape {tuple(self.values.shape)}")
        if self._values == "logits":
            raise UserError(
                f"{self.path}: logits of k tokens say nothing about the rest; give probabilities or logprobs"
            )
        if tokens.min() < 0 or (np.diff(np.sort(tokens, 1), axis=1) == 0).any():
            raise UserError(f"{self.path}: the tokens of a row must be different and at least 0")
        size = self._arrays.get("vocab_size")
        return None if size is None else int(np.asarray(size).reshape(-1)[0])

    def _checked_targets(self) -> np.ndarray:
        targets = self._arrays.get("targets")
        if targets is None:
            named = [self.how.targets] if self.how.targets else []
            beside = [*named, self.path.with_suffix(".targets.npy"), self.path.parent / "targets.npy"]
            file = next((Path(p) for p in beside if Path(p).is_file()), None)
            if file is None:
                raise UserError(
                    f"{self.path}: its targets are missing: put them into the file, beside it as targets.npy, or name "
                    f"them with --targets FILE"
                )
            try:
                targets = np.load(file, allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise UserError(f"{file}: can't be read as .npy: {' '.join(str(error).split())[:200]}") from None
        targets, largest = np.asarray(targets), (self.vocab_size or 2**62) - 1
        if targets.shape != (self.positions,) or targets.dtype.kind not in "iu":
            had = f"{targets.dtype} of shape {targets.shape}"
            raise UserError(f"{self.path}: targets must be {self.positions} integers, not {had}")
        if targets.min() < 0 or targets.max() > largest:
            had = f"{targets.min()}…{targets.max()}"
            tokens = f"tokens 0…{largest}" if self.vocab_size else "at least 0"
            raise UserError(f"{self.path}: targets must be {tokens}, not {had}")
        return targets.astype(np.int64)

    def rows_as_stored(self, lo: int, hi: int) -> np.ndarray:
        """(hi - lo, V) numbers, checked."""
        rows = _wide(self.values[lo:hi])
        allowed = np.isfinite(rows) | ((rows == -np.inf) & (self._values == "logprobs"))
        if not allowed.all():
            raise UserError(f"{self.path}: row {lo + int((~allowed.all(1)).argmax())} holds NaN or infinity")
        if self._values == "probabilities" and rows.min() < 0:
            raise UserError(f"{self.path}: row {lo + int((rows.min(1) < 0).argmax())} holds a probability below 0")
        if self._values != "logits":
            sums = (rows if self._values == "probabilities" else np.exp(rows)).sum(1, dtype=np.float64)
            wrong = (sums > 1 + TOLERANCE) | ((sums < 1 - TOLERANCE) & (not self.is_top_k))
            if wrong.any():
                row = int(wrong.argmax())
                raise UserError(f"{self.path}: the probabilities of row {lo + row} add up to {sums[row]:.4g}, not 1")
        return rows

    def logits(self, lo: int, hi: int) -> torch.Tensor:
        """(hi - lo, V): numbers whose softmax is the prediction."""
        rows = torch.from_numpy(self.rows_as_stored(lo, hi))
        return rows.log().float() if self._values == "probabilities" else rows.float()

    def top_k(self, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens (n, k), their probabilities (n, k) float64, and the log-probability of each target (n,), NaN where
        the file does not say."""
        rows = self.rows_as_stored(lo, hi).astype(np.float64)
        p = rows if self._values == "probabilities" else np.exp(rows)
        tokens = self._arrays["tokens"][lo:hi].astype(np.int64)
        if "target_logprobs" in self._arrays:
            nll = np.asarray(self._arrays["target_logprobs"][lo:hi], np.float64)
        else:
            hit = tokens == self.targets[lo:hi, None]
            with np.errstate(divide="ignore"):
                nll = np.where(hit.any(1), np.log((p * hit).sum(1)), np.nan)
        return tokens, p, nll


# -- readers: each returns {name: array}, of which VALUES may lie on disk ------------------------------------------


def _npy(path: Path) -> dict:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    return {_kind_of(_wide(values[:64])) if values.ndim == 2 and values.size else "logits": values}


def _npz(path: Path) -> dict:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def _safetensors(path: Path) -> dict:
    from safetensors.torch import load_file  # whose tensors are read from the file as they are asked for

    return {name: array if name in VALUES else array.numpy() for name, array in load_file(path).items()}


def _parquet(path: Path) -> dict:
    import pandas as pd

    arrays = {}
    for name, column in pd.read_parquet(path).items():
        arrays[name] = column.to_numpy()
        if column.dtype == object:  # a list in each row
            lengths = sorted(column.map(len).unique())
            if len(lengths) > 1:
                raise UserError(f"{path}: the rows of {name} have different lengths, {lengths[:3]}…")
            arrays[name] = np.stack(column)
    return arrays


READERS = dict(zip(SUFFIXES, (_npy, _npz, _safetensors, _parquet), strict=True))


def _kind_of(rows: np.ndarray) -> str:
    """Which of VALUES some rows are."""
    if not np.isfinite(rows).all() and not (rows == -np.inf).any():
        return "logits"  # `rows_as_stored` will say which is not finite
    if rows.min() >= 0 and np.allclose(rows.sum(1), 1, atol=TOLERANCE):
        return "probabilities"
    if rows.max() <= 1e-6 and np.allclose(np.exp(rows).sum(1), 1, atol=TOLERANCE):
        return "logprobs"
    return "logits"


def _wide(rows) -> np.ndarray:
    rows = rows.float().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows)
    return rows.astype(np.float32) if rows.dtype != np.float64 else rows
