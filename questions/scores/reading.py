"""Tables of one number per seed, in whatever form they lie around, and a note for every liberty taken in reading them.

Nothing is guessed that would change a verdict: a cell that is no number, a comma that may be either of two things, a
seed given twice and a table with several numbers per seed are refused in one line that says what would be right.
Every form becomes cells, (arm, seed, text, place), with how seeds are known and notes; `table` makes numbers of them.
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

from config import UserError
from questions.scores import sources
from questions.scores.sources import arm_and_seed, column, text_of

ARMS = "arm group method model system variant optimizer activation algorithm config experiment source run name".split()
SEEDS = "seed random_seed run_seed trial replicate rep run index fold".split()
VALUES = "value score val_loss eval_loss loss val_bpb accuracy acc".split()
STEPS = "step _step global_step iteration".split()
SUMMARIES = set("mean avg average std sd stdev sem se median min max range total variance ci n p ± δ σ μ".split())
BESIDE = set("seed seeds run runs of over across all pop dev error value".split())  # words that stand with those
MISSING = {"", "-", "–", "—", "n/a", "na", "none", "null", "tbd", "?"}
WORDS = {"true": 1.0, "correct": 1.0, "right": 1.0, "false": 0.0, "incorrect": 0.0, "wrong": 0.0}
WORDS |= dict.fromkeys(("nan", "inf", "-inf", "infinity", "diverged"), math.nan)
BEST_OF = re.compile(
    r"best[ _-]+(of[ _-]+\d|seeds?\b)|(best|max|min)[ _-]+(over|of|across)[ _-]+[\d _-]*(seed|run|trial)s"
)
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


@dataclass
class Table:
    """`arms`: {arm: {seed: value}}, in the order given. `seeds`: how they are known: 'named', 'rows' (of one table),
    'places' (in lists) or 'none'. `notes`: what was assumed or left out."""

    arms: dict
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

    def values(self, header):
        """Those of the names that `value` names, with commas between; all, where it names none."""
        return [column(header, part.strip(), "value") for part in self.value.split(",")] if self.value else list(header)


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
        return table([_of_mapping(source, asked)], asked.decimal)
    if hasattr(source, "to_csv"):  # a DataFrame, without importing pandas
        source = source.to_csv(index=any(source.index.names))
    sources = [source] if isinstance(source, (str, os.PathLike)) else source
    return table([_of_argument(os.fspath(part), asked) for part in sources], asked.decimal)


def find(argument):
    """(name or '', paths) of 'name=path', or of a path alone; a path may be a glob. UserError: there is none."""
    name, _, rest = ("", "", argument) if os.path.exists(argument) else argument.rpartition("=")
    paths = [rest] if os.path.exists(rest) else sorted(glob.glob(rest))
    if not paths:
        raise UserError(f"{argument}: no such file or folder (numbers are given as name=1.2,1.3,1.1)")
    return name.strip(), paths


def table(parts, decimal=None):
    """A Table of (cells, how seeds are known, notes): numbers read, summaries, empty and infinite cells left out."""
    kinds = {kind for _, kind, _ in parts}
    result = Table({}, kinds.pop() if len(kinds) == 1 else "none", [note for *_, notes in parts for note in notes])
    cells = [(str(arm).strip(), _seed(seed), text, place) for part, *_ in parts for arm, seed, text, place in part]
    summaries = {name for cell in cells for name in cell[:2] if name and is_summary(name)}
    if summaries:
        result.notes.append(f"left out as summaries: {', '.join(sorted(summaries))}")
        cells = [cell for cell in cells if not summaries & set(cell[:2])]
    places = {}
    for (arm, seed, _, place), number in zip(cells, _numbers(cells, decimal, result.notes), strict=True):
        if not arm:
            raise UserError(f"{place}: no name of an arm")
        if BEST_OF.search(arm.lower()):
            raise UserError(f"arm {arm}: the best of several seeds is no sample of them; give the number of every seed")
        values = result.arms.setdefault(arm, {})
        seed = str(len(values) + 1) if seed is None else seed
        if seed in values:
            twice = f"({places[arm, seed]}, {place})"
            raise UserError(f"seed {seed} of {arm} is given twice {twice}; keep one: --where COLUMN=VALUE")
        values[seed], places[arm, seed] = number, place
    for arm, values in result.arms.items():
        for seed in [seed for seed, number in values.items() if number is None or not math.isfinite(number)]:
            why = "has no value" if values.pop(seed) is None else "is not finite, a run that failed"
            result.notes.append(f"seed {seed} of {arm} {why}: left out")
        if not values:
            raise UserError(f"arm {arm}: no value at all")
    if not result.arms:
        raise UserError("no numbers: needed are rows of arm, seed, value, or a column for each arm")
    return result


def _seed(label):
    """Written in one way: 'seed 1', 's01' and '1.0' are 1."""
    pattern = r"^(?:seed|trial|run|s)?[\s_#=-]*0*(\d+)(?:\.0+)?$"
    return None if label is None else re.sub(pattern, r"\1", str(label).strip(), flags=re.I)


def is_summary(label):
    """Does this row or column hold a mean, a spread or a difference?"""
    words = set(re.findall(r"[^\W\d_]+|±", label.lower()))
    return bool(words & SUMMARIES and words <= SUMMARIES | BESIDE) or bool(
        re.match(r"\s*(Δ|delta\b|diff)", label, re.I)
    )


# -- forms --------------------------------------------------------------------------------------------------------


def _of_argument(text, asked):
    """'-', a path or glob, 'name=1,2,3', 'name=path', or the text of a table."""
    if text == "-":
        return _of_text(sys.stdin.read(), asked, "standard input")
    if "\n" in text or text[:1] in ("{", "["):
        return _of_text(text, asked, "the table")
    listed = re.fullmatch(rf"(.*)=([\s\[(]*(?:{NUMBER}|nan)%?(?:[\s,;\])].*)?)", text, re.I)
    if listed and not os.path.exists(text):
        return _of_lists([listed.groups()], asked)
    name, paths = find(text)
    if asked.pattern or len(paths) > 1 or os.path.isdir(paths[0]) or sources.is_source(paths[0]):
        return sources.cells(paths, asked, name)
    cells, *rest = _of_text(text_of(paths[0]), asked, paths[0])
    if name and len({arm for arm, *_ in cells}) > 1:
        raise UserError(f"{text}: several columns could be the one of {name}; --value NAME")
    return [(name or arm, *cell) for arm, *cell in cells], *rest


def _of_mapping(source, asked):
    cells, named = [], False
    for arm in asked.values(source):
        if isinstance(source[arm], (str, bytes)) or not hasattr(source[arm], "__iter__"):
            raise UserError(f"arm {arm}: must be a list of one number for each seed, not {source[arm]!r}")
        named = named or isinstance(source[arm], Mapping)
        pairs = source[arm].items() if isinstance(source[arm], Mapping) else enumerate(source[arm], 1)
        cells += [(arm, str(seed), value, f"{arm}, seed {seed}") for seed, value in pairs]
    return cells, "named" if named else "places", []


def _of_lists(lists, asked):
    """[(name, '3.27, 3.28')]; names that come several times get numbers."""
    names = [name.strip() or "list" for name, _ in lists]
    unique = [f"{n} {names[:i].count(n) + 1}" if names.count(n) > 1 else n for i, n in enumerate(names)]
    numbers = {n: re.findall(r"[^\s,;\[\]()]+", text) for n, (_, text) in zip(unique, lists, strict=True)}
    return _of_mapping({name: numbers[name] for name in asked.values(numbers)}, Asked())


def _of_text(text, asked, place):
    loaded = _json(text, place)
    if isinstance(loaded, dict) and not {"columns", "data"} <= set(loaded):
        return _of_mapping(loaded, asked)
    if loaded is None and not _is_markdown(text):
        more = rf"(?:\s*[,;]\s*{NUMBER})+"
        lists = re.findall(rf"(?:(\w[\w .+/#-]*?)[\W_]{{0,2}}\s*[:=]\s*[\w.(]*)?\[(\s*{NUMBER}{more})[,\s]*\]", text)
        lists = lists or re.findall(rf"^\W*(\w[^\n=:,;|]*?)\s*[:=]\s*({NUMBER}{more})\s*$", text, re.M)
        if lists:
            return _of_lists(lists, asked)
        line = rf"^\W*(?:seed|trial|run)[\s=:#`]*(\d+)\W*?[:=]\W*?(?:[a-z_]+ )?({NUMBER})(?:\W+vs\W+({NUMBER}))?"
        if lines := re.findall(line, text, re.I | re.M):
            both = all(second for *_, second in lines)
            cells = [("first" if both else "listed", seed, first, f"seed {seed}") for seed, first, _ in lines]
            cells += [("second", seed, second, f"seed {seed}") for seed, _, second in lines if both]
            return cells, "named", []
    return of_grid(*grid(text, place), asked, place)


def _json(text, place):
    if not re.match(r"\s*[\[{]", text):
        return None
    for parts in ([text], [line for line in text.splitlines() if line.strip()]):
        try:
            loaded = [json.loads(part) for part in parts]
            return loaded if len(parts) > 1 else loaded[0]
        except ValueError as error:
            problem = error
    if re.match(r"\s*\[\s*[\d.+-]", text):
        return None  # a list of numbers in a text
    raise UserError(f"{place}: no valid JSON ({problem})")


def _is_markdown(text):
    return re.search(r"^\s*\|?[\s:|-]*-[\s:|-]*\|[\s:|-]*$", text, re.M)


def grid(text, place):
    """Header and rows of a table in text, CSV, TSV, Markdown or JSON; a row is (number of its line, cells).

    UserError: empty, a column without a name, two of one name, a row of another length."""
    if not text.strip():
        raise UserError(f"{place}: empty")
    loaded = _json(text, place)
    if loaded is not None:
        return _of_records(loaded, place)
    lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    rows = []
    if _is_markdown(text):
        for number, line in lines:
            if "|" not in line and len(rows) > 2:
                break  # the first table is over
            cells = re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))
            rows = [*rows, (number, cells)] if "|" in line else []
        rows = [row for row in rows if not all(re.fullmatch(r"\s*:?-+:?\s*", cell) for cell in row[1])]
    for separator in "\t;,|" if not rows else "":
        rows = [(n, next(csv.reader([line], delimiter=separator, skipinitialspace=True))) for n, line in lines]
        if max(len(cells) for _, cells in rows) > 1:
            break
    else:
        rows = rows if _is_markdown(text) else [(number, line.split()) for number, line in lines]
    rows = [(number, [_bare(cell) for cell in cells]) for number, cells in rows]
    header = rows[0][1]
    if all(_is_number(cell) for cell in header):
        header = [f"column {i}" for i in range(1, len(header) + 1)]
    else:
        rows = rows[1:]
    header[0] = header[0] or "index"
    if "" in header or len(set(header)) < len(header):
        raise UserError(f"{place}: two columns have one name, or one has none (merged headers?); name every column")
    for number, row in rows:
        if len(row) != len(header):
            hint = "; a comma inside a number? quote it, or separate by ;" if len(row) > len(header) else ""
            raise UserError(f"{place}, line {number}: {len(row)} cells where the header has {len(header)}{hint}")
    return header, rows


def _of_records(loaded, place):
    if isinstance(loaded, dict):
        header, rows = loaded["columns"], loaded["data"]
    elif loaded and all(isinstance(row, dict) for row in loaded):
        header = list(dict.fromkeys(key for row in loaded for key in row))
        rows = [[row.get(key) for key in header] for row in loaded]
    else:
        raise UserError(f"{place}: JSON, but no records such as {{'arm': 'ours', 'seed': 1, 'value': 3.28}}")
    said = [["" if x is None else x if isinstance(x, str) else json.dumps(x) for x in row] for row in rows]
    return header, list(enumerate(said, 1))


def _bare(cell):
    cell = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell)  # a link
    return re.sub(r"[*`]+|~~|</?(b|strong|code)>", "", cell).strip()


def of_grid(header, rows, asked, place):
    """Cells of a table: rows of arm, seed and value, a column an arm, a row an arm, or the panel of a tracker."""
    header = [re.sub(r"^(metrics|params|tags|config|summary)\.", "", name) for name in header]
    for condition in asked.where:
        name, _, wanted = condition.partition("=")
        i = header.index(column(header, name, "where"))
        rows = [row for row in rows if row[1][i] == wanted]
    if not rows:
        raise UserError(f"{place}: no row of numbers{' is left by --where' if asked.where else ''}")
    lines = [f"{place}, line {number}" for number, _ in rows]
    columns = {name: [cells[i] for _, cells in rows] for i, name in enumerate(header)}
    labels = [name for name in header if sum(map(_is_number, columns[name])) * 2 < len(rows)]
    seeds = [name for name in header[1:] if re.fullmatch(r"(seed|run|trial|rep|s|#)?[\s_#=-]*\d+", name.lower())]
    if len(seeds) > 1 and header[0] in labels and all(name in seeds or is_summary(name) for name in header[1:]):
        names = list(zip(columns[header[0]], lines, range(len(rows)), strict=True))
        cells = [(arm, s, columns[s][i], f"{line}, column {s}") for arm, line, i in names for s in seeds]
        return cells, "named", ["a row for each arm, a column for each seed"]
    step = next((name for name in header if _simple(name) in STEPS), None)
    if step and all(" - " in name for name in header if name != step):
        return _of_panel({name: cells for name, cells in columns.items() if name != step}, asked)
    arm, seed = _arm_and_seed_columns(columns, labels, asked, place)
    values = [name for name in header if name not in (arm, seed, step, *labels) and not is_summary(name)]
    if arm is None:
        values = asked.values(header) if asked.value else _of_one_size(columns, values, place)
        names = columns[seed] if seed else map(str, range(1, len(rows) + 1))
        names = list(zip(names, lines, range(len(rows)), strict=True))
        cells = [(name, s, columns[name][i], f"{line}, column {name}") for name in values for s, line, i in names]
        return cells, "named" if seed else "rows", []
    chosen = asked.values(header) if asked.value else [name for name in values if name.lower() in VALUES]
    chosen = chosen if asked.value or len(chosen) == 1 else values
    if len(chosen) != 1:
        raise UserError(f"{place}: which column holds the value? --value NAME, of {', '.join(values or labels)}")
    notes = [f"value: {chosen[0]}"] if len(values) > 1 else []
    return _of_long(columns, arm, seed, chosen[0], step, lines, notes)


def _simple(name):
    return name.lower().strip().replace(" ", "_")


def _arm_and_seed_columns(columns, labels, asked, place):
    """Names of the columns that hold arms and seeds, or None: those asked for, known by name, or by what they hold."""
    seed = asked.seed and column(columns, asked.seed, "seed")
    arm = asked.arm and column(columns, asked.arm, "arm")
    simple = {_simple(name): name for name in columns}
    if seed is None:  # names of runs are no seeds
        seed = next((simple[s] for s in SEEDS if s in simple and (s != "run" or simple[s] not in labels)), None)
    others = [name for name in labels if name != seed]
    if arm is None:
        grouping = [name for name in others if 1 < len(set(columns[name])) < len(columns[name])]
        named = [simple[a] for a in ARMS if simple.get(a) in others and len(set(columns[simple[a]])) > 1]
        if not named and len(grouping) > 1:
            raise UserError(f"{place}: which column holds the arms? --arm NAME, of {', '.join(grouping)}")
        arm = next(iter([*named, *grouping]), None)
    if arm is None and seed is None and len(others) == 1:
        seed = others[0]
    return arm, seed


def _of_long(columns, arm, seed, value, step, lines, notes):
    """Cells of rows of arm, seed and value; seeds may be a part of the arms' names."""
    ended = {cell for name in columns if _simple(name) == "state" for cell in columns[name]} - {"finished", "FINISHED"}
    if ended:
        notes.append(f"runs that are {', '.join(sorted(ended))} count too; --where State=finished leaves them out")
    pairs = list(zip(columns[arm], columns[seed] if seed else [None] * len(lines), strict=True))
    if (seed is None or len(set(columns[arm])) == len(lines)) and (split := _split(columns[arm])):
        pairs = split
        notes.append(f"arms and seeds are read from names: {', '.join(dict.fromkeys(name for name, _ in pairs))}")
    elif seed is None:
        return _without_seeds(columns[arm], columns[value], lines, notes)
    cells = [(*pair, text, line) for pair, text, line in zip(pairs, columns[value], lines, strict=True)]
    if step:
        cells = [cells[i] for i in sorted(range(len(cells)), key=lambda i: float(columns[step][i]))]
        cells = list({cell[:2]: cell for cell in cells}.values())
        notes.append(f"of each run the last {step}")
    return cells, "named", notes


