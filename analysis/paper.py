"""What a paper needs of a study: tables and methods in LaTeX, their references in BibTeX, figures as PDF and SVG.

    python analyze_results.py --paper

writes `results/paper/`: `summary.tex` and `significance.tex` (booktabs; \\input them), `methods.tex`, `references.bib`
and the comparison figures. Numbers and verdicts are those of the report; the methods say what the results files record.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import activations
from analysis.markdown import DASH, MINUS, effect, listed, p_value, plus_minus
from analysis.results import mean, std
from analysis.sections import NAMES, interval, margin
from analysis.study import ALPHA, Study
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
    methods = methods_text(study)
    return {
        "summary.tex": summary_table(study),
        "significance.tex": significance_table(study),
        "methods.tex": methods,
        "references.bib": references(methods),
    }


def tex(text: str) -> str:
    """A text as LaTeX shows it; what pdflatex has no letter for is a question mark."""
    shown = (_TEX.get(c, c if ord(c) < 128 or c.isalpha() and ord(c) < 256 else "?") for c in " ".join(text.split()))
    return "".join(shown)


def label(name: str) -> str:
    return tex(activations.label(name))


# -- tables ------------------------------------------------------------------------------------------------------------


def _table(columns: dict, rows: Iterable[list[str]], caption: str, name: str, rule_after: int | None = None) -> str:
    """A booktabs table through pandas' Styler; `columns`: {name, or (group, name): alignment}; cells are LaTeX."""
    import pandas as pd

    keys = list(columns)
    header = pd.MultiIndex.from_tuples(keys) if isinstance(keys[0], tuple) else keys
    style = pd.DataFrame(list(rows), columns=header).style.hide(axis="index")
    text = style.to_latex(
        hrules=True,
        column_format="".join(columns.values()),
        multicol_align="c",
        position="htbp",
        position_float="centering",
        caption=caption,
        label=f"tab:{name}",
    )
    # eight columns with intervals fit on a page of one column, 17 cm wide
    text = text.replace("\\centering\n", "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n")
    if rule_after is None:
        return text
    lines = text.splitlines()
    at = lines.index(r"\midrule") + rule_after
    return "\n".join([*lines[: at + 1], r"\midrule", *lines[at + 1 :]]) + "\n"


def summary_table(study: Study) -> str:
    shown = {"val_loss": ("Validation loss", 4), "val_accuracy": ("Accuracy (\\%)", 2), "relative_pd": ("PD", 4)}
    shown |= {"top1_mismatch_pct": ("Top-1 mismatch (\\%)", 2), "training_time": ("Time (s)", 1)}
    columns = {"Activation": "l", "$n$": "r"}
    for key, (title, _) in shown.items():
        columns |= {title: "r"} | ({"PD, 95\\,\\% interval": "r"} if key == "relative_pd" else {})
    rows = []
    for name in study.by_pd:
        m = study.measured[name]
        row = [label(name), str(len(m.trials))]
        for key, (_, digits) in shown.items():
            values = m.values(BY_KEY[key])
            row += [tex(plus_minus(mean(values), std(values), digits))]
            row += [tex(interval(m))] if key == "relative_pd" else []
        rows.append(row)
    caption = (
        "Mean and standard deviation over trials (of PD and mismatch: over pairs of trials), lowest mean relative "
        "prediction difference (PD) first; losses in nats per token, training time per trial. The interval of the mean "
        "PD is over trials (jackknife)."
    )
    return _table(columns, rows, caption, "summary")


