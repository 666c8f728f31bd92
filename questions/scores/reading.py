"""Tables of one number per seed, in whatever form they lie around, and a note for every liberty taken in reading them.

Nothing is guessed that would change a verdict: a cell that is no number, a comma that may be either of two things, a
seed given twice and a table with several numbers per seed are refused in one line that says what would be right.
"""

from __future__ import annotations

import csv
import glob
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config import UserError

ARMS = "arm group method model system variant optimizer activation algorithm config experiment source run name".split()
SEEDS = "seed random_seed run_seed trial replicate rep run index fold".split()
VALUES = "value score val_loss eval_loss loss val_bpb accuracy acc".split()
STEPS = "step _step global_step iteration".split()
SUMMARIES = set(
    "mean avg average std sd stdev sem se median min max range delta n count p total variance all δ σ μ Δ".split()
)
MISSING = {"", "-", "–", "—", "n/a", "na", "none", "null", "tbd", "?"}
OUTCOMES = {"true": 1.0, "correct": 1.0, "right": 1.0, "false": 0.0, "incorrect": 0.0, "wrong": 0.0}
NOT_FINITE = {"nan", "inf", "-inf", "+inf", "infinity", "diverged"}
BEST_OF = re.compile(
    r"best[ _-]+(of[ _-]+\d|seeds?\b)|(best|max|min)[ _-]+(over|of|across)[ _-]+(\d+[ _-]+)?(seeds|runs|trials)"
)
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


@dataclass
class Table:
    """`arms`: {arm: {seed: value}}, in the order given. `seeds`: how they are known: 'named', 'rows' (of one table),
    'places' (in lists) or 'none'. `notes`: what was assumed or left out."""

    arms: dict
    seeds: str = "named"
    notes: list = field(default_factory=list)


@dataclass
class Entries:
    """What one source holds, before numbers are read: `cells` of (arm, seed, text or number, place)."""

    cells: list
    seeds: str = "named"
    notes: list = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """Options of `read`."""

    arm: str | None = None
    seed: str | None = None
    value: str | None = None
    where: tuple = ()
    decimal: str | None = None
    pattern: str | None = None


def read(source, **asked):
    """A Table from {arm: values or {seed: value}}, a DataFrame, a path, text, 'name=1,2,3', 'name=path', or a list.

    Args, by name:
        arm, seed, value: names of columns; `value` may also name the arms of a wide table or list, with commas, or
            the metric of a tracker's or harness's files. A part of a name that only one has is enough.
        where: conditions 'column=value' on the rows that count.
        decimal: '.' or ',', the sign before decimals, where both readings are possible.
        pattern: a regular expression with one group; its last match in each file of a folder of logs is the value.

    UserError: one line that says what cannot be read, where, and what would be right.
    """
    asked = Asked(**asked)
    if isinstance(source, Mapping):
        parts = [_of_mapping(source, asked)]
    elif hasattr(source, "to_csv"):  # a DataFrame, without importing pandas
        parts = [_of_text(source.to_csv(index=any(source.index.names)), asked, "the table")]
    else:
        sources = [source] if isinstance(source, (str, os.PathLike)) else source
        parts = [_of_argument(os.fspath(part), asked) for part in sources]
    return table(parts, asked.decimal)


