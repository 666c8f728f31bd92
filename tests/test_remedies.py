"""What brings trials together: in training (a teacher, means of weights), and the arms of a study compared."""

import itertools
import json
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch

import analyze_results
import audit
import significance
import storage
import train
from analysis import markdown, products
from analysis.products import Folder
from bench.claims import claims_of
from config import Config, UserError
from conftest import as_flags, problems_of, saved_trial
from kernels import toolchain
from models.architectures import model_from
from prepare_data import load_corpus
from questions.remedies import PRODUCTS, parts
from questions.remedies import tell as arms
from questions.remedies.draw import plot_remedies
from synthetic import synthetic_remedies
from test_where import study
from test_where import train as train_study
from tools.verify import checkpoint_differences, derived_checkpoint
from training import trial


@pytest.fixture(scope="module")
def base(tmp_path_factory, corpus_file, data_dir):
    """A finished study: four trials of relu that kept means of their weights."""
    config = study(
        tmp_path_factory.mktemp("base"), corpus_file, data_dir,
        trials_per_activation=4, averages=("lawa_10", "ema_0.9"),
    )  # fmt: skip
    return train_study(config, ["relu"])


def teacher(config, k=4):
    return str(storage.checkpoint_path(config.checkpoint_dir, "{activation}", k))


def elsewhere(config, folder, **changes):
    folders = {key: str(folder / key) for key in ("results_dir", "plots_dir", "checkpoint_dir")}
    return config.replace(**folders, **{"averages": (), **changes})


def interrupted(config, activation, after):
    steps = iter(range(1000))
    with pytest.raises(trial.Interrupted):
        train.train_trial(config, activation, 1, stop=lambda: next(steps) >= after)


softmax = partial(scipy.special.softmax, axis=-1)


# -- means of the weights -----------------------------------------------------------------------------------------


def test_means_are_those_of_the_weights_along_training(smoke_config):
    """Against sums in float64 over the weights after every step, written from the definitions."""
    config = smoke_config.replace(max_iters=37, averages=("lawa_20", "lawa_100", "ema_0.9"))
    training = trial.Training(config, "relu", 1, load_corpus(config))
    training.model.train()
    seen = []
    for _ in range(37):
        training.advance()
        seen.append(training.optimiser.master.double().numpy().copy())
    (averages,) = (part for part in training.parts if isinstance(part, parts.Averages))
    means = {name: vector.numpy() for name, vector in averages.vectors().items()}
    ema = sum(0.9 ** (37 - t) * w for t, w in enumerate(seen, 1)) / sum(0.9 ** (37 - t) for t in range(1, 38))
    np.testing.assert_allclose(means["ema_0.9"], ema, rtol=1e-4, atol=1e-7)
    for percent in (20, 100):
        points = {round(37 * (100 - i) / 100) for i in range(percent)} - {0}
        mean = np.mean([seen[t - 1] for t in sorted(points)], 0)
        np.testing.assert_allclose(means[f"lawa_{percent}"], mean, rtol=1e-4, atol=1e-7)
    assert len({round(37 * (100 - i) / 100) for i in range(20)}) == averages.counts["lawa_20"] < 20
    assert averages.seconds > 0


def test_averages_change_no_weights_and_survive_an_interrupt(smoke_config, tmp_path):
    plain = train.train_trial(elsewhere(smoke_config, tmp_path / "plain"), "gelu", 1)
    averages = {}
    for how in ("whole", "interrupted"):
        config = elsewhere(smoke_config, tmp_path / how, averages=("lawa_50", "ema_0.9"))
        if how == "interrupted":
            interrupted(config, "gelu", 41)
        record = train.train_trial(config, "gelu", 1)
        assert record["weights_sha256"] == plain["weights_sha256"]
        averages[how] = saved_trial(config, 1, "gelu")["averages"]
    assert storage.contents_sha256(averages["whole"]) == storage.contents_sha256(averages["interrupted"])
    lawa, ema = (storage.contents_sha256(averages["whole"][name]["weights"]) for name in ("lawa_50", "ema_0.9"))
    assert lawa != ema


def test_branches_of_a_trunk_are_in_no_mean(smoke_config, tmp_path):
    """The final model is the same with and without other branches before it, and so are its means."""
    checksums = []
    for points in ((1.0,), (0.5, 1.0)):
        trunk = {"schedule": "trunk", "branch_points": points, "averages": ("lawa_50", "ema_0.9")}
        config = elsewhere(smoke_config, tmp_path / str(len(points)), **trunk)
        train.train_trial(config, "relu", 1)
        saved = saved_trial(config, 1)
        assert len(saved["branches"]) == len(points) - 1
        checksums.append(storage.contents_sha256(saved["averages"]))
    assert checksums[0] == checksums[1]


