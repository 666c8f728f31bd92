"""A study on many machines: `torchrun --nnodes N --nproc-per-node M train.py …`.

Every process (rank) that torchrun starts trains whole trials; what they share is the folder of checkpoints. Rank 0
prepares and audits, tells the others what there is to train, trains with them, and then measures, draws and reports
as a single process does. A trial is taken by locking it, so that no two ranks train the same one, and a rank that is
done with its own share takes what is left of the others'. A trial reads nothing but its arguments and the corpus, so
the results are the same as those of one process. When a rank is lost, torchrun ends the others, which save snapshots;
the next start (`--max-restarts`, or the same command again) goes on from them.

With `--data-parallel` all ranks train the same trial, one trial after another: each computes the gradient of its share
of the batch, and all take the step of the mean. Rank 0 does everything else, and alone decides.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from config import Config, RunFailed, UserError
from training import pool

EXTRA = 3  # numbers behind the gradient in the message of a step: the loss, whether to stop, whether to leave


def _under_torchrun() -> bool:
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun says; (0, 1) without it."""
    if not _under_torchrun():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


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
            tasks = [tuple(task) for task in _wait_for(store, "tasks", stop) or ()]
            tasks = share_out(tasks, rank, size)
            for outcome in pool.run_here(config, tasks, lambda event: None, stop=stop):
                if outcome.status == "interrupted":
                    raise KeyboardInterrupt
                if outcome.status == "failed":  # rank 0 will try it again, and answer for it
                    where = f"rank {rank}: {outcome.activation} trial {outcome.trial}"
                    print(f"train.py: {where}: {outcome.message}", file=sys.stderr)
            return

        def run(config, tasks, report, workers) -> Iterator[pool.Outcome]:
            store.set("tasks", json.dumps(tasks))
            yield from pool.run_here(config, tasks, report, stop=stop)

        try:
            lead(run)
        finally:
            if not store.check(["tasks"]):  # nothing to train, or it failed before: the others need not wait
                store.set("tasks", "[]")


def _take_gpu(config: Config) -> None:
    if config.device == "cuda":
        import torch

        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _shared_store():
    """The key-value store that torchrun keeps for the job; a restarted job sees nothing of what it held before."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"trials/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{attempt}", store)


def _wait_for(store, key: str, stop: Callable[[], bool]):
    """What rank 0 says there is to train, once it has prepared the corpus and audited; None if it is gone.

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
    """Whether SIGTERM (which torchrun sends when a rank is lost) or Ctrl-C came: the trial under way is then saved."""
    asked = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number, frame):
        if asked.is_set():  # for the second time: now
            raise KeyboardInterrupt("at once")
        asked.set()

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- one trial on all ranks ---------------------------------------------------------------------------------------


def all_ranks() -> int:
    """How many ranks share a trial by `--data-parallel` without a number.

    Raises:
        UserError: this process was not started by torchrun.
    """
    if not _under_torchrun():
        raise UserError(f"--data-parallel: {_instead('N')}")
    return rank_and_size()[1]


def check_ranks(config: Config, size: int) -> None:
    """Refuse to train on another number of ranks than the config says: the numbers would be others."""
    if config.data_parallel != size:
        there = "1 process" if size == 1 else f"{size} ranks"
        raise UserError(f"data_parallel={config.data_parallel} on {there}: {_instead(config.data_parallel)}")


def _instead(ranks) -> str:
    return f"start it with torchrun --standalone --nproc-per-node {ranks} train.py --data-parallel"


def share(config: Config, lead: Callable[[Callable], object]) -> None:
    """Train a study, each trial on all ranks together. Arguments and errors as those of `spread`, and

    Raises:
        UserError: the config is for another number of ranks, or there is no device for each of them.
        RunFailed: another rank is lost, or has come to hold other weights.
    """
    import torch
    import torch.distributed as dist

    rank, size = rank_and_size()
    check_ranks(config, size)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if config.device != "cpu" and not (config.device == "cuda" and local <= torch.cuda.device_count()):
        raise UserError(f"device={config.device!r}: --data-parallel needs a GPU for each rank (device=cuda), or cpu")
    _take_gpu(config)
    pool.keep_freed_memory()
    store = _shared_store()
    backend = "gloo" if config.device == "cpu" else "nccl"
    dist.init_process_group(backend, store=dist.PrefixStore("group", store), rank=rank, world_size=size)
    with _asked_to_stop() as asked:
        team = Team(rank, size, store, asked)
        if rank:
            team.follow()
        else:
            try:
                lead(lambda config, tasks, report, _: pool.run_here(config, tasks, report, stop=asked, team=team))
            finally:
                team.announce(None)
    dist.destroy_process_group()


