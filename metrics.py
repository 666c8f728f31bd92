"""How much the predictions of trained models differ.

`compare_predictions` takes two arrays of predicted distributions; `evaluate_models` measures n models and all their
pairs on the same fixed windows, streaming, with one forward pass per model and window. Both end in the same few lines
of arithmetic, `PairSums`, so what is tested on arrays is what is measured on models.

Shapes in comments: n models, R positions (rows), V tokens of vocabulary, W windows of T tokens.
Sources: L1, L2 and set-based prediction difference, Shamir & Coviello 2020 (arXiv 2010.09923); relative, element-wise
and true-label prediction difference, Hellinger distance, Shamir, Lin & Coviello 2020 (arXiv 2010.09931);
Jensen–Shannon divergence, Lin 1991.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from config import UserError
from measures.table import METRICS as METRICS  # part of this module's face
from measures.table import metrics_of

NEED_TARGETS = ("true_label_relative_pd", "val_loss_difference")
# positions in one forward pass: on a CPU few enough for cache (1024 to 4096 are alike), on a GPU enough to fill it
MAX_POSITIONS = {"cpu": 2048, "other": 16384}
MAX_BLOCK_BYTES = 512 * 2**20  # predictions of all models held at a time: one window of 32 models at V = 50 257, T = 64


# -- the arithmetic -----------------------------------------------------------------------------------------------


class PairSums:
    """Sums over the vocabulary from which every distance between two of n distributions follows.

    The work is element-wise, 19 simple operations and two logarithms for each value, and bound by memory unless its
    operands stay in cache: so the rows are taken in blocks of about `elements` values, all pairs of a block before the
    next block, into scratch arrays that are reused. torch rather than NumPy: its float32 logarithm is vectorised, it
    uses all threads it is given, and the same lines run on a GPU. `torch.where` and `xlogy` are avoided because they
    cost as much as five logarithms on a CPU.
    """

    def __init__(self, n: int, vocab: int, dtype: torch.dtype, device: torch.device | str = "cpu"):
        elements = 2**17 if torch.device(device).type == "cpu" else 2**21
        self.pairs = list(itertools.combinations(range(n), 2))
        self.rows = max(1, elements // vocab)
        self.scratch = torch.empty(4, self.rows, vocab, dtype=dtype, device=device)
        self.block = torch.empty(n, self.rows, vocab, dtype=dtype, device=device)
        self.tiny = torch.finfo(dtype).tiny
        self.below_one = 1 - torch.finfo(dtype).eps / 2
        self.zero, self.one = torch.zeros((), dtype=dtype, device=device), torch.ones((), dtype=dtype, device=device)

    def __call__(self, p: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For p of shape (n, R, V): sums of each pair (5, pairs, R), Σ_v p (n, R), and Σ_v|p_m - p̄| summed over the
        models (R,). float64 arrays on the CPU."""
        n, R, _ = p.shape
        sums = torch.empty(5, len(self.pairs), R, dtype=p.dtype, device=p.device)
        mass = torch.empty(n, R, dtype=p.dtype, device=p.device)
        spread = torch.empty(n, R, dtype=p.dtype, device=p.device)
        for lo in range(0, R, self.rows):
            rows = slice(lo, min(lo + self.rows, R))
            part, block = p[:, rows], self.block[:, : rows.stop - lo]
            scratch = self.scratch[:, : rows.stop - lo].unbind(0)
            torch.sum(part, -1, out=mass[:, rows])
            # p_m - p̄ by way of p_m - p_0, which is exactly 0 for equal models where p̄ would be rounded
            torch.sub(part, part[0], out=block)
            torch.sum(block.sub_(block.mean(0)).abs_(), -1, out=spread[:, rows])
            torch.sqrt(part, out=block).clamp_min_(self.tiny)
            for k, (i, j) in enumerate(self.pairs):
                self._pair(part[i], part[j], block[i], block[j], scratch, sums[:, k, rows].unbind(0))
        # sums of one row in float32 (torch adds pairwise: 1e-7), everything beyond a row in float64
        return tuple(x.cpu().double().numpy() for x in (sums, mass, spread.cpu().double().sum(0)))

    def _pair(self, p, q, root_p, root_q, scratch, sums):
        """Σ|p-q|, Σ(p-q)², Σ|p-q|/(p+q), Σ(√p-√q)² and 2·Σ[p ln(2p/(p+q)) + q ln(2q/(p+q))], each (R,)."""
        a, b, s, t = scratch
        l1, squares, relative, hellinger, shannon = sums
        torch.sub(p, q, out=a).abs_()
        torch.sum(a, -1, out=l1)
        torch.mul(a, a, out=t)
        torch.sum(t, -1, out=squares)
        # √p - √q = (p-q)/(√p+√q), which keeps its digits when p ≈ q. Here and below 0/0 is the 0 it should be because
        # the denominator is kept at the smallest normal number at least; that changes no other denominator.
        torch.add(root_p, root_q, out=t)
        torch.div(a, t, out=t)
        t.mul_(t)
        torch.sum(t, -1, out=hellinger)
        torch.add(p, q, out=s).clamp_min_(self.tiny)
        x = a.div_(s)  # |p-q|/(p+q), in [0, 1]
        torch.sum(x, -1, out=relative)
        # With x the two terms of Jensen–Shannon are (p+q)/2 · [(1+x)ln(1+x) + (1-x)ln(1-x)]. For p ≈ q that bracket is
        # x² left over from two terms of size x. The same thing as 2x·ln(1+x) + (1-x)·ln(1-x²) is accurate from
        # x = 0, where it is exactly 0, to x = 1, where the factor 1-x stops the logarithm.
        torch.addcmul(self.zero, x, x, value=-self.below_one, out=t).log1p_()  # a rounding less than x²: never ln 0
        torch.sub(self.one, x, out=b)
        t.mul_(b)
        torch.log1p(x, out=b)
        t.addcmul_(x, b, value=2).mul_(s)
        torch.sum(t, -1, out=shannon)


