"""Trials spread over ranks by torchrun: the same results as of one process, also when a rank is lost."""

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import pytest

import programs
import storage
import train
from test_train import comparable
from training import pool, ranks

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["relu", "smelu_05"]


def flags(config):
    """All settings as flags."""
    values = {k: v for k, v in config.to_dict().items() if v is not None and not isinstance(v, (list, bool))}
    return ["--activation", *NAMES, *(f"--{name.replace('_', '-')}={value}" for name, value in values.items())]


@pytest.fixture
def config(smoke_config):
    return smoke_config.replace(trials_per_activation=2)


def torchrun(config, *options, script=ROOT / "train.py", arguments=None):
    """`torchrun OPTIONS script …` under way, by default train.py with all settings of the config; the ranks are
    processes that it starts."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    environment["PYTHONPATH"] = str(ROOT)
    command = ["-c", "from torch.distributed.run import main; main()"]
    return programs.start([*command, *options, str(script), *(arguments or flags(config))], env=environment)


def finish(process):
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return out


def results_of(config):
    found = {n: comparable(storage.read_results(storage.results_path(config.results_dir, n))) for n in NAMES}
    for results in found.values():
        results["environment"].pop("git_commit")  # somebody may be committing meanwhile
        results["config"].pop("snapshot_seconds")
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Filled by the first test that needs it: the results of one process."""
    return {}


@pytest.fixture
def expected(alone, config, tmp_path):
    if not alone:
        folders = {k: str(tmp_path / "alone" / k) for k in ("results_dir", "plots_dir", "checkpoint_dir")}
        elsewhere = config.replace(**folders, workers=1)
        train.run_study(elsewhere, NAMES, quiet=True)
        alone.update(results_of(elsewhere))
    return alone


def test_without_torchrun_there_is_one_rank(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert ranks.rank_and_size() == (0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")  # as some schedulers leave it behind
    assert ranks.rank_and_size() == (0, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_rank_may_train_everything_and_begins_elsewhere(size):
    tasks = [("relu", k) for k in range(1, 8)]
    shares = [ranks.share_out(tasks, rank, size) for rank in range(size)]
    assert all(sorted(share) == tasks for share in shares)
    assert len({share[0] for share in shares}) == size
    assert len({share[0] for share in (ranks.share_out(tasks[:2], r, 5) for r in range(5))}) == 2


def test_a_trial_that_another_process_holds_is_come_back_to(config):
    path = storage.checkpoint_path(config.checkpoint_dir, "relu", 1)
    lock = storage.FileLock(path.with_suffix(".lock"))
    lock.acquire()
    outcomes = []
    for outcome in pool.run_here(config, [("relu", 1), ("relu", 2)], lambda event: None):
        outcomes.append(outcome)
        lock.release()  # the other one is gone, having left nothing
    assert [(o.trial, o.status) for o in outcomes] == [(2, "done"), (1, "done")]


def test_asked_to_stop_a_rank_saves_and_says_so(config):
    asked = []
    run = pool.run_here(config, [("relu", 1)], lambda event: asked.append(1), stop=lambda: len(asked) > 2)
    assert [o.status for o in run] == ["interrupted"]
    assert storage.snapshot_paths(config.checkpoint_dir, "relu", 1)


@pytest.mark.slow
def test_two_ranks_give_the_results_of_one_process(expected, config):
    out = finish(torchrun(config, "--standalone", "--nproc-per-node", "2"))
    assert results_of(config) == expected
    assert out.count("done in") == 1 and "4 trials to train (relu, smelu_05), 2 at a time" in out
    assert (Path(config.results_dir) / "FINAL_REPORT.md").exists()
    out = finish(torchrun(config, "--standalone", "--nproc-per-node", "2"))  # nothing left to train
    assert "to train" not in out


@pytest.mark.slow
def test_two_nodes_give_the_results_of_one_process(expected, config):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test")
    options += ("--rdzv-endpoint", f"127.0.0.1:{port}")
    nodes = [torchrun(config, *options) for _ in range(2)]
    outputs = [finish(node) for node in nodes]
    assert results_of(config) == expected
    assert sum("done in" in out for out in outputs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("restarts", ["--max-restarts=1", "--max-restarts=0"])
def test_a_killed_rank_loses_nothing(restarts, expected, config):
    """Restarted by torchrun itself, or by the user with the same command."""
    config = config.replace(snapshot_seconds=0.0)
    job = torchrun(config, "--standalone", "--nproc-per-node", "2", restarts)
    killed = kill_one_that_trains(config, job)
    _, err = job.communicate(timeout=400)
    assert killed and (job.returncode == 0) == (restarts == "--max-restarts=1"), err
    if job.returncode:
        finish(torchrun(config, "--standalone", "--nproc-per-node", "2", restarts))
    assert results_of(config) == expected


@pytest.mark.slow
def test_asked_to_stop_all_ranks_save(config):
    """Rank 0 too, which does more than train."""
    config = config.replace(max_iters=20_000, snapshot_seconds=1000.0)
    job = torchrun(config, "--standalone", "--nproc-per-node", "2")
    folder = Path(config.checkpoint_dir)
    deadline = time.monotonic() + 120
    while len([p for p in folder.glob("*/trial_*.json") if storage.read_json(p)["step"]]) < 2:
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=120)
    assert job.returncode
    assert len(list(folder.glob("*/trial_*.snapshot"))) == 2
    states = [storage.read_json(p)["state"] for p in folder.glob("*/trial_*.json")]
    assert states.count("interrupted") == 2 and set(states) <= {"interrupted", "waiting"}


def kill_one_that_trains(config, job):
    """SIGKILL to a rank in the middle of a trial; its process id."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and job.poll() is None:
        for path in Path(config.checkpoint_dir).glob("*/trial_*.step-*.snapshot"):
            progress = path.with_name(path.name.split(".")[0] + ".json")
            with contextlib.suppress(storage.StorageError, ProcessLookupError):
                pid = storage.read_json(progress)["pid"]
                os.kill(pid, signal.SIGKILL)
                return pid
        time.sleep(0.01)
    return None
