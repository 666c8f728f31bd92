"""How fast is a three-trial experiment, and what would it have taken elsewhere?

    python bench/train_throughput.py --text tiny_shakespeare.txt --nanogpt ~/nanoGPT --repeats 3 --json figures.json

Measures, in turn and side by side in one run, on nanoGPT's CPU recipe (4 layers, 4 heads, width 128, context 64,
12 windows a step, 2000 steps, no dropout):
  ours     `train.py --activation gelu`: from the prepared corpus to the finished JSON, start-up, audit, evaluation and
           all pairs included; the figures that follow are in the column "whole process"
  plain    the same model in eager float32 with torch's AdamW, one trial after another (one trial, times the trials)
  nanoGPT  its own train.py from a checkout, with the command its README gives (one run, times the trials)
The losses are taken by one function on the same evenly spaced windows, so that speed is not bought with accuracy.
Beside them: the matrix-product ceiling of this machine and the fraction of it that training reaches.

    python bench/train_throughput.py --text tiny_shakespeare.txt --nanogpt ~/nanoGPT --to-loss --no-plain

How soon are three trials of the same model at a loss no worse than nanoGPT's? Ours have the quick preset's rate, a
trunk without side branches (`--schedule trunk --branch-points 1`) and as many steps as that takes (--own-steps).

    python bench/train_throughput.py --preset full --json figures.json

Measures instead how fast the steps of a preset are on the device that it would be trained on (a GPU, where there is
one; else --device), eager and compiled, with one trial on the device and with three: tokens/s of all together, model
FLOP/s, and the fraction of the matrix-product ceiling in the same precision, measured beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from tabulate import tabulate

import metrics
import storage
from config import PRESETS, Config
from models.architectures import build_model
from prepare_data import load_corpus
from training import pool
from training.schedule import learning_rate
from training.trial import LOSS_CHECK_STEPS, Batches, Training, own_randomness, torch_settings


def recipe(args, folder: Path, **changes) -> Config:
    """nanoGPT's recipe for the CPU in our settings."""
    nanogpt = {"max_iters": args.steps, "learning_rate": 1e-3, "min_lr": 1e-4, "warmup_iters": min(100, args.steps)}
    nanogpt |= {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1}
    return Config(
        preset="quick", device="cpu", dataset=args.text, data_dir=folder / "data", eval_interval=250,
        trials_per_activation=args.trials, results_dir=folder / "results", plots_dir=folder / "plots",
        checkpoint_dir=folder / "checkpoints", **{**nanogpt, **changes},
    )  # fmt: skip


def own_recipe(args, folder: Path, **changes) -> Config:
    """The same model by our own: the quick preset's, its trunk without side branches."""
    own = dict.fromkeys(("learning_rate", "min_lr", "warmup_iters", "beta1", "beta2", "weight_decay"))
    own |= {"schedule": "trunk", "branch_points": (1.0,), "max_iters": args.own_steps}
    return recipe(args, folder, **(own if args.to_loss else {}), **changes)


def flops_per_token(config: Config, vocab_size: int) -> float:
    """6 per weight of a matrix product, and attention's two products, forward and backward (Kaplan et al. 2020)."""
    matrices = config.n_layer * 12 * config.n_embd**2 + vocab_size * config.n_embd
    return 6 * matrices + 12 * config.n_layer * config.n_embd * config.block_size


def gemm_ceiling(dtype: torch.dtype, threads: int, device: str = "cpu") -> float:
    """FLOP/s of a matrix product, 1024³ on `threads` threads of the CPU or 8192³ on another device, the best of
    several."""
    torch.set_num_threads(threads)
    size, products = (1024, 1) if device == "cpu" else (8192, 10)
    a, b = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    times = []
    for _ in range(15):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(products):
            a @ b
        synchronise(device)
        times.append(time.perf_counter() - start)
    return 2 * size**3 * products / min(times)


def synchronise(device: str) -> None:
    if device != "cpu":
        getattr(torch, device.split(":")[0]).synchronize()


def fixed_loss(model, corpus, config: Config) -> float:
    starts = metrics.evaluation_windows(len(corpus.val), config.block_size, config.eval_tokens)
    return metrics.evaluate_loss(model.eval(), corpus.val, starts, config.block_size, "cpu")[0]


