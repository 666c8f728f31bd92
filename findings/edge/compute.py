"""Compute the tables of PLAN2.md, in its order, for as long as there is time; run it again to go on.

    python findings/edge/compute.py --hours 1.5       # stops by itself after a cell, with everything saved
    python findings/edge/compute.py --publish         # what there is, compact, to findings/edge/measured

Everything is below studies/edge, or where EDGE says: one JSON for each cell of click models, one for each seed of a
cell of decoders. Nothing about outcomes is printed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE.parent / "control"), str(HERE)]

import clicked
import decoder
import judge
import numpy as np
import torch
from critical import critical_rate

import storage
from training.machine import environment

FOLDER = Path(os.environ.get("EDGE", ROOT / "studies" / "edge"))
MEASURED = HERE / "measured"
ALL = ("relu", "gelu", "smelu_1", "smelu_05", "swish", "leaky_relu", "smelu_2")
FIRST = ALL[:3]
TWO = ("relu", "gelu")
CONTROL = ("relu", "smelu_05", "gelu", "swish")
CLICK_RATES = (3e-4, 1e-3, 2e-3, 5e-3, 1e-2, 1.4e-2, 2e-2, 2.8e-2, 4e-2, 1e-1)
SMALL_RATES = (3e-4, 1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3, 1.2e-2, 2e-2, 3e-2)
SMOOTH = ("gelu", "smelu_1", "smelu_05", "swish", "smelu_2")
AROUND = (3e-3, 4e-3, 6e-3, 8e-3)  # rates of S1 that hold every critical rate of a smooth activation and its interval
TABLES = ("C1", "C2", "K1", "S1", "L", "M", "Q", "H", "P", "T", "N")
FIRST_SEEDS = {"S1": 30000, "L": 31000, "M": 32000, "Q": 33000, "H": 34000, "P": 35000, "T": 36000}


def clicks_cells(table: str) -> list[tuple[dict, list[int]]]:
    """The cells of a table's click models, each with its seeds."""
    cells: list[dict]
    if table == "C1":
        cells = [
            {"model": "click", "activation": a, "rate": 3e-3, "vary": vary, "rungs": []}
            for vary, a in itertools.product(("weights", "weights and order"), CONTROL)
        ]
        seeds = range(20000, 20024)
    elif table == "C2":
        cells = [
            {"model": "flights", "activation": a, "rate": 3e-3, "vary": vary, "times": times, "rungs": []}
            for vary, times, a in itertools.product(("weights", "weights and order"), (1, 0.25, 0.5, 2, 4), CONTROL)
        ]
        seeds = range(20100, 20116)
    elif table in ("K1", "N"):
        model, activations = ("click", ALL) if table == "K1" else ("click + norm", (*CONTROL[:3], "leaky_relu"))
        cells = [
            {"model": model, "activation": a, "rate": rate, "rungs": ["bit"]}
            for a, rate in itertools.product(activations, CLICK_RATES)
        ]
        start = 21000 if table == "K1" else 24000
        seeds = range(start, start + 16)
    elif table == "L":
        cells = [
            {"model": model, "activation": a, "rate": rate, "rungs": list(clicked.RUNGS)}
            for model, rate, a in itertools.product(("click", "click + norm"), (3e-3, 4e-2), (*CONTROL, "smelu_1"))
        ]
        seeds = range(22000, 22016)
    else:  # T
        cells = [
            {"model": "click", "activation": a, "rate": rate, "times": times, "rungs": ["bit"]}
            for times, a, rate in itertools.product((0.25, 4, 16), CONTROL[:3], (1e-3, 5e-3, 1e-2, 2e-2, 4e-2))
        ]
        seeds = range(23000, 23008)
    return [({"table": table, **cell}, list(seeds)) for cell in cells]


