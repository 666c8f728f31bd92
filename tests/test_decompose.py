"""Sources of variation, one at a time: which is under way, of what activation, and what the shares are."""

import re

import pytest

import activations
import train
from config import Config
from questions.sources import command as decomposing
from synthetic import synthetic_results


@pytest.fixture
def config(tmp_path):
    folders = {name: str(tmp_path / name) for name in ("results_dir", "plots_dir", "checkpoint_dir")}
    return Config(preset="smoke", device="cpu", precision="float32", **folders)


def results_with(pd):
    results = synthetic_results("relu")
    for pair in results["reproducibility_metrics"]:
        pair["relative_pd"] = pd
    return results


def test_each_source_is_said_before_it_is_trained(config):
    log = []

    def run_study(varied, names, **_):
        log.append(varied.vary)
        return {"relu": results_with(0.1)}

    decomposing.decompose(config, "relu", run_study, say=log.append)
    said, trained = log[::2], log[1::2]
    assert trained == [("init",), ("order",), ("bit",), config.vary]
    assert [re.match(r"relu, source (\d) of 4: ", text)[1] for text in said] == list("1234")
    assert "initial weights alone" in said[0] and "one bit" in said[2] and "everything" in said[3]
    with_dropout = decomposing.sources_of(config.replace(dropout=0.1))
    assert set(with_dropout) == set(decomposing.VARIES)


@pytest.mark.parametrize(
    ("alone", "sum_of_shares"), [((0.09, 0.08, 0.07), "2.40"), ((0.05, 0.06, 0.01), "1.20"), ((0.02, 0.03, 0.04), None)]
)
def test_shares_that_sum_to_more_than_one_are_explained(config, alone, sum_of_shares, capsys):
    pds = dict(zip(("init", "order", "bit"), alone, strict=True)) | {"all": 0.1}
    table = {name: ((name,), results_with(pd)) for name, pd in pds.items()}
    decomposing.print_table(decomposing.decomposed(config, "relu", table))
    out = capsys.readouterr().out
    if sum_of_shares is None:
        assert "sum" not in out
    else:
        assert f"The shares sum to {sum_of_shares}: they are not parts of a whole" in out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], ["relu"]), (["--activation", "gelu"], ["gelu"]), (["--activation", "all"], list(activations.STUDY))],
)
def test_one_activation_unless_told_otherwise(flags, expected, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(decomposing, "decompose", lambda config, name, *_, **__: seen.append(name))
    monkeypatch.setattr(decomposing, "print_table", lambda table: None)
    assert train.main(["--decompose", "--preset", "smoke", "--device", "cpu", *flags]) == 0
    assert seen == expected
    assert ("relu, the baseline" in capsys.readouterr().out) == (not flags)
