"""How much the predictions of trained models differ.

`compare_predictions` takes two arrays of predicted distributions; `evaluate_models` measures n models and all their
pairs on the same fixed windows, streaming, with one forward pass per model and window. Both end in the same few lines
of arithmetic, kernels.pairs and `_distances`, so what is tested on arrays is what is measured on models.

Shapes in comments: n models, R positions (rows), V tokens of vocabulary, W windows of T tokens.
Sources: L1, L2 and set-based prediction difference, Shamir & Coviello 2020 (arXiv 2010.09923); relative, element-wise
and true-label prediction difference, Hellinger distance, Shamir, Lin & Coviello 2020 (arXiv 2010.09931);
Jensen–Shannon divergence, Lin 1991.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kernels import pairs as kernel
from measures.table import METRICS as METRICS  # part of this module's face
from measures.table import metrics_of
from measures.windows import MAX_BLOCK_BYTES, Block, blocks_of, check_windows, evaluating, row_blocks
from measures.windows import block_of as block_of
from measures.windows import evaluate_loss as evaluate_loss
from measures.windows import evaluate_probe as evaluate_probe
from measures.windows import evaluation_windows as evaluation_windows
from measures.windows import positions_at_once as positions_at_once
from measures.windows import probe_buckets as probe_buckets
from measures.windows import windows_checksum as windows_checksum

FLIPS = ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")  # what the differences of the most likely token are
NEED_TARGETS = ("true_label_relative_pd", "val_loss_difference", *FLIPS)
COUNTS = ("prediction_differences", *FLIPS, "total_predictions")  # metrics of a pair that are numbers of positions
# those that are means over positions
MEANS = [m.key for m in metrics_of("pair") if m.unit != "%" and m.key not in ("val_loss_difference", *COUNTS)]

# -- the arithmetic -----------------------------------------------------------------------------------------------


def _distances(sums: np.ndarray, mass: np.ndarray, vocab: int) -> dict[str, np.ndarray]:
    """Each distance at each position, (…, R), from the sums of a pair or of several (5, …, R) and Σ_v(p + q) (…, R).
    The sums over the vocabulary are Σ|p-q|, Σ(p-q)², Σ|p-q|/(p+q), Σ(√p-√q)² and 2 Σ[p ln(2p/(p+q)) + q ln(2q/(p+q))].
    One that is added here is measured on arrays and models; its row in measures/table.py takes it to where it is shown.
    """
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
    pair_sums = kernel.pair_sums(2, V, torch.float64)  # p (n, R, V) -> sums of pairs, Σ_v p, Σ_m Σ_v|p_m - p̄|
    totals, counts = Counter(), Counter()
    for rows in row_blocks(N, pair_sums.rows):
        block = torch.stack([_float64(p, rows, "p"), _float64(q, rows, "q")])
        sums, mass, _ = pair_sums(block)
        for key, values in _distances(sums[:, 0], mass.sum(0), V).items():
            totals[key] += values.sum()
        top = block.numpy().argmax(-1)
        counts["prediction_differences"] += int((top[0] != top[1]).sum())
        if targets is not None:
            for key, flipped in _flips(*(top == targets[rows]), top[0] != top[1]).items():
                counts[key] += int(flipped.sum())
            p_y, q_y = block.numpy()[:, np.arange(len(top[0])), targets[rows]]
            totals["true_label_relative_pd"] += _relative_difference(p_y, q_y).sum()
            differ = p_y != q_y  # equal probabilities, two zeros too, cost the same
            with np.errstate(divide="ignore"):
                totals["val_loss_difference"] += (np.log(p_y[differ]) - np.log(q_y[differ])).sum()
    unknown = {} if targets is not None else dict.fromkeys(NEED_TARGETS)
    return _pair_entry({k: v / N for k, v in totals.items()} | dict(counts) | unknown, N)


def set_prediction_difference(p) -> float:
    """Set-based prediction difference of M models: mean over positions and models of ‖p_m - p̄‖₁, p̄ their mean.

    Args:
        p: predicted distributions, (M, N, V), array or tensor.

    Raises:
        ValueError: another rank, an empty axis, values that are not finite or below 0.
    """
    p = _as_predictions(p, "p", 3)
    M, N, V = p.shape
    pair_sums = kernel.pair_sums(M, V, torch.float64)
    pair_sums.pairs = []  # of no pair: the distances from the mean are all that is asked for
    total = 0.0
    for rows in row_blocks(N, pair_sums.rows):
        block = torch.stack([_float64(p[m], rows, f"p[{m}]") for m in range(M)])
        total += float(pair_sums(block)[2].sum())
    return total / (M * N)


def _flips(right_i: np.ndarray, right_j: np.ndarray, differ: np.ndarray) -> dict[str, np.ndarray]:
    """Where the most likely tokens of i and j differ and one is right, or neither: each FLIPS at each position."""
    return dict(zip(FLIPS, (right_i & differ, right_j & differ, differ & ~right_i & ~right_j), strict=True))


def _pair_entry(values: dict, positions: int) -> dict:
    """Every metric of a pair, from the means over positions and the counts; the difference of losses still has its
    sign."""
    difference, differ = values["val_loss_difference"], int(values["prediction_differences"])
    values = {
        **{key: value if value is None or key in COUNTS else float(value) for key, value in values.items()},
        "val_loss_difference": None if difference is None else abs(float(difference)),
        "total_predictions": int(positions),
        "top1_mismatch_pct": 100 * differ / int(positions),
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
    """Running sums over windows of K quantities: for mean, standard error, blocks and halves. Memory is K × blocks."""

    def __init__(self, quantities: int, windows: int, block_size: int, blocks: int):
        self.windows, self.block_size, self.blocks = windows, block_size, min(blocks, windows)
        self.positions = np.zeros((), np.int64)  # so far
        self.begun = np.zeros(quantities)  # sums of the window that is not complete
        self.means, self.squares = np.zeros(quantities), np.zeros(quantities)
        self.block_sums = np.zeros((quantities, self.blocks))
        self.half_sums = np.zeros((quantities, 2))

    def add(self, values: np.ndarray) -> None:
        """The values at the next R positions, (K, R)."""
        seen = int(self.positions) // self.block_size
        window = (self.positions + np.arange(values.shape[1])) // self.block_size
        sums = np.add.reduceat(values, np.flatnonzero(np.diff(window, prepend=-1)), axis=1)
        sums[:, 0] += self.begun
        self.positions += values.shape[1]
        complete = int(self.positions) // self.block_size - seen
        self.begun = sums[:, complete:].sum(1)  # of one window or none
        if complete:
            self._add_windows(sums[:, :complete], seen)

    def _add_windows(self, sums: np.ndarray, seen: int) -> None:
        k = sums.shape[1]
        number = seen + np.arange(k)
        block = number * self.blocks // self.windows  # contiguous groups of windows, as equal as they can be
        for b in np.unique(block):
            self.block_sums[:, b] += sums[:, block == b].sum(1)
        for half in (0, 1):
            self.half_sums[:, half] += sums[:, number % 2 == half].sum(1)
        # mean and sum of squared deviations of two groups together (Chan, Golub & LeVeque 1983)
        values = sums / self.block_size
        mean = values.mean(1)
        shift = mean - self.means
        self.squares += ((values - mean[:, None]) ** 2).sum(1) + shift**2 * (seen * k / (seen + k))
        self.means += shift * (k / (seen + k))

    def total(self, i: int) -> float:
        return float(self.block_sums[i].sum())

    def mean(self, i: int) -> float:
        return self.total(i) / (self.windows * self.block_size)

    def standard_error(self, i: int) -> float | None:
        """The windows are the sample, not the positions: those within a window are not independent."""
        return math.sqrt(self.squares[i] / (self.windows - 1) / self.windows) if self.windows > 1 else None

    def by_block(self, i: int) -> list[float]:
        sizes = np.bincount(np.arange(self.windows) * self.blocks // self.windows, minlength=self.blocks)
        return (self.block_sums[i] / (sizes * self.block_size)).tolist()

    def halves_difference(self, i: int) -> float | None:
        """|mean over even windows - mean over odd windows|."""
        if self.windows < 2:
            return None
        even, odd = self.half_sums[i] / self.block_size / ((self.windows + 1) // 2, self.windows // 2)
        return abs(float(even - odd))


class Evaluator:
    """Everything that is measured of n models, of each two of them and of groups of them, from blocks of their
    predictions, in any number and of any size: models in memory, logits on disk, and what is known of most likely
    tokens alone (`add_values`) end in the same sums. Memory doesn't grow with positions.

    Args:
        groups: the models of each group, by number, for set-based PD; None: all models are one.
        bounds: whether relative PD is known from below and above only.
    """

    def __init__(self, n: int, windows: int, block_size: int, blocks: int = 64, groups=None, bounds: bool = False):
        self.n, self.groups = n, [range(n)] if groups is None else groups
        self.pairs = list(itertools.combinations(range(n), 2))
        self.first, self.second = np.array(self.pairs, int).reshape(-1, 2).T
        self.keys = [*MEANS, *COUNTS[:-1]] + ["relative_pd_upper"] * bounds  # of a pair
        # columns of sums: of losses and of accuracies (each model), of the keys (each pair), of spreads (each group)
        columns = 2 * n + len(self.keys) * len(self.pairs) + len(self.groups)
        self.over = _OverWindows(columns, windows, block_size, blocks)
        self.seen_tokens: list[set[int]] = [set() for _ in range(n)]  # that were ever the arg-max
        self.pair_sums = None  # once the vocabulary is known

    def add(self, block: Block) -> None:
        """Take in what is predicted at the next positions."""
        n, R, V = block.p.shape
        values, spreads = {}, [np.zeros(R)] * len(self.groups)
        if n > 1:
            self.pair_sums = self.pair_sums or kernel.pair_sums(n, V, torch.float32, block.p.device)
            sums, mass, spread = self.pair_sums(block.p)
            values = _distances(sums, mass[self.first] + mass[self.second], V)
            spreads = [spread if len(group) == n else _spread(block.p[list(group)]) for group in self.groups]
        self.add_values(block.nll, block.p_target, block.top, block.targets, values, spreads)

    def add_values(self, nll, p_target, top, targets, values: dict[str, np.ndarray], spreads: list[np.ndarray]) -> None:
        """The same from arrays: those of a Block, {distance: (pairs, R)}, where one is missing it isn't known, and
        Σ_m Σ_v|p_m - p̄| of each group, (R,)."""
        i, j = self.first, self.second
        right, differ = top == targets, top[i] != top[j]
        values = (
            values
            | _flips(right[i], right[j], differ)
            | {
                "true_label_relative_pd": _relative_difference(p_target[i], p_target[j]),
                "prediction_differences": differ,
            }
        )
        unknown = np.full((len(self.pairs), len(targets)), np.nan)
        table = [nll, right, *(values.get(key, unknown) for key in self.keys), spreads]
        self.over.add(np.concatenate(table).astype(np.float64, copy=False))
        for seen, one in zip(self.seen_tokens, top, strict=True):
            seen.update(np.unique(one).tolist())

    def state(self) -> dict[str, np.ndarray]:
        """All sums so far, as arrays."""
        seen = {f"seen_{m}": np.array(sorted(tokens), np.int64) for m, tokens in enumerate(self.seen_tokens)}
        return {name: value for name, value in vars(self.over).items() if isinstance(value, np.ndarray)} | seen

    def go_on_from(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up the sums of an evaluator of the same models and windows."""
        own = self.state()
        for name in own.keys() - {f"seen_{m}" for m in range(self.n)}:
            if state[name].shape != own[name].shape:
                raise ValueError(f"{name} has shape {state[name].shape}, not {own[name].shape}")
            setattr(self.over, name, np.array(state[name]))
        self.seen_tokens = [set(state[f"seen_{m}"].tolist()) for m in range(self.n)]

    # what they say in the end; what isn't known is None

    def models(self) -> list[dict]:
        """The entries of models, as `evaluate_models` has them."""
        n, over = self.n, self.over
        return [
            {
                "val_loss": _finite(over.mean(m)),
                "val_loss_se": _finite(over.standard_error(m)),
                "val_accuracy": 100 * over.mean(n + m),
                "val_accuracy_se": None if over.windows < 2 else 100 * over.standard_error(n + m),
                "val_loss_by_block": [_finite(x) for x in over.by_block(m)],
                "distinct_argmax": len(self.seen_tokens[m]),
            }
            for m in range(n)
        ]

    def pair_entries(self) -> list[dict]:
        """The entries of pairs, as `evaluate_models` has them."""
        over, N, entries = self.over, self.over.windows * self.over.block_size, []
        for k, (i, j) in enumerate(self.pairs):
            column = {key: 2 * self.n + place * len(self.pairs) + k for place, key in enumerate(self.keys)}
            means = {key: _finite(over.mean(at)) for key, at in column.items()}
            means |= {key: round(over.total(column[key])) for key in COUNTS[:-1]}
            means["val_loss_difference"] = _finite(over.mean(i) - over.mean(j))
            upper = {"relative_pd_upper": means.pop("relative_pd_upper")} if "relative_pd_upper" in means else {}
            pd = column["relative_pd"]
            entries.append(
                {
                    **_pair_entry(means, N),
                    **upper,
                    "relative_pd_se": over.standard_error(pd),
                    "relative_pd_halves_difference": over.halves_difference(pd),
                    "relative_pd_by_block": over.by_block(pd),
                }
            )
        return entries

    def set_differences(self) -> list[float | None]:
        """Set-based PD of each group; None for a single model."""
        first = len(self.over.begun) - len(self.groups)
        return [
            _finite(self.over.mean(first + k) / len(group)) if len(group) > 1 else None
            for k, group in enumerate(self.groups)
        ]


