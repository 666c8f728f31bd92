"""Text to token ids and back: characters, UTF-8 bytes, byte-level BPE, or any tokenizer.json.

    tokenizer = make_tokenizer("char", training_text)
    ids = tokenizer.encode("To be")            # np.ndarray, uint16 (uint32 above 65,536 tokens)
    tokenizer.decode(ids)                      # "To be"
    from_dict(tokenizer.to_dict())             # the same tokenizer again, from strict JSON

All of them satisfy decode(encode(x)) == x for every text over their vocabulary. No torch here, and the `tokenizers`
library is imported only where a bpe tokenizer is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from config import UserError
from corpora.source import one_line

UNKNOWN = "\ufffd"  # what decoding shows for a character that the training split lacks
BPE_TRAINING_CHARACTERS = 20_000_000  # merges settle long before; more text costs memory and minutes
BPE_PIECE = 1 << 16  # characters per call of the library, whose memory grows with the length of one text


def token_dtype(vocab_size: int) -> np.dtype:
    """Little-endian uint16 where it fits, else uint32, so that prepared files mean the same on every machine."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def make_tokenizer(name: str, text: str | Iterable[str], *, vocab_size: int = 1024, unknown: bool = False):
    """The tokenizer `name` ('char', 'byte' or 'bpe'), learnt from a text.

    Args:
        text: the training text: a string, or an iterable of its pieces.
        vocab_size: size aimed at, of bpe only (at least 256; fewer when the text has no more pairs to merge).
        unknown: of char only: add one token for characters that the text lacks.

    Raises:
        UserError: an unknown name, or bpe without the `tokenizers` package.
    """
    pieces = [text] if isinstance(text, str) else text
    if name == "char":
        return CharTokenizer("".join(sorted(set().union(*pieces))), unknown)
    if name == "byte":
        return ByteTokenizer()
    if name == "bpe":
        return BPETokenizer.train(pieces, vocab_size)
    if name.endswith(".json"):
        return FileTokenizer.read(name)
    raise UserError(f"tokenizer={name!r}: must be one of char, byte, bpe, or the path of a tokenizer.json")


