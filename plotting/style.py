"""One look for all figures: colours, text, axes.

An activation has one colour and one marker in all of them. Margins are set by hand, in inches, because matplotlib's
layout engines draw everything once more; so the sizes of text are the figures' own. All else follows what the user
set in matplotlib's rcParams, and where nothing was set, LOOK.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from activations import label
from analysis.results import Measured
from plotting import WIDEST
from storage import number


@dataclasses.dataclass(frozen=True)
class Page:
    """What figures are drawn for: inches across, so that text is printed at the size it has here, and whether their
    title and how to read them stand in them, or in a paper's caption."""

    width: float = WIDEST
    captions: bool = True

    @property
    def narrow(self) -> bool:
        return self.width < 4.5


PAGE: ContextVar[Page] = ContextVar("PAGE", default=Page())  # noqa: B039 (it is frozen)
SMALL = "small"  # text inside a panel: 5/6 of the font size, the user's where a panel is drawn on the user's axes
NOTE = 7  # points: no text is smaller
GREY, ALARM = "#777777", "#D55E00"

LAYOUT = {  # what the margins are made for
    "font.size": 8.5,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # looking for a free place above the axes would take a sixth of the time
    "axes.titlepad": 5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "text.usetex": False,  # names may hold what TeX reads as a command
}
LOOK = {
    "axes.titleweight": "bold",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
}

# Okabe & Ito's colours for the study, then Tol's "muted" ones: told apart with any colour vision.
_STYLES = {
    "smelu_05": ("#0072B2", "o"),
    "smelu_1": ("#56B4E9", "s"),
    "relu": ("#000000", "X"),
    "gelu": ("#E69F00", "^"),
    "swish": ("#009E73", "D"),
    "smelu_0.1": ("#332288", "v"),
    "smelu_0.25": ("#6A51A3", "<"),
    "smelu_2": ("#88CCEE", ">"),
    "gelu_tanh": ("#999933", "<"),
    "mish": ("#CC79A7", "v"),
    "softplus": ("#882255", "p"),
    "elu": ("#D55E00", "h"),
    "leaky_relu": ("#777777", "P"),
    "relu2": ("#663333", "*"),
    "tanh": ("#CC6677", "d"),
    "swiglu": ("#117733", "8"),
    "geglu": ("#DDCC77", ">"),
    "reglu": ("#BBBBBB", "P"),
    "smeglu": ("#44AA99", "p"),
}
_MARKERS = "osD^vP<>phd8"


@contextlib.contextmanager
def house_style(**more) -> Iterator[None]:
    """The figures' settings, where the user has none: what differs from matplotlib's default was set on purpose."""
    free = {key: value for key, value in LOOK.items() if matplotlib.rcParams[key] == matplotlib.rcParamsDefault[key]}
    with matplotlib.rc_context(free | LAYOUT | more):
        yield


@contextlib.contextmanager
def page(**changed) -> Iterator[None]:
    """Figures for another page: its `width` in inches, and whether there are `captions`."""
    token = PAGE.set(dataclasses.replace(PAGE.get(), **changed))
    try:
        yield
    finally:
        PAGE.reset(token)


# -- colours ------------------------------------------------------------------------------------------------------


def activation_style(name: str) -> tuple[str, str]:
    """(colour, marker) of an activation: a function of its name alone, so it is the same in every figure."""
    if name in _STYLES:
        return _STYLES[name]
    digest = zlib.crc32(name.encode())
    hue, tone, shape = digest % 997 / 997, digest // 997 % 3, digest // 2991
    colour = hsv_to_rgb((hue, (0.85, 0.55, 0.95)[tone], (0.80, 0.65, 0.50)[tone]))
    return to_hex(colour), _MARKERS[shape % len(_MARKERS)]


def shades(colour: str, n: int) -> list[np.ndarray]:
    """n shades of a colour from light to dark, for the trials or the pairs of one activation."""
    base = np.array(to_rgb(colour))
    brightness = base @ (0.2126, 0.7152, 0.0722)
    lightest, darkest = (0.75, 0.25) if brightness < 0.05 else (0.1, -0.6) if brightness > 0.6 else (0.5, -0.5)
    amounts = np.linspace(lightest, darkest, n) if n > 1 else [0.0]
    return [base + abs(a) * ((a > 0) - base) for a in amounts]


# -- text ---------------------------------------------------------------------------------------------------------


def plain(text, width: int = 60) -> str:
    """Text for a figure: at most `width` characters, its middle left out when longer, and a $ that is no formula."""
    text = " ".join(str(text).encode("utf-8", "replace").decode().split())  # a name of a file may not be text
    if len(text) > width:
        text = f"{text[: width // 2]}…{text[-((width - 1) // 2) :]}"
    return text.replace("$", r"\$")


