"""What a paper needs of a study: tables and methods in LaTeX, their references in BibTeX, figures as PDF and SVG.

    python analyze_results.py --paper

writes `results/paper/`: `summary.tex`, `significance.tex`, `pairs.tex` and `effects.tex` (booktabs; \\input them),
`methods.tex`, `references.bib` and the comparison figures. Each table fits the 345 pt of an article's page, and so
wider ones; where there are two columns it spans both. Numbers and verdicts are those of the report; the methods
(templates/methods.tex) say what the results files record.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import activations
from analysis.markdown import DASH, MINUS, effect_size, fixed, listed, p_value, plus_minus, signed, span
from analysis.phrases import in_words, margin, together, words
from analysis.results import mean, std
from analysis.sections import interval
from analysis.study import ALPHA, Study, Tested
from analysis.template import plain, rendered
from measures.table import BY_KEY
from storage import number
from training.batches import ORDER, ORDER_AND_LAST, SAMPLE_AND_ORDER, order_varies

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", MINUS: "$-$",
    DASH: "--", "±": r"$\pm$", "β": r"$\beta$", "α": r"$\alpha$", "·": r"$\cdot$", "’": "'",
}  # fmt: skip


def texts(study: Study) -> dict[str, str]:
    """{file: its text}."""
    made = {
        "summary.tex": summary_table(study),
        "significance.tex": significance_table(study),
        "pairs.tex": pairs_table(study),
        "effects.tex": effects_table(study),
        "methods.tex": methods_text(study),
    }
    made = {name: text for name, text in made.items() if text}
    return made | {"references.bib": references(made["methods.tex"])}


def tex(text: str) -> str:
    """A text as LaTeX shows it; what pdflatex has no letter for is a question mark."""
    shown = (_TEX.get(c, c if ord(c) < 128 or c.isalpha() and ord(c) < 256 else "?") for c in " ".join(text.split()))
    return "".join(shown)


def label(name: str) -> str:
    return tex(activations.label(name))


# -- tables ------------------------------------------------------------------------------------------------------------

LATEX = "% needs \\usepackage{booktabs}; figures need \\usepackage{graphicx}\n"


def _table(columns: dict, rows: Iterable[list[str]], caption: str, name: str) -> str:
    """A booktabs table through pandas' Styler, as wide as the page; `columns`: {name: alignment}; cells are LaTeX."""
    import pandas as pd

    rows = list(rows)
    if not rows:
        return ""
    text = (
        pd.DataFrame(rows, columns=list(columns))
        .style.hide(axis="index")
        .to_latex(
            hrules=True,
            column_format="".join(columns.values()),
            position="tbp",
            position_float="centering",
            caption=caption,
            label=f"tab:{name}",
            environment="table*",
        )
    )
    return LATEX + text.replace("\\centering\n", "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n")


def summary_table(study: Study) -> str:
    shown = {"val_loss": ("Validation loss", 4), "relative_pd": ("PD", 4), "top1_mismatch_pct": ("Mismatch (\\%)", 2)}
    columns = {study.question.arm.capitalize(): "l"}
    for key, (title, _) in shown.items():
        columns |= {title: "r"} | ({"95\\,\\% interval": "r"} if key == "relative_pd" else {})
    rows = []
    for m in (study.measured[name] for name in study.by_pd):
        row = [label(m.name)]
        for key, (_, digits) in shown.items():
            values = m.values(BY_KEY[key])
            row += [
                tex(
                    fixed(mean(values), digits)
                    if key == "relative_pd"
                    else plus_minus(mean(values), std(values), digits)
                )
            ]
            row += [tex(interval(m))] if key == "relative_pd" else []
        rows.append([*row, tex(fixed(mean(m.values(BY_KEY["val_accuracy"])), 2)), tex(fixed(study.time[m.name], 1))])
    columns |= {"Accuracy (\\%)": "r", "Time (s)": "r"}
    caption = (
        f"Mean (and standard deviation) over {_counts(study)} trials, of mismatch over pairs of trials; lowest mean "
        "relative prediction difference (PD) first, with its interval over trials (jackknife). Losses in nats per "
        "token; median training time of a trial."
    )
    return _table(columns, rows, caption, "summary")


def _counts(study: Study) -> str:
    return span({len(m.trials) for m in study.measured.values()}, 0)