def from_dict(record: dict):
    """The inverse of `to_dict`. Raises UserError when the record is not a tokenizer's."""
    try:
        name = record["name"]
        if name == "char":
            return CharTokenizer(record["characters"], record["unknown"])
        if name == "byte":
            return ByteTokenizer()
        if name in ("bpe", "file"):
            return {"bpe": BPETokenizer, "file": FileTokenizer}[name](record["tokenizer"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"not a tokenizer record: {type(error).__name__} {error}") from None
    raise UserError(f"not a tokenizer record: name={name!r}")


class CharTokenizer:
    """One token per character (Unicode code point).

    The ids follow the order of the code points. With `unknown` one further token, the last, stands for every other
    character; it is distinct from a U+FFFD that the vocabulary may hold, and decodes to U+FFFD.
    """

    name = "char"

    def __init__(self, characters: str, unknown: bool = False):
        if not isinstance(characters, str) or list(characters) != sorted(set(characters)):
            raise UserError("not a tokenizer record: the characters of a char tokenizer must be distinct and sorted")
        self.characters, self.unknown = characters, bool(unknown)
        points = code_points(characters)
        self.vocab_size = len(points) + self.unknown
        self._points = np.append(points, code_points(UNKNOWN)) if self.unknown else points
        # lookup table over code points; its last entry catches every code point beyond the vocabulary
        outside = len(points) if self.unknown else -1
        self._ids = np.full(int(points.max(initial=0)) + 2, outside, np.int32)
        self._ids[points] = np.arange(len(points))

    def encode(self, text: str) -> np.ndarray:
        """(len(text),) token ids. Raises UserError for a character outside the vocabulary, if there is no unknown."""
        points = code_points(text)
        ids = self._ids[np.minimum(points, len(self._ids) - 1)]
        if not self.unknown and len(ids) and ids.min() < 0:
            at = int(np.argmin(ids))
            raise UserError(
                f"character {text[at]!r} (U+{ord(text[at]):04X}) at position {at} is not in the vocabulary of "
                f"{self.vocab_size} characters: {one_line(repr(self.characters), 120)}"
            )
        return ids.astype(token_dtype(self.vocab_size))

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of a text that comes in pieces, piece by piece."""
        return map(self.encode, pieces)

    def decode(self, ids) -> str:
        return self._points[_checked(ids, self.vocab_size)].tobytes().decode("utf-32-le", "surrogatepass")

    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) bytes of UTF-8 that each token stands for; those of an unknown character are U+FFFD's three."""
        return np.array([len(self.decode([i]).encode("utf-8", "surrogatepass")) for i in range(self.vocab_size)])

    def to_dict(self) -> dict:
        return {"name": self.name, "characters": self.characters, "unknown": self.unknown}


class ByteTokenizer:
    """One token per byte of the UTF-8 text; 256 tokens, so nothing is ever unknown."""

    name = "byte"
    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        """(number of bytes,) token ids."""
        return np.frombuffer(_utf8(text), np.uint8).astype(token_dtype(self.vocab_size))

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        return map(self.encode, pieces)

    def decode(self, ids) -> str:
        """The text; bytes that are no UTF-8, which a model may sample, show as U+FFFD."""
        return _checked(ids, self.vocab_size).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def token_bytes(self) -> np.ndarray:
        return np.ones(self.vocab_size, np.int64)

    def to_dict(self) -> dict:
        return {"name": self.name}


class BPETokenizer:
    """Byte-level byte-pair encoding as in GPT-2 (Radford et al. 2019), by the `tokenizers` library.

    All 256 bytes are in the vocabulary, so nothing is ever unknown. Training is deterministic: pairs of equal count
    merge in the order of their ids.
    """

    name = "bpe"

    def __init__(self, record: str):
        library = _tokenizers()
        try:
            self._tokenizer = library.Tokenizer.from_str(record)
        except Exception as error:  # the library raises plain Exception for a malformed record
            raise UserError(f"not a tokenizer record: {' '.join(str(error).split())}") from None
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1  # ids may have gaps

    @classmethod
    def train(cls, pieces: Iterable[str], vocab_size: int) -> BPETokenizer:
        """Learn merges from the first BPE_TRAINING_CHARACTERS characters of a text."""
        library = _tokenizers()
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(at_safe_cuts(first_characters(pieces, BPE_TRAINING_CHARACTERS)), trainer)
        return cls(tokenizer.to_str())

    def encode(self, text: str) -> np.ndarray:
        """(number of tokens,) token ids."""
        _utf8(text)
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, token_dtype(self.vocab_size))

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """As `encode` of the whole text, with memory bounded: the text is cut only where GPT-2's splitting cuts too."""
        return map(self.encode, at_safe_cuts(pieces))

    def decode(self, ids) -> str:
        """The text; bytes that are no UTF-8, which a model may sample, show as U+FFFD."""
        return self._tokenizer.decode(_checked(ids, self.vocab_size).tolist(), skip_special_tokens=False)

    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) bytes: a token is written with one character of the byte-level alphabet for each."""
        return np.array([len(self._tokenizer.id_to_token(i)) for i in range(self.vocab_size)])

    def to_dict(self) -> dict:
        return {"name": self.name, "tokenizer": self._tokenizer.to_str()}


class FileTokenizer(BPETokenizer):
    """A tokenizer.json of the `tokenizers` library, as models of transformers bring one, without special tokens."""

    name = "file"

    def __init__(self, record: str):
        super().__init__(record)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if self.vocab_size < 2:
            raise UserError("not a tokenizer record: it has no vocabulary")

    @classmethod
    def read(cls, path: str | os.PathLike) -> FileTokenizer:
        """Raises UserError: no such file, or not a tokenizer.json."""
        try:
            return cls(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, UserError) as error:
            said = str(error) if isinstance(error, UserError) else getattr(error, "strerror", None) or "not UTF-8"
            raise UserError(f"tokenizer={os.fspath(path)!r}: can't be read: {said}") from None

    def encode_pieces(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of the whole text at once: where another's tokenizer may be cut isn't known. Raises UserError: the
        tokenizer loses something of the beginning of the text, so that a loss would not be the text's."""
        text = "".join(pieces)
        start = text[:10_000]
        back = self.decode(self.encode(start))
        if back.strip() != start.strip():
            at = len(os.path.commonprefix([start, back]))
            raise UserError(
                f"tokenizer: this tokenizer.json does not give the text back: {start[at : at + 20]!r} becomes "
                f"{back[at : at + 20]!r}; take one that loses nothing, such as byte-level BPE"
            )
        yield self.encode(text)


