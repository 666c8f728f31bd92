"""Nothing finished is lost and nothing is silently wrong: killed, interrupted, damaged, attacked, out of space, twice.

Whatever happens to a study, the next run either ends with the bits of a study that nothing happened to, times apart,
or says in one line which file is at fault. `bits` is what is compared: weights, predictions, records, results.
"""

import contextlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import plot_utils
import programs
import storage
import train
from analysis.checks import after_training
from config import Config, UserError
from conftest import FULL, Evil, cases, damage
from prepare_data import load_corpus
from training import experiment, trial

PROJECT = Path(train.__file__).parent
SETTINGS = {
    "preset": "smoke", "device": "cpu", "precision": "float32", "n_layer": 1, "n_embd": 32, "block_size": 32,
    "batch_size": 8, "max_iters": 40, "warmup_iters": 5, "eval_interval": 10, "eval_tokens": 512, "probe_tokens": 256,
    "snapshot_seconds": 0.0, "trials_per_activation": 2, "dropout": 0.1, "workers": 1,
}  # fmt: skip
# times, where things lie, and checksums of files that hold these
NOT_COMPARED = {
    "timestamp", "training_time", "total_time", "ended", "tokens_per_second", "avg_training_time", "sha256",
    "content_sha256",
    "path", "results_dir", "plots_dir", "checkpoint_dir", "data_dir", "workers", "git_commit", "environment",
}  # fmt: skip

# Put on PYTHONPATH, Python runs this at the start of every process, workers too: it strikes at the moment when a file
# whose name matches is renamed into place (or just before, when only the temporary exists).
STRIKE = """
import errno, fnmatch, os, signal, sys, time
when, _, target = os.environ.get("STRIKE", "").partition(":")
slow = float(os.environ.get("SLOW_FSYNC", "0"))
replace, fsync = os.replace, os.fsync

def die():
    if os.path.basename(sys.argv[0]) == "pool.py":
        os.kill(int(os.environ.get("STARTED_BY") or os.getppid()), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)

def struck_replace(source, to, **options):
    hit = bool(target) and fnmatch.fnmatch(os.path.basename(to), target)
    if hit and when == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if hit and when == "before":
        die()
    replace(source, to, **options)
    if hit and when == "after":
        die()

def slow_fsync(descriptor):
    if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".snapshot"):
        time.sleep(slow)
    fsync(descriptor)

os.replace = struck_replace
if slow:
    os.fsync = slow_fsync
"""


class Study:
    """A study in a folder of its own, corpus cache included."""

    def __init__(self, root: Path, corpus_file: Path, **changes):
        self.root = root
        folders = {f"{kind}_dir": str(root / kind) for kind in ("data", "results", "plots", "checkpoint")}
        self.config = Config(**{**SETTINGS, "dataset": str(corpus_file), **folders, **changes})
        hook = root.parent / "strike"
        hook.mkdir(exist_ok=True)
        (hook / "sitecustomize.py").write_text(STRIKE, encoding="utf-8")
        self.hook = str(hook)

    def command(self, *names, quiet=False):
        """Script and flags."""
        flags = []
        for key, value in self.config.to_dict().items():
            flag = "--" + key.replace("_", "-")
            if isinstance(value, bool):
                flags.append(flag if value else flag.replace("--", "--no-", 1))
            elif isinstance(value, list):
                flags += [flag, *map(str, value)]
            elif value is not None:
                flags.append(f"{flag}={value}")
        extra = ["--quiet"] if quiet else []
        return [str(PROJECT / "train.py"), *flags, *extra, "--activation", *(names or ["relu"])]

    def start(self, *names, strike="", slow=0.0, limit=None, bare=False, **options):
        """The command under way; `bare`: begun by a bare interpreter, as on the command line."""
        environment = {**os.environ, "PYTHONPATH": self.hook, "STRIKE": strike, "SLOW_FSYNC": str(slow)}
        command = self.command(*names, **options)
        if not bare:
            return programs.start(command, env=environment, limit=limit)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, *command], env=environment, **pipes)

    def run(self, *names, **options):
        """The command, to its end: (status, stdout, stderr)."""
        process = self.start(*names, **options)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def finish(self, *names):
        status, _, err = self.run(*names)
        assert status == 0, err
        return self.bits(*names)

    def checkpoint(self, k, activation="relu"):
        return storage.checkpoint_path(self.config.checkpoint_dir, activation, k)

    def snapshots(self, k, activation="relu"):
        return storage.snapshot_paths(self.config.checkpoint_dir, activation, k)

    def bits(self, *names):
        return {name: self._bits(name) for name in names or ["relu"]}

    def _bits(self, name):
        trials = {}
        for k in experiment.existing_trials(self.config, name):
            saved = storage.load_checkpoint(self.checkpoint(k, name))
            predictions = {key: saved[key] for key in ("probe", "probe_argmax")}
            trials[k] = (
                storage.contents_sha256(saved["weights"]),
                storage.contents_sha256(predictions),
                timeless(saved["record"]),
            )
        path = storage.results_path(self.config.results_dir, name)
        return trials, timeless(storage.read_results(path)) if path.exists() else None

    def left_over(self):
        """Temporaries anywhere, and snapshots."""
        return [p for p in self.root.rglob("*") if ".tmp" in p.name or p.suffix == ".snapshot"]


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in NOT_COMPARED}
    if isinstance(value, list):
        return [timeless(v) for v in value]
    return value


