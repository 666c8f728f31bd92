"""The registry of models: GPT, from model.py, and here llama, lstm, conv, hybrid, and the wrapping of a user's own.

The four are GPT's decoder with another layer in the place of attention: residual blocks of a mixer, which brings
information from earlier tokens to position t, and of GPT's MLP, in which the activation lives. Each mixer has about as
many parameters as attention (4 C²), so that at one config all models are about the same size. The output matrix is
the token embedding (tied), as in GPT: what then differs between models is the blocks alone, and at the vocabularies
and widths of this study a second matrix would be a change of size, not of kind. Shapes as in model.py.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import math
import traceback
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

import activations
from config import Config, UserError
from model import GPT, MLP, Attention, LanguageModel, LayerNorm
from models import own_code
from models.own_code import import_function, kind, one_line

# -- mixers -------------------------------------------------------------------------------------------------------


class RotaryAttention(Attention):
    """Attention whose queries and keys are rotated by angles proportional to their positions, so that their product
    depends on the distance alone (Su et al. 2021, arXiv 2104.09864). Coordinates i and i + D/2 form a pair, as in the
    LLaMA of Hugging Face."""

    def __init__(self, config: Config):
        super().__init__(config)
        D = config.n_embd // config.n_head
        if D % 2:
            raise UserError(f"n_embd={config.n_embd}: rotary positions need n_embd / n_head = {D} to be even")
        frequencies = 10000.0 ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
        angles = torch.outer(torch.arange(config.block_size, dtype=torch.float64), frequencies)  # (block_size, D/2)
        cos, sin = angles.cos().float(), angles.sin().float()
        self.register_buffer("cos", torch.cat((cos, cos), -1), persistent=False)  # (block_size, D)
        self.register_buffer("sin", torch.cat((-sin, sin), -1), persistent=False)

    def heads(self, qkv):
        qkv = super().heads(qkv)
        return torch.cat((self.rotate(qkv[:2]), qkv[2:]))

    def rotate(self, x):
        """(…, T, D) -> (…, T, D): (a, b) becomes (a cos − b sin, b cos + a sin)."""
        T, D = x.shape[-2:]
        return x * self.cos[:T].to(x.dtype) + x.roll(D // 2, -1) * self.sin[:T].to(x.dtype)


class Recurrence(nn.Module):
    """An LSTM (Hochreiter & Schmidhuber 1997; with the forget gate of Gers et al. 2000) and a projection back to the
    residual stream.

    Its state is narrower than the stream: with H units it has 4 H (C + H) + 8 H weights and biases and H C in the
    projection, and H is such that the sum is attention's 4 C². The biases of the gates belong to the cell and are
    there whatever `config.bias` says: without them the forget gate could not start open.
    """

    def __init__(self, config: Config):
        super().__init__()
        C = config.n_embd
        b = 5 * C + 8
        H = max(1, round((math.sqrt(b * b + 64 * C * C) - b) / 8))  # 4 H² + b H = 4 C²
        self.lstm = nn.LSTM(C, H, batch_first=True)
        self.c_proj = nn.Linear(H, C, bias=config.bias)
        self.dropout = config.dropout

    def forward(self, x):
        if x.is_cuda:
            self.lstm.flatten_parameters()  # cuDNN wants them in one piece, which replacing `p.data` undoes
        y, _ = self.lstm(x)  # (B, T, H), from a state of zeros
        return F.dropout(self.c_proj(y), self.dropout, self.training)

    def adjust_initial_weights(self):
        """Gates of unit variance, N(0, 1/fan_in), and a forget gate that starts open, with bias 1 (Jozefowicz et al.
        2015): at 0.02 all gates would be one half, and the state forgotten within a few tokens."""
        H = self.lstm.hidden_size
        for weight in (self.lstm.weight_ih_l0, self.lstm.weight_hh_l0):
            weight.mul_(weight.shape[1] ** -0.5 / 0.02)
        for bias in (self.lstm.bias_ih_l0, self.lstm.bias_hh_l0):
            bias.zero_()
        self.lstm.bias_ih_l0[H : 2 * H] = 1.0  # the gates are in the order input, forget, cell, output


class Convolution(nn.Module):
    """A gated convolution over the past: c_proj(z · conv(y · x)) for x, y, z = c_in(input), with one filter of K taps
    per channel (the order-2 operator of Hyena, Poli et al. 2023, arXiv 2302.10866, with short explicit filters).

    Tap j reads the value `j · dilation` tokens earlier, and zeros before the first token: padding is on the left only.
    """

    TAPS = 4

    def __init__(self, config: Config, layer: int):
        super().__init__()
        C = config.n_embd
        self.c_in = nn.Linear(C, 3 * C, bias=config.bias)
        self.kernel = nn.Parameter(torch.empty(self.TAPS, C))
        self.c_proj = nn.Linear(C, C, bias=config.bias)
        self.dropout = config.dropout
        # dilations 1, K, K², … as in WaveNet (van den Oord et al. 2016), from 1 again where they outgrow the context
        reaching = max(1, math.ceil(math.log(config.block_size, self.TAPS)))
        self.dilation = self.TAPS ** (layer % reaching)

    def forward(self, x):
        x, y, z = self.c_in(x).chunk(3, -1)
        return F.dropout(self.c_proj(z * self.convolve(x * y)), self.dropout, self.training)

    def convolve(self, x):
        """(B, T, C) -> (B, T, C). Four shifted products: torch's depthwise convolution takes three times as long on a
        CPU."""
        T, reach = x.shape[1], (self.TAPS - 1) * self.dilation
        padded = F.pad(x, (0, 0, reach, 0))
        shifted = (padded[:, reach - j * self.dilation :][:, :T] for j in range(self.TAPS))
        return sum(past * taps for past, taps in zip(shifted, self.kernel, strict=True))

    def adjust_initial_weights(self):
        """Unit variance before the projection: at 0.02 the product of three factors would be next to nothing."""
        self.c_in.weight.mul_(self.c_in.in_features**-0.5 / 0.02)
        self.kernel.mul_(self.TAPS**-0.5 / 0.02)


# -- the decoder they share ---------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """x / √(mean x² + ε) · weight (Zhang & Sennrich 2019, arXiv 1910.07467), ε as in LLaMA 2."""

    def __init__(self, config: Config):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.n_embd))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-5)


class Block(nn.Module):
    def __init__(self, config: Config, activation: str, mixer: nn.Module, norm: type[nn.Module]):
        super().__init__()
        self.ln_1, self.mixer = norm(config), mixer
        self.ln_2, self.mlp = norm(config), MLP(config, activation)

    def forward(self, x):
        x = x + self.mixer(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Decoder(LanguageModel):
    """Embedding, one block per mixer, norm, and the embedding again. Positions are the mixers' business."""

    def __init__(self, config: Config, activation: str, vocab_size: int, mixers: list[nn.Module], norm=LayerNorm):
        super().__init__()
        self.block_size, self.dropout = config.block_size, config.dropout
        self.wte = nn.Embedding(vocab_size, config.n_embd)
        self.h = nn.ModuleList(Block(config, activation, mixer, norm) for mixer in mixers)
        self.ln_f = norm(config)

    @property
    def head(self):
        return self.wte.weight

    def hidden(self, idx):
        x = F.dropout(self.wte(idx), self.dropout, self.training)  # (B, T, C)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)

    def residual_projections(self):
        return [name for name, _ in self.named_parameters() if name.endswith("c_proj.weight")]

    def adjust_initial_weights(self):
        for block in self.h:
            if hasattr(block.mixer, "adjust_initial_weights"):
                block.mixer.adjust_initial_weights()


