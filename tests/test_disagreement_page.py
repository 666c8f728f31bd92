"""The page of a passage: what is in it, and what a browser makes of it."""

import colorsys
import html.parser
import re

import numpy as np
import pytest

from browser import CHROMIUM, Browser
from questions.where import page as disagreement_page

TEXT = 'To be,\nor "not"? <b>&amp;</script><!-- \u00e9\u4e16 ' * 12
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def passage(names=("relu", "gelu"), text=TEXT, trials=(1, 2, 3)):
    """A passage with planted predictions: of relu trial 2 expects another token at every third place."""
    vocabulary = sorted(set(text))
    tokens = [vocabulary.index(c) for c in text]
    entries = {}
    for name in names:
        places, pds = [], []
        for i, token in enumerate(tokens[1:]):
            other = (token + 1) % len(vocabulary)
            apart = name == "relu" and i % 3 == 0
            agreeing = [token, 0.75, other, 0.25, 0.75]
            places.append([[other, 0.9, token, 0.004, 0.004] if apart and k == 2 else agreeing for k in trials])
            pds.append(round(0.6 * (i % 7) / 6, 4) if name == "relu" else 0.01)
        entries[name] = {"trials": list(trials), "pd": pds, "expected": places}
    texts = {str(i): c for i, c in enumerate(vocabulary)}
    return {"schema": "where/1", "tokens": tokens, "context": 64, "texts": texts, "activations": entries}


NUMBERS = {"activations": {"relu": {"pd": {"mean": 0.123}, "positions": 32768}}}


class Reader(html.parser.HTMLParser):
    """The text inside #text, and every tag."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.inside, self.text, self.depth = [], False, "", 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if dict(attributes).get("id") == "text":
            self.inside = True
        self.depth += self.inside and tag in ("div", "span")

    def handle_endtag(self, tag):
        if self.inside and tag in ("div", "span"):
            self.depth -= 1
            self.inside = self.depth > 0

    def handle_data(self, data):
        self.text += data if self.inside else ""


def test_the_page_holds_the_text_and_nothing_to_load():
    page = disagreement_page.page(passage(), NUMBERS)
    reader = Reader(page)
    assert reader.text == TEXT.replace("\n", "↵\n")
    assert not [tag for tag, _ in reader.tags if tag in ("img", "link", "iframe", "b")]
    assert not [a for _, a in reader.tags if {"src", "href"} & set(a)]
    assert page.count("<script") == 2  # hostile text starts none and ends none
    assert "over all 32,768 positions of the evaluation 0.123" in page
    policy = next(a["content"] for tag, a in reader.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_a_level_for_every_difference():
    levels = [disagreement_page.level(pd) for pd in np.linspace(0, 1, 1001)]
    assert levels == sorted(levels)
    assert set(levels) == set(range(8)) == set(range(len(disagreement_page.legend())))
    assert len(disagreement_page.LIGHT) == len(disagreement_page.DARK) == 8


def luminance(colour):
    """Relative luminance of WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("scale", [disagreement_page.LIGHT, disagreement_page.DARK])