def decoder_cells(table: str, some: tuple[str, ...] = ALL) -> list[dict]:
    """The cells of a table's decoders. H's need what S1 has so far."""
    if table == "S1":
        cells = _cells("small", some, SMALL_RATES)
    elif table == "L":
        cells = _cells("small", FIRST, (1e-3, 1.2e-2), kind="ladder")
    elif table == "M":
        cells = _cells("small", TWO, (1e-3, 1.2e-2), kind="machines")
    elif table == "Q":
        cells = _cells("quick", TWO, (1e-3, 2e-3, 5e-3))
    elif table == "H":
        cells = _cells("wide", TWO, held_out()["rates"], dataset=decoder.LIBRARY)
    elif table == "P":
        cells = [
            cell
            for kernels in (False, True)
            for cell in _cells("small", TWO, (1e-3, 3e-3, 8e-3), precision="bfloat16", native=kernels)
        ]
    else:  # T
        cells = [cell for steps in (1300, 2600) for cell in _cells("small", TWO, (1e-3, 3e-3, 8e-3), steps=steps)]
    return [{"table": table, **cell} for cell in cells]


def _cells(model: str, activations: tuple[str, ...], rates, kind: str = "twins", **more) -> list[dict]:
    return [
        {"model": model, "activation": a, "rate": rate, "kind": kind, **more}
        for rate, a in itertools.product(rates, activations)
    ]


def held_out() -> dict:
    """GELU's critical rate g in S1 as it was when this was first asked for, and the rates g/3 and 3g; recorded then."""
    if (MEASURED / "H.json").exists():
        return storage.read_json(MEASURED / "H.json")["prediction"]
    path = FOLDER / "H" / "prediction.json"
    if not path.exists():
        cells = [published_cell(cell) for cell in decoder_cells("S1", ("gelu",))]
        g = critical_rate([cell for cell in cells if cell["seeds"]])["rate"]
        if g is None:
            raise SystemExit("H: GELU has no critical rate within the grid of S1, so the rule predicts nothing")
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write_json(path, {"critical_rate": g, "rates": [round(g / 3, 7), round(3 * g, 7)]})
    return storage.read_json(path)


def seed_of(table: str, k: int) -> int:
    return FIRST_SEEDS[table] + 10 * k


def name_of(cell: dict) -> str:
    parts = [cell["model"], cell["activation"], f"{cell['rate']:g}"]
    parts += [str(cell[key]) for key in ("vary", "times", "steps", "precision") if key in cell]
    return "_".join([*parts, *(["kernels"] if cell.get("native") else [])]).replace(" ", "-")


def units(only: str | None = None) -> Iterator[tuple]:
    """What is computed, in order: ("clicks", cell, seeds) and ("decoder", cell, seed), or one kind of them."""

    def clicks_of(table: str, some: tuple[str, ...] = ALL):
        if only == "decoder":
            return
        yield from (("clicks", cell, seeds) for cell, seeds in clicks_cells(table) if cell["activation"] in some)

    def decoders(table: str, numbers: range, some: tuple[str, ...] = ALL):
        if only == "clicks":  # not even asked for: H's rates are settled when its turn has come
            return
        for k in numbers:
            yield from (("decoder", cell, seed_of(table, k)) for cell in decoder_cells(table, some))

    # the plan's order, but for the first sitting, which had a twentieth of a core: the least of each question is first
    yield from clicks_of("C1")
    k1 = [("clicks", *unit) for unit in clicks_cells("K1") if unit[0]["activation"] in TWO]
    if only != "decoder":
        yield from sorted(k1, key=lambda unit: [1e-3, 1e-2, 2e-2, 4e-2, 3e-4, *CLICK_RATES].index(unit[1]["rate"]))
    yield from decoders("S1", range(1), TWO)
    yield from clicks_of("K1", ("smelu_05",))
    yield from decoders("S1", range(2), TWO)
    yield from clicks_of("L", (*TWO, "smelu_05"))
    yield from decoders("M", range(1))
    yield from decoders("S1", range(3), TWO)
    yield from clicks_of("K1")
    yield from clicks_of("L")
    yield from clicks_of("C2")
    yield from decoders("S1", range(3), FIRST)
    for table in ("L", "M", "Q", "H"):
        yield from decoders(table, range(2))
    yield from clicks_of("T")
    yield from clicks_of("N")
    yield from decoders("S1", range(3))
    for table in ("P", "T"):
        yield from decoders(table, range(2))
    yield from decoders("S1", range(5))
    # of the plan's third round what the critical rates rest on comes first
    for table in ("L", "M", "H"):
        yield from decoders(table, range(5))
    if only != "clicks":
        yield from (
            unit for unit in decoders("S1", range(12)) if unit[1]["activation"] in SMOOTH and unit[1]["rate"] in AROUND
        )
    for table in ("P", "Q", "T"):
        yield from decoders(table, range(5))
    yield from decoders("S1", range(12))
    for table in ("L", "M", "Q", "H"):
        yield from decoders(table, range(8))


