"""Reproducibility one can read: what the trials of one activation write after the same prompt."""

from __future__ import annotations

import os

import storage
from cli import counted
from config import Config, UserError, option


def continuations(
    config: Config, activation: str, prompt: str, characters: int, temperature: float
) -> tuple[dict[int, str], list[int]]:
    """The continuation of `prompt` by every trained trial, all with the same random numbers: ({trial: text}, the trials
    that diverged and have nothing to say).

    Raises:
        UserError: no trial is trained, or the prompt is empty or has characters outside the vocabulary.
    """
    import torch

    from model import generate
    from training import experiment

    if not prompt:
        raise UserError("prompt='': give at least one character to begin with")
    texts, diverged = {}, []
    for number in experiment.existing_trials(config, activation):
        path = storage.checkpoint_path(config.checkpoint_dir, activation, number)
        if not storage.load_checkpoint(path, whole=False).get("weights"):
            diverged.append(number)
            continue
        model, tokenizer, _ = experiment.load_trial(path)
        idx = torch.from_numpy(tokenizer.encode(prompt).astype("int64"))[None]
        new = generate(model, idx, characters, temperature, seed=config.seed_base)[0, idx.shape[1] :]
        texts[number] = tokenizer.decode(new.numpy())
    if not texts:
        reason = "all trained trials diverged" if diverged else "no trained trial"
        raise UserError(
            f"{config.checkpoint_dir}: {reason} of {activation}; train it first ({option('activation', activation)})"
        )
    return texts, diverged


def print_samples(
    config: Config, activation: str, prompt: str, characters: int = 200, temperature: float = 0.0
) -> None:
    """Print the continuations side by side in one column each, and where they part."""
    import itertools
    import shutil
    import textwrap

    written, diverged = continuations(config, activation, prompt, characters, temperature)
    texts = list(written.values())
    at = len(os.path.commonprefix(texts))
    width = max(16, (shutil.get_terminal_size((100, 24)).columns - 3 * (len(texts) - 1)) // len(texts))
    columns = []
    for number, text in written.items():
        marked = prompt + text[:at] + ("▸" if at < len(text) else "") + text[at:]
        wrapped = [piece for line in marked.splitlines() for piece in textwrap.wrap(line, width) or [""]]
        columns.append([f"trial {number}", *wrapped])
    for row in itertools.zip_longest(*columns, fillvalue=""):
        print(" │ ".join(cell.ljust(width) for cell in row).rstrip())
    if len(texts) == 1:
        print("one trial: nothing to compare it with")
    elif at == min(map(len, texts)):
        print(f"the {len(texts)} trials agree on all {counted(at, 'character')}")
    else:
        seen = ", ".join(f"trial {i} writes {text[at]!r}" for i, text in written.items())
        print(f"they part after {counted(at, 'character')} (▸): {seen}")
    for number in diverged:
        print(f"trial {number} diverged: it has no model to write with")
