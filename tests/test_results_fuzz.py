"""Results files that nobody foresaw: whatever results.schema.json's keys hold, the analysis ends with tables and a
report, or with one line."""

import copy
import itertools
import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import storage
from analysis import report, tables
from analysis.products import Folder
from analysis.results import load_all_results
from analysis.study import Study
from config import UserError
from conftest import cases
from plot_utils import plot_comparisons
from questions.studies import tell as studies
from synthetic import minimal_results, synthetic_results
from tools.checklist import check_study

SCHEMA = json.loads(Path(storage.__file__).with_name("results.schema.json").read_text(encoding="utf-8"))
ODD = [
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e-320, 1e-17, 1e15, 1e99, 1e100, 1e101, 1e308, -1e99, 2**63, 10**400,
    float("inf"), float("nan"), "", "804k", "0.5", "NaN", "a\nb", "\ud800", "|*<b>", "$x^2$", "\x00", "é" * 300, [],
    [[]], [None], [1, "x"], [0.0], {}, {"a": None}, {"a": {"b": [1e308]}}, "2026-01-02", "1_vs_2", "1_vs_1", "2_vs_9",
]  # fmt: skip


def places(value, where=()):
    """Every path into a JSON value, the containers' too."""
    yield where
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items:
        yield from places(inside, (*where, key))


def shortened(results):
    """The same with curves of four points: fuzzing needs the kinds of values, not the number of them."""
    if isinstance(results, dict):
        return {key: shortened(value) for key, value in results.items()}
    if isinstance(results, list) and results and not isinstance(results[0], dict | str):
        return results[-4:]
    return [shortened(x) for x in results] if isinstance(results, list) else results


OURS = {
    (name, n): {k: v for k, v in shortened(synthetic_results(name, n_trials=n)).items() if k != "schema_version"}
    for name, n in itertools.product(("gelu", "relu"), (2, 3, 5))
}
THEIRS = {key: minimal_results(key[0], n_trials=key[1]) for key in OURS}
PLACES = {id(results): list(places(results)) for results in [*OURS.values(), *THEIRS.values()]}


@st.composite
def files(draw):
    """A results file with up to four changes: another value, a key less, a key more, an entry twice."""
    base = draw(st.sampled_from([*OURS.values(), *THEIRS.values()]))
    results, there = copy.deepcopy(base), PLACES[id(base)]
    for _ in range(draw(st.integers(0, 4))):
        where = draw(st.sampled_from(there))
        holder = results
        try:
            for key in where[:-1]:
                holder = holder[key]
            kind = draw(st.sampled_from(("value", "value", "value", "less", "more", "twice")))
            if not where:
                results = draw(st.sampled_from(ODD)) if kind == "value" and draw(st.integers(0, 9)) == 0 else results
            elif kind == "value":
                holder[where[-1]] = copy.deepcopy(draw(st.sampled_from(ODD)))
            elif kind == "less":
                del holder[where[-1]]
            elif kind == "more" and isinstance(holder, dict):
                holder[draw(st.sampled_from(("more", "", "status", "config", "é|")))] = draw(st.sampled_from(ODD))
            elif kind == "twice" and isinstance(holder, list):
                holder.append(copy.deepcopy(holder[where[-1]]))
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it away
    return results


def analysed(folder, figures):
    """Everything that is made of a folder of results."""
    study = Study(load_all_results(folder))
    for table in (tables.summary(study), tables.significance(study), tables.everything(study), tables.ranking(study)):
        tables.csv(table)
    text = report.report_text(study)
    text += report.to_html(text, {}) + report.overview(study) + report.plan_text(study)
    found = {"main": studies.Member(study.all_results, "main"), "again": studies.Member(study.all_results, "again")}
    text += studies.studies_text(found) + tables.csv(studies.studies_frame(found))
    text += "".join(map(str, check_study(Folder(folder, folder, folder), (), ["relu", "gelu"])))
    text.encode()
    if figures:
        plot_comparisons(study, folder)


def outcome(folder, results, beside, figures=False):
    """'analysed', 'left out' or the kind of refusal; anything else is an error of the program."""
    for path in folder.glob("*"):
        path.unlink()
    name = results.get("activation") if isinstance(results, dict) else None
    path = folder / f"{'gelu' if name != 'relu' else 'relu'}_results.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    other = "relu" if path.name.startswith("gelu") else "gelu"
    if beside:
        (folder / f"{other}_results.json").write_text(json.dumps(beside[other, 3]), encoding="utf-8")
    try:
        analysed(folder, figures)
    except (UserError, storage.StorageError) as error:
        assert "\n" not in str(error) and len(str(error)) < 600, error
        return "refused"
    return "left out" if storage.read_results(path).get("left_out") else "analysed"


def test_the_schema_is_a_schema_and_ours_and_the_documented_keys_alone_hold_to_it():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for results in [*OURS.values(), *THEIRS.values(), synthetic_results(diverged=(1, 2, 3))]:
        validator.validate(results)


@settings(max_examples=cases(1500, 10), deadline=None)
@given(results=files())
def test_the_reader_and_the_json_schema_library_agree(results):
    """An independent implementation of JSON Schema: what it accepts is read whole, what it doesn't is refused or left
    out; and what was left in, it accepts."""
    results = json.loads(json.dumps(results), parse_constant=lambda token: None)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    valid = validator.is_valid(results)
    left_out, kept = [], copy.deepcopy(results)
    problem = storage._problem(kept, storage.results_schema(), "", left_out)
    assert valid == (problem is None and not left_out), (problem, left_out)
    if problem is None:
        validator.validate(kept)


FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}


@settings(max_examples=50, **FUZZ)
@given(results=files(), beside=st.sampled_from((None, OURS, THEIRS)))
def test_any_file_is_analysed_or_refused_in_one_line(tmp_path_factory, results, beside):
    outcome(folder(tmp_path_factory), results, beside)


@pytest.mark.slow
def test_five_thousand_files(tmp_path_factory):
    place, counts = folder(tmp_path_factory), {}

    @settings(max_examples=cases(5000, 25), **FUZZ)
    @given(results=files(), beside=st.sampled_from((None, OURS, THEIRS)), figures=st.integers(0, 49))
    def check(results, beside, figures):
        kind = outcome(place, results, beside, figures == 0)
        counts[kind] = counts.get(kind, 0) + 1

    check()
    print(counts)
    assert min(counts[kind] for kind in ("analysed", "left out", "refused")) > cases(250, 25)


def folder(tmp_path_factory, made=[]):  # noqa: B006 — one folder for all examples
    if not made:
        made.append(tmp_path_factory.mktemp("fuzz"))
    return made[0]
