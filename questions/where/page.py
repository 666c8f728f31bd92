"""`disagreement.html`: a passage of the validation text, each character coloured by how much the trials disagree there.

One file that loads nothing. On hover, focus or tap it tells what each trial expected; without scripts the colours stay.
The HTML report shows the same passage of one activation, with the expectations as tooltips (`fragment`).
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping

import activations

LEVELS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)  # of PD, where one colour ends and the next begins
# (background, text) from agreement to disagreement: one hue, lightness changing throughout, so that the order is seen
# with any colour vision and in grey. Light: ColorBrewer's Blues; dark: its mirror image.
LIGHT = (
    ("#f7fbff", "#111111"), ("#deebf7", "#111111"), ("#c6dbef", "#111111"), ("#9ecae1", "#111111"),
    ("#6baed6", "#111111"), ("#4292c6", "#111111"), ("#2171b5", "#ffffff"), ("#084594", "#ffffff"),
)  # fmt: skip
DARK = (
    ("#171c22", "#f2f2f2"), ("#152b3f", "#f2f2f2"), ("#133a5e", "#f2f2f2"), ("#124a7d", "#f2f2f2"),
    ("#1d5f9c", "#f2f2f2"), ("#5c9fd4", "#0b0b0b"), ("#9cc8ea", "#0b0b0b"), ("#e4f1fc", "#0b0b0b"),
)  # fmt: skip
SIGNS = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"}


def level(pd: float) -> int:
    """The colour of a PD, an index into LIGHT and DARK."""
    return sum(pd >= end for end in LEVELS)


def visible(text: str) -> str:
    """A token's text in which blanks can be seen."""
    return "".join(SIGNS.get(c, c) for c in text) or "∅"


def legend() -> list[str]:
    ends = [f"{end:g}" for end in LEVELS]
    return [f"< {ends[0]}", *(f"{a}–{b}" for a, b in zip(ends, ends[1:], strict=False)), f"≥ {ends[-1]}"]


def differs(place: list) -> bool:
    """Whether the trials' most likely tokens differ."""
    return len({told[0] for told in place}) > 1


def page(passage: Mapping, where: Mapping) -> str:
    """The page as text, from the contents of where_passage.json and where.json."""
    entries = passage["activations"]
    data = {
        "texts": {token: visible(text) for token, text in passage["texts"].items()},
        "tokens": passage["tokens"],
        "levels": LEVELS,
        "activations": [
            {
                "label": activations.label(name),
                "trials": entry["trials"],
                "pd": entry["pd"],
                "expected": entry["expected"],
                "summary": _summary(entry, where["activations"].get(name, {})),
            }
            for name, entry in entries.items()
        ],
    }
    script = _SCRIPT.strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    first = next(iter(entries.values()))
    rows = [
        f'<label><input type="radio" name="activation" value="{i}"{" checked" if i == 0 else ""}>'
        f"<span>{html.escape(activations.label(name))}</span></label>"
        for i, name in enumerate(entries)
    ]
    return _PAGE.format(
        digest=digest,
        colours="\n".join(_colours(LIGHT)),
        dark="\n".join(_colours(DARK)),
        count=len(passage["tokens"]) - 1,
        unit="character" if all(len(text) == 1 for text in passage["texts"].values()) else "token",
        context=passage["context"],
        half=passage["context"] // 2,
        choices="\n".join(rows),
        legend="".join(f'<span class="l{i}">{text}</span>' for i, text in enumerate(legend())),
        summary=html.escape(data["activations"][0]["summary"]),
        text="".join(_characters(passage, first)),
        # in a script element nothing but these could end it or start a comment
        data=json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        script=script,
    )


def _summary(entry: Mapping, numbers: Mapping) -> str:
    here = sum(entry["pd"]) / len(entry["pd"])
    whole = (numbers.get("pd") or {}).get("mean")
    elsewhere = f"; over all {numbers['positions']:,} positions of the evaluation {whole:.3f}" if whole else ""
    return f"{len(entry['trials'])} trials. Mean prediction difference in this passage {here:.3f}{elsewhere}."


def _colours(scale) -> Iterator[str]:
    return (f".l{i} {{ background: {back}; color: {text}; }}" for i, (back, text) in enumerate(scale))


def _characters(passage: Mapping, entry: Mapping) -> Iterator[str]:
    texts, tokens = passage["texts"], passage["tokens"]
    yield f"<span>{_written(texts[str(tokens[0])])}</span>"
    for i, (token, pd, place) in enumerate(zip(tokens[1:], entry["pd"], entry["expected"], strict=True)):
        kind = f"l{level(pd)}" + (" x" if differs(place) else "")
        yield f'<span class="{kind}" data-i="{i}" tabindex="{0 if i == 0 else -1}">{_written(texts[str(token)])}</span>'


def _written(text: str) -> str:
    """A token in the running text: line ends can be seen and touched, and break the line too."""
    return html.escape(text).replace("\r", "").replace("\n", "↵\n") or "∅"


