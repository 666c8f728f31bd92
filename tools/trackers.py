"""Where trainings are watched: TensorBoard (`--tensorboard DIR`), Weights & Biases or Trackio (`--track NAME`).

    [STUDY/]ACTIVATION/trial_K      every point of the trial's curves, its final loss and PD
    [STUDY/]ACTIVATION              PD along training, and the means over the trials

One sink serves them all: it listens to what the trials report anyway and logs each point as it comes; once an
activation is finished, what was not seen live is logged from its results. What was logged is remembered in a small
file, so that each trial is logged once, whatever is asked again. A tracker that fails stops no training and no command.
The package that is named is needed for this alone; where it writes to is for its own settings to say (WANDB_PROJECT,
WANDB_MODE=offline, TRACKIO_DIR, …).
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import io
import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

import storage
from analysis.results import Measured
from config import Config, UserError

PACKAGES = ("wandb", "trackio")
PROJECT = "activation-reproducibility"
SECONDS = 30  # that a server may take to answer
# reported by a trial -> (its history in the results, its tag, its unit)
CURVES = {
    "train_loss": ("train_loss_history", "loss/train", "nats per token, on fixed training windows"),
    "val_loss": ("val_loss_history", "loss/validation", "nats per token, on fixed validation windows"),
    "learning_rate": ("learning_rate_history", "learning_rate", "per step"),
    "grad_norm": ("grad_norm_history", "gradient_norm", "L2 norm over all parameters, before clipping"),
}
PD_CURVE = "relative_pd/mean_of_pairs"
MEANS = {  # of an activation -> unit; tags final/…
    "avg_relative_pd": "0 to 1, mean over pairs of trials",
    "avg_val_loss": "nats per token",
    "avg_train_loss": "nats per token",
    "avg_training_time": "seconds",
}


class Sink:
    """One study's runs in one tracker.

    Call `event` with what the trials report, `finished` with the results of an activation, `close` in the end.
    """

    def __init__(self, tracker: TensorBoard | Tracker, config: Config, below: str | None, tell: Callable[[str], None]):
        """`below`: what the names of the runs begin with; None: the study's name."""
        self.tracker, self.config, self.tell = tracker, config, tell
        self.below = config.study if below is None else below
        self.broken = False
        self.live: dict[str, object] = {}  # name of a trial's run -> that run
        self.seen: dict[str, set[int]] = {}  # name of a trial's run -> the steps that were logged live
        self.logged = self._remembered()  # name of a run -> {"id", "weights" (of what was logged whole; else None)}

    def event(self, event: Mapping) -> None:
        """A report of a trial; points of the curves are logged."""
        if event["event"] == "point":
            self._guarded(self._point, event)

    def finished(self, results: dict) -> None:
        """The results of an activation: what is missing of its trials, and its own run."""
        self._guarded(self._finished, results)

    def close(self) -> None:
        """End the runs of trials that did not end themselves."""
        while self.live:
            self._guarded(self.live.popitem()[1].close)

    def _guarded(self, act: Callable, *given) -> None:
        if self.broken:
            return
        try:
            act(*given)
        except Exception as error:  # whatever the package, its server, the network or the disk has to say
            self.broken = True
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            self.tell(f"{self.tracker.name}: {reason}; going on without it: the same command logs what is missing")

    def _point(self, event: Mapping) -> None:
        activation, trial, step = event["activation"], event["trial"], event["step"]
        name = self._name(activation, trial)
        if name not in self.live:
            before = self.logged.get(name)
            goes_on = step > 0 and before == {"id": self._id(name), "weights": None}
            facts = self._facts(activation, {"trial": trial, "seed": self.config.seed_base + trial - 1})
            self.live[name] = self._open(name, name, facts, step if goes_on else 0)
        self.seen.setdefault(name, set()).add(step)
        self.live[name].log(step, _values({tag: event[key] for key, (_, tag, _) in CURVES.items()}, step))

    def _finished(self, results: dict) -> None:
        m, trials = Measured(results["activation"], results), results["trials"]
        for t in trials:
            own = [pair.relative_pd for pair in m.pairs.values() if t["trial_id"] in (pair.i, pair.j)]
            final = {"final/val_loss": t["val_loss"], "final/relative_pd": np.mean(own) if own else None}
            curves = {tag: t[history] for history, tag, _ in CURVES.values()}
            name = self._name(m.name, t["trial_id"])
            facts = self._facts(m.name, {"trial": t["trial_id"], "seed": t["seed"]})
            self._whole(name, name, facts, t["steps"], curves, final, [t.get("weights_sha256")])
        pairs = [pair["relative_pd"] for pair in results["divergence"]["pairs"].values()]
        final = {f"final/{key}": results[key] for key in MEANS}
        final |= dict(zip(("final/pd_low", "final/pd_high"), m.pd_interval[1:], strict=True))
        name, weights = self._name(m.name), [t.get("weights_sha256") for t in trials]
        title = name if self.tracker.rewrites else f"{name}, {len(weights)} trials"
        curves = {PD_CURVE: np.mean(pairs, 0)} if pairs else {}
        facts = self._facts(m.name, {"trials": len(weights)})
        self._whole(name, title, facts, results["divergence"]["steps"], curves, final, weights)

    def _whole(self, name: str, title: str, facts: dict, steps: list[int], curves: dict, final: dict, weights) -> None:
        """Log the whole run, unless it was logged before: what was logged while it was trained is not logged again."""
        run, checksum = self.live.pop(name, None), storage.sha256_json(weights)
        if run and not set(steps) <= self.seen[name]:
            run.close()
            run = None
        if not run and (not steps or self.logged.get(name, {}).get("weights") == checksum):
            return
        if not run:
            run = self._open(name, title, facts, 0)
            for i, step in enumerate(steps):
                run.log(step, _values({tag: curve[i] for tag, curve in curves.items()}, step))
        run.end(steps[-1], _values(final))
        self._remember(name, self.logged[name]["id"], checksum)

    def _open(self, name: str, title: str, facts: dict, since: int):
        """A run whose points from the step `since` on are to be logged, in the place of any that it has there."""
        run = self._id(name, self.logged.get(name))
        self._remember(name, run, None)
        return self.tracker.open(title, run, facts, since)

    def _name(self, activation: str, trial: int | None = None) -> str:
        parts = [self.below, storage.file_name(activation), trial and f"trial_{trial}"]
        return "/".join(filter(None, parts))

    def _facts(self, activation: str, more: dict) -> dict:
        """What a run can be filtered by."""
        settings = {key: value for key, value in self.config.to_dict().items() if value is not None}
        own = {"activation": activation, "study": self.config.study or "", "fingerprint": self.config.fingerprint()}
        return {**settings, **own, **more}

    def _id(self, name: str, before: Mapping | None = None) -> str:
        """Of a run: the same for the same training, another where a whole one has to be logged once more."""
        parts = [self.config.fingerprint(), name]
        if before and before["weights"]:
            parts = [before["id"], before["weights"]]
        return storage.sha256_json(parts)[:16]

    def _remembered(self) -> dict[str, dict]:
        try:
            contents = storage.read_json(self.tracker.memory(self.config))
            return {name: value for name, value in contents.items() if isinstance(value, dict)}
        except (storage.StorageError, AttributeError):
            return {}

    def _remember(self, name: str, run: str, weights: str | None) -> None:
        self.logged = {**self._remembered(), name: {"id": run, "weights": weights}}  # others log into it too
        storage.write_json(self.tracker.memory(self.config), self.logged)


