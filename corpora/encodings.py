"""Bytes to text: the mark at the beginning, decoding as a stream, whether it is text, and what else it may be.

Nothing is guessed silently: without a mark and without being told, a file is UTF-8 or refused, and the refusal names
the encodings that it can be read with, by charset-normalizer, each tried on the whole file.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import encodings.aliases
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from config import UserError
from corpora.source import PIECE, beginning, one_line

MARKS = (  # UTF-32's before UTF-16's, which they begin with
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
NO_TEXT_FILES = ("idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "mbcs", "oem")
SAMPLE = 1 << 16  # bytes that are looked at closely
# Where charset-normalizer finds several names for one reading, the one in use.
USUAL = (
    "cp1252 latin_1 cp1251 koi8_r cp866 cp1250 iso8859_2 cp932 shift_jis euc_jp gb18030 big5 cp949 euc_kr cp1253 "
    "cp1254 cp1255 cp1256 cp874 cp850 cp437 mac_roman"
).split()

# -- names --------------------------------------------------------------------------------------------------------


def by_mark(head: bytes) -> tuple[str, int] | None:
    """(encoding, bytes of the mark) of a file that begins with a byte-order mark."""
    return next(((encoding, len(mark)) for mark, encoding in MARKS if head.startswith(mark)), None)


def python_name(name: str) -> str:
    """Python's name of an encoding for text files. Raises UserError for any other."""
    with contextlib.suppress(LookupError, ValueError):
        info = codecs.lookup(name)
        proper = info.name.replace("_", "-")
        if getattr(info, "_is_text_encoding", True) and info.incrementaldecoder and proper not in NO_TEXT_FILES:
            return "utf-8" if proper == "utf-8-sig" else proper
    near = difflib.get_close_matches(name.lower().replace("-", "_"), encodings.aliases.aliases, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"encoding={name!r}: no encoding of text files; {hint}for example utf-8, utf-16-le, cp1251, shift_jis, gb18030"
    )


# -- decoding -----------------------------------------------------------------------------------------------------


class NotText(UserError):
    """Something that can't be what it is read as, and what to do about it where that is known; else another encoding
    may explain it."""

    def __init__(self, message: str, remedy: str = ""):
        super().__init__(message)
        self.remedy = remedy