def llama(config: Config, activation: str, vocab_size: int) -> Decoder:
    """LLaMA's decoder (Touvron et al. 2023, arXiv 2302.13971). With the activation `swiglu` its MLP is LLaMA's too.
    Raises UserError: biases are asked for, or n_embd / n_head is odd."""
    if config.bias:
        raise UserError("bias=True: llama has no biases; leave it out or choose another model")
    mixers = [RotaryAttention(config) for _ in range(config.n_layer)]
    return Decoder(config, activation, vocab_size, mixers, RMSNorm)


def lstm(config: Config, activation: str, vocab_size: int) -> Decoder:
    """LSTM layers, each with an MLP after it."""
    return Decoder(config, activation, vocab_size, [Recurrence(config) for _ in range(config.n_layer)])


def conv(config: Config, activation: str, vocab_size: int) -> Decoder:
    """Gated causal convolutions, each with an MLP after it. With three layers at a context of 64 it sees all of it."""
    return Decoder(config, activation, vocab_size, [Convolution(config, layer) for layer in range(config.n_layer)])


def hybrid(config: Config, activation: str, vocab_size: int) -> Decoder:
    """LSTM and attention in turn, the LSTM first: attention learns the order of the tokens from it and needs no
    positions of its own. Raises UserError: there is only one layer."""
    if config.n_layer < 2:
        raise UserError(f"n_layer={config.n_layer}: a hybrid needs at least 2 layers, one of each kind")
    mixers = [Attention(config) if layer % 2 else Recurrence(config) for layer in range(config.n_layer)]
    return Decoder(config, activation, vocab_size, mixers)


