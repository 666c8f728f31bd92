"""Tokenizers against plain-Python computations of the same thing."""

import json
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import programs
import tokenizer as tok
from config import UserError
from conftest import speaking_utf8
from untouched import ROOT

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # any text that can be written as UTF-8
SAMPLE = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak. It's 1599!\n" * 20


@pytest.fixture(scope="module")
def bpe():
    return tok.make_tokenizer("bpe", SAMPLE, vocab_size=300)


@RELAXED
@given(TEXT)
def test_char_ids_are_positions_in_the_sorted_characters(text):
    tokenizer = tok.make_tokenizer("char", text)
    vocabulary = sorted(set(text))
    assert tokenizer.encode(text).tolist() == [vocabulary.index(c) for c in text]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == len(vocabulary)


@RELAXED
@given(TEXT)
def test_byte_ids_are_the_utf8_bytes(text):
    tokenizer = tok.make_tokenizer("byte", "")
    assert tokenizer.encode(text).tolist() == list(text.encode("utf-8"))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@RELAXED
@given(TEXT)
def test_bpe_round_trip_of_text_it_never_saw(bpe, text):
    assert bpe.decode(bpe.encode(text)) == text


@pytest.mark.parametrize("name", ["char", "byte", "bpe"])
def test_to_dict_is_strict_json_and_comes_back_the_same(name):
    tokenizer = tok.make_tokenizer(name, SAMPLE, vocab_size=300)
    record = json.loads(json.dumps(tokenizer.to_dict(), allow_nan=False))
    again = tok.from_dict(record)
    assert again.to_dict() == tokenizer.to_dict() and again.name == name
    assert again.vocab_size == tokenizer.vocab_size
    np.testing.assert_array_equal(again.encode(SAMPLE), tokenizer.encode(SAMPLE))


def test_unknown_characters_have_the_last_token():
    tokenizer = tok.make_tokenizer("char", "abc", unknown=True)
    assert tokenizer.vocab_size == 4
    assert tokenizer.encode("aXbé\U0001f600c\0").tolist() == [0, 3, 1, 3, 3, 2, 3]
    assert tokenizer.decode([0, 3, 2]) == "a\ufffdc"


def test_a_replacement_character_of_the_text_itself_is_no_unknown():
    tokenizer = tok.make_tokenizer("char", "ab\ufffd", unknown=True)
    assert tokenizer.encode("\ufffdz").tolist() == [2, 3]
    assert tokenizer.decode([2, 3]) == "\ufffd\ufffd"


@pytest.mark.parametrize(
    "text, named",
    [("caé", "'é' (U+00E9) at position 2"), ("\0", "U+0000"), ("a\U0001f600", "U+1F600"), ("\ud800", "U+D800")],
)
def test_a_character_outside_the_vocabulary_is_named(text, named):
    with pytest.raises(UserError) as error:
        tok.make_tokenizer("char", "abc").encode(text)
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["byte", "bpe"])
def test_half_a_surrogate_pair_is_an_error_of_one_line(name, bpe):
    tokenizer = bpe if name == "bpe" else tok.make_tokenizer("byte", "")
    with pytest.raises(UserError, match=r"U\+D800 at position 1"):
        tokenizer.encode("a\ud800")


@pytest.mark.parametrize("ids", [[3], [-1], [0, 300], [0.5], np.array([2.0]), ["a"], [True]])
def test_decoding_what_is_no_id(ids):
    with pytest.raises(UserError):
        tok.make_tokenizer("char", "abc").decode(ids)


@pytest.mark.parametrize("name", ["char", "byte", "bpe"])
def test_decode_takes_lists_and_arrays_of_any_integer_type(name):
    tokenizer = tok.make_tokenizer(name, SAMPLE, vocab_size=300)
    ids = tokenizer.encode("Speak")
    for form in (ids, ids.tolist(), ids.astype(np.int64), ids[None], tuple(ids.tolist())):
        assert tokenizer.decode(form) == "Speak"
    assert tokenizer.decode([]) == "" and tokenizer.encode("").size == 0


def test_bytes_that_are_no_text_decode_to_replacement_characters(bpe):
    assert tok.make_tokenizer("byte", "").decode([0xFF, 65]) == "\ufffdA"
    byte_ids = bpe.encode("é").tolist()  # two bytes, never merged in the sample
    assert len(byte_ids) == 2 and bpe.decode(byte_ids[:1]) == "\ufffd"


