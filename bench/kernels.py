"""Do the kernels of native.cpp and pairs.cpp stay within their arrays, and how exact are they at odd sizes?

    python bench/kernels.py                compiled as for training
    python bench/kernels.py --sanitize     compiled with AddressSanitizer and UndefinedBehaviorSanitizer (by g++)

Every kernel, and the training loss of every model, at sizes from one row on that are and are not multiples of a vector.
Values and gradients in bfloat16 are compared with the same formula in float64, and so are torch's own in bfloat16; a
departure is a distance relative to the length of the exact vector, or to a thousandth of that of all gradients: some
are zero in theory. Sanitized, the first access outside of an array, or
undefined operation, ends the program with the sanitizer's report.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch
import torch.nn.functional as F
from tabulate import tabulate

from config import Config
from kernels import native, pairs, toolchain
from models import smelu
from models.architectures import MODELS, build_model
from training import arithmetic, trial

BF16 = torch.bfloat16
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g")
WORST: dict[str, list] = {}  # what is computed -> [cases, ours, torch's, the largest ratio of the two]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(BF16)


def values_and_gradients(function, inputs: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    inputs = [x.detach().to(dtype).requires_grad_() for x in inputs]
    y = function(*inputs)
    y.backward(torch.ones_like(y) if y.ndim == 0 else draw(*y.shape).to(dtype))
    return [y.detach(), *(x.grad for x in inputs)]


def note(name: str, ours, theirs, exact) -> None:
    """Departures of a list of tensors, each from the exact one."""
    whole = torch.cat([e.flatten() for e in exact]).norm()
    a, b = (
        max(float((x.double() - e).norm() / max(e.norm(), 1e-3 * whole)) for x, e in zip(found, exact, strict=True))
        for found in (ours, theirs)
    )
    worst = WORST.setdefault(name, [0, 0.0, 0.0, 0.0])
    worst[:] = worst[0] + 1, max(worst[1], a), max(worst[2], b), max(worst[3], a / max(b, 2**-9))


def compare(name: str, ours, theirs, *inputs: torch.Tensor) -> None:
    exact = values_and_gradients(theirs, list(inputs), torch.float64)
    found = (values_and_gradients(function, list(inputs), BF16) for function in (ours, theirs))
    note(name, *found, exact)


# -- kernel by kernel ---------------------------------------------------------------------------------------------


def attention(qkv):
    """(B, T, 3, H, D) -> (B, T, H D)."""
    return native.attention(qkv.flatten(2), qkv.shape[3])


def plain_attention(qkv):
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


def kernels() -> None:
    for B, T, H, D in [
        (1, 16, 1, 16),
        (1, 16, 3, 48),
        (2, 48, 5, 16),
        (3, 80, 2, 80),
        (1, 256, 1, 128),
        (1, 240, 2, 112),
    ]:
        compare("attention", attention, plain_attention, draw(B, T, 3, H, D))
    for rows, width in [(1, 16), (3, 48), (7, 80), (1, 2048), (65, 176)]:
        plain = lambda x, w: F.layer_norm(x, w.shape, w, None, 1e-5)  # noqa: E731
        compare("layer norm", native.layer_norm, plain, draw(rows, width), draw(width))
    for size in (1, 2, 3, 5, 15, 16, 17, 31, 1001):
        for name, function in (("GELU", F.gelu), ("Mish", F.mish), ("ELU", F.elu)):
            compare(f"table of {name}", native.Table(function), function, draw(size))
    for n, V in [(1, 2), (1, 15), (3, 16), (5, 17), (7, 65), (2, 257), (1, 4095), (3, 4096)]:
        targets = torch.arange(n) * 7 % V
        plain = lambda x, t=targets: F.cross_entropy(x.float() if x.dtype is BF16 else x, t)  # noqa: E731
        compare("cross-entropy", lambda x, t=targets: native.cross_entropy(x, t), plain, 4 * draw(n, V))
    for size in (2, 4, 30, 32, 34, 1002):
        compare(
            "SmeLU", smelu.SmeLU(0.5), lambda x: torch.where(x.abs() < 0.5, (x + 0.5) ** 2 / 2, x.relu()), draw(size)
        )
    for dtype in (torch.float32, BF16):  # the loops themselves, also at odd sizes; they are compared bit for bit in use
        for size in (1, 3, 17, 1001) if dtype is torch.float32 else (2, 18, 1002):
            smelu.kernel().times_slope(draw(size).to(dtype), draw(size).to(dtype), 0.5)
    for n, V in [(1, 1), (2, 1), (2, 15), (3, 16), (2, 17), (4, 511), (3, 512), (2, 513), (3, 1031)]:
        pair_sums(n, V)
    update()


def pair_sums(n: int, V: int) -> None:
    """Of three rows of n models in float32, with memory of their own that ends with the last value."""
    p = torch.softmax(4 * torch.randn(n, 3, V, generator=torch.Generator().manual_seed(V)), -1)
    exact = pairs.PairSums(n, V, torch.float64)(p.double())
    ours, theirs = pairs.Compiled(n, V)(p), pairs.PairSums(n, V, torch.float32)(p)
    note("pair sums", *([torch.from_numpy(x) for x in sums] for sums in (ours, theirs, exact)))


def update() -> None:
    """AdamW on arrays of odd sizes, all its passes, against torch's class in float64."""
    weights = [draw(*shape).double().requires_grad_() for shape in ((1,), (3, 5), (17,), (16, 3), (2, 1001))]
    flat = torch.cat([w.detach().flatten() for w in weights]).float()
    working = [w.detach().to(BF16) for w in weights]
    ours = native.AdamW((flat, torch.zeros_like(flat), torch.zeros_like(flat)), working, [0.1] * len(weights))
    theirs, start = torch.optim.AdamW(weights, weight_decay=0.1, lr=0.01), flat.double().clone()
    for t in (1, 2, 3):
        gradients = [draw(*w.shape, t)[..., 0] for w in weights]
        for w, g in zip(weights, gradients, strict=True):
            w.grad = g.double()
        theirs.step()
        ours.step(gradients, t, 0.01, beta1=0.9, beta2=0.999, epsilon=1e-8, clip=0.0)
    exact = torch.cat([w.detach().flatten() for w in weights]) - start
    note("update", [flat.double() - start], [exact], [exact])


