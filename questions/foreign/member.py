"""One member of a comparison: what is known about it before and after its weights were read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

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
    coarse_sha256: str  # of all values rounded to bfloat16: the same for a copy at another precision
    dtype: str  # as stored


@dataclass(eq=False)
class Member:
    """One model, known by the path it was given by."""

    path: Path | str
    opening: Opening
    name: str = ""  # unique within a comparison: group/what its path ends in
    weights: Weights | None = field(default=None, repr=False)

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
        }


def steps_of_name(path) -> int | None:
    """The steps that the last two parts of a path name; None where they name none or two numbers."""
    found = {int(n) for part in Path(path).parts[-2:] for n in _STEPS.findall(part)}
    return found.pop() if len(found) == 1 else None


def describe_weights(named: Iterator[tuple[str, torch.Tensor]], where) -> Weights:
    """Checksums over a model's values.

    Raises:
        UserError: a value is not finite.
    """
    exact, coarse, count, kinds = hashlib.sha256(), hashlib.sha256(), 0, set()
    for name, tensor in sorted(named):
        if not tensor.is_floating_point():
            continue
        wide = tensor.detach().cpu().float().contiguous()
        if not bool(torch.isfinite(wide).all()):
            raise UserError(f"{where}: its weights are not finite ({name}); leave it out")
        head = f"{name} {tuple(tensor.shape)}".encode()
        for digest, values in ((exact, wide), (coarse, wide.bfloat16().float())):
            digest.update(head)
            digest.update(values.view(-1).numpy().data)
        count += tensor.numel()
        kinds.add(str(tensor.dtype).removeprefix("torch."))
    return Weights(count, exact.hexdigest(), coarse.hexdigest(), "+".join(sorted(kinds)))
