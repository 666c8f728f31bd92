"""Every published number, changed and sealed anew, is named: the list of numbers is read from the files themselves."""

import copy
import csv
import fnmatch
import io
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import analyze_results
import plot_utils
import storage
import train
from analysis import products, report, tables
from analysis.products import Folder
from analysis.results import load_all_results
from analysis.study import Study
from config import Config
from conftest import TINY
from prepare_data import load_corpus
from questions.sources import PRODUCTS as SOURCES
from questions.sources import command as decompose
from tools import verify
from training import experiment, pool, trial

# What only training could give again, place by place: the one list that is written by hand.
RECORDED = {
    "checkpoint": [
        "schema_version", "environment*", "record.training_time", "record.total_time", "record.ended",
        "record.train_loss_history[[]1]", "record.val_loss_history[[]1]", "record.grad_norm_history[[][12]]",
        *(f"config.{name}" for name in verify.SETTINGS_ONLY), "config.preset",
    ],
    "results": [
        "timestamp", "study", "content_sha256", "trials[[]*].checkpoint.path",
        *(f"config.{name}" for name in verify.SETTINGS_ONLY),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus_file):
    """Two activations of three trials, with everything that is ever made of them."""
    path = tmp_path_factory.mktemp("study")
    config = Config(
        **TINY | {"max_iters": 20, "eval_interval": 10}, dataset=str(corpus_file), device="cpu", **places(path)
    )
    train.run_study(config, ["relu", "gelu"], quiet=True, run=pool.run_here)
    analyze_results.main(["--where", *flags(path)])
    analyze_results.main(["--all-studies", *flags(path)])
    analyze_results.write_all(path / "results", path / "plots")
    return path


def places(path):
    names = {"results_dir": "results", "plots_dir": "plots", "checkpoint_dir": "checkpoints", "data_dir": "data"}
    return {key: str(path / name) for key, name in names.items()}


def flags(path):
    return [f"--{key.replace('_', '-')}={value}" for key, value in places(path).items()] + [
        f"--studies-dir={path}/studies"
    ]


def moved(folder, to):
    """A copy of the study, as it was received from somebody else."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


@pytest.fixture(scope="module")
def study(folder):
    """(config, corpus, {trial: contents of relu's checkpoints}, relu's results)."""
    config = Config.from_dict(
        {**storage.read_results(folder / "results/relu_results.json")["config"], **places(folder)}
    )
    saved = {k: storage.load_checkpoint(storage.checkpoint_path(config.checkpoint_dir, "relu", k)) for k in (1, 2, 3)}
    return config, load_corpus(config), saved, storage.read_results(folder / "results/relu_results.json")


def leaves(value, where=()):
    """(path, value) of everything in a file that isn't a container; empty ones too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items:
        yield where, value
    for key, inside in items:
        yield from leaves(inside, (*where, key))


# another setting that is a setting; what can't be one is named at once
SETTINGS = {"preset": "quick", "study": "other", "workers": 7, "encoding": "latin-1", "baseline": "gelu"}


def changed(value):
    """Another value of the same kind."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + max(1, abs(value)) if isinstance(value, int) else value * 1.01 + 1e-3
    if isinstance(value, str):
        digits = re.sub(r"\d", lambda d: str((int(d[0]) + 1) % 10), value, count=1)
        return digits if digits != value else value + "x"
    return [1] if isinstance(value, list) else {"x": 1}


def put(contents, path, value):
    """A copy with one value changed; only what leads to it is copied."""
    if not path:
        return value
    made = copy.copy(contents)
    made[path[0]] = put(contents[path[0]], path[1:], value)
    return made


def place(path):
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def of_list(name, path):
    return any(fnmatch.fnmatchcase(place(path), pattern) for pattern in RECORDED[name])


def containers(value, where=()):
    if isinstance(value, dict | list):
        yield where, value
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield from containers(inside, (*where, key))


# -- nothing changed ----------------------------------------------------------------------------------------------


def test_a_sound_study_is_verified_whole_also_in_another_folder(folder, tmp_path, capsys):
    path = moved(folder, tmp_path / "received")
    assert analyze_results.main(["--verify", *flags(path)]) == 0
    out = capsys.readouterr().out
    files = {p for sub in ("results", "plots") for p in (path / sub).glob("[!.]*")} | set(
        path.glob("checkpoints/*/*.pt")
    )
    assert len(files) > 25 and not {p for p in files if f"✓ {p}" not in out}
    assert "recorded, not derivable:" in out and all(
        f"    {what}: {why}" in out for what, why in verify.RECORDED_ONLY.items()
    )


def test_what_a_study_never_had_is_not_missing(folder, tmp_path, capsys):
    """One activation, no tables, no figures."""
    shutil.copytree(folder / "checkpoints" / "relu", tmp_path / "checkpoints" / "relu")
    shutil.copytree(folder / "data", tmp_path / "data")
    (tmp_path / "results").mkdir()
    shutil.copy(folder / "results/relu_results.json", tmp_path / "results")
    assert analyze_results.main(["--verify", *flags(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "✗" not in out and out.count("✓") == 4


# -- one file of each kind, all numbers ---------------------------------------------------------------------------


def test_every_field_of_a_checkpoint_changed_and_sealed_anew(study):
    """The attacker seals the contents, names the fingerprint of the changed settings, and changes nothing else."""
    config, corpus, saved, _ = study
    contents = {k: v for k, v in saved[2].items() if k not in ("weights", "probe", "probe_argmax")}
    again = verify.derived_checkpoint(saved[2], corpus)
    assert not list(verify.checkpoint_differences(saved[2], again))

    def named(changed_contents):
        forged = changed_contents | {k: saved[2][k] for k in ("weights", "probe", "probe_argmax")}
        try:
            forged["fingerprint"] = Config.from_dict(forged["config"]).fingerprint()
            trial.check_same_experiment(config, "relu", 2, forged, corpus, Path("trial_2.pt"))
            return any(True for _ in verify.checkpoint_differences(forged, again))
        except Exception:
            return True

    values = {path: value for path, value in leaves(contents) if path != ("fingerprint",)}
    other = {path: changed(value) for path, value in values.items()}
    other |= {("config", name): value for name, value in SETTINGS.items()}
    fields = list(values)
    unnamed = {path for path in fields if not named(put(contents, path, other[path]))}
    assert {place(p) for p in unnamed} == {place(p) for p in fields if of_list("checkpoint", p)}
    for path, inside in containers(contents):
        if isinstance(inside, dict) and not of_list("checkpoint", path):
            assert named(put(contents, path, {**inside, "more": 1})), path
            for key in inside.keys() - {"fingerprint"}:
                less = put(contents, path, {k: v for k, v in inside.items() if k != key})
                assert named(less) or of_list("checkpoint", (*path, key)), (path, key)
        elif isinstance(inside, list) and inside and not of_list("checkpoint", path):
            assert named(put(contents, path, inside[:-1])) and named(put(contents, path, [*inside, inside[-1]])), path
    print(f"checkpoint: {len(fields)} fields, {len(fields) - len(unnamed)} named, {len(unnamed)} recorded only")


def test_every_prediction_at_the_first_and_last_point(study):
    _, corpus, saved, _ = study
    again = verify.derived_checkpoint(saved[2], corpus)
    draw = random.Random(0)
    for name, point in ((n, p) for n in ("probe", "probe_argmax") for p in (0, -1)):
        stored = saved[2][name]
        for _ in range(40):
            other = stored.clone()
            i = tuple(draw.randrange(n) for n in other[point].shape)
            other[point][i] = other[point][i] * 1.01 + (1e-3 if other.is_floating_point() else 1)
            assert any(True for _ in verify.checkpoint_differences({**saved[2], name: other}, again)), (name, point, i)
    between = saved[2]["probe"].clone()
    between[1] += 0.1
    assert not list(verify.checkpoint_differences({**saved[2], "probe": between}, again))  # training alone gives it


def test_weights_and_what_follows_from_them(study):
    """Other weights, with their own checksum in the record: losses, predictions and sample are not theirs."""
    _, corpus, saved, _ = study
    forged = copy.deepcopy(saved[2])
    next(iter(forged["weights"].values()))[3] += 0.5
    forged["record"]["weights_sha256"] = storage.contents_sha256(forged["weights"])
    problems = " ".join(verify.checkpoint_differences(forged, verify.derived_checkpoint(forged, corpus)))
    for name in ("probe.last", "record.train_loss:", "record.val_loss_history[2]", "record.train_loss_history[2]"):
        assert name in problems
    # the checkpoint of another trial under this number: its seed did not make its first point
    moved = {
        **saved[3],
        "trial": 2,
        "record": {**saved[3]["record"], **{k: saved[2]["record"][k] for k in ("trial_id", "seed", "seeds")}},
    }
    problems = " ".join(verify.checkpoint_differences(moved, verify.derived_checkpoint(moved, corpus)))
    assert "probe.first" in problems and "record.val_loss_history[0]" in problems and "probe.last" not in problems


def test_every_field_of_the_results_changed_and_sealed_anew(study):
    """All of them at once, since each is compared by itself; then one by one, structure too."""
    config, corpus, _, recorded = study
    again = verify.derived_results(recorded, config, corpus)
    assert not list(verify.differences(recorded, again))
    fields = dict(leaves(recorded))
    forged = recorded
    for path, value in fields.items():
        forged = put(forged, path, changed(value))
    named = {line.split(": ")[0] for line in verify.differences(forged, again)}
    unnamed = {place(path) for path in fields} - {re.sub(r"^own_code\..*", "own_code", line) for line in named}
    assert unnamed == {place(path) for path in fields if of_list("results", path)}
    draw = random.Random(0)
    for path in draw.sample(sorted(fields, key=str), 100):
        lines = list(verify.differences(put(recorded, path, changed(fields[path])), again))
        named = [re.sub(r"^own_code\..*", "own_code", line.split(": ")[0]) for line in lines]
        assert named == ([] if of_list("results", path) else [place(path)])
    holders = [(path, inside) for path, inside in containers(recorded) if not of_list("results", path)]
    for path, inside in draw.sample(holders, min(150, len(holders))):
        if isinstance(inside, dict):
            assert list(verify.differences(put(recorded, path, {**inside, "more": 1}), again)), path
            keys = [key for key in inside if not of_list("results", (*path, key))]
            if not keys:
                continue
            gone = draw.choice(keys)
            less = put(recorded, path, {k: v for k, v in inside.items() if k != gone})
            assert list(verify.differences(less, again)), path
        elif inside:
            assert list(verify.differences(put(recorded, path, inside[:-1]), again)), path
    print(f"results: {len(fields)} fields, {len(named)} named, {len(unnamed)} recorded only")


def test_every_cell_of_the_tables(folder, tmp_path):
    study, cells = Study(load_all_results(folder / "results")), 0
    made = {
        "summary.csv": tables.csv(tables.summary(study)),
        "significance.csv": tables.csv(tables.significance(study)),
    }
    for name, expected in made.items():
        rows = list(csv.reader(io.StringIO((folder / "results" / name).read_text(encoding="utf-8"))))
        assert not list(verify.text_differences(folder / "results" / name, expected))
        for i, j in ((i, j) for i, row in enumerate(rows) for j in range(len(row))):
            forged = copy.deepcopy(rows)
            forged[i][j] = changed(forged[i][j]) if forged[i][j] else "0"
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(forged)
            (tmp_path / name).write_text(text.getvalue(), encoding="utf-8")
            assert any(f"line {i + 1}:" in line for line in verify.text_differences(tmp_path / name, expected)), (i, j)
            cells += 1
    print(f"tables: {cells} cells, all named")


@pytest.mark.parametrize("name", ["FINAL_REPORT.md", "FINAL_REPORT.html"])
def test_every_number_of_the_reports(folder, tmp_path, name):
    expected = report.composed(Folder(folder / "results", folder / "plots"))[name.endswith("html")]
    text = (folder / "results" / name).read_text(encoding="utf-8")
    assert not list(verify.text_differences(folder / "results" / name, expected))
    # in the page the figures are text too: a place in each of them
    images = [m.start() + 500 for m in re.finditer("base64,", text)]
    spans = [(m.start(), m.end()) for m in re.finditer('base64,[^"]*', text)]
    numbers = [m.start() for m in re.finditer(r"\d", text) if not any(a <= m.start() < b for a, b in spans)]
    assert len(numbers) > 300 and (len(images) > 2) == name.endswith("html")
    lines = np.cumsum([0] + [len(line) for line in text.splitlines(keepends=True)])
    ours = expected.splitlines()
    for at in numbers + images:  # line by line as text_differences does, without reading a megabyte each time
        n = int(np.searchsorted(lines, at, side="right")) - 1
        line = text[lines[n] : lines[n + 1]].rstrip("\n")
        i = at - lines[n]
        forged = line[:i] + ("1" if line[i] == "0" else "0") + line[i + 1 :]
        assert forged != ours[n] and line == ours[n]
    at = numbers[len(numbers) // 2]
    (tmp_path / name).write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :], encoding="utf-8")
    (problem,) = verify.text_differences(tmp_path / name, expected)
    assert "in the file" in problem and len(problem) < 300
    print(f"{name}: {len(numbers)} digits and {len(images)} images, all named")


# -- every file, by the command -----------------------------------------------------------------------------------


def sealed(path, results):
    contents = {k: v for k, v in results.items() if k != "content_sha256"}
    path.write_text(json.dumps({**contents, "content_sha256": storage.sha256_json(contents)}), encoding="utf-8")


def tamper(path):
    """Change one number, or one pixel, of a file; and seal it where it is sealed."""
    if path.suffix == ".pt":
        saved = storage.load_checkpoint(path)
        saved["record"]["train_loss"] += 0.01
        storage.save_checkpoint(path, saved)
    elif path.suffix == ".png":
        with Image.open(path) as image:
            pixels, info = image.convert(image.mode), image.info
        pixels.putpixel((pixels.width // 2, pixels.height // 2), (1, 2, 3, 255))
        from PIL.PngImagePlugin import PngInfo

        kept = PngInfo()
        kept.add_text("Software", info["Software"])
        pixels.save(path, pnginfo=kept, dpi=info.get("dpi"))
    elif path.name.endswith("_results.json"):
        results = storage.read_results(path)
        results["trials"][0]["val_accuracy"] += 1
        sealed(path, results)
    else:
        text = path.read_text(encoding="utf-8")
        at = [m.start() for m in re.finditer(r"(?<=\.\d)\d", text)] or [m.start() for m in re.finditer(r"\d", text)]
        at = at[len(at) // 2]
        path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :], encoding="utf-8")


def test_every_file_that_was_tampered_with_is_named_by_the_command(folder, tmp_path, capsys):
    """Each file with one number changed. Products are made of the results as published, so each stands for itself."""
    path = moved(folder, tmp_path / "forged")
    files = sorted(
        {p for sub in ("results", "plots") for p in (path / sub).glob("[!.]*")} | set(path.glob("checkpoints/*/*.pt"))
    )
    before = {p: p.read_bytes() for p in files}
    for p in files:
        tamper(p)
    assert all(p.read_bytes() != before[p] for p in files) and len(files) > 25
    assert analyze_results.main(["--verify", *flags(path)]) == 1
    out = capsys.readouterr().out
    assert not [str(p) for p in files if f"✗ {p}" not in out]
    print(f"{len(files)} files, all named")


def test_what_a_paper_takes_is_derived_again(folder, tmp_path):
    """Every file of --paper, and the figures in other formats, with one number or one place changed."""
    copied = Folder(tmp_path / "results", tmp_path / "plots")
    copied.study = Study(load_all_results(folder / "results"))
    products.write(analyze_results.PAPER, copied)
    products.draw([plot_utils.SEVERAL], copied, copied.plots, ("png", "svg"))

    def found():
        rows = analyze_results.PAPER, plot_utils.SEVERAL
        return {Path(v.name): v for product in rows for v in verify._product(product, copied)}

    files = {*(tmp_path / "results" / "paper").iterdir(), *(tmp_path / "plots").iterdir()}
    assert len(files) >= 4 + 4 * 2 and {p.suffix for p in files} == {".tex", ".bib", ".pdf", ".svg", ".png"}
    assert found().keys() == files and not any(v.problems or v.note for v in found().values())
    svg = tmp_path / "plots/comprehensive_comparison.svg"
    for path in files:
        if path.suffix == ".pdf":
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        elif path != svg:
            tamper(path)
    wrong = {path for path, v in found().items() if v.problems}
    assert wrong == files - {svg}
    svg.with_suffix(".png").unlink()  # then nothing says which version drew them
    tamper(svg)
    assert "another version of Matplotlib" in found()[svg].problems[0]


@pytest.mark.slow
def test_studies_of_single_sources_are_derived_again_with_all_their_files(tmp_path, corpus_file, capsys):
    changes = {"max_iters": 4, "eval_interval": 2, "warmup_iters": 1, "trials_per_activation": 2}
    config = Config(**TINY | changes, dataset=str(corpus_file), device="cpu", **places(tmp_path))
    decompose.decompose(config, "relu", train.run_study, quiet=True, run=pool.run_here)
    assert analyze_results.main(["--verify", *flags(tmp_path)]) == 0
    out = capsys.readouterr().out
    files = {p for sub in ("results", "plots") for p in (tmp_path / sub).rglob("[!.]*") if p.is_file()}
    files |= set((tmp_path / "checkpoints").rglob("*.pt"))
    assert len({p.parent for p in files}) == 12 and not {p for p in files if f"✓ {p}" not in out}
    for path in files:
        tamper(path)
    stray = tmp_path / "results/sources/init/notes.txt"
    stray.write_text("PD 0.01", encoding="utf-8")
    assert analyze_results.main(["--verify", *flags(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert not [str(p) for p in files if f"✗ {p}" not in out]
    assert f"– {stray} (not verified: nothing here makes such a file)" in out
    # the study of a source put in another's place
    shutil.copytree(tmp_path / "results/sources/bit", tmp_path / "results/sources/init", dirs_exist_ok=True)
    (product,) = SOURCES
    problems = [line for v in verify._product(product, Folder.of(config)) for line in v.problems]
    assert "init: its study has other settings: vary" in " ".join(problems)


def test_a_setting_that_came_later_need_not_be_in_older_files(study):
    config, corpus, saved, recorded = study
    older = copy.deepcopy(recorded)
    del older["config"]["sampling"]
    assert not list(verify.differences(older, verify.derived_results(older, config, corpus)))
    older["config"] |= {"schedule": "trunk"}
    assert verify._not_yet({}, {"sampling": "replacement", "schedule": "trunk"}) == {"sampling": verify.RECORDED}
    before = {k: v for k, v in saved[1]["config"].items() if k != "sampling"}
    again = verify.derived_checkpoint({**saved[1], "config": before}, corpus)
    assert not list(verify.checkpoint_differences({**saved[1], "config": before}, again))


def test_branches_of_a_trunk(tmp_path, corpus_file, capsys):
    """Models cooled from several steps of one training: losses follow from the weights, the frontier from both."""
    changes = {"max_iters": 24, "eval_interval": 12, "warmup_iters": 2, "schedule": "trunk", "trials_per_activation": 2}
    config = Config(**TINY | changes, dataset=str(corpus_file), device="cpu", **places(tmp_path))
    train.run_study(config, ["relu"], quiet=True, run=pool.run_here)
    assert analyze_results.main(["--verify", *flags(tmp_path)]) == 0
    file = storage.checkpoint_path(config.checkpoint_dir, "relu", 1)
    saved = storage.load_checkpoint(file)
    name = next(iter(saved["branches"]))
    saved["branches"][name]["record"]["train_loss"] += 0.01
    storage.save_checkpoint(file, saved)
    path = tmp_path / "results/relu_results.json"
    results = storage.read_results(path)
    results["frontier"][0]["avg_relative_pd"] += 0.001
    sealed(path, results)
    capsys.readouterr()
    assert analyze_results.main(["--verify", *flags(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"branches.{name}.record.train_loss: " in out and "frontier[0].avg_relative_pd: " in out


@pytest.mark.parametrize("status", ["pass", "fail"])
def test_an_audit_block_replaced_and_sealed_anew(study, folder, status):
    config, corpus, _, recorded = study
    forged = copy.deepcopy(recorded)
    forged["audit"]["passed"] = status == "pass"
    forged["audit"]["checks"][2]["status"] = status
    again = verify.derived_results(recorded, config, corpus)
    again["audit"]["checks"][2]["status"] = "fail" if status == "pass" else "pass"  # it had really come out so
    again["audit"]["passed"] = status == "fail"
    lines = list(verify.differences(forged, again))
    assert {line.split(":")[0] for line in lines} == {"audit.passed", "audit.checks[2].status"}


def test_an_edited_loss_that_everything_was_made_again_from(folder, tmp_path, capsys):
    """The strongest forger: changes the record in a checkpoint, and lets the program measure, tabulate and report."""
    path = moved(folder, tmp_path / "forged")
    config = Config.from_dict({**storage.read_results(path / "results/relu_results.json")["config"], **places(path)})
    file = storage.checkpoint_path(config.checkpoint_dir, "relu", 1)
    saved = storage.load_checkpoint(file)
    saved["record"]["train_loss"] -= 0.1
    storage.save_checkpoint(file, saved)
    shutil.rmtree(path / "plots")
    old = storage.read_results(path / "results/relu_results.json")
    results = {**experiment.measure(config, "relu", load_corpus(config)), "audit": old["audit"]}
    storage.write_results(results, path / "results")
    analyze_results.main(flags(path)[:-1])
    shutil.rmtree(path / "plots")
    capsys.readouterr()
    assert analyze_results.main(["--verify", *flags(path)]) == 1
    out = capsys.readouterr().out
    assert f"✗ {file}\n    record.train_loss: " in out and f"✓ {path}/results/relu_results.json" in out


def test_files_that_nothing_makes_and_figures_of_another_version_are_not_called_verified(folder, tmp_path, capsys):
    figure, other = folder / "plots/relu_summary.png", tmp_path / "relu_summary.png"
    with Image.open(figure) as image:
        image.convert("L").save(other)  # another picture, which names no version
    assert verify._figure(other, figure).note.startswith("not verified: drawn by None; here it is ")
    other.write_bytes(b"no image")
    assert verify._figure(other, figure).problems == ["it is no image"]
    assert verify._figure(folder / "plots/gelu_summary.png", figure).problems


def test_another_machine_compares_to_a_thousandth(study, monkeypatch):
    config, _, saved, recorded = study
    environment = saved[1]["environment"]
    assert verify.tolerance(environment, config) == verify.TOLERANCE
    assert verify.tolerance({**environment, "device_name": "another"}, config) == verify.ELSEWHERE
    assert verify.tolerance(None, config) == verify.ELSEWHERE
    assert list(verify.differences({"a": 1.0}, {"a": 1.0001})) and not list(
        verify.differences({"a": 1.0}, {"a": 1.0001}, tolerance=verify.ELSEWHERE)
    )
    near = {"x": torch.ones(2000), "n": torch.arange(2000)}
    other = {"x": near["x"] * 1.01, "n": near["n"] + 1}
    assert len(list(verify.differences(near, other, tolerance=verify.ELSEWHERE))) == 2


def test_numbers_in_words_may_be_rounded_otherwise_but_not_changed():
    said = "initial loss 4.2262 nats, ln 69 = 4.2341; 3 roundings"
    assert verify._same_words(said, said.replace("4.2262", "4.2263"))
    for forged in ("4.2762", "4", "-4.2262"):
        assert not verify._same_words(said, said.replace("4.2262", forged))
    assert not verify._same_words(said, said.replace("nats", "bits"))
    assert not verify._same_words(said, said.replace("3 roundings", "2 roundings"))


def test_what_is_missing_or_planned_and_not_there(folder, tmp_path, capsys):
    path = moved(folder, tmp_path / "less")
    for other in ("gelu",):
        (path / f"results/{other}_results.json").unlink()
    storage.checkpoint_path(path / "checkpoints", "relu", 3).unlink()
    shutil.rmtree(path / "plots")
    copied = Folder(*map(Path, places(path).values()))
    found = {v.name: v for v in verify.verify(copied, analyze_results.all_products())}
    assert "trial 3 of relu is not in" in found[f"{path}/results/relu_results.json"].problems[0]
    assert found[f"{path}/results/summary.csv"].problems