def one_line(err, *named):
    assert err.count("\n") == 1 and err.startswith("train.py: "), err
    for part in named:
        assert str(part) in err
    return True


@pytest.fixture(scope="module")
def make(tmp_path_factory, corpus_file):
    return lambda name="study", **changes: Study(tmp_path_factory.mktemp(name) / "s", corpus_file, **changes)


@pytest.fixture(scope="module")
def undisturbed(make):
    """(bits of a study that nothing happens to, seconds that it took)."""
    study = make("undisturbed")
    start = time.monotonic()
    bits = study.finish()
    assert not study.left_over()
    return bits, time.monotonic() - start


def test_the_comparison_is_not_blind(make, undisturbed):
    other = make("other", seed_base=7)
    corpus = load_corpus(other.config)
    train.train_trial(other.config, "relu", 1, corpus)
    mine, theirs = other.bits()["relu"][0][1], undisturbed[0]["relu"][0][1]
    assert all(a != b for a, b in zip(mine, theirs, strict=True))


# -- killed -------------------------------------------------------------------------------------------------------


def kill(process, workers_too):
    """SIGKILL. Workers that are left alone notice that their input ended."""
    victims = programs.workers_of(process.pid) if workers_too else []
    process.kill()
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def how_far(study):
    """What a kill left, for the record."""
    folder = study.checkpoint(1).parent
    if storage.results_path(study.config.results_dir, "relu").exists():
        return "results"
    for suffix in ("pt", "snapshot", "json"):
        if any(folder.glob(f"trial_*.{suffix}")):
            return suffix
    return "start-up"


@pytest.mark.slow
def test_killed_at_thirty_random_moments(make, undisturbed, record_property):
    """Several studies, each killed again and again until it is done; every one of the kills is followed by a run
    that ends with the bits of the undisturbed study."""
    expected, seconds = undisturbed
    kills_wanted = cases(30)

    def chain(seed):
        """Kill one study up to five times at moments spread over a whole run, then let it finish. Every third study
        is started by bare interpreters, so that these and their imports are killed, too."""
        rng, study, kills = random.Random(seed), make(f"killed{seed}", workers=1 + seed % 2), []
        for attempt in range(5):
            process = study.start(slow=0.02, bare=seed % 3 == 0)
            try:
                # in five equal parts of a run, so that start-up, training and measuring are all hit
                process.wait(timeout=seconds * (attempt + rng.random()) / 5)
            except subprocess.TimeoutExpired:
                kill(process, workers_too=rng.random() < 0.5)
                kills.append(how_far(study))
            else:
                process.communicate()
                break
        assert study.finish() == expected
        assert not study.left_over()
        return kills

    seeds, moments = iter(range(30)), []
    with ThreadPoolExecutor(2) as two:
        while (
            len(moments) < kills_wanted or len(set(moments)) < 3
        ):  # where a kill hits is a matter of the machine's pace
            moments += [moment for kills in two.map(chain, [next(seeds), next(seeds)]) for moment in kills]
    record_property("kills", str({m: moments.count(m) for m in moments}))
    print({m: moments.count(m) for m in moments})


