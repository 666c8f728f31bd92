"""Folders that transformers loads: config.json, weights and tokenizer as save_pretrained and Trainer leave them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import storage
from config import UserError
from questions.foreign.member import Member, steps_of_name

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# what torch.compile and DistributedDataParallel put before the names of weights
_PREFIXES = re.compile(r"((?:_orig_mod|module)\.)+")
# what safetensors calls them, and torch
DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# parts of pretraining that predict no next token
_UNUSED_HEADS = re.compile(r"(^|\.)(pooler|seq_relationship|nsp|sop_classifier)\.")
# settings of a config.json that change no prediction: names, tokens, training, and what generating or a tool adds
_NO_PREDICTION = re.compile(
    r"transformers_version|architectures|.*dtype|.*_token_id|use_cache|.*drop(out)?|.*_pdrop|.*dropout.*|.*layerdrop"
    r"|initializer_.*|id2label|label2id|num_labels|problem_type|return_dict|output_.*|vocab_size|name_or_path"
    r"|task_specific_params|tokenizer_class|summary_.*|is_encoder_decoder|chunk_size_feed_forward|finetuning_task"
    r"|pretraining_tp|tie_word_embeddings|loss_type|torchscript"
)


def _transformers():
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"folders of transformers need that package (pip install transformers): {error}") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


class Transformers(Member):
    kind = "transformers"

    @property
    def source(self) -> Path | str:
        """Where the model itself lies."""
        return self.path

    def __post_init__(self):
        config = self._load_with("AutoConfig")
        text_config = config.get_text_config()
        self.context = getattr(text_config, "max_position_embeddings", None)
        self.vocab_size = text_config.vocab_size
        settings = config.to_dict().items()
        self.settings = {k: v for k, v in settings if not k.startswith("_") and not _NO_PREDICTION.fullmatch(k)}
        self.steps = steps_of_name(self.path)
        with contextlib.suppress(storage.StorageError, KeyError, TypeError, ValueError):
            self.steps = int(storage.read_json(Path(self.path) / "trainer_state.json")["global_step"])

    def _load_with(self, auto: str, **options):
        """What an Auto class of transformers makes of the folder; its complaints as one line."""
        transformers = _transformers()
        local = Path(self.source).exists()
        options |= {"trust_remote_code": self.how.trust_remote_code, "local_files_only": local}
        try:
            return getattr(transformers, auto).from_pretrained(str(self.source), **options)
        except Exception as error:  # a damaged folder makes it raise nearly anything
            problem = f"transformers can't load it: {one_line(error)}"
            if not local:
                problem = (
                    f"there is no such file or folder, and no model of that name on the hub could be loaded "
                    f"({one_line(error)})"
                )
            elif "trust_remote_code" in str(error):
                problem = "its folder brings code of its own, which is run only with --trust-remote-code"
            raise UserError(f"{self.path}: {problem}") from None

    @cached_property
    def tokenizer(self) -> Words:
        return Words(self._tokenizer(), self.path)

    def _tokenizer(self):
        if self.how.tokenizer:
            return tokenizer_at(self.how.tokenizer)
        names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
        for folder in (Path(self.path), Path(self.path).parent):  # the Trainer may leave it beside its checkpoints
            if any((folder / name).is_file() for name in names):
                return tokenizer_at(folder, self.how.trust_remote_code)
        if Path(self.path).exists():
            raise UserError(f"{self.path}: there is no tokenizer in it or beside it; name one with --tokenizer PATH")
        return self._load_with("AutoTokenizer")

    def load(self) -> Callable[[torch.Tensor], torch.Tensor]:
        model = self.placed(self._model(), stored_dtype(Path(self.source)))
        return lambda idx: model(input_ids=idx, use_cache=False).logits

    def _model(self):
        """The model in float32, whatever precision its config.json names, with every weight of its files and no other.

        Raises:
            UserError: weights are missing, of another shape, or not taken.
        """
        prefix = _common_prefix(Path(self.source))
        options = {"key_mapping": {f"^{re.escape(prefix)}": ""}} if prefix else {}
        if prefix and not self.notes:
            self.notes.append(f"its weights' names begin with {prefix!r}, which was taken off")
        options |= {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, report = self._load_with("AutoModelForCausalLM", **options)
        mismatched = sorted(entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"])
        lacking = sorted(report["missing_keys"]) + mismatched
        left = sorted(name for name in report["unexpected_keys"] if not _UNUSED_HEADS.search(name))
        for names, problem in (
            (lacking, "weights are not in its files or of another shape, and would be random"),
            (left, "weights of its files are not taken by the model that its config.json describes"),
        ):
            if names:
                raise UserError(f"{self.path}: {len(names)} {problem}: {', '.join(names[:3])}")
        if unused := sorted(set(report["unexpected_keys"]) - set(left)):
            note = f"{len(unused)} weights of heads that predict no next token are left out: {', '.join(unused[:3])}"
            self.notes[:] = dict.fromkeys([*self.notes, note])
        return model


class Adapter(Transformers):
    """A LoRA adapter's folder: applied to its base model where the package peft is."""

    kind = "adapter"

    @property
    def source(self) -> str:
        return self._base

    def __post_init__(self):
        try:
            record = storage.read_json(Path(self.path) / "adapter_config.json")
            self._base = record["base_model_name_or_path"]
        except (storage.StorageError, KeyError, TypeError):
            raise UserError(f"{self.path}: an adapter whose adapter_config.json names no base model") from None
        if importlib.util.find_spec("peft") is None:
            raise UserError(
                f"{self.path}: an adapter to {self._base}, not a model: pip install peft, or merge it into its base "
                f"(merge_and_unload) and name what save_pretrained wrote"
            )
        super().__post_init__()
        self.notes.append(f"an adapter, applied to {self._base}")

    def _model(self):
        import peft

        return peft.PeftModel.from_pretrained(super()._model(), str(self.path)).merge_and_unload()


