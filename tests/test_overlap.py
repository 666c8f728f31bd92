"""How much of validation occurs in training, and of training in itself: against searching for every stretch."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prepare_data
from config import Config
from conftest import pseudo_english
from corpora import overlap

W = overlap.WINDOW


def searched(train, val):
    """The two shares by looking up every stretch, byte for byte."""
    seen, repeated = set(), 0
    for i in range(len(train) - W + 1):
        stretch = train[i : i + W].tobytes()
        repeated += stretch in seen
        seen.add(stretch)
    found = sum(val[i : i + W].tobytes() in seen for i in range(len(val) - W + 1))
    return {"val_in_train": found / (len(val) - W + 1), "train_repeated": repeated / (len(train) - W + 1)}


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    vocab=st.sampled_from([2, 5, 256, 70_000]),
    period=st.sampled_from([None, 1, 3, 100, 700]),
    copies=st.lists(st.tuples(st.integers(0, 2900), st.integers(0, 2900), st.integers(1, 800)), max_size=4),
)
def test_shares_are_those_of_a_search(seed, vocab, period, copies):
    rng = np.random.default_rng(seed)
    text = rng.integers(0, vocab, 4500).astype(np.uint32 if vocab > 65536 else np.uint16)
    text = np.resize(text[:period], len(text)) if period else text
    for source, target, length in copies:  # from anywhere in the first part to anywhere
        text[target + 800 : target + 800 + length] = text[source : source + length].copy()
    train, val = text[:3700], text[3700:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "CHUNK", 512)  # several pieces, whose borders no stretch may be lost at
        assert overlap.overlap(train, val, vocab) == pytest.approx(searched(train, val))


@pytest.mark.parametrize("sizes", [(W - 1, 500), (500, W - 1), (0, 0)])
def test_splits_that_are_too_short_give_nothing(sizes):
    train, val = (np.zeros(n, np.uint16) for n in sizes)
    assert overlap.overlap(train, val, 2) == {"val_in_train": None, "train_repeated": None}


def test_hashes_are_the_polynomial_of_the_definition():
    tokens = np.random.default_rng(0).integers(0, 60, 300).astype(np.uint16)
    values = [int(v) for v in overlap._pseudo_random(60)]
    exact = [
        sum(values[t] * pow(overlap._BASE, j, 1 << 64) for j, t in enumerate(tokens[i : i + W])) % (1 << 64)
        for i in (0, 7, 236)
    ]
    assert overlap._hashes_at(tokens, np.array([0, 7, 236]), overlap._pseudo_random(60)).tolist() == exact


def test_samples_of_a_large_text_come_close(monkeypatch):
    """With fewer places than tokens the shares are estimates; the standard error of 1000 places is 1.6 points."""
    rng = np.random.default_rng(1)
    text = rng.integers(0, 50, 60_000).astype(np.uint16)
    text[30_000:45_000] = text[5000:20_000]
    val = np.concatenate((text[10_000:13_000], rng.integers(0, 50, 7000).astype(np.uint16)))
    exact = searched(text, val)
    monkeypatch.setattr(overlap, "SAMPLES", 1000)
    assert overlap.overlap(text, val, 50) == pytest.approx(exact, abs=0.05)


def corpus_of(tmp_path, text, name="text.txt", **changes):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    config = Config(preset="smoke", device="cpu", data_dir=str(tmp_path / "data"), dataset=str(path), **changes)
    return prepare_data.load_corpus(config)


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_shares_are_recorded_at_preparation(tmp_path, tokenizer):
    text = pseudo_english(40_000)
    corpus = corpus_of(tmp_path, text[:36_000] + text[10_000:12_000] + text[38_000:], tokenizer=tokenizer)
    exact = searched(np.array(corpus.train), np.array(corpus.val))
    assert {name: corpus.info[name] for name in exact} == pytest.approx(exact)
    assert 0.3 < exact["val_in_train"] < 0.6 and exact["train_repeated"] < 0.05


def without_record(corpus):
    kept = {
        k: v for k, v in corpus.info.items() if k not in ("val_in_train", "train_repeated", "unseen_val_characters")
    }
    return dataclasses.replace(corpus, info=kept)


def test_what_was_prepared_before_is_computed_once(tmp_path, monkeypatch):
    old = without_record(corpus_of(tmp_path, pseudo_english(30_000)))
    first = overlap.overlap_of(old)
    assert first == overlap.overlap(old.train, old.val, old.vocab_size)
    monkeypatch.setattr(overlap, "overlap", lambda *_: pytest.fail("computed again"))
    assert overlap.overlap_of(old) == first


def test_a_record_of_other_arrays_is_not_believed(tmp_path):
    corpus = corpus_of(tmp_path, pseudo_english(30_000))
    assert overlap.overlap_of(corpus)["val_in_train"] < 0.1
    size = len(corpus.val)
    for val in (corpus.train[:size], np.array(corpus.train[:size])):
        assert overlap.overlap_of(dataclasses.replace(corpus, val=val))["val_in_train"] == 1


PROSE = pseudo_english(100_000)
SOUND = {
    "prose": PROSE,
    "a refrain": "".join(
        pseudo_english(2000, i) + "And so we sing, and so we sing, all through the night.\n" for i in range(40)
    ),
    "boilerplate": "".join(
        f"{pseudo_english(300, i)}\n{'Licensed as is, without warranty of any kind. ' * 2}\n" for i in range(200)
    ),
    "noise": "".join(np.random.default_rng(0).choice(list("abcdefghij \n"), 50_000)),
}
LEAKS = {
    "validation in the middle of training": PROSE[:40_000] + PROSE[-10_000:] + PROSE[40_000:],
    "validation at the beginning": PROSE[-10_000:] + PROSE,
    "a quarter of it, in pieces": PROSE[:50_000]
    + "".join(PROSE[i : i + 250] + "*" for i in range(90_000, 100_000, 1000))
    + PROSE[50_000:],
    "ten times over": PROSE[:40_000] * 10,
    "twice over": PROSE[:50_000] * 2,
    "one line": PROSE[:99] * 1000,
    "its speeches each twice, shuffled": "\n\n".join(np.random.default_rng(0).permutation(PROSE.split("\n\n") * 2)),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_sound_texts_pass(tmp_path, name, tokenizer):
    passed, measured, *_ = overlap.verdict(corpus_of(tmp_path, SOUND[name], tokenizer=tokenizer))
    assert passed, measured


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_leaks_and_repetition_fail(tmp_path, name, tokenizer):
    passed, measured, *_ = overlap.verdict(corpus_of(tmp_path, LEAKS[name], tokenizer=tokenizer))
    assert passed is False, measured


def test_unseen_characters_are_said(tmp_path):
    text = pseudo_english(40_000)
    corpus = corpus_of(tmp_path, text[:38_000] + text[38_000:].replace("a", "ж"), tokenizer="byte")
    n = sum(c == "ж" for c in text[36_000:].replace("a", "ж")[2000:])
    assert corpus.info["unseen_val_characters"] == text[38_000:].count("a") == n
    assert f"{100 * n / 4000:.2g} % of its characters never occur" in overlap.verdict(corpus)[1]
    assert "never occur" not in overlap.verdict(without_record(corpus))[1]  # unknown stays unsaid
