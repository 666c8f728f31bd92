"""One model at a time on fixed windows of text: where they lie, what it predicts there, its loss, and the probe.

Shapes in comments: n models, R positions (rows), V tokens of vocabulary, W windows of T tokens. What models differ in
is measured in metrics.py, on the same blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from config import UserError

# positions in one forward pass: on a CPU few enough for cache (1024 to 4096 are alike), on a GPU enough to fill it
MAX_POSITIONS = {"cpu": 2048, "other": 16384}
MAX_BLOCK_BYTES = 512 * 2**20  # predictions of all models held at a time: one window of 32 models at V = 50 257, T = 64


def row_blocks(total: int, size: int) -> Iterator[slice]:
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
    starts = check_windows(tokens, starts, block_size)
    digest = hashlib.sha256(np.array([block_size, len(starts)], "<i8").tobytes())
    digest.update(starts.astype("<i8").tobytes())
    for part in row_blocks(len(starts), max(1, 2**20 // block_size)):
        digest.update(_gather(tokens, starts[part], block_size).astype("<i8").tobytes())
    return digest.hexdigest()


def check_windows(tokens: np.ndarray, starts, block_size: int) -> np.ndarray:
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
def evaluating(models: Sequence[torch.nn.Module]):
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
class Block:
    """What n models predict at R positions that follow one another."""

    p: torch.Tensor  # (n, R, V) float32 probabilities, on the device; the next block overwrites them
    targets: np.ndarray  # (R,) the true next tokens
    top: np.ndarray  # (n, R) arg-max
    p_target: np.ndarray  # (n, R) float64
    nll: np.ndarray  # (n, R) float64, -ln p(target); finite also where p(target) underflows


def block_of(logits: Iterable[torch.Tensor], targets: torch.Tensor, buffer: torch.Tensor) -> Block:
    """The softmax in float32 of each model's logits (R, V), one model after another, and what it says about the
    targets (R,); the probabilities are written into `buffer` (n, R or more, V)."""
    y, picked = targets[:, None], []
    for one, p in zip(logits, buffer[:, : len(targets)], strict=True):
        torch.softmax(one, -1, out=p)
        top = p.argmax(-1, keepdim=True)
        values = [x.gather(-1, i).cpu().double()[:, 0] for x, i in ((one, top), (one, y), (p, top), (p, y))]
        logit_top, logit_y, p_top, p_y = values
        # ln Σ exp(logit) = logit_top - ln p_top spares a second pass over all exponentials
        nll = (logit_top - logit_y) - p_top.log()
        picked.append((top[:, 0].cpu().numpy(), p_y.numpy(), nll.numpy()))
    return Block(buffer[:, : len(targets)], targets.cpu().numpy(), *map(np.stack, zip(*picked, strict=True)))


def positions_at_once(n: int, vocab: int, max_bytes: int, device) -> int:
    """How many positions of n models are held at a time: their probabilities, the first model's logits and another's,
    and some 200 bytes of sums for each pair."""
    bytes_per_position = 4 * vocab * (n + min(n, 2)) + 200 * (n * (n - 1) // 2)
    return max(
        1, min(MAX_POSITIONS["cpu" if torch.device(device).type == "cpu" else "other"], max_bytes // bytes_per_position)
    )


def _logits(model: torch.nn.Module, idx: torch.Tensor) -> torch.Tensor:
    """(B, T, V) float32."""
    logits = model(idx)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or logits.shape[:2] != idx.shape:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"a model must give logits of shape {(*idx.shape, 'V')}, not {shape}")
    return logits.float()


def blocks_of(models, tokens, starts, T: int, device, max_bytes: int, check=None) -> Iterator[Block]:
    """What the models predict in the windows, a few windows at a time or, of windows that are too large, a part at a
    time. The first windows to come are one: only then is the vocabulary known, and so how many fit. `check(logits, m,
    windows, V)` looks at the logits of model m."""
    starts = check_windows(tokens, starts, T)
    buffer = None
    done, count, step = 0, 1, T
    while done < len(starts):
        windows = torch.from_numpy(_gather(tokens, starts[done : done + count], T)).to(device)
        done += len(windows)
        first = _logits(models[0], windows[:, :-1])
        if buffer is None:
            V = first.shape[-1]
            fits = positions_at_once(len(models), V, max_bytes, device)
            step, count = min(T, fits), max(1, fits // T)
            buffer = torch.empty(len(models), min(count, len(starts)) * step, V, device=device)
        for lo in range(0, T, step):
            logits = _part(models, windows, slice(lo, lo + step), first, V, check)
            yield block_of(logits, windows[:, 1 + lo : 1 + min(lo + step, T)].flatten(), buffer)


def _part(models, windows, part: slice, first, V: int, check) -> Iterator[torch.Tensor]:
    """The logits of one model after another at a part of each window; those of the first one are there already."""
    for m, model in enumerate(models):
        logits = _logits(model, windows[:, :-1]) if m else first
        if check:
            check(logits, m, windows, V)
        yield logits[:, part].flatten(0, 1)
        del logits  # before the next model makes its own


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
    loss, right, done = 0.0, 0, 0
    with evaluating([model]):
        for block in blocks_of([model], tokens, starts, block_size, device, max_block_bytes):
            loss += float(block.nll.sum())
            right += int((block.top == block.targets).sum())
            done += len(block.targets)
    return loss / done, 100 * right / done


# -- the probe: predictions stored along training -----------------------------------------------------------------


def probe_buckets(train_tokens: np.ndarray, vocab_size: int, max_buckets: int = 256) -> np.ndarray:
    """The partition of the vocabulary in which probe predictions are stored: (V,) int64, token -> bucket.

    Up to `max_buckets` tokens have a bucket each. A larger vocabulary gives a bucket each to the max_buckets - 1 most
    frequent tokens of the training split (the lower token first among equals), and the last one to all others.
    """
    if vocab_size <= max_buckets:
        return np.arange(vocab_size)
    counts = np.zeros(vocab_size, np.int64)
    for part in row_blocks(len(train_tokens), 2**24):
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
    P = len(check_windows(tokens, starts, block_size)) * block_size
    probe = Probe(0.0, 0.0, np.empty((P, B), np.float16), np.empty(P, np.int32))
    done, right = 0, 0
    with evaluating([model]):
        for block in blocks_of([model], tokens, starts, block_size, device, max_block_bytes):
            rows, p = slice(done, done + len(block.targets)), block.p[0]
            if p.shape[-1] != len(buckets):
                raise ValueError(f"buckets are for {len(buckets)} tokens, the model predicts {p.shape[-1]}")
            stored = p.index_select(1, alone)
            if not whole:
                rest = (p.sum(-1, keepdim=True) - stored.sum(-1, keepdim=True)).clamp_min(0)
                stored = torch.cat([stored, rest], 1)
            probe.probabilities[rows] = stored.half().cpu().numpy()
            probe.argmax[rows] = block.top[0]
            probe.loss += float(block.nll.sum())
            right += int((block.top == block.targets).sum())
            done = rows.stop
    probe.loss /= P
    probe.accuracy = 100 * (right / P)
    return probe
