"""Trials that ranks train together: the numbers of one process to rounding, and the same bits however often rerun."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import storage
import train
from config import UserError
from prepare_data import load_corpus
from test_determinism import contents
from test_distributed import finish, torchrun
from training import ranks, trial

TWO = ("--standalone", "--nproc-per-node", "2")


@pytest.fixture
def config(smoke_config):
    """One trial by two ranks, long enough to be disturbed, on the trunk and within branches."""
    settings = {"dropout": 0.1, "schedule": "trunk", "max_iters": 220, "eval_interval": 100}
    return smoke_config.replace(data_parallel=2, trials_per_activation=1, **settings)


def arguments(config, *more):
    """All settings as flags, for one activation; the number of ranks is left to torchrun."""
    values = {k: v for k, v in config.to_dict().items() if v is not None and not isinstance(v, (list, bool))}
    del values["data_parallel"]
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    return ["--activation", "smelu_05", *settings, "--data-parallel", *more]


def start(config, *options, script=None):
    return torchrun(config, *TWO, *options, arguments=arguments(config), **({"script": script} if script else {}))


# -- without torchrun ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "ranks", "named"),
    [
        (["--data-parallel"], None, ["--data-parallel", "torchrun --standalone --nproc-per-node N"]),
        (["--data-parallel", "2"], None, ["data_parallel=2 on 1 process", "--nproc-per-node 2 train.py"]),
        (["--data-parallel", "3"], None, ["batch_size=16", "multiple of data_parallel=3", "for example 15"]),
        (["--data-parallel"], 3, ["batch_size=16", "multiple of data_parallel=3"]),
        (["--data-parallel", "2"], 4, ["data_parallel=2 on 4 ranks", "--nproc-per-node 2 train.py"]),
        (["--data-parallel", "two"], None, ["data_parallel='two'", "whole number"]),
    ],
)
def test_what_can_not_be_is_one_line_and_status_2(flags, ranks, named, smoke_config, monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
        if ranks:
            value = {"RANK": "0", "WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}[name]
            monkeypatch.setenv(name, value)
    given = [f for f in arguments(smoke_config) if f != "--data-parallel"]
    assert train.main([*given, *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in named:
        assert part in error


def test_under_one_rank_the_flag_changes_nothing(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert ranks.all_ranks() == 1


def test_a_process_alone_does_not_train_what_is_meant_for_two(config):
    with pytest.raises(UserError, match="data_parallel=2 on 1 process"):
        trial.train_trial(config, "relu", 1)
    assert not storage.checkpoint_path(config.checkpoint_dir, "relu", 1).exists()


@pytest.mark.parametrize("ranks", [1, 2, 4, 16])
def test_the_shares_make_up_the_batch(ranks, smoke_config):
    corpus = load_corpus(smoke_config)
    whole = trial.Batches(corpus.train, smoke_config, 7)
    shared = smoke_config.replace(data_parallel=ranks)
    shares = [trial.Batches(corpus.train, shared, 7, rank) for rank in range(ranks)]
    for step in range(3):
        for part in (0, 1):
            assert torch.equal(torch.cat([batches(step)[part] for batches in shares]), whole(step)[part])


def test_every_rank_draws_its_own_dropout():
    draws = [trial.stream(5, "dropout", 3, rank).integers(2**63) for rank in range(8)]
    assert len(set(draws)) == 8
    key = np.array([5, 2], dtype=np.uint64)
    assert draws[0] == np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, 3])).integers(2**63)


# -- on two ranks -------------------------------------------------------------------------------------------------

GRADIENTS = """
import json, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from training import trial
from config import Config
from training.team import Team
from models.architectures import build_model
from prepare_data import load_corpus

dist.init_process_group("gloo")
rank = dist.get_rank()
team = Team(rank, 2, None, lambda: rank == 1 and steps == 3)
base = Config.from_dict(json.loads(sys.argv[1])).replace(grad_clip=0.0, dropout=0.0)  # the gradient as it was averaged
corpus = load_corpus(base)
torch.set_num_threads(1)
found = {}

def training(config, team=None):
    made = trial.Training(config, "smelu_05", 1, corpus, team)
    made.model.train()
    return made

def furthest(a, b):
    return float((a - b).abs().max())

