"""compare.py at real size: time and memory for members of GPT-2's size, and of a run that is killed and goes on.

    python bench/compare_large.py [--members 3] [--layers 12] [--width 768] [--vocab 50257] [--context 1024]
                                  [--positions 65536] [--spool-gb 8] [--dtype float32] [--json FILE]
                                  [--kill-after SECONDS]

The members are GPT-2 from its config class with random weights, which take as long and as much memory as trained ones,
and predict a random text over a vocabulary of numbered words. Made below a temporary folder (--folder for another
disk): weights of 0.5 GB each and the spool. The run is `compare.py` in a process of its own; shown are its time, its
processor time and its peak memory. With --kill-after it is killed once after so many seconds and started again, and
the numbers of both runs are added up.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def make(folder: Path, args) -> list[Path]:
    """Members with random weights, a tokenizer of numbered words, and a text."""
    import tokenizers
    import torch
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(args.vocab)}, unk_token="w0"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    config = transformers.GPT2Config(
        vocab_size=args.vocab, n_positions=args.context, n_embd=args.width, n_layer=args.layers,
        n_head=max(1, args.width // 64), bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    paths = []
    for seed in range(args.members):
        torch.manual_seed(seed)
        paths.append(folder / f"seed_{seed + 1}")
        model = transformers.GPT2LMHeadModel(config)
        model.to(getattr(torch, args.dtype)).save_pretrained(paths[-1])
        tokenizer.save_pretrained(paths[-1])
    rng = random.Random(0)
    text = " ".join(f"w{min(int(rng.expovariate(8 / args.vocab)), args.vocab - 1)}" for _ in range(args.positions + 1))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return paths


def run(folder: Path, paths: list[Path], args, kill_after: float | None) -> dict:
    command = [
        sys.executable, ROOT / "compare.py", "--group", "members", *paths, "--text", folder / "text.txt",
        "--out", folder / "out", "--positions", args.positions, "--max-spool-gb", args.spool_gb, "--dtype", args.dtype,
        "--no-report",
    ]  # fmt: skip
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    killed = False
    try:
        process.wait(kill_after)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        killed = True
    if process.returncode and not killed:
        raise SystemExit(f"compare.py ended with status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "killed": killed,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_mb": after.ru_maxrss / 1024,  # of the largest so far; Linux counts in KiB
    }


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = {"members": 3, "layers": 12, "width": 768, "vocab": 50257, "context": 1024, "positions": 65536}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--spool-gb", type=float, default=8)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--kill-after", type=float, help="kill the first run after so many seconds")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        paths = make(folder, args)
        runs = [run(folder, paths, args, args.kill_after)] if args.kill_after else []
        if not runs or runs[0]["killed"]:
            runs.append(run(folder, paths, args, None))
        results = json.loads((folder / "out/results/members_results.json").read_text(encoding="utf-8"))
    figures = {
        **{name: getattr(args, name) for name in numbers},
        "dtype": args.dtype,
        "parameters": results["parameters"],
        "relative_pd": results["avg_relative_pd"],
        "own_pd_batch": max(t["own_pd_batch"] for t in results["trials"]),
        "runs": runs,
    }
    print(json.dumps(figures, indent=1))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
