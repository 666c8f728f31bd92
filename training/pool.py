"""Trials side by side, each in a worker process.

A worker is this file run as a script: it reads tasks from its standard input and answers with events on its standard
output, one JSON object a line. It imports nothing of the caller's main module, so that a REPL, a notebook, a script
without a `__main__` guard and standard input work alike. A worker whose caller dies notices that its input ended,
saves a snapshot and stops.

Imports inside of functions keep torch out of questions that are answered without it (`train.py --help`).
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import dataclasses
import gc
import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import questions
import storage
from config import Config, UserError
from storage import StorageError
from training.forecast import SHARED, before_the_last

Task = tuple[str, int]  # (activation, trial)


@dataclass(frozen=True)
class Outcome:
    """How a task ended. status: done, diverged, failed or interrupted; message says why where there is a why."""

    activation: str
    trial: int
    status: str
    message: str = ""
    wrong_input: bool = False


def default_workers(config: Config, n_trials: int) -> int:
    """How many processes train.

    On the CPU: one per group of `threads` cores. The trials that would be left for a last round, in which cores stay
    idle, have processes of their own: with those of the round before they share the cores, see `Crew` (3 trials on 2
    cores: 1.5 rounds, not 2). On GPUs: one on each.
    """
    if config.workers:
        return min(config.workers, n_trials)
    cores = places(config)
    left = n_trials % cores if n_trials > cores and config.device == "cpu" else 0
    return min(n_trials, cores + (left if (1 + left / cores) * SHARED < 2 else 0))


def at_once(config: Config, n_trials: int) -> int:
    """How many of them train side by side at first."""
    workers = default_workers(config, n_trials)
    return workers if n_trials <= workers else before_the_last(config, workers, places(config))


def places(config: Config) -> int:
    """How many trials run at once without sharing cores, or a GPU, with one another."""
    return max(1, usable_cores() // config.threads if config.device == "cpu" else len(gpus(config)))


def gpus(config: Config) -> list[str]:
    """The GPUs over which workers are spread, each as CUDA_VISIBLE_DEVICES names it: all that this process sees when
    the device is `cuda`; none when it is another, or one of the GPUs by its number."""
    if config.device != "cuda":
        return []
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(i) for i in range(count)]


def keep_freed_memory() -> None:
    """Let this process keep what it frees. A training step frees and takes the same tens of megabytes again; glibc
    gives them back to the system in between, and fetching them anew costs 1200 page faults, 6 % of a step's time.
    Elsewhere than on glibc nothing happens."""
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in ((M_TRIM_THRESHOLD, 2**30), (M_MMAP_THRESHOLD, 2**30), (M_TOP_PAD, 2**26)):
            mallopt(parameter, size)


def usable_cores() -> int:
    """Cores that this process may use: those that it is bound to, no more than Slurm gave the task or than its
    container's share of processor time comes to."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(KeyError, ValueError):
        cores = min(cores, int(os.environ["SLURM_CPUS_PER_TASK"]))
    return max(1, math.ceil(min(cores, _quota())))


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """The cores' worth of time that control groups leave this process: cpu.max of its own and of those above
    (docs.kernel.org/admin-guide/cgroup-v2.html), or version 1's cpu.cfs_quota_us; infinity without a limit."""
    quota = math.inf
    with contextlib.suppress(OSError, ValueError):
        lines = own.read_text(encoding="utf-8").splitlines()
        name = next((line[3:] for line in lines if line.startswith("0::")), "/")
        group = root / name.strip("/")
        for folder in [group, *group.parents]:
            with contextlib.suppress(OSError, ValueError):
                limit, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
                quota = min(quota, float(limit) / float(period))  # "max" is no number
            if folder == root:
                break
    with contextlib.suppress(OSError, ValueError):
        files = (root / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period"))
        limit, period = (path.read_text(encoding="utf-8") for path in files)
        quota = min(quota, int(limit) / int(period)) if int(limit) > 0 else quota
    return quota


# -- the caller's side --------------------------------------------------------------------------------------------


class _Worker:
    """A process that trains one task after another, and the thread that hands them to it. One that died is replaced
    where there is another task."""

    def __init__(self, crew: Crew, gpu: str | None, waits: bool):
        self.crew, self.gpu = crew, gpu  # the only GPU that it sees, so `cuda` is this one; None: all
        self.waits = waits  # until the tasks that are left fit on all workers
        self.task: Task | None = None  # that is under way
        self._start()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _start(self) -> None:
        threads = str(self.crew.config.threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            **({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {}),
        }
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 — read when the process ends
        self.process = subprocess.Popen(
            [sys.executable, "-P", os.path.abspath(__file__)],  # -P: modules of this folder stay in their package
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env=environment,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches the caller alone, who stops the workers in order
        )
        self._write([self.crew.job, self.crew.config.to_dict()])

    def _write(self, message) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # it died, or its input was closed: _train says so
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def _work(self) -> None:
        while self.waits and not self.crew.all_can_work():
            time.sleep(0.05)
        while (task := self.crew.tasks.get()) is not None:
            self.task = task
            try:
                end = self._train(task)
            except OSError as error:  # no new process can be had
                end = {"status": "failed", "message": str(error)}
            self.task = None
            self.crew.events.put({"event": "end", "activation": task[0], "trial": task[1], **end})

    def _train(self, task: Task) -> dict:
        """How a task ended; the events before are passed on."""
        if self.process.poll() is not None and not self.crew.dismissed:
            self._close()
            self._start()
        self._write(list(task))
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if event["event"] == "end":
                    return event
                self.crew.events.put(event)
        self.process.wait()
        return {"status": "failed", "message": self._end_message()}

    def _end_message(self) -> str:
        code = self.process.returncode
        how = (
            f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with status {code}"
        )
        hint = " — perhaps out of memory; try fewer --workers" if code == -signal.SIGKILL else ""
        self.stderr.seek(0)
        words = self.stderr.read().decode(errors="replace").strip().splitlines()
        return f"the worker process {how}{hint}" + (f": {words[-1]}" if words else "")

    def ask_to_end(self, at_once: bool) -> None:
        """When it is through, or with a snapshot of what is under way."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if at_once and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def ended(self) -> None:
        """Close what its process leaves open."""
        self.process.wait()
        self.thread.join()
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.stderr.close()


class Crew:
    """Worker processes, and the tasks that wait for them. A worker takes the next one as soon as it has ended one,
    whatever the caller is doing then: measuring and drawing take their time. Hired ahead of its tasks, it is ready when
    they come. With several GPUs each worker has one of them, in turn. `job`: "trial", or what a further question trains
    in its place (questions, JOBS).

    Workers for whom there is no core wait until the tasks that are left fit on all: two processes that share one core
    take more from each other's caches than they gain, unless cores were idle otherwise."""

    def __init__(self, config: Config, workers: int, job: str = "trial"):
        self.config, self.job, self.dismissed, self.handed_out = config, job, False, False
        self.events: queue.Queue = queue.Queue()
        self.tasks: queue.Queue[Task | None] = queue.Queue()  # None: no more
        devices = gpus(config)
        devices = devices if len(devices) > 1 else [None]
        at_once = before_the_last(config, workers, places(config))
        self.beyond = workers - at_once
        self.workers = [_Worker(self, devices[i % len(devices)], waits=i >= at_once) for i in range(workers)]

    def hand_out(self, tasks: list[Task]) -> None:
        for task in tasks:
            self.tasks.put(task)
        self.handed_out = True

    def all_can_work(self) -> bool:
        return self.dismissed or (self.handed_out and self.tasks.qsize() <= self.beyond)

    def dismiss(self, graceful: bool) -> None:
        """End the processes: when they are through, or with a snapshot of what is under way. Raises KeyboardInterrupt:
        once more, with the argument "at once": they are killed."""
        self.dismissed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self.tasks.get_nowait()
        for _ in self.workers:
            self.tasks.put(None)
        try:
            for worker in self.workers:
                worker.ask_to_end(at_once=not graceful)
            for worker in self.workers:
                if worker.task is None:  # it has nothing to save
                    worker.process.kill()
                # as long as saving takes; one that has nothing left to save is killed
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(timeout=30 if graceful else None)
                worker.process.kill()  # nothing happens to a process that has ended
        except KeyboardInterrupt:  # asked once more to stop: at once
            for worker in self.workers:
                worker.process.kill()
            raise KeyboardInterrupt("at once") from None
        finally:
            for worker in self.workers:
                worker.ended()
            self.workers = []


def run_trials(
    config: Config,
    tasks: list[Task],
    report: Callable[[dict], None],
    workers: int,
    job: str = "trial",
    crew: Crew | None = None,
) -> Iterator[Outcome]:
    """Train the tasks on `workers` processes and yield an Outcome as each one ends; `report` gets their events. `job`
    as for a Crew; `crew`: one that was hired ahead.

    A trial that another process is training is waited for and then found done. When the caller stops early
    (KeyboardInterrupt, or the generator is closed) the workers save their snapshots before this returns; a second
    KeyboardInterrupt kills them, and goes on as one with the argument "at once".
    """
    said = False  # that others train all that is left
    busy: dict[Task, float] = {}  # trials that others hold -> when to look again
    crew = crew or Crew(config, min(workers, len(tasks)), job)
    left = len(tasks)
    try:
        crew.hand_out(tasks)
        while left:
            now = time.monotonic()
            for task in [t for t, when in busy.items() if when <= now]:
                del busy[task]
                crew.tasks.put(task)
            try:
                event = crew.events.get(timeout=0.5)
            except queue.Empty:
                continue
            if event["event"] != "end":
                report(event)
            elif event["status"] == "busy":
                busy[event["activation"], event["trial"]] = time.monotonic() + 1
                if len(busy) == left and not said:
                    said = True
                    report(_others_train(config, list(busy)))
            else:
                left -= 1
                yield Outcome(**{f.name: event[f.name] for f in dataclasses.fields(Outcome) if f.name in event})
    finally:
        crew.dismiss(graceful=not left)


def run_here(
    config: Config,
    tasks: list[Task],
    report: Callable[[dict], None],
    workers: int = 1,
    stop: Callable[[], bool] | None = None,
    job: str = "trial",
    crew: Crew | None = None,
) -> Iterator[Outcome]:
    """As `run_trials`, one after another in this process; `workers` and `crew` are ignored. `stop` is asked after every
    step."""
    from prepare_data import load_corpus

    corpus = load_corpus(config)
    pending, busy, said = collections.deque(tasks), 0, False
    while pending:
        task = pending.popleft()
        outcome = _attempt(config, task, corpus, report, stop, job)
        if outcome.status != "busy":
            busy = 0
            yield outcome
        elif stop and stop():
            yield Outcome(*task, "interrupted")
        else:
            pending.append(task)
            busy += 1
            if busy >= len(pending):  # others hold all that is left
                if not said:
                    said = True
                    report(_others_train(config, list(pending)))
                time.sleep(1)
                busy = 0


def _others_train(config: Config, tasks: list[Task]) -> dict:
    """A note that nothing is left to do here but to wait, and for whom."""
    hosts = set()
    for task in tasks:
        with contextlib.suppress(StorageError, AttributeError):
            hosts.add(storage.read_json(storage.progress_path(config.checkpoint_dir, *task)).get("host"))
    where = f" on {', '.join(sorted(filter(None, hosts)))}" if any(hosts) else ""
    all_left = "the one trial that is left is" if len(tasks) == 1 else f"all {len(tasks)} trials that are left are"
    text = f"{all_left} being trained by other processes{where}: waiting for their end; this one can be ended instead"
    return {"event": "note", "text": text}


def _attempt(config: Config, task: Task, corpus, report: Callable[[dict], None], stop, job: str = "trial") -> Outcome:
    """Train one trial in this process and say how it ended; `busy` when another process is at it."""
    from training import trial as trials

    train = trials.train_trial if job == "trial" else dict(questions.hooks("JOBS"))[job]
    try:
        record = train(config, *task, corpus, report=report, stop=stop)
        return Outcome(*task, record["status"], _diverged(record))
    except trials.Busy:
        return Outcome(*task, "busy")
    except trials.Interrupted:
        return Outcome(*task, "interrupted")
    except (UserError, StorageError) as error:
        return Outcome(*task, "failed", str(error), isinstance(error, UserError))
    except Exception as error:  # the trial failed, its process goes on: reported in full, exit status 1
        import traceback

        traceback.print_exc()
        return Outcome(*task, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _diverged(record: dict) -> str:
    return f"diverged at step {record['diverged_at_step']}" if record["status"] == "diverged" else ""


# -- the worker's side --------------------------------------------------------------------------------------------


def _worker_main() -> int:
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not get among the events
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    tasks: queue.Queue = queue.Queue()

    def listen():
        for line in sys.stdin:
            tasks.put(json.loads(line))
        tasks.put(None)
        # no more input: the caller is done, or gone; in the latter case the trial under way is saved and left
        stopping.set()

    threading.Thread(target=listen, daemon=True).start()
    first = tasks.get()
    if first is None:
        return 0
    job, settings = first
    keep_freed_memory()
    gc.disable()  # importing torch makes half a million objects, none of which is to go
    from prepare_data import load_corpus
    from training import trial  # noqa: F401 — now, so that all of it is there when the collector is told to leave it alone

    gc.freeze()
    gc.enable()

    def send(event):
        with contextlib.suppress(BrokenPipeError):
            channel.write(json.dumps(event) + "\n")

    config = Config.from_dict(settings)
    corpus = None
    with contextlib.suppress(UserError, StorageError):  # said when there is something to train
        corpus = load_corpus(config)
    while not stopping.is_set():
        try:
            task = tasks.get(timeout=0.2)
        except queue.Empty:
            continue
        if task is None:
            break
        try:
            corpus = corpus or load_corpus(config)
            outcome = _attempt(config, tuple(task), corpus, send, stopping.is_set, job=job)
        except (UserError, StorageError) as error:  # of the corpus
            outcome = Outcome(*task, "failed", str(error), isinstance(error, UserError))
        send({"event": "end", **dataclasses.asdict(outcome)})
    return 0


if __name__ == "__main__":
    status = _worker_main()
    sys.stderr.flush()
    os._exit(status)  # taking torch apart again would take half a second