def run_ours(args, folder: Path, precision: str, vocab_size: int, repeat: int) -> dict:
    """Seconds from the prepared corpus to the JSON, and of the whole process. Each repeat has other seeds."""
    config = own_recipe(args, folder, precision=precision, seed_base=1337 + repeat * args.trials)
    for name in ("results", "checkpoints", "plots"):
        shutil.rmtree(folder / name, ignore_errors=True)
    flags = []
    for name, value in config.to_dict().items():
        if value is None or name == "preset":
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags += [flag, *map(str, value)] if isinstance(value, list) else [flag, str(value)]
    path = storage.results_path(config.results_dir, "gelu")
    start = time.time()
    subprocess.run([sys.executable, ROOT / "train.py", "--activation", "gelu", "--quiet", *flags], check=True)
    whole, seconds = time.time() - start, path.stat().st_mtime - start
    results = storage.read_results(path)
    tokens = args.trials * config.max_iters * config.batch_size * config.block_size
    per_core = statistics.median(t["tokens_per_second"] for t in results["trials"])
    return {
        "seconds": seconds,
        "whole_process": whole,
        "tokens_per_second": tokens / seconds,
        "tokens_per_second_per_core": per_core,
        "flops_per_core": per_core * flops_per_token(config, vocab_size),
        "losses": [t["val_loss"] for t in results["trials"]],
    }


def run_plain(args, folder: Path) -> dict:
    """One trial as one would write it first: eager float32, all cores, torch's AdamW on the separate tensors."""
    config = recipe(args, folder, precision="float32")
    corpus = load_corpus(config)
    torch.set_num_threads(pool.usable_cores())
    start = time.perf_counter()
    model = build_model(config, "gelu", corpus.vocab_size, seed=1)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2))
    batches = Batches(corpus.train, config, seed=1)
    for step in range(args.steps):
        for group in adam.param_groups:
            group["lr"] = learning_rate(config, step)
        x, y = batches(step)
        _, loss = model(x, y)
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        adam.step()
    seconds = args.trials * (time.perf_counter() - start)
    return _peer(args, config, seconds, fixed_loss(model, corpus, config))


def run_nanogpt(args, folder: Path, repeat: int) -> dict:
    """nanoGPT's own loop on the same tokens; its last evaluated checkpoint gives the loss. Each repeat has another
    seed, as our trials have: a single run may be lucky."""
    config = recipe(args, folder, precision="float32")
    corpus = load_corpus(config)
    checkout, out = folder / "nanogpt", folder / "nanogpt_out"
    shutil.rmtree(checkout, ignore_errors=True)
    shutil.copytree(args.nanogpt, checkout, ignore=shutil.ignore_patterns(".git"))
    script = checkout / "train.py"  # its seed is no setting
    script.write_text(
        script.read_text(encoding="utf-8").replace("manual_seed(1337 ", f"manual_seed({1337 + repeat} "),
        encoding="utf-8",
    )
    data = checkout / "data" / "shakespeare_char"
    data.mkdir(parents=True, exist_ok=True)
    np.asarray(corpus.train, dtype=np.uint16).tofile(data / "train.bin")
    np.asarray(corpus.val, dtype=np.uint16).tofile(data / "val.bin")
    import pickle

    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": corpus.vocab_size, "itos": {}, "stoi": {}}))
    command = [
        sys.executable, "train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=False",
        "--eval_iters=20", "--log_interval=500", "--block_size=64", "--batch_size=12", "--n_layer=4", "--n_head=4",
        "--n_embd=128", f"--max_iters={args.steps}", f"--lr_decay_iters={args.steps}", "--dropout=0.0",
        f"--eval_interval={min(250, args.steps)}", "--always_save_checkpoint=True", f"--out_dir={out}",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(pool.usable_cores())}
    start = time.perf_counter()
    subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL, env=environment)
    seconds = args.trials * (time.perf_counter() - start)
    saved = torch.load(out / "ckpt.pt", map_location="cpu", weights_only=True)["model"]
    model = build_model(config, "gelu", corpus.vocab_size)
    weights = {n.removeprefix("transformer."): w for n, w in saved.items() if n != "lm_head.weight"}
    model.load_state_dict({n: w for n, w in weights.items() if not n.endswith("attn.bias")})
    return _peer(args, config, seconds, fixed_loss(model, corpus, config))


def _peer(args, config, seconds, loss):
    tokens = args.trials * args.steps * config.batch_size * config.block_size
    return {"seconds": seconds, "tokens_per_second": tokens / seconds, "losses": [loss]}


