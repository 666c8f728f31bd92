"""storage: atomic writes, sealed results, checkpoints that show every kind of damage, locks that a crash releases."""

import errno
import json
import os
import pickle
import random
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import programs
import storage
from conftest import Evil, damage
from storage import StorageError
from synthetic import minimal_results, synthetic_results
from untouched import ROOT

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("json")


@given(value=json_values)
def test_json_round_trip(folder, value):
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return  # lone surrogates are not text
    storage.write_json(folder / "x.json", value)
    assert storage.read_json(folder / "x.json") == value


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_is_strict(tmp_path, number):
    path = tmp_path / "x.json"
    storage.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        storage.write_json(path, {"a": [number]})
    assert storage.read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_nan_of_other_tools_is_read_as_none(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": NaN, "b": [Infinity, -Infinity, 1]}', encoding="utf-8")
    assert storage.read_json(path) == {"a": None, "b": [None, None, 1]}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.txt"
    storage.write_text(path, "old")
    with pytest.raises(RuntimeError), storage.atomic_path(path) as temporary:
        temporary.write_text("half of the n", encoding="utf-8")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permission denied"), (errno.EROFS, "read-only")],
)
def test_a_disk_that_refuses_is_one_clear_line(tmp_path, monkeypatch, code, words):
    path = tmp_path / "x.txt"
    storage.write_text(path, "old")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match=words) as caught:
        storage.write_text(path, "new")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_real_size_limit_is_one_clear_line(tmp_path):
    """A process that may not write more than 100 kB, as on a full disk: the old file stays."""
    code = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
