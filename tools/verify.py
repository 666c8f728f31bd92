"""Derive every published number again: checkpoints from settings, seeds and weights; results, with their audit, from
the checkpoints; tables, reports and figures from the results.

`python analyze_results.py --verify` is for whoever doubts a number, or received a folder from somebody else. What only
training itself could give again is listed in RECORDED_ONLY, and said.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import torch

import audit
import storage
from analysis import checks, question
from analysis.products import Drawing, Folder, Product
from analysis.results import results_files
from analysis.template import plain
from cli import counted
from config import GONE, Config, RunFailed, UserError, lacking
from prepare_data import Corpus, load_corpus
from training import experiment, machine
from training import trial as trials
from training.parts import Branches
from training.schedule import learning_rate

RECORDED_ONLY = tomllib.loads(plain("recorded.toml"))  # {what: why it can't be derived again}
SETTINGS_ONLY = {f.name for f in dataclasses.fields(Config) if not f.metadata["affects_results"]} - {
    "preset"
} | GONE.keys()
TOLERANCE = 1e-6  # relative; on the machine that made the results the difference is 0
ELSEWHERE = 1e-3  # on another one, whose sums are rounded otherwise
IN_WORDS = 1e-3  # numbers in the words of a check are rounded
RECORDED = object()  # stands where nothing can be derived again


@dataclass
class Verified:
    """One file: what is wrong with it, one line each, and what else must be said of it."""

    name: str
    problems: list[str] = field(default_factory=list)
    note: str = ""
    not_shipped: int = 0  # checkpoints that whoever published the study kept


def verify(folder: Folder, products: Iterable[Product]) -> Iterator[Verified]:
    """Every file of the study in the folder and of its studies of single sources, as far as it is there: what a study
    never had is not missing."""
    names = set()
    for verified in _everything(folder, products):
        names.add(verified.name)
        yield verified
    for path in _files(folder):
        if str(path) not in names:
            asked = path.name == question.FILE
            note = "recorded: what was asked" if asked else "not verified: nothing here makes such a file"
            yield Verified(str(path), note=note)


def _files(folder: Folder) -> list[Path]:
    """What a reader may take for a part of the study: of checkpoints, finished ones and snapshots."""
    paths = [*folder.results.rglob("*"), *folder.plots.rglob("*")]
    paths += [path for kind in ("pt", "snapshot") for path in folder.checkpoints.rglob(f"*.{kind}")]
    return sorted({path for path in paths if path.is_file() and not path.name.startswith(".")})


def _everything(folder: Folder, products: Iterable[Product]) -> Iterator[Verified]:
    yield from _activations(folder)
    for path in sorted(folder.results.glob("sources/*/")):
        below = {name: getattr(folder, name) / "sources" / path.name for name in ("results", "plots", "checkpoints")}
        yield from _everything(dataclasses.replace(folder, **below), products)
    try:
        folder.study  # noqa: B018 — read here, to say once that there is none
    except (UserError, storage.StorageError) as error:
        yield Verified(str(folder.results), [str(error)])
        products = [product for product in products if product.needs]
    for product in products:
        if product.there(folder):
            yield from _product(product, folder)


def _product(product: Product, folder: Folder) -> Iterator[Verified]:
    """What was measured, measured again; what is made of it, made again."""
    measurable = product.measure and (not product.weights or any(folder.checkpoints.rglob("*.pt")))
    if product.measure and not measurable:
        for path in sorted(folder.results.glob(product.needs)):
            yield Verified(str(path), note="not verified: the checkpoints are not shipped")
    try:
        for path, again in (product.measure(folder) if measurable else {}).items():
            yield Verified(
                str(path), _guarded(lambda p=path, a=again: differences(storage.read_json(p), a)), product.note
            )
    except (UserError, storage.StorageError, RunFailed) as error:
        yield from (Verified(str(path), [str(error)]) for path in sorted(folder.results.glob(product.needs)))
    try:
        made = product.make(folder)
    except (UserError, storage.StorageError) as error:
        yield Verified(product.name, [str(error)])
        return
    for path, thing in made.items():
        yield from _text(path, thing) if isinstance(thing, str) else _drawn(path, thing, folder.plots)


# -- checkpoints and results --------------------------------------------------------------------------------------


def _activations(folder: Folder) -> Iterator[Verified]:
    """The results files of a folder, each after its checkpoints."""
    corpora: dict[str, Corpus] = {}
    shipped = any(folder.checkpoints.rglob("*.pt"))
    for path in results_files(folder.results):
        verified = Verified(str(path))
        try:
            recorded = storage.read_results(path)
            recorded.pop("pd_at_val_loss", None)  # of older versions, and nothing reads it
            config, name = folder.config(recorded), recorded["activation"]
            if recorded.get("schema_version") != storage.SCHEMA_VERSION:
                raise UserError("written by another version of this program; train.py measures it again")
            numbers = experiment.existing_trials(config, name)
            if not shipped:
                yield _without_checkpoints(verified, recorded)
                continue
            if reason := experiment.outdated(recorded, config):
                raise UserError(f"{reason}; train.py measures it again")
            if config.fingerprint() not in corpora:
                corpora[config.fingerprint()] = load_corpus(config)
            corpus = corpora[config.fingerprint()]
            for trial in numbers:
                yield _checkpoint(config, name, trial, corpus)
            missing = [str(k) for k in range(1, config.trials_per_activation + 1) if k not in numbers]
            if missing:
                raise UserError(f"trial {', '.join(missing)} of {name} is not in {config.checkpoint_dir}")
            again = derived_results(recorded, config, corpus)
            environment = recorded.get("environment")
            verified.problems = list(differences(recorded, again, tolerance=tolerance(environment, config)))
            verified.note = _elsewhere(environment, config)
        except (UserError, storage.StorageError) as error:
            verified.problems = [str(error)]
        yield verified


def _without_checkpoints(verified: Verified, recorded: dict) -> Verified:
    """A results file of a study that was published without its models: what follows from its own trials and pairs."""
    done = [trial for trial in recorded["trials"] if trial["status"] == "done"]
    again = experiment.averages(done, recorded["reproducibility_metrics"])
    verified.problems = list(differences({key: recorded.get(key) for key in again}, again))
    verified.not_shipped = len(recorded["trials"])
    verified.note = (
        f"not shipped: {counted(verified.not_shipped, 'checkpoint')}; its averages follow from its trials and pairs"
    )
    return verified


def _checkpoint(config: Config, activation: str, trial: int, corpus: Corpus) -> Verified:
    path = storage.checkpoint_path(config.checkpoint_dir, activation, trial)
    verified = Verified(str(path))
    try:
        saved = storage.load_checkpoint(path)
        trials.check_same_experiment(config, activation, trial, saved, corpus, path)
        again = derived_checkpoint(saved, corpus)
    except (UserError, storage.StorageError) as error:
        verified.problems = [str(error)]
    except Exception as error:  # contents of any kind, sealed by whoever wrote them
        verified.problems = [f"its contents can't be those of a trial ({type(error).__name__}: {error})"]
    else:
        verified.problems = list(checkpoint_differences(saved, again))
    return verified


def checkpoint_differences(saved: dict, again: dict) -> Iterator[str]:
    """What a checkpoint holds and what was derived again, see `derived_checkpoint`."""
    near = tolerance(saved.get("environment"), Config.from_dict(saved["config"]))
    yield from differences(_with_points(saved), again, tolerance=near)


def derived_checkpoint(saved: dict, corpus: Corpus) -> dict:
    """What the contents of a checkpoint must be, by its settings, seeds and weights; RECORDED where they don't tell.

    The trial is set up anew, which gives its first point; with the weights it ends with, it gives the last one.
    """
    recorded = Config.from_dict(saved["config"])
    config = _here(recorded.replace(compile=False, native=False))  # how it was trained; evaluation is the same
    record, weights = saved["record"], saved["weights"]
    training = trials.Training(config, saved["activation"], saved["trial"], corpus)
    with machine.torch_settings(config), machine.own_randomness(config.device):
        training.record_point()
        if weights:
            _put(training, weights)
            training.step = training.steps
            training.record_point()
        first_and_last = {name: list(values) for name, values in training.history.items()}
        every = [*range(0, config.max_iters, config.eval_interval), config.max_iters]
        steps = every if weights else every[: len(record["steps"])]
        training.history = _curves(config, first_and_last, record, steps)
        training.watch.seconds = record["training_time"]
        if not weights:
            training.diverged_at = record["diverged_at_step"]
        again = training.contents(training.record())
        again["branches"] = _branches(training, saved) if weights else {}
        if "averages" in again:
            again["averages"] = {n: {**mean, "weights": RECORDED} for n, mean in saved.get("averages", {}).items()}
    again["record"] |= dict.fromkeys(("training_time", "total_time", "ended"), RECORDED)
    if "averages" in again:
        again["record"]["averages_time"] = RECORDED
    if not weights:
        again["record"] |= dict.fromkeys(("diverged_at_step", "tokens_per_second", "weights_sha256"), RECORDED)
    for name, values in first_and_last.items():
        if name not in ("steps", "learning_rate_history"):
            last = values[1:] or [RECORDED]
            again["record"][name] = [values[0], *[RECORDED] * (len(steps) - 2), *last][: len(steps)]
    again["record"]["grad_norm_history"] = [0.0, *[RECORDED] * (len(steps) - 1)][: len(steps)]
    again |= {"weights": RECORDED, "environment": RECORDED, "schema_version": RECORDED}
    again["config"] = {**recorded.to_dict(), **dict.fromkeys(SETTINGS_ONLY, RECORDED), "preset": RECORDED}
    again["config"] |= _not_yet(saved["config"], again["config"])
    again["fingerprint"] = recorded.fingerprint()
    return _with_points(again, len(steps))


def _not_yet(recorded: dict, again: dict) -> dict:
    """The settings that a record may lack: they were added to the program later, and have the value of what was done
    before."""
    before = {f.name: f.metadata["before"] for f in dataclasses.fields(Config)}
    return {name: RECORDED for name, value in again.items() if name not in recorded and value == before.get(name)}


def _here(config: Config) -> Config:
    """The settings on this machine, which may not have the device."""
    return config.replace(device="cpu") if lacking(config) else config


@torch.no_grad()
def _put(training: trials.Training, weights: dict) -> None:
    for name, weight in zip(training.optimiser.names, training.optimiser.weights, strict=True):
        weight.copy_(weights[name])


def _branches(training: trials.Training, saved: dict) -> dict:
    """Those of a trunk, each with the losses that follow from its weights."""
    (part,) = (part for part in training.parts if isinstance(part, Branches))
    for leg in training.legs:
        if leg.side:
            _put(training, saved["branches"][str(leg.branch.leaves)]["weights"])
            part.keep(leg.branch)
    return {name: {**branch, "weights": RECORDED} for name, branch in part.branches.items()}


def _curves(config: Config, first_and_last: dict, record: dict, steps: list[int]) -> dict:
    """The curves with what can be derived of them: the steps, the rates and the two ends. Between these they are as
    recorded, so that the best point among them can be looked for."""
    curves = {
        "steps": steps,
        "learning_rate_history": [learning_rate(config, min(s, config.max_iters - 1)) for s in steps],
    }
    for name in first_and_last.keys() - curves.keys():
        values = [float(x) for x in record[name]]
        values += [math.nan] * (len(steps) - len(values))
        values[0] = first_and_last[name][0]
        if len(first_and_last[name]) > 1:
            values[len(steps) - 1] = first_and_last[name][1]
        curves[name] = values[: len(steps)]
    return curves


def _with_points(contents: dict, points: int | None = None) -> dict:
    """Contents of a checkpoint with the first and last of its predictions on the probe, and their number, in the place
    of all: those between can't be derived."""
    made = dict(contents)
    for name in ("probe", "probe_argmax"):
        stored = contents.get(name)
        if isinstance(stored, torch.Tensor) and len(stored):
            both = {"points": points or len(stored), "first": stored[0]}
            made[name] = both | ({"last": stored[-1]} if contents["record"]["status"] == "done" else {})
    return made


