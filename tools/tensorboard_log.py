"""The training curves for TensorBoard: `python train.py --tensorboard DIR`, then `tensorboard --logdir DIR`.

    DIR/[STUDY/]ACTIVATION/trial_K      every point of the trial's curves
    DIR/[STUDY/]ACTIVATION              PD along training, and the means over the trials

Only the caller of the trials writes here, from what they report anyway; nothing in training changes. While a trial
trains its points are appended as they come; when its activation is finished the curves are written once more, whole,
from the results. Every file begins with the marker by which TensorBoard forgets what older files say from that step
on, so a resumed trial shows one curve. The package `tensorboard` is needed for this alone.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import io
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

import storage
from config import Config, UserError

# reported by a trial -> (its history in the results, the tag in TensorBoard)
CURVES = {
    "train_loss": ("train_loss_history", "loss/train"),
    "val_loss": ("val_loss_history", "loss/validation"),
    "learning_rate": ("learning_rate_history", "learning_rate"),
    "grad_norm": ("grad_norm_history", "gradient_norm"),
}
PD_CURVE = "relative_pd/mean_of_pairs"  # on the probe
FINAL = ("avg_relative_pd", "avg_val_loss", "avg_train_loss", "avg_training_time")  # tags final/…

_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\..*\.([0-9a-f]{12})")


class Board:
    """Writes the curves of one study below a folder.

    Call `begin` before training, `event` with what the trials report, `finished` with the results of an activation. A
    disk that refuses stops no training: it is told at once, nothing more is written, and the error is kept in
    `problem`.
    """

    def __init__(self, folder: str | os.PathLike, config: Config, tell: Callable[[str], None]):
        """
        Raises:
            UserError: the package tensorboard is not installed, or there can be no such folder.
        """
        where = f"tensorboard={os.fspath(folder)!r}"
        try:
            importlib.import_module("tensorboard")
            self._Event = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
            self._SessionLog = importlib.import_module("tensorboard.compat.proto.event_pb2").SessionLog
            self._Summary = importlib.import_module("tensorboard.compat.proto.summary_pb2").Summary
            self._Writer = importlib.import_module("tensorboard.summary.writer.record_writer").RecordWriter
        except ImportError as error:
            raise UserError(
                f"{where}: needs the package tensorboard ({error}); install it (pip install tensorboard), or leave the "
                f"option out"
            ) from error
        if not os.fspath(folder):
            raise UserError(f"{where}: must be the path of a folder")
        self.folder = Path(folder) / (config.study or "")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{where}: can't be made a folder ({reason}); give another") from error
        if not os.access(self.folder, os.W_OK):
            raise UserError(f"{where}: permission denied; make it writable or give another folder")
        self.config, self.tell = config, tell
        self.problem: storage.StorageError | None = None
        self._resumable: set[tuple[str, int]] = set()
        self._open: dict[tuple[str, int], Path] = {}
        self._before: dict[Path, list[Path]] = {}  # the files of each run as they were at first

    def begin(self, tasks: Iterable[tuple[str, int]]) -> None:
        """What is about to be trained. What was logged of a trial is kept if it can go on from a snapshot."""
        for name, trial in tasks:
            if storage.snapshot_paths(self.config.checkpoint_dir, name, trial):
                self._resumable.add((name, trial))

    def event(self, event: Mapping) -> None:
        """A report of a trial; points of the curves are logged."""
        if event["event"] == "point":
            self._guarded(self._point, event)

    def finished(self, results: dict) -> None:
        """The results of an activation: its trials' whole curves, and its own."""
        self._guarded(self._finished, results)

    def _guarded(self, write: Callable, what: Mapping) -> None:
        if self.problem is None:
            try:
                write(what)
            except storage.StorageError as error:
                self.problem = error
                self.tell(f"{error}; going on without the log")

    def _point(self, event: Mapping) -> None:
        task, step = (event["activation"], event["trial"]), event["step"]
        data = self._scalars(time.time(), step, {tag: event[key] for key, (_, tag) in CURVES.items()})
        if task not in self._open:
            run = self._run(*task)
            files = self._files(run)
            same = bool(files) and _FILE.fullmatch(files[-1].name)[2] == self._mark
            first = step if same and task in self._resumable else 0
            self._open[task] = self._next(run, files)
            data = self._start(time.time(), first) + data
            if first == 0:
                self._clear(run)
        storage.append_bytes(self._open[task], data)

    def _finished(self, results: dict) -> None:
        end = datetime.datetime.fromisoformat(results["timestamp"]).timestamp()
        name = results["activation"]
        for t in results["trials"]:
            seconds, steps = t["training_time"], t["steps"]
            curves = {tag: dict(zip(steps, t[history], strict=True)) for history, tag in CURVES.values()}
            # when each point was taken is not recorded; TensorBoard's relative time shows seconds of training
            times = {step: end - seconds * (1 - step / max(steps[-1], 1)) for step in steps}
            self._whole(self._run(name, t["trial_id"]), times, curves)
        steps = results["divergence"]["steps"]
        pds = [pair["relative_pd"] for pair in results["divergence"]["pairs"].values()]
        curves = {PD_CURVE: dict(zip(steps, np.mean(pds, 0).tolist(), strict=True))} if pds else {}
        curves |= {f"final/{key}": {steps[-1]: results[key]} for key in FINAL if steps and results[key] is not None}
        self._whole(self._run(name), dict.fromkeys(steps, end), curves)

    def _whole(self, run: Path, times: dict[int, float], curves: dict[str, dict[int, float]]) -> None:
        """Everything there is to say about a run, in the place of what older files say."""
        if not times:
            return
        data = self._start(min(times.values()), 0)
        for step, when in times.items():
            data += self._scalars(when, step, {tag: curve[step] for tag, curve in curves.items() if step in curve})
        files = self._files(run)
        if not files or storage.read_bytes(files[-1]) != data:
            storage.write_bytes(self._next(run, files), data)
            self._clear(run)

    # files

    @property
    def _mark(self) -> str:
        return self.config.fingerprint()[:12]

    def _run(self, activation: str, trial: int | None = None) -> Path:
        folder = self.folder / storage.file_name(activation)
        return folder if trial is None else folder / f"trial_{trial}"

    def _files(self, run: Path) -> list[Path]:
        """Our files of a run, in the order in which TensorBoard reads them: by name."""
        files = sorted(path for path in run.glob("events.out.tfevents.*") if _FILE.fullmatch(path.name))
        self._before.setdefault(run, files)
        return files

    def _clear(self, run: Path) -> None:
        """Remove what a new file has made obsolete: all that was there at first, but the last. A TensorBoard that looks
        on is at the last, and would not find the way from a file that is gone to the next one."""
        for path in self._before[run][:-1]:
            with contextlib.suppress(OSError):
                path.unlink()

    def _next(self, run: Path, files: list[Path]) -> Path:
        """A name that comes after all of `files`, whatever the clocks of the machines say."""
        last = int(_FILE.fullmatch(files[-1].name)[1]) if files else 0
        number = max(int(time.time()), last + 1)
        return run / f"events.out.tfevents.{number:010d}.{storage.host_name()}.{os.getpid()}.{self._mark}"

    # records

    def _start(self, when: float, step: int) -> bytes:
        """How a file begins: of older files, all that is said from `step` on is to be forgotten."""
        start = self._SessionLog(status=self._SessionLog.START)
        version = self._record(wall_time=when, file_version="brain.Event:2")
        return version + self._record(wall_time=when, step=step, session_log=start)

    def _scalars(self, when: float, step: int, values: dict[str, float]) -> bytes:
        summary = self._Summary(value=[self._Summary.Value(tag=t, simple_value=x) for t, x in values.items()])
        return self._record(wall_time=when, step=step, summary=summary)

    def _record(self, **event) -> bytes:
        buffer = io.BytesIO()
        self._Writer(buffer).write(self._Event(**event).SerializeToString())
        return buffer.getvalue()
