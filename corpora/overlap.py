"""How much of the validation split occurs in training, and how much of training has occurred before: exactly, at up to
SAMPLES places of either split, searched for in the whole training split.

A stretch of WINDOW tokens is known by its polynomial hash modulo 2^64 (Karp & Rabin 1987),

    H(i) = Σ_j r(t_(i+j)) B^j  with pseudo-random r and odd B,

which prefix sums give for every place of a split at once. Stretches that differ have equal hashes once in 2^64 pairs
or so. Memory is that of the samples and of one piece, whatever the size of the corpus.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np

WINDOW = 64  # tokens: about a line of verse, which sound texts hardly ever repeat
SAMPLES = 1 << 15  # places of each split; a share has a standard error of 0.3 points at most
CHUNK = 1 << 15  # tokens at a time: all that is computed stays in the processor's cache
FILTER_BITS = 22
# Prose repeats less than 1 % of itself; mark-up, logs and source code more, training and validation alike.
MOST_FOUND, TIMES_REPEATED, NEVER_MORE = 0.05, 3, 0.25
_BASE, _INVERSE = 0x9E3779B97F4A7C15, pow(0x9E3779B97F4A7C15, -1, 1 << 64)


def overlap(train: np.ndarray, val: np.ndarray, vocab_size: int) -> dict[str, float | None]:
    """Shares of places, 0 to 1; None where a split is shorter than WINDOW tokens.

    Args:
        train, val: (tokens,) token ids, memory-mapped or not.

    Returns:
        `val_in_train`: of the places in the validation split, those whose next WINDOW tokens occur in training.
        `train_repeated`: of the places in training, those whose next WINDOW tokens occur there at an earlier place.
    """
    values = _pseudo_random(vocab_size)
    places = {name: _places(len(tokens)) for name, tokens in (("train", train), ("val", val))}
    if min(map(len, places.values())) == 0:
        return {"val_in_train": None, "train_repeated": None}
    wanted = {"train": _hashes_at(train, places["train"], values), "val": _hashes_at(val, places["val"], values)}
    hashes = np.unique(np.concatenate(list(wanted.values())))
    first = _first_places(train, hashes, values)
    earliest = {name: first[np.searchsorted(hashes, own)] for name, own in wanted.items()}
    return {
        "val_in_train": float((earliest["val"] < len(train)).mean()),
        "train_repeated": float((earliest["train"] < places["train"]).mean()),
    }


def overlap_of(corpus) -> dict[str, float | None]:
    """`overlap` of a prepared corpus: as recorded at its preparation; computed where that was before it was recorded,
    or where the arrays aren't the recorded ones, and then remembered."""
    arrays = {"train": corpus.train, "val": corpus.val}
    recorded = all(
        str(getattr(tokens, "filename", "")) == os.path.abspath(corpus.folder / f"{name}.bin")
        and len(tokens) == corpus.info.get(f"{name}_tokens")
        for name, tokens in arrays.items()
    )
    if recorded and "val_in_train" in corpus.info:
        return {name: corpus.info[name] for name in ("val_in_train", "train_repeated")}
    key = corpus.sha256 if recorded else tuple(map(id, arrays.values()))
    if key not in _computed:
        _computed.clear()
        _computed[key] = arrays, overlap(corpus.train, corpus.val, corpus.vocab_size)  # held, so that no id comes again
    return _computed[key][1]


_computed: dict = {}


def verdict(corpus) -> tuple[bool | None, str, str, str]:
    """For the audit: whether the validation split is new text; what was measured, the threshold, why it matters."""
    info, (share, repeated) = corpus.info, overlap_of(corpus).values()
    threshold = (
        f"at most {100 * MOST_FOUND:.0f} %, or {TIMES_REPEATED} times what training repeats, and never above 50 %"
    )
    why = "what is copied from training is remembered there, not predicted: its loss and its PD are no new text's"
    if share is None:
        return None, f"a split is shorter than {WINDOW} tokens", threshold, why
    measured = (
        f"{100 * share:.2f} % of the validation split's stretches of {WINDOW} tokens occur in training, "
        f"{100 * repeated:.2f} % of training's occur there before"
    )
    if (unseen := info.get("unseen_val_characters")) is not None and info.get("val_characters"):
        measured += f"; {100 * unseen / info['val_characters']:.2g} % of its characters never occur in training"
    return share <= min(NEVER_MORE, max(MOST_FOUND, TIMES_REPEATED * repeated)), measured, threshold, why


