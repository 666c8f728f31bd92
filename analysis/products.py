"""What is made of a study: rows of one table. Writing, verifying, drawing again, the checklist and the report go
through it and know no row by name.

A product is made in one or two steps. What only checkpoints can tell is *measured* first and kept as JSON beside the
results; texts and figures are *made* of the results and that JSON, at any time, without a checkpoint. The core's rows
are in plot_utils and analyze_results, those of a further question in questions/NAME/__init__.py.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import questions
import storage
from config import Config, RunFailed, UserError, option

if TYPE_CHECKING:
    from analysis.records import Trial
    from analysis.study import Study

# drawing(folder, formats=…) writes a figure and returns the path of the first format: a functools.partial of plot_…
Drawing = Callable[..., Path]
DATA = "Data-SHA256"  # the text in a figure that says what it was drawn from


@dataclass
class Folder:
    """A study on the disk: its folders, and where other studies are."""

    results: Path
    plots: Path
    checkpoints: Path = Path("checkpoints")
    data: Path = Path("data")
    studies: Path = Path("studies")

    @classmethod
    def of(cls, config: Config, studies: str | os.PathLike = "studies") -> Folder:
        names = config.results_dir, config.plots_dir, config.checkpoint_dir, config.data_dir, studies
        return cls(*map(Path, names))

    @classmethod
    def holding(cls, study: Study, results: Path, plots: Path) -> Folder:
        """A folder whose results are those at hand, whatever lies there."""
        folder = cls(results, plots)
        folder.study = amended(study, results)
        return folder

    @cached_property
    def study(self) -> Study:
        """The study of the results.

        Raises:
            UserError: there are none, or they are of different settings.
            StorageError: a file is damaged.
        """
        return read_study(self.results)

    def config(self, results: Mapping) -> Config:
        """The settings that results record, with these folders.

        Raises:
            UserError: they record none, or not those of their fingerprint.
        """
        if "config" not in results or "fingerprint" not in results:
            raise UserError("it records no settings: another tool's file, nothing to derive it from")
        places = {"results_dir": self.results, "plots_dir": self.plots, "checkpoint_dir": self.checkpoints}
        places = {name: str(path) for name, path in {**places, "data_dir": self.data}.items()}
        config = Config.from_dict({**results["config"], "study": None, **places})
        if config.fingerprint() != results["fingerprint"]:
            raise UserError("its fingerprint is not that of the settings it records")
        return config

    def drawn(self, name: str) -> dict[str, Path]:
        """{its address in the report: a figure or page}; {} where it isn't there."""
        from analysis.markdown import address

        path = self.plots / name
        return {address(path, self.results): path} if path.is_file() else {}


def refuse_unknown_study(config: Config) -> None:
    """Raises UserError where the named study has no folder, with the name that was probably meant."""
    folder = Path(config.results_dir).parent
    if config.study and not storage.listed(folder.parent, folder.name):
        names = [path.name for path in storage.listed(folder.parent) if path.is_dir()]
        meant = difflib.get_close_matches(config.study, names, 1, 0.5)
        hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(names) or 'none'}"
        raise UserError(f"{option('study', config.study)}: no such study in {folder.parent}; {hint}")


def amended(study: Study, folder: str | os.PathLike) -> Study:
    """The study with what its folder records about it beside the results."""
    for amend in questions.hooks("AMENDED"):
        study = amend(study, folder)
    return study


def read_study(folder: str | os.PathLike) -> Study:
    """The study of a folder of results, as `Folder.study`."""
    from analysis.results import load_all_results
    from analysis.study import Study

    return amended(Study(load_all_results(folder)), folder)


@dataclass(frozen=True)
class Section:
    """Lines of Markdown for the report. `images`: {link in them: file}; `inserts`: {a comment among them: the HTML that
    stands in its place in the page}."""

    lines: list[str]
    images: Mapping[str, Path] = field(default_factory=dict)
    inserts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Product:
    """One row.

    Attributes:
        make: {path: its text, or the drawing of a figure} of what the results and the measured files give.
        needs: a pattern below the results; where nothing matches, the study has no such product. '': every study has.
        measure: {path: its contents} of the JSON that checkpoints give; None for what is made of results alone.
            Raises config.RunFailed where they give nothing.
        weights: whether that takes the checkpoints.
        section: of the report, None where there is nothing to tell; it stands at the end of the part called `part`.
        flag, help: the mode of analyze_results.py that makes it; without one it is made with the results.
        overview: what that mode prints.
        note: of what is measured, what can't be derived again.
    """

    name: str
    make: Callable[[Folder], Mapping[Path, str | Drawing]] = lambda folder: {}
    needs: str = ""
    measure: Callable[[Folder], Mapping[Path, object]] | None = None
    weights: bool = False
    section: Callable[[Folder], Section | None] | None = None
    part: str = "Key Findings"
    flag: str = ""
    help: str = ""
    overview: Callable[[Folder], str] = lambda folder: ""
    note: str = ""

    def there(self, folder: Folder) -> bool:
        return not self.needs or any(folder.results.glob(self.needs))


def write(product: Product, folder: Folder) -> list[Path]:
    """Write what is made of the results and of what was measured before; the paths."""
    paths = []
    for path, made in product.make(folder).items():
        if isinstance(made, str):
            storage.write_text(path, made)
        else:
            made(path.parent, formats=(path.suffix[1:],))
        paths.append(path)
    return paths