def _distances(sums: np.ndarray, mass: np.ndarray, vocab: int) -> dict[str, np.ndarray]:
    """Each distance at each position, (R,), from a pair's sums (5, R) and Σ_v(p + q) (R,). One that is added here is
    measured on arrays and on models; its row in metrics_table takes it to where it is shown."""
    l1, squares, relative, hellinger, shannon = sums
    return {
        "relative_pd": _ratio(l1, mass),
        "pd_l1": l1,
        "pd_l2": np.sqrt(squares),
        "symmetric_pd": relative * (2 / vocab),
        "hellinger": np.sqrt(hellinger / 2),
        "jensen_shannon": shannon / 4,
    }


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where both are 0."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def _relative_difference(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """2|p - q| / (p + q), and 0 where both are 0."""
    return 2 * _ratio(np.abs(p - q), p + q)


# -- two arrays of predictions ------------------------------------------------------------------------------------


def compare_predictions(p, q, targets=None) -> dict:
    """Every difference between two models' predictions at the same positions.

    Args:
        p, q: predicted distributions, (N, V) arrays or tensors of probabilities, any real type.
        targets: the true next tokens, (N,) integers, or None.

    Returns:
        {key: value} for every metric of a pair in METRICS, which defines them: floats, and ints for the two counts.
        The lowest token wins a tie for the arg-max. `val_loss_difference` is infinite where a model gives a target no
        probability at all; it and `true_label_relative_pd` are None without targets. Equal arrays give exactly 0
        everywhere.

    Raises:
        ValueError: other shapes than two equal (N, V) with N, V ≥ 1, values that are not finite or below 0, targets
            that are not N tokens of the vocabulary.
    """
    p, q = _as_predictions(p, "p", 2), _as_predictions(q, "q", 2)
    if p.shape != q.shape:
        raise ValueError(f"p and q must have the same shape (N, V), not {tuple(p.shape)} and {tuple(q.shape)}")
    N, V = p.shape
    if targets is not None:
        targets = _as_targets(targets, N, V)
    pair_sums = PairSums(2, V, torch.float64)
    totals, mismatches = Counter(), 0
    for rows in _row_blocks(N, pair_sums.rows):
        block = torch.stack([_float64(p, rows, "p"), _float64(q, rows, "q")])
        sums, mass, _ = pair_sums(block)
        for key, values in _distances(sums[:, 0], mass.sum(0), V).items():
            totals[key] += values.sum()
        top = block.numpy().argmax(-1)
        mismatches += int((top[0] != top[1]).sum())
        if targets is not None:
            p_y, q_y = block.numpy()[:, np.arange(len(top[0])), targets[rows]]
            totals["true_label_relative_pd"] += _relative_difference(p_y, q_y).sum()
            differ = p_y != q_y  # equal probabilities, two zeros too, cost the same
            with np.errstate(divide="ignore"):
                totals["val_loss_difference"] += (np.log(p_y[differ]) - np.log(q_y[differ])).sum()
    unknown = {} if targets is not None else dict.fromkeys(NEED_TARGETS)
    return _pair_entry({k: v / N for k, v in totals.items()} | unknown, mismatches, N)


def set_prediction_difference(p) -> float:
    """Set-based prediction difference of M models: mean over positions and models of ‖p_m - p̄‖₁, p̄ their mean.

    Args:
        p: predicted distributions, (M, N, V), array or tensor.

    Raises:
        ValueError: another rank, an empty axis, values that are not finite or below 0.
    """
    p = _as_predictions(p, "p", 3)
    M, N, V = p.shape
    pair_sums = PairSums(M, V, torch.float64)
    pair_sums.pairs = []
    total = 0.0
    for rows in _row_blocks(N, pair_sums.rows):
        block = torch.stack([_float64(p[m], rows, f"p[{m}]") for m in range(M)])
        total += float(pair_sums(block)[2].sum())
    return total / (M * N)


def _pair_entry(means: dict, mismatches: int, positions: int) -> dict:
    """Every metric of a pair, from the means over positions; the difference of losses still has its sign."""
    difference = means["val_loss_difference"]
    values = {
        **{key: mean if mean is None else float(mean) for key, mean in means.items()},
        "val_loss_difference": None if difference is None else abs(float(difference)),
        "prediction_differences": int(mismatches),
        "total_predictions": int(positions),
        "top1_mismatch_pct": 100 * int(mismatches) / int(positions),
    }
    return {metric.key: values[metric.key] for metric in metrics_of("pair")}


def _as_predictions(p, name: str, rank: int):
    """A tensor or array of real numbers with `rank` axes, none of them empty."""
    if isinstance(p, torch.Tensor):
        p, real = p.detach(), not p.is_complex()
    else:
        p = np.asarray(p)
        real = p.dtype.kind in "fiub"
    if not real:
        raise ValueError(f"{name} must hold real numbers, not {p.dtype}")
    axes = "(N, V)" if rank == 2 else "(M, N, V)"
    if p.ndim != rank:
        raise ValueError(f"{name} must have shape {axes}, not {tuple(p.shape)}")
    if 0 in p.shape:
        raise ValueError(f"{name} is empty: shape {tuple(p.shape)}; {axes} needs at least one entry along each axis")
    return p


def _as_targets(targets, N: int, V: int) -> np.ndarray:
    targets = targets.detach().cpu().numpy() if isinstance(targets, torch.Tensor) else np.asarray(targets)
    if targets.shape != (N,):
        raise ValueError(f"targets must have shape ({N},), one for each position, not {targets.shape}")
    if targets.dtype.kind not in "iu":
        raise ValueError(f"targets must be integers, not {targets.dtype}")
    if targets.min() < 0 or targets.max() >= V:
        raise ValueError(f"targets must be tokens 0…{V - 1}, not {targets.min()}…{targets.max()}")
    return targets


def _float64(p, rows: slice, name: str) -> torch.Tensor:
    """Rows of p, checked, as float64 on the CPU."""
    if isinstance(p, torch.Tensor):
        block = p[rows].cpu().double()  # in this order: MPS has no float64
    else:
        block = torch.from_numpy(np.array(p[rows], dtype=np.float64))  # a copy: torch wants it writable
    low, high = block.aminmax()
    if not (math.isfinite(low) and math.isfinite(high)):
        row = rows.start + int((~block.isfinite().all(-1)).nonzero()[0])
        raise ValueError(f"{name} must be finite: row {row} holds NaN or infinity")
    if low < 0:
        row = rows.start + int((block < 0).any(-1).nonzero()[0])
        raise ValueError(f"{name} must hold probabilities: row {row} has a value below 0 ({float(low):g}); logits?")
    return block


def _row_blocks(total: int, size: int) -> Iterator[slice]:
    return (slice(lo, min(lo + size, total)) for lo in range(0, total, size))


# -- the fixed windows --------------------------------------------------------------------------------------------


def evaluation_windows(n_tokens: int, block_size: int, eval_tokens: int) -> np.ndarray:
    """Where the fixed evaluation windows start: (W,) int64, W = eval_tokens // block_size or as many as fit.

    The windows lie evenly spaced over the tokens, don't overlap, and leave room for the target of each one's last
    position. They depend on the three numbers alone.

    Raises:
        UserError: not one window fits.
    """
    if n_tokens <= block_size:
        raise UserError(f"{n_tokens} tokens are too few for one window: block_size={block_size} needs {block_size + 1}")
    if eval_tokens < block_size:
        raise UserError(f"eval_tokens={eval_tokens}: must be at least block_size={block_size}")
    W = min(eval_tokens // block_size, (n_tokens - 1) // block_size)
    return np.arange(W, dtype=np.int64) * (n_tokens - block_size - 1) // max(W - 1, 1)


def windows_checksum(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> str:
    """SHA-256 (hex) over where the windows start and over all their input and target tokens."""
    starts = _check_windows(tokens, starts, block_size)
    digest = hashlib.sha256(np.array([block_size, len(starts)], "<i8").tobytes())
    digest.update(starts.astype("<i8").tobytes())
    for part in _row_blocks(len(starts), max(1, 2**20 // block_size)):
        digest.update(_gather(tokens, starts[part], block_size).astype("<i8").tobytes())
    return digest.hexdigest()


def _check_windows(tokens: np.ndarray, starts, block_size: int) -> np.ndarray:
    starts = np.asarray(starts)
    if starts.ndim != 1 or not len(starts) or starts.dtype.kind not in "iu":
        raise ValueError(f"starts must be one or more integers, (W,), not {starts.dtype} of shape {starts.shape}")
    if block_size < 1 or starts.min() < 0 or starts.max() + block_size + 1 > len(tokens):
        raise ValueError(
            f"windows of {block_size} tokens and a target, starting at {starts.min()}…{starts.max()}, "
            f"do not lie inside the {len(tokens)} tokens"
        )
    return starts.astype(np.int64)


def _gather(tokens: np.ndarray, starts: np.ndarray, block_size: int) -> np.ndarray:
    """(W, T + 1) int64: each window's inputs and its last target."""
    return np.asarray(tokens[starts[:, None] + np.arange(block_size + 1)]).astype(np.int64)


