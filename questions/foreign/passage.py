"""`disagreement.html` of a comparison: the beginning of its text, coloured by how much a group's models disagree."""

from __future__ import annotations

import os

import numpy as np
import torch

from analysis.results import mean
from questions.foreign import measure
from questions.foreign.results import Comparison
from questions.where import page
from questions.where.measure import passage_entry, passage_vocabulary, passage_windows
from questions.where.tell import PASSAGE_TOKENS


def html_of(comparison: Comparison, members, positions, text, display) -> str:
    """The page, of each group of two models or more; of versions together. '' without: dumps can't be asked.

    Args: as `questions.foreign.results.collected`; `display`: `.step(what, done, total)` as the work goes on.
    """
    groups = {name: [members[k] for k in ks if not members[k].is_dump] for name, ks in measure.grouped(members).items()}
    if comparison.versions:
        groups = {", ".join(groups): [model for group in groups.values() for model in group]}
    groups = {name: models for name, models in groups.items() if len(models) > 1}
    if not groups:
        return ""
    models = [model for group in groups.values() for model in group]
    size = min(model.vocab_size for model in models)
    fits = 2 * measure.BLOCK_BYTES // (4 * size * max(map(len, groups.values())))
    tokens = positions.tokens[: 1 + max(1, min(PASSAGE_TOKENS, fits, len(positions.tokens) - 1))]
    context = min(positions.block_size, len(tokens) - 1)
    windows, new = passage_windows(len(tokens) - 1, context)
    at_once = measure.batch_of(models[0].how, context, size)
    batches = np.array_split(tokens[windows[:, :-1]], -(-len(windows) // at_once))

    def predicted(model) -> np.ndarray:
        """(L, V) float32; tokens that pad a vocabulary are left out."""
        display.step(f"a passage: {model.name}", models.index(model), len(models))
        with measure.loaded(model) as forward:
            logits = (measure.predict(model, forward, batch)[..., :size] for batch in batches)
            return np.concatenate([torch.softmax(x.float(), -1).cpu().numpy() for x in logits])[new]

    entries, numbers = {}, {}
    for name, group in groups.items():
        names = [m.name for m in group]
        entries[name] = passage_entry(names, np.stack([predicted(m) for m in group]), tokens[1:])
        within = [p["relative_pd"] for p in comparison.pairs if {p["a"], p["b"]} <= {*names}]
        numbers[name] = {"pd": {"mean": mean(within)}, "positions": len(positions.targets)}
    passage = {"activations": entries, "tokens": tokens.tolist(), "context": context}
    before = tokens[:1]  # some tokenizers drop the blank that a text begins with
    skipped = len(models[0].decode(before))
    passage["texts"] = {
        str(token): models[0].decode(np.append(before, token))[skipped:] for token in passage_vocabulary(passage)
    }
    source, made = os.path.basename(os.fspath(text)), "The models of a group, by the names of their files."
    return page.page(passage, {"activations": numbers}, arm="Models", source=source, made=made)