def text_of(path):
    """The text of a file: UTF-8 with or without a byte-order mark, or UTF-16 with one."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: no text in UTF-8; export the table as CSV or JSON") from None


def _of_argument(text, asked):
    """'-', a path or glob, 'name=1,2,3', 'name=path', or text of several lines."""
    from questions.scores import sources

    if text == "-" or "\n" in text or text[:1] in ("{", "["):
        return _of_text(
            sys.stdin.read() if text == "-" else text, asked, "standard input" if text == "-" else "the table"
        )
    name, sign, rest = ("", "", text) if os.path.exists(text) else text.rpartition("=")
    cell = rf"(?:{NUMBER}|nan|inf)%?"
    if sign and re.fullmatch(rf"[\s\[(]*{cell}(?:[\s,;]+{cell})*[\s,\])]*", rest, re.I):
        return _of_lists([(name, rest)], asked)
    paths = [rest] if os.path.exists(rest) else sorted(glob.glob(rest))
    if not paths:
        raise UserError(f"{text}: no such file or folder (numbers are given as name=1.2,1.3,1.1)")
    if asked.pattern or len(paths) > 1 or os.path.isdir(paths[0]) or sources.is_source(paths[0]):
        return Entries(*sources.entries(paths, asked, name.strip()))
    found = _of_text(text_of(paths[0]), asked, paths[0])
    if sign:
        if len({arm for arm, *_ in found.cells}) > 1:
            raise UserError(f"{text}: several columns could be the one of {name}; --value NAME")
        found.cells = [(name.strip(), *cell) for _, *cell in found.cells]
    return found


def table(parts, decimal=None):
    """A Table of all Entries together: numbers read, summaries, empty and infinite cells left out."""
    kinds = {part.seeds for part in parts}
    result = Table({}, kinds.pop() if len(kinds) == 1 else "none", [note for part in parts for note in part.notes])
    cells = [cell for part in parts for cell in part.cells]
    summaries = [cell for cell in cells if is_summary(str(cell[0])) or (cell[1] and is_summary(str(cell[1])))]
    if summaries:
        labels = dict.fromkeys(str(c[0] if is_summary(str(c[0])) else c[1]) for c in summaries)
        result.notes.append(f"left out as summaries: {', '.join(labels)}")
        cells = [cell for cell in cells if cell not in summaries]
    places, lost = {}, []
    numbers = _numbers([(text, place) for *_, text, place in cells], decimal, result.notes)
    for (arm, seed, _, place), number in zip(cells, numbers, strict=True):
        if not str(arm).strip():
            raise UserError(f"{place}: no name of an arm")
        if BEST_OF.search(arm.lower()):
            raise UserError(f"arm {arm}: the best of several seeds is no sample of them; give the number of every seed")
        values = result.arms.setdefault(arm, {})
        seed = str(len(values) + 1) if seed is None else seed
        if (arm, seed) in places:
            raise UserError(
                f"seed {seed} of {arm} is given twice ({places[arm, seed]}, {place}); keep one: --where COLUMN=VALUE"
            )
        places[arm, seed] = place
        values[seed] = number
        if number is None or not math.isfinite(number):
            lost.append((arm, seed, "has no value" if number is None else "is not finite, a run that failed"))
    for arm, seed, why in lost:
        del result.arms[arm][seed]
        result.notes.append(f"seed {seed} of {arm} {why}: left out")
    if empty := [arm for arm, values in result.arms.items() if not values]:
        raise UserError(f"arm {empty[0]}: no value at all")
    if not result.arms:
        raise UserError("no numbers: needed are rows of arm, seed, value, or a column for each arm")
    return result


def is_summary(label):
    """Is this row or column a mean, a spread, a difference, and no seed or arm?"""
    words = re.findall(r"[^\W\d_]+", label.lower())
    return label.strip() in ("±", "Δ") or (
        bool(words) and (words[0] in SUMMARIES or words[-1] in SUMMARIES - {"n", "p", "all"})
    )


# -- forms --------------------------------------------------------------------------------------------------------


def _of_mapping(source, asked):
    cells, named = [], False
    for arm, values in _chosen(dict(source), asked).items():
        if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
            raise UserError(f"arm {arm}: must be a list of one number for each seed, not {values!r}")
        named = named or isinstance(values, Mapping)
        pairs = values.items() if isinstance(values, Mapping) else enumerate(values, 1)
        cells += [(str(arm), str(seed), value, f"{arm}, seed {seed}") for seed, value in pairs]
    return Entries(cells, "named" if named else "places")


def _of_lists(lists, asked):
    """[(name, '3.27, 3.28')]; a name that comes again gets a number."""
    named = {}
    for name, text in lists:
        again = sum(other == name for other, _ in lists) > 1
        number = 1 + sum(key.startswith(f"{name} ") for key in named)
        named[f"{name} {number}" if again else name.strip()] = re.findall(r"[^\s,;\[\]()]+", text)
    cells = [
        (n, str(i), text, f"{n}, place {i}")
        for n, row in _chosen(named, asked).items()
        for i, text in enumerate(row, 1)
    ]
    return Entries(cells, "places")


def _chosen(arms, asked):
    if not asked.value:
        return arms
    return {name: arms[name] for name in (column(arms, part.strip(), "value") for part in asked.value.split(","))}


def column(header, name, option):
    """The one of the names in `header` that is `name`, or has it as a part. UserError: none, or several."""
    near = [h for h in header if h == name] or [h for h in header if name.lower() in str(h).lower()]
    if len(near) != 1:
        raise UserError(f"{option}={name!r}: must be one of {', '.join(map(str, near or header))}")
    return near[0]


def _of_text(text, asked, place):
    if not text.strip():
        raise UserError(f"{place}: empty")
    loaded = _json(text, place)
    if isinstance(loaded, dict) and not {"columns", "data"} <= set(loaded):
        return _of_mapping(loaded, asked)
    if loaded is None and not _is_markdown(text):
        number = rf"\s*{NUMBER}\s*"
        lists = re.findall(
            rf"(?:(\w[\w .+/#-]*?)[\W_]{{0,2}}\s*[:=]\s*[\w.(]*)?\[({number}(?:,{number})+),?\s*\]", text
        )
        lists = lists or re.findall(
            rf"^\W*(\w[^\n=:,;|]*?)\s*[:=]\s*({NUMBER}(?:[ \t]*[,;][ \t]*{NUMBER})+)\s*$", text, re.M
        )
        if lists:
            return _of_lists([(name.strip() or "list", numbers) for name, numbers in lists], asked)
        line = rf"^\W*(?:seed|trial|run)[\s=:#`]*(\d+)\W*?[:=]\W*?(?:[a-z_]+ )?({NUMBER})(?:\W+vs\W+({NUMBER}))?"
        if found := re.findall(line, text, re.I | re.M):
            both = all(b for *_, b in found)
            cells = [("first" if both else "listed", seed, a, f"seed {seed}") for seed, a, _ in found]
            return Entries(cells + [("second", seed, b, f"seed {seed}") for seed, _, b in found if both])
    return of_grid(*grid(text, place), asked, place)


def _json(text, place):
    if not re.match(r"\s*[\[{]", text):
        return None
    try:
        return json.loads(text)
    except ValueError:
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError as error:
            if re.match(r"\s*\[\s*[\d.+-]", text):
                return None  # a list of numbers in a text
            raise UserError(f"{place}: no valid JSON ({error})") from None


def _is_markdown(text):
    return re.search(r"^\s*\|?[\s:|-]*-[\s:|-]*\|[\s:|-]*$", text, re.M)


def grid(text, place):
    """Header and rows of a table in text, CSV, TSV, Markdown or JSON; a row is (number of its line, cells).

    UserError: empty, a column without a name, two of one name, a row of another length."""
    loaded = _json(text, place)
    if loaded is not None:
        return _of_records(loaded, place)
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    if _is_markdown(text):
        rows = []
        for number, line in lines:
            if "|" in line:
                rows.append((number, re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))))
            elif len(rows) > 2:
                break  # the first table is over
            else:
                rows = []
        rows = [row for row in rows if not all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in row[1])]
    else:
        split = {
            s: [next(csv.reader([line], delimiter=s, skipinitialspace=True)) for _, line in lines] for s in "\t;,|"
        }
        best = next((rows for rows in split.values() if max(map(len, rows)) > 1), [line.split() for _, line in lines])
        rows = [(number, cells) for (number, _), cells in zip(lines, best, strict=True)]
    rows = [(number, [_bare(cell) for cell in cells]) for number, cells in rows]
    if not rows:
        raise UserError(f"{place}: no table in it")
    header = rows[0][1]
    if all(_is_number(cell) for cell in header):
        header = [f"column {i}" for i in range(1, len(header) + 1)]
    else:
        rows = rows[1:]
    unnamed = [i for i, name in enumerate(header, 1) if not name and i > 1]
    if unnamed or len(set(header)) < len(header):
        what = f"column {unnamed[0]} has no name" if unnamed else "two columns have one name"
        raise UserError(f"{place}: {what} (merged headers?); give every column its own")
    for number, row in rows:
        if len(row) != len(header):
            hint = "; a comma inside a number? quote it, or separate by ;" if len(row) > len(header) else ""
            raise UserError(f"{place}, line {number}: {len(row)} cells where the header has {len(header)}{hint}")
    return header, rows


def _of_records(loaded, place):
    if isinstance(loaded, dict):
        header, rows = loaded["columns"], loaded["data"]
    elif isinstance(loaded, list) and loaded and all(isinstance(row, dict) for row in loaded):
        header = list(dict.fromkeys(key for row in loaded for key in row))
        rows = [[row.get(key) for key in header] for row in loaded]
    else:
        raise UserError(
            f"{place}: JSON, but no records such as {{'arm': 'ours', 'seed': 1, 'value': 3.28}}, nor lists by arm"
        )
    said = [["" if x is None else x if isinstance(x, str) else json.dumps(x) for x in row] for row in rows]
    return header, list(enumerate(said, 1))


def _bare(cell):
    cell = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell)  # a link
    return re.sub(r"[*`]+|~~|</?(b|strong|code)>", "", cell).strip()


def of_grid(header, rows, asked, place):
    """Entries of a table: rows of arm, seed and value, a column an arm, a row an arm, or the panel of a tracker."""
    header = [re.sub(r"^(metrics|params|tags|config|summary)\.", "", name) for name in header]
    for condition in asked.where:
        name, sign, wanted = condition.partition("=")
        i = header.index(column(header, name, "where")) if sign else 0
        rows = [row for row in rows if sign and row[1][i] == wanted]
    if not rows:
        raise UserError(f"{place}: no row of numbers{' is left by --where' if asked.where else ''}")
    lines = [f"{place}, line {number}" for number, _ in rows]
    columns = {name: [cells[i] for _, cells in rows] for i, name in enumerate(header)}
    simple = {name.lower().strip().replace(" ", "_"): name for name in header}
    labels = [name for name in header if sum(map(_is_number, columns[name])) * 2 < len(rows)]
    step = next((simple[name] for name in STEPS if name in simple), None)
    seeds = [name for name in header[1:] if re.fullmatch(r"(seed|run|trial|rep|s|#)?[\s_#=-]*\d+", name.lower())]
    if len(seeds) > 1 and header[0] in labels and all(name in seeds or is_summary(name) for name in header[1:]):
        arms = columns[header[0]]
        cells = [(arm, s, columns[s][i], f"{lines[i]}, column {s}") for i, arm in enumerate(arms) for s in seeds]
        return Entries(cells, "named", ["a row for each arm, a column for each seed"])
    if step and all(" - " in name for name in header if name != step):
        return _of_panel({name: cells for name, cells in columns.items() if name != step}, asked, lines)
    seed = asked.seed and column(header, asked.seed, "seed")
    seed = seed or next((simple[s] for s in SEEDS if s in simple and not (s == "run" and simple[s] in labels)), None)
    arm = asked.arm and column(header, asked.arm, "arm")
    arm = arm or next((simple[a] for a in ARMS if a in simple and simple[a] in labels and simple[a] != seed), None)
    others = [name for name in labels if name != seed]
    if arm is None and len(others) == 1 and len(set(columns[others[0]])) < len(rows):
        arm = others[0]
    elif arm is None and seed is None and len(others) == 1:
        seed = others[0]
    values = [name for name in header if name not in (arm, seed, step) and name not in labels and not is_summary(name)]
    if asked.value:
        values = [column(header, part.strip(), "value") for part in asked.value.split(",")]
    seed_of = columns[seed] if seed else [None if arm else str(i) for i in range(1, len(rows) + 1)]
    if arm is None:
        _check_sizes(columns, values, asked, place)
        cells = [
            (name, seed_of[i], columns[name][i], f"{lines[i]}, column {name}")
            for name in values
            for i in range(len(rows))
        ]
        return Entries(cells, "named" if seed else "rows")
    usual = [name for name in values if name.lower() in VALUES]
    if len(values) != 1 and len(usual) != 1:
        raise UserError(f"{place}: which column holds the value? --value NAME, of {', '.join(values or others)}")
    value = values[0] if len(values) == 1 else usual[0]
    cells = list(zip(columns[arm], seed_of, columns[value], lines, strict=True))
    notes = [f"value: {value}"] if len(values) > 1 else []
    if seed is None and (split := _split(columns[arm])):
        cells = [(*pair, *cell[2:]) for pair, cell in zip(split, cells, strict=True)]
        notes.append(
            f"arms and seeds are read from the names in {arm!r}: {', '.join(dict.fromkeys(a for a, _ in split))}"
        )
    elif seed is None:
        notes.append("no column of seeds: not paired")
    if step and cells[0][1] is not None:
        order = sorted(range(len(cells)), key=lambda i: float(columns[step][i]))
        cells = list({cells[i][:2]: cells[i] for i in order}.values())
        notes.append(f"of each run the last {step}")
    return Entries(cells, "none" if cells[0][1] is None else "named", notes)


def _check_sizes(columns, values, asked, place):
    """Columns of other sizes are other quantities, not arms of one, unless they were chosen."""
    known = {name: [_number(cell.replace(",", "."), ".") for cell in columns[name]] for name in values}
    known = {name: [abs(x) for x in numbers if isinstance(x, float) and x == x] for name, numbers in known.items()}
    sizes = {name: sum(x) / len(x) for name, x in known.items() if any(x)}
    if not asked.value and sizes and max(sizes.values()) > 10 * min(sizes.values()):
        small, large = min(sizes, key=sizes.get), max(sizes, key=sizes.get)
        raise UserError(
            f"{place}: columns {small} and {large} are of other sizes ({sizes[small]:.3g}, {sizes[large]:.3g}); if "
            "they are arms name them (--value A,B), or name the one that counts, with --against"
        )


def _split(names):
    """[(arm, seed)] of names such as gelu-seed1, or None where one holds no seed or no arm recurs."""
    from questions.scores.sources import arm_and_seed

    split = [arm_and_seed(name) for name in names]
    return split if all(seed for _, seed in split) and len({arm for arm, _ in split}) < len(split) else None


def _of_panel(columns, asked, lines):
    """What W&B exports of a panel: a column 'run - metric' for each run, a row for each step; the last value counts."""
    last = {}
    for name, cells in columns.items():
        run, _, metric = name.rpartition(" - ")
        if metric.endswith(("__MIN", "__MAX")) or (asked.value and metric != asked.value):
            continue
        if run in last:
            raise UserError(f"run {run}: several metrics; --value NAME, as {metric}")
        last[run] = next((cell for cell in reversed(cells) if cell), "")
    split = _split(list(last))
    if split is None:
        raise UserError(
            f"runs {', '.join(last)}: no seeds in their names, as in gelu-seed1; give rows of arm, seed, value"
        )
    cells = [(*pair, last[run], f"run {run}") for pair, run in zip(split, last, strict=True)]
    return Entries(cells, "named", ["the last value of each run; arms and seeds are read from their names"])


# -- numbers ------------------------------------------------------------------------------------------------------


def _is_number(cell):
    cell = cell.lower().strip("~≈% ")
    return cell in MISSING | NOT_FINITE | set(OUTCOMES) or bool(
        re.match(rf"[+-]?\d[\d.,]*(e[+-]?\d+)?(?![a-z0-9-])|{NUMBER}$", _digits(cell))
    )


def _digits(text):
    """Without spaces and apostrophes between thousands, and with a plain minus."""
    return re.sub(r"(?<=\d)[\s\u00a0\u2009\u202f'’_](?=\d{3})", "", text.strip().replace("−", "-"))


def _numbers(cells, decimal, notes):
    """Numbers of [(text or number, place)], None where a cell is empty. All are written in one way: a comma or a point
    before decimals, percent signs or none. UserError: a cell that is no number, or may be two."""
    texts = [
        _digits(text) for text, _ in cells if isinstance(text, str) and text.strip().lower() not in MISSING | NOT_FINITE
    ]
    percent = {text.endswith("%") for text in texts}
    if len(percent) > 1:
        raise UserError(f"{texts[0]}, …: some values have a percent sign and some have none")
    if True in percent:
        notes.append("percent signs are dropped: differences are percentage points")
    commas = [text for text in texts if "," in text]
    if commas and decimal is None:
        thousands = all(re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?%?", text) for text in commas)
        fraction = all(re.fullmatch(r"[+-]?\d+,\d+%?", text) for text in commas) and not any(
            "." in text for text in texts
        )
        if thousands and fraction:
            raise UserError(f"{commas[0]}: a comma before decimals, or between thousands? --decimal , or --decimal .")
        decimal = "," if fraction else "."
        notes.append(f"commas stand {'before decimals' if fraction else 'between thousands'}, as in {commas[0]}")
    numbers = []
    for text, place in cells:
        number = _number(text, decimal or ".") if isinstance(text, str) else text
        if isinstance(number, (str, bool)) or not (number is None or hasattr(number, "__float__")):
            raise UserError(f"{place}: {text!r} {number if isinstance(text, str) else 'is no number'}")
        numbers.append(None if number is None else float(number))
    return numbers


def _number(cell, decimal):
    """The number, None for an empty cell, or what is wrong with it."""
    text = _digits(cell).lower().rstrip("% ")
    if text in MISSING:
        return None
    if text in NOT_FINITE:
        return math.nan
    if text in OUTCOMES:
        return OUTCOMES[text]
    if re.search(r"±|\+/-|\+-|\(.*\)", text):
        return "is a mean with its spread; needed is one number for each seed"
    text = text.replace(".", "").replace(",", ".") if decimal == "," else re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", text)
    return float(text) if re.fullmatch(NUMBER, text) else "is no number"