def test_ids_are_uint16_up_to_65536_tokens_and_uint32_above():
    characters = [chr(i) for i in range(0x20, 0x20000) if not 0xD800 <= i < 0xE000][: 2**16]
    small = tok.make_tokenizer("char", characters)
    large = tok.make_tokenizer("char", characters, unknown=True)
    assert (small.vocab_size, small.encode("a").dtype) == (65536, np.uint16)
    assert (large.vocab_size, large.encode("a").dtype) == (65537, np.uint32)
    text = "".join(characters)
    assert small.decode(small.encode(text)) == text
    assert large.encode("\U0010fff0").tolist() == [65536]


@pytest.mark.parametrize(
    "record",
    [
        {},
        None,
        [],
        {"name": "word"},
        {"name": "char"},
        {"name": "char", "characters": "ba", "unknown": False},
        {"name": "char", "characters": "aa", "unknown": False},
        {"name": "char", "characters": 3, "unknown": False},
        {"name": "bpe", "tokenizer": "{}"},
        {"name": "bpe", "tokenizer": None},
    ],
)
def test_a_damaged_record_is_an_error_of_one_line(record):
    with pytest.raises(UserError) as error:
        tok.from_dict(record)
    assert "\n" not in str(error.value)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="char, byte, bpe"):
        tok.make_tokenizer("word", "a")


# -- bpe ------------------------------------------------------------------------------------------------------------


def gpt2_words(text):
    """GPT-2's splitting, for ASCII, in the byte alphabet of its vocabulary."""
    pattern = r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
    return [word.replace(" ", "Ġ").replace("\n", "Ċ") for word in re.findall(pattern, text)]


def merged(symbols, pair):
    out, i = [], 0
    while i < len(symbols):
        if tuple(symbols[i : i + 2]) == pair:
            out.append("".join(pair))
            i += 2
        else:
            out.append(symbols[i])
            i += 1
    return out


def test_bpe_merges_the_most_frequent_pairs_and_applies_them_in_order(bpe):
    model = json.loads(bpe.to_dict()["tokenizer"])["model"]
    words = [list(word) for word in gpt2_words(SAMPLE)]
    for pair in [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]:
        counts = Counter(p for word in words for p in zip(word, word[1:], strict=False))
        assert counts[pair] == max(counts.values())
        words = [merged(word, pair) for word in words]
    assert bpe.encode(SAMPLE).tolist() == [model["vocab"][symbol] for word in words for symbol in word]


def test_bpe_reaches_the_size_asked_for_where_the_text_allows(bpe):
    assert bpe.vocab_size == 300
    assert tok.make_tokenizer("bpe", "abab", vocab_size=300).vocab_size <= 258


def test_bpe_training_gives_the_same_tokenizer_in_every_process():
    code = (
        "import sys, tokenizer; bpe = tokenizer.make_tokenizer('bpe', sys.stdin.read(), vocab_size=400); "
        "print(bpe.to_dict()['tokenizer'])"
    )
    options = {"input": SAMPLE, "cwd": ROOT, "env": speaking_utf8(), "check": True}
    outputs = {programs.fresh("-c", code, **options).stdout for _ in range(3)}
    assert len(outputs) == 1


def test_bpe_training_looks_at_a_bounded_sample(monkeypatch):
    monkeypatch.setattr(tok, "BPE_TRAINING_CHARACTERS", len(SAMPLE))
    limited = tok.make_tokenizer("bpe", [SAMPLE, "zzzz" * 1000], vocab_size=300)
    assert limited.to_dict() == tok.make_tokenizer("bpe", SAMPLE, vocab_size=300).to_dict()


SPACED = st.text("ab's1!é \n\t\r\u3000\x1c", max_size=60)


@settings(RELAXED, max_examples=300)
@given(st.lists(SPACED), st.integers(1, 40))
def test_bpe_of_pieces_is_bpe_of_the_whole(bpe, strings, size):
    """Wherever the text arrives cut, except where no safe place exists within 16 pieces."""
    text = "".join(strings)
    pieces = list(tok.at_safe_cuts(strings, size))
    assert "".join(pieces) == text
    if len(text) <= 16 * size:
        assert [i for piece in pieces for i in bpe.encode(piece)] == bpe.encode(text).tolist()


