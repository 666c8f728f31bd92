"""Trials spread over ranks by torchrun: the same results as of one process, also when a rank is lost."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import programs
import storage
import train
from config import RunFailed
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


LEFT_BEHIND = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.mark.parametrize("rank", ["0", "1"])
def test_variables_left_behind(rank, monkeypatch, capsys):
    """Nobody else comes: it says at once whom it waits for, and gives up with one line."""
    for name, value in {**LEFT_BEHIND, "RANK": rank, "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with pytest.raises(RunFailed, match="did not come within 2 seconds; to train alone: env -u RANK -u WORLD") as ended:
        ranks._meet(2.0)
    assert "\n" not in str(ended.value)
    assert f"rank {rank} waits for the 1 other process of WORLD_SIZE=2 at 127.0.0.1:" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_waiting_for_others_ends_on_the_first_signal(config, number):
    environment = {**os.environ, **LEFT_BEHIND, "MASTER_PORT": free_port(), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "train.py"), *flags(config)]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, encoding="utf-8")
    for line in process.stderr:
        if "waits for the 1 other process" in line:
            break
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 130


def test_what_is_told_twice_is_one_request(monkeypatch):
    """A job system tells torchrun and its ranks, torchrun its ranks again; only a later Ctrl-C ends at once."""
    with ranks._asked_to_stop() as stop:
        assert not stop()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert stop()
        monkeypatch.setattr(ranks, "AGAIN", -1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match="at once"):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_term_is_the_same_request():
    def outcomes():
        yield 1
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:  # snapshots are being saved
            os.kill(os.getpid(), signal.SIGTERM)
            saved.append(True)

    saved = []
    with pytest.raises(KeyboardInterrupt):
        list(train._interruptible(outcomes()))
    assert saved


def test_who_trains_what_is_left_is_said(config):
    """By a line, once, with the machine: also where there is nothing else to do."""
    path = storage.checkpoint_path(config.checkpoint_dir, "relu", 1)
    lock = storage.FileLock(path.with_suffix(".lock"))
    lock.acquire()
    storage.write_json(storage.progress_path(config.checkpoint_dir, "relu", 1), {"host": "node7", "step": 3})
    for run in (pool.run_here, pool.run_trials):
        notes = []

        def report(event, notes=notes):
            if event["event"] == "note":
                notes.append(event["text"])

        outcomes = run(config.replace(results_dir=config.results_dir + run.__name__), [("relu", 1)], report, 1)
        waiter = threading.Thread(target=lambda outcomes=outcomes: list(outcomes))
        waiter.start()
        deadline = time.monotonic() + 60
        while not notes and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        assert len(notes) == 1 and "trial that is left is being trained by other processes on node7" in notes[0]
        if run is pool.run_trials:
            lock.release()
        else:  # the same trial for the next one: let this one find it done elsewhere
            lock.release()
            waiter.join(timeout=60)
            path.unlink()
            lock = storage.FileLock(path.with_suffix(".lock"))
            assert lock.acquire(wait=False)
            storage.write_json(storage.progress_path(config.checkpoint_dir, "relu", 1), {"host": "node7", "step": 3})
        waiter.join(timeout=60)
        assert not waiter.is_alive()


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