def decoded(chunks: Iterator[bytes], encoding: str, name: str, offset: int = 0) -> Iterator[str]:
    """The text of bytes that come in pieces.

    Args:
        name: of the file, for messages.
        offset: of the first byte in the file.

    Raises:
        NotText: bytes that the encoding doesn't have, or a NUL; names the file and the offset of the byte.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    for data in itertools.chain(filter(None, chunks), [b""]):
        at = offset - len(decoder.getstate()[0])  # bytes of a character whose others are still to come
        # ISO-2022 writes Japanese, Chinese and Korean in ASCII's bytes, after an escape sequence
        if encoding == "utf-8" and b"\x1b$" in data and (switch := re.search(rb"\x1b\$([@AB]|[()][@ACD])", data)):
            raise NotText(f"{name}: not UTF-8 (an escape sequence of ISO-2022 at offset {offset + switch.start()})")
        try:
            text = decoder.decode(data, not data)
        except UnicodeError as error:
            raise _undecodable(error, encoding, name, at) from None
        if "\0" in text:
            before = text[: text.index("\0")].encode(encoding, "replace")
            raise NotText(f"{name}: binary data (a NUL byte at offset {at + len(before)})")
        offset += len(data)
        if text:
            yield text


def _undecodable(error: UnicodeError, encoding: str, name: str, at: int) -> NotText:
    start, data = getattr(error, "start", 0), getattr(error, "object", b"")
    why = remedy = ""
    if encoding == "utf-8" and re.match(rb"\xed[\xa0-\xbf]", data[start : start + 2]):
        why = ", half of a surrogate pair, as CESU-8 and old versions of Java and MySQL write it"
        remedy = "have the program that wrote it write UTF-8"
    elif "end of data" in str(error) or "incomplete" in str(error):
        why = ", cut off in the middle of a character"
    return NotText(f"{name}: not {display(encoding)} (byte 0x{data[start]:02x} at offset {at + start}{why})", remedy)


def display(encoding: str) -> str:
    return encoding.upper() if encoding.startswith("utf-") else encoding


# -- is it text? --------------------------------------------------------------------------------------------------

_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r")) + b"\x7f"
_C1 = re.compile(rb"\xc2[\x80-\x84\x86-\x9f]")  # without U+0085, which ends lines
# Random bytes are 11 % controls in Windows-1251 and KOI8-R, 25 % in Latin-1; a coloured log 4 %, other text none.
MOST_CONTROLS = 0.05
# charset-normalizer's measure of mess: sound text in 20 languages has 0 to 0.1, prose full of symbols and boxes up to
# 0.9, random bytes 2 to 4, Russian read as Latin-1 2.1.
MESS_NOTED, MESS_REFUSED = 0.15, 1.2


@dataclass
class Plausible:
    """Looks at a text as it passes: refuses what isn't one and notes what is doubtful.

    Attributes:
        name: of the file.
        encoding: that it was read with; None for what was never in bytes.
    """

    name: str
    encoding: str | None
    size: int = 0  # of the stretch that is being counted, about PIECE bytes of UTF-8
    controls: int = 0
    replaced: int = 0
    c1: int = 0
    messy: float | None = None

    def passed(self, pieces: Iterator[str]) -> Iterator[str]:
        """The same pieces. Raises NotText for half of a surrogate pair, a NUL and stretches full of controls."""
        for text in pieces:
            self._look(text)
            yield text
        self._end_of_stretch()

    def _look(self, text: str) -> None:
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            half = f"U+{ord(text[error.start]):04X}"
            raise NotText(f"{self.name}: {half} is half of a surrogate pair, not text", "remove it there") from None
        if "\0" in text:
            raise NotText(f"{self.name}: a NUL character, not text", "remove it there")
        c1 = len(_C1.findall(data)) if b"\xc2" in data else 0
        self.controls += len(data) - len(data.translate(None, _CONTROLS)) + c1
        self.size += len(data)
        self.replaced += data.count(b"\xef\xbf\xbd")
        self.c1 += c1
        if self.size >= PIECE:
            self._end_of_stretch()
        if self.messy is None and self.encoding and not self.encoding.startswith("utf-"):
            self._look_for_mess(text)

    def _end_of_stretch(self) -> None:
        if self.controls >= 8 and self.controls > MOST_CONTROLS * self.size:
            raise NotText(
                f"{self.name}: not text: {100 * self.controls / self.size:.0f} % of a stretch of it are control "
                f"characters",
                "give text, or remove them if they mean nothing",
            )
        self.size = self.controls = 0

    def _look_for_mess(self, text: str) -> None:
        stretch = "\n".join(re.findall(r".*[^\x00-\x7f].*", text[:SAMPLE]))[: SAMPLE // 4]
        if len(stretch) >= 256:
            self.messy = _mess(stretch, 10.0)
        if self.messy and self.messy > MESS_REFUSED:
            raise NotText(
                f"{self.name}: as {display(self.encoding)} it is no language: {one_line(stretch, 40)!r} (mess "
                f"{self.messy:.1f} by charset-normalizer, text has less than {MESS_REFUSED})"
            )

    def notes(self) -> list[str]:
        """What is doubtful about all that has passed, a line each."""
        notes = []
        if self.replaced:
            notes.append(
                f"{self.name}: {self.replaced:,} replacement characters (U+FFFD): what stood there was lost when it "
                f"was converted"
            )
        if self.c1:
            cause = " (as when Windows-1252 is read as Latin-1)" if self.encoding else ""
            notes.append(f"{self.name}: {self.c1:,} control characters between U+0080 and U+009F{cause}")
        if self.messy and self.messy > MESS_NOTED:
            notes.append(
                f"{self.name}: unusual as {display(self.encoding)} (mess {self.messy:.1f} by charset-normalizer, most "
                f"text has less than {MESS_NOTED}): is that its encoding?"
            )
        return notes


def _mess(text: str, most: float) -> float:
    """charset-normalizer's measure of mess, counted up to `most`; 0 without that package."""
    try:
        from charset_normalizer.md import mess_ratio
    except ImportError:
        return 0.0
    return mess_ratio(text[: SAMPLE // 4], most)


# -- what else it may be ------------------------------------------------------------------------------------------


def advice(read: Callable[[], Iterator[bytes]], tried: str) -> str:
    """What to do about bytes that aren't text in the encoding `tried`. `read` gives them anew, in pieces.

    Every encoding that is named was tried on all of them.
    """
    lines = _telling_lines(read)
    if tried == "utf-8" and (damage := _damaged_utf8(lines)):
        return damage
    head = beginning(read(), SAMPLE)
    try:
        likely = _unmarked(head) if b"\0" in head else _recognised(lines)
    except ImportError:
        return "name its encoding with --encoding NAME (pip install charset-normalizer, to see the likely ones)"
    likely = [(encoding, words) for encoding, words in likely if encoding.replace("_", "-") != tried]
    whole = [encoding for encoding, _ in likely if _reads(read, encoding)][:4]
    shown = [f"{encoding} ({words})" for encoding, words in likely if encoding in whole or not whole]
    if whole:
        way = f"if so, --encoding {whole[0]}" if len(whole) == 1 else "name the one that reads well: --encoding NAME"
        return f"it looks like {' or '.join(shown)}; {way}"
    if likely:
        return f"parts of it look like {shown[0]}, but not all of it can be read so: mixed or damaged"
    return "nothing in it is recognised as text; if it is text, name its encoding with --encoding NAME"


def _telling_lines(read: Callable[[], Iterator[bytes]]) -> bytes:
    """Of the first piece that isn't plain ASCII the lines that aren't, SAMPLE bytes of them at most."""
    data = b""
    for data in read():
        if re.search(rb"[\x80-\xff\x1b]", data):
            break
    lines = re.findall(rb"[^\n]*[\x80-\xff\x1b][^\n]*\n?", data)
    sample = b"".join(lines[1:-1] or lines)  # the first and the last may be cut off
    if len(sample) <= SAMPLE:
        return sample
    # No encoding of several bytes a character has such a byte as its last one: a cut after it cuts no character.
    safe = max(sample.rfind(bytes([byte]), 0, SAMPLE) for byte in range(0x30))
    return sample[: safe + 1 or SAMPLE]


def _damaged_utf8(sample: bytes) -> str | None:
    text = sample.decode("utf-8", "replace")
    bad = text.count("\ufffd") - sample.count("\ufffd".encode())
    good = sum(c > "\x7f" for c in text) - text.count("\ufffd")
    if good < 4 or good < 4 * bad:
        return None
    return "the rest is UTF-8: mend it there, or drop what is damaged (iconv -c -f UTF-8 -t UTF-8)"


def _unmarked(head: bytes) -> list[tuple[str, str]]:
    """UTF-16 or UTF-32 without a mark, in which ASCII has NUL bytes."""
    likely = []
    for encoding in WIDE:
        text = head.decode(encoding, "ignore")
        plain = sum(c.isalnum() or c.isspace() for c in text)
        if text and "\0" not in text and plain > 0.5 * len(text) and _mess(text, 1.0) < 0.2:
            likely.append((plain / len(text), encoding, _words(text)))
    return [(encoding, words) for _, encoding, words in sorted(likely, reverse=True)[:1]]


def _recognised(sample: bytes) -> list[tuple[str, str]]:
    """(encoding, a few words of the sample read with it): charset-normalizer's, the likeliest first, and then what is
    in use and reads as well, which it leaves out for short samples."""
    import charset_normalizer

    def usual(name):
        return USUAL.index(name) if name in USUAL else len(USUAL)

    ranked, readings = [], set()
    for match in charset_normalizer.from_bytes(sample):
        name = min(match.could_be_from_charset, key=usual)
        language = match.language + ": " if match.language != "Unknown" else ""
        rank = round(match.chaos, 1), -round(match.coherence, 1), usual(name)
        ranked.append((rank, name, language + _words(str(match))))
        readings.add(str(match))
    likely = [(name, words) for rank, name, words in sorted(ranked) if rank[0] == min(ranked)[0][0]]
    for name in USUAL if likely else ():
        with contextlib.suppress(UnicodeDecodeError):
            text = sample.decode(name)
            if text not in readings and _mess(text, 1.0) < 0.05:
                likely.append((name, _words(text)))
                readings.add(text)
    return likely


def _words(text: str) -> str:
    """The first words that aren't ASCII, quoted."""
    words = re.findall(r"[^\s\x00-\x7f]*[^\x00-\x7f]\S*", text[:SAMPLE]) or text[:200].split()
    return repr(one_line(" ".join(dict.fromkeys(words[:20])), 24))


def _reads(read: Callable[[], Iterator[bytes]], encoding: str) -> bool:
    try:
        for _ in Plausible("", encoding).passed(decoded(read(), encoding, "")):
            pass
    except NotText:
        return False
    return True
