"""What a person sees: one steady line where somebody looks, nothing of it elsewhere."""

import contextlib
import io
import re
import sys
import time
from types import SimpleNamespace
from unittest import mock

import pytest

import train
from bench import estimates
from cli import duration
from config import Config
from conftest import TINY
from training import progress
from training.forecast import Costs, forecast
from training.pool import Outcome
from training.progress import Display
from training.schedule import total_steps

COSTS = Costs(step=0.05, position=1e-5)
CORPUS = SimpleNamespace(name="a book", info={"characters": 5000}, train=range(4500), val=range(500), vocab_size=60)
SMOKE = Config(preset="smoke", device="cpu", precision="float32")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@contextlib.contextmanager
def looking():
    """Standard error is a terminal, whose line is drawn when it is asked for rather than twice a second."""
    screen = Terminal()
    with mock.patch.object(sys, "stderr", screen), mock.patch.object(progress, "TICK", 1e6):
        yield screen


def announced(display, config=SMOKE, left=None):
    left = left or {("relu", k): 1.0 for k in (1, 2, 3)}
    expected = forecast(config, COSTS, left, 3, 2)
    display.announce(config, left, 3, CORPUS, expected)
    display.phase("training")
    return expected


def step(display, trial, steps, loss, name="relu"):
    display.event({"event": "step", "activation": name, "trial": trial, "step": steps, "loss": loss})


def drawn(display, terminal):
    terminal.seek(0)
    terminal.truncate()
    display.bar._draw()
    return terminal.getvalue().strip("\r ")


def test_nothing_of_the_line_where_nobody_looks(capsys):
    with Display(quiet=False) as display:
        assert display.bar is None
        announced(display)
        step(display, 1, 10, 3.0)
        point = {"train_loss": 3.0, "val_loss": 3.1, "learning_rate": 1e-3, "grad_norm": 1.0}
        display.event({"event": "point", "activation": "relu", "trial": 1, "step": 50, **point})
    out, err = capsys.readouterr()
    assert err == "" and "\r" not in out
    assert out.splitlines()[-1].startswith("relu trial 1 step     50  train 3.0000  val 3.1000")


def test_quiet_is_quiet_on_a_terminal(capsys):
    with looking() as terminal, Display(quiet=True) as display:
        announced(display)
        step(display, 1, 10, 3.0)
    assert terminal.getvalue() == "" and capsys.readouterr().out == ""


def test_the_line_from_start_to_end(capsys):
    with looking() as terminal, Display(quiet=False) as display, display:  # run_study within the command line
        display.phase("loading torch")
        assert drawn(display, terminal) == "loading torch … 0 s"
        expected = announced(display)
        said = capsys.readouterr().out
        assert "3 trials to train (relu), 3 at a time: about " in said
        since = time.monotonic() - display.started  # a busy machine may take a while to come to this line
        assert expected.total - 0.6 <= estimates.announced(said) <= expected.total + since + 0.6
        assert re.fullmatch(r"training +[0-9]+%\|.{20}\| [0-9]:[0-9]{2} left", drawn(display, terminal))
        for trial, loss in ((3, 2.01), (1, 1.98)):
            step(display, trial, 100, loss)
        assert drawn(display, terminal).endswith("left  loss relu #1 1.98 #3 2.01")  # in the order of the trials
        step(display, 2, 10, 3.5)
        shown = drawn(display, terminal)
        assert shown.endswith("left  loss relu #1 1.98 #2 3.50 #3 2.01") and "step/s" not in shown and "?" not in shown
        display.outcome(Outcome("relu", 1, "done"))
        assert "relu trial 1: done\n" in capsys.readouterr().out
        assert drawn(display, terminal).endswith("loss relu #2 3.50 #3 2.01")
        display.phase("measuring")
        assert drawn(display, terminal).startswith("measuring")
    assert terminal.getvalue().endswith("\r") and display.bar is None  # the line is gone


def test_the_share_never_falls():
    with looking(), Display(quiet=False) as display:
        announced(display)
        shares = []
        for steps in range(10, 200, 10):
            step(display, 1, steps, 2.0)
            shares.append(display._now()[0])
            display.outlook.began -= 5 if steps == 100 else 0  # a hold-up
        assert shares == sorted(shares) and shares[-1] <= 0.99
        display.outlook.seen -= 1e4  # nothing heard for hours
        share, _, rest = display._now()
        assert share == 0.99 and rest.startswith("takes longer than expected")
        with mock.patch.object(display.outlook, "left", lambda now: 3725.2):
            assert display._now()[2].startswith("1:02:05 left")