def _spread(p: torch.Tensor) -> np.ndarray:
    """Σ_m Σ_v|p_m - p̄| of some models' predictions (m, R, V): (R,)."""
    total = np.zeros(p.shape[1])
    step = max(1, 2**22 // p[:, 0].numel())
    for rows in row_blocks(p.shape[1], step):
        apart = p[:, rows] - p[0, rows]
        total[rows] = (apart - apart.mean(0)).abs_().sum(-1).double().sum(0).cpu().numpy()
    return total


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def evaluate_models(
    models: Sequence[torch.nn.Module],
    tokens: np.ndarray,
    starts: np.ndarray,
    block_size: int,
    device: str = "cpu",
    *,
    blocks: int = 64,
    max_block_bytes: int = MAX_BLOCK_BYTES,
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
    evaluator = Evaluator(len(models), len(check_windows(tokens, starts, block_size)), block_size, blocks)
    with evaluating(models):
        for block in blocks_of(models, tokens, starts, block_size, device, max_block_bytes, _check_logits):
            evaluator.add(block)
    return Evaluation(
        models=[{**entry, "finite": True} for entry in evaluator.models()],
        pairs=evaluator.pair_entries(),
        set_prediction_difference=evaluator.set_differences()[0],
        positions=int(evaluator.over.positions),
        windows=evaluator.over.windows,
        block_size=block_size,
        blocks=evaluator.over.blocks,
        vocab_size=block.p.shape[-1],
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