def _without_seeds(arms, texts, lines, notes):
    """A row is one number of an arm, or all of them in one cell."""
    split = [re.findall(r"[^\s,;\[\]]+", text) if re.search(r"\d[,;]\s|\d\s*;", text) else [text] for text in texts]
    cells = [(arm, None, text, line) for arm, row, line in zip(arms, split, lines, strict=True) for text in row]
    return cells, "none", [*notes, "no column of seeds: not paired"]


def _of_one_size(columns, values, place):
    """The columns, unless their numbers are of different sizes: then they are not arms, but different quantities."""
    plain = {name: re.findall(NUMBER, " ".join(columns[name]).replace(",", ".")) for name in values}
    sizes = {name: sum(abs(float(x)) for x in numbers) / max(1, len(numbers)) for name, numbers in plain.items()}
    sizes = {name: size for name, size in sizes.items() if size}
    if sizes and max(sizes.values()) > 10 * min(sizes.values()):
        small, large = min(sizes, key=sizes.get), max(sizes, key=sizes.get)
        raise UserError(
            f"{place}: columns {small} and {large} are of other sizes ({sizes[small]:.3g}, {sizes[large]:.3g}); if "
            "they are arms name them (--value A,B), or name the one that counts, with --against"
        )
    return values


def _split(names):
    """[(arm, seed)] of names such as gelu-seed1, or None where one holds no seed or no arm recurs."""
    split = [arm_and_seed(name) for name in names]
    return split if all(seed for _, seed in split) and len({arm for arm, _ in split}) < len(split) else None


