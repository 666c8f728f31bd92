"""Where trials disagree, and whether a disagreement is an error: pure functions on arrays; no torch, no files.

`measure` turns the trials' predictions, part by part, into a few numbers for each position (`Positions`), so memory
does not grow with the vocabulary; everything else is computed from those. Logarithms are natural, losses in nats.
Shapes in comments: M trials, R positions (rows), V tokens of vocabulary, P = M(M-1)/2 pairs of trials in the order of
itertools.combinations, W windows.

Intervals are over windows of text, given the trials: positions within a window are not independent, windows far apart
nearly are. They are 95 % intervals of a mean by Student's t with the sandwich (cluster) variance over windows.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.special import stdtrit

QUANTILES = (50, 90, 99)  # percent
BINS = 15  # of confidence, as in Guo et al. 2017
TENTHS = 10
# lower ends of the classes of token frequency, three to the factor of ten but one
FREQUENCIES = (0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
KINDS = ("start of a word", "inside a word", "space", "new line", "punctuation", "digit", "other")


# -- one number per position --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Positions:
    """What M trials predict at R positions, in one number per position and trial, pair, or all of them. float64."""

    targets: np.ndarray  # (R,) the true next tokens
    top: np.ndarray  # (M, R) most likely token
    confidence: np.ndarray  # (M, R) its probability
    loss: np.ndarray  # (M, R) -ln p(target)
    entropy: np.ndarray  # (M, R) of the predicted distribution
    mean_loss: np.ndarray  # (R,) -ln p̄(target), p̄ the mean prediction
    centroid_loss: np.ndarray  # (R,) -ln g(target), g ∝ Π p_m^(1/M) the normalised geometric mean
    diversity: np.ndarray  # (R,) mean over m of KL(g ‖ p_m)
    pd: np.ndarray  # (P, R) total-variation distance
    kl: np.ndarray  # (P, R) mean of KL(p_i ‖ p_j) and KL(p_j ‖ p_i)

    @classmethod
    def joined(cls, parts: Iterable[Positions]) -> Positions:
        """One after another along the positions."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts], -1) for f in fields(cls)))

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def wrong(self) -> np.ndarray:
        """(R,) share of the trials whose most likely token is not the target."""
        return (self.top != self.targets).mean(0)

    @property
    def mismatch(self) -> np.ndarray:
        """(R,) share of the pairs whose most likely tokens differ."""
        return np.mean([self.top[i] != self.top[j] for i, j in pairs(len(self.top))], axis=0)


def pairs(trials: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(trials), 2))


