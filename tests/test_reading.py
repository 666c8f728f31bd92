"""Files to text: encodings, packed files, tables, folders; and that nothing but the right text ever comes out."""

import base64
import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import math
import random
import re
import struct
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import prepare_data
import programs
from config import Config, UserError
from conftest import cases, pseudo_english
from corpora import characters, encodings, packed, tables
from corpora.source import Account

ROOT = Path(__file__).resolve().parent.parent
ENGLISH = pseudo_english(6000)
# A few plain sentences in each language, over and over in another order, so that there is enough to recognise.
SENTENCES = {
    "ru": "вчера шёл дождь, и мы сидели дома. мой брат читал книгу о море. завтра будет солнце!",
    "uk": "учора йшов дощ, і ми сиділи вдома. мій брат читав книжку про море. її ґанок ще мокрий!",
    "el": "χθες έβρεχε και μείναμε στο σπίτι. ο αδελφός μου διάβαζε ένα βιβλίο. αύριο θα έχει ήλιο!",
    "he": "אתמול ירד גשם וישבנו בבית. אחי קרא ספר על הים. מחר תהיה שמש!",
    "ar": "أمس هطل المطر وجلسنا في البيت. قرأ أخي كتابا عن البحر. غدا ستشرق الشمس!",
    "ja": "昨日は雨が降ったので、家にいました。弟は海の本を読んでいました。明日は晴れるでしょう。",
    "zh": "昨天下雨，我们都在家里。我的弟弟读了一本关于大海的书。明天会出太阳。",
    "tw": "昨天下雨，我們都在家裡。我的弟弟讀了一本關於大海的書。明天會出太陽。",
    "ko": "어제는 비가 와서 집에 있었습니다. 동생은 바다에 관한 책을 읽었습니다. 내일은 해가 날 것입니다.",
    "fr": "hier, il a plu et nous sommes restés à la maison. mon frère a lu un livre où la mer gelée brûlait. ça ira!",
    "de": "gestern hat es geregnet, wir saßen zu Hause. mein Bruder hörte über das Meer und aß süße Äpfel. schön!",
    "pl": "wczoraj padał deszcz i siedzieliśmy w domu. mój brat czytał książkę o żółwiach. jutro będzie słońce!",
    "tr": "dün yağmur yağdı, evde oturduk. kardeşim denizle ilgili bir kitap okuyordu. yarın güneş açacak, değil mi?",
    "th": "เมื่อวานฝนตก เราจึงอยู่บ้าน น้องชายอ่านหนังสือเรื่องทะเล พรุ่งนี้แดดจะออก",
}
LEGACY = {
    "ru": ["cp1251", "koi8-r", "iso8859-5", "cp866", "mac_cyrillic"],
    "uk": ["cp1251", "koi8-u"],
    "el": ["cp1253", "iso8859-7"],
    "he": ["cp1255"],
    "ar": ["cp1256"],
    "ja": ["shift_jis", "euc_jp", "iso2022_jp", "cp932"],
    "zh": ["gbk", "gb18030", "gb2312"],
    "tw": ["big5"],
    "ko": ["euc_kr", "iso2022_kr"],
    "fr": ["latin-1", "cp1252", "cp850", "mac_roman", "cp037"],
    "de": ["latin-1", "cp1252"],
    "pl": ["cp1250", "iso8859-2"],
    "tr": ["cp1254"],
    "th": ["cp874"],
}
PAIRS = [(language, encoding) for language, names in LEGACY.items() for encoding in names]


def text_in(language: str, characters: int = 3000, seed: int = 0) -> str:
    rng, parts = random.Random(seed), SENTENCES[language].replace("。", "。 ").split()
    words, size = [], 0
    while size < characters:
        words.append(rng.choice(parts) + rng.choice(["", " ", " ", "\n"]))
        size += len(words[-1])
    return "".join(words)


def settings_for(folder, dataset, **changes):
    return Config(preset="smoke", device="cpu", data_dir=str(folder / "data"), dataset=str(dataset), **changes)


def written(folder, data, name="my.txt"):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def load(path, **changes):
    return prepare_data.load_corpus(settings_for(path.parent, path, **changes))


def text_of(path, **changes):
    """The whole text that is read, and the account of it."""
    source = prepare_data.find_source(settings_for(path.parent, path, **changes))
    return "".join(source.pieces()), source.account


def refusal(path, **changes):
    with pytest.raises(UserError) as error:
        text_of(path, **changes)
    message = str(error.value)
    assert "\n" not in message and path.name in message
    return message


def advised(message):
    """The encodings that a refusal names."""
    return re.findall(r"(?:looks like |or )([\w-]+) \(", message)


# -- encodings --------------------------------------------------------------------------------------------------------

