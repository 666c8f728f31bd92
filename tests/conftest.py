"""A small corpus with something to learn in it, and settings that train on it in a second."""

import os
import random
import shutil

import hypothesis
import pytest

import programs
import storage
import untouched
from config import Config
from training import pool

# Before torch is imported: the tests run side by side, and threads that wait for one another cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No example has a time limit of its own, and a machine that is busy is none too slow.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
# enough to learn something on the small corpus in a third of a second
TINY = {"preset": "smoke", "n_embd": 32, "max_iters": 60, "eval_interval": 20, "warmup_iters": 5}
# `TESTS=full pytest` tries all random cases of the long tests; by default a fifth of them, or fewer
FULL = os.environ.get("TESTS") == "full"
SYLLABLES = [c + v for c in "bdfghklmnprst" for v in "aeio"]


def as_flags(config, *names) -> list[str]:
    """Settings of a config as flags of the command line."""
    return [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in names]


def saved_trial(config, k, activation="relu") -> dict:
    """The contents of a trial's checkpoint."""
    return storage.load_checkpoint(storage.checkpoint_path(config.checkpoint_dir, activation, k))


def problems_of(folder) -> dict[str, list[str]]:
    """{file: what --verify finds wrong with it} of a study, products.Folder."""
    from analyze_results import all_products
    from tools.verify import verify

    return {file.name: file.problems for file in verify(folder, all_products())}


def speaking_utf8() -> dict[str, str]:
    """The environment of a process whose streams are UTF-8, whatever the terminal's are here."""
    return {**os.environ, "PYTHONIOENCODING": "utf-8"}


def cases(all_of_them: int, part: int = 5) -> int:
    """How many random cases a long test tries: by default one in `part`."""
    return all_of_them if FULL else all_of_them // part


def pseudo_english(characters: int, seed: int = 0) -> str:
    """Dialogue in an invented language: words of a Zipf-like vocabulary, each followed by some words rather than
    others, in sentences with capitals and full stops, under the names of speakers."""
    rng = random.Random(seed)
    words = sorted({"".join(rng.choices(SYLLABLES, k=rng.choice((1, 2, 2, 3)))) for _ in range(160)})
    rng.shuffle(words)
    weights = [1 / (rank + 1) for rank in range(len(words))]
    followers = {word: rng.choices(words, weights, k=6) for word in words}
    speakers = ["KALO", "MERI", "DOTA"]
    parts, length = [], 0
    while length < characters:
        lines = [rng.choice(speakers) + ":"]
        for _ in range(rng.randint(1, 3)):
            word, sentence = rng.choices(words, weights)[0], []
            for _ in range(rng.randint(3, 9)):
                sentence.append(word)
                word = rng.choice(followers[word])
            lines.append(" ".join(sentence).capitalize() + rng.choice(".....?!"))
        parts.append("\n".join(lines) + "\n\n")
        length += len(parts[-1])
    return "".join(parts)[:characters]


# Files that take longest begin first, so that no worker is left alone with one of them at the end.
LONGEST = ("test_robustness", "test_docs", "test_until_decided", "test_results_fuzz", "test_compare", "test_verify")


def pytest_addoption(parser, pluginmanager):
    """Without xdist (`-p no:xdist`) the options that pyproject.toml gives it mean nothing, and are no error."""
    if not pluginmanager.hasplugin("xdist"):
        group = parser.getgroup("xdist")
        group._addoption("-n", "--dist", dest="ignored")
        group._addoption("--no-loadscope-reorder", action="store_true")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One worker per usable core, hyperthreads too; more than eight would only wait for the longest file."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else min(8, pool.usable_cores())


def pytest_collection_modifyitems(items):
    last = len(LONGEST)
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else last)


untouched.watch()


@pytest.fixture(autouse=True, scope="session")
def _elsewhere(tmp_path_factory):
    """The default folders are relative: no test begins where they would be the checkout's."""
    folder = tmp_path_factory.mktemp("elsewhere")
    os.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def _nothing_left_behind(_elsewhere):
    """Nor do tests see what others left in default folders: who wants those goes to a folder of its own."""
    yield
    left = os.listdir(_elsewhere)
    for name in left:  # the next test begins as this one did
        path = _elsewhere / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert not left, f"written to a default folder: {left}; use monkeypatch.chdir(tmp_path)"


@pytest.fixture(autouse=True, scope="session")
def _forked_workers():
    """Workers are forked from a server that has imported torch; tests of a start itself run whole programs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "subprocess", programs.FORKING)
        yield


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory):
    """60 kB of text in a file."""
    path = tmp_path_factory.mktemp("corpus") / "dialogue.txt"
    path.write_text(pseudo_english(60_000), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Prepared corpora, shared by all tests."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def smoke_config(tmp_path, corpus_file, data_dir):
    """The smoke preset on the small corpus, on the CPU, with every folder to itself but that of prepared corpora."""
    return Config(
        **TINY,
        dataset=str(corpus_file),
        data_dir=str(data_dir),
        results_dir=str(tmp_path / "results"),
        plots_dir=str(tmp_path / "plots"),
        checkpoint_dir=str(tmp_path / "checkpoints"),
        device="cpu",
    )


class Evil:
    """Unpickled, it would run a command that leaves a file."""

    def __init__(self, proof):
        self.proof = str(proof)

    def __reduce__(self):
        return (os.system, (f"touch {self.proof}",))


def damage(rng, data, kinds=("truncate", "flip", "zero", "delete")):
    """Damages bytes in one of these ways; says which."""
    kind, place, length = rng.choice(kinds), rng.randrange(len(data)), rng.randrange(1, 200)
    if kind == "truncate":
        del data[place:]
    elif kind == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == "delete":
        del data[place : place + length]
    return kind