# against one process with the whole batch
steps = 0
ours, whole = training(base, team), training(base.replace(data_parallel=1))
losses, stops = [], []
for steps in range(base.max_iters):
    losses.append([float(t.one_step(steps)) for t in (ours, whole)])
    stops.append(team.stop())
    if steps == 0:
        size = float(whole.optimiser.gradient.abs().max())
        found["gradient, one process"] = furthest(ours.optimiser.gradient, whole.optimiser.gradient) / size
        found["norm"] = abs(float(ours.last_norm / whole.last_norm) - 1)
found["first losses"] = max(abs(a - b) for a, b in losses[:5])
found["last losses"] = max(abs(a - b) for a, b in losses[-20:])
assert stops == [step == 3 for step in range(base.max_iters)], stops  # asked of rank 1 alone, heard by both

# against DistributedDataParallel
ours = training(base, team)
batch = ours.batches(0)
model = build_model(base, "smelu_05", corpus.vocab_size, ours.seeds["init"]).train()
wrapped = DistributedDataParallel(model)  # it averages for as long as it lives
wrapped(*batch)[1].backward()
theirs = torch.cat([dict(model.named_parameters())[name].grad.flatten() for name in ours.optimiser.names])
ours.one_step(0)
found["gradient, DistributedDataParallel"] = furthest(ours.optimiser.gradient, theirs) / size

# in bfloat16 the mean is one of float32
low = base.replace(precision="bfloat16")
ours, own = training(low, team), training(low, team)
own.model(*own.batches(0))[1].backward()
mine = torch.cat([p.grad.float().flatten() for p in own.optimiser.parameters])
parts = [torch.empty_like(mine) for _ in range(2)]
dist.all_gather(parts, mine)
ours.one_step(0)
assert torch.equal(ours.optimiser.gradient, (parts[0] + parts[1]) / 2)
assert not torch.equal(ours.optimiser.gradient, ours.optimiser.gradient.bfloat16().float())

# with dropout each rank has its mask
wet = base.replace(dropout=0.2)
ours, expected = training(wet, team), []
for r in range(2):
    alone = training(wet)
    alone.batches = trial.Batches(corpus.train, wet, alone.seeds["order"], r)
    torch.manual_seed(int(trial.stream(alone.seeds["dropout"], "dropout", 0, r).integers(2**63)))
    expected.append(float(alone.model(*alone.batches(0))[1].detach()))
found["loss with dropout"] = abs(float(ours.one_step(0)) - sum(expected) / 2)
if rank == 0:
    print(json.dumps(found))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_the_gradient_is_that_of_the_whole_batch(config, tmp_path):
    """Against one process, against torch's own DistributedDataParallel, in bfloat16 and with dropout."""
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS, encoding="utf-8")
    settings = config.replace(max_iters=200, precision="float32").to_dict()
    found = json.loads(finish(torchrun(config, *TWO, script=script, arguments=[json.dumps(settings)])).splitlines()[-1])
    assert found.pop("last losses") < 1e-3, found
    assert all(value < 1e-6 for value in found.values()), found