# -- models on windows --------------------------------------------------------------------------------------------


@contextmanager
def _evaluating(models: Sequence[torch.nn.Module]):
    """Evaluation mode and no gradients; afterwards every module is in the mode it was in before."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass
class _Predictions:
    """One model's predictions at R positions."""

    p: torch.Tensor  # (R, V) float32 probabilities, on the device
    top: np.ndarray  # (R,) arg-max
    p_target: np.ndarray  # (R,) float64
    nll: np.ndarray  # (R,) float64, -ln p(target); finite also where p(target) underflows


def _predict(logits: torch.Tensor, targets: torch.Tensor, out: torch.Tensor | None = None) -> _Predictions:
    """Softmax in float32 of logits (R, V), and what it says about the targets (R,)."""
    p = torch.softmax(logits, -1, out=out)
    top = p.argmax(-1, keepdim=True)
    y = targets[:, None]
    picked = [x.gather(-1, i).cpu().double()[:, 0] for x, i in ((logits, top), (logits, y), (p, top), (p, y))]
    logit_top, logit_y, p_top, p_y = picked
    # ln Σ exp(logit) = logit_top - ln p_top spares a second pass over all exponentials
    nll = (logit_top - logit_y) - p_top.log()
    return _Predictions(p, top[:, 0].cpu().numpy(), p_y.numpy(), nll.numpy())