MARKED = {
    "utf-8-sig": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("language", ["en", "ru", "zh", "emoji"])
def test_a_mark_is_believed(tmp_path, encoding, language):
    text = {"en": ENGLISH, "emoji": "a 😀 b 🎉\r\n" * 300}.get(language) or text_in(language)
    data = text.encode() if encoding == "utf-8-sig" else text.encode(encoding)
    found, account = text_of(written(tmp_path, MARKED[encoding] + data))
    assert found == text
    assert account.read_as == ("UTF-8" if encoding == "utf-8-sig" else f"{encoding.upper()} (by its mark)")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("language", ["en", "ru", "de"])
def test_without_a_mark_what_it_looks_like_is_named(tmp_path, encoding, language):
    text = ENGLISH if language == "en" else text_in(language)
    path = written(tmp_path, text.encode(encoding))
    assert advised(refusal(path)) == [encoding]
    assert text_of(path, encoding=encoding)[0] == text


@pytest.mark.parametrize(("language", "encoding"), PAIRS)
def test_other_encodings_are_named_and_read(tmp_path, language, encoding):
    text = text_in(language)
    path = written(tmp_path, text.encode(encoding))
    message = refusal(path)
    names = advised(message)
    assert "not UTF-8" in message and "--encoding" in message
    readings = [text_of(path, encoding=name)[0] for name in names]  # each was tried on the whole file
    assert text in readings, (encoding, message)
    assert text_of(path, encoding=encoding) == (text, Account(f"{codecs.lookup(encoding).name.replace('_', '-')} "
                                                              "(as told)", True, []))  # fmt: skip


def test_an_encoding_that_reads_only_a_part_is_not_advised(tmp_path):
    path = written(tmp_path, text_in("ru").encode("cp1251") + b"\x98" + text_in("ru").encode("cp1251"))
    message = refusal(path)
    assert "cp1251" not in advised(message)
    for name in advised(message):
        text_of(path, encoding=name)


def test_the_first_foreign_byte_may_come_late(tmp_path):
    text = ENGLISH * 30 + text_in("ru", 500) + ENGLISH
    path = written(tmp_path, text.encode("cp1251"))
    message = refusal(path)
    assert (
        f"offset {text.encode('utf-8').index('т'.encode()) and next(i for i, c in enumerate(text) if c > '~')}"
        in message
    )
    assert text in [text_of(path, encoding=name)[0] for name in advised(message)]


@pytest.mark.parametrize("language", ["ru", "zh", "fr"])
def test_damaged_utf8_is_not_taken_for_another_encoding(tmp_path, language):
    data = text_in(language).encode()
    at = data.index(b"\xc3" if language == "fr" else data[:1], 1000)
    path = written(tmp_path, data[:at] + b"\xff" + data[at:])
    message = refusal(path)
    assert f"byte 0xff at offset {at}" in message and "the rest is UTF-8" in message and not advised(message)
    half = written(tmp_path, text_in(language)[:100].encode() + "ж".encode()[:1], "half.txt")
    assert "cut off in the middle of a character" in refusal(half) or language == "fr"


def test_surrogates_in_utf8_are_called_what_they_are(tmp_path):
    cesu = "😀".encode("utf-16-be")
    halves = "".join(chr(unit) for unit in struct.unpack(">2H", cesu)).encode("utf-8", "surrogatepass")
    message = refusal(written(tmp_path, ENGLISH.encode() + halves))
    assert "surrogate" in message and "CESU-8" in message and not advised(message)


@pytest.mark.parametrize(
    "name", ["klingon", "utf-9", "idna", "rot13", "base64", "undefined", "punycode", "a\0b", "é", ""]
)
def test_names_that_are_no_encoding(tmp_path, name):
    with pytest.raises(UserError) as error:
        text_of(written(tmp_path, ENGLISH), encoding=name)
    message = str(error.value)
    assert "encoding=" in message and "\n" not in message


@pytest.mark.parametrize("name", ["utf-16", "utf-32"])
def test_without_a_mark_utf16_needs_its_byte_order(tmp_path, name):
    path = written(tmp_path, ENGLISH.encode(name + "-be"))
    message = refusal(path, encoding=name)
    assert advised(message) == [name + "-be"]


def test_a_mark_wins_over_what_is_told(tmp_path):
    path = written(tmp_path, codecs.BOM_UTF16_LE + ENGLISH.encode("utf-16-le"))
    assert text_of(path, encoding="cp1251")[0] == ENGLISH


def test_damage_in_marked_text_is_no_question_of_encoding(tmp_path):
    data = codecs.BOM_UTF16_BE + ENGLISH.encode("utf-16-be")
    for damaged in (data[:-1], data[:1001] + data[1002:], data[:1000] + b"\xdc\0" + data[1000:]):
        message = refusal(written(tmp_path, damaged))
        assert "its mark says so: mend it there" in message and not advised(message)


@pytest.mark.parametrize("encoding", ["cp1251", "shift_jis", "gb18030", "utf-16-le", "utf-8"])
def test_what_can_not_be_decoded_as_told_names_the_byte(tmp_path, encoding):
    good = ENGLISH[:999].encode(encoding)
    bad = {"cp1251": b"\x98", "utf-16-le": b"\x00\xdc", "utf-8": b"\xff"}.get(encoding, b"\xff\xff")
    message = refusal(written(tmp_path, good + bad + good), encoding=encoding)
    assert f"byte 0x{bad[0]:02x} at offset {len(good)}" in message


def test_what_is_read_in_the_wrong_encoding_is_refused_or_noted(tmp_path):
    path = written(tmp_path, text_in("ru").encode("cp1251"))
    message = refusal(path, encoding="latin-1")
    assert "no language" in message and "cp1251" in advised(message)
    capitals = written(tmp_path, text_in("ru").title().encode("cp1251"), "capitals.txt")
    _, account = text_of(capitals, encoding="koi8-r")
    assert any("is that its encoding" in note for note in account.notes)
    line = "the day was like many others before it, and " * 3 + "it’s so\n"
    quotes = written(tmp_path, line.encode("cp1252") * 300, "quotes.txt")
    assert any("Windows-1252 is read as Latin-1" in note for note in text_of(quotes, encoding="latin-1")[1].notes)


def test_a_hub_or_the_default_has_no_encoding(tmp_path):
    for dataset in ("shakespeare", "wikitext2", "hf:a/b"):
        with pytest.raises(UserError, match="encoding='cp1251'"):
            prepare_data.find_source(settings_for(tmp_path, dataset, encoding="cp1251"))


# -- what is no text --------------------------------------------------------------------------------------------------


def noise(size, seed=0, low=0):
    return bytes(random.Random(seed).choices(range(low, 256), k=size))


def png():
    return b"\x89PNG\r\n\x1a\n" + noise(3000)


NO_TEXT = {
    "a PNG image": png(),
    "a JPEG image": b"\xff\xd8\xff\xe0" + noise(3000),
    "a GIF image": b"GIF89a" + noise(3000),
    "a PDF": b"%PDF-1.7\n" + noise(3000, low=32),
    "a program": b"\x7fELF\x02\x01\x01" + noise(3000),
    "an RTF document": b"{\\rtf1\\ansi Hello\\par}" * 100,
    "an SQLite database": b"SQLite format 3\0" + noise(3000),
    "a NumPy array": b"\x93NUMPY\x01\0" + noise(3000),
    "AppleDouble": b"\0\x05\x16\x07\0\x02\0\0Mac OS X" + bytes(60),
    "a 7z archive": b"7z\xbc\xaf\x27\x1c" + noise(3000),
    "nothing in it is recognised": noise(20_000),
    "nothing in it is recognised as": noise(20_000, low=1),
    "control characters": b"\x01\x02abc\x03" * 1000,
}


@pytest.mark.parametrize("what", NO_TEXT)
def test_what_is_no_text_is_named(tmp_path, what):
    assert what in refusal(written(tmp_path, NO_TEXT[what]))


@pytest.mark.parametrize(
    "encoding", "latin-1 cp1251 cp1252 koi8-r cp437 mac_roman shift_jis gb18030 big5 utf-16-le utf-16-be utf-7".split()
)
@pytest.mark.parametrize("low", [0, 1, 32])
def test_noise_is_no_text_in_any_encoding(tmp_path, encoding, low):
    refusal(written(tmp_path, noise(20_000, low=low)), encoding=encoding)


@pytest.mark.parametrize("where", ["beginning", "middle", "end"])
def test_a_stretch_of_noise_in_a_text_is_found(tmp_path, where):
    text = (ENGLISH * 400).encode("cp1251")
    at = {"beginning": 0, "middle": len(text) // 2, "end": len(text)}[where]
    controls = bytes(random.Random(1).choices([*range(1, 9), *range(14, 32)], k=200_000))
    assert "control characters" in refusal(written(tmp_path, text[:at] + controls + text[at:]))


def test_coloured_logs_and_form_feeds_are_text(tmp_path):
    text = "".join(f"\x1b[32mstep {i}\x1b[0m went well, and so did all others of that row\f\n" for i in range(300))
    assert text_of(written(tmp_path, text))[0] == text


DOUBTFUL = {
    "base64.txt": (base64.encodebytes(noise(30_000)), "at random"),
    "hex.txt": (noise(30_000).hex().encode(), "base64 or hex"),
    "replaced.txt": ("one \ufffd two\n".encode() * 500, "replacement characters"),
    "noise.txt": (bytes(random.Random(0).choices(range(32, 127), k=30_000)), "at random (each tells 0.0"),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_is_doubtful_is_noted_in_the_results_too(tmp_path, capsys, name):
    data, expected = DOUBTFUL[name]
    corpus = load(written(tmp_path, data, name))
    assert any(expected in note for note in corpus.info["notes"]) and expected in capsys.readouterr().err


@pytest.mark.parametrize("language", ["en", "code", *SENTENCES])
def test_sound_text_is_not_doubted(tmp_path, capsys, language):
    text = {"en": ENGLISH * 2, "code": Path(prepare_data.__file__).read_text(encoding="utf-8")}.get(language)
    corpus = load(written(tmp_path, text or text_in(language, 8000)))
    assert corpus.info["notes"] == [] and capsys.readouterr().err == ""


def markov_dna(letters: int) -> str:
    """DNA whose neighbours are bound weakly, by odds of 0.75 to 1.28, in lines of 70 as FASTA has them."""
    odds = {"AA": 1.21, "TT": 1.21, "AC": 0.88, "GT": 0.88, "AG": 0.82, "CT": 0.82, "AT": 1.1, "CA": 1.12}
    odds |= {"TG": 1.12, "CC": 0.91, "GG": 0.91, "CG": 1.16, "GA": 0.92, "TC": 0.92, "GC": 1.28, "TA": 0.75}
    rng, text = random.Random(0), "A"
    while len(text) < letters:
        text += rng.choices("ACGT", [odds[text[-1] + b] for b in "ACGT"])[0]
    return "\n".join(text[i : i + 70] for i in range(0, letters, 70))


def test_what_is_doubted_scales_with_the_alphabet():
    assert characters.noise_note("x", markov_dna(60_000)) == []
    for alphabet in ("ACGT", "01", "".join(map(chr, range(32, 127)))):
        assert characters.noise_note("x", "".join(random.Random(0).choices(alphabet, k=60_000)))


def test_the_end_of_a_text_is_compared_with_its_beginning(tmp_path):
    """Against SciPy's relative entropy."""
    scipy_stats = pytest.importorskip("scipy.stats")
    train, val = [800, 150, 50, 0], [50, 30, 10, 10]
    own, cross, beyond = characters.drift(*map(characters.np.array, (train, val)))
    q = [(n + 1) / 1004 for n in train]
    assert own == pytest.approx(scipy_stats.entropy(train))
    assert cross == pytest.approx(scipy_stats.entropy(val) + scipy_stats.entropy(val, q))
    assert beyond == pytest.approx(scipy_stats.entropy(val, q) - 3 * 3 / 200)
    names = ["".join(random.Random(i).choices("abcdefgh", range(1, 9), k=6)) for i in range(8000)]
    assert load(written(tmp_path, "\n".join(names), "mixed.txt"), train_split=0.8).info["notes"] == []
    by_letters = "\n".join(sorted(names, key=lambda name: name.count("a") + name.count("b")))
    (note,) = load(written(tmp_path, by_letters, "sorted.txt"), train_split=0.8, tokenizer="bpe").info["notes"]
    assert note.startswith("sorted.txt: the end of this text is not like its beginning (a character costs ")


def test_order_is_the_mutual_information_of_neighbours():
    """Of a first-order Markov chain the mutual information is known in closed form."""
    p, rng, state, text = 0.9, random.Random(0), 0, []
    for _ in range(200_000):
        state = state if rng.random() < p else 1 - state
        text.append("ab"[state])
    exact = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
    assert characters.order_information("".join(text)) == pytest.approx(exact, abs=0.01)
    assert characters.order_information("ab" * 10) is None


# -- packed files -----------------------------------------------------------------------------------------------------


def zipped(members, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def zstd(data):
    pyarrow = pytest.importorskip("pyarrow")
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACK = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
    "zip": lambda data: zipped({"a.txt": data}),
}
SUFFIX = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst", "zip": ".zip"}


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1251"])
def test_packed_text_is_read(tmp_path, kind, encoding):
    text = text_in("ru", 30_000)
    path = written(tmp_path, PACK[kind](text.encode(encoding)), "book.txt" + SUFFIX[kind])
    told = {"encoding": "cp1251"} if encoding == "cp1251" else {}
    found, account = text_of(path, **told)
    assert found == text and account.read_as.startswith(f"{kind} of ")
    nameless = written(tmp_path, path.read_bytes(), "book")  # told by its first bytes
    assert text_of(nameless, **told)[0] == text
    corpus = load(path, **told)
    assert corpus.info["text_sha256"] == prepare_data.hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zstd"])
def test_several_streams_one_after_the_other(tmp_path, kind):
    path = written(tmp_path, PACK[kind](b"one\n" * 500) + PACK[kind](b"two\n" * 500), "x" + SUFFIX[kind])
    assert text_of(path)[0] == "one\n" * 500 + "two\n" * 500


@pytest.mark.parametrize("kind", PACK)
def test_packed_files_that_are_cut_off_or_damaged(tmp_path, kind):
    text = text_in("de", 60_000)
    whole = PACK[kind](text.encode())
    rng = random.Random(kind)
    for _ in range(20):
        data, at = bytearray(whole), rng.randrange(6, len(whole))
        if rng.random() < 0.5:
            del data[at:]
        else:
            data[at] ^= 1 << rng.randrange(8)
        path = written(tmp_path, bytes(data), "x" + SUFFIX[kind])
        try:
            found, _ = text_of(path)
        except UserError as error:
            assert "\n" not in str(error) and kind in str(error) or "x" in str(error)
        else:
            # a bit that nothing depends on, as that of a time; zstd has a checksum only where it is asked for
            assert found == text or kind == "zstd"


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(packed, "ALWAYS_ALLOWED", 1 << 20)
    path = written(tmp_path, PACK[kind](b"All work and no play. " * 400_000), "bomb" + SUFFIX[kind])
    start = time.monotonic()
    message = refusal(path)
    assert "200 times" in message and time.monotonic() - start < 20


def test_text_that_repeats_itself_a_hundred_times_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "ALWAYS_ALLOWED", 1 << 16)
    path = written(tmp_path, gzip.compress((ENGLISH * 30).encode(), 9), "x.gz")
    assert text_of(path)[0] == ENGLISH * 30


def test_members_of_a_zip_in_the_order_of_their_names(tmp_path):
    members = {"b/two.txt": "two\n" * 300, "a.txt": "one\n" * 300, "__MACOSX/._a.txt": b"\0\x05\x16\x07", "c/": ""}
    members |= {"readme.md": "no", "cover.png": png(), ".hidden.txt": "no"}
    path = written(tmp_path, zipped(members), "texts.zip")
    found, account = text_of(path)
    assert found == "one\n" * 300 + "\n" + "two\n" * 300
    assert account.read_as == "2 files: 2 zip of UTF-8 (a.txt, b/two.txt, in this order)"


def tarred(name, data):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def encrypted(data):
    data = bytearray(data)
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


PACKED_WRONG = {
    "a zip archive without files": zipped({}),
    "encrypted": encrypted(zipped({"a.txt": "x" * 500})),
    "a Word document": zipped({"word/document.xml": "<w/>", "[Content_Types].xml": "<t/>"}),
    "an Excel workbook": zipped({"xl/workbook.xml": "<w/>"}),
    "an EPUB book": zipped({"mimetype": "application/epub+zip", "META-INF/container.xml": "<c/>"}),
    "gzip inside gzip": gzip.compress(gzip.compress(b"text" * 100)),
    "zip inside gzip": gzip.compress(zipped({"a.txt": "text"})),
    "NUL byte": zipped({"data.pkl": b"ccollections\nq\0" + bytes(range(128)) * 9}),
    "a PNG image": gzip.compress(png()),
    "a tar archive": tarred("a.txt", b"hello"),
}


@pytest.mark.parametrize("what", PACKED_WRONG)
def test_packed_files_that_hold_no_text(tmp_path, what):
    assert what in refusal(written(tmp_path, PACKED_WRONG[what], "x.pack"))


def test_xz_that_wants_too_much_memory(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 29}]
    data = lzma.compress(ENGLISH.encode(), filters=filters)
    assert "emory" in refusal(written(tmp_path, data, "x.xz"))


def test_zstd_and_parquet_without_their_package(tmp_path, monkeypatch):
    data = zstd(ENGLISH.encode())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install datasets" in refusal(written(tmp_path, data, "x.zst"))
    assert "pip install datasets" in refusal(written(tmp_path, b"PAR1\0\0PAR1", "x.parquet"))


def test_an_edited_packed_file_is_another_corpus(tmp_path):
    first = load(written(tmp_path, gzip.compress(ENGLISH.encode()), "x.gz"))
    second = load(written(tmp_path, gzip.compress(ENGLISH.lower().encode()), "x.gz"))
    assert first.sha256 != second.sha256


# -- tables -----------------------------------------------------------------------------------------------------------

ROWS = [line + "\n" * (i % 2) for i, line in enumerate(ENGLISH.split("\n"))] + ['quo"tes, commas; and\ttabs', "é ☃ 😀"]
ROWS_TEXT = "".join(row if row.endswith("\n") else row + "\n" for row in ROWS)


def jsonl(rows=ROWS, column="text"):
    return "".join(json.dumps({"id": i, column: row}) + "\n" for i, row in enumerate(rows)).encode()


def as_csv(delimiter=",", column="text"):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter)
    writer.writerow(["id", column])
    writer.writerows(enumerate(ROWS))
    return buffer.getvalue().encode()