def fragment(passage: Mapping, name: str) -> str:
    """The passage of one activation without script or style sheet, for a page that allows none: what the trials
    expected is each character's tooltip."""
    entry, texts = passage["activations"][name], passage["texts"]
    parts = [f"<span>{_written(texts[str(passage['tokens'][0])])}</span>"]
    for token, pd, place in zip(passage["tokens"][1:], entry["pd"], entry["expected"], strict=True):
        back, front = LIGHT[level(pd)]
        line = ";text-decoration:underline" if differs(place) else ""
        told = "\n".join(
            f"trial {k}: " + ", ".join(f"{visible(texts[str(t)])} {100 * p:.0f} %" for t, p in _likely(one))
            for k, one in zip(entry["trials"], place, strict=True)
        )
        tip = html.escape(f"difference {pd:.3f}\n{told}").replace("\n", "&#10;")
        parts.append(
            f'<span style="background:{back};color:{front}{line}" title="{tip}">{_written(texts[str(token)])}</span>'
        )
    style = "white-space:pre-wrap;overflow-wrap:anywhere;font:15px/1.7 ui-monospace,monospace"
    return f'<div style="{style}">{"".join(parts)}</div>'


def _likely(told: list) -> list[tuple[int, float]]:
    """[token, p, token, p, …, p of the true one] as pairs."""
    return list(zip(told[:-1:2], told[1:-1:2], strict=True))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<title>Where trained models disagree</title>