def path_of(kind: str, cell: dict, seeds) -> Path:
    place = FOLDER / cell["table"] / name_of(cell)
    return place.with_name(f"{place.name}.json") if kind == "clicks" else place / f"{seeds}.json"


def compute(kind: str, cell: dict, seeds) -> None:
    """One unit, unless it is there."""
    path = path_of(kind, cell, seeds)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "clicks":
        found, p = clicked.record(cell, seeds)
        if not cell["rungs"]:  # the control's predictions are judged as dumps
            np.save(path.with_suffix(".npy"), p.astype(np.float32))
    else:
        found, p = _gone_on_with(cell, seeds) or decoder.record(cell, seeds, str(FOLDER / "data"))
        np.save(path.with_suffix(".npy"), p.astype(np.float32))
    path.with_suffix(".tmp").write_text(json.dumps(found), encoding="utf-8")
    path.with_suffix(".tmp").rename(path)


def earlier(cell: dict) -> dict | None:
    """A cell as an earlier sitting published it."""
    path = MEASURED / f"{cell['table']}.json"
    cells = storage.read_json(path)["cells"] if path.exists() else []
    return next((c for c in cells if name_of(c) == name_of(cell)), None)


def _gone_on_with(cell: dict, seed: int) -> tuple[dict, np.ndarray] | None:
    """A seed that is published, with its base trained again for the predictions, which aren't published.

    None where it isn't published, or where the base has other weights here, as it may on another make of processor.
    """
    published = earlier(cell)
    if published is None or seed not in published["seeds"]:
        return None
    i = published["seeds"].index(seed)
    base, p = decoder.record({**cell, "kind": "base"}, seed, str(FOLDER / "data"))
    if not base["weights_sha256"].startswith(published["weights_sha256"][i]):
        print(f"{cell['table']} {name_of(cell)}, seed {seed}: other weights than published; computed anew", flush=True)
        return None
    twins = {
        name: {key: values if key == "steps" else values[i] for key, values in twin.items()}
        for name, twin in published["twins"].items()
    }
    return {**base, "kind": cell["kind"], "loss": published["loss"][i], "twins": twins}, p


# -- to publish ---------------------------------------------------------------------------------------------------


def published_cell(cell: dict) -> dict:
    """A decoder's cell with all seeds there are, and PD between their bases."""
    files = sorted((FOLDER / cell["table"] / name_of(cell)).glob("*.json"))
    if not files and (published := earlier(cell)):
        return published
    records = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    bases = [np.load(path.with_suffix(".npy")).astype(np.float64) for path in files]
    twins: dict[str, dict] = {}
    for r in records:
        for name, twin in r["twins"].items():
            for key, value in twin.items():
                twins.setdefault(name, {}).setdefault(key, []).append(value)
    for twin in twins.values():
        if "steps" in twin:
            twin["steps"] = twin["steps"][0]
    return {
        **cell,
        "seeds": [r["seed"] for r in records],
        "loss": [r["loss"] for r in records],
        "weights_sha256": [r["weights_sha256"] for r in records],
        "pairs": [decoder.pd(bases[i], bases[j]) for i in range(len(bases)) for j in range(i)],
        "twins": twins,
        "seconds": sum(r["seconds"] for r in records),
    }