def _change(tested: Tested, quantity: str) -> str:
    """The difference with its interval: of PD in percent, of losses in thousandths of a nat."""
    test = tested.tests.get(quantity)
    if test is None or test.effect is None:
        return "--"
    scaled = [
        1000 * x if quantity == "Loss" else 100 * (x - 1) for x in (test.effect, test.low, test.high) if x is not None
    ]
    first, *limits = map(signed, scaled)
    return tex(first + (f" [{', '.join(limits)}]" if limits else ""))


def _p(study: Study, tested: Tested, quantity: str) -> str:
    """The adjusted p, bold where a difference was shown; = where the two are practically equal."""
    if not tested.tested(quantity):
        return "--"
    kind, p = study.verdict(tested, quantity).kind, tex(p_value(tested.p_holm[quantity]))
    return f"\\textbf{{{p}}}" if kind in ("lower", "higher") else f"{p} $=$" if kind == "equal" else p


CHANGES = {
    "PD": {"PD (\\%) [95\\,\\%]": "r", "$p$": "l"},
    "Matched_PD": {"PD at equal loss (\\%)": "r", "$p$ (equal)": "l"},
    "Loss": {"Loss ($10^{-3}$) [95\\,\\%]": "r", "$p$ (loss)": "l"},
}
READING = (
    "$p$ is adjusted for the comparisons and their order, bold: lower or higher ({alpha}); $=$: practically equal, "
    "within {pd} of PD, or {loss}; intervals are for one comparison alone"
)


def _reading(study: Study) -> str:
    return READING.format(alpha=ALPHA, pd=tex(margin(study, "PD")), loss=tex(margin(study, "Loss")))


def _compared(study: Study, rows: dict[str, Tested], quantities: tuple[str, ...], caption: str, name: str) -> str:
    columns = {study.question.arm.capitalize(): "l"}
    for quantity in quantities:
        columns |= CHANGES[quantity]
    cells = (
        [n, *(f(t, q) for q in quantities for f in (_change, lambda t, q: _p(study, t, q)))] for n, t in rows.items()
    )
    return _table(columns, cells, caption, name)


def planned(study: Study) -> dict[str, Tested]:
    """The planned comparisons by their arm, and the contrast."""
    rows: dict[str, Tested] = {label(t.a): t for t in study.primary}
    if study.question.contrast and study.contrast.tests:
        rows["smooth" if study.question.about_smoothness else "together"] = study.contrast
    return rows


def significance_table(study: Study) -> str:
    who = f"; last: {tex(together(study).replace('**', ''))}, of PD alone" if study.question.contrast else ""
    caption = f"Difference from {label(study.question.baseline)}, over trials. {_reading(study)}{who}."
    return _compared(study, planned(study), ("PD", "Loss"), caption, "significance")


def pairs_table(study: Study) -> str:
    rows = {f"{label(t.a)} -- {label(t.b)}": t for t in study.tests if t not in study.primary}
    caption = f"The other pairs, A -- B: from B to A. {_reading(study)}."
    return _compared(study, rows, ("PD", "Loss"), caption, "pairs").replace("footnotesize", "scriptsize")


def effects_table(study: Study) -> str:
    """PD at equal loss and Hedges' g of the planned comparisons."""
    matched = bool(study.frontiers)
    columns = {study.question.arm.capitalize(): "l", **(CHANGES["Matched_PD"] if matched else {})}
    columns |= {"$g$ (PD)": "r", "$g$ (loss)": "r"}
    rows = []
    for name, t in planned(study).items():
        sizes = [tex(effect_size(t.tests.get(quantity)).partition("= ")[2] or DASH) for quantity in ("PD", "Loss")]
        equal = [_change(t, "Matched_PD"), _p(study, t, "Matched_PD")] if matched else []
        rows.append([name, *equal, *sizes])
    equal = "Difference in PD at equal loss of annealed models, and " if matched else ""
    caption = f"{equal}Hedges' $g$ with its 95\\,\\% interval, against {label(study.question.baseline)}."
    return _table(columns, rows, caption, "effects")


# -- methods -----------------------------------------------------------------------------------------------------------

VARIED = {
    "init": "their initial weights",
    SAMPLE_AND_ORDER: "the windows of text they see",
    ORDER: "the order in which they see the windows of text",
    ORDER_AND_LAST: "the order in which they see the windows of text and those of the last, unfinished epoch",
    "dropout": "their dropout masks",
    "bit": "the last bit of one initial weight",
    "none": "nothing that is set",
}
CITED = {"relu": "nair2010", "gelu": "hendrycks2016", "swish": "ramachandran2017"}


