"""Which worker gets which GPU. No GPU is needed: torch is told how many there are."""

import io
import json
import math
import os
import time

import pytest
import torch

import storage
from training import pool


class Started:
    """In the place of a worker's process: keeps what it was started with, and says nothing."""

    def __init__(self, command, env, **_):
        self.environment = env
        self.stdin, self.stdout = io.StringIO(), io.StringIO()
        self.returncode = 0

    def wait(self, timeout=None):
        return 0

    poll = kill = wait


@pytest.fixture
def on_gpus(smoke_config, monkeypatch):
    """(number, visible, device) -> a config on a machine with that many GPUs that this process sees."""

    def place(number, visible=None, device="cuda"):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        return smoke_config.replace(device=device)

    return place


@pytest.mark.parametrize(
    "number, visible, device, expected",
    [
        (1, None, "cuda", ["0"]),
        (4, None, "cuda", ["0", "1", "2", "3"]),
        (2, "3,1", "cuda", ["3", "1"]),
        (2, "GPU-8932f937, GPU-f93a0c7e", "cuda", ["GPU-8932f937", "GPU-f93a0c7e"]),
        (2, "0,1,9", "cuda", ["0", "1"]),  # torch ignores what follows a GPU that isn't there
        (4, None, "cuda:2", []),
        (0, None, "mps", []),
        (4, None, "cpu", []),
    ],
)
def test_gpus(on_gpus, number, visible, device, expected):
    assert pool.gpus(on_gpus(number, visible, device)) == expected


@pytest.mark.parametrize(
    "number, device, workers, trials, expected",
    [
        (1, "cuda", None, 15, 1),
        (4, "cuda", None, 15, 4),
        (4, "cuda", None, 3, 3),
        (4, "cuda:1", None, 15, 1),
        (1, "cuda", 3, 15, 3),
        (1, "cuda", 3, 2, 2),
        (0, "mps", None, 15, 1),
    ],
)
def test_workers(on_gpus, number, device, workers, trials, expected):
    config = on_gpus(number, device=device).replace(workers=workers)
    assert pool.default_workers(config, trials) == expected


@pytest.mark.parametrize(
    "cores, workers, trials, expected, at_once",
    [(2, None, 3, 3, 3), (2, None, 15, 3, 2), (2, None, 4, 2, 2), (2, None, 1, 1, 1), (8, None, 15, 8, 8)]
    + [(8, None, 11, 11, 11), (8, None, 19, 11, 8), (3, None, 2, 2, 2), (2, 4, 15, 4, 4)]
    + [(8, None, 14, 14, 14)],  # 1.75 of a round, 8 % longer, are sooner done than 2
)
def test_workers_on_cores(on_gpus, monkeypatch, cores, workers, trials, expected, at_once):
    monkeypatch.setattr(pool, "usable_cores", lambda: cores)
    config = on_gpus(0, device="cpu").replace(workers=workers)
    assert pool.default_workers(config, trials) == expected and pool.at_once(config, trials) == at_once


def test_cores_are_shared_by_the_last_trials_alone(smoke_config, monkeypatch):
    """Seven trials on two cores: two at once, until three are left."""
    monkeypatch.setattr(pool, "usable_cores", lambda: 2)
    under_way, most = set(), {}

    class Process:
        def __init__(self, *args, **kwargs):
            self.stdin, self.stderr, self.stdout, self.returncode = self, self, self, 0

        def write(self, line):
            message = json.loads(line)
            if message[0] == "relu":
                self.task = message
                under_way.add(message[1])
                most[message[1]] = len(under_way)

        def __iter__(self):
            time.sleep(0.2)
            under_way.discard(self.task[1])
            yield json.dumps({"event": "end", "status": "done", "activation": self.task[0], "trial": self.task[1]})

        def poll(self):
            return None

        def flush(self):
            pass

        def wait(self, timeout=None):
            return 0

        close = kill = flush

    monkeypatch.setattr(pool.subprocess, "Popen", Process)
    tasks = [("relu", k) for k in range(1, 8)]
    config = smoke_config.replace(device="cpu", workers=None)
    assert pool.default_workers(config, 7) == 3
    outcomes = list(pool.run_trials(config, tasks, lambda event: None, 3))
    assert sorted(o.trial for o in outcomes) == list(range(1, 8))
    assert max(most[k] for k in range(1, 5)) == 2 and max(most.values()) == 3


def test_places(on_gpus, monkeypatch):
    assert pool.places(on_gpus(4)) == 4
    assert pool.places(on_gpus(4, device="cuda:1")) == pool.places(on_gpus(0, device="mps")) == 1
    monkeypatch.setattr(pool, "usable_cores", lambda: 7)
    cpu = on_gpus(4, device="cpu")
    assert [pool.places(cpu.replace(threads=n)) for n in (1, 2, 8)] == [7, 3, 1]


