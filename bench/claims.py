"""What a whole report claims where nothing differs: studies are simulated, and their reports read sentence by sentence.

`calibration.py --tables claims` prints the rates. Every section is read, those of products too. A claim is any sentence
of the Executive Summary or the Conclusions with a word of direction, unless it is of one of the few forms that deny,
define or leave open: a sentence that is not known here counts; and anywhere else what stands for a verdict. Only the
text is read, not what it was made from.
"""

from __future__ import annotations

import itertools
import math
import re
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np

import storage
from analysis.products import identity
from analyze_results import generate_final_report
from questions.clock import tell as clock
from questions.remedies import tell as remedies
from questions.scores import decide
from questions.studies import tell as studies

DIRECTION = re.compile(
    r"\b(lower|higher|less|more|better|worse|fewer|smaller|larger|lowest|highest|best|worst|improv\w*|lose\w*|losing|"
    r"loses|gain\w*|prefer\w*|avoid\w*|take|keep|use another|price|costs?|yes|opposite|support\w*|refut\w*|confirm\w*|"
    r"reduc\w*|shows too|other way round|differences? (was|were) shown|beats?|outperform\w*|wins?)\b",
    re.I,
)
HARMLESS = [  # forms, each of which is taken out before a sentence is searched for a direction
    re.compile(form)
    for form in (
        r"^\*\*Question\.\*\* .*\n?",  # asked before any number; a line of its own
        r"Do models with .*? differ less from one training to the next than models with .*?\?",
        r"the truth lies between [\d.]+ % (less|more) and [\d.]+ % (less|more)(?=\.)",
        r"the difference is smaller than [\d.]+ %",
        r"\(lower predicts better\)",
        r"To know more",
        r"[\d.]+ (seconds?|minutes|hours|min \d+ s) more here",
        r"takes more of them|three trials or more of",
        r"No \w+ was shown to improve on .+? without losing elsewhere",
        # means, named by the user's own words; what was shown of them stands behind, and counts
        r"^- \*\*(Best overall|Most reproducible|Most accurate) \w+\*\*: .*?(?=[;,] shown |\.$)",
        r"^- \*\*Speed first\.\*\* .*",  # times are described, not tested
        r"\d+ more cautions?: see section 5",
    )
]


VERDICTS = re.compile(  # outside these two sections: a table's cell, or a sentence, where something was shown
    r"^\*{0,2}(lower|higher)\*{0,2}$|\\\*$|\*\*(supported|refuted)\*\*|supported by the test|by the tests lower|"
    r"^Confirmed at equal|other way round at equal|^Shown on the final|a difference was shown|"
    r"twins part (slower|faster)|\*\*(Lower|Higher) PD than"
)
READ = set(  # every heading of a report and of the pages of products: none else may stand there
    "Executive Summary|Terms|How this was measured|Detailed Results Table|Appendix: further measures|"
    "Rankings by Use Case|Statistical Significance|Which claims share an error rate|"
    "Against ReLU: the planned comparisons|The other pairs|All pairs|What these trials can and cannot show|"
    "Appendix: the tests|Key Findings|Smooth versus non-smooth|Best and worst|Hypothesis validation|"
    "At equal validation loss|Is this recipe chaotic?|Accuracy against reproducibility|Integrity and training|"
    "Conclusions|By context|Trade-offs, and when to use which|Future Work|"
    "What buys how much|Where the trials differ|Is a difference an error?|Looks while training|"
    "Is this recipe chaotic?|How fast they part|From when on they stay together|"
    "Every study and activation|How to read this|"
    "Over all studies: final models|Over all studies: equal validation loss".split("|")
)


def claims_of(text: str) -> list[tuple[str, str]]:
    """(kind, sentence) of every directional claim of a report, or of a product's page.

    In the Executive Summary's lines and the Conclusions any sentence with a direction is one, unless its form is known
    not to be; elsewhere what stands for a verdict: a cell of a table, a p that is marked, a sentence that says shown.
    Kinds: 'PD', 'contrast' (the smooth activations together), 'PD at equal loss', 'loss', 'other'.
    ValueError: a section that isn't in `READ`: whoever adds one that words verdicts must let them be counted here.
    """
    found, heading, caption, header, in_full = [], ["", ""], "", [], False
    for line in text.splitlines():
        if mark := re.match(r"(#{1,3}) (?:\d+\. )?(.*)", line):
            level = len(mark[1])
            heading = [mark[2], ""] if level < 3 else [heading[0], mark[2]]
            if level > 1 and _default_heading(mark[2]) not in READ:
                raise ValueError(f"{mark[2]}: a section that bench/claims.py does not know: enter it there")
            caption = mark[2]
            if level == 2:
                in_full = line in ("## 1. Executive Summary", "## 6. Conclusions")
            in_full = in_full and mark[2] != "Terms"
        elif in_full:
            found += _directional(line)
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not header:
                header = cells
            found += [
                (_kind_of_cell(heading, caption, name, cells[0]), f"{caption} {' | '.join(cells)}")
                for name, cell in zip(header, cells, strict=False)
                if VERDICTS.search(cell)
            ]
        elif line.strip():
            caption, header = line, []
            for sentence in re.split(r"(?<=[.?!])\s+", re.sub(r"^- ", "", line)):
                if VERDICTS.search(sentence):
                    found += [(kind, sentence) for kind in _kinds(f"{heading[1]} {line}", sentence)]
    return found