def _pseudo_random(n: int) -> np.ndarray:
    """(n,) 64-bit values, the same everywhere: SplitMix64's (Steele, Lea & Flood 2014) of 1, 2, …"""
    x = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_BASE)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return x ^ (x >> np.uint64(31))


def _powers(base: int, n: int) -> np.ndarray:
    """(n,) base^0, base^1, … modulo 2^64."""
    factors = np.full(n, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _places(tokens: int) -> np.ndarray:
    """Evenly spaced places with WINDOW tokens after them; all of them where there are no more than SAMPLES."""
    n = max(0, tokens - WINDOW + 1)
    return np.arange(n) if n <= SAMPLES else np.linspace(0, n - 1, SAMPLES).astype(np.int64)


def _hashes_at(tokens: np.ndarray, places: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(len(places),) H at the given places."""
    powers, hashes = _powers(_BASE, WINDOW), []
    with reading(tokens) as read:
        for start in range(0, len(places), CHUNK // WINDOW):
            stretches = np.stack([read(place, WINDOW) for place in places[start : start + CHUNK // WINDOW]])
            hashes.append((values[stretches] * powers).sum(1))
    return np.concatenate(hashes)


def _first_places(tokens: np.ndarray, hashes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(len(hashes),) where each hash occurs first in a split; its length where it doesn't.

    A table of bits of the hashes lets through the few places that are worth looking up.
    """
    first, shift = np.full(len(hashes), len(tokens)), np.uint64(64 - FILTER_BITS)
    maybe = np.zeros(1 << FILTER_BITS, bool)
    maybe[hashes >> shift] = True
    up, down = _powers(_BASE, CHUNK + WINDOW), _powers(_INVERSE, CHUNK)
    sums, differences = np.empty((2, CHUNK + WINDOW), np.uint64)  # written over and over: new ones cost more than sums
    with reading(tokens) as read:
        for start in range(0, len(tokens) - WINDOW + 1, CHUNK):
            stretch = read(start, CHUNK + WINDOW - 1)
            n = len(stretch) - WINDOW + 1
            summed, hashed, bits = sums[: len(stretch)], differences[:n], sums[:n]
            np.take(values, stretch, out=summed, mode="clip")
            summed *= up[: len(stretch)]
            np.cumsum(summed, out=summed)
            hashed[0] = summed[WINDOW - 1]
            np.subtract(summed[WINDOW:], summed[: n - 1], out=hashed[1:])
            hashed *= down[:n]
            at = np.flatnonzero(maybe[np.right_shift(hashed, shift, out=bits).view(np.int64)])
            ranks = np.searchsorted(hashes, hashed[at])
            right = hashes[np.minimum(ranks, len(hashes) - 1)] == hashed[at]
            np.minimum.at(first, ranks[right], start + at[right])
    return first


@contextlib.contextmanager
def reading(tokens: np.ndarray) -> Iterator[Callable[[int, int], np.ndarray]]:
    """(start, n) -> those tokens. Of a whole mapped file by reading it: mapped pages would count as memory."""
    path = getattr(tokens, "filename", None)
    if path is None or os.path.getsize(path) != tokens.nbytes:
        yield lambda start, n: np.asarray(tokens[start : start + n])
        return
    with open(path, "rb", buffering=0) as file:

        def read(start, n):
            file.seek(int(start) * tokens.itemsize)
            return np.frombuffer(file.read(n * tokens.itemsize), tokens.dtype)

        yield read