import storage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
storage.write_text(sys.argv[1], "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    storage.write_text(sys.argv[1], "x" * 1_000_000)
except storage.StorageError as error:
    print(error)
"""
    path = tmp_path / "x.txt"
    done = programs.fresh("-c", code, path, ROOT, check=True)
    assert "larger than this process may write" in done.stdout
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_folder_where_a_file_should_be(tmp_path):
    (tmp_path / "x.json").mkdir()
    with pytest.raises(StorageError, match="x.json"):
        storage.write_json(tmp_path / "x.json", 1)
    with pytest.raises(StorageError, match="x.json"):
        storage.read_json(tmp_path / "x.json")


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "results").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="file where a folder is needed"):
        storage.write_json(tmp_path / "results" / "x.json", 1)


def test_temporaries_of_dead_processes_are_cleaned_and_of_live_ones_kept(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    dead = tmp_path / f".a.{storage.host_name()}.{child.pid}.tmp.pt"
    live = tmp_path / f".a.{storage.host_name()}.{os.getpid()}.tmp.pt"
    other = tmp_path / ".a.anotherhost.1.tmp.pt"
    for path in (dead, live, other):
        path.write_text("x", encoding="utf-8")
    assert storage.clean_temporaries(tmp_path) == [dead]
    assert live.exists() and other.exists()


# -- results ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("results", [synthetic_results(), minimal_results(), synthetic_results(diverged=(2,))])
def test_results_round_trip(tmp_path, results):
    path = storage.write_results(results, tmp_path)
    again = storage.read_results(path)
    assert {k: v for k, v in again.items() if k != "content_sha256"} == results
    assert storage.write_results(again, tmp_path) == path
    assert storage.read_results(path) == again


def test_an_edited_number_is_noticed(tmp_path):
    path = storage.write_results(synthetic_results(), tmp_path)
    edited = json.loads(path.read_text(encoding="utf-8"))
    edited["avg_relative_pd"] = 0.05
    path.write_text(json.dumps(edited), encoding="utf-8")
    with pytest.raises(StorageError, match="changed after it was written"):
        storage.read_results(path)


def break_results(change):
    results = minimal_results()
    change(results)
    return results


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([], "not a JSON object"),
        ({}, "lacks activation"),
        (break_results(lambda r: r.pop("trials")), "lacks trials"),
        (break_results(lambda r: r["trials"][1].pop("seed")), "lacks seed"),
        (break_results(lambda r: r["trials"][0].update(val_loss="low")), "val_loss='low'"),
        (break_results(lambda r: r["trials"][0].update(val_loss_history=[1, "x"])), "val_loss_history"),
        (
            break_results(lambda r: r["reproducibility_metrics"].append(3)),
            "reproducibility_metrics[3]=3 is not an object",
        ),
        (break_results(lambda r: r.update(avg_val_loss=True)), "avg_val_loss=True"),
        (break_results(lambda r: r.update(activation="../../etc/passwd")), "not a name"),
    ],
)
def test_a_file_that_is_no_results_file_says_why(tmp_path, results, words):
    path = tmp_path / "relu_results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(StorageError, match="relu_results.json") as caught:
        storage.read_results(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "\x00" * 50, "[" * 100_000, "not json"])
def test_text_that_is_no_json(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StorageError, match="x.json"):
        storage.read_json(path)


# -- checkpoints --------------------------------------------------------------------------------------------------


def contents():
    generator = torch.Generator().manual_seed(0)
    return {
        "kind": "trial",
        "record": {"val_loss": 1.5, "steps": [0, 1], "none": None},
        "weights": {"a": torch.randn(30, 20, generator=generator), "b": torch.randn(7, generator=generator).bfloat16()},
        "probe": torch.rand(2, 5, 3, generator=generator).half(),
    }


def test_checkpoint_round_trip(tmp_path):
    path = tmp_path / "trial_1.pt"
    checksum = storage.save_checkpoint(path, contents())
    assert checksum == storage.sha256_file(path)
    loaded = storage.load_checkpoint(path)
    assert storage.contents_sha256(loaded) == storage.contents_sha256(contents())
    assert torch.equal(loaded["weights"]["a"], contents()["weights"]["a"])
    assert loaded["record"] == contents()["record"]


def test_a_saved_state_is_a_copy(tmp_path):
    """Training that goes on after a save changes nothing in it (`state_dict().copy()` keeps live tensors)."""
    weight = torch.zeros(3)
    storage.save_checkpoint(tmp_path / "a.pt", {"w": weight})
    weight.add_(1)
    assert torch.equal(storage.load_checkpoint(tmp_path / "a.pt")["w"], torch.zeros(3))


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_nothing_is_run(tmp_path, writer):
    path, proof = tmp_path / "trial_1.pt", tmp_path / "proof"
    if writer == "torch":
        torch.save({"weights": Evil(proof)}, path)
    else:
        path.write_bytes(pickle.dumps({"weights": Evil(proof)}))
    with pytest.raises(StorageError, match="trial_1.pt.*nothing in it was run"):
        storage.load_checkpoint(path)
    assert not proof.exists()


def test_any_damage_to_a_checkpoint_is_noticed_or_harmless(tmp_path):
    """100 random truncations, flipped bits, zeroed and deleted stretches: an error, or the very same contents."""
    path = tmp_path / "trial_1.pt"
    storage.save_checkpoint(path, contents())
    intact, expected = path.read_bytes(), storage.contents_sha256(contents())
    rng, noticed = random.Random(0), 0
    for _ in range(100):
        data = bytearray(intact)
        damage(rng, data)
        path.write_bytes(data)
        try:
            assert storage.contents_sha256(storage.load_checkpoint(path)) == expected
        except StorageError as error:
            noticed += 1
            assert "trial_1.pt" in str(error) and "\n" not in str(error)
    assert noticed > 50


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        storage.load_checkpoint(tmp_path / "trial_1.pt")


def test_contents_checksum_sees_type_shape_and_name():
    base = {"a": torch.zeros(4)}
    others = [{"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4, dtype=torch.int32)}, {"a": 0}]
    sums = {storage.contents_sha256(x) for x in (base, *others)}
    assert len(sums) == 5


# -- locks --------------------------------------------------------------------------------------------------------


def test_a_lock_excludes_and_a_killed_holder_releases_it(tmp_path):
    path = tmp_path / "x.lock"
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); import storage\n"
        "lock = storage.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, path, ROOT], stdout=subprocess.PIPE, encoding="utf-8")
    assert holder.stdout.readline() == "held\n"
    lock = storage.FileLock(path)
    assert not lock.acquire(wait=False)
    holder.kill()
    holder.wait()
    assert lock.acquire(wait=False)
    lock.release()


@pytest.mark.parametrize("name", ["relu", "smelu_0.25", "module:function", "pack.age:f"])
def test_an_activation_is_found_again_by_its_file_name(name):
    assert storage.activation_name(storage.file_name(name)) == name
