"""What can be compared: our checkpoints, and folders that transformers loads (dumps of predictions: dumps.py).

A member is found by `find_members` from a path, says what it is without its weights being loaded (`context`, `steps`,
`tokenizer_key`, `encode`), and gives a function from tokens to logits when it is its turn (`load`): one at a time.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import storage
from config import UserError
from questions.foreign import dumps
from questions.foreign.member import Member, Opening, describe_weights, steps_of_name

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


# -- ours ---------------------------------------------------------------------------------------------------------


class OurCheckpoint(Member):
    kind = "checkpoint"

    def __post_init__(self):
        saved = self._read()
        self.context = saved["config"]["block_size"]
        self.vocab_size, self.record = saved["vocab_size"], saved["record"]
        self._tokenizer_record = saved["tokenizer"]
        self.config = saved["config"]

    def _read(self) -> dict:
        saved = storage.load_checkpoint(self.path)
        if saved.get("kind") != "trial":
            raise UserError(f"{self.path}: not the checkpoint of a finished trial")
        if not saved["weights"]:
            raise UserError(f"{self.path}: this trial diverged; there is no model in it: leave it out")
        return saved

    @property
    def steps(self):
        return self.config.get("max_iters")

    @cached_property
    def tokenizer_key(self) -> str:
        return storage.sha256_json(self._tokenizer_record)

    def encode(self, text: str) -> np.ndarray:
        import tokenizer as tokenizers

        return np.asarray(tokenizers.from_dict(self._tokenizer_record).encode(text), np.int64)

    def load(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Tokens (B, T) -> logits (B, T, V), in evaluation mode."""
        from training import trial

        model = trial.model_from(self._read())
        if self.weights is None:
            self.weights = describe_weights(model.named_parameters(), self.path)
        return model.to(self.opening.device, getattr(torch, self.opening.dtype)).eval()


# -- transformers -------------------------------------------------------------------------------------------------


def _transformers():
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"folders of transformers need that package (pip install transformers): {error}") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


class Transformers(Member):
    kind = "transformers"

    def __post_init__(self):
        self.config = self._load_with("AutoConfig")
        text_config = self.config.get_text_config()
        self.context = getattr(text_config, "max_position_embeddings", None)
        self.vocab_size = text_config.vocab_size

    def _load_with(self, auto: str, **options):
        """What an Auto class of transformers makes of the folder; its complaints as one line."""
        transformers = _transformers()
        local = Path(self.path).exists()
        try:
            return getattr(transformers, auto).from_pretrained(
                str(self.path),
                trust_remote_code=self.opening.trust_remote_code,
                local_files_only=local,
                **options,
            )
        except Exception as error:  # a damaged folder makes it raise nearly anything
            if not local:
                raise UserError(
                    f"{self.path}: there is no such file or folder, and no model of that name on the hub could be "
                    f"loaded ({_one_line(error)})"
                ) from None
            if "trust_remote_code" in str(error):
                raise UserError(
                    f"{self.path}: its folder brings code of its own, which is run only with --trust-remote-code"
                ) from None
            raise UserError(f"{self.path}: transformers can't load it: {_one_line(error)}") from None

    @cached_property
    def steps(self) -> int | None:
        with contextlib.suppress(storage.StorageError, KeyError, TypeError, ValueError):
            return int(storage.read_json(Path(self.path) / "trainer_state.json")["global_step"])
        return steps_of_name(self.path)

    @cached_property
    def tokenizer(self):
        if self.opening.tokenizer:
            return _tokenizer_at(self.opening.tokenizer)
        names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
        for folder in (Path(self.path), Path(self.path).parent):  # the Trainer may leave it beside its checkpoints
            if any((folder / name).is_file() for name in names):
                return _tokenizer_at(folder, self.opening.trust_remote_code)
        if Path(self.path).exists():
            raise UserError(f"{self.path}: there is no tokenizer in it or beside it; name one with --tokenizer PATH")
        return self._load_with("AutoTokenizer")

    @cached_property
    def tokenizer_key(self) -> str:
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is None:
            return storage.sha256_json([type(self.tokenizer).__name__, self.tokenizer.get_vocab()])
        record = json.loads(fast.to_str())
        # how batches are cut and filled is no part of what a text's tokens are
        return storage.sha256_json({k: v for k, v in record.items() if k not in ("truncation", "padding", "version")})

    def encode(self, text: str) -> np.ndarray:
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.asarray(ids, np.int64).reshape(-1)

    def load(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Tokens (B, T) -> logits (B, T, V), in evaluation mode."""
        model, report = self._load_with("AutoModelForCausalLM", dtype="auto", output_loading_info=True)
        missing = sorted(report.get("missing_keys") or []) + sorted(map(str, report.get("mismatched_keys") or []))
        if missing:
            raise UserError(
                f"{self.path}: {len(missing)} weights are not in its files or of another shape, and would be random: "
                f"{', '.join(missing[:3])}"
            )
        if self.weights is None:
            self.weights = describe_weights(model.named_parameters(), self.path)
        model = model.to(self.opening.device, getattr(torch, self.opening.dtype)).eval()
        return lambda idx: model(input_ids=idx, use_cache=False).logits


def _tokenizer_at(path, trust_remote_code: bool = False):
    """A tokenizer from a folder or from a tokenizer.json of any name."""
    transformers = _transformers()
    try:
        if Path(path).is_file():
            return transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
        return transformers.AutoTokenizer.from_pretrained(
            str(path), trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # the library raises plain Exception for a malformed file
        raise UserError(f"{path}: not a tokenizer that transformers loads: {_one_line(error)}") from None


# -- finding them -------------------------------------------------------------------------------------------------


def find_members(paths: list, opening: Opening) -> list[Member]:
    """The members that paths name: each a file or folder of one model, or a folder of our trials, which is all of
    them. Of a folder that Trainer wrote and that holds no model itself, the last checkpoint is meant.

    Raises:
        UserError: nothing is there, or nothing that can be compared.
        storage.StorageError: a checkpoint of ours is damaged.
    """
    return [member for path in paths for member in _found(path, opening)]


def _found(path, opening: Opening) -> list[Member]:
    folder = Path(path)
    if folder.is_file():
        return [_file(folder, opening)]
    if not folder.exists():
        if _HUB_NAME.fullmatch(str(path)) and "/" in str(path):
            return [Transformers(str(path), opening)]
        raise UserError(f"{path}: no such file or folder")
    if (folder / "config.json").is_file():
        if not any(list(folder.glob(pattern)) for pattern in WEIGHTS):
            raise UserError(f"{path}: it has a config.json but no weights ({' or '.join(WEIGHTS)})")
        return [Transformers(folder, opening)]
    if trials := sorted(folder.glob("trial_*.pt"), key=lambda p: (len(p.name), p.name)):
        return [OurCheckpoint(p, opening) for p in trials]
    checkpoints = {
        int(m[1]): p for p in folder.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))
    }
    if checkpoints:
        return _found(checkpoints[max(checkpoints)], opening)
    raise UserError(
        f"{path}: a folder with neither a model of transformers (config.json and weights), checkpoints (checkpoint-*) "
        f"nor trials of ours (trial_*.pt)"
    )


def _file(path: Path, opening: Opening) -> Member:
    if path.suffix == ".pt":
        return OurCheckpoint(path, opening)
    if path.suffix in dumps.SUFFIXES:
        return dumps.Dump(path, opening)
    raise UserError(
        f"{path}: a model is a .pt of ours or a folder of transformers, predictions are "
        f"{', '.join(dumps.SUFFIXES)}; not {path.suffix or 'a file without a suffix'}"
    )
