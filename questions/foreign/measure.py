"""Every member and every pair of members at the same positions, one model in memory at a time.

The positions are taken in chunks. Of a chunk each member in turn predicts all positions and leaves its logits on disk,
as the numbers it computed (4 bytes each, or 2 in bfloat16); then the study's own evaluator (metrics.Evaluator) takes
them in, a block of rows of all members at a time, and the logits are deleted. A chunk is as large as `max_bytes` of
disk allow, so

    disk      at most `max_bytes`                               memory    one model, one batch of its logits, one block
    loading   each model once per chunk                         forward   once per position and model (a chunk smaller
                                                                          than one window: once per part of it)

After each chunk the sums are saved; a run that is killed goes on with the member and chunk it was at. Dumps are read
where they lie.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import metrics
import storage
from config import UserError
from questions.foreign.member import How, Member
from questions.foreign.windows import Positions

BLOCK_BYTES = 256 * 2**20  # probabilities of all members held at a time


# -- one model ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def loaded(member: Member):
    """A member's function from tokens to logits, for as long as it is needed."""
    model = member.load()
    try:
        with torch.inference_mode():
            yield model
    finally:
        del model
        if member.weights is not None and member.weights.parameters > 10**7:
            gc.collect()  # before the next one comes
        if member.how.device.startswith("cuda"):
            torch.cuda.empty_cache()


def predict(member: Member, model, inputs: np.ndarray) -> torch.Tensor:
    """Logits (B, T, V) of windows (B, T), in the precision that they were computed in.

    Raises:
        UserError: tokens outside the model's vocabulary, logits that are not finite or of another shape.
    """
    if member.vocab_size is not None and int(inputs.max()) >= member.vocab_size:
        raise UserError(
            f"{member.name}: the text has token {int(inputs.max())}, its vocabulary ends at {member.vocab_size - 1}: "
            f"model and tokenizer do not belong together"
        )
    try:
        logits = model(torch.from_numpy(inputs).to(member.how.device))
    except (IndexError, RuntimeError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"{member.name}: can't predict windows of {inputs.shape[1]} tokens: {line}") from None
    if logits.ndim != 3 or logits.shape[:2] != inputs.shape:
        raise UserError(f"{member.name}: gives logits of shape {tuple(logits.shape)} for {tuple(inputs.shape)} tokens")
    if not all(bool(torch.isfinite(end)) for end in logits.aminmax()):
        raise UserError(f"{member.name}: its logits are not finite; leave it out")
    return logits


def look_at(member: Member, positions: Positions) -> None:
    """Load a model once before the long work: its weights are described, its vocabulary measured, and it is asked what
    would make its numbers something else than they seem. `member.noise` has the answers:

        `sees_later_tokens`: how far predictions move when tokens to come are changed, as a share of how far those after
        the change do (None for windows of one token); `own_pd_batch`, `own_pd_dtype`: its own relative PD on the first
        windows with another batch size, and against float32.

    Raises:
        UserError: as `predict`; it predicts with the tokens to come.
    """
    with loaded(member) as model:
        inputs = positions.inputs(0, min(2, positions.windows))[:, :256]
        together = predict(member, model, inputs)[-1].float().cpu()
        member.vocab_size = together.shape[-1]
        alone = predict(member, model, inputs[-1:])[0].float().cpu()
        sees = _sees_later_tokens(member, model, inputs[0], np.unique(positions.tokens))
    member.noise = {"sees_later_tokens": sees, "own_pd_batch": _own_pd(together, alone), "own_pd_dtype": None}
    if member.how.dtype != "float32":
        exact = type(member)(member.path, replace(member.how, dtype="float32"), name=member.name)
        with loaded(exact) as model:
            alone = predict(exact, model, inputs[-1:])[0].float().cpu()
        member.noise["own_pd_dtype"] = _own_pd(together, alone)


SEES = {"float32": 1e-4, "bfloat16": 0.02}  # beyond rounding


