"""A named study remembers itself: `studies/NAME/study.toml` holds the settings, arms and question of its first run.

Later commands with `--study NAME` go on with them, and refuse a flag that contradicts. More trials and further
activations contradict nothing; they are remembered too. The file is one that `--config` takes, as any file with names
that the command line takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Collection
from pathlib import Path

import storage
from analysis.question import asked_of
from config import PLACES, Config, UserError, option, read_toml

FILE = "study.toml"
GROWS = ("activation", "trials_per_activation")  # what a later command may change
FORGOTTEN = {*PLACES, "snapshot_seconds"} - {"data_dir"}  # of one run


def path_of(study: str) -> Path:
    return Path("studies", study, FILE)


def fill_in(args: argparse.Namespace, many: Collection[str]) -> str:
    """Give the command line what it left out: from the file that --config names, and from that of its study. Returns a
    line that says what the study remembered; '' without. `many`: flags whose values stand in a list.

    Raises:
        UserError: a file can't be read or holds something else, or a flag contradicts the study's.
    """
    if args.config:
        _fill(args, read_toml(args.config), many)
        args.config = None
    path = path_of(args.study or "")
    if not args.study or not path.is_file() or args.like:
        return ""
    remembered, given = (
        {**read_toml(path), **_asked(args.study)},
        {name for name, value in vars(args).items() if value is not None},
    )
    filled = _fill(args, remembered, many)
    settings = {name: value for name, value in remembered.items() if name != "activation"}
    theirs = Config(**settings, study=args.study)
    for name in sorted(given & {f.name for f in dataclasses.fields(Config)} - FORGOTTEN - {"data_dir", *GROWS}):
        values = getattr(args, name)
        value = _typed(name, values[0] if name in many else values)
        mine = Config(**{**settings, name: value}, study=args.study)
        if getattr(mine, name) != getattr(theirs, name):
            flag, another = option(name, getattr(mine, name)), f"use another study ({option('study', 'NAME')})"
            if name in ("baseline", "contrast"):  # it changes no training
                another = f"ask it of the results: python analyze_results.py --study {args.study} {flag}"
            raise UserError(
                f"{path}: {name}={getattr(theirs, name)!r} there, {getattr(mine, name)!r} now; leave {flag} out, or "
                f"{another}"
            )
    return f"{path}: going on with {', '.join(filled)}" if filled else ""


def _asked(study: str) -> dict:
    """The question that analyze_results.py asked of its results last: what a report advises to train answers that."""
    asked = asked_of(Path("studies", study, "results"))[-1:]
    return {name: value for question in asked for name, value in question.items() if value}


def _fill(args: argparse.Namespace, values: dict, many: Collection[str]) -> list[str]:
    """Set what is not given; {name: value} as 'name=value'."""
    filled = []
    for name, value in values.items():
        if getattr(args, name) is None:
            listed = [str(x) for x in value] if isinstance(value, list) else value
            setattr(args, name, [listed] if name in many else listed)
            filled.append(f"{name}={' '.join(listed) if isinstance(value, list) else value}")
    return filled


def _typed(name: str, given):
    import cli

    (field,) = (f for f in dataclasses.fields(Config) if f.name == name)
    return cli.given(argparse.Namespace(**{name: given}), [field])[name]


def remember(config: Config, names: list[str]) -> None:
    """Write the file of a named study, or add to it what a later command brought."""
    if config.study is None:
        return
    path, plain = path_of(config.study), Config(preset=config.preset, study=config.study).to_dict()
    values = {"preset": config.preset}
    for name, value in config.to_dict().items():
        if value != plain[name] and name not in FORGOTTEN | {"preset"} | config.automatic:
            values[name] = value
    before = read_toml(path) if path.is_file() else {}
    values["trials_per_activation"] = config.trials_per_activation
    values["activation"] = list(dict.fromkeys([*before.get("activation", []), *names]))
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value is not None]
    storage.write_text(path, "\n".join(lines) + "\n")