# -- the steps of a preset ----------------------------------------------------------------------------------------


def one_of_several(settings: dict) -> None:
    """A process that trains: warms up, says that it is ready, waits for a line, and says how long the steps took."""
    config, activation = Config.from_dict(settings["config"]), settings["activation"]
    with torch_settings(config), own_randomness(config.device):
        start = time.perf_counter()
        training = Training(config, activation, 1, load_corpus(config))
        training.model.train()
        training.warm_up()
        warm_up = time.perf_counter() - start
        for step in range(LOSS_CHECK_STEPS):
            training.one_step(step)
        synchronise(config.device)
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.perf_counter()
        for step in range(config.max_iters):
            loss = training.one_step(step)
            if (step + 1) % LOSS_CHECK_STEPS == 0:
                float(loss)  # as in training
        synchronise(config.device)
        seconds = time.perf_counter() - start
    memory = torch.cuda.max_memory_allocated() if config.device.startswith("cuda") else None
    print(json.dumps({"seconds": seconds, "warm_up": warm_up, "memory": memory, "loss": float(loss)}), flush=True)


def side_by_side(config: Config, activation: str, trials: int) -> list[dict]:
    """What `one_of_several` says, of that many processes that begin their steps together."""
    command = [
        sys.executable,
        __file__,
        "--one-of-several",
        json.dumps({"config": config.to_dict(), "activation": activation}),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads)}
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=environment)
        for _ in range(trials)
    ]
    try:
        for process in processes:
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{activation}, compile={config.compile}: a process failed; see above")
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def measure_preset(args) -> None:
    steps = args.steps or 500
    rows, runs = [], []
    with tempfile.TemporaryDirectory() as folder:
        settings = {"preset": args.preset, "device": args.device, "dataset": args.text, "data_dir": f"{folder}/data"}
        if args.precisions:
            settings["precision"] = args.precisions[0]
        config = Config(**settings, max_iters=steps)
        if config.device == "cuda" and torch.cuda.device_count() > 1:
            config = config.replace(device="cuda:0")  # several trials, but one GPU
        corpus = load_corpus(config)
        ceiling = gemm_ceiling(getattr(torch, config.precision), pool.usable_cores(), config.device)
        per_step = config.batch_size * config.block_size
        flops = flops_per_token(config, corpus.vocab_size)
        ways = [args.compile] if args.compile is not None else [False, True][: 1 + config.device.startswith("cuda")]
        for activation in args.activations:
            for compile in ways:
                for trials in args.side_by_side:
                    results = side_by_side(config.replace(compile=compile), activation, trials)
                    seconds = max(r["seconds"] for r in results)
                    tokens = trials * steps * per_step / seconds
                    runs.append({"activation": activation, "compile": compile, "trials": trials, "results": results})
                    row = {
                        "activation": activation,
                        "kernels": "compiled" if compile else "eager",
                        "trials at once": trials,
                        "ms per step": 1000 * seconds / steps,
                        "tokens/s": round(tokens),
                        "TFLOP/s": tokens * flops / 1e12,
                        "of the GEMM ceiling": f"{100 * tokens * flops / ceiling:.1f} %",
                        "warm-up s": max(r["warm_up"] for r in results),
                        "memory GiB": results[0]["memory"] and results[0]["memory"] / 2**30,
                    }
                    rows.append(row)
                    print(", ".join(f"{k} {v}" for k, v in row.items()), file=sys.stderr, flush=True)
        cuda = config.device.startswith("cuda")
        device = torch.cuda.get_device_name(config.device) if cuda else config.device
        print(
            f"{steps} steps of {per_step} tokens, preset {args.preset}, {config.precision}, deterministic="
            f"{config.deterministic}, on {device}; torch {torch.__version__}"
        )
        print(tabulate(rows, headers="keys", floatfmt=".3f", missingval=""))
        whole = PRESETS[args.preset]["max_iters"]
        print(
            f"GEMM ceiling, {config.precision}: {ceiling / 1e12:.3g} TFLOP/s; "
            f"a model of {whole} steps takes {whole * per_step * flops:.2g} floating-point operations"
        )
        if args.json:
            machine = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
            figures = {"machine": machine, "config": config.to_dict(), "rows": rows, "runs": runs, "ceiling": ceiling}
            storage.write_json(args.json, figures)


# -- whole experiments, side by side ------------------------------------------------------------------------------