def _sees_later_tokens(member: Member, model, window: np.ndarray, tokens: np.ndarray) -> float | None:
    """How far logits before a place move when all tokens from it on are others, as a share of how far those from it on
    do: of two places, the larger. `tokens`: those that the text has."""
    T, largest = len(window), 0.0
    if T < 2 or len(tokens) < 2:
        return None
    others = tokens[(np.searchsorted(tokens, window) + len(tokens) // 2) % len(tokens)]  # none stays the same
    for place in sorted({max(1, T // 3), max(1, 2 * T // 3)}):
        changed = np.where(np.arange(T) < place, window, others)
        before, after = predict(member, model, np.stack([window, changed])).float()
        moved = (before - after).abs().amax(-1)
        largest = max(largest, float(moved[:place].max() / moved[place:].max().clamp_min(1e-30)))
    if largest > SEES[member.how.dtype]:
        raise UserError(
            f"{member.name}: predicts with the tokens to come: a masked model, or `is_decoder` forgotten? (with later "
            f"tokens changed, its earlier predictions move {100 * largest:.2g} % as far as the later ones)"
        )
    return largest


def _own_pd(a: torch.Tensor, b: torch.Tensor) -> float:
    """Relative PD of two windows of logits (T, V), of 64 of their rows at a time."""
    total = 0.0
    for x, y in zip(a.split(64), b.split(64), strict=True):
        total += float((torch.softmax(x.double(), -1) - torch.softmax(y.double(), -1)).abs_().sum()) / 2
    return total / len(a)


def batch_of(how: How, block_size: int, vocab_size: int) -> int:
    """Windows in one forward pass: about MAX_POSITIONS and BLOCK_BYTES of logits, one at least."""
    if how.batch_size is not None:
        return how.batch_size
    return max(1, metrics.positions_at_once(1, vocab_size, 2 * BLOCK_BYTES, how.device) // block_size)


# -- all of them --------------------------------------------------------------------------------------------------


def measure(members: Sequence[Member], positions: Positions, folder: Path, display) -> metrics.Evaluator:
    """All sums over the positions; goes on from what `folder` holds of the same comparison. `member.measured` has what
    they say of each member.

    Args:
        members: looked at, all of one vocabulary.
        folder: for the logits of a chunk and the sums so far; at the end it holds the sums alone.
        display: `.step(what, done, total)` as the work goes on.
    """
    how, top_k = members[0].how, any(m.is_top_k for m in members)
    groups = list(grouped(members).values())
    evaluator = metrics.Evaluator(len(members), positions.windows, positions.block_size, groups=groups, bounds=top_k)
    key = storage.sha256_json(
        {
            "members": [m.weights.sha256 if m.weights else _dump_key(m) for m in members],
            "groups": groups,
            "positions": positions.sha256,
            "block_size": positions.block_size,
            "dtype": how.dtype,
            "device": how.device.split(":")[0],
        }
    )
    path = folder / "sums.npz"
    if not _go_on(evaluator, path, key):
        _clear(folder)
    models = [k for k, m in enumerate(members) if not m.is_dump]
    N, chunk = len(positions.targets), _chunk([members[k] for k in models], positions)
    total = len(members) * N
    while (lo := int(evaluator.over.positions)) < N:
        hi = min(N, _end(lo, chunk, positions.block_size))
        spools = [folder / f"{key[:12]}_{lo}_{hi}_{k}.npy" for k in range(len(members))]
        for k in models:
            if not spools[k].exists():
                display.step(f"predicting: {members[k].name}", lo * len(members) + k * (hi - lo), total)
                _spool(members[k], positions, lo, hi, spools[k])
        display.step("comparing", lo * len(members) + len(models) * (hi - lo), total)
        (_compare_top_k if top_k else _compare)(members, evaluator, positions, lo, hi, spools)
        with storage.atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, key=key, **evaluator.state())
        _clear(folder, but=path)
        display.step("comparing", hi * len(members), total)
    for member, entry in zip(members, evaluator.models(), strict=True):
        member.measured = entry
    return evaluator


def grouped(members: Sequence[Member]) -> dict[str, list[int]]:
    """{group: the numbers of its members}."""
    groups: dict[str, list[int]] = {}
    for k, member in enumerate(members):
        groups.setdefault(member.group, []).append(k)
    return groups


def _go_on(evaluator: metrics.Evaluator, path: Path, key: str) -> bool:
    """Take up the sums of the same comparison; False where there are none."""
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError), np.load(path, allow_pickle=False) as saved:
        if str(saved["key"]) == key:
            evaluator.go_on_from(saved)
            return True
    return False


def _dump_key(dump) -> str:
    stat = Path(dump.path).stat()
    return f"{Path(dump.path).resolve()} {stat.st_size} {stat.st_mtime_ns}"


def _clear(folder: Path, but: Path | None = None) -> None:
    for path in folder.glob("*.np[yz]"):
        if path != but:
            path.unlink(missing_ok=True)
    storage.clean_temporaries(folder)


def _chunk(models: Sequence[Member], positions: Positions) -> int:
    """Positions in a chunk: whole windows where one fits."""
    if not models:
        return len(positions.targets)
    how = models[0].how
    position = len(models) * max(m.vocab_size for m in models) * (2 if how.dtype == "bfloat16" else 4)
    fits = how.max_bytes // position
    if fits < 1:
        raise UserError(f"max_bytes={how.max_bytes}: one position of {len(models)} models takes {position} bytes")
    T = positions.block_size
    return int(fits // T * T or fits)


def _end(lo: int, chunk: int, T: int) -> int:
    """Where a chunk that begins at `lo` ends: no chunk goes beyond a window it did not begin."""
    return lo + chunk if chunk % T == 0 else min(lo + chunk, (lo // T + 1) * T)


def _spool(member: Member, positions: Positions, lo: int, hi: int, path: Path) -> None:
    """Write a member's logits of positions lo…hi - 1."""
    T, rows = positions.block_size, 0
    half = member.how.dtype == "bfloat16"
    with storage.atomic_path(path) as temporary, loaded(member) as model:
        shape = (hi - lo, member.vocab_size)
        array = np.lib.format.open_memmap(temporary, "w+", np.uint16 if half else np.float32, shape)
        batch = batch_of(member.how, T, member.vocab_size)
        for first in range(lo // T, -(-hi // T), batch):
            last = min(first + batch, -(-hi // T))
            logits = predict(member, model, positions.inputs(first, last)).flatten(0, 1)
            if logits.shape[1] != member.vocab_size:
                raise UserError(f"{member.name}: gives {logits.shape[1]} logits, {member.vocab_size} before")
            logits = logits[max(0, lo - first * T) : hi - first * T].cpu()
            array[rows : rows + len(logits)] = logits.view(torch.uint16).numpy() if half else logits.float().numpy()
            rows += len(logits)
        array.flush()
        del array


MAX_BEYOND = 0.01  # of a member's probability, on tokens that not all members have


def outcomes(members: Sequence[Member]) -> tuple[int | None, bool]:
    """How many tokens all members predict (None: not known), and whether some predict more: a vocabulary is padded to
    a round number, and the tokens that fill it never come, so they are one further outcome."""
    widths = {m.vocab_size for m in members}
    return (None, False) if None in widths else (min(widths), len(widths) > 1)


def _logits_of(member: Member, spool: Path, lo: int, a: int, b: int) -> torch.Tensor:
    """(b - a, V) float32: logits of positions a…b - 1, of a chunk that begins at `lo`."""
    if member.is_dump:
        return member.logits(a, b)
    rows = torch.from_numpy(np.array(np.load(spool, mmap_mode="r")[a - lo : b - lo]))
    return rows.view(torch.bfloat16).float() if member.how.dtype == "bfloat16" else rows


def _bucketed(logits: torch.Tensor, common: int, padded: bool) -> torch.Tensor:
    """With the tokens that not all members have as one."""
    if not padded:
        return logits
    return torch.cat((logits[:, :common], logits[:, common:].logsumexp(-1, keepdim=True)), 1)


def _compare(members, evaluator: metrics.Evaluator, positions: Positions, lo: int, hi: int, spools) -> None:
    """All pairs at positions lo…hi - 1, a block of rows at a time."""
    n, (common, padded), device = len(members), outcomes(members), members[0].how.device
    V = common + padded
    rows = min(hi - lo, metrics.positions_at_once(n, V, BLOCK_BYTES, device))
    buffer = torch.empty(n, rows, V, device=device)
    for a in range(lo, hi, rows):
        b = min(a + rows, hi)
        targets = torch.from_numpy(positions.targets[a:b]).to(device)
        logits = (_logits_of(*both, lo, a, b).to(device) for both in zip(members, spools, strict=True))
        block = metrics.block_of((_bucketed(x, common, padded) for x in logits), targets, buffer)
        for member, nll, p in zip(members, block.nll, block.p, strict=True):
            if padded:
                member.beyond = max(member.beyond or 0.0, float(p[:, common].double().mean()))
            if (member.beyond or 0.0) > MAX_BEYOND:
                raise UserError(
                    f"{member.name}: gives {100 * member.beyond:.2g} % of its probability to tokens from {common} on, "
                    f"which not all members have: that is no padding, these are different vocabularies"
                )
            if not np.isfinite(nll).all():
                row = a + int((~np.isfinite(nll)).argmax())
                raise UserError(
                    f"{member.name}: gives the true token at row {row} no probability: its loss is infinite"
                )
        evaluator.add(block)


def _compare_top_k(members, evaluator: metrics.Evaluator, positions: Positions, lo: int, hi: int, spools) -> None:
    """All pairs of top-k dumps. Tokens that both name are compared; all others are one outcome. Relative PD over
    these outcomes is a lower bound of the whole one (a coarser partition has no larger total variation), and so are
    the Hellinger distance and the Jensen–Shannon divergence; were the two models' other tokens all different ones, it
    would be the upper bound. What needs every token is not known."""
    rows = max(1, 2**22 // max(m.values.shape[1] for m in members))
    for a in range(lo, hi, rows):
        b = min(a + rows, hi)
        tops, probabilities, logprobs = zip(*(m.top_k(a, b) for m in members), strict=True)
        best = np.stack([t[np.arange(len(t)), p.argmax(1)] for t, p in zip(tops, probabilities, strict=True)])
        each = [top_k_distances(tops[i], probabilities[i], tops[j], probabilities[j]) for i, j in evaluator.pairs]
        distances = {key: np.stack([pair[key] for pair in each]) for key in (each[0] if each else ())}
        logprobs, unknown = np.stack(logprobs), np.full(b - a, np.nan)
        spreads = [unknown] * len(evaluator.groups)
        evaluator.add_values(-logprobs, np.exp(logprobs), best, positions.targets[a:b], distances, spreads)


def top_k_distances(tokens_p, p, tokens_q, q) -> dict[str, np.ndarray]:
    """Bounds on the distances of two distributions of which the k most likely tokens are known, each (n,).

    Args:
        tokens_p, tokens_q: (n, k) and (n, k') distinct tokens; p, q: their probabilities, float64.
    """
    order = np.argsort(tokens_q, 1)
    tokens_q, q = np.take_along_axis(tokens_q, order, 1), np.take_along_axis(q, order, 1)
    # searchsorted row by row: rows apart by more than any token
    apart = np.arange(len(p))[:, None] * (max(tokens_p.max(), tokens_q.max()) + 1)
    place = np.searchsorted((tokens_q + apart).ravel(), tokens_p + apart)
    place = np.minimum(place, tokens_q.size - 1)
    both = (tokens_q + apart).ravel()[place] == tokens_p + apart
    shared_p, shared_q = p * both, q.ravel()[place] * both
    rest_p, rest_q = (np.clip(1 - x.sum(1), 0, 1) for x in (shared_p, shared_q))
    one = np.concatenate((shared_p, rest_p[:, None]), 1), np.concatenate((shared_q, rest_q[:, None]), 1)
    middle = (one[0] + one[1]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, x * np.log(x / middle), 0) for x in one]
    l1 = np.abs(one[0] - one[1]).sum(1)
    return {
        "relative_pd": l1 / 2,
        "pd_l1": l1,
        "hellinger": np.sqrt(((np.sqrt(one[0]) - np.sqrt(one[1])) ** 2).sum(1) / 2),
        "jensen_shannon": (terms[0] + terms[1]).sum(1) / 2,
        "relative_pd_upper": (np.abs(shared_p - shared_q).sum(1) + rest_p + rest_q) / 2,
    }