def derived_results(recorded: dict, config: Config, corpus: Corpus) -> dict:
    """What the contents of a results file must be, by the checkpoints of its trials; RECORDED where they don't tell."""
    name = recorded["activation"]
    device = _here(config).device
    again = experiment.measure(config, name, corpus, device=None if device == config.device else device)
    again["config"] = {**config.to_dict(), **dict.fromkeys(SETTINGS_ONLY, RECORDED)}
    for trial in experiment.existing_trials(config, name)[
        :1
    ]:  # they agree; how many positions are evaluated is settled after training
        saved = storage.load_checkpoint(storage.checkpoint_path(config.checkpoint_dir, name, trial), whole=False)
        settings = Config.from_dict(saved["config"]).to_dict()
        again["config"] |= {k: settings[k] for k in settings.keys() - SETTINGS_ONLY - {"eval_tokens"}}
    again["config"] |= _not_yet(recorded.get("config") or {}, again["config"])
    after = checks.after_training(again)
    if lacking(config):  # this machine can't train so
        said = (recorded.get("audit") or {}).get("checks", [])
        before = said[: len(said) - len(after)]
    else:
        before = audit.before_training(config, name, corpus)
    again["audit"] = {"passed": all(c["status"] != "fail" for c in before + after), "checks": before + after}
    again |= {"timestamp": RECORDED, "study": RECORDED, "content_sha256": RECORDED}
    for trial in again["trials"]:
        trial["checkpoint"]["path"] = RECORDED
    return again