<style>
:root {{ --paper: #ffffff; --ink: #1c1c1c; --soft: #595959; --line: #cfcfcf; --panel: #f6f6f4; --bar: #2171b5; }}
{colours}
@media (prefers-color-scheme: dark) {{
:root {{ --paper: #101418; --ink: #ececec; --soft: #ababab; --line: #3a424b; --panel: #1a2027; --bar: #5c9fd4; }}
{dark}
}}
* {{ box-sizing: border-box; }}
html {{ scroll-padding: 1rem 0 17rem; }}
body {{ margin: 0 auto; max-width: 78rem; padding: 1rem 1rem 21rem; background: var(--paper); color: var(--ink);
 font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.4rem; line-height: 1.25; margin: .3rem 0 .6rem; }}
header p {{ max-width: 46rem; margin: .4rem 0; }}
summary {{ color: var(--soft); cursor: pointer; }}
.soft {{ color: var(--soft); font-size: .9rem; }}
fieldset {{ border: 0; margin: .8rem 0; padding: 0; display: flex; flex-wrap: wrap; gap: .4rem; }}
legend {{ padding: 0; }}
label span {{ display: inline-block; padding: .35rem .8rem; border: 1px solid var(--line); border-radius: 2rem; }}
label input {{ position: absolute; opacity: 0; }}
label input:checked + span {{ background: var(--ink); color: var(--paper); border-color: var(--ink); }}
label input:focus-visible + span {{ outline: 3px solid var(--bar); outline-offset: 2px; }}
.scale {{ display: flex; flex-wrap: wrap; font-size: .8rem; margin: .2rem 0 1rem; }}
.scale span {{ padding: .15rem .5rem; }}
#text {{ white-space: pre-wrap; overflow-wrap: anywhere; font: 15px/1.75 ui-monospace, "DejaVu Sans Mono", Menlo,
 Consolas, monospace; margin: 0; }}
#text span[data-i] {{ cursor: pointer; padding: .12em 0; }}
#text .x {{ text-decoration: underline; text-underline-offset: .2em; }}
#text .here, #text span:focus {{ outline: 2px solid var(--ink); outline-offset: 0; position: relative; z-index: 1; }}
aside {{ position: fixed; z-index: 2; left: 0; right: 0; bottom: 0; max-height: 20rem; overflow: auto;
 padding: .6rem 1rem .8rem; background: var(--panel); border-top: 1px solid var(--line); }}
aside h2 {{ font-size: 1rem; margin: 0 0 .3rem; display: flex; gap: .5rem; align-items: center; }}
aside h2 b {{ font-family: ui-monospace, monospace; border: 1px solid var(--line); padding: 0 .35rem; }}
aside button {{ font: inherit; min-width: 2.6rem; min-height: 2.2rem; border: 1px solid var(--line);
 border-radius: .4rem; background: var(--paper); color: inherit; }}
aside h2 span {{ flex: 1; }}
table {{ border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }}
td, th {{ padding: .18rem .3rem; text-align: left; font-weight: normal; white-space: nowrap; }}
td {{ width: 27%; }}
td b {{ font-family: ui-monospace, monospace; }}
td i {{ display: block; height: 4px; background: var(--bar); border-radius: 2px; }}
.true b {{ text-decoration: underline; text-decoration-thickness: 2px; }}
@media (min-width: 60rem) {{
html {{ scroll-padding: 1rem 0; }}
body {{ padding-bottom: 2rem; }}
.both {{ display: grid; grid-template-columns: minmax(0, 42rem) 25rem; gap: 2rem; align-items: start; }}
aside {{ position: sticky; top: 1rem; border: 1px solid var(--line); border-radius: .5rem; max-height: none; }}
}}
</style>
</head>
<body>
<header>
<h1>Where trained models disagree</h1>
<p>The first {count} {unit}s of the validation text, which no model saw in training. The darker a {unit} (in dark mode:
the brighter), the more the trials' predictions for it differ: 0 the same, 1 nothing in common. Underlined: their most
likely {unit}s are not the same.</p>
<details><summary>How this was made</summary><p>The trials of an activation differ in nothing but what the study varies,
usually the random seed. Each predicts every {unit} from those before it, {half} to {context} of them (at the very
beginning fewer). The difference is the total-variation distance between two trials' predicted distributions, a mean
over pairs of trials. Where the passage begins was settled before there were predictions.</p></details>
</header>
<fieldset><legend class="soft">Activation</legend>
{choices}
</fieldset>
<p class="soft" id="summary">{summary}</p>
<div class="scale" aria-label="Colours: prediction difference">{legend}</div>
<div class="both">
<div id="text">{text}</div>
<aside aria-live="polite"><div id="told"><p class="soft">Point at a {unit}, tap it, or move with the arrow keys, to
see what each trial expected.</p></div></aside>
</div>
<noscript><p>What each trial expected is shown by a script, which is turned off here.</p></noscript>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""

_SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const text = document.getElementById("text"), told = document.getElementById("told");
const places = [...text.querySelectorAll("[data-i]")];
let chosen = -1, activation = data.activations[0];

function make(tag, content, name) {
  const element = document.createElement(tag);
  if (content !== undefined) element.textContent = content;
  if (name) element.className = name;
  return element;
}

function percent(p) {
  return p > 0 && p < 0.005 ? "< 1 %" : Math.round(100 * p) + " %";
}

function row(trial, expected, truth) {
  const line = make("tr");
  line.append(make("th", "trial " + trial));
  for (let k = 0; k + 1 < expected.length; k += 2) {
    const cell = make("td", undefined, expected[k] === truth ? "true" : ""), bar = make("i");
    bar.style.width = 100 * expected[k + 1] + "%";
    cell.append(make("b", data.texts[expected[k]]), " " + percent(expected[k + 1]), bar);
    line.append(cell);
  }
  line.append(make("td", percent(expected[expected.length - 1])));
  return line;
}

function tell(i) {
  const truth = data.tokens[i + 1], head = make("h2"), table = make("table"), top = make("tr");
  for (const [sign, by, name] of [["\\u2190", -1, "previous"], ["\\u2192", 1, "next"]]) {
    const button = make("button", sign);
    button.setAttribute("aria-label", name);
    button.addEventListener("click", () => choose(i + by, false));
    head.append(button);
  }
  head.append(make("b", data.texts[truth]), make("span", "difference " + activation.pd[i].toFixed(3)));
  const expected = make("th", "expected", "soft");
  expected.colSpan = (activation.expected[i][0].length - 1) / 2;
  top.append(make("th"), expected, make("th", "what came", "soft"));
  table.append(top, ...activation.trials.map((trial, k) => row(trial, activation.expected[i][k], truth)));
  told.replaceChildren(head, table);
  for (const old of text.querySelectorAll(".here")) old.classList.remove("here");
  places[i].classList.add("here");
}

function choose(i, focus) {
  if (i < 0 || i >= places.length) return;
  if (chosen >= 0) places[chosen].tabIndex = -1;
  else places[0].tabIndex = -1;
  chosen = i;
  places[i].tabIndex = 0;
  if (focus) places[i].focus({ preventScroll: true });
  tell(i);
  places[i].scrollIntoView({ block: "nearest" });
}

function paint() {
  places.forEach((place, i) => {
    const level = data.levels.filter(end => activation.pd[i] >= end).length;
    const first = new Set(activation.expected[i].map(told => told[0]));
    place.className = "l" + level + (first.size > 1 ? " x" : "");
  });
  document.getElementById("summary").textContent = activation.summary;
  if (chosen >= 0) tell(chosen);
}

function index(event) {
  const place = event.target.closest("[data-i]");
  return place ? Number(place.dataset.i) : -1;
}

text.addEventListener("pointerover", event => {
  if (event.pointerType !== "touch" && index(event) >= 0) tell(index(event));
});
text.addEventListener("pointerleave", () => { if (chosen >= 0) tell(chosen); });
text.addEventListener("click", event => choose(index(event), false));
text.addEventListener("focusin", event => { if (index(event) >= 0 && index(event) !== chosen) choose(index(event)); });
text.addEventListener("keydown", event => {
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 40, ArrowUp: -40 }[event.key];
  if (by === undefined) return;
  event.preventDefault();
  choose(Math.min(Math.max(Math.max(chosen, 0) + by, 0), places.length - 1), true);
});
for (const input of document.querySelectorAll("input[name=activation]"))
  input.addEventListener("change", () => { activation = data.activations[Number(input.value)]; paint(); });
"""
