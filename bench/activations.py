"""What does each activation cost, forward and backward, against ReLU and against the memory's bandwidth?

    python bench/activations.py --json figures.json
    python bench/activations.py --activation smelu_05 relu gelu --shape 64,256,1536 --device cuda

Each activation is timed side by side with ReLU, in the order A B B A A B B A …, so that neither always finds the
caches as the other left them; its ratio is the ratio of the medians. A time is that of one call and its gradient in
eager mode, with what autograd adds. Of gated activations only the function of the gate is timed.

The bandwidth is measured by copying tensors of the same size. Whatever the function, forward and backward have to move
five tensors (x in, y out; x or y and the gradient in, the gradient out); the last column says which fraction of the
bandwidth that makes. Where tensors fit in the caches, so do the copies.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
from tabulate import tabulate

import activations
import storage
from config import UserError
from models import smelu

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def seconds(work, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def side_by_side(a, b, repeats: int, device: str) -> tuple[float, float]:
    """Median seconds of two pieces of work, done in the order A B B A A B B A …"""
    times = {a: [], b: []}
    for repeat in range(-3, repeats):  # three to warm up
        for work in (a, b) if repeat % 2 else (b, a):
            t = seconds(work, device)
            if repeat >= 0:
                times[work].append(t)
    return statistics.median(times[a]), statistics.median(times[b])


def measure(names: list[str], shape: tuple[int, ...], dtype: str, device: str, repeats: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator).to(device, DTYPES[dtype]) for _ in range(2))
    x.requires_grad_()

    def work_of(name: str):
        module = activations.make_activation(name).to(device, DTYPES[dtype])
        return lambda: torch.autograd.grad(module(x), x, grad)

    source, target = x.detach(), torch.empty_like(grad)
    size = source.numel() * source.element_size()
    copies = [seconds(lambda: target.copy_(source), device) for _ in range(2 * repeats)]
    bandwidth = 2 * size / statistics.median(copies)

    rows = []
    for name in names:
        relu, ours = side_by_side(work_of("relu"), work_of(name), repeats, device)
        rows.append(
            {
                "activation": name,
                "seconds": ours,
                "relu_seconds": relu,
                "ratio_to_relu": ours / relu,
                "fraction_of_bandwidth": 5 * size / ours / bandwidth,
            }
        )
    return {"dtype": dtype, "bytes_per_tensor": size, "copy_bytes_per_second": bandwidth, "activations": rows}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activation", nargs="+", metavar="NAME", help="default: all that are listed")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--shape", default="12,64,512", help="default: the hidden layer of the default model, 12,64,512"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args(argv)

    names = arguments.activation or [info.name for info in activations.list_activations()]
    try:
        shape = tuple(int(size) for size in arguments.shape.split(","))
        for name in names:
            activations.get_info(name)
    except UserError as error:
        parser.error(str(error))
    except ValueError:
        parser.error(f"--shape {arguments.shape!r}: whole numbers separated by commas, such as 12,64,512")
    if min(*shape, arguments.threads, arguments.repeats) < 1:
        parser.error("--shape, --threads and --repeats take numbers from 1 on")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")

    torch.set_num_threads(arguments.threads)
    figures = {
        "shape": shape,
        "device": arguments.device,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "smelu_compiled": smelu.kernel() is not None,
        "results": [],
    }
    compiled = "compiled" if figures["smelu_compiled"] else "by torch's formula (no C++ compiler)"
    print(
        f"{'×'.join(map(str, shape))} on {arguments.device}, {arguments.threads} thread(s); SmeLU on the CPU {compiled}"
    )
    for dtype in arguments.dtype:
        result = measure(names, shape, dtype, arguments.device, arguments.repeats)
        figures["results"].append(result)
        print(f"\n{dtype}: copying moves {result['copy_bytes_per_second'] / 1e9:.1f} GB/s")
        table = [
            (row["activation"], row["seconds"] * 1e6, row["ratio_to_relu"], 100 * row["fraction_of_bandwidth"])
            for row in result["activations"]
        ]
        print(tabulate(table, headers=("", "µs", "× ReLU", "% of bandwidth"), floatfmt=("", ".0f", ".2f", ".0f")))
    if arguments.json:
        storage.write_json(arguments.json, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