def _default_heading(heading: str) -> str:
    """The heading of the default question."""
    heading = re.sub("^Against .*:", "Against ReLU:", heading)
    return re.sub("^.* together against .*", "Smooth versus non-smooth", heading)


def _kind_of_cell(heading: list[str], caption: str, column: str, first: str) -> str:
    if "equal" in f"{caption} {first} {column}".lower():
        return "PD at equal loss"
    if "loss" in column.lower() or caption.startswith("Validation loss"):
        return "loss"
    return "contrast" if "together" in f"{caption} {first}" else "PD"


def _directional(line: str) -> list[tuple[str, str]]:
    rest = "" if line.startswith(("![", "### ")) else line
    for form in HARMLESS:
        rest = form.sub("", rest)
    return [
        (kind, sentence.strip())
        for sentence in re.split(r"(?<=[.?!])\*{0,2}\s+|; ", rest)
        if DIRECTION.search(sentence)
        for kind in _kinds(line, sentence)
    ]


def _kinds(line: str, sentence: str) -> list[str]:
    if re.search(r"at equal", sentence, re.I):
        return ["PD at equal loss"]
    if line.startswith("**Answer") or "taken together" in line or "a smooth activation" in sentence:
        return ["contrast"]
    if "**Validation loss**" in line:
        return ["loss"]
    told = {"PD": re.search(r"PD|reproducib", sentence), "loss": "loss" in sentence}
    return [kind for kind, there in told.items() if there] or ["other"]


# -- studies in which nothing differs ---------------------------------------------------------------------------------

NAMES = ("relu", "smelu_05", "smelu_1", "gelu", "swish")
PD_SPREADS = (0.9, 0.8, 1.3, 1.1, 1.0)  # times 2 % of ln PD's pseudo-values at three trials: twelve trials of each
LOSS_SPREADS = (0.0053, 0.0052, 0.0022, 0.0066, 0.0022)  # nats per token: the default study
PAIRING = 0.1
STEPS = list(range(0, 1301, 130))
LOSS_ALONG = (4.3, 2.565, 2.472, 2.265, 2.135, 2.045, 1.967, 1.904, 1.854, 1.824, 1.817)
BRANCHES = ((0.06, 1.1), (0.02, 1.04), (0.0, 1.0))  # of a trunk: loss above the final one, and PD times the final one
WANDER = 0.004  # nats per token: of a trial's loss from one evaluation to the next


def null_studies(rng, replications, n, pd_chunks):
    """Yields {activation: results}, one study after another, with n trials each and no difference between them but
    chance. `pd_chunks`: that of calibration.py."""
    kinds = (pd_chunks(rng, replications, PD_SPREADS, n, pairing=PAIRING) for _ in range(2))
    for final_chunk, other_chunk in zip(*kinds, strict=True):
        for final, other in zip(final_chunk, other_chunk, strict=True):
            yield {name: _results(rng, name, i, final[i], other[i]) for i, name in enumerate(NAMES)}