def _logits(model: torch.nn.Module, idx: torch.Tensor) -> torch.Tensor:
    """(B, T, V) float32."""
    logits = model(idx)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or logits.shape[:2] != idx.shape:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"a model must give logits of shape {(*idx.shape, 'V')}, not {shape}")
    return logits.float()


def _windows_at_once(block_size: int, bytes_per_position: int, max_bytes: int, device) -> int:
    positions = MAX_POSITIONS["cpu" if torch.device(device).type == "cpu" else "other"]
    return max(1, min(positions, max_bytes // bytes_per_position) // block_size)


def _stream(model, tokens, starts, block_size: int, device, max_bytes: int) -> Iterator[_Predictions]:
    """One model's predictions, a batch of windows after another. The first batch is one window: what it takes says
    how many fit."""
    starts = _check_windows(tokens, starts, block_size)
    done, count = 0, 1
    while done < len(starts):
        windows = torch.from_numpy(_gather(tokens, starts[done : done + count], block_size)).to(device)
        logits = _logits(model, windows[:, :-1]).flatten(0, 1)
        yield _predict(logits, windows[:, 1:].flatten())
        done += count
        count = _windows_at_once(block_size, 8 * logits.shape[-1], max_bytes, device)  # logits and probabilities


def evaluate_loss(
    model: torch.nn.Module,
    tokens: np.ndarray,
    starts: np.ndarray,
    block_size: int,
    device: str = "cpu",
    *,
    max_block_bytes: int = MAX_BLOCK_BYTES,
) -> tuple[float, float]:
    """Mean loss (nats per token) and accuracy (percent) of one model over all tokens of fixed windows.

    In evaluation mode; the model is left in the mode it was in, and no random stream is touched. The loss of a model
    whose logits are not finite is NaN or infinite: it is for the caller to see that training diverged.

    Args and errors: as `evaluate_models`.
    """
    loss, right = 0.0, 0
    starts = _check_windows(tokens, starts, block_size)
    targets = _gather(tokens, starts, block_size)[:, 1:].reshape(-1)
    done = 0
    with _evaluating([model]):
        for batch in _stream(model, tokens, starts, block_size, device, max_block_bytes):
            loss += float(batch.nll.sum())
            right += int((batch.top == targets[done : done + len(batch.top)]).sum())
            done += len(batch.top)
    return loss / done, 100 * right / done


@dataclass
class Evaluation:
    """What `evaluate_models` measured; every field is ready for JSON."""

    models: list[dict]
    pairs: list[dict]
    set_prediction_difference: float | None
    positions: int
    windows: int
    block_size: int
    blocks: int
    vocab_size: int


class _OverWindows:
    """Running statistics over windows of K quantities: mean, standard error, blocks, halves. Memory is K × blocks."""

    def __init__(self, quantities: int, windows: int, blocks: int):
        self.windows, self.blocks, self.seen = windows, min(blocks, windows), 0
        self.mean, self.squares = np.zeros(quantities), np.zeros(quantities)
        self.block_sums = np.zeros((quantities, self.blocks))
        self.half_sums = np.zeros((quantities, 2))

    def add(self, values: np.ndarray) -> None:
        """The means of the next k windows, (K, k)."""
        k = values.shape[1]
        number = self.seen + np.arange(k)
        block = number * self.blocks // self.windows  # contiguous groups of windows, as equal as they can be
        for b in np.unique(block):
            self.block_sums[:, b] += values[:, block == b].sum(1)
        for half in (0, 1):
            self.half_sums[:, half] += values[:, number % 2 == half].sum(1)
        # mean and sum of squared deviations of two groups together (Chan, Golub & LeVeque 1983)
        mean = values.mean(1)
        shift = mean - self.mean
        self.squares += ((values - mean[:, None]) ** 2).sum(1) + shift**2 * (self.seen * k / (self.seen + k))
        self.mean += shift * (k / (self.seen + k))
        self.seen += k

    def standard_error(self, i: int) -> float | None:
        """The windows are the sample, not the positions: those within a window are not independent."""
        return math.sqrt(self.squares[i] / (self.windows - 1) / self.windows) if self.windows > 1 else None

    def by_block(self, i: int) -> list[float]:
        sizes = np.bincount(np.arange(self.windows) * self.blocks // self.windows, minlength=self.blocks)
        return (self.block_sums[i] / sizes).tolist()

    def halves_difference(self, i: int) -> float | None:
        """|mean over even windows - mean over odd windows|."""
        if self.windows < 2:
            return None
        even, odd = self.half_sums[i] / ((self.windows + 1) // 2, self.windows // 2)
        return abs(float(even - odd))


def evaluate_models(
    models: Sequence[torch.nn.Module],
    tokens: np.ndarray,
    starts: np.ndarray,
    block_size: int,
    device: str = "cpu",
    *,
    blocks: int = 64,
    max_block_bytes: int = MAX_BLOCK_BYTES,
    pair_sums: Callable = PairSums,
) -> Evaluation:
    """Loss and accuracy of n models, and all differences between each two of them, on the same fixed windows.

    Windows are taken a few at a time: each model predicts them once, the predictions of all n models are held
    together, compared, and forgotten. So memory depends on `max_block_bytes` and the length of a window, not on the
    number of windows; and n models cost n forward passes. Should the n predictions of a single window be larger than
    `max_block_bytes`, the window is compared in parts, at the price of a forward pass for each part.

    Args:
        models: called as model(idx) with idx (B, T) int64 on `device`, give logits (B, T, V); V the same for all.
            They are put into evaluation mode and afterwards back into the mode each module was in.
        tokens: (n_tokens,) integers.
        starts: (W,) from `evaluation_windows`.
        block_size: T.
        blocks: contiguous groups of windows for the `…_by_block` lists; at most W.
        max_block_bytes: predictions held at a time.
        pair_sums: makes what sums over the vocabulary: PairSums, or kernels.pairs.pair_sums, which is faster.

    Returns:
        Evaluation with, per model: `val_loss` (nats per token), `val_accuracy` (percent), their standard errors
        `val_loss_se` and `val_accuracy_se`, `val_loss_by_block`, `distinct_argmax` (how many tokens are ever the
        arg-max) and `finite` (True: see below). Per pair, in the order of itertools.combinations: the keys of
        `compare_predictions`, and `relative_pd_se` (standard error over windows), `relative_pd_by_block` and
        `relative_pd_halves_difference` (even against odd windows). Standard errors and halves are None for a single
        window. `set_prediction_difference` as the function of that name; None for a single model.

    Raises:
        ValueError: windows outside the tokens, tokens outside the vocabulary, models of different vocabulary, or
            logits that are not finite; the message names the model by its index.
    """
    if not models:
        raise ValueError("models is empty: nothing to evaluate")
    if blocks < 1:
        raise ValueError(f"blocks={blocks}: must be at least 1")
    starts = _check_windows(tokens, starts, block_size)
    running = _Running(len(models), len(starts), block_size, blocks, pair_sums)
    with _evaluating(models):
        for part in _joint_predictions(models, tokens, starts, block_size, device, max_block_bytes):
            running.add(*part)
    return running.evaluation()


def _joint_predictions(models, tokens, starts, T: int, device, max_bytes: int) -> Iterator[tuple]:
    """What all models predict for the next few windows, or for the next part of a window that is too large.

    Yields the n `_Predictions`, their probabilities in one tensor (n, R, V), the targets (R,), the number of windows
    they belong to, and whether these windows are complete now. The first windows to come are one: only then is the
    vocabulary known, and so how many fit."""
    n = len(models)
    pairs = n * (n - 1) // 2
    buffer = None
    done, count, step = 0, 1, T
    while done < len(starts):
        windows = torch.from_numpy(_gather(tokens, starts[done : done + count], T)).to(device)
        done += len(windows)
        lo = 0
        while lo < T:
            predictions = []
            for m, model in enumerate(models):
                logits = _logits(model, windows[:, :-1])
                if buffer is None:
                    V = logits.shape[-1]
                    # bytes at a position: probabilities, and a pair's five sums in float32 and in float64
                    position = 4 * V * n + 60 * pairs
                    step = max(1, min(T, max_bytes // position))
                    count = _windows_at_once(T, position, max_bytes, device)
                    buffer = torch.empty(n, min(count, len(starts)) * step, V, device=device)
                _check_logits(logits, m, windows, V)
                targets = windows[:, 1 + lo : 1 + min(lo + step, T)].flatten()
                logits = logits[:, lo : lo + step].flatten(0, 1)
                predictions.append(_predict(logits, targets, out=buffer[m, : len(targets)]))
                del logits  # before the next model makes its own
            lo += step
            yield predictions, buffer[:, : len(targets)], targets.cpu().numpy(), len(windows), lo >= T


class _Running:
    """The sums over all positions, and over windows, from which an Evaluation is made."""

    def __init__(self, n: int, windows: int, block_size: int, blocks: int, pair_sums: Callable = PairSums):
        self.n, self.windows, self.block_size, self.make_pair_sums = n, windows, block_size, pair_sums
        self.pairs = list(itertools.combinations(range(n), 2))
        self.totals = [Counter() for _ in self.pairs]
        self.mismatches = [0] * len(self.pairs)
        self.spread = 0.0
        # the loss of each model, its hits, the relative PD of each pair
        self.over_windows = _OverWindows(2 * n + len(self.pairs), windows, blocks)
        self.window_sums = 0.0  # the same, summed over the positions so far of the current windows
        self.pair_sums = None  # once the vocabulary is known

    def add(self, predictions, probabilities, targets, windows: int, complete: bool) -> None:
        """Take in one yield of `_joint_predictions`."""
        n, _, V = probabilities.shape
        if self.pair_sums is None:
            self.pair_sums = self.make_pair_sums(n, V, torch.float32, probabilities.device)
            self.seen_tokens = np.zeros((n, V), bool)
        sums, mass, spread = self.pair_sums(probabilities)
        self.spread += spread.sum()
        by_window = [one.nll for one in predictions] + [one.top == targets for one in predictions]
        for seen, one in zip(self.seen_tokens, predictions, strict=True):
            seen[one.top] = True
        for pair, (i, j) in enumerate(self.pairs):
            p, q = predictions[i], predictions[j]
            distances = _distances(sums[:, pair], mass[i] + mass[j], V)
            distances["true_label_relative_pd"] = _relative_difference(p.p_target, q.p_target)
            for key, values in distances.items():
                self.totals[pair][key] += values.sum()
            self.mismatches[pair] += int((p.top != q.top).sum())
            by_window.append(distances["relative_pd"])
        self.window_sums += np.stack([values.reshape(windows, -1).sum(1) for values in by_window])
        if complete:
            self.over_windows.add(self.window_sums / self.block_size)
            self.window_sums = 0.0

    def evaluation(self) -> Evaluation:
        n, N, over = self.n, self.windows * self.block_size, self.over_windows
        models = [
            {
                "val_loss": float(over.mean[m]),
                "val_loss_se": over.standard_error(m),
                "val_accuracy": 100 * float(over.mean[n + m]),
                "val_accuracy_se": None if self.windows < 2 else 100 * over.standard_error(n + m),
                "val_loss_by_block": over.by_block(m),
                "distinct_argmax": int(self.seen_tokens[m].sum()),
                "finite": True,
            }
            for m in range(n)
        ]
        pairs = []
        for pair, (i, j) in enumerate(self.pairs):
            means = {key: total / N for key, total in self.totals[pair].items()}
            means["val_loss_difference"] = over.mean[i] - over.mean[j]
            pairs.append(
                {
                    **_pair_entry(means, self.mismatches[pair], N),
                    "relative_pd_se": over.standard_error(2 * n + pair),
                    "relative_pd_halves_difference": over.halves_difference(2 * n + pair),
                    "relative_pd_by_block": over.by_block(2 * n + pair),
                }
            )
        return Evaluation(
            models=models,
            pairs=pairs,
            set_prediction_difference=float(self.spread / (n * N)) if n > 1 else None,
            positions=N,
            windows=self.windows,
            block_size=self.block_size,
            blocks=over.blocks,
            vocab_size=self.seen_tokens.shape[1],
        )


def _check_logits(logits: torch.Tensor, m: int, windows: torch.Tensor, vocab: int) -> None:
    V = logits.shape[-1]
    if vocab != V:
        raise ValueError(f"models[{m}] predicts {V} tokens, models[0] {vocab}")
    if int(windows.max()) >= V or int(windows.min()) < 0:
        raise ValueError(f"token {int(windows.max())} is outside the vocabulary 0…{V - 1} of models[{m}]")
    low, high = logits.aminmax()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"models[{m}]: its logits are not finite; leave diverged models out")


# -- the probe: predictions stored along training -----------------------------------------------------------------


def probe_buckets(train_tokens: np.ndarray, vocab_size: int, max_buckets: int = 256) -> np.ndarray:
    """The partition of the vocabulary in which probe predictions are stored: (V,) int64, token -> bucket.

    Up to `max_buckets` tokens have a bucket each. A larger vocabulary gives a bucket each to the max_buckets - 1 most
    frequent tokens of the training split (the lower token first among equals), and the last one to all others.
    """
    if vocab_size <= max_buckets:
        return np.arange(vocab_size)
    counts = np.zeros(vocab_size, np.int64)
    for part in _row_blocks(len(train_tokens), 2**24):
        counts += np.bincount(train_tokens[part], minlength=vocab_size)
    buckets = np.full(vocab_size, max_buckets - 1)
    frequent = np.argsort(-counts, kind="stable")[: max_buckets - 1]
    buckets[frequent] = np.arange(max_buckets - 1)
    return buckets


@dataclass
class Probe:
    """One model's predictions at P fixed positions, small enough to keep for every evaluation of a training run."""

    loss: float  # nats per token over the P positions, over the whole vocabulary
    accuracy: float  # percent
    probabilities: np.ndarray  # (P, B) float16, over the buckets
    argmax: np.ndarray  # (P,) int32, over the whole vocabulary


def evaluate_probe(
    model: torch.nn.Module,
    tokens: np.ndarray,
    starts: np.ndarray,
    block_size: int,
    device: str,
    buckets: np.ndarray,
    *,
    max_block_bytes: int = MAX_BLOCK_BYTES,
) -> Probe:
    """Loss, accuracy and stored predictions of one model on fixed windows, P = W·T positions, in one forward pass.

    `buckets` is from `probe_buckets`. The model's mode and all random streams are left as they were. A model whose
    logits are not finite gives a loss that is not finite.
    """
    buckets = np.asarray(buckets)
    B = int(buckets.max()) + 1
    order = np.argsort(buckets, kind="stable")
    whole = len(buckets) == B  # each token its own bucket
    alone = torch.from_numpy(order[: B if whole else B - 1]).to(device)
    if not np.array_equal(buckets[order[: len(alone)]], np.arange(len(alone))):
        raise ValueError("buckets must give every bucket but the last to a single token, as probe_buckets does")
    starts = _check_windows(tokens, starts, block_size)
    targets = _gather(tokens, starts, block_size)[:, 1:].reshape(-1)
    P = len(targets)
    probe = Probe(0.0, 0.0, np.empty((P, B), np.float16), np.empty(P, np.int32))
    done = 0
    with _evaluating([model]):
        for batch in _stream(model, tokens, starts, block_size, device, max_block_bytes):
            rows = slice(done, done + len(batch.top))
            if batch.p.shape[-1] != len(buckets):
                raise ValueError(f"buckets are for {len(buckets)} tokens, the model predicts {batch.p.shape[-1]}")
            kept = batch.p.index_select(1, alone)
            if not whole:
                rest = (batch.p.sum(-1, keepdim=True) - kept.sum(-1, keepdim=True)).clamp_min(0)
                kept = torch.cat([kept, rest], 1)
            probe.probabilities[rows] = kept.half().cpu().numpy()
            probe.argmax[rows] = batch.top
            probe.loss += float(batch.nll.sum())
            done = rows.stop
    probe.loss /= P
    probe.accuracy = 100 * float((probe.argmax == targets).mean())
    return probe


def probe_difference(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> dict:
    """How two stored probes, (probabilities, argmax) each, differ: `relative_pd` and `top1_mismatch_pct`.

    Where buckets hold several tokens, `relative_pd` is a lower bound: the total variation of a coarser partition is
    never larger. float16 rounds each probability by up to 0.05 %, so differences below about 2e-4 are rounding; equal
    probes give exactly 0.

    Raises:
        ValueError: the two were not taken on the same positions and buckets, or hold values that are not finite.
    """
    (p, top_p), (q, top_q) = a, b
    p, q, top_p, top_q = np.asarray(p, np.float64), np.asarray(q, np.float64), np.asarray(top_p), np.asarray(top_q)
    if p.shape != q.shape or not top_p.shape == top_q.shape == p.shape[:1] or not p.size:
        raise ValueError(f"two probes of different positions or buckets: {p.shape} and {q.shape}")
    if not (np.isfinite(p).all() and np.isfinite(q).all()):
        raise ValueError("a probe holds values that are not finite")
    return {
        "relative_pd": float(_ratio(np.abs(p - q).sum(1), (p + q).sum(1)).mean()),
        "top1_mismatch_pct": 100 * float((top_p != top_q).mean()),
    }