def significance_table(study: Study) -> str:
    quantities = ("PD", "Loss")
    columns = {("", "Comparison"): "l"}
    for quantity, what in zip(quantities, ("Change", "Difference"), strict=True):
        group = tex(NAMES[quantity])
        columns |= {(group, f"{what} [95\\,\\%]"): "r", (group, "$p$"): "r", (group, "Verdict"): "l"}

    def row(name, tested, kind):
        cells = [name]
        for quantity in quantities:
            p = tested.p_holm[quantity] if tested.tested(quantity) else None
            cells += [tex(effect(tested.tests.get(quantity))), tex(p_value(p))]
            cells.append(tex(kind(quantity) or DASH))
        return cells

    def verdict(t):
        return lambda quantity: study.verdict(t, quantity).kind

    rows = [row(f"{label(t.a)} -- {label(t.b)}", t, verdict(t)) for t in study.primary]
    if study.contrast.tests:
        name = "smooth" if study.question.about_smoothness else "together"
        rows.append(row(f"{name} -- {label(study.question.baseline)}", study.contrast, study.headline_kind))
    rule = len(rows) or None
    rows += [row(f"{label(t.a)} -- {label(t.b)}", t, verdict(t)) for t in study.tests if t not in study.primary]
    caption = (
        f"Tests over trials. $p$ is adjusted for the comparisons and their order, {tex(str(ALPHA))} decides between "
        "lower or higher and the rest; intervals are for one comparison alone; equal: within "
        f"{tex(margin(study, 'PD'))} of PD, or {tex(margin(study, 'Loss'))}. A -- B: from B to A; smooth: the "
        "smooth activations together, of PD alone."
    )
    return _table(columns, rows, caption, "significance", rule if rule and rule < len(rows) else None)


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
    paragraphs = {
        "Models and training": [*_trained(study), *_trials(study)],
        "Measurement": _measured(study),
        "Statistics": _tested(study),
    }
    return "".join(f"\\paragraph{{{title}.}} {' '.join(told)}\n\n" for title, told in paragraphs.items() if told)


def _cited(name: str) -> str:
    smooth_lu = activations.label(name).startswith("SmeLU")
    key = "shamir2020smooth" if smooth_lu else CITED.get(name)
    return label(name) + (f"~\\cite{{{key}}}" if key else "")


def _trained(study: Study) -> list[str]:
    m = next((m for m in study.measured.values() if m.record("config")), None)
    if m is None:
        return []
    config, corpus = m.record("config"), m.record("dataset")

    def told(words: str, *keys: str) -> list[str]:
        values = [config.get(key) for key in keys]
        return [] if None in values else [tex(words.format(*(f"{v:g}" if number(v) else str(v) for v in values)))]

    shape = told("{} layers", "n_layer") + told("width {}", "n_embd") + told("a context of {} tokens", "block_size")
    size = number(m.results.get("parameters"))
    shape += [f"{size:,.0f} parameters"] if size else []
    recipe = [
        *told("peak learning rate {}", "learning_rate"),
        *told("linear warm-up over {} steps", "warmup_iters"),
        *told("final learning rate {}", "min_lr"),
        *told("weight decay {}", "weight_decay"),
        *[f"$\\beta = ({b[0]})$" for b in [told("{}, {}", "beta1", "beta2")] if b],
        *told("dropout {}", "dropout"),
        *told("gradients clipped to norm {}", "grad_clip"),
    ]
    tokens = number(corpus.get("train_tokens"))
    text = f" of {tokens:,.0f} {tex(str(corpus.get('tokenizer') or ''))} tokens" if tokens else ""
    sentences = [
        f"We trained {tex(str(m.results['model_name']))} language models ({', '.join(shape)}) on the training split"
        f"{text} of {tex(os.path.basename(str(corpus.get('name') or 'the corpus').rstrip('/')))}, with "
        f"{listed(map(_cited, study.measured))} as activation function."
    ]
    steps = told("{} steps of {} windows", "max_iters", "batch_size")
    if steps and config.get("sampling") == "shuffle":
        steps += ["epochs without replacement"]
    if steps:
        how = " in ".join([*steps, *told("{}", "precision")])
        sentences.append(f"Each model was trained for {how} with AdamW~\\cite{{loshchilov2019}} ({', '.join(recipe)}).")
    if config.get("schedule") == "trunk":
        lengths = listed(f"{point.ends:,}" for point in next(iter(study.frontiers.values()), []))
        lengths = f" of {lengths} steps" if lengths else ""
        sentences.append(
            "The learning rate is constant after the warm-up; from several steps branches cool it linearly to its "
            f"final value~\\cite{{hagele2024}}, so that each trial has models{lengths}, the last of them final. PD at "
            "equal loss is read off between them, ln PD linearly in the mean loss of a pair."
        )
    share = number(config.get("strength"))
    if config.get("remedy") == "distil" and share:
        sentences.append(
            f"The targets are {tex(f'{100 * share:g} %')} the predictions of {len(config['teacher'])} earlier model"
            f"{'s' * (len(config['teacher']) > 1)} and for the rest the true tokens."
        )
    if config.get("remedy") == "warm" and share:
        sentences.append(f"Initial weights are {tex(f'{100 * share:g} %')} those of one earlier model.")
    return sentences