def _of_panel(columns, asked):
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
        hint = "no seeds in their names (as gelu-seed1); give rows of arm, seed, value"
        raise UserError(f"runs {', '.join(last)}: {hint}")
    cells = [(*pair, last[run], f"run {run}") for pair, run in zip(split, last, strict=True)]
    return cells, "named", ["the last value of each run; arms and seeds are read from their names"]


# -- numbers ------------------------------------------------------------------------------------------------------


def _is_number(cell):
    """Is it meant as one? What is wrong with it is said when it is read."""
    cell = cell.lower().strip("~≈% ")
    number = r"[+−-]?\.?\d[\d.,\s]*(e[+-]?\d+)?(?![a-z0-9_-])"
    return cell in MISSING or cell in WORDS or re.match(number, cell) is not None


def _numbers(cells, decimal, notes):
    """Numbers of the cells, None where one is empty. All are written in one way: a comma or a point before decimals,
    percent signs or none. UserError: a cell that is no number, or may be two."""
    texts = [t.strip() for *_, t, _ in cells if isinstance(t, str) and t.strip().lower() not in MISSING | set(WORDS)]
    percent = {text.endswith("%") for text in texts}
    if len(percent) > 1:
        raise UserError(f"{texts[0]}, …: some values have a percent sign and some have none")
    if True in percent:
        notes.append("percent signs are dropped: differences are percentage points")
    commas = [text for text in texts if "," in text]
    if commas and decimal is None:
        thousands = all(re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?%?", text) for text in commas)
        fraction = all(re.fullmatch(r"[+-]?\d+,\d+%?", text) for text in commas) and "." not in "".join(texts)
        if thousands and fraction:
            raise UserError(f"{commas[0]}: a comma before decimals, or between thousands? --decimal , or --decimal .")
        decimal = "," if fraction else "."
        notes.append(f"commas stand {'before decimals' if fraction else 'between thousands'}, as in {commas[0]}")
    return [_number(text, decimal or ".", place) for *_, text, place in cells]


def _number(text, decimal, place):
    if text is None or (hasattr(text, "__float__") and not isinstance(text, bool)):
        return text if text is None else float(text)
    cell = str(text).lower().replace("−", "-").rstrip("% ").strip()
    if cell in MISSING:
        return None
    if cell in WORDS and isinstance(text, str):
        return WORDS[cell]
    if re.search(r"±|\+/-|\+-|\(.*\)", cell):
        raise UserError(f"{place}: {text!r} is a mean with its spread; needed is one number for each seed")
    thousands = r"[\s\u00a0\u2009\u202f'’_" + (".]" if decimal == "," else ",]")
    if re.fullmatch(rf"[+-]?\d{{1,3}}({thousands}\d{{3}})+([.,]\d+)?", cell):
        cell = re.sub(thousands, "", cell)
    cell = cell.replace(",", ".") if decimal == "," and "." not in cell else cell
    if not re.fullmatch(NUMBER, cell):
        raise UserError(f"{place}: {text!r} is no number")
    return float(cell)
