"""The layers of the code: a folder is a layer, an import goes down, never up, and never in a circle, also inside a
function."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up: folders, and the documented modules at the top of the repository. What is on one line may import
# one another, in no circle.
LAYERS = (
    "cli storage",
    "kernels",
    "config",
    "corpora tokenizer prepare_data",
    "activations models model",
    "measures metrics significance",
    "training",
    "audit",
    "analysis",
    "plotting plot_utils",
    "questions",
    "tools train compare analyze_results",
)
LEVEL = {name: level for level, line in enumerate(LAYERS) for name in line.split()}
# the table that the core loops over; it names folders and imports none of them
TABLE = "questions"


def files() -> dict[str, Path]:
    """{module: file} of the project, the scripts of bench/, findings/ and the tests apart."""
    packages = [name for name in LEVEL if (ROOT / name).is_dir()]
    paths = [*ROOT.glob("*.py"), *(path for package in packages for path in (ROOT / package).rglob("*.py"))]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = files()


def imports(source: str) -> set[str]:
    """Every module of the project that the source imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            names |= submodules or {node.module}
    return names & MODULES.keys()


def level(module: str) -> int:
    return -1 if module == TABLE else LEVEL[module.partition(".")[0]]


def climbing(module: str, source: str) -> set[str]:
    return {name for name in imports(source) if level(name) > level(module)}


def test_every_file_has_its_layer():
    assert {name.partition(".")[0] for name in MODULES} == LEVEL.keys()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module):
    assert not climbing(module, MODULES[module].read_text(encoding="utf-8"))


def test_no_circle():
    graph = {name: imports(path.read_text(encoding="utf-8")) - {name} for name, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_a_climbing_import_is_seen():
    for line in ("import train", "def f():\n    from analysis import study", "from analysis.study import Study as S"):
        assert climbing("metrics", line), line
    assert not climbing("train", "import torch.distributed\nfrom analysis import study")


def test_the_top_level_stays_small():
    assert len([name for name in MODULES if "." not in name and not (ROOT / name).is_dir()]) <= 14