MOMENTS = (
    "before:train.bin", "before:meta.json", "before:trial_1.json", "before:trial_1.step-10.snapshot",
    "after:trial_1.step-20.snapshot", "before:trial_1.pt", "after:trial_1.pt", "after:trial_2.json",
    "before:trial_2.pt", "before:relu_results.json", "after:relu_results.json", "before:relu_summary.png",
)  # fmt: skip


@pytest.mark.slow
def test_killed_at_exact_moments(make, undisturbed):
    """SIGKILL of parent and worker just before or just after a file is renamed into place, one moment after another
    in the same study."""
    study, struck = make("moments", workers=1), []
    for moment in MOMENTS:
        status, _, err = study.run(strike=moment)
        assert status == -signal.SIGKILL, (moment, err)
        struck.append(moment)
    assert study.finish() == undisturbed[0]
    assert not study.left_over()
    assert struck == list(MOMENTS)


# -- asked to stop ------------------------------------------------------------------------------------------------


def wait_for(process, condition, seconds=300):
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < limit, "it never came to that"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(make, undisturbed, number):
    """Saved at once, status 130, one line; the next run goes on from there with the same bits."""
    study = make("stopped", workers=2)
    process = study.start(slow=0.2)
    wait_for(process, lambda: study.snapshots(1))
    process.send_signal(number)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    one_line(err, "interrupted; everything is saved", "goes on from here")
    states = [s["state"] for s in _states(study)]
    assert "interrupted" in states and "running" not in states
    for k, state in enumerate(states, 1):
        if state == "interrupted":
            saved = storage.load_checkpoint(study.snapshots(k)[0])
            recorded = storage.read_json(storage.progress_path(study.config.checkpoint_dir, "relu", k))
            assert saved["step"] == recorded["step"] > 0
    assert study.finish() == undisturbed[0]
    assert not study.left_over()


def _states(study):
    from tools.status import trial_states

    return trial_states(study.config, ["relu"])


def catches(pid, number):
    """Whether a process has set a handler for a signal; Python has one for SIGINT anyway, but none for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"^SigCgt:\s*(\w+)", status, re.M)[1], 16) >> (number - 1) & 1


@pytest.mark.slow
def test_asked_to_stop_during_start_up(make):
    """Wherever in the seconds between the first lines of train.py and training: 130 and one line, never a traceback."""
    study = make("startup")
    rng = random.Random(0)
    for moment in (0.0, 0.4, 0.8, 1.2, 1.6, 2.1):
        process = study.start(slow=0.2, bare=True)  # a slow disk: not done before the last moment
        # of the interpreter's own start nobody can say how long it takes on a busy machine
        wait_for(process, lambda pid=process.pid: catches(pid, signal.SIGTERM))
        time.sleep(moment + 0.3 * rng.random())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 130, err
        one_line(err, "interrupted")


@pytest.mark.slow
def test_asked_twice_stops_at_once(make, undisturbed):
    """The second time kills the workers, even in the middle of saving."""
    study = make("twice")
    process = study.start(slow=100)  # a very slow disk
    wait_for(process, lambda: any(study.checkpoint(1).parent.glob(".trial_1.step-*.tmp.snapshot")))
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # it waits for the snapshots
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)  # sooner than the disk
    assert process.returncode == 130
    one_line(err, "stopped at once")
    assert study.finish() == undisturbed[0]


# -- damaged ------------------------------------------------------------------------------------------------------


def next_run(config, name="relu"):
    """What `train.py` does, in this process and without drawing."""
    corpus = load_corpus(config)
    missing = experiment.missing_trials(config, name, corpus)
    experiment.tidy(config, [name])
    notes = []
    for k in missing:
        train.train_trial(config, name, k, corpus, report=lambda e: notes.append(e) if e["event"] == "note" else None)
    experiment.finish(config, name, corpus, list, after_training, train.Display(quiet=True))
    return [note["text"] for note in notes]


def draw_nothing(monkeypatch):
    for name in ("training_curves", "reproducibility_metrics", "summary_metrics", "divergence"):
        monkeypatch.setattr(plot_utils, f"plot_{name}", lambda *_, **__: None)


@pytest.fixture
def no_figures(monkeypatch):
    draw_nothing(monkeypatch)


@pytest.fixture
def state(states_once, no_figures):
    """A function that puts the folder of a state in the study's place: (the study, the bits that it must end with)."""

    def put(name):
        folders, study, expected = states_once
        shutil.rmtree(study.root)
        shutil.copytree(folders[name], study.root)
        return study, expected

    return put