def test_a_changed_mean_is_refused(base, tmp_path):
    path = storage.checkpoint_path(base.checkpoint_dir, "relu", 1)
    saved = storage.load_checkpoint(path)
    next(iter(saved["averages"]["ema_0.9"]["weights"].values())).add_(1.0)
    with pytest.raises(storage.StorageError, match="not those that its record names"):
        trial.check_same_experiment(base, "relu", 1, saved, load_corpus(base), path)


# -- teachers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remedy", ["distil", "warm"])
def test_strength_0_is_no_remedy(base, tmp_path, remedy):
    """The same bits, the same fingerprint, and no teacher is read."""
    config = elsewhere(base, tmp_path, remedy=remedy, strength=0.0, teacher=("nowhere.pt",))
    assert config.fingerprint() == base.replace(averages=()).fingerprint()
    record = train.train_trial(config, "relu", 1)
    theirs = saved_trial(base, 1)["record"]
    assert record["weights_sha256"] == theirs["weights_sha256"]
    assert record["val_loss_history"] == theirs["val_loss_history"]


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_distilled_loss_is_cross_entropy_to_the_mixture(base, strength):
    """Loss and gradient of the logits, against NumPy in float64."""
    teachers = (teacher(base, 3), teacher(base, 4))
    config = base.replace(precision="float32", remedy="distil", strength=strength, teacher=teachers)
    training = trial.Training(config, "relu", 1, load_corpus(base))
    saved = saved_trial(base, 1)
    training.model.load_state_dict(saved["weights"])  # the initial ones predict all tokens alike
    x, y = training.batches(0)
    with torch.no_grad():
        logits = training.model(x).double().numpy()
        theirs = [m(x).double().numpy() for m in training.objective.teachers]
    assert not np.allclose(theirs[0], theirs[1])
    targets = strength * (softmax(theirs[0]) + softmax(theirs[1])) / 2
    targets += (1 - strength) * np.eye(logits.shape[-1])[y.numpy()]
    expected = -(targets * np.log(softmax(logits))).sum(-1).mean()
    assert float(training.objective(training.model, x, y).detach()) == pytest.approx(expected, rel=1e-5)
    if strength < 1:
        assert float(training.loss(training.model, x, y).detach()) != pytest.approx(expected, rel=1e-3)
    leaf = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    training.model.logits = lambda x: leaf
    training.objective(training.model, x, y).backward()
    np.testing.assert_allclose(leaf.grad.numpy(), (softmax(logits) - targets) / y.numel(), atol=1e-7)


@pytest.mark.skipif(toolchain.problem() is not None, reason="no C++ compiler")
def test_distillation_with_the_kernels(base):
    """The kernels' logits, of student and teacher, against torch's in the same precision."""
    values = {}
    for native in (True, False):
        config = base.replace(precision="bfloat16", native=native, remedy="distil", teacher=(teacher(base),))
        assert config.native is native
        training = trial.Training(config, "relu", 1, load_corpus(base))
        loss = training.objective(training.model, *training.batches(0))
        loss.backward()
        gradient = torch.cat([p.grad.flatten().float() for p in training.optimiser.parameters])
        values[native] = float(loss.detach()), gradient
    (one, g), (other, h) = values[True], values[False]
    assert one == pytest.approx(other, rel=2e-3)
    assert float((g - h).norm() / h.norm()) < 0.05


def test_distilled_trials_are_resumed_with_the_same_bits(base, tmp_path):
    records = []
    for how in ("whole", "interrupted"):
        config = elsewhere(base, tmp_path / how, remedy="distil", strength=0.5, teacher=(teacher(base),))
        if how == "interrupted":
            interrupted(config, "relu", 25)
        records.append(train.train_trial(config, "relu", 1))
    assert records[0]["weights_sha256"] == records[1]["weights_sha256"]
    plain = saved_trial(base, 1)["record"]
    assert records[0]["weights_sha256"] != plain["weights_sha256"]