def _values(values: Mapping[str, float | None], step: int = 1) -> dict[str, float]:
    """Those that were measured: no gradient before the first step."""
    return {tag: float(x) for tag, x in values.items() if x is not None and (step or tag != "gradient_norm")}


# -- TensorBoard --------------------------------------------------------------------------------------------------


class TensorBoard:
    """Event files below a folder, by torch.utils.tensorboard. A file says from which step on it replaces older ones."""

    name, rewrites = "tensorboard", True

    def __init__(self, folder: str | os.PathLike):
        """
        Raises:
            UserError: the package tensorboard is not installed, or there can be no such folder.
        """
        where = f"tensorboard={os.fspath(folder)!r}"
        try:
            importlib.import_module("tensorboard")
            self.module = importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise UserError(
                f"{where}: needs the package tensorboard ({error}); install it (pip install tensorboard), or leave the "
                f"option out"
            ) from error
        if not os.fspath(folder):
            raise UserError(f"{where}: must be the path of a folder")
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{where}: can't be made a folder ({reason}); give another") from error
        if not os.access(self.folder, os.W_OK):
            raise UserError(f"{where}: permission denied; make it writable or give another folder")
        hook = threading.excepthook  # what the thread that writes can't is raised here too, at the next point
        threading.excepthook = lambda raised: type(raised.thread).__name__ == "_AsyncWriterThread" or hook(raised)

    def memory(self, config: Config) -> Path:
        return self.folder / ".logged.json"

    def open(self, name: str, run: str, facts: dict, since: int) -> _Board:
        folder = self.folder / name
        if since == 0:
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink(missing_ok=True)
        return _Board(self.module.SummaryWriter(str(folder), purge_step=since), facts)


