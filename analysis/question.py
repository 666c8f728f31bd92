"""What is asked of a study: which arms, against which baseline, which of them together, and how all are called.

    Question.of(all_results)                      as recorded in the results, else the default
    Question.of(all_results, baseline="gelu")     another one of the same results
    ask("results", baseline="gelu")               the same, kept beside the results: questions.json

An arm is what has several trainings: an activation, or a group of someone's models. Each arm is compared with the
baseline: ReLU where it was trained, else the first arm. The planned contrast takes arms together: the smooth ones where
the baseline is ReLU and there are two or more, else none. A question changes no training. No torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import activations
import storage
from activations import STUDY
from config import UserError, option

REFERENCE = "relu"  # the baseline where nothing else was asked for
FILE = "questions.json"


@dataclass(frozen=True)
class Question:
    """`arms` in the order of the study, `baseline` among them; `contrast`: the arms taken together, none or some.

    `earlier`: the questions asked of the same results before. `arm`, `arms_noun`, `training`: the words for an arm and
    for one of its trainings.
    """

    arms: tuple[str, ...]
    baseline: str
    contrast: tuple[str, ...] = ()
    earlier: tuple[Question, ...] = field(default=(), compare=False)
    arm: str = "activation"
    training: str = "training"

    @classmethod
    def of(
        cls, all_results: Mapping[str, dict], baseline: str | None = None, contrast: Iterable[str] | None = None
    ) -> Question:
        """The question asked of these results: what is named here, else what they record, else the default.

        Raises:
            UserError: the baseline or an arm of the contrast is not among the results, or one is both.
        """
        arms = tuple(study_order(all_results))
        asked = next((r["questions"] for r in all_results.values() if _sound(r.get("questions"))), [])
        if baseline is None and contrast is None:
            baseline, contrast = _usable(asked[-1] if asked else _recorded(all_results), arms)
        nouns = {}
        if any("comparison" in r for r in all_results.values()):
            nouns = {"arm": "group", "training": "model"}
        now = cls._checked(arms, baseline, contrast, **nouns)
        earlier = (cls._checked(arms, *_usable(q, arms)) for q in asked)
        return cls(**{**vars(now), "earlier": tuple(q for q in dict.fromkeys(earlier) if not q.same(now))})

    @classmethod
    def _checked(cls, arms, baseline, contrast, **nouns) -> Question:
        named = [*([] if baseline is None else [baseline]), *(contrast or ())]
        if missing := [name for name in named if name not in arms]:
            key = "baseline" if missing[0] == baseline else "contrast"
            raise UserError(f"{option(key, missing[0])}: there are no results of it; must be of {', '.join(arms)}")
        baseline = default_baseline(arms) if baseline is None else baseline
        if contrast is None:
            contrast = [a for a in arms if a != baseline and smooth(a)] if baseline == REFERENCE else []
            contrast = contrast if len(contrast) > 1 else []
        if baseline in contrast:
            raise UserError(f"{option('contrast', baseline)}: it is the baseline; name arms that are compared with it")
        together = tuple(a for a in arms if a in contrast)
        return cls(arms, baseline, together if len(arms) > 2 else (), **nouns)

    def same(self, other: Question) -> bool:
        """Whether both ask for the same comparisons."""
        return (self.baseline, self.contrast) == (other.baseline, other.contrast)

    @property
    def others(self) -> tuple[str, ...]:
        """The arms that are compared with the baseline."""
        return tuple(a for a in self.arms if a != self.baseline)

    @property
    def arms_noun(self) -> str:
        return self.arm + "s"

    @property
    def about_smoothness(self) -> bool:
        """Whether it is the default one: smooth activations against ReLU."""
        return self.baseline == REFERENCE and bool(self.contrast) and all(map(smooth, self.contrast))

    @property
    def title(self) -> str:
        if self.arm == "activation":
            return "Activation functions and the reproducibility of trained language models"
        return "How far the predictions of models differ, within groups and between them"


def default_baseline(arms: Iterable[str]) -> str:
    """ReLU where it is among them, else the first."""
    arms = list(arms)
    return REFERENCE if REFERENCE in arms else arms[0]


def smooth(name: str) -> bool | None:
    """Whether an activation is differentiable everywhere; None where the registry doesn't know."""
    try:
        return activations.get_info(name).smooth
    except UserError:
        return None


def study_order(names: Iterable[str]) -> list[str]:
    """The study's activations first, in its order, then the others by name."""
    names = list(names)
    return [name for name in STUDY if name in names] + sorted(name for name in names if name not in STUDY)


def _usable(asked: dict, arms: Iterable[str]) -> tuple:
    """Baseline and contrast that were asked for, where they are still there; an empty contrast was asked for too."""
    baseline, contrast = asked.get("baseline"), asked.get("contrast")
    baseline = baseline if isinstance(baseline, str) and baseline in arms else None
    others = [a for a in arms if a != (baseline or default_baseline(arms))]
    usable = isinstance(contrast, list) and all(name in others for name in contrast)
    return baseline, contrast if usable else None


def _sound(asked) -> bool:
    """Whether this is a list of questions, as questions.json holds it."""
    return isinstance(asked, list) and bool(asked) and all(map(_is_question, asked))


def _is_question(q) -> bool:
    return isinstance(q, dict) and isinstance(q.get("baseline"), str) and isinstance(q.get("contrast"), list)


def _recorded(all_results: Mapping[str, dict]) -> dict:
    """Baseline and contrast in the settings of the newest file that names any. Where ReLU was trained, and the newest
    file names none, the default holds."""
    newest_first = sorted(all_results.values(), key=lambda r: str(r.get("timestamp")), reverse=True)
    settings = [c if isinstance(c := r.get("config"), dict) else {} for r in newest_first]
    said = [{key: c[key] for key in ("baseline", "contrast") if c.get(key)} for c in settings]
    if REFERENCE in all_results and not said[0]:
        return {}
    return next(filter(None, said), {})


# -- beside the results -----------------------------------------------------------------------------------------------


def asked_of(results_dir: str | os.PathLike) -> list[dict]:
    """The questions asked of the results in a folder, the last one the current one; [] where only the default was.

    Raises:
        storage.StorageError: the file can't be read, or is none of ours.
    """
    path = Path(results_dir) / FILE
    if not path.exists():
        return []
    asked = storage.read_json(path)
    if not _sound(asked):
        raise storage.StorageError(f"{path}: not a list of questions; restore it, or delete it to ask the default one")
    return asked


def ask(results_dir: str | os.PathLike, all_results: Mapping[str, dict], baseline=None, contrast=None) -> Question:
    """Ask this of the results in a folder from now on; the questions before it are kept, and counted in the report.

    Raises: what Question.of raises.
    """
    folder = Path(results_dir)
    asked = asked_of(folder)
    if not asked and (folder / "FINAL_REPORT.md").exists():
        asked = [_entry(Question.of(all_results))]
    entry = _entry(question := Question.of(all_results, baseline, contrast))
    if not asked or asked[-1] != entry:
        storage.write_json(folder / FILE, [*(q for q in asked if q != entry), entry])
    return question


def _entry(question: Question) -> dict:
    return {"baseline": question.baseline, "contrast": list(question.contrast)}