def named(activation: str, width: int = 28) -> str:
    return plain(label(activation), width)


def text_width(texts: Iterable[str], size: float | str = 7, weight: str = "normal") -> float:
    """Inches that the widest of some lines takes."""
    font = FontProperties(size=size, weight=weight)
    widths = [text_to_path.get_text_width_height_descent(t.replace(r"\$", "$"), font, False)[0] for t in texts if t]
    return max(widths, default=0) / 72


def fitting(candidates: Sequence[str], size: float = 9, weight: str = "normal") -> str:
    """The first of some texts that fits on a line across the figure, else the last."""
    fits = (text for text in candidates if text_width([text], size, weight) <= PAGE.get().width - 0.16)
    return next(fits, candidates[-1])


def headline(figure: Figure, text: str, note: str = "", below: str = "") -> None:
    """What the figure is about, or shows, at its top, a line `below` that, and how to read it at its foot.

    The margins of `panels` have room for a line of each and for the note's as written; they grow or shrink with what
    there is. What is placed from the foot comes after this, `figure.foot` inches higher.
    """
    written = note.count("\n") + 1 if note else 0
    if not PAGE.get().captions:
        _grow(figure, -0.28 - 0.12 * bool(below), -0.11 * written - 0.06 * bool(note))
        return
    width = PAGE.get().width - 0.16
    texts = [wrapped(text, width, 9, "bold"), wrapped(below, width, 8), wrapped(note, width, NOTE)]
    titles, lower, notes = (text.count("\n") + 1 if text else 0 for text in texts)
    _grow(figure, 0.16 * (titles - 1) + 0.14 * max(lower - 1, 0), 0.118 * notes - 0.108 * written)
    left, height = 0.08 / PAGE.get().width, figure.get_figheight()
    figure.text(left, 1 - 0.08 / height, texts[0], va="top", fontsize=9, fontweight="bold")
    figure.text(left, 1 - (0.1 + 0.16 * titles) / height, texts[1], va="top", fontsize=8)
    figure.text(left, 0.06 / height, texts[2], va="bottom", fontsize=NOTE, color=GREY)


def _grow(figure: Figure, above: float, below: float) -> None:
    """Make the figure higher by a margin above and below, in inches; the axes keep their size."""
    old, margins = figure.get_figheight(), figure.subplotpars
    new = old + above + below
    figure.set_figheight(new)
    figure.subplots_adjust(bottom=(margins.bottom * old + below) / new, top=1 - ((1 - margins.top) * old + above) / new)
    figure.foot = below


def wrapped(text: str, width: float, size: float, weight: str = "normal") -> str:
    """Text in lines that are at most so many inches wide, where a line has more than one word."""
    lines = []
    for paragraph in text.replace(" %", "\N{NO-BREAK SPACE}%").split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and text_width([longer], size, weight) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}%", " %")


def subject(m: Measured) -> str:
    """What a figure of one activation is about."""
    n, parts = len(m.planned), [named(m.name, 40)]
    parts.append(model_and_corpus(m.results))
    parts.append(f"{n} trial{'s' * (n != 1)}" + (f", {len(m.failed)} failed" if m.failed else ""))
    if m.audit.startswith("failed"):
        parts.append("AUDIT FAILED")
    return "  ·  ".join(parts)


def model_and_corpus(results: dict) -> str:
    dataset = (results.get("dataset") or {}).get("name")
    return plain(results.get("model_name") or "model", 20) + (f" on {plain(dataset, 30)}" if dataset else "")


def positions(m: Measured, record: str) -> int | None:
    """Over how many fixed positions the numbers of a record were taken: 'evaluation' the final ones, 'divergence' those
    along training; None where it isn't recorded."""
    count = number(m.record(record).get("positions"))
    return int(count) if count else None


# -- axes ---------------------------------------------------------------------------------------------------------


def panels(rows, columns, height, left=0.66, right=0.18, bottom=0.42, top=0.55, across=0.75, down=0.62, heights=None):
    """A figure of `rows` × `columns` axes, all margins and gaps in inches, and the axes as an array of that shape. On a
    page where they would get too narrow there are fewer columns, and the panels follow one another in as many rows."""
    across_page = PAGE.get().width
    shares = np.array(heights or [1] * rows) / sum(heights or [1] * rows)
    high = np.repeat(shares * (height - bottom - top - down * (rows - 1)), columns)  # inches of each panel
    shown = columns
    if across_page < WIDEST:  # titles and labels may take two lines
        down, bottom, top = down + 0.14, bottom + 0.14, top + 0.14
        while shown > 1 and (across_page - left - right - across * (shown - 1)) / shown < NARROWEST_AXES:
            shown -= 1
        left = max(left, across) if shown == 1 else left
    lines = [max(high[k : k + shown]) for k in range(0, len(high), shown)]
    height = sum(lines) + bottom + top + down * (len(lines) - 1)
    figure = Figure(figsize=(across_page, height))
    grid = figure.subplots(len(lines), shown, squeeze=False, gridspec_kw={"height_ratios": lines})
    figure.subplots_adjust(
        left=left / across_page,
        right=1 - right / across_page,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=across / ((across_page - left - right - across * (shown - 1)) / shown),
        hspace=down / (sum(lines) / len(lines)),
    )
    for ax in grid.flat[len(high) :]:
        ax.set_axis_off()
    return figure, grid.flat[: len(high)].reshape(rows, columns)