class _Board:
    def __init__(self, writer, facts: dict):
        self.writer, self.facts = writer, facts

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import scalar

        units = {tag: unit for _, tag, unit in CURVES.values()} | {f"final/{key}": MEANS[key] for key in MEANS}
        for tag, x in values.items():
            summary = scalar(tag, x)
            summary.value[0].metadata.summary_description = units.get(tag, "0 to 1")
            self.writer.file_writer.add_summary(summary, step)
        self.writer.flush()  # it is watched

    def end(self, step: int, values: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams

        self.log(step, values)
        simple = {key: x for key, x in self.facts.items() if isinstance(x, (bool, int, float, str))}
        for summary in hparams(simple, dict(values)):
            self.writer.file_writer.add_summary(summary)
        self.close()

    def close(self) -> None:
        self.writer.close()


# -- trackers -----------------------------------------------------------------------------------------------------


class Tracker:
    """Weights & Biases or Trackio, which have the same calls."""

    rewrites = False

    def __init__(self, package: str, tell: Callable[[str], None]):
        """
        Raises:
            UserError: an unknown tracker, its package is not installed, or it has no login.
        """
        if package not in PACKAGES:
            raise UserError(f"track={package!r}: must be one of {', '.join(PACKAGES)}")
        self.name, self.more = package, {}
        try:
            self.package = importlib.import_module(package)
            self.package.init  # noqa: B018 — a folder wandb/, as runs leave one, would be imported as a package too
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"track={package!r}: needs that package ({error}); install it (pip install {package}), or leave the "
                f"option out"
            ) from error
        self.more = {"embed": False} if package == "trackio" else {"reinit": "create_new", "settings": self._settings()}
        if package == "wandb" and os.environ.get("WANDB_MODE", "online").lower() in ("online", "run", "shared"):
            self._log_in(tell)

    def _settings(self) -> dict:
        wanted = {"silent": True, "console": "off", "init_timeout": SECONDS}
        wanted |= {"finish_timeout": SECONDS, "finish_timeout_raises": True}
        fields = getattr(getattr(self.package, "Settings", None), "model_fields", wanted)
        return {name: value for name, value in wanted.items() if name in fields}

    def _log_in(self, tell: Callable[[str], None]) -> None:
        """Before training: a login, or runs that stay on this machine where its server is out of reach."""
        settings = getattr(self.package, "Settings", lambda: None)()
        server = urllib.parse.urlsplit(getattr(settings, "base_url", "https://api.wandb.ai"))
        try:
            if not urllib.request.getproxies():  # that we can't speak for
                socket.create_connection((server.hostname, server.port or 443), timeout=5).close()
        except OSError as error:
            self.more["mode"] = "offline"
            tell(f"wandb: {server.hostname} can't be reached ({error}); runs are kept offline, `wandb sync` sends them")
            return
        try:
            self.package.login(verify=True)
        except Exception as error:
            raise UserError(
                f"track='wandb': {' '.join(str(error).split())}; or keep the runs on this machine: WANDB_MODE=offline"
            ) from error

    def memory(self, config: Config) -> Path:
        return Path(config.results_dir) / f".{self.name}.json"

    def open(self, name: str, run: str, facts: dict, since: int) -> _Run:
        units = {tag: unit for _, tag, unit in CURVES.values()}
        given = {"project": os.environ.get("WANDB_PROJECT") or PROJECT, "resume": "allow", **self.more}
        given |= {"group": name.partition("/trial_")[0].partition(",")[0], "config": {**facts, "units": units}}
        # Trackio knows a run by its name
        given |= {"name": name, "id": run} if self.name == "wandb" else {"name": f"{name} {run[:6]}"}
        with contextlib.redirect_stdout(io.StringIO()):
            # in a context of its own: else trackio ends the run before
            return _Run(contextvars.Context().run(lambda: self.package.init(**given)))


class _Run:
    def __init__(self, run):
        self.run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def end(self, step: int, values: Mapping[str, float]) -> None:
        self.log(step, values)
        self.close()

    def close(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.run.finish()