def update(product: Product, folder: Folder) -> list[Path]:
    """Measure what there is to measure, and write everything of the product; the paths.

    Raises:
        RunFailed: there is nothing to measure; nothing is written.
    """
    measured = product.measure(folder) if product.measure else {}
    for path, contents in measured.items():
        storage.write_json(path, contents, compact=True)
    return [*measured, *write(product, folder)]


def is_of(path: Path, made: str | Drawing) -> bool:
    """Whether a file is what would be made now: the text, or a figure drawn from the same data."""
    if isinstance(made, str):
        return storage.read_bytes(path).decode("utf-8", errors="replace") == made
    return drawn_from(path) == made.func.data_of(*made.args, **made.keywords)


def drawn_from(figure: Path) -> str:
    """The checksum of its data that a figure of plot_utils carries; '' where there is no such figure."""
    from PIL import Image

    try:
        if figure.suffix == ".png":
            with Image.open(figure) as opened:
                return str(opened.info.get(DATA, ""))
        carried = re.search(rf"{DATA} ([0-9a-f]{{64}})".encode(), figure.read_bytes())
        return carried[1].decode() if carried else ""
    except (OSError, SyntaxError, ValueError):
        return ""


def draw(products: Iterable[Product], folder: Folder, to: Path, formats: Iterable[str]) -> list[Path]:
    """Draw the figures of the products that are there, all in one folder; the paths in the first format."""
    made = [drawing for product in products if product.there(folder) for drawing in product.make(folder).values()]
    return [drawing(to, formats=formats) for drawing in made if not isinstance(drawing, str)]


def sections(folder: Folder) -> dict[str, list[Section]]:
    """{part of the report: the sections of further questions that stand at its end}."""
    by_part: dict[str, list[Section]] = {}
    for product in questions.hooks("PRODUCTS"):
        section = product.section(folder) if product.section and product.there(folder) else None
        if section and section.lines:
            by_part.setdefault(product.part, []).append(section)
    return by_part


# -- the JSON of what was measured of each activation --------------------------------------------------------------


def identity(results: Mapping) -> dict | None:
    """What an entry was measured on: settings, and the checkpoints of the finished trials; None where the results don't
    record them."""
    from analysis.results import Measured

    trials = Measured(results["activation"], dict(results)).trials
    checkpoints = {str(k): (t.value("checkpoint") or {}).get("sha256") for k, t in trials.items()}
    if not results.get("fingerprint") or None in checkpoints.values():
        return None
    return {"fingerprint": results["fingerprint"], "checkpoints": checkpoints}


def load(path: Path, schema: str) -> dict:
    """{"schema", "activations": {name: entry}, …} from a file; without entries where it is missing or of another
    schema.

    Raises:
        StorageError: it is damaged.
    """
    contents = storage.read_json(path) if path.is_file() else {}
    if isinstance(contents, dict) and contents.get("schema") == schema:
        entries = contents.get("activations")
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise storage.StorageError(f"{path}: damaged; move it away, and run the command that wrote it again")
        return contents
    return {"schema": schema, "activations": {}}


def entries_of(contents, name: str) -> Mapping[str, dict]:
    """{activation: entry} of the contents of NAME.json.

    Raises:
        UserError: it is something else.
    """
    entries = contents.get("activations") if isinstance(contents, Mapping) else None
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        needed = f"the contents of results/{name}.json are needed, as analyze_results.py --{name} writes it"
        raise UserError(f"{name}: {needed}")
    return entries


def measured(folder: Folder, measure_one: Callable[[str, dict], dict]) -> dict[str, dict]:
    """{activation: its entry, with its identity}; where it can't be measured, the reason.

    Raises:
        RunFailed: none can be; with the reasons.
    """
    entries = {}
    for name, results in folder.study.all_results.items():
        try:
            entries[name] = {"identity": identity(results), **measure_one(name, results)}
        except (UserError, storage.StorageError, ValueError) as error:
            entries[name] = {"identity": identity(results), "reason": " ".join(str(error).split())}
    if all("reason" in entry for entry in entries.values()):
        raise RunFailed("; ".join(dict.fromkeys(f"{name}: {entry['reason']}" for name, entry in entries.items())))
    return entries


def fitting(entries: Mapping[str, dict], all_results: Mapping[str, dict]) -> dict[str, dict]:
    """An entry for each of the results; one that was measured on other checkpoints is only named."""
    fitted = {}
    for name, results in all_results.items():
        fits = name in entries and entries[name].get("identity") == identity(results)
        fitted[name] = entries[name] if fits else {"reason": "not measured on these checkpoints"}
    return fitted


def check_checkpoints(config: Config, name: str, trials: Mapping[int, Trial]) -> None:
    """Raises UserError unless the checkpoints of these trials are the files that were measured."""
    for k, trial in trials.items():
        file = storage.checkpoint_path(config.checkpoint_dir, name, k)
        if not file.exists():
            raise UserError(f"{file}: no such file; --checkpoint-dir says where the trained models are")
        if storage.sha256_file(file) != (trial.value("checkpoint") or {}).get("sha256"):
            raise UserError(f"{file}: not the checkpoint that was measured (its checksum differs)")