def tolerance(environment, config: Config) -> float:
    return ELSEWHERE if _elsewhere(environment, config) else TOLERANCE


def _elsewhere(environment, config: Config) -> str:
    """What makes this another machine than the recorded one; '' where it is the same."""
    here = machine.environment(_here(config))
    recorded = environment if isinstance(environment, dict) else {}
    other = [f"{k} {recorded.get(k)}" for k in ("torch", "device_name", "device") if recorded.get(k) != here[k]]
    return other and f"made with {', '.join(other)}: numbers compared to {ELSEWHERE:g}" or ""


def differences(recorded, again, where: str = "", tolerance: float = TOLERANCE) -> Iterator[str]:
    """Where two JSON values, or tensors in their place, differ, one line each; numbers within the tolerance are equal,
    and what is RECORDED is let be."""
    if again is RECORDED:
        return
    if isinstance(recorded, dict) and isinstance(again, dict):
        for key in sorted(set(recorded) | set(again), key=str):
            place = f"{where}.{key}" if where else str(key)
            if key in recorded and key in again:
                yield from differences(recorded[key], again[key], place, tolerance)
            elif again.get(key) is not RECORDED:
                yield f"{place}: only in {'the file' if key in recorded else 'what was derived again'}"
    elif isinstance(recorded, list) and isinstance(again, list):
        if len(recorded) != len(again):
            yield f"{where}: {len(recorded)} entries in the file, {len(again)} derived again"
        for i, (a, b) in enumerate(zip(recorded, again, strict=False)):
            yield from differences(a, b, f"{where}[{i}]", tolerance)
    elif isinstance(recorded, torch.Tensor) and isinstance(again, torch.Tensor):
        yield from _tensor_differences(recorded, again, where, tolerance)
    elif not _same(recorded, again, where, tolerance):
        yield f"{where}: {_short(recorded)} in the file, {_short(again)} derived again"