# -- in models ----------------------------------------------------------------------------------------------------


def gradients(model, idx) -> list[torch.Tensor]:
    value = trial.training_loss(model, idx, idx.roll(-1, 1))
    value.backward()
    found = [value.detach(), *(p.grad for p in model.parameters())]
    for p in model.parameters():
        p.grad = None
    return found


def models() -> None:
    """(B, T), width, heads, vocabulary: all, some and none of the kernels fit."""
    for name in MODELS:
        for (B, T), C, H, V in [((1, 16), 16, 1, 2), ((1, 32), 48, 3, 17), ((3, 20), 40, 2, 65), ((2, 48), 80, 5, 257)]:
            for activation in ("gelu", "smelu_1", "swiglu"):
                sizes = {"n_layer": 2, "n_embd": C, "n_head": H, "block_size": T, "eval_tokens": T, "probe_tokens": T}
                config = Config(preset="smoke", device="cpu", model=name, precision="bfloat16", native=True, **sizes)
                exact = build_model(config, activation, V)
                with torch.no_grad():
                    for p in exact.parameters():  # no path is closed by a small weight
                        p.copy_(draw(*p.shape) * p.shape[-1] ** -0.5 if p.ndim > 1 else p + 0.1 * draw(*p.shape))
                        p.copy_(p.to(BF16))
                ours, theirs = (build_model(config, activation, V) for _ in range(2))
                for model in (ours, theirs):
                    model.load_state_dict(exact.state_dict())
                    model.to(BF16)
                arithmetic.use_kernels(ours)
                exact.double()
                idx = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(0))
                note(f"training loss of {name}", *(gradients(model, idx) for model in (ours, theirs, exact)))


def sanitized(source: str) -> int:
    """This program again, in a process where the sanitizer's library comes first."""
    compiler = toolchain.cpp_compiler()
    found = (
        compiler
        and subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, encoding="utf-8").stdout
    )
    if not found or not os.path.isabs(found):
        raise SystemExit("bench/kernels.py: there is no AddressSanitizer for g++ here")
    preload = {"LD_PRELOAD": found.strip(), "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--sanitized", "--source", source]
    return subprocess.run(command, env={**os.environ, **preload}).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sanitize", action="store_true")
    parser.add_argument("--sanitized", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--source", default=str(toolchain.SOURCE), help="another native.cpp")
    arguments = parser.parse_args()
    if arguments.sanitize:
        return sanitized(arguments.source)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        toolchain.SOURCE, toolchain.FOLDERS = Path(arguments.source), (Path(folder),)
        if arguments.sanitized:
            toolchain.FLAGS = (*toolchain.FLAGS, *SANITIZERS)
        kernels()
        models()
    rows = [(name, *worst) for name, worst in WORST.items()]
    headers = ("", "cases", "worst departure", "torch's in bfloat16", "largest ratio")
    print(tabulate(rows, headers=headers, floatfmt=".4f"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