def measure(
    log_p: np.ndarray, targets: np.ndarray, columns: np.ndarray | None = None, top: np.ndarray | None = None
) -> Positions:
    """The numbers of `Positions` from log-probabilities.

    Args:
        log_p: (M, R, V) float64, M ≥ 2, finite, Σ_v exp = 1 to rounding.
        targets: (R,) the true next tokens.
        columns: (R,) the targets' columns in `log_p` where those are not tokens but buckets of tokens.
        top: (M, R) the most likely tokens, in that case.

    Raises:
        ValueError: other shapes, or values that are not finite.
    """
    log_p = np.asarray(log_p, np.float64)
    if log_p.ndim != 3 or len(log_p) < 2 or log_p.shape[1] != len(targets):
        raise ValueError(f"log_p must be (M, R, V) with M ≥ 2 and R = {len(targets)} targets, not {log_p.shape}")
    if not np.isfinite(log_p).all():
        raise ValueError("log_p must be finite")
    p = np.exp(log_p)
    rows, columns = np.arange(len(targets)), targets if columns is None else columns
    most = log_p.argmax(-1)
    # p̄ relative to the largest p_m, and g by its own normaliser: neither loses digits where probabilities are small
    largest = log_p.max(0)
    log_mean = largest + np.log(np.exp(log_p - largest).mean(0))
    log_g = log_p.mean(0)
    log_g -= _log_sum(log_g)[:, None]
    g = np.exp(log_g)
    pd, kl = (np.empty((len(pairs(len(p))), len(rows))) for _ in range(2))
    for k, (i, j) in enumerate(pairs(len(p))):
        difference = p[i] - p[j]
        pd[k] = np.abs(difference).sum(-1) / 2
        kl[k] = _dot(difference, log_p[i] - log_p[j]) / 2
    return Positions(
        targets=np.asarray(targets),
        top=most if top is None else np.asarray(top),
        confidence=np.take_along_axis(p, most[:, :, None], -1)[:, :, 0],
        loss=-log_p[:, rows, columns],
        entropy=-_dot(p, log_p),
        mean_loss=-log_mean[rows, columns],
        centroid_loss=-log_g[rows, columns],
        diversity=np.mean([_dot(g, log_g - one) for one in log_p], axis=0),
        pd=pd,
        kl=kl,
    )


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Σ_v a b."""
    return np.einsum("...v,...v->...", a, b)


def _log_sum(log_p: np.ndarray) -> np.ndarray:
    """ln Σ_v exp, stable."""
    largest = log_p.max(-1)
    return largest + np.log(np.exp(log_p - largest[..., None]).sum(-1))


# -- where: slices of the positions -------------------------------------------------------------------------------


def slices(p: Positions, groups: np.ndarray, labels: Sequence[str]) -> list[dict]:
    """Mean PD of each group of positions, and the share of all PD that lies in it.

    Args:
        groups: (R,) integers, indices into `labels`: each position is in one group. Groups without any are left out.

    Returns:
        A dict per group: `label`; `positions` and `share_of_positions`; `pd`, the mean over its positions (and pairs);
        `share`, its part of the sum of PD over all positions, None where that is 0; `loss` in nats, mean over trials;
        `error_pct` and `mismatch_pct`, top-1 error and mismatch in percent. Sums are correctly rounded (math.fsum), so
        shares sum to 1 and Σ positions · pd / R is the whole PD, both to the last place.
    """
    pd, loss, wrong, mismatch = p.pd.mean(0), p.loss.mean(0), p.wrong, p.mismatch
    inside = [(label, rows) for group, label in enumerate(labels) if (rows := groups == group).any()]
    totals = [math.fsum(pd[rows]) for _, rows in inside]
    whole = math.fsum(totals)
    return [
        {
            "label": label,
            "positions": (n := int(rows.sum())),
            "share_of_positions": n / len(p),
            "pd": total / n,
            "share": total / whole if whole else None,
            "loss": float(loss[rows].mean()),
            "error_pct": 100 * float(wrong[rows].mean()),
            "mismatch_pct": 100 * float(mismatch[rows].mean()),
        }
        for (label, rows), total in zip(inside, totals, strict=True)
    ]


def by_rank(values: np.ndarray, groups: int = TENTHS) -> np.ndarray:
    """(R,) the group of each value when they are sorted into groups of equal size (±1), the lowest in group 0; equal
    values in the order of their positions."""
    ranks = np.argsort(np.argsort(values, kind="stable"))
    return ranks * groups // len(values)


def by_entropy(p: Positions) -> tuple[np.ndarray, list[str]]:
    """Tenths of the positions by the trials' mean predictive entropy, the most predictable first; their labels, the
    range of entropy in nats."""
    entropy = p.entropy.mean(0)
    groups = by_rank(entropy)
    inside = [entropy[groups == g] for g in range(TENTHS)]
    return groups, [f"{x.min():.2f}–{x.max():.2f}" if len(x) else "" for x in inside]


def by_frequency(frequency: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Classes of the frequency of each position's target in the training text, (R,) in 0…1; the most frequent first."""
    labels = [f"≥ {_percent(FREQUENCIES[0])}"]
    labels += [f"{_percent(low)[:-2]}–{_percent(high)}" for high, low in itertools.pairwise(FREQUENCIES)]
    labels += [f"< {_percent(FREQUENCIES[-1])}", "never"]
    groups = np.searchsorted(-np.array(FREQUENCIES), -frequency, side="left")
    return np.where(frequency == 0, len(labels) - 1, groups), labels


def _percent(share: float) -> str:
    return f"{float(f'{100 * share:.3g}'):.10g} %"


def by_place(positions: int, block_size: int) -> tuple[np.ndarray, list[str]]:
    """Classes of the place in the window, which is how many tokens the trials could see: 1, 2, 3–4, 5–8, …"""
    place = np.arange(positions) % block_size + 1
    last = math.ceil(math.log2(block_size))
    ends = [min(2**k, block_size) for k in range(last + 1)]
    labels = ["1"] + [f"{a + 1}–{b}" if b > a + 1 else str(b) for a, b in itertools.pairwise(ends)]
    return np.ceil(np.log2(place)).astype(int), labels