def _same(recorded, again, where: str, tolerance: float) -> bool:
    if isinstance(recorded, float) and isinstance(again, float):
        return math.isclose(recorded, again, rel_tol=tolerance, abs_tol=1e-12)
    if isinstance(recorded, str) and isinstance(again, str) and where.startswith("audit.checks"):
        return _same_words(recorded, again)
    if where.endswith("sample") and tolerance > TOLERANCE:  # where two tokens are about equally likely, texts part
        return True
    return type(recorded) is type(again) and recorded == again


_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def _same_words(a: str, b: str) -> bool:
    """Whether two texts are the same but for rounding in their numbers."""
    if _NUMBER.split(a) != _NUMBER.split(b):
        return False
    numbers = ([float(x.replace(",", "")) for x in _NUMBER.findall(text)] for text in (a, b))
    return all(math.isclose(x, y, rel_tol=IN_WORDS) for x, y in zip(*numbers, strict=True))


def _tensor_differences(recorded, again, where: str, tolerance: float) -> Iterator[str]:
    if recorded.shape != again.shape or recorded.dtype != again.dtype:
        yield f"{where}: {tuple(recorded.shape)} {recorded.dtype} in the file, {tuple(again.shape)} {again.dtype} again"
        return
    a, b = (np.asarray(x.double()) for x in (recorded, again))
    # predictions are stored in float16: one step there is a thousandth
    apart = ~np.isclose(
        a, b, rtol=max(tolerance, 2**-10) if recorded.is_floating_point() else 0, atol=1e-6, equal_nan=True
    )
    allowed = 0.001 * a.size if tolerance > TOLERANCE else 0
    if apart.sum() > allowed:
        i = tuple(map(int, np.argwhere(apart)[0]))
        yield f"{where}: {int(apart.sum())} of {a.size} values differ, the first at {i}: {a[i]:g}, {b[i]:g} again"


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "…"


