"""A study on many machines: `torchrun --nnodes N --nproc-per-node M train.py …`.

Every process (rank) that torchrun starts trains whole trials; what they share is the folder of checkpoints. Rank 0
prepares and audits, tells the others what there is to train, trains with them, and then measures, draws and reports
as a single process does. A trial is taken by locking it, so that no two ranks train the same one, and a rank that is
done with its own share takes what is left of the others'. A trial reads nothing but its arguments and the corpus, so
the results are the same as those of one process. When a rank is lost, torchrun ends the others, which save snapshots;
the next start (`--max-restarts`, or the same command again) goes on from them.

Imports inside of functions keep torch out of questions that are answered without it (`train.py --help`).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from config import Config, RunFailed
from training import pool

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # that torchrun sets
PATIENCE = 60.0  # seconds for all processes to meet
AGAIN = 5.0  # seconds within which Ctrl-C is told twice: by the terminal, and by torchrun


def _under_torchrun() -> bool:
    return set(VARIABLES) <= os.environ.keys()


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun says; (0, 1) without it."""
    if not _under_torchrun():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def machines() -> int:
    """On how many machines torchrun started this job, as far as it says."""
    size = rank_and_size()[1]
    return max(1, size // int(os.environ.get("LOCAL_WORLD_SIZE", size)))


def restarted() -> bool:
    """Whether torchrun starts this job again after a loss: what the first start did must not be undone."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def share_out(tasks: list[pool.Task], rank: int, size: int) -> list[pool.Task]:
    """All tasks, in the order in which this rank tries them: each begins at its own share."""
    first = rank * len(tasks) // size
    return tasks[first:] + tasks[:first]


def spread(config: Config, lead: Callable[[Callable], object]) -> None:
    """Train a study on all ranks.

    Args:
        config: the settings, the same on all ranks.
        lead: called on rank 0 only, with what takes the place of pool.run_trials; it does all but the training.

    Raises:
        KeyboardInterrupt: the job was asked to stop; snapshots are saved.
        Whatever `lead` raises.
    """
    rank, size = rank_and_size()
    _take_gpu(config)
    pool.keep_freed_memory()
    store = _shared_store()
    with _asked_to_stop() as stop:
        if rank:
            settings, tasks = _wait_for(store, "tasks", stop) or (config.to_dict(), [])
            config, tasks = Config.from_dict(settings), share_out([tuple(task) for task in tasks], rank, size)
            for outcome in pool.run_here(config, tasks, lambda event: None, stop=stop):
                if outcome.status == "interrupted":
                    raise KeyboardInterrupt
                if outcome.status == "failed":  # rank 0 will try it again, and answer for it
                    where = f"rank {rank}: {outcome.activation} trial {outcome.trial}"
                    print(f"train.py: {where}: {outcome.message}", file=sys.stderr)
            return

        def run(config, tasks, report, workers) -> Iterator[pool.Outcome]:
            store.set("tasks", json.dumps([config.to_dict(), tasks]))
            yield from pool.run_here(config, tasks, report, stop=stop)

        try:
            lead(run)
        finally:
            if not store.check(["tasks"]):  # nothing to train, or it failed before: the others need not wait
                store.set("tasks", json.dumps([config.to_dict(), []]))


def _take_gpu(config: Config) -> None:
    if config.device == "cuda":
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _shared_store():
    """The key-value store that torchrun keeps for the job; a restarted job sees nothing of what it held before. Raises
    RunFailed: the other processes don't come."""
    import torch.distributed as dist

    store = _meet(PATIENCE)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"trials/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{attempt}", store)


def _meet(patience: float):
    """The store at which all processes of the job meet. Says whom it waits for, unless they are there at once.

    It is waited for in another thread: within torch a signal is not heard.
    """
    from torch.distributed.rendezvous import rendezvous

    met: queue.Queue = queue.Queue()

    def meet():
        try:
            met.put(next(rendezvous("env://", timeout=datetime.timedelta(seconds=patience + 10)))[0])
        except Exception as error:  # said below, in the thread that waits
            met.put(error)

    threading.Thread(target=meet, daemon=True).start()
    rank, size = rank_and_size()
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    others = f"the {size - 1} other process{'es' if size > 2 else ''} of WORLD_SIZE={size} at {place}"
    alone = f"to train alone: env {' '.join(f'-u {name}' for name in VARIABLES)} python train.py …"
    began, said = time.monotonic(), False
    while (waited := time.monotonic() - began) < patience:
        with contextlib.suppress(queue.Empty):
            store = met.get(timeout=0.2)
            if not isinstance(store, Exception):
                return store
            raise RunFailed(f"rank {rank}: {others} can't be reached ({' '.join(str(store).split())[:200]}); {alone}")
        if waited > 1 and not said:
            said = True
            print(f"train.py: rank {rank} waits for {others}; {alone}", file=sys.stderr, flush=True)
    raise RunFailed(f"rank {rank}: {others} did not come within {patience:.0f} seconds; {alone}")


def _wait_for(store, key: str, stop: Callable[[], bool]):
    """What rank 0 says there is to train, once it has prepared the corpus and audited; None if it ended before.

    Asked again and again, since a rank that waits inside of torch does not hear that it is to stop.
    """
    import torch.distributed as dist

    try:
        while not store.check([key]):
            if stop():
                raise KeyboardInterrupt
            time.sleep(0.2)
        return json.loads(store.get(key))
    except dist.DistError:
        return None


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM (which torchrun sends when a rank is lost) or Ctrl-C came: the trial under way is then saved.

    A job system tells all processes, and torchrun its ranks again: that is the same request, and so is whatever comes
    within seconds. Another Ctrl-C after that ends at once."""
    asked = threading.Event()
    first = 0.0

    def ask(number, frame):
        nonlocal first
        if not asked.is_set():
            first = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - first > AGAIN:
            raise KeyboardInterrupt("at once")
        asked.set()

    with on_interrupt(ask):
        yield asked.is_set


@contextlib.contextmanager
def on_interrupt(handler: Callable) -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM call `handler`. Only a main thread can set that; elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