@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_warm_start_mixes_the_initial_weights(base, strength):
    config = base.replace(remedy="warm", strength=strength, teacher=(teacher(base, 2),))
    corpus = load_corpus(base)
    warm, cold = (trial.Training(c, "relu", 1, corpus) for c in (config, base.replace(averages=())))
    theirs = saved_trial(base, 2)["weights"]
    for name, ours, own in zip(warm.optimiser.names, warm.optimiser.weights, cold.optimiser.weights, strict=True):
        mixed = (1 - strength) * own.double() + strength * theirs[name].double()
        np.testing.assert_allclose(ours.double().numpy(), mixed.numpy(), atol=1e-7 if strength < 1 else 0)
    with trial.torch_settings(config):
        seeds = audit._seeds(config, "relu", corpus)
    assert seeds["status"] == "pass", seeds
    # from one model's weights all trials begin alike: that nothing else differs is seen
    assert audit._seeds(config.replace(vary="init"), "relu", corpus)["status"] == ("fail" if strength == 1 else "pass")


def test_what_a_teacher_must_be(base, tmp_path, data_dir):
    corpus = load_corpus(base)

    def refused(match, activation="relu", **changes):
        with pytest.raises(UserError, match=match):
            trial.Training(
                base.replace(**{"remedy": "distil", "teacher": (teacher(base),), **changes}), activation, 1, corpus
            )

    refused("needs an earlier trial", teacher=())
    refused("starts from one", remedy="warm", teacher=(teacher(base, 1), teacher(base, 2)))
    refused("teacher: is for", remedy="none")
    refused("no such file", teacher=("nowhere.pt",))
    refused("no such file", activation="gelu")  # {activation} is the one that is trained
    refused("sees 32 tokens of context, fewer than 64", block_size=64)
    refused("a model of another form", remedy="warm", n_layer=1)
    compiled = {"device": "cuda", "native": False, "compile": True, "remedy": "distil", "teacher": [teacher(base)]}
    with pytest.raises(UserError, match="not compiled"):
        parts.Teachers.check(type(base).from_dict({**base.to_dict(), **compiled}))
    byte = base.replace(tokenizer="byte", remedy="distil", teacher=(teacher(base),))
    with pytest.raises(UserError, match="predicts other tokens"):
        trial.Training(byte, "relu", 1, load_corpus(byte))


def test_another_teacher_in_the_same_place_is_refused(base, tmp_path):
    path = tmp_path / "teacher.pt"
    saved = saved_trial(base, 4)
    storage.save_checkpoint(path, saved)
    config = elsewhere(base, tmp_path, remedy="distil", teacher=(str(path),), max_iters=10, eval_interval=10)
    first = train.train_trial(config, "relu", 1)
    assert train.train_trial(config, "relu", 1) == first
    other = saved_trial(base, 3)
    storage.save_checkpoint(path, other)
    with pytest.raises(UserError, match="trained with another teacher"):
        train.train_trial(config, "relu", 1)
    path.unlink()  # what is finished can be measured without it
    assert train.train_trial(config, "relu", 1) == first


@pytest.mark.parametrize("remedy", ["distil", "warm", "none"])
def test_checkpoints_are_derived_again(base, tmp_path, remedy):
    """From seeds, settings, teachers and weights, as --verify does it; a wrong number is seen."""
    chosen = {"remedy": remedy, "teacher": (teacher(base),)} if remedy != "none" else {}
    config = elsewhere(base, tmp_path, max_iters=20, averages=("ema_0.9",), **chosen)
    train.train_trial(config, "relu", 1)
    saved = saved_trial(config, 1)
    corpus = load_corpus(config)
    assert list(checkpoint_differences(saved, derived_checkpoint(saved, corpus))) == []
    if remedy == "warm":
        saved["teachers"] = dict.fromkeys(saved["teachers"], "0" * 64)
        saved["record"]["val_loss_history"][0] *= 1.01  # of the first point, which follows from the teacher
        differing = " ".join(checkpoint_differences(saved, derived_checkpoint(saved, corpus)))
        assert "teachers" in differing and "val_loss_history[0]" in differing


# -- arms ---------------------------------------------------------------------------------------------------------


def test_disjoint_groups():
    assert arms.groups([1, 2, 3, 4, 5, 7], 2) == [[1, 2], [3, 4], [5, 7]]
    assert arms.groups([1, 2, 4, 5, 6], 3) == [[1, 2, 4]]


