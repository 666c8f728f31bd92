"""Anyone's models: how much do these seeds, checkpoints, fine-tunes or quantisations differ in what they predict?

    python compare.py --group base runs/base/* --group smooth runs/smooth/* --text my.txt

    from compare import compare_models
    comparison = compare_models({"base": ["runs/base/1", …], "smooth": […]}, text="my.txt", out="comparison")
    comparison.results["base"]["avg_relative_pd"]  # of {group: results}
    comparison.matrix  # a DataFrame over all members

A member is a checkpoint of ours (or a folder of them), a folder that transformers' AutoModelForCausalLM loads, or a
dump of predictions (.npy, .npz, .safetensors, .parquet: see dumps.py). All are compared at the same windows of one text
by the measures of the study; each group becomes a `{group}_results.json` that everything else here reads: tables,
tests, figures, report. OWN_MODELS_GUIDE.md shows how.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

if sys.flags.safe_path:  # python -I and -P leave the program's own folder out
    sys.path.insert(0, str(Path(__file__).resolve().parent))
if __name__ == "__main__" and {"--scores", "--samples"} & set(sys.argv):  # numbers alone, which need no torch
    import cli as streams
    from questions.scores.command import main as scores

    sys.exit(streams.run(lambda: scores(sys.argv[1:])))

if __name__ == "__main__":  # before anything that may be missing is imported
    from cli import require_packages

    require_packages("compare.py")

import cli as streams
from config import Config, Parser, UserError

NUMBERS = (
    "Numbers per seed instead of models: compare.py --scores FILE, or NAME=1.2,1.3 …; see compare.py --scores --help"
)
POSITIONS = 32768


def compare_models(
    groups: Mapping[str, Sequence[str | os.PathLike]],
    text: str | os.PathLike | None = None,
    *,
    out: str | os.PathLike = "comparison",
    positions: int = POSITIONS,
    block_size: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int | None = None,
    tokenizer: str | os.PathLike | None = None,
    targets: str | os.PathLike | None = None,
    trust_remote_code: bool = False,
    max_spool_gb: float = 8.0,
    report: bool = True,
    baseline: str | None = None,
    contrast: Sequence[str] | None = None,
    quiet: bool = True,
):
    """Compare groups of models at the same positions of a text, and write what they say below `out`.

    Args:
        groups: {name: paths}; see `questions.foreign.loaders.find_members` for what a path may be.
        text: a file, folder or glob of text, as a study's corpus may be; needed unless all members are dumps.
        positions: predictions compared, in evenly spaced windows that don't overlap.
        block_size: tokens of context of a window; None: the shortest context among the members, at most 2048. For
            dumps: the rows of one window (None: no windows, and so no standard errors).
        device, dtype: where and in which precision models run; `float32` or `bfloat16`.
        batch_size: windows in one forward pass; None: as many as make 2048 positions on a CPU, 16384 elsewhere, and
            256 MiB of logits, or one.
        tokenizer: a folder or tokenizer.json in the place of those that lie with the models of transformers.
        targets: the .npy of targets for dumps that hold none.
        trust_remote_code: run code that a folder brings.
        max_spool_gb: disk for predictions, below `out`; see questions/foreign/measure.py.
        report: draw the figures and write the report; with two groups or more, their table and tests too.
        baseline: the group that the others are compared with (default: the first); contrast: those compared with it
            together (default: none).

    Returns:
        questions.foreign.results.Comparison. Below `out`, in results: {group}_results.json, matrix.json and matrix.csv,
        results.parquet (a row per member and per pair within a group), and what `report` asks for.

    Raises:
        UserError: nothing to compare, tokenizers or vocabularies differ, and whatever else is wrong with the input.
        storage.StorageError: a checkpoint is damaged, or the disk refuses.
    """
    import torch

    from analysis.question import Question
    from questions.foreign import measure, passage, results, suite, tell, write
    from questions.foreign.member import How
    from training.progress import Display

    _check_groups(groups)
    baseline, contrast = baseline or next(iter(groups)), list(contrast or ())
    Question.of(dict.fromkeys(groups, {}), baseline, contrast)  # refuses what is no group
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype={dtype!r}: must be float32 or bfloat16")
    device = Config(preset="smoke", device=device, precision="float32").device  # which resolves and checks it
    how = How(
        device, dtype, _path(tokenizer, "tokenizer"), bool(trust_remote_code), _path(targets, "targets"),
        None if batch_size is None else _whole(batch_size, "batch_size"), int(max_spool_gb * 2**30),
    )  # fmt: skip
    members = _members(groups, how)
    windows = _positions(members, text, block_size, positions)
    display = Display(quiet)
    with display, torch.inference_mode():
        sizes = f"{streams.counted(len(members), 'member')} in {streams.counted(len(groups), 'group')}"
        display.line(f"{sizes} at {windows.described}")
        for k, member in enumerate(members):
            display.step(f"looking at {member.name}", k, len(members))
            if not member.is_dump:
                measure.look_at(member, windows)
        _check_vocabulary(members)
        spool = Path(out) / "spool"
        evaluator = measure.measure(members, windows, spool, display)
        comparison = results.collected(members, windows, evaluator, text)
        comparison.asked = baseline, contrast
        page = passage.html_of(comparison, members, windows, text, display) if report else ""
        write.write(comparison, Path(out), report, page)
        shutil.rmtree(spool, ignore_errors=True)
        problems = suite.named({group: entry["audit"]["checks"] for group, entry in comparison.results.items()})
        for line in [*(f"audit: {problem}" for problem in problems), *tell.headlines(comparison)]:
            display.line(line)
        verdict = "passed" if comparison.passed else "FAILED"
        display.line(f"audit {verdict}; written: {', '.join(map(str, comparison.written))}")
    return comparison


# -- input --------------------------------------------------------------------------------------------------------


def _check_groups(groups) -> None:
    if not isinstance(groups, Mapping) or not groups:
        raise UserError("groups: name at least one group of models (--group NAME PATH …)")
    for name, paths in groups.items():
        if not isinstance(name, str) or not name.strip() or name.startswith((".", "-")) or set("/\\:\0\n") & set(name):
            raise UserError(f"group {name!r}: its name becomes a file's; give a plain name without slashes or colons")
        if isinstance(paths, (str, os.PathLike)) or not list(paths):
            raise UserError(f"group {name!r}: must be a list of one or more paths")


def _whole(value, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name}={value!r}: must be a whole number of at least 1")
    return value


def _path(path, name: str) -> str | None:
    if path is not None and not Path(path).exists():
        raise UserError(f"{name}={os.fspath(path)!r}: no such file or folder")
    return None if path is None else os.fspath(path)


def _positions(members, text, block_size: int | None, positions: int):
    """Where the members are compared: the rows of dumps, or windows of the text."""
    from corpora.reading import file_source
    from questions.foreign import windows

    if all(m.is_dump for m in members):
        return windows.of_dumps(members, block_size)
    if text is None:
        raise UserError("text: models need a text to predict; name a file, folder or glob (--text PATH)")
    pieces = file_source(os.fspath(text), None, "text").pieces()
    return windows.of_text(members, "".join(pieces), block_size, _whole(positions, "positions"))


def _members(groups, how) -> list:
    """All members, with their names."""
    from questions.foreign.loaders import find_members

    members, group_of = [], {}
    for group, paths in groups.items():
        for member in find_members(list(paths), how):
            place = os.path.realpath(member.path)
            if place in group_of:
                raise UserError(f"{member.path}: given twice, in {group_of[place]} and in {group}")
            group_of[place] = member.group = group
            member.name = _name(member, {m.name for m in members})
            members.append(member)
    partly = [m for m in members if m.is_top_k]
    if 0 < len(partly) < len(members):
        raise UserError(f"{partly[0].path}: holds the most likely tokens only; compare it with others of its kind")
    return members


def _name(member, taken: set[str]) -> str:
    """group/what the path ends in, with as much of the path as tells members apart; the run that a checkpoint-N of
    Trainer is of."""
    parts = Path(member.path).with_suffix("").parts if member.kind == "checkpoint" else Path(member.path).parts
    least = 2 if parts[-1].startswith("checkpoint-") else 1
    names = (f"{member.group}/{'/'.join(parts[-length:])}" for length in range(least, len(parts) + 1))
    return next((name for name in names if name not in taken), f"{member.group}/{member.path}")


def _check_vocabulary(members) -> None:
    """Members of one vocabulary; models of one tokenizer may have padded it differently."""
    first = members[0]
    for member in members[1:]:
        if member.vocab_size != first.vocab_size and (member.is_dump or first.is_dump):
            raise UserError(
                f"{first.name} predicts {first.vocab_size} tokens, {member.name} {member.vocab_size}: distributions "
                f"over different vocabularies can't be compared"
            )


# -- the command line ---------------------------------------------------------------------------------------------


def exceeded(comparison, pd: float | None = None, mismatch: float | None = None, worse: bool = False) -> list[str]:
    """What a comparison is refused for, in words: [] where it keeps within all limits.

    Args:
        pd, mismatch: the largest relative PD, and the largest share of likeliest tokens (percent) that may differ
            between two members of a group or, where every group is one model, between any two.
        worse: whether the last group's loss may not be above the first's by more than chance explains (one-sided, 5 %):
            of single models over windows of the text, of several by Welch's test.
    """
    pairs = [p for p in comparison.pairs if p["within"]] or comparison.pairs
    problems = []
    for key, limit, unit in (("relative_pd", pd, ""), ("top1_mismatch_pct", mismatch, " %")):
        largest = max(pairs, key=lambda p: p[key], default=None)
        if limit is not None and largest and largest[key] > limit:
            names = f"{largest['a']} and {largest['b']}"
            problems.append(f"{names} differ by {largest[key]:.4g}{unit}, at most {limit:g}{unit} is allowed")
    if worse and len(comparison.results) > 1:
        from questions.foreign.results import loss_increase

        first, last = list(comparison.results)[0], list(comparison.results)[-1]
        increase, p = loss_increase(comparison.results[first]["trials"], comparison.results[last]["trials"])
        if increase > 0 and p < 0.05:
            problems.append(f"the loss of {last} is {increase:.4f} nats/token above that of {first} (p = {p:.2g})")
    return problems


@streams.answers("compare.py", "interrupted; what was finished is kept: the same command goes on")
def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status: 0 fine; 1 a check failed, a limit was exceeded, or a file is damaged; 2 wrong
    input; 130 interrupted."""
    parser = Parser(prog="compare.py", description="How much models differ in what they predict.", epilog=NUMBERS)
    flag, above_0 = parser.add_argument, _number(int)
    members = "a group's name and its members: our checkpoints, folders of transformers, or dumps of predictions"
    flag("--group", nargs="+", action="append", metavar=("NAME", "PATH"), default=[], help=members)
    flag("paths", nargs="*", help=argparse.SUPPRESS)  # models without a group's name
    flag("--text", help="the text to predict: a file, folder or glob")
    flag("--out", default="comparison", help="where to write (default: comparison)")
    flag("--positions", type=above_0, default=POSITIONS, help=f"predictions compared (default: {POSITIONS})")
    flag("--block-size", type=above_0, help="tokens in a window (default: the shortest context, at most 2048)")
    flag("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    flag("--dtype", default="float32", help="float32 or bfloat16 (default: float32)")
    flag("--batch-size", type=above_0, help="windows in one forward pass (default: what makes 2048 positions)")
    flag("--tokenizer", metavar="PATH", help="a tokenizer.json or folder, for models without their own")
    flag("--targets", metavar="FILE", help="targets of dumps that hold none (.npy)")
    flag("--max-spool-gb", type=_number(float), default=8.0, help="disk for predictions on their way (default: 8)")
    flag("--trust-remote-code", action="store_true", help="run code that a folder of transformers brings")
    flag("--baseline", metavar="NAME", help="group that the others are compared with (default: the first)")
    flag("--contrast", nargs="+", metavar="NAME", help="groups that are compared with it together")
    flag("--no-report", action="store_false", dest="report", help="write the results alone: no figures, no report")
    flag("--quiet", action="store_true", help="print nothing but errors")
    flag = parser.add_argument_group("limits, which end it with 1").add_argument
    share, percent = _number(float, 1, zero=True), _number(float, 100, zero=True)
    flag("--fail-above", type=share, metavar="PD", help="two models differ by more")
    flag("--fail-above-mismatch", type=percent, metavar="PERCENT", help="more of their likeliest tokens differ")
    flag("--fail-if-worse", action="store_true", help="the last group's loss is above the first's")
    options = vars(parser.parse_args(argv))
    group, paths = options.pop("group"), options.pop("paths")
    pd, mismatch, worse = (options.pop(name) for name in ("fail_above", "fail_above_mismatch", "fail_if_worse"))
    if paths:
        raise UserError(f"{paths[0]}: of which group? Did you mean --group NAME {' '.join(paths)}")
    if worse and len(group) < 2:
        raise UserError("fail_if_worse: needs two groups: the last one's loss is compared with the first one's")
    comparison = compare_models(_groups(group), **options)
    problems = exceeded(comparison, pd, mismatch, worse)
    for problem in problems:
        print(f"compare.py: {problem}", file=sys.stderr)
    return 0 if comparison.passed and not problems else 1


def _groups(given: list[list[str]]) -> dict[str, list[str]]:
    groups = {}
    for name, *paths in given:
        if name in groups:
            raise UserError(f"group {name!r}: given twice; name all its members after one --group")
        groups[name] = paths
    return groups


def _number(kind: type, largest: float = float("inf"), zero: bool = False) -> Callable:
    """What argparse makes of a flag's text: a number above 0, or of 0 on."""

    def parsed(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} must be a number") from None
        if not (value >= 0 if zero else value > 0) or value > largest or value == float("inf"):
            limit = f"of 0 to {largest}" if zero else "above 0"
            raise argparse.ArgumentTypeError(f"{text!r} must be {limit}")
        return value

    return parsed


if __name__ == "__main__":
    sys.exit(streams.run(main))