def test_colours_are_in_order_and_text_is_legible_on_them(scale):
    backs = [luminance(back) for back, _ in scale]
    assert backs == sorted(backs, reverse=scale is disagreement_page.LIGHT)
    for back, text in scale:
        low, high = sorted((luminance(back), luminance(text)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (back, text)
    for back, _ in scale:  # one hue: blue, so the order doesn't rest on telling hues apart
        hue, _, saturation = colorsys.rgb_to_hls(*(int(back[i : i + 2], 16) / 255 for i in (1, 3, 5)))
        assert saturation < 0.1 or 0.53 < hue < 0.64, back


def test_the_fragment_needs_no_script():
    text = disagreement_page.fragment(passage(), "relu")
    assert "<script" not in text
    assert "<b>" not in text
    assert re.search(r'title="difference 0\.000&#10;trial 1: o 75 %, p? ?', text)
    assert text.count("<span") == len(TEXT)


def test_tokens_of_several_characters_and_blanks():
    p = passage(text="ab" * 20)
    p["texts"] = {"0": " the", "1": "\t\n"}
    page = disagreement_page.page(p, {"activations": {}})
    assert "The first 39 tokens" in page
    assert '"1":"⇥↵"' in page


@pytest.fixture(scope="module")
def browser():
    with Browser() as page:
        yield page


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "disagreement.html"
    path.write_text(disagreement_page.page(passage(), NUMBERS), encoding="utf-8")
    return path


TOLD = "document.getElementById('told').innerText"


@needs_browser
def test_hovering_tells_what_each_trial_expected(browser, written):
    browser.open(written)
    assert "Point at a character" in browser.run(TOLD)
    browser.hover('[data-i="3"]')  # "e": trial 2 expected another one
    told = browser.run(TOLD)
    assert "difference 0.300" in told
    rows = browser.run("[...document.querySelectorAll('#told tr')].map(r => [...r.children].map(c => c.innerText))")
    vocabulary = sorted(set(TEXT))
    other = vocabulary[vocabulary.index("e") + 1]
    assert [cells[0] for cells in rows[1:]] == ["trial 1", "trial 2", "trial 3"]
    assert rows[1][1:] == ["e 75 %", f"{other} 25 %", "75 %"]
    assert rows[2][1:] == [f"{other} 90 %", "e < 1 %", "< 1 %"]
    assert browser.run("document.querySelectorAll('.here').length") == 1
    assert browser.complaints() == []


@needs_browser
def test_keys_taps_and_the_choice_of_activation(browser, written):
    browser.open(written, width=390, height=844, touch=True)
    browser.tap('[data-i="6"]')
    assert "difference 0.600" in browser.run(TOLD)
    browser.tap("aside button:last-of-type")
    assert "difference 0.000" in browser.run(TOLD)
    browser.open(written)
    browser.click('[data-i="3"]')
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert "difference 0.500" in browser.run(TOLD)
    assert browser.run("document.activeElement.dataset.i") == "5"
    assert browser.run("document.querySelector('[data-i=\"5\"]').className").startswith("l7")
    browser.click("label:nth-of-type(2)")
    assert "difference 0.010" in browser.run(TOLD)
    assert browser.run("document.querySelector('[data-i=\"5\"]').className").startswith("l0")
    assert browser.run("document.getElementById('summary').innerText").startswith("3 trials. Mean prediction")
    assert browser.complaints() == []


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_legible_at_every_width_and_in_both_modes(browser, written, width, dark):
    browser.open(written, width=width, height=844, dark=dark, touch=width < 600)
    browser.run("choose(7, false)")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("parseFloat(getComputedStyle(document.getElementById('text')).fontSize)") >= 14
    scale = disagreement_page.DARK if dark else disagreement_page.LIGHT
    colour = browser.run("getComputedStyle(document.querySelector('#text .l7')).backgroundColor")
    assert tuple(map(int, re.findall(r"\d+", colour))) == tuple(int(scale[7][0][i : i + 2], 16) for i in (1, 3, 5))
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(16, 20, 24)" if dark else "rgb(255, 255, 255)")
    # what is told covers nothing of the text: beside it, or below where the page can be scrolled free of it
    told, text = (browser.run(f"(r => [r.left, r.top, r.right, r.bottom])(document.querySelector('{s}')"
                              ".getBoundingClientRect())") for s in ("aside", "#text"))  # fmt: skip
    if width == 1280:
        assert told[0] >= text[2]
    else:
        browser.run("window.scrollTo(0, document.body.scrollHeight)")
        bottom = browser.run("document.getElementById('text').getBoundingClientRect().bottom")
        assert bottom <= browser.run("document.querySelector('aside').getBoundingClientRect().top")