def _results(rng, name, index, final, other):
    n, pairs = len(final), [(i, j) for j in range(len(final)) for i in range(j)]
    early = 1 + 1.3 * (0.7 * (final - 1) + math.sqrt(1 - 0.7**2) * (other - 1))  # PD at equal loss varies more
    own = rng.standard_normal(n)
    rows = final.sum(axis=1) / (n - 1)
    far = rows.mean() - 1 + 2 * (n - 1) / (n - 2) * (rows - rows.mean())  # each trial's pseudo-value: independent ones
    far /= PD_SPREADS[index] * 0.02 * math.sqrt((1 + 4 / 3 / (n - 2)) / (1 + 4 / 3))
    losses = 1.84 + LOSS_SPREADS[index] * (-0.3 * far + math.sqrt(1 - 0.3**2) * own)
    curves = np.array(LOSS_ALONG) + (losses - 1.84)[:, None] + WANDER * rng.standard_normal((n, len(STEPS)))
    trials = [
        {
            "trial_id": k + 1,
            "seed": 1337 + k,
            "status": "done",
            "train_loss": float(losses[k] - 0.04),
            "val_loss": float(losses[k]),
            "train_accuracy": 46.0,
            "val_accuracy": float(45 + 0.2 * rng.standard_normal()),
            "training_time": float(39 + rng.standard_normal()),
            "train_loss_history": curves[k].tolist(),
            "val_loss_history": curves[k].tolist(),
            "steps": STEPS,
            "best_val_loss": float(curves[k].min()),
            "overfit": False,
            "weights_sha256": rng.bytes(32).hex(),
        }
        for k in range(n)
    ]
    return {
        "activation": name,
        "model_name": "gpt",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "config": {"vary": ["init", "order", "dropout"], "dropout": 0.0},
        "fingerprint": "f" * 64,
        "dataset": {"name": "shakespeare", "sha256": "d" * 64},
        "evaluation": {"positions": 32768, "sha256": "e" * 64},
        "trials": trials,
        "reproducibility_metrics": [
            {
                "model_pair": f"{i + 1}_vs_{j + 1}",
                "relative_pd": float(0.133 * final[i, j]),
                "prediction_differences": int(4300 * final[i, j]),
                "total_predictions": 32768,
            }
            for i, j in pairs
        ],
        "frontier": [
            {
                "leaves": 0,
                "ends": 400 + 300 * b,
                "trials": [
                    {
                        "trial_id": k + 1,
                        "val_loss": float(losses[k] + above + (above > 0) * WANDER * rng.standard_normal()),
                    }
                    for k in range(n)
                ],
                "pairs": [
                    {
                        "model_pair": f"{i + 1}_vs_{j + 1}",
                        "prediction_differences": 4300,
                        "total_predictions": 32768,
                        "relative_pd": float(0.133 * (factor * early[i, j] if above else final[i, j])),
                    }
                    for i, j in pairs
                ],
            }
            for b, (above, factor) in enumerate(BRANCHES)
        ],
        "parameters": 804_608,
        "audit": {"passed": True, "checks": []},
    }


# -- products in which nothing differs ---------------------------------------------------------------------------------

PRODUCTS = {  # folders of questions/: how what they say is counted
    "clock": "simulated here, its page; whether a recipe is chaotic is of each by itself, by its interval",
    "remedies": "simulated here, its section of the report",
    "studies": "simulated here, its page",
    "where": "of each activation by itself, over windows of text: no comparison",
    "until_decided": "calibration.py --tables looks; the report is that of the study",
    "sources": "described with intervals",
    "scores": "simulated here, its rulings",
    "extrapolate": "described with intervals, of each activation by itself",
    "foreign": "its report is that of the study",
}


def null_remedies(rng, study, pd_chunks) -> dict:
    """remedies.json of three arms for each activation that do nothing: as many trials of their own, of other seeds."""
    arms = {name: [] for name in study}
    n = len(next(iter(study.values()))["trials"])
    for arm, pds in zip(("distil", "warm", "min_lr 0.0005"), next(pd_chunks(rng, 3, PD_SPREADS, n)), strict=True):
        for name, pd in zip(NAMES, pds, strict=True):
            if name in arms:
                losses = 1.84 + 0.004 * rng.standard_normal(n)
                arms[name].append(_arm(arm, 0.133 * pd, losses))
    for name, found in arms.items():
        pd = np.zeros((n, n))
        for pair in study[name]["reproducibility_metrics"]:
            i, j = (int(k) - 1 for k in pair["model_pair"].split("_vs_"))
            pd[i, j] = pd[j, i] = pair["relative_pd"]
        found.insert(0, _arm("none", pd, np.array([t["val_loss"] for t in study[name]["trials"]])))
    entries = {name: {"identity": identity(study[name]), "arms": found} for name, found in arms.items()}
    return {"schema": remedies.SCHEMA, "activations": entries}


def _arm(name: str, pd: np.ndarray, losses: np.ndarray) -> dict:
    units = [[k + 1] for k in range(len(losses))]
    fixed = {"study": "main", "size": 1, "paired": True, "time": 39.0, "parameters": 804_608}
    return {"arm": name, "units": units, "pd": pd.tolist(), "losses": losses.tolist()} | fixed


def null_clocks(rng, names, n) -> dict[str, clock.Clock]:
    """Twins whose doubling times are those of their seed, and of chance: spreads as bench/RESULTS.md has them."""
    steps = [*range(12), *range(12, 200, 4)]
    seeds, found = 0.1 * rng.standard_normal(n), {}
    for name in names:
        trials = {}
        for k in range(n):
            forks = [_twin(fork, 5 * math.exp(seeds[k] + 0.2 * rng.standard_normal()), steps) for fork in (0, 65, 195)]
            trials[str(k + 1)] = {"status": "done", "forks": forks, "unmoved": []}
        config = {"precision": "float32", "device": "cpu", "max_iters": 650}
        found[name] = clock.Clock(name, {"forks": [0, 65, 195], "trials": trials, "config": config, "positions": 512})
    return found