def _trials(study: Study) -> list[str]:
    counts = sorted({len(m.trials) for m in study.measured.values()})
    how_many = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    m = next((m for m in study.measured.values() if m.record("config")), None)
    config, tokens = (m.record("config"), number(m.record("dataset").get("train_tokens"))) if m else ({}, None)
    vary = [source for source in config.get("vary") or () if source != "dropout" or config.get("dropout")]
    vary = [order_varies(config, tokens) if source == "order" else source for source in vary]
    differ = f", which differ in {tex(listed(VARIED.get(source, str(source)) for source in vary))}" if vary else ""
    shared = {t.paired for t in study.tests}
    paired = "; trial $k$ of every activation has the same seed" if shared == {True} else ""
    return [f"There are {how_many} trials of each activation{differ}{paired}."]


def _measured(study: Study) -> list[str]:
    positions = {number(m.record("evaluation").get("positions")) for m in study.measured.values()}
    known = positions.pop() if len(positions) == 1 else None
    at = f"the same {known:,.0f} fixed positions" if known else "fixed positions"
    return [
        f"All models predict {at} of the validation split. Two trials $i, j$ are compared by their relative prediction "
        "difference~\\cite{shamir2020anti}, $\\mathrm{PD}_{ij} = \\frac{1}{N} \\sum_x \\sum_v |p_i(v|x) - p_j(v|x)| / "
        "\\sum_v (p_i(v|x) + p_j(v|x))$, the mean total-variation distance between their predicted distributions. The "
        "validation loss is in nats per token, at the same positions.",
    ]


def _contrast(study: Study) -> str:
    if not study.question.contrast:
        return ""
    who = "the smooth ones" if study.question.about_smoothness else listed(map(label, study.question.contrast))
    return f"{who} together, then "


def _tested(study: Study) -> list[str]:
    tests = [test for t in study.tests for test in t.tests.values() if test.p is not None]
    if not tests:
        return ["With fewer than three trials of two activations no test was made."]
    paired = {t.paired for t in study.tests if t.tests} == {True}
    test = "paired $t$ tests by seed~\\cite{student1908}" if paired else "Welch's $t$ tests~\\cite{welch1947}"
    sentences = [
        "PDs that share a trial are dependent~\\cite{hoeffding1948}, so the trial is the unit: the mean PD over pairs "
        "is split into jackknife pseudo-values of trials~\\cite{tukey1958,arvesen1969} on the log scale, which are "
        f"compared by {test}.",
    ]
    if any(test.prior_df for test in tests):
        sentences.append(
            "Each comparison's variance is moderated by the mean variance of the planned comparisons, with two prior "
            "degrees of freedom~\\cite{smyth2004}."
        )
    together = study.question.contrast
    if study.primary:
        sentences.append(
            f"Each {study.question.arm} is compared with {label(study.question.baseline)} (Holm's "
            f"correction~\\cite{{holm1979}}), then {_contrast(study)}the same at equal validation loss, then the other "
            "pairs; a family counts only as far as those before it are significant (serial "
            f"gatekeeping~\\cite{{maurer1995}}){', or for those together half the level' * bool(together)}. Losses "
            "have an order of their own."
        )
    return [
        *sentences,
        f"Two activations are practically equal where two one-sided tests~\\cite{{schuirmann1987}}, Holm-corrected, "
        f"rule out a difference of {tex(margin(study, 'PD'))} of PD or {tex(margin(study, 'Loss'))}. The level is "
        f"{tex(str(ALPHA))}. Effect sizes are Hedges' $g$~\\cite{{hedges1981}}. The inference is over trials, given "
        "the positions.",
    ]


# -- references --------------------------------------------------------------------------------------------------------


def references(text: str) -> str:
    """BibTeX of what a text cites."""
    keys = sorted({key for keys in re.findall(r"\\cite\{([^}]*)\}", text) for key in keys.split(",")})
    return "\n".join(_entry(key, *_REFERENCES[key]) for key in keys)


def _entry(key: str, kind: str, fields: dict[str, str]) -> str:
    told = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@{kind}{{{key},\n{told}}}\n"