def test_grouped_pd_is_the_mean_between_the_groups():
    rng = np.random.default_rng(0)
    pd = rng.uniform(0.1, 0.2, (6, 6))
    pd = (pd + pd.T) / 2
    ids = [1, 2, 3, 5, 6, 8]
    units = [[1, 2], [3, 5], [6, 8]]
    grouped = arms.grouped_pd(pd, ids, units)
    at = {k: i for i, k in enumerate(ids)}
    for (g, a), (h, b) in itertools.permutations(enumerate(units), 2):
        assert grouped[g, h] == pytest.approx(sum(pd[at[i], at[j]] for i in a for j in b) / 4)
    assert (np.diag(grouped) == 0).all()


def test_names_in_the_figure_cover_neither_one_another_nor_a_point():
    entry = synthetic_remedies()
    none = entry["arms"][0]
    entry["arms"] = [none] + [  # as close together as such arms are
        {**none, "arm": name, "losses": [x + loss for x in none["losses"]], "pd": (np.array(none["pd"]) * pd).tolist()}
        for name, loss, pd in (
            ("lawa_10", -0.003, 1.004), ("ema_0.99", -0.004, 0.972), ("cooldown", -0.006, 0.975),
            ("warm", -0.1, 0.83), ("distil", 0.04, 0.31),
        )
    ]  # fmt: skip
    figure = plot_remedies.figure({"activations": {"relu": entry}})
    figure.canvas.draw()
    (ax,) = (ax for ax in figure.axes if ax.get_title(loc="left"))
    boxes = [text.get_window_extent() for text in ax.texts]
    points = [c.get_offset_transform().transform(c.get_offsets())[0] for c in ax.collections]
    assert len(boxes) == len(points) == 6
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(box.contains(*point) for box in boxes for point in points)


def test_arms_are_compared_trial_by_trial():
    entry = synthetic_remedies()
    distil, same = arms.compared(entry)
    assert distil.pd.effect == pytest.approx(0.8, rel=5e-3) and distil.loss.effect == pytest.approx(0.02, abs=2e-3)
    # scipy's paired t-test on the jackknife's numbers
    logs = [significance.log_pseudo_values(np.array(a["pd"])) for a in entry["arms"][:2]]
    interval = scipy.stats.ttest_rel(logs[1], logs[0]).confidence_interval()
    assert (distil.pd.low, distil.pd.high) == pytest.approx((np.exp(interval.low), np.exp(interval.high)))
    assert same.pd.low is None
    text = "\n".join(arms.lines({"relu": entry}))
    assert f"| {markdown.effect(distil.pd)} |" in text and not claims_of(text)


def test_an_ensemble_is_weighed_against_its_own_trials():
    """Where every unit's PD is 0.7 of the mean between its trials, so is the ratio, exactly and without spread."""
    rng = np.random.default_rng(1)
    pd = rng.uniform(0.09, 0.11, (6, 6))
    pd = (pd + pd.T) / 2
    np.fill_diagonal(pd, 0)
    losses = rng.normal(1.8, 0.01, 6)
    units = [[1, 2], [3, 4], [5, 6]]
    none = {"arm": "none", "units": [[k] for k in range(1, 7)], "pd": pd.tolist(), "losses": losses, "paired": True}
    grouped = arms.grouped_pd(pd, range(1, 7), units)
    arm = {"arm": "ensemble of 2", "units": units, "pd": 0.7 * grouped, "losses": losses.reshape(3, 2).mean(1) - 0.05}
    both = arms.compare(none, {**arm, "paired": True})
    assert both[0].effect == pytest.approx(0.7) and both[1].effect == pytest.approx(-0.05)
    assert both[0].n == (3, 3) and both[0].note == "no variation between trials"


def test_front():
    assert arms.front([(1.0, 0.2), (1.1, 0.1), (1.2, 0.15), (0.9, 0.3), (1.1, 0.12)]) == [3, 0, 1]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, ""),
        ({"averages": ("ema_0.9",)}, ""),
        ({"remedy": "distil", "teacher": ("t.pt",)}, "distil"),
        ({"remedy": "distil", "teacher": ("t.pt", "u.pt"), "strength": 0.5}, "distil 0.5 from 2"),
        ({"remedy": "warm", "teacher": ("t.pt",), "averages": ("ema_0.9",)}, "warm"),
        ({"min_lr": 0.001}, "min_lr 0.001"),
        ({"min_lr": 0.001, "n_layer": 1}, ""),
        ({"schedule": "trunk"}, ""),
    ],
)
def test_which_study_is_an_arm(changes, name):
    config = Config(preset="smoke", device="cpu")
    ours, theirs = ({"config": c.to_dict(), "evaluation": {"sha256": "a"}} for c in (config, config.replace(**changes)))
    assert arms.arm_of(ours, theirs) == name
    assert arms.arm_of(ours, {**theirs, "evaluation": {"sha256": "b"}}) == ""