# -- pieces of text -----------------------------------------------------------------------------------------------

# GPT-2 splits text into words by  's|'t|… | ?\p{L}+ | ?\p{N}+ | ?[^\s\p{L}\p{N}]+ |\s+(?!\S) |\s+  and merges within
# them only. None of the word patterns crosses from a visible character into white space, so a cut there changes no
# token. `.*` is greedy: the last such place is found.
_SAFE_CUT = re.compile(r".*\S(?=[ \n])", re.DOTALL)


def at_safe_cuts(pieces: Iterable[str], size: int = BPE_PIECE) -> Iterator[str]:
    """The same text in pieces of about `size` characters, each cut between a visible character and white space.

    Only where more than 16 · `size` characters in a row offer no such place is it cut regardless; the tokens next to
    that cut may then differ from those of the uncut text, but they decode to the same text.
    """
    rest = ""
    for piece in rechunk(pieces, size):
        rest += piece
        match = _SAFE_CUT.match(rest)
        if match or len(rest) > 16 * size:
            end = match.end() if match else len(rest)
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def first_characters(pieces: Iterable[str], limit: int) -> Iterator[str]:
    """The first `limit` characters of a text in pieces."""
    for piece in pieces:
        yield piece[:limit]
        limit -= len(piece)
        if limit <= 0:
            return


def rechunk(strings: Iterable[str], size: int) -> Iterator[str]:
    """The same text in pieces of exactly `size` characters; the last one may be shorter."""
    parts, length = [], 0
    for string in strings:
        for start in range(0, len(string), size):
            parts.append(string[start : start + size])
            length += len(parts[-1])
            if length >= size:
                text = "".join(parts)
                yield text[:size]
                parts, length = [text[size:]], length - size
    if length:
        yield "".join(parts)


# -- helpers ------------------------------------------------------------------------------------------------------


def code_points(text: str) -> np.ndarray:
    """(len(text),) uint32 Unicode code points."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _checked(ids, vocab_size: int) -> np.ndarray:
    """The ids as a 1-D integer array. Raises UserError for what is no id of this vocabulary."""
    ids = np.asarray(ids)
    if ids.size == 0:
        return np.zeros(0, np.int64)
    if ids.dtype.kind not in "iu":
        raise UserError(f"token ids must be whole numbers, not {ids.dtype}")
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if wrong.size:
        raise UserError(f"token {wrong[0]} is not in the vocabulary of {vocab_size} tokens (0 to {vocab_size - 1})")
    return ids.reshape(-1)


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        bad = text[error.start]
        raise UserError(f"character U+{ord(bad):04X} at position {error.start} is half of a pair, not text") from None


def _tokenizers():
    # Threads inside the library gain little here and make it warn, or hang, when a process is forked later.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UserError(
            "tokenizer='bpe' needs the package tokenizers: pip install tokenizers, or choose char or byte"
        ) from None
    return tokenizers