@pytest.fixture(scope="module")
def states_once(make):
    """{name: a folder that holds a study in that state}, the study, and the bits it must end with. Every test begins
    by putting one of the folders in the study's place."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        draw_nothing(monkeypatch)
        return make_states(make("states"))


def make_states(study):
    unfinished = study.root.with_name("unfinished")
    with contextlib.suppress(trial.Interrupted):
        steps = iter(range(1000))
        train.train_trial(study.config, "relu", 1, stop=lambda: next(steps) >= 29)
    train.train_trial(study.config, "relu", 2)
    assert len(study.snapshots(1)) == 2
    shutil.copytree(study.root, unfinished)
    next_run(study.config)
    finished = study.root.with_name("finished")
    shutil.copytree(study.root, finished)
    return {"finished": finished, "unfinished": unfinished}, study, study.bits()


def damage_file(rng, path, others):
    """One of the ways in which files get damaged; says which."""
    data, way = bytearray(path.read_bytes()), rng.random()
    if way < 0.1:
        path.unlink()
        return "delete the file"
    if way < 0.2:
        other = rng.choice(others)
        theirs = other.read_bytes()
        other.write_bytes(data)
        path.write_bytes(theirs)
        return f"swap with {other.name}"
    if way < 0.3:
        a, b = sorted(rng.randrange(len(data)) for _ in range(2))
        n = min(rng.randrange(1, 100), b - a, len(data) - b)
        data[a : a + n], data[b : b + n] = data[b : b + n], data[a : a + n]
        kind = "swap two stretches"
    else:
        kind = damage(rng, data)
    path.write_bytes(data)
    return kind


@pytest.mark.slow
def test_two_hundred_random_corruptions(state, capsys):
    """Each of them: an error of one line that names a damaged file, or the bits of the undamaged study."""
    rng, noticed, harmless = random.Random(0), 0, 0
    for n in range(cases(200)):
        study, expected = state("unfinished" if n % 3 == 0 else "finished")
        files = sorted(p for p in study.root.rglob("*") if p.is_file() and p.stat().st_size)
        path = rng.choice(study.snapshots(1) if n % 3 == 0 and rng.random() < 0.7 else files)  # snapshots above all
        others = [p for p in files if p != path]
        before = {p: p.read_bytes() for p in files}
        what = f"{n}: {damage_file(rng, path, others)} {path.relative_to(study.root)}"
        damaged = [p for p in files if not p.exists() or p.read_bytes() != before[p]]
        try:
            next_run(study.config)
        except (storage.StorageError, UserError) as error:
            noticed += 1
            assert "\n" not in str(error), what
            assert any(str(p) in str(error) for p in damaged), f"{what}: {error}"
            # what was not damaged is kept
            assert all(p.exists() and p.read_bytes() == before[p] for p in files if p not in damaged), what
        else:
            harmless += 1
            assert study.bits() == expected, what
    print(f"{noticed} noticed, {harmless} harmless")
    assert noticed + harmless == cases(200) and min(noticed, harmless) > cases(40)


def test_a_damaged_snapshot_falls_back_to_the_one_before(state):
    study, expected = state("unfinished")
    newest, before = study.snapshots(1)
    storage.write_bytes(newest, newest.read_bytes()[:-1000])
    (note,) = next_run(study.config)
    assert str(newest) in note and before.name.split("-")[1].split(".")[0] in note.split()[-1]
    assert study.bits() == expected
    assert not study.left_over()


def test_both_snapshots_damaged_starts_anew(state):
    study, expected = state("unfinished")
    for path in study.snapshots(1):
        storage.write_bytes(path, b"")
    (note,) = next_run(study.config)
    assert "step 0" in note
    assert study.bits() == expected


def test_a_damaged_finished_checkpoint_is_retrained_only_when_asked(state):
    study, expected = state("finished")
    path = study.checkpoint(2)
    data = path.read_bytes()
    storage.write_bytes(path, data[: len(data) // 2])
    for _ in range(2):
        with pytest.raises(storage.StorageError, match="trial_2.pt.*delete it"):
            next_run(study.config)
    assert path.stat().st_size == len(data) // 2
    path.unlink()  # one way of asking
    next_run(study.config)
    assert study.bits() == expected
    storage.write_bytes(path, data[:100])
    train._remove(study.config, "relu")  # --overwrite
    next_run(study.config)
    assert study.bits() == expected


def test_a_snapshot_in_place_of_a_checkpoint(state):
    study, _ = state("unfinished")
    shutil.copy(study.snapshots(1)[0], study.checkpoint(1))
    with pytest.raises(storage.StorageError, match=r"trial_1.pt: holds a snapshot"):
        next_run(study.config)


def test_results_without_their_seal_are_not_believed(state):
    study, _ = state("finished")
    path = storage.results_path(study.config.results_dir, "relu")
    results = json.loads(path.read_text(encoding="utf-8"))
    del results["content_sha256"]
    results["avg_relative_pd"] = 0.01
    path.write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(storage.StorageError, match="changed after it was written"):
        next_run(study.config)


def test_left_over_temporaries_are_cleared(state):
    study, expected = state("unfinished")
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    for folder in ("data", "results", "plots", "checkpoint/relu"):
        (study.root / folder).mkdir(exist_ok=True)
        (study.root / folder / f".x.{storage.host_name()}.{child.pid}.tmp.pt").write_text("half", encoding="utf-8")
    next_run(study.config)
    assert not study.left_over()
    assert study.bits() == expected


def test_overwrite_waits_for_nobody_and_takes_nothing_from_who_trains(state):
    study, expected = state("finished")
    with storage.FileLock(study.checkpoint(2).with_suffix(".lock")), pytest.raises(UserError, match="another process"):
        train._remove(study.config, "relu")
    assert study.bits() == expected


# -- attacked -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writer", ["torch", "pickle"])
@pytest.mark.parametrize("place", ["checkpoint", "snapshot"])
def test_a_file_that_would_run_code(state, tmp_path, place, writer):
    study, expected = state("unfinished")
    path = study.checkpoint(2) if place == "checkpoint" else study.snapshots(1)[0]
    intact, proof = storage.load_checkpoint(path), tmp_path / "proof"
    contents = {**intact, "weights": Evil(proof), "content_sha256": storage.contents_sha256(intact)}
    with open(path, "wb") as f:
        torch.save(contents, f) if writer == "torch" else pickle.dump(contents, f)
    if place == "checkpoint":
        with pytest.raises(storage.StorageError, match="trial_2.pt.*nothing in it was run"):
            next_run(study.config)
        with pytest.raises(storage.StorageError, match="trial_2.pt.*nothing in it was run"):
            train.load_trial(path)
    else:
        (note,) = next_run(study.config)
        assert path.name in note and "nothing in it was run" in note
        assert study.bits() == expected
    assert not proof.exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..", "."])
def test_names_stay_in_their_folders(tmp_path, name):
    with pytest.raises(UserError):
        train._names([name])
    for locate in (storage.results_path, storage.checkpoint_path, storage.progress_path, storage.snapshot_paths):
        with pytest.raises(ValueError, match="can't be part of a file name"):
            locate(tmp_path, name, *([] if locate is storage.results_path else [1]))


# -- out of space, read-only, in the way --------------------------------------------------------------------------

WRITES = (
    "train.bin", "meta.json", "trial_1.json", "trial_1.step-20.snapshot", "trial_1.pt", "relu_results.json",
    "relu_summary.png", "summary.csv", "significance.csv", "FINAL_REPORT.md", "comprehensive_comparison.png",
)  # fmt: skip


@pytest.mark.slow
def test_full_disk_at_each_kind_of_write(make, undisturbed):
    """No space at one kind of file after another: status 1, one line with its name; what was finished stays."""
    study, kept = make("full"), {}
    for name in WRITES:
        status, _, err = study.run("relu", "gelu", strike=f"full:{name}")
        assert status == 1, (name, err)
        one_line(err, name, "the disk is full")
        for path, data in kept.items():
            assert path.read_bytes() == data, (name, path)
        assert not list(study.root.rglob("*.tmp*")), name
        kept = {p: p.read_bytes() for p in study.root.rglob("trial_*.pt")}
    bits = study.finish("relu", "gelu")
    assert bits["relu"] == undisturbed[0]["relu"]


@pytest.mark.slow
def test_real_limit_of_file_size(make, undisturbed):
    """The kernel refuses to write past a size: corpus, then snapshots, then figures don't fit."""
    study, refused = make("limit"), []
    for limit in (50_000, 120_000, 300_000):
        status, _, err = study.run(limit=limit)
        if status == 0:
            break
        assert status == 1
        one_line(err, study.root, "larger than this process may write")
        refused.append(err)
    assert "train.bin" in refused[0] and "snapshot" in refused[1]
    assert study.finish() == undisturbed[0]


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts, or mounts anew, a tmpfs with the given options; skipped where that isn't allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            if subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("mounting is not allowed here")
        except FileNotFoundError:
            pytest.skip("there is no mount here")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


