"""One member of a comparison: what is known about it before and after its weights were read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from config import UserError

_STEPS = re.compile(r"(?:checkpoint|global_step|steps?|iters?)[-_=]?(\d+)(?!\d)", re.I)


@dataclass(frozen=True)
class How:
    """How members are opened and run. None of it changes a member's predictions beyond rounding, which is measured."""

    device: str = "cpu"
    dtype: str = "float32"
    tokenizer: str | None = None  # a folder or tokenizer.json in the place of the members' own
    trust_remote_code: bool = False
    targets: str | None = None  # of dumps that hold none
    batch_size: int | None = None  # windows in one forward pass; None: as many as `measure.batch_of` says
    max_bytes: int = 2**33  # of disk for logits


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
    """One model, known by the path it was given by. A kind of model says what it is without its weights being loaded
    (`context`, `vocab_size`, `steps`, `settings`, `tokenizer`) and, when it is its turn, gives a function from tokens
    to logits (`load`)."""

    path: Path | str = ""
    how: How = How()
    group: str = ""
    name: str = ""  # unique within a comparison: group/what its path ends in
    weights: Weights | None = field(default=None, repr=False)
    notes: list[str] = field(default_factory=list, repr=False)  # what was done to open it
    text_given_back: float | None = None  # by decoding the text's tokens, as a share
    beyond: float | None = None  # the probability of tokens that not all members have, at most
    noise: dict = field(default_factory=dict, repr=False)  # as `measure.look_at` says
    measured: dict = field(default_factory=dict, repr=False)  # its entry of metrics.Evaluator
    context: int | None = None
    vocab_size: int | None = None
    steps: int | None = None  # of training, from what the files say or else, a hint, from the path
    settings: dict = field(default_factory=dict, repr=False)  # its architecture, apart from what changes no prediction

    kind = ""
    is_dump = is_top_k = False

    def __post_init__(self):
        """Read what is known without the weights."""

    def encode(self, text: str) -> np.ndarray:
        return np.asarray(self.tokenizer.encode(text), np.int64).reshape(-1)

    def decode(self, tokens: np.ndarray) -> str:
        return self.tokenizer.decode(tokens)

    @property
    def tokenizer_key(self) -> str:
        """The same for tokenizers that take any text for the same tokens."""
        return self.tokenizer.key

    def load(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Tokens (B, T) -> logits (B, T, V), in evaluation mode."""
        raise NotImplementedError

    def placed(self, model: torch.nn.Module, dtype: str = "") -> torch.nn.Module:
        """A model that was read, where it is to run; its weights are described if they weren't. `dtype`: as stored."""
        self.weights = self.weights or describe_weights(model.named_parameters(), self.path, dtype)
        return model.to(self.how.device, getattr(torch, self.how.dtype)).eval()

    # what is known after it was measured

    @property
    def val_loss(self) -> float | None:
        return self.measured.get("val_loss")

    @property
    def sees_later_tokens(self) -> float | None:
        return self.noise.get("sees_later_tokens")

    @property
    def own_pd(self) -> float | None:
        """How far it differs from itself at another batch size or precision."""
        own = [value for key, value in self.noise.items() if key.startswith("own_pd") and value is not None]
        return max(own, default=None)

    def record(self) -> dict:
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
            **self.noise,
            **self.measured,
        }


def steps_of_name(path) -> int | None:
    """The steps that the last two parts of a path name; None where they name none or two numbers."""
    numbers = {int(n) for part in Path(path).parts[-2:] for n in _STEPS.findall(part)}
    return numbers.pop() if len(numbers) == 1 else None


SAMPLED_TENSORS, SAMPLED_VALUES = 8, 8192


def describe_weights(named: Iterator[tuple[str, torch.Tensor]], where, dtype: str = "") -> Weights:
    """Checksums over a model's values. `dtype`: as stored; by default that of the tensors.

    Raises:
        UserError: a value is not finite.
    """
    checksums, lines = {}, []
    tensors = {name: tensor.detach() for name, tensor in sorted(named) if tensor.is_floating_point()}
    for name, tensor in tensors.items():
        wide = tensor.cpu().float().contiguous()
        if not bool(torch.isfinite(wide).all()):
            raise UserError(f"{where}: its weights are not finite ({name}); leave it out")
        checksums[name] = hashlib.sha256(wide.view(-1).numpy().data).hexdigest()
        lines.append(f"{name} {tuple(tensor.shape)} {checksums[name]}")
    whole = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    matrices = sorted((t for t in tensors.values() if t.ndim > 1), key=lambda t: -t.numel())[:SAMPLED_TENSORS]
    sample = [tensor.reshape(-1)[:SAMPLED_VALUES].cpu().float().numpy().copy() for tensor in matrices]
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
    return Weights(sum(t.numel() for t in tensors.values()), whole, dtype or "+".join(sorted(kinds)), checksums, sample)


def copied_at(fine: Weights, coarse: Weights) -> str | None:
    """The precision at which one model's weights are the other's, rounded; None where they are not, as far as a sample
    shows: nearly all of its values are the nearest ones of float16, of bfloat16 or, for integers and the like, of the
    few values that the coarser tensor has."""
    if [a.shape for a in fine.sample] != [b.shape for b in coarse.sample] or not fine.sample:
        return None
    own, values = np.concatenate(fine.sample), np.concatenate(coarse.sample)
    rounded = {
        "float16": own.astype(np.float16).astype(np.float32),
        "bfloat16": torch.from_numpy(own).bfloat16().float().numpy(),
    }
    if len(np.unique(coarse.sample[0])) <= min(1024, len(coarse.sample[0]) // 4):
        nearest = [_nearest(a, np.unique(b)) for a, b in zip(fine.sample, coarse.sample, strict=True)]
        rounded["quantised"] = np.concatenate(nearest)
    for precision, copy in rounded.items():
        if np.mean(copy == values) > 0.995 and np.mean(copy == own) < 0.9:
            return precision
    return None


def _nearest(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """The nearest of the ascending grid to each value."""
    return grid[np.searchsorted((grid[1:] + grid[:-1]) / 2, values)]