def rank_process(job, rank):
    """The process id of a rank that torchrun started, once it is in the middle of a trial."""
    for task in Path(f"/proc/{job.pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="utf-8").split():
            if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
                return int(child)
    raise AssertionError("no such rank")


def signal_in_training(job, config, rank, number):
    """Send a signal to one rank while the trial is trained."""
    progress = storage.progress_path(config.checkpoint_dir, "smelu_05", 1)
    deadline = time.monotonic() + 120
    while not progress.exists():
        assert job.poll() is None, job.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(rank_process(job, rank), number)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Filled by the first test that needs it: what the checkpoints of a run without any disturbance hold."""
    return {}


@pytest.fixture
def expected(undisturbed, config, tmp_path):
    if not undisturbed:
        folders = {k: str(tmp_path / "calm" / k) for k in ("results_dir", "plots_dir", "checkpoint_dir")}
        calm = config.replace(**folders)
        undisturbed["out"] = finish(start(calm))
        undisturbed["config"], undisturbed["contents"] = calm, contents(calm, "smelu_05", 1)
    return undisturbed


@pytest.mark.slow
def test_a_study_is_trained_measured_and_recorded_once(expected):
    config, out = expected["config"], expected["out"]
    assert "1 trial to train (smelu_05), each on 2 ranks" in out
    assert out.count("done in") == 1 and out.count("smelu_05 trial 1: done") == 1
    results = storage.read_results(storage.results_path(config.results_dir, "smelu_05"))
    assert results["config"]["data_parallel"] == results["environment"]["data_parallel"] == 2
    assert results["audit"]["passed"]
    assert not storage.snapshot_paths(config.checkpoint_dir, "smelu_05", 1)
    # what is trained can be measured again by one process, but never be mixed with trials of another number of ranks
    assert train.run_study(config, ["smelu_05"], quiet=True)["smelu_05"] == results
    with pytest.raises(UserError, match="data_parallel=2 there, 1 now"):
        train.run_study(config.replace(data_parallel=1), ["smelu_05"], quiet=True)


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_the_bits_are_the_same(expected, config):
    config = config.replace(snapshot_seconds=0.0)
    job = start(config, "--max-restarts=1")
    signal_in_training(job, config, 0, signal.SIGKILL)
    _, err = job.communicate(timeout=240)
    assert job.returncode == 0, err
    assert "exitcode: -9" in err, "it was killed too late for this test to mean anything"
    assert contents(config, "smelu_05", 1) == expected["contents"]


@pytest.mark.slow
def test_one_rank_asked_to_stop_all_leave_and_go_on_later(expected, config):
    config = config.replace(snapshot_seconds=1000.0)
    job = start(config)
    signal_in_training(job, config, 1, signal.SIGTERM)
    _, err = job.communicate(timeout=120)
    assert job.returncode and "Traceback" not in err.split("torch/distributed")[0]
    assert storage.snapshot_paths(config.checkpoint_dir, "smelu_05", 1)
    assert storage.read_json(storage.progress_path(config.checkpoint_dir, "smelu_05", 1))["state"] == "interrupted"
    finish(start(config))
    assert contents(config, "smelu_05", 1) == expected["contents"]


# what goes wrong on a rank in a step of a trial
SABOTAGE = """
import sys
import train
from training import trial

healthy = trial.Training.one_step

def one_step(self, step):
    if self.team and (self.trial, self.team.rank, step) in {plan!r}:
        defect = {plan!r}[self.trial, self.team.rank, step]
        if defect == "fail":
            raise ValueError("planted")
        self.optimiser.master[7] += 1e-6 if defect == "drift" else float("nan")
        self.optimiser.use_working_weights()
    return healthy(self, step)

trial.Training.one_step = one_step
sys.exit(train.main())
"""


@pytest.mark.slow
def test_a_trial_that_fails_or_diverges_leaves_the_ranks_in_step(config, tmp_path):
    """Diverged on rank 1 alone, failed on rank 0 alone; the third trial is trained as if nothing had been. Weights
    that part silently are found at the end of the fourth."""
    script = tmp_path / "sabotage.py"
    script.write_text(
        SABOTAGE.format(plan={(1, 1, 7): "nan", (2, 0, 33): "fail", (4, 1, 50): "drift"}), encoding="utf-8"
    )
    config = config.replace(max_iters=60, trials_per_activation=4)
    job = start(config, script=script)
    out, err = job.communicate(timeout=120)
    assert job.returncode and "smelu_05 trial 4: the ranks have come to hold different weights" in err
    assert "smelu_05 trial 1: diverged (diverged at step 7)" in out
    assert "smelu_05 trial 2: failed (ValueError: planted)" in out
    assert "smelu_05 trial 3: done" in out
    assert storage.trial_numbers(config.checkpoint_dir, "smelu_05") == [1, 3]


@pytest.mark.slow
def test_a_rank_that_fails_takes_the_job_with_it(config, tmp_path):
    script = tmp_path / "sabotage.py"
    script.write_text(SABOTAGE.format(plan={(1, 1, 7): "fail"}), encoding="utf-8")
    job = start(config, script=script)
    _, err = job.communicate(timeout=120)
    assert job.returncode and "ValueError: planted" in err and "another rank is lost" in err
    assert not storage.checkpoint_path(config.checkpoint_dir, "smelu_05", 1).exists()
