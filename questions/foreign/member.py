"""One member of a comparison: what is known about it before and after its weights were read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from config import UserError

_STEPS = re.compile(r"(?:checkpoint|global_step|steps?|iters?)[-_=]?(\d+)(?!\d)", re.I)


@dataclass(frozen=True)
class Opening:
    """How members are opened."""

    device: str = "cpu"
    dtype: str = "float32"
    tokenizer: str | None = None  # a folder or tokenizer.json in the place of the members' own
    trust_remote_code: bool = False
    targets: str | None = None  # of dumps that hold none


@dataclass(eq=False)
class Weights:
    """What only the weights tell."""

    parameters: int
    sha256: str  # of all values, in float32
    dtype: str  # as stored
    tensors: dict[str, str]  # the checksum of each
    sample: list[np.ndarray]  # the first values of the largest ones, to tell copies at another precision


@dataclass(eq=False)
class Member:
    """One model, known by the path it was given by."""

    path: Path | str
    opening: Opening
    name: str = ""  # unique within a comparison: group/what its path ends in
    weights: Weights | None = field(default=None, repr=False)
    notes: list[str] = field(default_factory=list, repr=False)  # what was done to open it
    text_given_back: float | None = None  # by decoding the text's tokens, as a share
    beyond: float | None = None  # the probability of tokens that not all members have, at most

    kind = ""
    is_dump = False

    def __post_init__(self):
        """Read what is known without the weights."""

    @cached_property
    def steps(self) -> int | None:
        """Training steps, from what the files say or else, a hint, from the path."""
        return steps_of_name(self.path)

    def summary(self) -> dict:
        """For the record of results: plain JSON."""
        w = self.weights
        return {
            "member": self.name,
            "path": str(self.path),
            "kind": self.kind,
            "training_steps": self.steps,
            "context": self.context,
            "parameters": w.parameters if w else None,
            "weights_sha256": w.sha256 if w else None,
            "weights_dtype": w.dtype if w else None,
            "text_given_back": self.text_given_back,
            "beyond_common_vocabulary": self.beyond,
            "notes": self.notes,
        }

    @property
    def settings(self) -> dict:
        """What its files say of its architecture, apart from names and what changes no prediction."""
        return {}


def steps_of_name(path) -> int | None:
    """The steps that the last two parts of a path name; None where they name none or two numbers."""
    found = {int(n) for part in Path(path).parts[-2:] for n in _STEPS.findall(part)}
    return found.pop() if len(found) == 1 else None


SAMPLED_TENSORS, SAMPLED_VALUES = 8, 8192


def describe_weights(named: Iterator[tuple[str, torch.Tensor]], where, dtype: str = "") -> Weights:
    """Checksums over a model's values. `dtype`: as stored; by default that of the tensors.

    Raises:
        UserError: a value is not finite.
    """
    checksums, shapes, count, kinds = {}, {}, 0, set()
    named = {name: tensor for name, tensor in sorted(named) if tensor.is_floating_point()}
    for name, tensor in named.items():
        wide = tensor.detach().cpu().float().contiguous()
        if not bool(torch.isfinite(wide).all()):
            raise UserError(f"{where}: its weights are not finite ({name}); leave it out")
        shapes[name] = tuple(tensor.shape)
        checksums[name] = hashlib.sha256(wide.view(-1).numpy().data).hexdigest()
        count += tensor.numel()
        kinds.add(str(tensor.dtype).removeprefix("torch."))
    matrices = sorted((n for n in named if named[n].ndim > 1), key=lambda n: (-named[n].numel(), n))
    sample = [
        named[n].detach().reshape(-1)[:SAMPLED_VALUES].cpu().float().numpy().copy() for n in matrices[:SAMPLED_TENSORS]
    ]
    whole = hashlib.sha256("\n".join(f"{n} {shapes[n]} {checksums[n]}" for n in checksums).encode()).hexdigest()
    return Weights(count, whole, dtype or "+".join(sorted(kinds)), checksums, sample)


def copied_at(fine: Weights, coarse: Weights) -> str | None:
    """The precision at which one model's weights are the other's, rounded; None where they are not, as far as a sample
    shows: nearly all of its values are the nearest ones of float16, of bfloat16 or, for integers and the like, of the
    few values that the coarser tensor has."""
    if [a.shape for a in fine.sample] != [b.shape for b in coarse.sample] or not fine.sample:
        return None
    rounded = {
        "float16": [a.astype(np.float16).astype(np.float32) for a in fine.sample],
        "bfloat16": [torch.from_numpy(a).bfloat16().float().numpy() for a in fine.sample],
        "quantised": [_nearest(a, np.unique(b)) for a, b in zip(fine.sample, coarse.sample, strict=True)],
    }
    if len(np.unique(coarse.sample[0])) > min(1024, len(coarse.sample[0]) // 4):
        del rounded["quantised"]
    values, own = np.concatenate(coarse.sample), np.concatenate(fine.sample)
    for precision, parts in rounded.items():
        copy = np.concatenate(parts)
        if np.mean(copy == values) > 0.995 and np.mean(copy == own) < 0.9:
            return precision
    return None


def _nearest(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The nearest of the ascending grid to each value."""
    above = (
        np.searchsorted(grid, values).clip(1, max(1, len(grid) - 1)) if len(grid) > 1 else np.zeros(len(values), int)
    )
    below = np.maximum(above - 1, 0)
    return np.where(values - grid[below] < grid[above] - values, grid[below], grid[above])
