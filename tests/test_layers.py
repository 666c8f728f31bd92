"""The layers of the code: an import goes down, never up, and never in a circle, also inside a function."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up. A module may import what stands on a line above its own, or before it on its own line.
LAYERS = """
storage models.toolchain tools.streams training.schedule training.sampling config
significance analysis.metrics_table metrics training.pairs
models.smelu models.own_code tokenizer
corpora.source corpora.overlap corpora.packed corpora.shakespeare corpora.tables corpora.encodings corpora.hub
corpora.files corpora.reading prepare_data
activations model models.architectures
training.check training.matched_loss training.native training.fused
training.team training.computed training.machine training.batches training.optimiser training.remedies
training.trial training.clock training.predictions
audit
training.pool training.ranks training.forecast training.experiment training.progress
analysis.positions analysis.sequential analysis.results analysis.frontier analysis.checks analysis.study analysis.tables
analysis.markdown analysis.disagreement_page analysis.where analysis.remedies
analysis.clock analysis.looks
plotting.style plotting.one plotting.several plotting.where plotting.frontier plotting.remedies plotting.clock
plot_utils
analysis.sections analysis.summary analysis.page analysis.report analysis.paper analysis.studies
tools.metrics_guide tools.status tools.sample tools.decompose tools.tensorboard_log tools.huggingface tools.trackers
tools.where tools.remedies tools.clock
tools.checklist tools.verify tools.until_decided tools.doctor
foreign.member foreign.windows foreign.dumps foreign.loaders foreign.suite foreign.measure
analyze_results
train
compare
"""
ORDER = LAYERS.split()
PACKAGES = ("models", "corpora", "training", "analysis", "plotting", "foreign", "tools")


def files() -> dict[str, Path]:
    """{module: file} of the project, the scripts of bench/ and the tests apart."""
    found = [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).glob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in found if path.stem != "__init__"}


def imports(source: str) -> set[str]:
    """Every module of the project that the source imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(ORDER)


def climbing(module: str, source: str) -> set[str]:
    return {name for name in imports(source) if ORDER.index(name) >= ORDER.index(module)}


def test_every_module_has_its_place():
    assert sorted(files()) == sorted(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_go_down(module):
    assert not climbing(module, files()[module].read_text(encoding="utf-8"))


def test_a_climbing_import_is_seen():
    for line in ("import train", "def f():\n    from analysis import study", "from analysis.study import Study as S"):
        assert climbing("metrics", line), line
    assert not climbing("train", "import torch.distributed\nfrom analysis import study")


def test_the_top_level_stays_small():
    assert len([name for name in files() if "." not in name]) <= 13