class Team:
    """The ranks that train one trial together.

    One all-reduce a step: of the gradient as one float32 vector, behind which the loss and two flags travel. Not
    DistributedDataParallel: that sums in the precision of the parameters (bfloat16 here) and in several buckets,
    holds on to parameters whose data the optimiser swaps, and would need a second message for loss and flags.

    Rank 0 announces a trial through the store only when it is about to train: what ends before (another process holds
    it, a checkpoint is there, a damaged file) concerns nobody else. All begin with its state. From then on the others
    do as many steps as the trial has, unless a message of rank 0 tells them to leave.
    """

    def __init__(self, rank: int, size: int, store, asked: Callable[[], bool]):
        self.rank, self.size, self.store, self.asked = rank, size, store, asked
        self.announced = 0
        self.message = None  # the last one, averaged

    # every rank, every step

    def average(self, loss, message) -> None:
        """Put the mean over the ranks into `loss` (a device scalar) and `message` (gradient and EXTRA numbers)."""
        message[-3] = loss
        message[-2] = float(self.asked())
        message[-1] = 0.0
        self._reduce(message)
        loss.copy_(message[-3])

    def stop(self) -> bool:
        """Whether any rank had been asked to stop when it sent its last message. On a GPU this waits for the step."""
        return bool(self.message[-2] > 0)

    def _reduce(self, message) -> None:
        import torch.distributed as dist

        with _another_may_be_lost():
            dist.all_reduce(message)
        self.message = message.div_(self.size)

    # rank 0

    def announce(self, task: list | None) -> None:
        """Tell the others what is trained next (settings, activation, trial, first step, the corpus's sha256), or that
        there is nothing more (None)."""
        self.store.set(f"trial/{self.announced}", json.dumps(task))
        self.announced += 1

    @contextlib.contextmanager
    def together(self, training) -> Iterator[None]:
        """Within, all ranks train: rank 0 in the body, the others in `follow`."""
        if self.asked():  # the others heard it too, and may be gone
            raise KeyboardInterrupt
        config, sha256 = training.config.to_dict(), training.corpus.sha256
        self.announce([config, training.activation, training.trial, training.step, sha256])
        self._share_state(training)
        try:
            yield
        except RunFailed:
            raise
        except Exception:  # of this trial alone; the others wait in the next message
            self._end(training)
            raise
        self._end(training)

    def _end(self, training) -> None:
        if training.step < training.config.max_iters:
            message = training.optimiser.message.zero_()
            message[-1] = 1.0
            self._reduce(message)
        else:
            self._compare(training)

    # the others

    def follow(self) -> None:
        """Take part in every trial that rank 0 announces."""
        from prepare_data import load_corpus

        corpus = None
        while task := _wait_for(self.store, f"trial/{self.announced}", self.asked):
            self.announced += 1
            settings, activation, trial, step, sha256 = task
            config = Config.from_dict(settings)
            corpus = corpus or load_corpus(config)
            if corpus.sha256 != sha256:
                raise UserError(f"{config.data_dir}: rank {self.rank} finds another text there than rank 0")
            self._join(config, activation, trial, step, corpus)

    def _join(self, config: Config, activation: str, trial: int, step: int, corpus) -> None:
        import torch

        from training import trial as trials

        with trials.torch_settings(config), torch.random.fork_rng(enabled=bool(config.dropout)):
            training = trials.Training(config, activation, trial, corpus, self)
            training.model.train()
            training.warm_up()
            self._share_state(training)
            for t in range(step, config.max_iters):
                training.one_step(t)
                if self.message[-1] > 0:
                    return
            self._compare(training)

    # at both ends of a trial

    def _share_state(self, training) -> None:
        """Rank 0's weights and moments on all ranks: those of its snapshot, or the initial ones."""
        import torch.distributed as dist

        state = training.optimiser.state()
        for name, tensor in state.items():
            state[name] = tensor.to(training.config.device)
            with _another_may_be_lost():
                dist.broadcast(state[name], 0)
        if self.rank:
            training.optimiser.load(state)

    def _compare(self, training) -> None:
        """All ranks took the same steps, so they must hold the same bits."""
        import torch
        import torch.distributed as dist

        import storage

        digest = int(storage.contents_sha256(training.optimiser.state())[:15], 16)
        ends = torch.tensor([digest, -digest], device=training.config.device)
        with _another_may_be_lost():
            dist.all_reduce(ends, dist.ReduceOp.MAX)
        if ends[0] != -ends[1]:
            raise RunFailed(
                f"{training.activation} trial {training.trial}: the ranks have come to hold different weights; are "
                f"their processors of one kind?"
            )


@contextlib.contextmanager
def _another_may_be_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's, and DistError
        raise RunFailed(f"another rank is lost ({str(error).splitlines()[0]})") from error
