"""What the characters of a text say about it: whether they have an order, and whether its end is like its beginning."""

from __future__ import annotations

import numpy as np

from tokenizer import code_points

# Shares of the characters' own entropy, so that an alphabet of four is judged as one of ninety. Noise has no order; a
# chain of four letters whose pairs occur 0.75 to 1.28 times as often as by chance, as DNA's do, 0.9 %; English 25 %.
LEAST_ORDER = 0.004
# 38 plays 0.1 %, Python's library in the order of its names 0.2 %; names sorted by frequency 0.6 %, words by the
# alphabet 4 %.
MOST_DRIFT = 0.005
ENOUGH = 10_000  # characters of a split: in fewer any page differs from any other


def order_information(text: str) -> float | None:
    """Nats that a character tells about the next one: their mutual information, less that of the same characters in
    random order, which is what so small a sample shows by chance. None for fewer than 2000 characters."""
    if len(text) < 2000:
        return None
    _, codes = np.unique(code_points(text), return_inverse=True)

    def information(x):
        pairs = x[:-1] * (codes.max() + 1) + x[1:]
        return entropy(_counts(x[:-1])) + entropy(_counts(x[1:])) - entropy(_counts(pairs))

    return float(information(codes) - information(np.random.default_rng(0).permutation(codes)))


def _counts(x: np.ndarray) -> np.ndarray:
    return np.unique(x, return_counts=True)[1]


def entropy(counts: np.ndarray) -> float:
    """Nats per symbol, of how often each occurs."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def noise_note(name: str, text: str) -> list[str]:
    """A note where a sample of a text has no order in it, by more than chance: with k characters in n places the
    mutual information of noise has a standard deviation of about (k - 1) / n."""
    nats = order_information(text)
    if nats is None:
        return []
    counts = _counts(code_points(text))
    if nats >= max(LEAST_ORDER * entropy(counts), min(0.05, 5 * (len(counts) - 1) / len(text))):
        return []
    return [
        f"{name}: its characters follow one another at random (each tells {max(0, nats):.3f} nats about the next, in "
        f"text 0.5 and more): noise, encrypted, packed, base64 or hex?"
    ]


def drift(train: np.ndarray, val: np.ndarray) -> tuple[float, float, float]:
    """(training's entropy, validation's cross-entropy under training's add-one smoothed frequencies, and how much of
    that is neither validation's own entropy nor chance), in nats per character.

    The last is a Kullback-Leibler divergence less three times its expectation for equal texts, (k - 1) / 2n.

    Args:
        train, val: how often each character occurs in either split.
    """
    used = (train + val) > 0
    train, val = train[used], val[used]
    cross = float(-(val * np.log((train + 1) / (train.sum() + len(train)))).sum() / val.sum())
    return entropy(train), cross, cross - entropy(val) - 1.5 * (len(train) - 1) / val.sum()


def drift_note(name: str, train: np.ndarray, val: np.ndarray) -> list[str]:
    """A note where the validation split, which is the end of the text, is of another kind than what is trained on."""
    own, cross, beyond = drift(train, val)
    if beyond <= MOST_DRIFT * own or min(train.sum(), val.sum()) < ENOUGH:
        return []
    return [
        f"{name}: the end of this text is not like its beginning (a character costs {cross:.2f} nats there by the "
        f"frequencies of the training split, {own:.2f} in that split): sorted, or several texts one after the other? "
        f"The validation loss is that of its end"
    ]