@pytest.mark.slow
def test_a_real_full_and_a_real_read_only_disk(small_disk, corpus_file, undisturbed):
    folder = small_disk("size=400k")
    (folder / "x").mkdir()
    study = Study(folder / "x" / "s", corpus_file)
    status, _, err = study.run()
    assert status == 1
    one_line(err, folder, "the disk is full")
    small_disk("size=16m,remount")
    assert study.finish() == undisturbed[0]
    study.checkpoint(2).unlink()  # something to do
    kept = {p: p.read_bytes() for p in study.root.rglob("*") if p.is_file()}
    small_disk("size=16m,remount,ro")
    status, _, err = study.run()
    assert status == 2  # before anything is trained
    one_line(err, folder, "read-only")
    assert {p: p.read_bytes() for p in study.root.rglob("*") if p.is_file()} == kept
    small_disk("size=16m,remount,rw")
    assert study.finish() == undisturbed[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("folder", ["checkpoint", "results"])
def test_permission_denied(state, folder):
    study, expected = state("unfinished")
    for path in [study.root / folder, *(study.root / folder).rglob("*/")]:
        path.chmod(0o500)
    with pytest.raises(storage.StorageError, match="permission denied"):
        next_run(study.config)
    for path in [study.root / folder, *(study.root / folder).rglob("*/")]:
        path.chmod(0o700)
    next_run(study.config)
    assert study.bits() == expected


@pytest.mark.parametrize(
    ("name", "begun"),
    [
        ("checkpoint/relu/trial_1.pt", "unfinished"),
        ("checkpoint/relu/trial_1.json", "unfinished"),
        ("checkpoint/relu/trial_1.lock", "unfinished"),
        ("checkpoint/relu/trial_1.step-35.snapshot", "unfinished"),
        ("results/relu_results.json", "finished"),
        ("results", "unfinished"),
        ("checkpoint/relu", "unfinished"),
    ],
)
def test_something_else_in_the_place_of_a_file(state, name, begun):
    """A folder where a file should be (or the other way round) is named; out of the way, all is well again."""
    study, expected = state(begun)
    path = study.root / name
    if path.is_file():
        path.unlink()
        path.mkdir()
    elif not path.exists():
        path.mkdir() if "." in path.name else path.write_text("", encoding="utf-8")
    else:
        shutil.rmtree(path)
        path.write_text("", encoding="utf-8")
    try:
        notes = next_run(study.config)
    except (storage.StorageError, UserError) as error:
        assert str(path) in str(error) and "\n" not in str(error)
        path.rmdir() if path.is_dir() else path.unlink()
        next_run(study.config)
    else:
        assert any(str(path) in note for note in notes)
    assert study.bits() == expected


# -- two at once --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_at_once_ten_times(make, undisturbed):
    """The same command twice at the same time: both end well, and the results are those of one."""
    for n in range(10 if FULL else 3):
        study = make(f"two{n}", workers=2 if n % 4 == 1 else 1)
        both = [study.start(bare=n % 5 == 0), study.start(bare=n % 5 == 0)]
        if n % 3 == 2:
            time.sleep(0.7)
            both.append(study.start())  # and a late one
        for process in both:
            out, err = process.communicate(timeout=300)
            assert process.returncode == 0, err
        assert study.bits() == undisturbed[0]
        assert not study.left_over()


@pytest.mark.slow
def test_two_activations_from_two_terminals(make, undisturbed):
    """Both are in the table and in the report, whoever ends last."""
    study = make("terminals")
    both = [study.start(name, quiet=True) for name in ("relu", "gelu")]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out, err) == (0, "", "")
    assert study.bits() == undisturbed[0]
    table = (study.root / "results" / "summary.csv").read_text(encoding="utf-8")
    assert "RELU" in table and "GELU" in table
    assert (study.root / "results" / "FINAL_REPORT.md").exists()


