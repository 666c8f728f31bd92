"""Data sets of the Hugging Face hub, through the package `datasets`: the text of one column, in pieces."""

from __future__ import annotations

import functools
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from config import UserError
from corpora.encodings import Plausible
from corpora.source import DEFAULT_HINT, Source, joined, one_line

# {name: path, config, splits, separator, description}
HUB = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def hub_source(dataset: str, text_column: str = "text") -> Source:
    """A data set by its short name or as hf:NAME[/CONFIG]; where there is no column 'text', the first one of text.
    Raises UserError: not such a name."""
    if dataset in HUB:
        hub = HUB[dataset]
        candidates = ((hub["path"], hub.get("config")),)
    else:
        parts = dataset.removeprefix("hf:").split("/")
        if len(parts) > 3 or not all(re.fullmatch(r"\w[\w.-]*", part) for part in parts):
            raise UserError(f"dataset={dataset!r}: must be hf:NAME, hf:OWNER/NAME or either with /CONFIG after it")
        hub = {"splits": [], "separator": "\n"}
        candidates = (("/".join(parts[:2]), parts[2] if len(parts) == 3 else None),)
        if len(parts) == 2:
            candidates += ((parts[0], parts[1]),)  # a name without owner, and a configuration
    identity = f"hub:{candidates}:{tuple(hub['splits'])}:{hub['separator']!r}"
    identity += f":{text_column}" if text_column != "text" else ""

    def pieces():
        return Plausible(dataset, None).passed(joined(_hub_pieces(dataset, candidates, hub, text_column)))

    return Source(dataset, identity, pieces)


def _hub_pieces(dataset: str, candidates: tuple, hub: dict, text_column: str) -> Iterator[str]:
    splits = _load_from_hub(dataset, candidates)
    names = [name for name in hub["splits"] or ("train",) if name in splits] or list(splits)
    for name in names:
        rows = splits[name]
        column = _text_column(dataset, rows, text_column)
        for batch in rows.select_columns([column]).iter(batch_size=1000):
            for text in (text for text in batch[column] if text is not None):
                # the rows of some sets keep the newline that ends them
                yield text if text.endswith("\n") else text + hub["separator"]


@functools.lru_cache(maxsize=1)
def _load_from_hub(dataset: str, candidates: tuple[tuple[str, str | None], ...]):
    """The splits of a data set, {name: rows}, from the first of the (path, configuration) candidates that exists."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"dataset={dataset!r} needs the package datasets: pip install datasets, or {DEFAULT_HINT}"
        ) from None
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
        f"dataset={dataset!r}: can't be had from the Hugging Face hub ({one_line(problem)}); {DEFAULT_HINT}"
    ) from problem


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
            f"dataset={dataset!r}: the Hugging Face hub can't be reached ({one_line(error)}); {DEFAULT_HINT}"
        ) from None


def _text_column(dataset: str, rows, wanted: str) -> str:
    columns = [name for name, kind in rows.features.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    if not columns:
        raise UserError(f"dataset={dataset!r}: no column of text among {', '.join(rows.features)}; {DEFAULT_HINT}")
    if wanted not in columns and wanted != "text":
        raise UserError(f"text_column={wanted!r}: not among the columns of text of {dataset}: {', '.join(columns)}")
    return wanted if wanted in columns else columns[0]