NARROWEST_AXES = 1.4  # inches


def fit(figure: Figure) -> Figure:
    """Titles and labels in two lines where the axes are narrower than they."""
    if PAGE.get().width < WIDEST:
        for ax in figure.axes:
            wide, high = (ax.get_position().size * figure.get_size_inches()).tolist()
            for text, room in ((ax._left_title, wide), (ax.xaxis.label, wide + 0.2), (ax.yaxis.label, high + 0.2)):
                text.set_text(wrapped(text.get_text(), room, text.get_fontsize(), text.get_fontweight()))
    return figure


def message_figure(title: str, message: str) -> Figure:
    """A figure that says why there is nothing to see."""
    figure = Figure(figsize=(PAGE.get().width, 1.6))
    headline(figure, title)
    message = wrapped(message, PAGE.get().width - 0.2, 9)
    figure.text(0.5, 0.45, message, ha="center", va="center", fontsize=9, color=GREY)
    return figure


def say(ax: Axes, message: str) -> None:
    """An empty panel that says why it is empty."""
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", fontsize=SMALL, color=GREY)


def arm_handles(names: Mapping[str, str]) -> list[Line2D]:
    """What a legend shows of {activation: its label}."""
    styles = {name: activation_style(name) for name in names}
    return [Line2D([], [], color=c, marker=m, label=names[name]) for name, (c, m) in styles.items()]


def legend_below(figure: Figure, names: Mapping[str, str], bottom: float, handles: list | None = None) -> None:
    """One legend of {activation: its label} for all panels, `bottom` inches from the foot; `legend_rows` says how high
    it gets."""
    handles, texts = handles or arm_handles(names), names.values()
    columns, foot = math.ceil(len(handles) / legend_rows(texts)), (bottom + figure.foot) / figure.get_figheight()
    figure.legend(handles=handles, loc="lower center", ncols=columns, bbox_to_anchor=(0.5, foot))


def legend_rows(texts: Iterable[str]) -> int:
    texts = list(texts)
    return math.ceil(len(texts) / max(1, min(len(texts), int((PAGE.get().width - 0.2) / (text_width(texts) + 0.35)))))


def numbers(values: Iterable) -> np.ndarray:
    """Those of some values that are finite numbers."""
    return np.array([x for x in map(number, values) if x is not None], dtype=float)


def gaps(values: Iterable) -> np.ndarray:
    """An array in which what is missing or not finite is NaN: a gap in a line."""
    return np.array([math.nan if number(x) is None else float(x) for x in values], dtype=float)


def limits(ax: Axes, values: Iterable, axis: str = "y", margin: float = 0.08) -> None:
    """Limits around some values only (a diverging trial must not squeeze the others flat)."""
    values = numbers(values)
    if len(values):
        low, high = values.min(), values.max()
        pad = margin * (high - low) or 0.01 * abs(high) or 1
        getattr(ax, f"set_{axis}lim")(low - pad, high + pad)


def draw(axes: Iterable[Axes], data, drawn: Iterable[Callable]) -> None:
    """A panel on each of the axes."""
    for ax, panel in zip(axes, drawn, strict=False):
        panel(ax, data)


def bars(center: float, low: float | None, high: float | None) -> list[list[float]] | None:
    """An interval as `errorbar` takes it; None where there is none."""
    return None if low is None else [[center - low], [high - center]]


def row_labels(ax: Axes, labels: Iterable[str], room: float = 0.0) -> None:
    """A row of the panel for each label, from the top down."""
    labels = list(labels)
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.5 + room, -0.5 - room)
    ax.grid(False, axis="y")


def numbered(axis, labels: list) -> None:
    """Labels at 0, 1, 2, …: at most twelve of them."""
    step = math.ceil(len(labels) / 12)
    axis.set_ticks(range(len(labels))[::step], labels[::step])


def ticks(axis, most: int, **options) -> None:
    """At most so many round numbers, as they are: never with an offset beside the axis."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], **options))
    axis.get_major_formatter().set_useOffset(False)
