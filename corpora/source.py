"""A text to prepare, wherever it comes from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

PIECE = 1 << 20  # bytes or characters handled at a time
DEFAULT_HINT = "use the default corpus (--dataset shakespeare) or a text of your own (--dataset PATH)"


@dataclass
class Account:
    """What was read as what: filled while a text is read, from the beginning in each pass over it.

    Attributes:
        read_as: one line, without the number of characters; empty for what isn't in files.
        worth_saying: whether that is more than one would expect: UTF-8 text.
        notes: what may be wrong with it, a line each.
    """

    read_as: str = ""
    worth_saying: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """A text to prepare.

    Attributes:
        name: for reports and for the name of the cache folder.
        identity: what the cache is keyed by. 'text:<sha256>' of the UTF-8 text where it is known beforehand, so that
            an edited file is another corpus; 'files:<sha256>' of the bytes of the files and of how they are read; else
            the place it comes from.
        pieces: called anew for each pass over the text; gives it in pieces.
        unchanged: whether the identity still holds.
        account: of the last pass.
    """

    name: str
    identity: str
    pieces: Callable[[], Iterator[str]]
    unchanged: Callable[[], bool] = lambda: True
    account: Account = field(default_factory=Account)


def joined(pieces: Iterator[str]) -> Iterator[str]:
    """The same text in pieces of PIECE characters or more: rows are short."""
    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield "".join(parts)
            parts, size = [], 0
    if parts:
        yield "".join(parts)


def beginning(chunks: Iterator[bytes], size: int) -> bytes:
    """The first `size` bytes of what comes in pieces, fewer only where there are no more."""
    head = b""
    for data in chunks:
        head += data
        if len(head) >= size:
            break
    return head[:size]


def one_line(x, limit: int = 160) -> str:
    """What an error, a path or any value says, in one line of at most `limit` characters and an ellipsis."""
    text = " ".join(str(x).split()) or type(x).__name__
    return text if len(text) <= limit else text[:limit] + "…"


def announce(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