def by_kind(previous: np.ndarray, targets: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """The index into KINDS of each target, (R,), by its text and that of the token before it.

    `texts`: of every token of the vocabulary. A token counts by its first character that isn't a blank, a blank token
    by its first one. Letters start a word unless they follow a letter, a digit or an apostrophe directly; so of a token
    such as " the" too. Combining marks count as letters. What is no text by itself, as a byte of a longer character,
    is "other"."""
    start, inside, space, line, punctuation, digit, other = range(len(KINDS))
    base, continues, closes = (np.zeros(len(texts), int) for _ in range(3))
    for token, text in enumerate(texts):
        visible = text.strip()
        if not text or "\N{REPLACEMENT CHARACTER}" in text:
            base[token] = other
        elif not visible:
            base[token] = line if "\n" in text or "\r" in text else space
        else:
            category = unicodedata.category(visible[0])[0]
            base[token] = {"L": start, "M": start, "N": digit, "P": punctuation, "S": punctuation}.get(category, other)
        continues[token] = text[:1] == visible[:1]  # directly, without a blank before
        closes[token] = bool(text) and (unicodedata.category(text[-1])[0] in "LMN" or text[-1] in "'’")
    kinds = base[targets]
    return np.where((kinds == start) & (continues[targets] == 1) & (closes[previous] == 1), inside, kinds)


def concentration(p: Positions) -> dict:
    """How PD, a mean over pairs, is spread over the positions: `mean`, the `QUANTILES` as "q50"…, and
    `largest_tenth_share`, the part of all PD that lies in the tenth of the positions where it is largest (None at PD
    0). `kl`: KL divergence between two trials, both ways, a mean over pairs and positions, in nats."""
    pd = p.pd.mean(0)
    total = math.fsum(pd)
    largest = by_rank(-pd) == 0
    return {
        "mean": total / len(pd),
        **{f"q{q}": float(np.quantile(pd, q / 100)) for q in QUANTILES},
        "largest_tenth_share": math.fsum(pd[largest]) / total if total else None,
        "kl": math.fsum(p.kl.mean(0)) / len(pd),
    }


# -- is it an error? ----------------------------------------------------------------------------------------------


def interval(values: np.ndarray, windows: np.ndarray) -> dict:
    """Mean of values (R,), and its interval over the windows (R,) they lie in; None with fewer than two windows.

    The ratio estimator: with S_w the sum and n_w the number of the values in window w, the variance of the mean is
    W/(W-1) · Σ_w (S_w - n_w · mean)² / R²."""
    _, window = np.unique(windows, return_inverse=True)
    counts = np.bincount(window)
    mean = math.fsum(values) / len(values)
    W = len(counts)
    if W < 2:
        return {"mean": mean, "low": None, "high": None}
    residual = np.bincount(window, values) - mean * counts
    half = stdtrit(W - 1, 0.975) * math.sqrt(W / (W - 1) * (residual**2).sum()) / len(values)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _sign(mean: Mapping) -> int:
    """Of a mean as `interval` gives it, where the interval excludes 0; else 0."""
    return 0 if mean["low"] is None else int(mean["low"] > 0) - int(mean["high"] < 0)


def ensemble(p: Positions) -> dict:
    """Losses of the trials, of their mean prediction p̄ and of their normalised geometric mean g ∝ Π p_m^(1/M), nats.

    Exactly, position by position: mean over m of -ln p_m(y) = -ln g(y) + mean over m of KL(g ‖ p_m), whatever y is
    (Wood et al. 2023, arXiv 2301.03962: cross-entropy's centroid is the geometric mean, and the second term is the
    trials' diversity). `identity_error` is the difference of both sides as computed, largest over positions.
    `gain`: what averaging the predictions saves, loss - mean_prediction; never below 0 (Jensen).

    Raises:
        ValueError: the identity is off by more than 1e-12 (of the largest loss, above 1 nat).
    """
    loss = p.loss.mean(0)
    off = float(np.abs(loss - p.centroid_loss - p.diversity).max())
    if off > 1e-12 * max(1.0, float(p.loss.max())):
        raise ValueError(f"loss - geometric mean's loss = diversity is off by {off:.2g} nats; it must be below 1e-12")
    parts = {"loss": loss, "mean_prediction": p.mean_loss, "gain": loss - p.mean_loss}
    parts |= {"geometric_mean": p.centroid_loss, "diversity": p.diversity}
    return {**{name: math.fsum(values) / len(p) for name, values in parts.items()}, "identity_error": off}


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[dict]:
    """The reliability curve: predictions by their confidence (probability of the most likely token) in bins of equal
    width, (low, high]; `confidence` and `accuracy` are means in the bin. Empty bins are left out."""
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1).ravel()
    counts, sums, hits = (np.bincount(place, w, bins) for w in (None, confidence.ravel(), right.ravel()))
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "predictions": int(counts[b]),
            "confidence": sums[b] / counts[b],
            "accuracy": hits[b] / counts[b],
        }
        for b in range(bins)
        if counts[b]
    ]