def test_what_was_done_before_is_said_and_is_no_speed(capsys):
    with Display(quiet=False) as display:
        expected = announced(display, left={("relu", 1): 0.25, ("relu", 2): 1.0})
        assert (
            "2 trials to train (relu), 3 at a time (150 of 400 steps are done already): about"
            in capsys.readouterr().out
        )
        step(display, 1, 150, 2.0)  # where it goes on
        assert display.outlook.done["relu", 1] == 0
        step(display, 1, 175, 2.0)
        assert display.outlook.done["relu", 1] == pytest.approx(0.5)
        work = expected.work
        assert work["relu", 1] == pytest.approx(work["relu", 2] / 4)


def test_steps_of_branches_count(capsys):
    config = SMOKE.replace(schedule="trunk")
    steps = total_steps(config)
    assert steps > config.max_iters
    with Display(quiet=False) as display:
        announced(display, config, {("relu", 1): 1.0})
        assert f"200 steps ({steps} with all branches) of" in capsys.readouterr().out
        step(display, 1, config.max_iters, 2.0)
        assert display.outlook.done["relu", 1] == pytest.approx(config.max_iters / steps)


def test_trials_that_others_train_move_the_line_too():
    with looking(), Display(quiet=False) as display:
        announced(display)
        display.elsewhere = lambda name, trial: {2: 120, 3: 0}[trial]
        step(display, 1, 20, 2.0)
        display._now()
        done = display.outlook.done
        assert [done["relu", k] for k in (1, 2, 3)] == pytest.approx([0.1, 0.6, 0])


@pytest.mark.parametrize(
    ("shell", "expected"),
    [(None, False), (SimpleNamespace(config={}), False), (SimpleNamespace(config={"IPKernelApp": {}}), True)],
)
def test_a_notebook_is_a_place_where_somebody_looks(shell, expected, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(progress, "TICK", 1e6)
    assert progress.in_notebook() == expected
    with Display(quiet=False) as display:
        assert (display.bar is not None) == expected
        if expected:
            from tqdm.auto import tqdm

            assert type(display.bar.bar) is tqdm


DURATIONS = [
    (0.4, "0 seconds"), (65, "65 seconds"), (89, "89 seconds"), (90, "1 min 30 s"), (118, "2 minutes"),
    (139, "2 min 20 s"), (597, "9 min 55 s"), (598, "10 minutes"), (1800, "30 minutes"), (7200, "2.0 hours"),
]  # fmt: skip


@pytest.mark.parametrize(("seconds", "said"), DURATIONS)
def test_durations(seconds, said):
    assert duration(seconds) == said
    read = estimates.announced(f"about {said} in all")
    assert abs(read - seconds) <= max(0.5, 0.03 * seconds)


@pytest.mark.slow
def test_on_a_real_terminal(smoke_config, corpus_file):
    """A run from its first character to its last, as bench/estimates.py records it."""
    # long enough for the line, which is drawn twice a second, to show a loss on any machine
    longer = {**TINY, "max_iters": 600, "eval_interval": 200}
    kept = {**longer, "dataset": corpus_file, "device": "cpu", "activation": "relu", "trials": 2, "workers": 1}
    folders = {name: getattr(smoke_config, name) for name in ("data_dir", "results_dir", "plots_dir", "checkpoint_dir")}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**kept, **folders}.items()]
    done = estimates.run(["train.py", *flags])
    assert done.status == 0, done.text[-2000:]
    assert 0 < done.announced < 600
    assert "left  loss relu #1 " in done.text and "?" not in done.text
    assert any(
        phase in done.text for phase in ("measuring", "drawing", "comparing")
    )  # each may be over between two looks
    assert estimates.shown(done.text).startswith("done in ")
    again = estimates.run(["train.py", *flags])  # nothing left to do
    assert again.status == 0 and again.announced is None and "relu: results in " in again.text


def test_an_interrupt_leaves_the_terminal_in_order():
    with looking() as terminal, pytest.raises(train.Interrupted), Display(quiet=False) as display:
        announced(display)
        raise train.Interrupted("stopped")
    assert display.bar is None and terminal.getvalue().endswith("\r")