def _twin(fork: int, doubling: float, steps: list[int]) -> dict:
    distances = np.minimum(1e-6 * 2 ** (np.array(steps) / doubling), 0.3).tolist()
    moved = {"unit": "float32", "parameter": "h.0.mlp.c_proj.weight"}
    measured = {"steps": steps, "prediction_steps": steps, "weights": distances, "predictions": distances}
    return {"fork": fork, "moved": moved, "barrier": 0.1} | measured


QUESTIONS = (  # arms, baseline and contrast; None: the default
    (NAMES, None, None),
    (("relu", "gelu"), None, None),
    (NAMES, "gelu", None),
    (NAMES, "gelu", ("smelu_05", "swish")),
    (("gelu", "swish"), "swish", None),
    (("gelu",), "gelu", None),
)


def claim_rates(rng, replications, pd_chunks):
    """Rows of a table: the share of reports (with remedies), and of products' pages, with a claim, in percent. `with
    all` counts the claims of a report and of the clock beside it."""
    with tempfile.TemporaryDirectory() as folder, mock.patch("analysis.report.to_html"):  # without figures and HTML
        for (names, baseline, contrast), n in itertools.product(QUESTIONS, (3, 5, 8)):
            claims: dict[str, list[set]] = {"report": [], "clock": [], "with all": []}
            for every in null_studies(rng, replications, n, pd_chunks):
                study = {name: every[name] for name in names}
                storage.write_json(
                    Path(folder) / "results" / remedies.REMEDIES_FILE, null_remedies(rng, study, pd_chunks)
                )
                text = generate_final_report(study, None, Path(folder) / "plots", baseline, contrast)
                if "### What buys how much" not in text:
                    raise SystemExit("the remedies are not in the report")
                claims["report"].append({kind for kind, _ in claims_of(text)})
                page = clock.page(null_clocks(rng, names, n))
                claims["clock"].append({"clock" for _ in claims_of(page)})
                claims["with all"].append(claims["report"][-1] | claims["clock"][-1])
            asked = {"baseline": baseline or "default", "asked together": " ".join(contrast or ())}
            rows = {of: {"of": of, "arms": len(names), "n": n, **asked} | _rates(found) for of, found in claims.items()}
            yield from rows.values() if baseline is None else [rows["report"]]
    for n in (3, 5, 8):
        yield {"of": "scores", "arms": 5, "n": n} | _rates(list(null_scores(rng, replications, n)))
    for k, n in ((2, 3), (4, 3), (4, 5)):
        yield {"of": f"{k} studies", "arms": 5, "n": n} | _rates(
            list(null_pages(rng, max(3, replications // 4), k, n, pd_chunks))
        )


def null_scores(rng, replications, n):
    """Whether any ruling over five arms of n seeds shows a difference where there is none."""
    for _ in range(replications):
        seeds = rng.standard_normal(n)
        table = {name: dict(enumerate((seeds + rng.standard_normal(n)).tolist())) for name in NAMES}
        yield {"other" for ruling in decide(table, baseline="relu").rulings if ruling.kind in ("lower", "higher")}


def null_pages(rng, replications, k, n, pd_chunks):
    """The kinds of claims of ALL_STUDIES.md over k studies."""
    made = null_studies(rng, k * replications, n, pd_chunks)
    for _ in range(replications):
        together = {}
        for i in range(k):
            results = next(made)
            for name in results:
                results[name]["dataset"] = {"name": f"corpus {i}", "sha256": f"{i}" * 64}
            together[f"s{i}"] = studies.Member(results, f"s{i}")
        yield {kind for kind, _ in claims_of(studies.studies_text(together).partition("## Every study")[0])}


def _rates(claims: list[set]) -> dict:
    count = len(claims)
    columns = {"any": lambda kinds: bool(kinds), "about PD": lambda kinds: bool(kinds - {"loss", "clock"})}
    columns |= {kind: lambda kinds, kind=kind: kind in kinds for kind in KINDS}
    shares = {name: sum(map(holds, claims)) / count for name, holds in columns.items()}
    rates = {name: round(100 * share, 1) for name, share in shares.items()}
    return {"pages": count} | rates | {"±": round(200 * math.sqrt(shares["any"] * (1 - shares["any"]) / count), 1)}


KINDS = ("PD", "contrast", "PD at equal loss", "loss", "other")