def parquet(column="text", rows=ROWS):
    pyarrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    buffer = io.BytesIO()
    table = pyarrow.table({"id": list(range(len(rows))), column: rows})
    pq.write_table(table, buffer, row_group_size=50)
    return buffer.getvalue()


TABLES = {
    "x.jsonl": ("JSON lines", jsonl()),
    "x.ndjson": ("JSON lines", jsonl()),
    "x.json": ("JSON", json.dumps([{"text": row, "n": [1, {"a": None}]} for row in ROWS], indent=1).encode()),
    "lines.json": ("JSON", jsonl()),
    "column.json": ("JSON", json.dumps({"text": ROWS}).encode()),
    "texts.json": ("JSON", json.dumps(ROWS).encode()),
    "x.csv": ("CSV", as_csv()),
    "semicolon.csv": ("CSV", as_csv(";")),
    "x.tsv": ("CSV", as_csv("\t")),
    "marked.csv": ("CSV", codecs.BOM_UTF8 + as_csv()),
    "wide.jsonl": ("JSON lines", codecs.BOM_UTF16_LE + jsonl().decode().encode("utf-16-le")),
    "hidden_jsonl.txt": ("JSON", jsonl()),
    "no_suffix": ("JSON", jsonl()),
    "array.txt": ("JSON", json.dumps([{"text": row} for row in ROWS]).encode()),
    "x.jsonl.gz": ("JSON lines", gzip.compress(jsonl())),
    "x.csv.xz": ("CSV", lzma.compress(as_csv())),
    "x.zip": ("JSON lines", zipped({"x.jsonl": jsonl()})),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("piece", [7, 1000, 1 << 20])
def test_the_column_of_a_table_is_the_text(tmp_path, monkeypatch, name, piece):
    kind, data = TABLES[name]
    path = written(tmp_path, data, name)
    parts = prepare_data.file_source(str(path), None, "text")  # what it is, by its beginning
    monkeypatch.setattr(packed, "PIECE", piece)
    assert "".join(parts.pieces()) == ROWS_TEXT
    assert f"{kind} in UTF-" in parts.account.read_as
    assert f"column 'text' of {len(ROWS)} rows" in parts.account.read_as


def test_parquet(tmp_path):
    for name in ("x.parquet", "no_suffix"):
        found, account = text_of(written(tmp_path, parquet(), name))
        assert found == ROWS_TEXT and account.read_as == f"parquet, column 'text' of {len(ROWS)} rows"


def test_a_table_is_said_and_recorded(tmp_path, capsys):
    corpus = load(written(tmp_path, jsonl(), "x.jsonl"), tokenizer="byte")
    expected = f"x.jsonl: JSON lines in UTF-8, column 'text' of {len(ROWS)} rows, {len(ROWS_TEXT):,} characters"
    assert corpus.info["read_as"] == expected and expected in capsys.readouterr().err


MAKE = {"x.jsonl": jsonl, "x.csv": as_csv, "x.parquet": parquet}


@pytest.mark.parametrize("name", MAKE)
def test_another_column(tmp_path, name):
    path = written(tmp_path, MAKE[name](column="story"), name)
    message = refusal(path)
    assert "'id', 'story'" in message and "--text-column" in message
    assert text_of(path, text_column="story")[0] == ROWS_TEXT
    if name != "x.csv":  # where everything is text
        assert "not text" in refusal(path, text_column="id")
    texts = load(path, text_column="story"), load(written(tmp_path, ROWS_TEXT))
    assert texts[0].sha256 == texts[1].sha256


def test_rows_without_the_column_are_counted(tmp_path):
    rows = [{"text": "one two three"}, {"text": None}, {"other": 1}] * 50
    path = written(tmp_path, "\n".join(map(json.dumps, rows)), "x.jsonl")
    found, account = text_of(path)
    assert found == "one two three\n" * 50 and "of 50 rows (100 without it left out)" in account.read_as


def test_an_empty_column_takes_a_table_as_it_is(tmp_path):
    for name in ("x.jsonl", "x.json", "x.csv", "x.txt"):
        assert text_of(written(tmp_path, jsonl(), name), text_column="")[0] == jsonl().decode()


# Written as programs write them that don't quote, and as people do: (bytes, column, rows, remark).
WRITTEN = {
    "lone.tsv": (
        "text\tid\n" + "".join(f"{'' if i % 100 else chr(34)}line {i}\t{i}\n" for i in range(300)),
        "text",
        [f"{'' if i % 100 else chr(34)}line {i}" for i in range(300)],
        "quotation marks are part of the text",
    ),
    "ends.tsv": (  # pairs of lone quotes that close each other, so that nothing is an error
        "id\ttext\n" + "".join(f'{i}\t"line {i}\n{i}b\tline"\n' for i in range(20))
        + '21\t"from here\n' + "".join(f"{i}\tplain\n" for i in range(9)) + '22\tto here"\n',
        "text",
        [row for i in range(20) for row in (f'"line {i}', 'line"')] + ['"from here', *["plain"] * 9, 'to here"'],
        "quotation marks are part of the text",
    ),
    "words.tsv": (
        'id\ttext\n1\t"all of it"\n2\the said "no"\n3\t"Second" line\n4\t"lone\n',
        "text",
        ['"all of it"', 'he said "no"', '"Second" line', '"lone'],
        "quotation marks are part of the text",
    ),
    "whole.csv": ('id,text\n1,"one, ""two"""\n2,"a\nb"\n3,"c\nd,e"\n', "text", ['one, "two"', "a\nb", "c\nd,e"], ""),
    "long.csv": ('text\n"' + "a line\n" * 40 + '"\n"short"\n', "text", ["a line\n" * 40, "short"],
                 "the longest of 41 lines"),
    "break.csv": ('"id\nnumber",text\n1,one\n2,two\n', "text", ["one", "two"], ""),
    "its name.csv": ('"id\nnumber",text\n1,one\n2,two\n', "id number", ["1", "2"], ""),
    "no header.csv": ('"one, two"\n"three"\n', "1", ["one, two", "three"], ""),
    "second.csv": ("1,one\n2,two\n", "2", ["one", "two"], ""),
    "named 1.csv": ("2,1\na,b\nc,d\n", "1", ["b", "d"], ""),
    "values.csv": ("text\n1.50\nNA\n2020-01-01\nnull\n07\n", "text", ["1.50", "NA", "2020-01-01", "null", "07"], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("piece", [5, 1 << 20])
def test_csv_as_it_is_written(tmp_path, monkeypatch, name, piece):
    data, column, rows, remark = WRITTEN[name]
    source = prepare_data.file_source(str(written(tmp_path, data, name)), None, column)
    monkeypatch.setattr(packed, "PIECE", piece)
    assert "".join(source.pieces()) == "".join(row + "\n" * (not row.endswith("\n")) for row in rows)
    assert source.account.read_as == f"CSV in UTF-8, column {column!r} of {len(rows)} rows" + f", {remark}" * (
        remark != ""
    )


def test_a_csv_without_a_header_is_told_how(tmp_path):
    message = refusal(written(tmp_path, '"one, two"\n"three"\n', "x.csv"))
    assert "the columns are 'one, two'" in message and "no header? --text-column 1" in message
    assert "no text in a column '9'" in refusal(tmp_path / "x.csv", text_column="9")


NO_TABLE = {
    "a.jsonl": (b'{"text": "one"}\n{"text": "tw', "not JSON"),
    "b.jsonl": (b'{"text": "one"}\n{"text" "two"}\n' * 50, "row 2"),
    "c.jsonl": (b'{"text": {"a": 1}}\n', "an object"),
    "d.jsonl": (b"[1, 2]\n[3, 4]\n", "row 1"),
    "e.json": (b'[{"text": "one"}, {"text": "two"}', "the end of the list is missing"),
    "f.json": (b"[" * 100_000, "not JSON"),
    "g.json": (b'{"a": ' * 100_000, "not JSON"),
    "h.json": (b"9" * 5000, "not JSON"),
    "damaged_lines.txt": (b'{"text": one}\n' + b'{"text": "two"}\n' * 9, "not JSON"),
    "long_line.txt": (b'{"text": "' + b"word " * 300_000, "not JSON"),
    "i.jsonl": (b'{"text": "\\ud800"}\n' * 9, "surrogate"),
    "j.jsonl": (b'{"text": "a\\u0000b"}\n' * 9, "NUL"),
    "k.jsonl": (b'{"text": "\\u0001\\u0002\\u0003\\u0004"}\n' * 99, "control characters"),
    "l.json": (ENGLISH.encode(), "not JSON"),
    "m.json": (b'{"data": [{"text": "a"}]}', "'data'"),
    "a.csv": (b"text,id\none,1\ntwo\n", "line 3: 1 fields where the header has 2"),
    "b.csv": (b"text,id\none, two,1\n", "line 2: 3 fields"),
    "c.csv": (b'text,id\n"one,1\ntwo, three,2\n', "not CSV"),
    "e.csv": (b"text\rmore,columns\nsome,words\n", "e.csv: line 1: not CSV (new-line character"),
    "d.csv": (ENGLISH.encode(), "no text in a column 'text'"),
    "a.parquet": (ENGLISH.encode(), "not a parquet file"),
    "b.parquet": (b"PAR1" + noise(500), "damaged"),
    "c.parquet.gz": (gzip.compress(b"PAR1\0" + noise(500)), "unpack it"),
    "cut.parquet": (parquet()[:2000], "damaged"),
}


@pytest.mark.parametrize("name", NO_TABLE)
def test_what_is_no_such_table(tmp_path, name):
    data, expected = NO_TABLE[name]
    assert expected in refusal(written(tmp_path, data, name))


def test_a_text_that_begins_with_a_brace_is_a_text(tmp_path):
    for text in ("{ and so on }\n" * 100, "[1] A note.\n" * 100, '{"a": 1} said he.\n' * 100):
        assert text_of(written(tmp_path, text))[0] == text


def test_a_value_of_megabytes_is_read_in_one_go(tmp_path):
    long = ENGLISH * 800
    path = written(tmp_path, json.dumps({"text": long}) + "\n" + json.dumps({"text": "end"}), "x.jsonl")
    start = time.monotonic()
    assert text_of(path)[0] == long + "\n" * (not long.endswith("\n")) + "end\n" and time.monotonic() - start < 20


def test_values_without_end_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LONGEST", 1 << 20)
    assert "not JSON" in refusal(written(tmp_path, '{"text": "' + ENGLISH.replace("\n", " ") * 1000, "x.jsonl"))
    assert "no line of CSV" in refusal(written(tmp_path, "text,id " + "word " * 1_000_000, "x.csv"))


def test_a_column_of_the_hub(tmp_path, monkeypatch):
    from test_prepare_data import fake_hub

    fake_hub(monkeypatch, {"train": ["one two three\n"] * 400 + [None]}, column="story")
    prepare = prepare_data.load_corpus
    assert prepare(settings_for(tmp_path, "hf:a/b", text_column="story")).info["characters"] == 5600
    with pytest.raises(UserError, match="text_column='tale'.*: story"):
        prepare(settings_for(tmp_path, "hf:a/b", text_column="tale"))


# -- folders ----------------------------------------------------------------------------------------------------------

HIDDEN = ["._a.txt", ".b.txt", "~$c.txt", ".git/d.txt", "__MACOSX/e.txt", ".DS_Store", "f.txt~", ".f.txt.swp", "g.tmp",
          "Thumbs.db", "deep/._h.txt", "#i.txt#", "j.txt.part"]  # fmt: skip


def test_hidden_and_temporary_files_are_left_out_and_counted(tmp_path, capsys):
    folder = tmp_path / "texts"
    for name in HIDDEN:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0\x05\x16\x07 no text")
    (folder / "a.txt").write_text("alpha beta\n" * 100, encoding="utf-8")
    (folder / "deep" / "b.txt").write_text("gamma delta\n" * 100, encoding="utf-8")
    corpus = load(folder)
    assert corpus.info["read_as"].startswith(
        f"texts: 2 files: 2 UTF-8; {len(HIDDEN)} hidden or temporary files left out, 2,301 characters"
    )
    assert f"{len(HIDDEN)} hidden" in capsys.readouterr().err
    for name in ("._a.txt", "~$c.txt"):
        assert "AppleDouble" in refusal(folder / name)  # who names it means it
    assert text_of(folder / "*.txt")[1].read_as == "UTF-8; 1 hidden or temporary file left out"


def test_files_of_a_folder_may_differ_in_encoding(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("alpha\n" * 50, encoding="utf-8")
    (folder / "b.txt").write_bytes(codecs.BOM_UTF16_LE + ("beta\n" * 50).encode("utf-16-le"))
    (folder / "c.txt").write_bytes(gzip.compress(b"gamma\n" * 50))
    found, account = text_of(folder)
    assert found == "\n".join(word * 50 for word in ("alpha\n", "beta\n", "gamma\n"))
    assert account.read_as == "3 files: 1 UTF-8, 1 UTF-16-LE (by its mark), 1 gzip of UTF-8"


def test_a_folder_of_tables_or_packed_files(tmp_path):
    for kind, data in (
        ("jsonl", jsonl()),
        ("jsonl.gz", gzip.compress(jsonl())),
        ("txt.gz", gzip.compress(b"text\n" * 99)),
    ):
        folder = tmp_path / f"folder of {kind}"
        folder.mkdir()
        for name in ("b", "a"):
            (folder / f"{name}.{kind}").write_bytes(data)
        assert "2 files: 2 " in text_of(folder)[1].read_as
    (folder / "c.csv").write_bytes(as_csv())
    message = refusal(folder)
    assert "2 *.txt.gz, 1 *.csv" in message and f"'{folder}/**/*.txt.gz'" in message


def test_a_folder_of_other_files_says_what_is_there_and_the_glob_that_takes_it(tmp_path):
    folder = tmp_path / "tunes"
    (folder / "deep").mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.mid").write_bytes(b"MThd\0\0")
    for i in range(2):
        (folder / "deep" / f"{i}.abc").write_text("X:1\nK:C\n" * 100, encoding="utf-8")
    (folder / "README").write_text("words", encoding="utf-8")
    message = refusal(folder)
    assert "it has 3 *.mid, 2 *.abc, 1 without a suffix" in message
    glob = re.search(r"--dataset '(.*)'", message)[1]
    assert glob == f"{folder}/**/*.abc" and text_of(Path(glob))[0] == "\n".join(["X:1\nK:C\n" * 100] * 2)


# -- results ----------------------------------------------------------------------------------------------------------


def test_settings_of_reading_leave_the_fingerprint_alone(tmp_path):
    config = settings_for(tmp_path, "x.txt")
    assert config.replace(encoding="cp1251", text_column="story").fingerprint() == config.fingerprint()
    old = {name: value for name, value in config.to_dict().items() if name not in ("encoding", "text_column")}
    assert Config.from_dict(old).fingerprint() == config.fingerprint()


def test_utf8_is_known_by_its_text_whatever_it_is_told(tmp_path):
    path = written(tmp_path, ENGLISH)
    assert load(path).folder == load(path, encoding="utf8").folder == load(path, encoding="UTF-8").folder
    assert load(written(tmp_path, codecs.BOM_UTF8 + ENGLISH.encode())).folder == load(path).folder


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("kind", ["utf-16", "gzip", "bzip2", "xz", "zstd", "zip", "jsonl", "csv", "parquet"])
def test_memory_stays_bounded(tmp_path, kind):
    block = pseudo_english(1 << 20)
    if kind in PACK:
        data = PACK[kind](block.encode() * 40)
    elif kind == "parquet":
        data = parquet(rows=block.split("\n") * 40)
    else:
        rows = {"jsonl": jsonl(block.split("\n")), "csv": b"text\n" + block.replace("\n", "\n\n").encode()}
        data = (block * 40).encode("utf-16") if kind == "utf-16" else rows[kind] * 40
    path = written(tmp_path, data, f"x.{kind}")
    peak = programs.peak_memory("--dataset", path, "--data-dir", tmp_path / "data")
    assert peak < (250 if kind in ("zstd", "parquet") else 160), f"{peak:.0f} MB"  # pyarrow alone is 60 MB


# -- any bytes at all -------------------------------------------------------------------------------------------------

WRAP = {"": lambda data: data, **PACK}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]
ENCODINGS += sorted({encoding for _, encoding in PAIRS})


@st.composite
def files(draw):
    """(name, bytes, encoding told or None, the text they were made of or None where they were damaged)."""
    seed, language = draw(st.integers(0, 10_000)), draw(st.sampled_from(["en", *SENTENCES]))
    text = pseudo_english(2500, seed) if language == "en" else text_in(language, 2500, seed)
    encoding = draw(st.sampled_from(ENCODINGS))
    text = text.encode(encoding, "ignore").decode(encoding)
    form = draw(st.sampled_from(["txt", "txt", "txt", "jsonl", "csv"]))
    if form == "jsonl":
        shown = "".join(json.dumps({"text": line}, ensure_ascii=seed % 2 == 0) + "\n" for line in text.split("\n"))
    elif form == "csv":
        shown = "text\n" + "".join('"' + line.replace('"', '""') + '"\n' for line in text.split("\n"))
    else:
        shown = text
    text = text if form == "txt" else text + "\n"
    data = WRAP[draw(st.sampled_from(["", "", "", *WRAP]))](shown.encode(encoding))
    damage = draw(st.sampled_from(["", "", "cut", "flip", "splice", "drop", "noise", "zeros"]))
    data, at = bytearray(data), draw(st.integers(0, len(data) - 1))
    if damage == "cut":
        del data[at:]
    elif damage == "flip":
        data[at] ^= 1 << draw(st.integers(0, 7))
    elif damage == "splice":
        data[at:at] = noise(draw(st.integers(1, 400)), seed)
    elif damage == "drop":
        del data[at : at + draw(st.integers(1, 50))]
    elif damage == "noise":
        data = bytearray(noise(draw(st.integers(1, 5000)), seed, draw(st.sampled_from([0, 1, 32]))))
    elif damage == "zeros":
        data[at:at] = bytes(draw(st.integers(1, 100)))
    told = draw(st.sampled_from([None, None, encoding, *ENCODINGS[1:]]))
    return f"x.{form}", bytes(data), told, None if damage else (text, encoding)


def check_any_file(tmp_path, made):
    name, data, told, sound = made
    path = written(tmp_path, data, name)
    try:
        text, account = text_of(path, encoding=told)
    except UserError as error:
        assert "\n" not in str(error)
        right = sound and (told is None and sound[1] in ("utf-8", "utf-8-sig", "utf-16", "utf-32") or told == sound[1])
        assert not right or told in ("utf-16", "utf-32"), str(error)  # what is sound and rightly named is read
        return
    assert "\0" not in text and account.read_as
    if sound and (told in (None, sound[1]) or "mark" in account.read_as):
        assert text == sound[0]
    elif sound is None and len(text) > 300 and told not in (None, "utf-8"):
        # read as told: then it is what Python's own decoder gives, and mostly not control characters
        assert sum(c < " " and c not in "\t\n\r\f\v" for c in text) <= max(8, 0.06 * len(text.encode()))
    if told is None and not account.read_as.startswith(("gzip", "bzip2", "xz", "zstd", "zip")) and name == "x.txt":
        mark = encodings.by_mark(data) or ("utf-8", 0)
        assert text == data[mark[1] :].decode(mark[0])  # never anything but what the bytes say


FUZZ = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


@settings(deadline=None, max_examples=60, suppress_health_check=FUZZ)
@given(made=files())
def test_any_bytes_are_the_right_text_or_one_line(tmp_path, made):
    check_any_file(tmp_path, made)


@pytest.mark.slow
@settings(deadline=None, max_examples=cases(500), suppress_health_check=FUZZ)
@given(made=files())
def test_500_files_of_random_encodings_and_damage(tmp_path, made):
    check_any_file(tmp_path, made)