def test_text_without_any_white_space_is_cut_regardless(bpe):
    text = "ab" * 5000
    pieces = list(tok.at_safe_cuts([text], 100))
    assert "".join(pieces) == text and max(map(len, pieces)) <= 17 * 100
    assert bpe.decode(np.concatenate(list(bpe.encode_pieces([text])))) == text


# -- pieces -----------------------------------------------------------------------------------------------------------


@RELAXED
@given(st.lists(st.text("abc", max_size=30)), st.integers(1, 20))
def test_rechunk_keeps_the_text_and_the_size(strings, size):
    pieces = list(tok.rechunk(strings, size))
    assert "".join(pieces) == "".join(strings)
    assert all(len(piece) == size for piece in pieces[:-1]) and all(0 < len(piece) <= size for piece in pieces)


@RELAXED
@given(st.lists(st.text("abc", max_size=9)), st.integers(0, 40))
def test_first_characters(strings, limit):
    assert "".join(tok.first_characters(strings, limit)) == "".join(strings)[:limit]


# -- a tokenizer.json ---------------------------------------------------------------------------------------------


def tokenizer_file(folder, normalizer=None, **more):
    """One as models bring them: byte-level BPE with special tokens that a post-processor puts around every text."""
    import tokenizers as library

    trained = tok.make_tokenizer("bpe", "To be, or not to be, that is the question. " * 20, vocab_size=280)
    made = library.Tokenizer.from_str(trained.to_dict()["tokenizer"])
    made.add_special_tokens(["<s>"])
    made.post_processor = library.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 280)])
    if normalizer:
        made.normalizer = getattr(library.normalizers, normalizer)()
    made.enable_truncation(4)
    path = folder / "tokenizer.json"
    made.save(str(path))
    return str(path), trained


def test_a_tokenizer_json_gives_its_own_tokens_and_no_special_ones(tmp_path):
    path, trained = tokenizer_file(tmp_path)
    ours = tok.make_tokenizer(path, "")
    text = "To be, or not to be: that is 你好 the question.\n"
    assert ours.encode(text).tolist() == trained.encode(text).tolist()
    assert ours.decode(ours.encode(text)) == text and ours.vocab_size == 281
    again = tok.from_dict(ours.to_dict())
    assert again.encode(text).tolist() == ours.encode(text).tolist() and again.name == "file"
    assert np.concatenate(list(ours.encode_pieces([text[:7], text[7:]]))).tolist() == ours.encode(text).tolist()


def test_a_tokenizer_that_loses_something_is_refused(tmp_path):
    ours = tok.make_tokenizer(tokenizer_file(tmp_path, "Lowercase")[0], "")
    with pytest.raises(UserError, match="does not give the text back: 'To be' becomes 'to be'"):
        list(ours.encode_pieces(["To be"]))


@pytest.mark.parametrize(("contents", "says"), [(None, "No such file"), (b"{}", "not a tokenizer"), (b"\xff", "UTF-8")])
def test_what_is_no_tokenizer_json_is_one_line(tmp_path, contents, says):
    path = tmp_path / "mine.json"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(UserError, match=says) as caught:
        tok.make_tokenizer(str(path), "")
    assert "mine.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_study_with_a_tokenizer_json(tmp_path, corpus_file):
    """The corpus is known by what the file says, not by where it lies."""
    from config import Config
    from prepare_data import load_corpus

    path, trained = tokenizer_file(tmp_path)
    config = Config(
        preset="smoke", device="cpu", dataset=str(corpus_file), tokenizer=path, data_dir=str(tmp_path / "d")
    )
    corpus = load_corpus(config)
    text = corpus_file.read_text(encoding="utf-8")
    assert corpus.tokenizer.decode(corpus.val) == text[len(text) * 9 // 10 :]
    assert corpus.vocab_size == 281 and len(corpus.val) == len(trained.encode(text[len(text) * 9 // 10 :]))
    moved = tmp_path / "elsewhere.json"
    shutil.copy(path, moved)
    assert load_corpus(config.replace(tokenizer=str(moved))).sha256 == corpus.sha256
    assert sum(p.is_dir() for p in (tmp_path / "d").glob("*-file-*")) == 1