# -- divergence ---------------------------------------------------------------------------------------------------


def spoil(monkeypatch, bad, at):
    """Make the loss of trials `bad` NaN from step `at` on."""
    healthy = trial.Training.one_step

    def one_step(self, step):
        loss = healthy(self, step)
        if self.trial in bad and step >= at:
            with torch.no_grad():
                self.optimiser.master.fill_(float("nan"))
            self.optimiser.use_working_weights()
            return loss * float("nan")
        return loss

    monkeypatch.setattr(trial.Training, "one_step", one_step)


@pytest.mark.parametrize("at", [0, 7, 10, 33])
def test_one_trial_diverges(make, no_figures, monkeypatch, at):
    """It is recorded with its step, whenever snapshots were taken; the averages are those of the others."""
    study = make("diverges", trials_per_activation=3)
    spoil(monkeypatch, {2}, at)
    next_run(study.config)
    results = storage.read_results(storage.results_path(study.config.results_dir, "relu"))
    assert [t["status"] for t in results["trials"]] == ["done", "diverged", "done"]
    assert results["trials"][1]["diverged_at_step"] == at
    assert results["trials"][1]["val_loss"] is None
    others = [results["trials"][k]["val_loss"] for k in (0, 2)]
    assert results["avg_val_loss"] == pytest.approx(np.mean(others), rel=1e-12)
    assert results["std_val_loss"] == pytest.approx(np.std(others, ddof=1), rel=1e-12)
    assert [p["model_pair"] for p in results["reproducibility_metrics"]] == ["1_vs_3"]
    assert not study.left_over()
    with pytest.raises(storage.StorageError, match=f"diverged at step {at}"):
        train.load_trial(study.checkpoint(2))
    assert [s["state"] for s in _states(study)] == ["done", "diverged", "done"]