# -- a user's own -------------------------------------------------------------------------------------------------


class OwnModel(LanguageModel):
    """Any module that maps token ids (B, T) to logits (B, T, V), as a model of the study. (logits, loss) will do, also
    with logits of the last position alone where it is given no `targets`: the loss is computed here."""

    def __init__(self, module: nn.Module, config: Config, vocab_size: int):
        super().__init__()
        self.block_size, self.vocab_size, self.name = config.block_size, vocab_size, config.model
        self.with_targets = False  # as nanoGPT's model, it may give all positions only where it is given targets
        self.module = module
        self.register_load_state_dict_post_hook(_only_parameters)

    def logits(self, idx):
        # Training swaps the parameters for bfloat16 ones; masks and tables in buffers have to follow
        dtype = next(self.module.parameters()).dtype
        buffers = {
            name: b.to(dtype) for name, b in self.module.named_buffers() if b.is_floating_point() and b.dtype != dtype
        }
        shape = (*idx.shape, self.vocab_size)
        logits = self._call(buffers, idx)
        last_alone = (shape[0], 1, shape[2])
        if not self.with_targets and getattr(logits, "shape", None) == last_alone != shape:
            self.with_targets = "targets" in inspect.signature(self.module.forward).parameters
            logits = self._call(buffers, idx) if self.with_targets else logits
        if not isinstance(logits, torch.Tensor) or logits.shape != shape:
            given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else kind(logits)
            raise UserError(f"model={self.name!r}: gave {given} where logits of shape {shape} (B, T, V) were expected")
        return logits

    def _call(self, buffers, idx):
        """The logits in what the module returns: they alone, first in a tuple (logits, loss), or an attribute."""
        given = {"targets": idx.contiguous()} if self.with_targets else {}
        if buffers:
            output = torch.func.functional_call(self.module, buffers, (idx,), given)
        else:
            output = self.module(idx, **given)
        return output[0] if isinstance(output, tuple) and output else getattr(output, "logits", output)


def _only_parameters(model: OwnModel, incompatible) -> None:
    """Checkpoints hold each parameter once: buffers are the same in every new model, tied matrices have one name."""
    parameters = {name for name, _ in model.named_parameters()}
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if name in parameters]


def own_model(function: Callable, config: Config, activation: str, vocab_size: int) -> OwnModel:
    """What the user's function makes, wrapped and tried out on a few tokens. Raises UserError: the function fails or
    does not make a torch.nn.Module; or the module can't be one of the study's: it gives no logits of shape (B, T, V),
    does not compute in `config.precision`, has parameters that get no gradient, or buffers that are random or change in
    training (checkpoints hold the parameters alone)."""
    setting = f"model={config.model!r}"

    def make():
        try:
            return function(config, activation, vocab_size)
        except UserError:
            raise
        except Exception as error:  # the user's code can raise anything
            message = f"called with (config, activation, vocab_size), it failed with {_one_line_with_place(error)}"
            raise UserError(f"{setting}: {message}") from error

    module = make()
    if not isinstance(module, nn.Module):
        raise UserError(f"{setting}: must return a torch.nn.Module, not {kind(module)}")
    if not any(True for _ in module.parameters()):
        raise UserError(f"{setting}: the module has no parameters to train")
    buffers = dict(module.named_buffers())
    if buffers:
        again = dict(make().named_buffers())  # the random stream has moved on
        for name, buffer in buffers.items():
            if name not in again or not torch.equal(buffer, again[name]):
                raise UserError(
                    f"{setting}: the buffer {name} is random; draw it from a torch.Generator of a fixed seed"
                )
    model = OwnModel(module.cpu().float(), config, vocab_size)
    if config.device == "cpu":  # elsewhere it may use operations that the CPU lacks
        for precision in dict.fromkeys(("float32", config.precision)):
            _try_out(model, precision, setting)
    return model


def _try_out(model: OwnModel, precision: str, setting: str) -> None:
    """One training pass over a few tokens with a copy."""
    idx = torch.zeros(1, min(4, model.block_size), dtype=torch.long)
    try:
        tried = copy.deepcopy(model)
        parameters = {name: p for name, p in tried.module.named_parameters() if p.requires_grad}
        for p in parameters.values():
            p.data = p.data.to(getattr(torch, precision))
        with torch.enable_grad():
            loss = tried(idx, idx)[1]
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    except UserError:
        raise
    except Exception as error:  # the user's code can raise anything
        hint = "" if precision == "float32" else "; with --precision float32 it does"
        raise UserError(f"{setting}: does not train in {precision}: {_one_line_with_place(error)}{hint}") from error
    model.with_targets = tried.with_targets
    trained = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
    for name, _ in model.module.named_parameters():
        if name not in trained:
            raise UserError(f"{setting}: {name} gets no gradient; leave it out, or make it a buffer")
    after = dict(tried.module.named_buffers())
    for name, buffer in model.module.named_buffers():
        if not torch.equal(buffer, after[name]):
            raise UserError(f"{setting}: the buffer {name} changes in training, and would not be in checkpoints")