# -- from checkpoints to the report -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(base, tmp_path_factory):
    """What --remedies wrote of the study and of another one beside it, and where that is."""
    studies = tmp_path_factory.mktemp("studies")
    config = elsewhere(base, studies, trials_per_activation=3, remedy="distil", teacher=(teacher(base),))
    folders = {key: str(studies / "distilled" / key.removesuffix("_dir")) for key in ("results_dir", "plots_dir")}
    train_study(config.replace(**folders), ["relu"])
    folder = Folder.of(base, studies)
    paths = products.update(PRODUCTS[0], folder)
    entries = arms.entries(folder)
    return SimpleNamespace(entries=entries, arms=entries["relu"]["arms"], folder=folder, paths=paths)


def test_arms_of_a_study(base, written):
    entry, text = written.entries["relu"], PRODUCTS[0].overview(written.folder)
    assert [arm["arm"] for arm in entry["arms"]] == ["none", "ensemble of 2", "lawa_10", "ema_0.9", "distil"]
    assert entry["notes"] == [] and [p.name for p in written.paths] == ["remedies.json", "remedies.csv", "remedies.png"]
    none, ensemble, lawa, _, distil = entry["arms"]
    assert ensemble["units"] == [[1, 2], [3, 4]] and ensemble["parameters"] == 2 * none["parameters"]
    assert ensemble["time"] == pytest.approx(2 * none["time"])
    assert 0 < lawa["seconds"] < none["time"] and lawa["losses"] != none["losses"]
    assert distil["units"] == [[1], [2], [3]] and distil["study"] == "distilled" and distil["teachers"] == 1
    assert "ensemble of 2" in text and "1/√2 = 0.707" in text
    rows = {row["Remedy"]: row for row in arms.records(written.entries)}
    assert rows["distil"]["PD_Ratio"] == pytest.approx(
        np.mean(np.array(distil["pd"])[np.triu_indices(3, 1)])
        / np.mean([none["pd"][i][j] for i, j in itertools.combinations(range(3), 2)])
    )
    assert rows["ensemble of 2"]["Independent"] == pytest.approx(2**-0.5)


def predictions(config, k, weights=None):
    """(N, V) float64 of a trial on the evaluation windows, and their targets."""
    import metrics

    corpus = load_corpus(config)
    saved = saved_trial(config, k)
    model = model_from(saved, weights and saved["averages"][weights])
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)
    tokens = np.asarray(corpus.val[starts[:, None] + np.arange(config.block_size + 1)]).astype(np.int64)
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens[:, :-1])).double().numpy()
    return softmax(logits).reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1)


def test_ensembles_are_the_mean_predictions_of_their_trials(base, written):
    ensemble = written.arms[1]
    p, y = zip(*(predictions(base, k) for k in (1, 2, 3, 4)), strict=True)
    one, other = (p[0] + p[1]) / 2, (p[2] + p[3]) / 2
    assert ensemble["pd"][0][1] == pytest.approx(np.abs(one - other).sum(1).mean() / 2, rel=1e-5)
    assert ensemble["pd"][0][0] == 0
    losses = [-np.log(q[np.arange(len(y[0])), y[0]]).mean() for q in (one, other)]
    np.testing.assert_allclose(ensemble["losses"], losses, rtol=1e-5)


def test_means_of_weights_are_measured_as_models(base, written):
    lawa = written.arms[2]
    (p, y), (q, _) = (predictions(base, k, "lawa_10") for k in (1, 3))
    assert lawa["pd"][0][2] == pytest.approx(np.abs(p - q).sum(1).mean() / 2, rel=1e-4)
    assert lawa["losses"][0] == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean(), rel=1e-5)


def test_a_damaged_file_is_named(tmp_path):
    for wrong in ({"relu": {"arms": [{}, {}]}}, {"relu": {**synthetic_remedies(), "arms": [1, 2]}}, {"relu": 3}):
        path = tmp_path / "remedies.json"
        path.write_text(json.dumps({"schema": "remedies/1", "activations": wrong}), encoding="utf-8")
        folder = Folder(tmp_path, tmp_path)
        folder.study = SimpleNamespace(all_results={"relu": {"activation": "relu", "trials": []}})
        with pytest.raises(storage.StorageError, match="remedies.json: damaged"):
            arms.entries(folder)