def run_in_turn(args) -> dict[str, list[dict]]:
    """{experiment: what each repeat measured}; every repeat runs all of them."""
    runs: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = load_corpus(recipe(args, folder))  # prepared beforehand: not part of anybody's time
        jobs = {
            f"ours, {p}": lambda repeat, p=p: run_ours(args, folder, p, corpus.vocab_size, repeat)
            for p in args.precisions
        }
        if not args.no_plain:
            jobs["plain, float32"] = lambda repeat: run_plain(args, folder)
        if args.nanogpt:
            jobs["nanoGPT"] = lambda repeat: run_nanogpt(args, folder, repeat)
        for repeat in range(args.repeats):
            for job, function in jobs.items():
                runs.setdefault(job, []).append(function(repeat))
                print(f"{job}: {runs[job][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    return runs


def table_row(job: str, results: list[dict], reference: str, runs: dict, ceilings: dict[str, float]) -> dict:
    ratios = [r["seconds"] / b["seconds"] for r, b in zip(results, runs.get(reference, results), strict=True)]
    whole, ceiling = [r["whole_process"] for r in results if "whole_process" in r], None
    if "flops_per_core" in results[0]:
        flops = statistics.median(r["flops_per_core"] for r in results)
        ceiling = f"{100 * flops / ceilings[job.removeprefix('ours, ')]:.0f} %"
    return {
        "experiment": job,
        "seconds": statistics.median(r["seconds"] for r in results),
        f"of {reference}": statistics.median(ratios),
        "whole process": statistics.median(whole) if whole else None,
        "tokens/s": round(statistics.median(r["tokens_per_second"] for r in results)),
        "mean loss": statistics.mean(loss for r in results for loss in r["losses"]),
        "worst loss": max(loss for r in results for loss in r["losses"]),
        "GEMM ceiling": ceiling,
    }


def measure_experiments(args) -> None:
    args.steps = args.steps or 2000
    if not args.precisions:
        args.precisions = list(dict.fromkeys([Config(preset="quick", device="cpu").precision, "float32"]))
    runs = run_in_turn(args)
    ceilings = {p: gemm_ceiling(getattr(torch, p), 1) for p in args.precisions}
    reference = "nanoGPT" if args.nanogpt else "plain, float32"
    own = f" (ours {args.own_steps})" if args.to_loss else ""
    rows = [table_row(job, results, reference, runs, ceilings) for job, results in runs.items()]
    print(
        f"{args.trials} trials of {args.steps} steps{own} on {Path(args.text).name}; {pool.usable_cores()} cores; "
        f"torch {torch.__version__}"
    )
    print(tabulate(rows, headers="keys", floatfmt=".3f", missingval=""))
    print("GEMM ceiling, one thread: " + ", ".join(f"{p} {f / 1e9:.0f} GFLOP/s" for p, f in ceilings.items()))
    if args.json:
        machine = {"cores": pool.usable_cores(), "torch": torch.__version__, "python": platform.python_version()}
        storage.write_json(args.json, {"machine": machine, "rows": rows, "runs": runs, "ceilings": ceilings})


def main() -> None:
    if sys.argv[1:2] == ["--one-of-several"]:
        one_of_several(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", default="shakespeare", help="a text file, or a corpus by name")
    parser.add_argument("--nanogpt", help="a checkout of nanoGPT to run beside ours")
    parser.add_argument("--steps", type=int, help="default: 2000, with --preset 500")
    parser.add_argument("--to-loss", action="store_true", help="ours with our own recipe, not with nanoGPT's")
    parser.add_argument("--own-steps", type=int, default=950, help="with --to-loss: of ours (default: 950)")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=None, help="default: the machine's, and float32")
    parser.add_argument("--no-plain", action="store_true", help="leave the plain float32 loop out")
    parser.add_argument("--json", help="write the figures here")
    group = parser.add_argument_group("the steps of a preset, instead of whole experiments")
    group.add_argument("--preset", choices=PRESETS)
    group.add_argument("--device", default="auto")
    group.add_argument("--activations", nargs="+", default=["gelu", "smelu_1"])
    group.add_argument("--side-by-side", nargs="+", type=int, default=[1, 3], help="trials at a time (default: 1 3)")
    group.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: without; on a GPU both")
    args = parser.parse_args()
    if Path(args.text).exists():
        args.text = str(Path(args.text).resolve())
    measure_preset(args) if args.preset else measure_experiments(args)


if __name__ == "__main__":
    main()
