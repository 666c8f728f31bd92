"""What a whole report claims where nothing differs: studies are simulated, and their reports read sentence by sentence.

`calibration.py --tables claims` prints the rates. A claim is any sentence of the Executive Summary or the Conclusions
with a word of direction, unless it is of one of the few forms that deny, define or leave open: a sentence that is not
known here counts. Only the text is read, not what it was made from.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from analyze_results import generate_final_report

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
        r"Do models with a smooth activation differ less .*\?",
        r"the truth lies between [\d.]+ % (less|more) and [\d.]+ % (less|more) \(95 % interval\)",
        r"the difference is smaller than [\d.]+ %",
        r"\(lower predicts better\)",
        r"To know more",
        r"[\d.]+ (minutes|hours) more here|about a minute more here",
        r"takes more of them",
        r"No activation was shown to improve on \S+ in PD or in validation loss",
        r"no lower PD than that of \S+ was shown",
        r"^- \*\*Speed first\.\*\* .*",  # times are described, not tested
        r"\d+ more cautions?: see section 5",
    )
]


def claims_of(text: str) -> list[tuple[str, str]]:
    """(kind, sentence) of every directional claim in the Executive Summary's lines and the Conclusions of a report.

    Kinds: 'PD', 'contrast' (the smooth activations together), 'PD at equal loss', 'loss', 'other'.
    """
    summary = text.split("## 1. Executive Summary\n", 1)[1].split("\n### ", 1)[0].split("\n## ", 1)[0]
    conclusions = text.split("## 6. Conclusions\n", 1)[1].split("\n## ", 1)[0] if "## 6. Conclusions" in text else ""
    found = []
    for line in [*summary.splitlines(), *conclusions.splitlines()]:
        rest = "" if line.startswith(("![", "### ")) else line
        for form in HARMLESS:
            rest = form.sub("", rest)
        for sentence in re.split(r"(?<=[.?!])\*{0,2}\s+|; ", rest):
            if DIRECTION.search(sentence):
                found += [(kind, sentence.strip()) for kind in _kinds(line, sentence)]
    return found


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
PD_ALONG = (0.93, 1.85, 1.80, 1.83, 1.67, 1.64, 1.66, 1.45, 1.21, 1.06, 1.0)  # times the final one
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
    along = np.array(PD_ALONG)
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
        "divergence": {
            "positions": 4096,
            "steps": STEPS,
            "val_loss": {str(k + 1): curves[k].tolist() for k in range(n)},
            "pairs": {f"{i + 1}_vs_{j + 1}": {"relative_pd": (0.133 * along * early[i, j]).tolist()} for i, j in pairs},
        },
        "parameters": 804_608,
        "audit": {"passed": True, "checks": []},
    }


def claim_rates(rng, replications, pd_chunks):
    """Rows of a table: the share of reports with a claim, in percent."""
    with tempfile.TemporaryDirectory() as folder:  # without figures
        for n in (3, 5):
            kinds, sentences = Counter(), Counter()
            for study in null_studies(rng, replications, n, pd_chunks):
                claims = claims_of(generate_final_report(study, None, Path(folder) / "plots"))
                seen = {kind for kind, _ in claims}
                kinds.update(seen | {"any"} if seen else ())
                kinds.update({"about PD"} if seen - {"loss"} else ())
                sentences.update(re.sub(r"[\d.]+", "#", sentence) for _, sentence in claims)
            row = {"n": n, "reports": replications}
            columns = ("any", "about PD", "PD", "contrast", "PD at equal loss", "loss", "other")
            rates = {kind: kinds[kind] / replications for kind in columns}
            row |= {kind: round(100 * rate, 1) for kind, rate in rates.items()}
            yield row | {"±": round(200 * math.sqrt(rates["any"] * (1 - rates["any"]) / replications), 1)}