class Words:
    """A tokenizer of transformers, as members use one; `of`: whose it is, for messages."""

    def __init__(self, tokenizer, of):
        self.tokenizer, self.of = tokenizer, of

    @cached_property
    def key(self) -> str:
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is None:
            return storage.sha256_json([type(self.tokenizer).__name__, self.tokenizer.get_vocab()])
        record = json.loads(fast.to_str())
        # how batches are cut and filled is no part of what a text's tokens are
        return storage.sha256_json({k: v for k, v in record.items() if k not in ("truncation", "padding", "version")})

    def encode(self, text: str) -> list[int]:
        try:
            return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        except Exception as error:  # the library raises plain Exception for a word that it can't say
            raise UserError(f"{self.of}: its tokenizer can't take the text: {one_line(error)}") from None

    def decode(self, tokens: np.ndarray) -> str:
        return self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)


def tokenizer_at(path, trust_remote_code: bool = False):
    """A tokenizer from a folder or from a tokenizer.json of any name."""
    transformers = _transformers()
    try:
        if Path(path).is_file():
            return transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
        return transformers.AutoTokenizer.from_pretrained(
            str(path), trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # the library raises plain Exception for a malformed file
        raise UserError(f"{path}: not a tokenizer that transformers loads: {one_line(error)}") from None


# -- weights on disk ----------------------------------------------------------------------------------------------


def tensors_in(path: Path) -> dict[str, str] | None:
    """{name: precision} of a file of safetensors; None if it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 — not a dict
    except (SafetensorError, OSError):
        return None


def _weight_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of a folder that transformers takes weights from: of safetensors, or else of torch."""
    safe = sorted(folder.glob("model*.safetensors"))
    return safe, [] if safe else sorted(folder.glob("pytorch_model*.bin"))


def _common_prefix(folder: Path) -> str:
    """What wrappers of training put before the name of every weight; '' if not before each."""
    safe, torchs = _weight_files(folder)
    names = {name for path in safe for name in tensors_in(path) or ()}
    with contextlib.suppress(Exception):  # transformers will say what is wrong with the file
        for path in torchs:
            names |= torch.load(path, map_location="cpu", weights_only=True, mmap=True).keys()
    prefixes = {match[0] if (match := _PREFIXES.match(name)) else "" for name in names}
    return prefixes.pop() if len(prefixes) == 1 else ""


def stored_dtype(folder: Path) -> str:
    """The precision of the weights on disk, such as float16 or float16+float32; '' where it isn't told."""
    kinds = {kind for path in _weight_files(folder)[0] for kind in (tensors_in(path) or {}).values()}
    return "+".join(sorted(DTYPES[kind] for kind in kinds if kind in DTYPES))