def test_divergence_while_being_stopped(make, no_figures, monkeypatch):
    """A stop in the very steps of the divergence changes nothing about when it happened."""
    study = make("both", snapshot_seconds=1e9)
    spoil(monkeypatch, {1}, 9)  # the point of the curve at step 10 finds it, too
    steps = iter(range(1000))
    record = train.train_trial(study.config, "relu", 1, stop=lambda: next(steps) >= 9)
    assert (record["status"], record["diverged_at_step"]) == ("diverged", 9)


def test_exploding_without_nan(make, no_figures, monkeypatch):
    """A finite but absurd loss counts too, also where it shows at the point of a stop."""
    study = make("explodes")
    original = trial.windows.evaluate_loss
    monkeypatch.setattr(trial.windows, "evaluate_loss", lambda *a, **k: (1e6, original(*a, **k)[1]))
    record = train.train_trial(study.config, "relu", 1)
    assert (record["status"], record["diverged_at_step"]) == ("diverged", 0)


@pytest.mark.slow
def test_all_diverged_is_a_result(make):
    """With an absurd learning rate, everything: status 0, results, figures, table and report."""
    study = make("absurd", learning_rate=10.0, min_lr=10.0, grad_clip=0.0, weight_decay=10.0, warmup_iters=0)
    status, out, err = study.run("relu", "gelu")
    assert status == 0, err
    assert "diverged at step" in out
    for name in ("relu", "gelu"):
        results = storage.read_results(storage.results_path(study.config.results_dir, name))
        assert [t["status"] for t in results["trials"]] == ["diverged"] * 2
        assert results["avg_val_loss"] is results["avg_relative_pd"] is None
        for figure in ("training_curves", "reproducibility", "summary"):
            assert (study.root / "plots" / f"{name}_{figure}.png").exists()
    report = (study.root / "results" / "FINAL_REPORT.md").read_text(encoding="utf-8")
    assert "diverged" in report
    assert "nan" not in (study.root / "results" / "summary.csv").read_text(encoding="utf-8").lower()
    results, models, tokenizer = train.run_experiment(study.config, "relu", quiet=True)
    assert models == [] and tokenizer.vocab_size > 10
