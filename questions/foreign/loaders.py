"""What can be compared: our checkpoints, folders that transformers loads, and checkpoints of nanoGPT (nanogpt.py; dumps
of predictions: dumps.py).

A member is found by `find_members` from a path, says what it is without its weights being loaded (`context`, `steps`,
`tokenizer_key`, `encode`), and gives a function from tokens to logits when it is its turn (`load`): one at a time.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import warnings
import zipfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

import storage
import tokenizer as tokenizers
from config import UserError
from models.architectures import model_from
from questions.foreign import dumps
from questions.foreign.folders import WEIGHTS, Adapter, Transformers, one_line, tensors_in
from questions.foreign.member import How, Member
from questions.foreign.nanogpt import NanoGPT

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


# -- ours ---------------------------------------------------------------------------------------------------------


class OurCheckpoint(Member):
    kind = "checkpoint"

    def __post_init__(self):
        saved = self._read()
        self.context, self.steps = saved["config"]["block_size"], saved["config"].get("max_iters")
        self.vocab_size, self.trial = saved["vocab_size"], saved["record"]
        self._tokenizer_record = saved["tokenizer"]

    def _read(self) -> dict:
        saved = storage.load_checkpoint(self.path)
        if saved.get("kind") != "trial":
            raise UserError(f"{self.path}: not the checkpoint of a finished trial")
        if not saved["weights"]:
            raise UserError(f"{self.path}: this trial diverged; there is no model in it: leave it out")
        return saved

    @cached_property
    def tokenizer(self):
        return tokenizers.from_dict(self._tokenizer_record)

    @property
    def tokenizer_key(self) -> str:
        return storage.sha256_json(self._tokenizer_record)

    def load(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return self.placed(model_from(self._read()))


# -- finding them -------------------------------------------------------------------------------------------------


def find_members(paths: list, how: How) -> list[Member]:
    """The members that paths name: each a file or folder of one model, or a folder of our trials, which is all of
    them. Of a folder that Trainer wrote and that holds no model itself, the last checkpoint is meant.

    Raises:
        UserError: nothing is there, or nothing that can be compared.
        storage.StorageError: a checkpoint of ours is damaged.
    """
    return [member for path in paths for member in _members_at(path, how)]


def _members_at(path, how: How) -> list[Member]:
    folder = Path(path)
    if folder.is_file():
        return [_file(folder, how)]
    if not folder.exists():
        return [_elsewhere(folder, how)]
    if (folder / "adapter_config.json").is_file():
        return [Adapter(folder, how)]
    if (folder / "config.json").is_file():
        if not any(list(folder.glob(pattern)) for pattern in WEIGHTS):
            raise UserError(f"{path}: it has a config.json but no weights ({' or '.join(WEIGHTS)})")
        return [Transformers(folder, how)]
    if trials := sorted(folder.glob("trial_*.pt"), key=lambda p: (len(p.name), p.name)):
        return [OurCheckpoint(p, how) for p in trials]
    checkpoints = {
        int(m[1]): p for p in folder.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))
    }
    if checkpoints:
        return _members_at(checkpoints[max(checkpoints)], how)
    if (folder / "snapshots").is_dir():
        return _members_at(_snapshot(folder), how)
    if (folder / "ckpt.pt").is_file():
        return [_file(folder / "ckpt.pt", how)]
    raise UserError(
        f"{path}: a folder with neither a model of transformers (config.json and weights), checkpoints (checkpoint-*, "
        f"ckpt.pt) nor trials of ours (trial_*.pt)"
    )


def _elsewhere(path: Path, how: How) -> Member:
    """A model of the hub, which alone is named by something that isn't here; never one beside an existing folder."""
    if _HUB_NAME.fullmatch(path.as_posix()) and not path.parent.exists():
        return Transformers(path.as_posix(), how)
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    like = difflib.get_close_matches(path.name, beside, 1)
    hint = f"; did you mean {path.parent / like[0]}?" if like else ""
    raise UserError(f"{path}: no such file or folder{hint}")


def _snapshot(folder: Path) -> Path:
    """The snapshot in a folder of the hub's cache (models--…): the one that `main` was, or the only one."""
    with contextlib.suppress(OSError):
        named = folder / "snapshots" / (folder / "refs" / "main").read_text(encoding="utf-8").strip()
        if named.is_dir():
            return named
    snapshots = sorted(p for p in (folder / "snapshots").iterdir() if p.is_dir())
    if len(snapshots) != 1:
        raise UserError(f"{folder}: a cache of the hub with {len(snapshots)} snapshots; name one of them")
    return snapshots[0]


def _file(path: Path, how: How) -> Member:
    head = path.open("rb").read(8)
    if head[:4] == b"GGUF":
        raise UserError(
            f"{path}: a GGUF file of llama.cpp, which only it runs; name the model it was made from, or dump its "
            f"predictions (OWN_MODELS_GUIDE.md)"
        )
    if re.fullmatch(r"trial_\d+\.pt", path.name):
        return OurCheckpoint(path, how)
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return _of_torch(path, how)
    if path.suffix == ".safetensors" and not {*dumps.VALUES} & (tensors_in(path) or dict.fromkeys(dumps.VALUES)).keys():
        raise UserError(f"{path}: weights without the config.json that says what model they are of; name their folder")
    if path.suffix in dumps.SUFFIXES:
        return dumps.Dump(path, how)
    raise UserError(
        f"{path}: a model is a folder of transformers, a ckpt.pt of nanoGPT or a .pt of ours, predictions are "
        f"{', '.join(dumps.SUFFIXES)}; not {path.suffix or 'a file without a suffix'}"
    )


def _of_torch(path: Path, how: How) -> Member:
    """What a file that torch.save or torch.jit.save wrote is; nothing in it is run."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/code/" in name for name in archive.namelist()):
                raise UserError(
                    f"{path}: a TorchScript program, which is not run here; dump its predictions (OWN_MODELS_GUIDE.md)"
                )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged or foreign pickle makes torch raise nearly anything
        raise UserError(
            f"{path}: not a file of weights that torch reads without running code: {one_line(error)}"
        ) from None
    if isinstance(contents, dict) and contents.get("kind") == "trial" and "content_sha256" in contents:
        return OurCheckpoint(path, how)
    if isinstance(contents, dict) and {"model", "model_args"} <= contents.keys():
        return NanoGPT(path, how)
    raise UserError(
        f"{path}: weights alone don't say what model they are of; save it for transformers (save_pretrained), or dump "
        f"its predictions (OWN_MODELS_GUIDE.md)"
    )