def _one_line_with_place(error: Exception) -> str:
    """An exception and the line of the user's that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename != __file__ and "site-packages" not in f.filename]
    return one_line(error) + (f" ({own[-1].filename}, line {own[-1].lineno})" if own else "")


# -- the registry -------------------------------------------------------------------------------------------------

# name -> (function(config, activation, vocab_size) -> LanguageModel, what it is)
MODELS: dict[str, tuple[Callable, str]] = {
    "gpt": (GPT, "GPT-2's decoder: attention, learned positions (Radford et al. 2019)"),
    "llama": (llama, "RMSNorm, rotary positions, no biases (Touvron et al. 2023)"),
    "lstm": (lstm, "LSTM layers (Hochreiter & Schmidhuber 1997) in the place of attention"),
    "conv": (conv, "gated causal convolutions (Poli et al. 2023) in the place of attention"),
    "hybrid": (hybrid, "LSTM and attention in turn"),
}


def list_models() -> list[tuple[str, str]]:
    """(name, description) of every model, the default first. A model of one's own goes by `module:function`."""
    return [(name, description) for name, (_, description) in MODELS.items()]


def check_model_name(name: str) -> None:
    """Raises UserError unless `name` is a model's name, or the path of a function that can be imported."""
    _model_function(name)


def _model_function(name: str) -> Callable:
    if name in MODELS:
        return MODELS[name][0]
    if ":" in name:
        return import_function(name, "model")
    near = difflib.get_close_matches(name, MODELS, n=1)
    hint = own_code.meant(name) or (f"did you mean {near[0]}? " if near else "")
    raise UserError(f"model={name!r}: {hint}must be one of {', '.join(MODELS)}, or module:function")


def build_model(config: Config, activation: str, vocab_size: int, seed: int | None = None) -> LanguageModel:
    """A new float32 model on the CPU, initialised from `seed` (default: config.seed_base).

    A model of the user's own (`module:function`) is called with (config, activation, vocab_size) and gives a module
    that maps token ids (B, T) to logits (B, T, V). It keeps its own initial weights; they depend on `seed` alone as
    long as torch's random numbers are the only ones it uses. Raises UserError: there is no such model, or the user's
    own is not of that form.
    """
    function = _model_function(config.model)
    seed = config.seed_base if seed is None else seed
    with torch.random.fork_rng(devices=[]):  # the caller's random stream is left alone
        torch.default_generator.manual_seed(seed)  # for what constructors draw and `initialise` does not replace
        if config.model not in MODELS:
            return own_model(function, config, activation, vocab_size)
        model = function(config, activation, vocab_size)
    initialise(model, seed, config.n_layer)
    return model


def model_from(saved: dict, other: dict | None = None) -> LanguageModel:
    """The model in the contents of a checkpoint, or an `other` one of its branches or averages, in eval mode on the
    CPU."""
    config = Config.from_dict(saved["config"])
    model = build_model(config, saved["activation"], saved["vocab_size"])
    model.load_state_dict((other or saved)["weights"])
    return model.eval()


@torch.no_grad()
def initialise(model: LanguageModel, seed: int, n_layer: int) -> None:
    """GPT-2's initialisation: N(0, 0.02²), the projections into the residual stream N(0, 0.02² / 2·n_layer), biases 0.

    Drawn in the order of the parameters from a generator of its own, on the CPU in float32, so that neither the
    device nor any other use of randomness changes the initial weights, and all activations start from the same ones.
    """
    generator = torch.Generator().manual_seed(seed)
    scaled = set(model.residual_projections())
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            std = 0.02 / math.sqrt(2 * n_layer) if name in scaled else 0.02
            p.copy_(torch.empty(p.shape).normal_(0.0, std, generator=generator))
        elif name.endswith("bias"):
            p.zero_()
    model.adjust_initial_weights()


def code_checksums(config: Config, activation: str) -> own_code.Checksums:
    """What identifies the code of the model and the activation, each left out where it is one of the project's own; as
    `own_code.checksums` gives it. Raises UserError: a module can't be imported, or there is no such function in it."""
    own = {}
    if config.model not in MODELS:
        own["model"] = config.model, _model_function(config.model)
    if function := activations.own_function(activation):
        own["activation"] = activation, function
    return own_code.checksums(own)