@pytest.mark.slow
def test_report_tells_it_and_verify_derives_it(base, written, capsys):
    folders = as_flags(base, "results_dir", "plots_dir", "checkpoint_dir", "data_dir")
    assert analyze_results.main(["--remedies", *folders, f"--studies-dir={written.folder.studies}"]) == 0
    assert "What buys how much" in capsys.readouterr().out
    report = (storage.Path(base.results_dir) / "FINAL_REPORT.md").read_text(encoding="utf-8")
    assert "### What buys how much" in report and "remedies.png" in report and "| ensemble of 2" in report
    problems = problems_of(Folder.of(base, written.folder.studies))
    for name in ("remedies.json", "remedies.csv", "FINAL_REPORT.md"):
        assert problems[f"{base.results_dir}/{name}"] == [], name
    assert problems[f"{base.plots_dir}/remedies.png"] == []
    path = storage.Path(base.results_dir) / "remedies.json"
    contents = json.loads(path.read_text(encoding="utf-8"))
    pd = contents["activations"]["relu"]["arms"][1]["pd"]
    pd[0][1] = pd[1][0] = 1.01 * pd[0][1]
    intact = path.read_bytes()
    try:
        path.write_text(json.dumps(contents), encoding="utf-8")
        assert "arms[1].pd[0][1]" in problems_of(Folder.of(base, written.folder.studies))[str(path)][0]
    finally:
        path.write_bytes(intact)


def test_results_of_other_checkpoints_are_not_told(base, written):
    folder = Folder.of(base)
    assert PRODUCTS[0].section(folder).lines
    folder.study.all_results["relu"]["trials"][0]["checkpoint"]["sha256"] = "0" * 64
    assert PRODUCTS[0].section(folder) is None


def test_without_checkpoints_only_other_studies_are_arms(base, written, tmp_path):
    (contents,) = (
        PRODUCTS[0].measure(Folder.of(base.replace(checkpoint_dir=str(tmp_path)), written.folder.studies)).values()
    )
    entry = contents["activations"]["relu"]
    assert [arm["arm"] for arm in entry["arms"]] == ["none", "distil"]
    assert "nothing without training" in entry["notes"][0]


def test_figure(written, tmp_path):
    figure = plot_remedies.figure({"activations": written.entries})
    assert len(figure.axes) == 1
    offsets = [tuple(c.get_offsets()[0]) for c in figure.axes[0].collections]
    expected = [(arms.mean_loss(a), arms.mean_pd(a)) for a in written.arms]
    np.testing.assert_allclose(offsets, expected)
    limits = [line.get_xydata() for line in figure.axes[0].lines if line.get_gid() == "interval"]
    none = written.arms[0]
    np.testing.assert_allclose(limits[0][:, 1], significance.mean_pd_interval(none["pd"])[1:])
    np.testing.assert_allclose(limits[1][:, 0], significance.mean_interval(none["losses"])[1:])
    sizes = [float(c.get_sizes()[0]) for c in figure.axes[0].collections]
    assert sizes[1] == pytest.approx(2 * sizes[0])
    distil = written.arms[4]  # its teacher is counted
    assert sizes[4] == pytest.approx(sizes[0] * (1 + distil["time"] / none["time"]))
    for wrong in ({}, {"activations": {"relu": {"reason": "none"}}}):
        with pytest.raises(UserError):
            plot_remedies(wrong, tmp_path)


@pytest.mark.slow
def test_a_study_with_a_remedy_runs_as_any_other(base, tmp_path, monkeypatch):
    """Workers, audit, results: from the command line."""
    monkeypatch.chdir(tmp_path)
    flags = as_flags(base, *"preset n_embd max_iters eval_interval warmup_iters dataset data_dir device".split())
    command = ["--activation", "relu", "--study", "warm", "--trials", "2"]
    command += ["--remedy", "warm", "--teacher", teacher(base)]
    assert train.main([*command, *flags, "--quiet"]) == 0
    results = storage.read_results("studies/warm/results/relu_results.json")
    assert results["audit"]["passed"] and results["config"]["remedy"] == "warm"
    assert all(t["initial_loss"] < 0.8 * math.log(results["dataset"]["vocab_size"]) for t in results["trials"])
    assert train.main(["--activation", "relu", "--study", "x", "--remedy", "distil", *flags]) == 2