def methods_text(study: Study) -> str:
    """Models, measurement and statistics, each a paragraph, from what the results record."""
    tests = [test for t in study.tests for test in t.tests.values() if test.p is not None]
    positions = {number(m.record("evaluation").get("positions")) for m in study.measured.values()}
    same = positions.pop() if len(positions) == 1 else None
    contrast = listed(map(label, study.question.contrast))
    text = rendered(
        "methods.tex",
        **_trained(study),
        positions=f"the same {same:,.0f} fixed positions" if same else "fixed positions",
        tested=bool(tests),
        welch={t.paired for t in study.tests if t.tests} != {True},
        moderated=any(test.prior_df for test in tests),
        planned=bool(study.primary),
        baseline=label(study.question.baseline),
        contrast="the smooth ones" if study.question.about_smoothness else contrast,
        margin_pd=tex(margin(study, "PD")),
        margin_loss=tex(margin(study, "Loss")),
        alpha=ALPHA,
        paired={t.paired for t in study.tests} == {True},
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _cited(name: str) -> str:
    smooth_lu = activations.label(name).startswith("SmeLU")
    key = "shamir2020smooth" if smooth_lu else CITED.get(name)
    return label(name) + (f"~\\citep{{{key}}}" if key else "")


def _trained(study: Study) -> dict:
    """What the template says of models and training."""
    m = next((m for m in study.measured.values() if m.record("config")), None)
    if m is None:
        return {"models": "", "trunk": False}
    config, corpus = m.record("config"), m.record("dataset")

    tokens, size = number(corpus.get("train_tokens")), number(m.results.get("parameters"))
    shape = in_words(config, "n_layer", "n_embd", "block_size")
    steps = [*in_words(config, "max_iters"), f"of {config['batch_size']} windows"] if "batch_size" in config else []
    steps += in_words(config, "sampling") if config.get("sampling") == "shuffle" else []
    steps += [f"in {config['precision']}"] if "precision" in config else []
    recipe = in_words(
        config,
        *("learning_rate", "warmup_iters", "min_lr", "weight_decay", "beta1", "beta2", "dropout", "grad_clip"),
    )
    model, kind = str(m.results["model_name"]), str(corpus.get("tokenizer"))
    lengths = listed(f"{point.ends:,}" for point in next(iter(study.frontiers.values()), []))
    share, teachers = number(config.get("strength")) or 0, config.get("teacher") or []
    vary = [source for source in config.get("vary") or () if source != "dropout" or config.get("dropout")]
    vary = [order_varies(config, tokens) if source == "order" else source for source in vary]
    return {
        "models": words("models").get(model) or f"{tex(model)} models",
        "shape": tex(", ".join([*shape, *([f"{size:,.0f} parameters"] if size else [])])) or "as recorded",
        "tokens": f"{tokens:,.0f} {words('tokens').get(kind, 'tokens')}" if tokens else "",
        "corpus": tex(os.path.basename(str(corpus.get("name") or "the corpus").rstrip("/"))),
        "arms": listed(map(_cited, study.measured)),
        "noun": "activation function" if study.question.arm == "activation" else study.question.arm,
        "steps": tex(" ".join(steps)),
        "recipe": tex(", ".join(recipe)),
        "trunk": config.get("schedule") == "trunk",
        "lengths": lengths,
        "distil": config.get("remedy") == "distil" and bool(share),
        "warm": config.get("remedy") == "warm" and bool(share),
        "share": tex(f"{100 * share:g} %"),
        "teachers": "an earlier model" if len(teachers) == 1 else f"{len(teachers)} earlier models",
        "differ": tex(listed(VARIED.get(source, str(source)) for source in vary)),
        "trials": _counts(study),
    }


# -- references --------------------------------------------------------------------------------------------------------


def references(text: str) -> str:
    """BibTeX of what a text cites, out of templates/references.bib."""
    keys = {key for keys in re.findall(r"\\citep?\{([^}]*)\}", text) for key in keys.split(",")}
    entries = re.split(r"\n\n(?=@)", plain("references.bib").strip())
    return "\n\n".join(entry for entry in entries if re.match(r"@\w+\{(\w+)", entry)[1] in keys) + "\n"
