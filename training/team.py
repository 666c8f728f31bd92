"""The ranks that train one trial together: what they say to one another in every step, at its start and at its end.

Who starts them, and what each does with a trial, is in ranks.py.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

import storage
from config import Config, RunFailed, UserError

EXTRA = 3  # numbers behind the gradient in the message of a step: the loss, whether to stop, whether to leave


def check_ranks(config: Config, size: int) -> None:
    """Refuse to train on another number of ranks than the config says: the numbers would be others."""
    if config.data_parallel != size:
        there = "1 process" if size == 1 else f"{size} ranks"
        raise UserError(f"data_parallel={config.data_parallel} on {there}: {start_with(config.data_parallel)}")


def start_with(ranks) -> str:
    return f"start it with torchrun --standalone --nproc-per-node {ranks} train.py --data-parallel"


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
        self.share_state(training)
        try:
            yield
        except RunFailed:
            raise
        except Exception:  # of this trial alone; the others wait in the next message
            self._end(training)
            raise
        self._end(training)

    def _end(self, training) -> None:
        if training.step < training.steps:
            message = training.optimiser.message.zero_()
            message[-1] = 1.0
            self._reduce(message)
        else:
            self.compare(training)

    # the others

    def follow(self, take_part: Callable[[Team, Config, str, int, int, str], None]) -> None:
        """Take part in every trial that rank 0 announces. `take_part` is called with this team and what was announced;
        it shares the state, takes the steps unless `left`, and compares at the end."""
        while task := wait_for(self.store, f"trial/{self.announced}", self.asked):
            self.announced += 1
            settings, *rest = task
            take_part(self, Config.from_dict(settings), *rest)

    def left(self) -> bool:
        """Whether the last message of rank 0 told the others to leave this trial."""
        return bool(self.message[-1] > 0)

    # at both ends of a trial

    def share_state(self, training) -> None:
        """Rank 0's weights and moments on all ranks: those of its snapshot, or the initial ones; within a branch the
        trunk's, too."""
        leg, device = training.leg(training.step), training.config.device
        if leg.side and training.step > leg.begins:
            training.trunk = _from_lead(training.trunk or training.optimiser.state(), device)
        state = _from_lead(training.optimiser.state(), device)
        if self.rank:
            training.optimiser.load(state)

    def compare(self, training) -> None:
        """All ranks took the same steps, so they must hold the same bits: at the end, and at that of each branch."""
        digest = int(storage.contents_sha256(training.optimiser.state())[:15], 16)
        ends = torch.tensor([digest, -digest], device=training.config.device)
        with _another_may_be_lost():
            dist.all_reduce(ends, dist.ReduceOp.MAX)
        if ends[0] != -ends[1]:
            raise RunFailed(
                f"{training.activation} trial {training.trial}: the ranks have come to hold different weights; are "
                f"their processors of one kind?"
            )


def _from_lead(state: dict, device: str) -> dict:
    """Rank 0's tensors, in the place of those of the same shapes that the others hold."""
    state = {name: tensor.to(device) for name, tensor in state.items()}
    for tensor in state.values():
        with _another_may_be_lost():
            dist.broadcast(tensor, 0)
    return state


def wait_for(store, key: str, stop: Callable[[], bool]):
    """What rank 0 says there is to train, once it has prepared the corpus and audited; None if it is gone.

    Asked again and again, since a rank that waits inside of torch does not hear that it is to stop.
    """
    try:
        while not store.check([key]):
            if stop():
                raise KeyboardInterrupt
            time.sleep(0.2)
        return json.loads(store.get(key))
    except dist.DistError:
        return None


@contextlib.contextmanager
def _another_may_be_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's, and DistError
        raise RunFailed(f"another rank is lost ({str(error).splitlines()[0]})") from error
