"""`disagreement.html`: a passage of the validation text, each character coloured by how much the trials disagree there.

One file that loads nothing. On hover, focus or tap it tells what each trial expected; without scripts the colours stay.
The HTML report shows the same passage of one activation, with the expectations as tooltips (`fragment`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping

from markupsafe import Markup, escape

import activations
from analysis.template import rendered

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
    return len({expected[0] for expected in place}) > 1


def page(passage: Mapping, where: Mapping, **words: str) -> str:
    """The page as text, from the contents of where_passage.json and where.json. `words`: what the template calls things
    where they are not trials of activations (`arm`, `source`, `made`)."""
    entries, texts = passage["activations"], passage["texts"]
    summaries = {name: _summary(entry, where["activations"].get(name, {})) for name, entry in entries.items()}
    data = {
        "texts": {token: visible(text) for token, text in texts.items()},
        "tokens": passage["tokens"],
        "levels": LEVELS,
        "activations": [
            {**entry, "trials": list(map(_named, entry["trials"])), "summary": summaries[name]}
            for name, entry in entries.items()
        ],
    }
    script = rendered("disagreement.js")
    return rendered(
        "disagreement.html",
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        script=Markup(script),
        # in a script element nothing but these could end it or start a comment
        data=Markup(json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")),
        light=LIGHT,
        dark=DARK,
        count=len(passage["tokens"]) - 1,
        unit="character" if all(len(text) == 1 for text in texts.values()) else "token",
        context=passage["context"],
        labels=list(entries) if words else [activations.label(name) for name in entries],
        legend=legend(),
        summary=next(iter(summaries.values())),
        first=_written(texts[str(passage["tokens"][0])]),
        characters=list(_characters(passage, next(iter(entries.values())))),
        **words,
    )


def _named(trial: int | str) -> str:
    """A trial by its number, somebody's model by its name."""
    return trial if isinstance(trial, str) else f"trial {trial}"


def _summary(entry: Mapping, numbers: Mapping) -> str:
    here = sum(entry["pd"]) / len(entry["pd"])
    whole = (numbers.get("pd") or {}).get("mean")
    elsewhere = f"; over all {numbers['positions']:,} positions of the evaluation {whole:.3f}" if whole else ""
    kind = "models" if isinstance(entry["trials"][0], str) else "trials"
    return f"{len(entry['trials'])} {kind}. Mean prediction difference in this passage {here:.3f}{elsewhere}."


def _characters(passage: Mapping, entry: Mapping) -> Iterator[dict]:
    """Of each token but the first: its text, the level of its PD, whether the trials' most likely tokens differ, and
    what each expected."""
    texts = passage["texts"]
    for token, pd, place in zip(passage["tokens"][1:], entry["pd"], entry["expected"], strict=True):
        text = _written(texts[str(token)])
        yield {"text": text, "level": level(pd), "differs": differs(place), "pd": pd, "at": place}


def _written(text: str) -> str:
    """A token in the running text: line ends can be seen and touched, and break the line too."""
    return text.replace("\r", "").replace("\n", "↵\n") or "∅"


def fragment(passage: Mapping, name: str) -> str:
    """The passage of one activation without script or style sheet, for a page that allows none: what the trials
    expected is each character's tooltip."""
    entry, texts = passage["activations"][name], passage["texts"]

    def tip(c: dict) -> Markup:
        expected = "\n".join(
            f"{_named(k)}: " + ", ".join(f"{visible(texts[str(t)])} {100 * p:.0f} %" for t, p in _likely(one))
            for k, one in zip(entry["trials"], c["at"], strict=True)
        )
        return Markup(escape(f"difference {c['pd']:.3f}\n{expected}").replace("\n", Markup("&#10;")))

    characters = [{**c, "tip": tip(c), "colours": LIGHT[c["level"]]} for c in _characters(passage, entry)]
    return rendered("passage.html", first=_written(texts[str(passage["tokens"][0])]), characters=characters)


def _likely(expected: list) -> list[tuple[int, float]]:
    """[token, p, token, p, …, p of the true one] as pairs."""
    return list(zip(expected[:-1:2], expected[1:-1:2], strict=True))