# -- what is made of the results ----------------------------------------------------------------------------------


def _text(path: Path, again: str) -> Iterator[Verified]:
    if path.exists():
        yield Verified(str(path), _guarded(lambda: text_differences(path, again)))


def _guarded(find: Callable[[], Iterable[str]]) -> list[str]:
    try:
        return list(find())
    except (UserError, storage.StorageError) as error:
        return [str(error)]


def text_differences(path: Path, expected: str) -> Iterator[str]:
    """Where a file and its text differ, line by line."""
    written = storage.read_bytes(path).decode("utf-8", errors="replace")
    ours, theirs = expected.splitlines(), written.splitlines()
    for n, (a, b) in enumerate(zip(theirs, ours, strict=False), 1):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            a, b = (line[max(0, at - 40) :][:80].strip() for line in (a, b))
            yield f"line {n}: {a!r} in the file, {b!r} derived again"
    if len(ours) != len(theirs):
        yield f"{len(theirs)} lines in the file, {len(ours)} derived again"


KINDS = ("png", "pdf", "svg")


def _drawn(path: Path, draw: Drawing, plots: Path) -> Iterator[Verified]:
    """The figure in the formats that are there. `plots`: where the study's PNG are, which name the version that drew
    them."""
    kinds = [kind for kind in KINDS if path.with_suffix(f".{kind}").exists()]
    if not kinds:
        return
    with tempfile.TemporaryDirectory() as to:
        with contextlib.suppress(UserError):  # what can't be drawn: not verified
            draw(Path(to), formats=kinds)
        for kind in kinds:
            again = Path(to, path.with_suffix(f".{kind}").name)
            if again.exists():
                yield _figure(path.with_suffix(f".{kind}"), again, plots / f"{path.stem}.png")


def _figure(path: Path, again: Path, png: Path | None = None) -> Verified:
    """A figure, and as it is drawn again; `png`: the same in the format that names the version that drew it."""
    if storage.read_bytes(path) == storage.read_bytes(again):
        return Verified(str(path))
    folders = path.parent.parts
    study = f" --study {folders[1]}" if folders[0] == "studies" else ""
    drawing = f"analyze_results.py{study} --paper" if folders[-1] == "paper" else f"plot_utils.py{study}"
    wrong = f"it is not the figure that the results give: draw it again (python {drawing})"
    named = _drawn_by(path if path.suffix == ".png" else png)
    if named is NO_IMAGE and path.suffix == ".png":
        return Verified(str(path), ["it is no image"])
    if named is NO_IMAGE:  # a change can't be told from another version
        return Verified(str(path), [f"{wrong}; or another version of Matplotlib drew it, which is not on record"])
    ours = f"Matplotlib version{matplotlib.__version__}"
    if not str(named).startswith(f"{ours},"):
        return Verified(str(path), note=f"not verified: drawn by {_short(named)}; here it is {ours}")
    return Verified(str(path), [wrong])


NO_IMAGE = object()


def _drawn_by(png: Path | None):
    """What a PNG names as the program that drew it; NO_IMAGE where it is none."""
    from PIL import Image, UnidentifiedImageError

    if png is None or not png.exists():
        return NO_IMAGE
    try:
        with Image.open(png) as opened:
            return opened.info.get("Software")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return NO_IMAGE


# -- on the command line ------------------------------------------------------------------------------------------


def print_verification(folder: Folder, products: Iterable[Product]) -> int:
    """Print ✓ or ✗ for each file, the differences below it, and at last what can't be derived; the number of files that
    are wrong."""
    wrong = not_shipped = 0
    for verified in verify(folder, products):
        not_shipped += verified.not_shipped
        sign = "✗" if verified.problems else "–" if verified.note.startswith("not ") else "✓"
        print(f"{sign} {verified.name}" + (f" ({verified.note})" if verified.note else ""), flush=True)
        for problem in verified.problems[:10]:
            print(f"    {problem}")
        if len(verified.problems) > 10:
            print(f"    … and {len(verified.problems) - 10} more")
        wrong += bool(verified.problems)
    if not_shipped:
        print(f"not shipped: {counted(not_shipped, 'checkpoint')}; what follows from them alone is not verified")
    print("recorded, not derivable:")
    for name, why in RECORDED_ONLY.items():
        print(f"    {name}: {why}")
    return wrong
