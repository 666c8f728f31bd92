"""Click models of the second study: bases and twins side by side, and the ladder of differences."""

from __future__ import annotations

import dataclasses
import functools
import time

import clicks
import numpy as np
import torch
from decoder import measured_steps

RUNGS = ("bit", "noise 2^-20", "noise 2^-10", "example", "order", "weights", "all")
OTHER = 500  # a twin's seed, for what it has otherwise, is its base's plus this


@functools.lru_cache(maxsize=1)
def data_of(model: str, times: float) -> clicks.Clicks:
    """The clicks of a cell; if they are made, as many as `times` one pass of 100,000 needs."""
    return clicks.flights() if model == "flights" else clicks.synthetic(training=100_000 * max(1, int(times)))


def recipe_of(cell: dict, data: clicks.Clicks) -> clicks.Recipe:
    one_pass = data.training if cell["model"] == "flights" else 100_000
    steps = int(cell.get("times", 1) * one_pass / 256)
    return clicks.Recipe(rate=cell["rate"], steps=steps, embedding_std=0.05, norm=cell["model"] == "click + norm")


def move_one_bit(members: clicks.Members, member: int, seed: int) -> None:
    """One weight of the last matrix by one unit in the last place, away from zero."""
    weights = members.matrices[-1][member].view(-1)
    place = int(clicks.stream(seed, "place").integers(len(weights)))
    bits = weights[place : place + 1].view(torch.int32)
    bits += 1


def _change(members: clicks.Members, places: list[np.ndarray], member: int, seed: int, rung: str) -> None:
    if rung == "bit":
        move_one_bit(members, member, seed)
    elif rung.startswith("noise"):
        power = int(rung.partition("^")[2])
        rng = clicks.stream(seed, "noise")
        for tensor in (members.parameters[0], *members.matrices):
            weights = tensor[member]
            noise = torch.from_numpy(rng.standard_normal(weights.shape, np.float32))
            weights += noise * (float(weights.std()) * 2.0**power)
    elif rung == "example":
        first = places[member] = places[member].copy()
        first[0] = first[-1]  # in the pass's last, incomplete batch, which is not trained on


def record(cell: dict, seeds: list[int]) -> tuple[dict, np.ndarray]:
    """Train all seeds of a cell: the bases and, for each of `rungs`, their twins. The record, and the bases'
    predictions (seeds, N)."""
    began = time.thread_time()
    data, n = data_of(cell["model"], cell.get("times", 1)), len(seeds)
    recipe, rungs = recipe_of(cell, data), cell["rungs"]
    weights, orders = list(seeds), list(seeds)
    if cell.get("vary") == "weights":
        orders = [seeds[0]] * n
    for rung in rungs:
        weights += [seed + OTHER * (rung in ("weights", "all")) for seed in seeds]
        orders += [seed + OTHER * (rung in ("order", "all")) for seed in seeds]

    def perturb(members: clicks.Members, places: list[np.ndarray]) -> None:
        for k, rung in enumerate(rungs, 1):
            for i, seed in enumerate(seeds):
                _change(members, places, k * n + i, seed, rung)

    due = measured_steps(recipe.steps, recipe.warmup)
    distances, norms = [], []

    @torch.no_grad()
    def measure(step: int, members: clicks.Members) -> None:
        if step in due and rungs and rungs[0] == "bit":
            pairs = [p[: 2 * n].double().view(2, n, -1) for p in members.parameters]
            distances.append(sum((p[1] - p[0]).square().sum(1) for p in pairs).sqrt().tolist())
            norms.append(sum(p[0].square().sum(1) for p in pairs).sqrt().tolist())

    members = clicks.train(data, cell["activation"], recipe, weights, orders, perturb, measure)
    p = members.predictions(data.test_fields)
    losses = clicks.losses(p, data.test_clicked)
    twins = {}
    for k, rung in enumerate(rungs, 1):
        q = p[k * n : (k + 1) * n]
        twins[rung] = {"pd": np.abs(q - p[:n]).mean(1).tolist(), "loss": losses[k * n : (k + 1) * n].tolist()}
    if distances:
        twins["bit"] |= {"steps": due, "distances": np.array(distances).T.tolist(), "norms": np.array(norms).T.tolist()}
    return {
        **cell,
        "recipe": dataclasses.asdict(recipe),
        "seeds": seeds,
        "loss": losses[:n].tolist(),
        "pairs": [float(np.abs(p[i] - p[j]).mean()) for i in range(n) for j in range(i)],
        "twins": twins,
        "seconds": time.thread_time() - began,
    }, p[:n]
