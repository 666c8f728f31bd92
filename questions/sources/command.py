"""Which source of randomness makes the trials differ? One study per source, everything else equal.

`python train.py --activation relu --decompose` trains the trials once for each source of variation alone (initial
weights, data sample and order, dropout where there is any, one bit of one initial weight) and compares their prediction
differences with those of trials in which all sources vary. Summers & Dinneen 2021 (arXiv 2103.04514) found that each
source alone, one bit included, causes nearly as much variation as all together. Their epochs are those of `--sampling
shuffle`: with as many steps as an epoch takes, order varies alone; table and figure say which of the two it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import storage
from analysis.products import Folder
from analysis.results import mean
from config import SOURCES, Config, UserError
from storage import number
from training.batches import WITH_REPLACEMENT, order_explained, order_varies

VARIES = {
    "init": "the initial weights alone differ between trials",
    "order": "which windows are drawn, and when, alone differs between trials",
    "dropout": "dropout alone differs between trials",
    "bit": "one bit of one initial weight alone differs between trials",
    "all": "everything differs between trials, as in the study",
}


def run(session) -> None:
    """What train.py does on --decompose."""
    if session.named is None:
        session.say("relu, the baseline, since no --activation is named")
    for name in session.names:
        print_table(decompose(session.config, name, session.run_study, say=session.say, **session.options))


def sources_of(config: Config) -> dict[str, tuple[str, ...]]:
    """{name: value of `vary`} of the studies to run; dropout only where the model has any."""
    single = [source for source in SOURCES if source != "dropout" or config.dropout]
    return {**{source: (source,) for source in single}, "bit": ("bit",), "all": SOURCES}


def decompose(
    config: Config,
    activation: str,
    run_study: Callable[..., dict],
    say: Callable[[str], None] = lambda text: None,
    **options,
) -> dict:
    """Train and measure every source alone and all together; write the table and the figure.

    Each source has folders of its own below `sources/`; `all` is the study itself when it varies everything.
    `run_study` is train.run_study, and options are its options; the runs of a source are logged as
    [STUDY/]sources/SOURCE/ACTIVATION. `say` is told which source is being trained. Returns {"activation", "sources":
    {name: {"relative_pd": [per pair], "mean", "share_of_all", "top1_mismatch_pct", "avg_val_loss"}}}, which is also in
    `results_dir/{activation}_sources.json`.
    """
    from questions.sources.draw import decomposed_pds, plot_sources

    table, sources = {}, sources_of(config)
    for k, (name, vary) in enumerate(sources.items(), 1):
        say(f"{activation}, source {k} of {len(sources)}: {VARIES[name]}")
        below = None if vary == config.vary else "/".join(filter(None, (config.study, "sources", name)))
        results = run_study(study_of(config, name, vary), [activation], below=below, **options)
        table[name] = vary, results[activation]
    decomposition = decomposed(config, activation, table)
    storage.write_json(Path(config.results_dir) / f"{storage.file_name(activation)}_sources.json", decomposition)
    plot_sources(decomposed_pds(decomposition), activation, config.plots_dir)
    return decomposition


def decomposed(config: Config, activation: str, sources: Mapping[str, tuple[tuple[str, ...], dict]]) -> dict:
    """The table of `decompose`, from {name: (what varies, results of the activation)}."""
    table = {}
    for name, (vary, results) in sources.items():
        pds, mismatches = (
            [p[key] for p in results["reproducibility_metrics"]] for key in ("relative_pd", "top1_mismatch_pct")
        )
        table[name] = {"vary": list(vary), "relative_pd": pds, "mean": mean(pds), "top1_mismatch_pct": mean(mismatches)}
        table[name]["avg_val_loss"] = results["avg_val_loss"]
    whole = table["all"]["mean"]
    for row in table.values():
        row["share_of_all"] = row["mean"] / whole if whole and row["mean"] is not None else None
    tokens = number(sources["all"][1]["dataset"].get("train_tokens"))
    if config.sampling == "shuffle" and "order" in table and tokens:
        settings = config.to_dict()
        table["order"] |= {"varies": order_varies(settings, tokens), "explained": order_explained(settings, tokens)}
    return {"activation": activation, "fingerprint": config.fingerprint(), "sources": table}


def _files(folder: Folder) -> dict[Path, str]:
    """{file of a decomposition: its activation}."""
    paths = storage.listed(folder.results, "*_sources.json")
    return {path: storage.activation_name(path.name.removesuffix("_sources.json")) for path in paths}


def make(folder: Folder) -> dict[Path, object]:
    """The figures."""
    from questions.sources.draw import decomposed_pds, plot_sources

    made = {}
    for path, name in _files(folder).items():
        figure = folder.plots / f"{storage.file_name(name)}_sources.png"
        made[figure] = partial(plot_sources, decomposed_pds(storage.read_json(path)), name)
    return made


def measure(folder: Folder) -> dict[Path, object]:
    """The tables, from the results of single sources.

    Raises:
        UserError: the study of a source has other settings than it must, those of the study but for `vary`.
    """
    made = {}
    for path, name in _files(folder).items():
        config, rows = folder.config(storage.read_results(storage.results_path(folder.results, name))), {}
        for source, vary in sources_of(config).items():
            own = study_of(config, source, vary)
            results = storage.read_results(storage.results_path(own.results_dir, name))
            if results.get("fingerprint") != own.fingerprint():
                differing = own.describe_differences(results.get("config") or {})
                raise UserError(f"{source}: its study has other settings: {differing}")
            rows[source] = vary, results
        made[path] = decomposed(config, name, rows)
    return made


def study_of(config: Config, name: str, vary: tuple[str, ...]) -> Config:
    """The settings of a source's own study, with folders of its own; the study itself, where it varies the same."""
    if vary == config.vary:
        return config
    places = {key: getattr(config, key) for key in ("results_dir", "checkpoint_dir", "plots_dir")}
    return config.replace(vary=vary, study=None, **{key: str(Path(at, "sources", name)) for key, at in places.items()})


def print_table(decomposition: dict) -> None:
    from tabulate import tabulate

    from plotting.one import SOURCE_LABELS

    columns = ("mean", "share_of_all", "top1_mismatch_pct", "avg_val_loss")
    rows = [
        (row.get("varies") or SOURCE_LABELS.get(name, name), *(row[column] for column in columns))
        for name, row in decomposition["sources"].items()
    ]
    headers = ("what varies", "relative PD", "share of all", "top-1 mismatch %", "validation loss")
    print(tabulate(rows, headers=headers, floatfmt=".4f", missingval="—"))
    if explained := about_shares(decomposition):
        print(explained)
    if order := decomposition["sources"].get("order"):
        print(order.get("explained") or WITH_REPLACEMENT)


def about_shares(decomposition: dict) -> str:
    """Why the shares of the single sources sum to more than one, where they do; else ''."""
    alone = [row["share_of_all"] for name, row in decomposition["sources"].items() if name != "all"]
    total = sum(share for share in alone if share is not None)
    if total <= 1:
        return ""
    return (
        f"The shares sum to {total:.2f}: they are not parts of a whole. Whatever makes two trials differ at first, "
        f"training amplifies it until they are about as far apart as any two (Summers & Dinneen 2021); taking one "
        f"source away lowers PD little as long as another is left."
    )