def _article(author, title, journal, volume, pages, year, number=None):
    fields = {"author": author, "title": title, "journal": journal, "volume": volume, "pages": pages, "year": year}
    return "article", fields | ({"number": number} if number else {})


def _preprint(author, title, arxiv, year):
    return "misc", {"author": author, "title": title, "eprint": arxiv, "archiveprefix": "arXiv", "year": year}


_ANNALS = "The Annals of Mathematical Statistics"
_REFERENCES = {
    "arvesen1969": _article(
        "Arvesen, James N.", "Jackknifing {U}-statistics", _ANNALS, "40", "2076--2100", "1969", "6"
    ),
    "hedges1981": _article(
        "Hedges, Larry V.", "Distribution theory for {Glass}'s estimator of effect size and related estimators",
        "Journal of Educational Statistics", "6", "107--128", "1981", "2",
    ),
    "hendrycks2016": _preprint(
        "Hendrycks, Dan and Gimpel, Kevin", "Gaussian error linear units ({GELUs})", "1606.08415", "2016"
    ),
    "hoeffding1948": _article(
        "Hoeffding, Wassily", "A class of statistics with asymptotically normal distribution", _ANNALS, "19",
        "293--325", "1948", "3",
    ),
    "holm1979": _article(
        "Holm, Sture", "A simple sequentially rejective multiple test procedure", "Scandinavian Journal of Statistics",
        "6", "65--70", "1979", "2",
    ),
    "hagele2024": _preprint(
        "H{\\\"a}gele, Alexander and Bakouch, Elie and Kosson, Atli and Ben Allal, Loubna and Von Werra, Leandro and "
        "Jaggi, Martin",
        "Scaling laws and compute-optimal training beyond fixed training durations",
        "2405.18392",
        "2024",
    ),
    "loshchilov2019": _preprint(
        "Loshchilov, Ilya and Hutter, Frank", "Decoupled weight decay regularization", "1711.05101", "2019"
    ),
    "maurer1995": ("incollection", {
        "author": "Maurer, Willi and Hothorn, Ludwig A. and Lehmacher, Walter",
        "title": "Multiple comparisons in drug clinical trials and preclinical assays: a-priori ordered hypotheses",
        "booktitle": "Biometrie in der chemisch-pharmazeutischen {Industrie}", "volume": "6", "pages": "3--18",
        "publisher": "Fischer", "address": "Stuttgart", "year": "1995",
    }),
    "nair2010": ("inproceedings", {
        "author": "Nair, Vinod and Hinton, Geoffrey E.",
        "title": "Rectified linear units improve restricted {Boltzmann} machines",
        "booktitle": "International Conference on Machine Learning", "pages": "807--814", "year": "2010",
    }),
    "ramachandran2017": _preprint(
        "Ramachandran, Prajit and Zoph, Barret and Le, Quoc V.", "Searching for activation functions", "1710.05941",
        "2017",
    ),
    "schuirmann1987": _article(
        "Schuirmann, Donald J.", "A comparison of the two one-sided tests procedure and the power approach for "
        "assessing the equivalence of average bioavailability", "Journal of Pharmacokinetics and Biopharmaceutics",
        "15", "657--680", "1987", "6",
    ),
    "shamir2020anti": _preprint(
        "Shamir, Gil I. and Coviello, Lorenzo", "Anti-distillation: improving reproducibility of deep networks",
        "2010.09923", "2020",
    ),
    "shamir2020smooth": _preprint(
        "Shamir, Gil I. and Lin, Dong and Coviello, Lorenzo", "Smooth activations and reproducibility in deep networks",
        "2010.09931", "2020",
    ),
    "smyth2004": _article(
        "Smyth, Gordon K.", "Linear models and empirical {Bayes} methods for assessing differential expression in "
        "microarray experiments", "Statistical Applications in Genetics and Molecular Biology", "3", "Article 3",
        "2004", "1",
    ),
    "student1908": _article("{Student}", "The probable error of a mean", "Biometrika", "6", "1--25", "1908", "1"),
    "tukey1958": _article(
        "Tukey, John W.", "Bias and confidence in not quite large samples (abstract)", _ANNALS, "29", "614", "1958"
    ),
    "welch1947": _article(
        "Welch, B. L.", "The generalization of `{Student}'s' problem when several different population variances are "
        "involved", "Biometrika", "34", "28--35", "1947", "1--2",
    ),
}  # fmt: skip