def expected_calibration_error(curve: Sequence[Mapping]) -> float:
    """ECE, Σ_b n_b/N |accuracy_b - confidence_b| (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599)."""
    total = sum(b["predictions"] for b in curve)
    return math.fsum(b["predictions"] * abs(b["accuracy"] - b["confidence"]) for b in curve) / total


def calibration(p: Positions, windows: np.ndarray) -> dict:
    """Whether the trials are right as often as they say.

    `ece` is the mean of the trials' own (one curve each). `gap` is the mean confidence minus the accuracy over
    positions and trials with its interval over windows: above 0 overconfident, below underconfident; `verdict` says so
    where the interval excludes 0, else "no bias shown". `curve`: the trials' predictions pooled."""
    right = p.top == p.targets
    gap = interval((p.confidence - right).mean(0), windows)
    each = [expected_calibration_error(reliability(c, r)) for c, r in zip(p.confidence, right, strict=True)]
    return {
        "ece": float(np.mean(each)),
        "gap": gap,
        "verdict": {1: "overconfident", -1: "underconfident", 0: "no bias shown"}[_sign(gap)],
        "curve": reliability(p.confidence, right),
    }


def disagreement(p: Positions, windows: np.ndarray) -> dict:
    """Top-1 disagreement of two trials against their top-1 error, in shares of positions.

    Generalisation-disagreement equality: the two are equal in expectation if the ensemble of one-hot predictions is
    class-aggregated calibrated (Jiang et al. 2022, arXiv 2106.13799). `difference` is error - disagreement with its
    interval over windows; above 0, trials agree on their mistakes. `verdict`: "fails" where the interval excludes 0,
    else "not shown to fail"."""
    wrong, mismatch = p.wrong, p.mismatch
    difference = interval(wrong - mismatch, windows)
    return {
        "error": math.fsum(wrong) / len(p),
        "disagreement": math.fsum(mismatch) / len(p),
        "difference": difference,
        "verdict": "fails" if _sign(difference) else "not shown to fail",
    }


# -- all of it ----------------------------------------------------------------------------------------------------


def where(p: Positions, block_size: int, previous: np.ndarray, texts: Sequence[str], frequency: np.ndarray) -> dict:
    """Every slice: {"entropy", "frequency", "place", "kind"}, each as `slices` gives it.

    Args:
        previous: (R,) the last token that the trials saw.
        texts: (V,) the tokens' texts.
        frequency: (V,) the tokens' shares of the training text.
    """
    return {
        "entropy": slices(p, *by_entropy(p)),
        "frequency": slices(p, *by_frequency(frequency[p.targets])),
        "place": slices(p, *by_place(len(p), block_size)),
        "kind": slices(p, by_kind(previous, p.targets, texts), KINDS),
    }


def error(p: Positions, block_size: int, whole: bool = True) -> dict:
    """Everything of the second question; what needs each token's own probability is None where they are not `whole`
    (stored in buckets of several tokens)."""
    windows = np.arange(len(p)) // block_size
    return {
        "ensemble": ensemble(p) if whole else None,
        "calibration": calibration(p, windows) if whole else None,
        "disagreement": disagreement(p, windows),
    }