def hired(config, monkeypatch, workers, trials):
    """The environments of the workers that are started for that many trials, all of which die at once."""
    started = []

    def popen(*args, **kwargs):
        started.append(Started(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(pool.subprocess, "Popen", popen)
    outcomes = list(pool.run_trials(config, [("relu", k) for k in range(trials)], lambda event: None, workers))
    assert [outcome.status for outcome in outcomes] == ["failed"] * trials
    return [process.environment for process in started]


def test_workers_are_spread_over_gpus(on_gpus, monkeypatch):
    environments = hired(on_gpus(2, "3,1"), monkeypatch, workers=3, trials=3)
    assert sorted(e["CUDA_VISIBLE_DEVICES"] for e in environments[:3]) in (["1", "3", "3"], ["1", "1", "3"])
    assert all(e["OMP_NUM_THREADS"] == "1" for e in environments)


@pytest.mark.parametrize("number, visible, device", [(1, None, "cuda"), (2, None, "cuda:1"), (0, None, "cpu")])
def test_a_single_device_is_left_as_it_is(on_gpus, monkeypatch, number, visible, device):
    for environment in hired(on_gpus(number, visible, device), monkeypatch, workers=2, trials=2):
        assert "CUDA_VISIBLE_DEVICES" not in environment


def test_a_new_worker_takes_the_free_gpu(on_gpus, monkeypatch):
    """Of three workers on three GPUs the second one dies: its replacement gets the second GPU."""
    started = []

    class Process(Started):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)
            self.stdin = self.stdout = self
            self.dead = False

        def write(self, line):
            self.task = json.loads(line)

        def __iter__(self):
            time.sleep(0.05)
            self.dead = started.index(self) == 1
            if not self.dead:
                yield json.dumps({"event": "end", "status": "done", "activation": self.task[0], "trial": self.task[1]})

        def poll(self):
            return 0 if self.dead else None

        def flush(self):
            pass

        close = flush

    monkeypatch.setattr(pool.subprocess, "Popen", Process)
    tasks = [("relu", k) for k in range(12)]
    outcomes = list(pool.run_trials(on_gpus(3), tasks, lambda event: None, 3))
    assert sorted(o.status for o in outcomes) == ["done"] * 11 + ["failed"]
    assert [process.environment["CUDA_VISIBLE_DEVICES"] for process in started] == ["0", "1", "2", "1"]


def test_no_worker_waits_for_its_caller(smoke_config):
    """While the caller measures, the workers train on; their events wait for it."""
    tasks = [("relu", k) for k in (1, 2, 3)]
    outcomes = pool.run_trials(smoke_config.replace(max_iters=2, warmup_iters=1), tasks, lambda event: None, 1)
    first = next(outcomes)
    path = storage.checkpoint_path(smoke_config.checkpoint_dir, "relu", 3)
    deadline = time.monotonic() + 60
    while not path.exists():  # nobody asks for an outcome
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [o.trial for o in (first, *outcomes)] == [1, 2, 3]


def test_a_crew_hired_ahead_is_used_and_can_be_dismissed_unused(smoke_config):
    crew = pool.Crew(smoke_config.replace(max_iters=2, warmup_iters=1), 2)
    processes = [worker.process.pid for worker in crew.workers]
    seen = []
    for outcome in pool.run_trials(smoke_config, [("relu", 1), ("gelu", 1)], lambda e: None, 2, crew=crew):
        seen += [worker.process.pid for worker in crew.workers]
        assert outcome.status == "done"
    assert set(seen) <= set(processes) and not crew.workers
    crew = pool.Crew(smoke_config, 1)
    (worker,) = crew.workers
    began = time.monotonic()
    crew.dismiss(graceful=True)
    assert worker.process.poll() is not None and time.monotonic() - began < 5


@pytest.mark.parametrize(
    "files, quota",
    [
        ({}, math.inf),
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "max 100000", "job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3.0),
        ({"job/step/cpu.max": "max 100000"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    ],
)
def test_a_containers_share_of_the_processor(tmp_path, files, quota):
    own = tmp_path / "cgroup"
    own.write_text("0::/job/step\n", encoding="utf-8")
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    assert pool._quota(tmp_path / "fs", own) == quota


@pytest.mark.parametrize("slurm, quota, cores", [("1", math.inf, 1), ("x", 0.5, 1), ("64", 1.2, 2), ("3", 7.0, 3)])
def test_cores_are_those_of_the_job_and_of_the_container(monkeypatch, slurm, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    monkeypatch.setattr(pool, "_quota", lambda: quota)
    assert pool.usable_cores() == cores