def judged(cells: list[dict]) -> list[dict]:
    """The control's cells with PD and losses as compare.py finds them in dumps of the predictions.

    Raises:
        ValueError: the two differ by more than the dumps' rounding.
    """
    arms: dict[tuple, list[dict]] = {}
    for cell in cells:
        arms.setdefault((cell["vary"], cell.get("times", 1)), []).append(cell)
    found = []
    for own in arms.values():
        paths = [path_of("clicks", cell, cell["seeds"]).with_suffix(".npy") for cell in own]
        predictions = {cell["activation"]: np.load(path) for cell, path in zip(own, paths, strict=True)}
        data = clicked.data_of(own[0]["model"], 1)
        with tempfile.TemporaryDirectory() as folder:
            matrices, losses = judge.judged(predictions, data.test_clicked, Path(folder))
        for cell in own:
            pd = matrices[cell["activation"]]
            pairs = [float(pd[i, j]) for i in range(len(pd)) for j in range(i)]
            np.testing.assert_allclose(pairs, cell["pairs"], rtol=1e-4)
            found.append({**cell, "pairs": pairs, "loss": losses[cell["activation"]].tolist()})
    return found


def rounded(value):
    """Floats to six significant digits; of checksums the first 16."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value[:16] if isinstance(value, str) and len(value) == 64 else value


def publish(tables: Sequence[str]) -> None:
    """Copy what there is of these to findings/edge/measured, one file for each."""
    MEASURED.mkdir(exist_ok=True)
    machine = storage.read_json(FOLDER / "machine.json")
    for table in tables:
        cells = []
        if table in ("C1", "C2", "K1", "L", "T", "N"):
            paths = [path_of("clicks", cell, seeds) for cell, seeds in clicks_cells(table)]
            new = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
            new = judged(new) if table in ("C1", "C2") else new
            old = (
                earlier(cell) for (cell, _), path in zip(clicks_cells(table), paths, strict=True) if not path.exists()
            )
            cells += [cell for cell in old if cell] + new
        if table in FIRST_SEEDS:
            cells += [cell for cell in map(published_cell, decoder_cells(table)) if cell["seeds"]]
        if not cells:
            continue
        whole = {"table": table, "machine": machine, "cells": rounded(cells)}
        if table == "H":
            whole["prediction"] = held_out()
        path = MEASURED / f"{table}.json"
        path.write_text(json.dumps(whole, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {len(cells)} cells, {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--hours", type=float, default=24.0, help="stop after so many")
    parser.add_argument("--publish", nargs="*", metavar="TABLE", help="copy what there is to findings/edge/measured")
    parser.add_argument("--only", choices=("clicks", "decoder"), help="these networks alone: one process for each kind")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.publish is not None:
        publish(args.publish or TABLES)
        return
    torch.set_num_threads(1)
    if args.alone:
        decoder.alone(json.loads(args.alone))
        return
    ends = time.time() + 3600 * args.hours
    (FOLDER / "data").mkdir(parents=True, exist_ok=True)
    config = decoder.config_of({"model": "small", "rate": 1e-3}, 0, str(FOLDER / "data"))
    storage.write_json(FOLDER / "machine.json", environment(config))
    done = 0
    for kind, cell, seeds in units(args.only):
        if time.time() > ends:
            break
        began = time.time()
        published = (earlier(cell) or {}).get("seeds", [])
        if path_of(kind, cell, seeds).exists() or (seeds == published if kind == "clicks" else seeds in published):
            continue
        for seed in published if kind == "decoder" else ():  # their bases, for the differences from the new one
            compute(kind, cell, seed)
        compute(kind, cell, seeds)
        done += 1
        which = f"seed {seeds}" if kind == "decoder" else f"{len(seeds)} seeds"
        print(f"{cell['table']} {name_of(cell)}, {which} ({time.time() - began:.0f} s)", flush=True)
    print(f"{done} done in this sitting", flush=True)


if __name__ == "__main__":
    main()
