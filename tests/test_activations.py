"""The activation functions against formulas written down once more, in NumPy and float64."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.special import erf, expit
from torch import nn

import activations
from bench import activations as bench
from config import UserError
from kernels import toolchain
from models import smelu

LISTED = [info.name for info in activations.list_activations()]


def numpy_smelu(x, beta):
    """The published definition, piece by piece: value and slope."""
    value = np.where(x <= -beta, 0, np.where(x >= beta, x, (x + beta) ** 2 / (4 * beta)))
    slope = np.where(x <= -beta, 0, np.where(x >= beta, 1, (x + beta) / (2 * beta)))
    return value, slope


def tanh_gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


FORMULAS = {
    "smelu_05": lambda x: numpy_smelu(x, 0.5)[0],
    "smelu_1": lambda x: numpy_smelu(x, 1.0)[0],
    "smelu_0.25": lambda x: numpy_smelu(x, 0.25)[0],
    "smelu_2": lambda x: numpy_smelu(x, 2.0)[0],
    "smelu_3.7": lambda x: numpy_smelu(x, 3.7)[0],
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "swish": lambda x: x * expit(x),
    "silu": lambda x: x * expit(x),
    "gelu_tanh": tanh_gelu,
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "softplus": lambda x: np.logaddexp(0, x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "tanh": np.tanh,
    # of gated activations, the function of the gate
    "swiglu": lambda x: x * expit(x),
    "geglu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "reglu": lambda x: np.maximum(x, 0),
    "smeglu": lambda x: numpy_smelu(x, 0.5)[0],
}


def value_and_slope(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    return y.detach(), torch.autograd.grad(y, x, torch.ones_like(y))[0]


def curve(name, x):
    """Value and slope of an activation at points x in float64."""
    return (t.numpy() for t in value_and_slope(activations.make_activation(name), torch.tensor(x)))


@pytest.fixture(params=["compiled", "formula"])
def path(request, monkeypatch):
    """Both ways of computing SmeLU on a CPU."""
    if request.param == "formula":
        monkeypatch.setattr(smelu, "kernel", lambda: None)
    elif smelu.kernel() is None:
        pytest.skip("no C compiler here")
    return request.param


# -- every activation ---------------------------------------------------------------------------------------------


def test_the_study_is_listed_first_and_every_listed_activation_has_a_formula_here():
    assert tuple(LISTED[:5]) == activations.STUDY == ("smelu_05", "smelu_1", "relu", "gelu", "swish")
    assert len(set(LISTED)) == len(LISTED) and set(LISTED) <= set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_values_are_those_of_the_formula(name):
    x = np.linspace(-6, 6, 1201)
    module = activations.make_activation(name)
    np.testing.assert_allclose(module(torch.tensor(x)).numpy(), FORMULAS[name](x), rtol=1e-12, atol=1e-12)
    y = module(torch.tensor(x, dtype=torch.float32))
    assert y.dtype == torch.float32
    np.testing.assert_allclose(y.numpy(), FORMULAS[name](x), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_slopes_are_the_difference_quotients_of_the_formula(name):
    x = np.linspace(-4.013, 4.029, 200)  # no kink among them
    _, slope = curve(name, x)
    h = 1e-5
    quotient = (FORMULAS[name](x + h) - FORMULAS[name](x - h)) / (2 * h)
    np.testing.assert_allclose(slope, quotient, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_smooth_flag_says_whether_the_slope_jumps(name):
    """The slope of a function with bounded curvature moves by less than 5e-4 between points 1e-4 apart (the sharpest of
    those here has curvature 2); at a kink it jumps, however near the points."""
    info = activations.get_info(name)
    x = np.linspace(-5, 5, 100_002)  # steps of 1e-4, with 0 in the middle of one
    _, slope = curve(name, x)
    jump = np.abs(np.diff(slope)).max()
    assert (jump < 5e-4) == info.smooth == (info.smoothness != "C0")
    if jump >= 5e-4:
        assert jump > 0.5


@pytest.mark.parametrize("name", [n for n in FORMULAS if activations.get_info(n).smooth])
def test_the_smoothness_class_says_whether_the_curvature_jumps(name):
    x = np.linspace(-5, 5, 100_002)
    _, slope = curve(name, x)
    curvature = np.diff(slope) / np.diff(x)
    jumps = np.abs(np.diff(curvature)).max() > 0.05
    assert jumps == (activations.get_info(name).smoothness == "C1")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_slopes_are_finite(name, dtype):
    x = torch.cat([torch.linspace(-50, 50, 1001), torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e4, -1e4])]).to(dtype)
    y, slope = value_and_slope(activations.make_activation(name), x)
    assert y.dtype == slope.dtype == dtype
    assert y.isfinite().all() and slope.isfinite().all()


@pytest.mark.parametrize("name", FORMULAS)
def test_each_call_makes_a_new_module(name):
    first, second = activations.make_activation(name), activations.make_activation(name)
    assert isinstance(first, nn.Module) and first is not second
    assert not list(first.parameters())


@pytest.mark.parametrize("name", LISTED)
def test_what_is_known_is_filled_in(name):
    info = activations.get_info(name)
    assert info.name == name
    assert info.label and info.formula and info.source
    assert info.smoothness in activations.SMOOTHNESS
    assert info.gated == (name in ("swiglu", "geglu", "reglu", "smeglu"))
    assert activations.importable(name)
    assert activations.label(name) == info.label


def test_the_half_width_is_known_for_a_sweep():
    betas = {n: activations.get_info(n).beta for n in ("relu", "smelu_0.1", "smelu_05", "smelu_0.5", "smelu_2", "gelu")}
    assert betas == {"relu": 0, "smelu_0.1": 0.1, "smelu_05": 0.5, "smelu_0.5": 0.5, "smelu_2": 2, "gelu": None}


# -- SmeLU --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 0.3, 2.0, 1e-6, 1e6])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-7), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_smelu_in_each_precision(beta, dtype, tolerance, path):
    """Against float64, from the same rounded x: a few roundings in float32, one in the half precisions."""
    x = torch.linspace(-3 * beta, 3 * beta, 4002).to(dtype)
    x = x[x.isfinite()]
    grad = torch.cos(torch.arange(len(x))).to(dtype)
    module = smelu.SmeLU(beta)
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    (got,) = torch.autograd.grad(y, leaf, grad)
    value, slope = numpy_smelu(x.double().numpy(), beta)
    value[value > torch.finfo(dtype).max] = math.inf  # float16 ends at 65504
    # x + beta is rounded in float32: an error of beta * 2**-24 in a number between 0 and 2 beta
    near = 2**-24 if dtype == torch.float16 else 0  # its smallest number
    np.testing.assert_allclose(y.detach().double().numpy(), value, rtol=tolerance, atol=2e-7 * beta + near)
    np.testing.assert_allclose(got.double().numpy(), grad.double().numpy() * slope, rtol=tolerance, atol=2e-7 + near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_outside_the_quadratic_smelu_is_exactly_zero_and_exactly_x(dtype, path):
    beta = 0.5
    left = torch.tensor([-beta, -0.75, -3, -1e30, -math.inf, -beta], dtype=dtype)
    right = torch.tensor([beta, 0.75, 3.1, 1e30, math.inf, beta], dtype=dtype)
    y, slope = value_and_slope(smelu.SmeLU(beta), left)
    assert torch.equal(y, torch.zeros_like(y)) and torch.equal(slope, torch.zeros_like(slope))
    y, slope = value_and_slope(smelu.SmeLU(beta), right)
    assert torch.equal(y, right) and torch.equal(slope, torch.ones_like(slope))


def test_at_zero_smelu_is_a_quarter_of_beta_with_slope_one_half(path):
    for beta in (0.25, 0.5, 1.0, 2.0):
        y, slope = value_and_slope(smelu.SmeLU(beta), torch.zeros(2))
        assert y.tolist() == [beta / 4] * 2 and slope.tolist() == [0.5] * 2


def test_nan_stays_nan(path):
    for dtype in (torch.float32, torch.bfloat16):
        y, slope = value_and_slope(smelu.SmeLU(0.5), torch.full((4,), math.nan, dtype=dtype))
        assert y.isnan().all() and slope.isnan().all()


def test_as_beta_goes_to_zero_smelu_becomes_relu(path):
    """The two differ by at most beta/4, at 0."""
    x = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    for beta in (1e-1, 1e-3, 1e-6):
        difference = (smelu.SmeLU(beta)(x) - x.relu()).abs().max().item()
        assert difference == pytest.approx(beta / 4, rel=1e-9)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_gradients_in_float64(beta):
    x = torch.linspace(-3, 3, 24, dtype=torch.float64)  # no knot among them
    for points in (x, x.view(4, 6).t()):
        leaf = points.clone().requires_grad_()
        assert torch.autograd.gradcheck(smelu.SmeLU(beta), leaf)
        assert torch.autograd.gradgradcheck(smelu.SmeLU(beta), leaf)


def test_the_second_derivative_is_that_of_the_parabola(path):
    x = torch.tensor([[-2, -0.3, 0.1], [0.2, 0.4, 3.0]]).t().requires_grad_()  # float32, and not contiguous
    y = smelu.SmeLU(0.5)(x)
    (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(curvature, torch.tensor([[0.0, 1, 1], [1, 1, 0]]).t())


def test_the_backward_pass_keeps_one_tensor(path):
    saved = []
    x = torch.randn(12, 64, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        smelu.SmeLU(0.5)(x)
    assert [t.shape for t in saved] == [x.shape]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_and_formula_agree_to_the_last_bit(dtype):
    if smelu.kernel() is None:
        pytest.skip("no C compiler here")
    generator = torch.Generator().manual_seed(1)
    for beta in (0.5, 1.0, 0.1, 7 / 3, 1e-6, 1e6):
        x, grad = (torch.randn(40_000, generator=generator).mul(2 * beta).to(dtype) for _ in range(2))
        assert torch.equal(smelu.kernel().value(x, beta), smelu._formula_value(x, beta))
        assert torch.equal(smelu.kernel().times_slope(grad, x, beta), smelu._formula_times_slope(grad, x, beta))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_layout_does_not_matter(dtype, path):
    """Transposed, strided, of odd length, at an odd address, empty, without a dimension, with an expanded gradient."""
    base = torch.randn(6, 10, 7).to(dtype)
    variants = [base, base.transpose(0, 2), base[:, ::3], base.flatten()[1:], base.flatten()[:7], base[:, :0]]
    variants += [base[0, 0, 0], base.chunk(2, 1)[1], base.permute(1, 0, 2)[::2]]
    for x in variants:
        want, want_slope = numpy_smelu(x.double().numpy(), 0.5)
        leaf = x.detach().requires_grad_()
        y = smelu.SmeLU(0.5)(leaf)
        y.sum().backward()  # its gradient is one number, expanded
        tolerance = 1e-6 if dtype == torch.float32 else 2**-8
        np.testing.assert_allclose(y.detach().double().numpy(), want, rtol=tolerance, atol=1e-6)
        np.testing.assert_allclose(leaf.grad.double().numpy(), want_slope, rtol=tolerance, atol=1e-6)


def test_threads_change_no_bit():
    x, threads = torch.randn(300, 1001), torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(value_and_slope(smelu.SmeLU(0.5), x))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for result in results[1:] for a, b in zip(result, results[0], strict=True))


def test_the_input_is_left_alone_and_may_be_used_again(path):
    x = torch.randn(50)
    before = x.clone()
    smelu.SmeLU(1.0)(x)
    assert torch.equal(x, before)
    leaf = torch.randn(50, requires_grad=True)
    z = leaf * 2
    y = smelu.SmeLU(1.0)(z)
    z.add_(1)  # changing it afterwards must not give a wrong gradient in silence
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_under_autocast_the_precision_of_the_linear_layer_is_kept(path):
    model = nn.Sequential(nn.Linear(8, 16), smelu.SmeLU(0.5), nn.Linear(16, 1))
    x = torch.randn(4, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model[:2](x).dtype == torch.bfloat16
        loss = model(x).float().pow(2).mean()
    loss.backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_without_a_library_the_formula_is_used(monkeypatch):
    monkeypatch.setattr(toolchain, "_built", {toolchain.SOURCE: toolchain.Unavailable("no compiler")})
    assert smelu.kernel.__wrapped__() is None  # __wrapped__: past the cache


@pytest.mark.skipif(toolchain.problem() is not None, reason="needs a C++ compiler")
def test_loops_that_compute_something_else_are_not_used(monkeypatch, tmp_path):
    source = tmp_path / "native.cpp"
    source.write_text(
        toolchain.SOURCE.read_text(encoding="utf-8").replace("m * m * scale", "m * (m * scale)"), encoding="utf-8"
    )
    assert smelu.kernel.__wrapped__() is not None
    monkeypatch.setattr(toolchain, "SOURCE", source)
    monkeypatch.setattr(toolchain, "FOLDERS", (tmp_path,))
    monkeypatch.setattr(toolchain, "_built", {})
    assert smelu.kernel.__wrapped__() is None


@pytest.mark.parametrize("beta", [0, -1, math.nan, math.inf, 1e-7, 1e7])
def test_half_widths_that_make_no_sense_are_refused(beta):
    with pytest.raises(ValueError, match="must be between 1e-06 and 1e\\+06"):
        smelu.SmeLU(beta)


@pytest.mark.slow
@pytest.mark.skipif(toolchain.problem() is not None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_compile_takes_it_whole(dtype):
    x = torch.randn(64, 33, dtype=dtype)
    compiled = torch.compile(smelu.SmeLU(0.5), fullgraph=True)  # fullgraph: no graph break
    # else it takes code from its cache that it made for another processor, or under another emulation
    with torch.compiler.config.patch(cache_key_tag=torch.backends.cpu.get_cpu_capability()):
        value, slope = value_and_slope(compiled, x)
    want, want_slope = value_and_slope(smelu.SmeLU(0.5), x)
    torch.testing.assert_close(value, want)
    torch.testing.assert_close(slope, want_slope)


# -- names --------------------------------------------------------------------------------------------------------


def test_two_spellings_of_one_function():
    for name, preferred in {
        "smelu_0.5": "smelu_05",
        "smelu_0.50": "smelu_05",
        "smelu_1.0": "smelu_1",
        "smelu_2.0": "smelu_2",
        "smelu_0.25": "smelu_0.25",
        "silu": "swish",
        "swish": "swish",
        "torch:tanh": "torch:tanh",
    }.items():
        assert activations.canonical_name(name) == preferred
        assert activations.canonical_name(preferred) == preferred
        assert activations.get_info(name).name == name
        if name != preferred:
            x = torch.linspace(-4, 4, 801)
            assert torch.equal(activations.make_activation(name)(x), activations.make_activation(preferred)(x))
    assert activations.label("smelu_0.5") == activations.label("smelu_05") == "SmeLU β=0.5"


@pytest.mark.parametrize(
    "name, part",
    [
        ("rlu", "did you mean 'relu'?"),
        ("ReLU", "did you mean 'relu'?"),
        ("geluu", "did you mean 'gelu'?"),
        ("leaky-relu", "did you mean 'leaky_relu'?"),
        ("nonsense", "There are smelu_05, smelu_1, relu, gelu, swish"),
        ("", "unknown activation ''"),
        ("../relu", "unknown activation"),
        ("smelu_025", "'smelu_0.25'?"),
        ("smelu_0", "the limit at 0 is relu"),
        ("smelu_-1", "must be from 1e-6 to 1e6"),
        ("smelu_1e-3", "not a plain decimal number"),
        ("smelu_0,5", "not a plain decimal number"),
        ("smelu_2000000", "must be from 1e-6 to 1e6"),
        ("pkg:", "package.module:function"),
        ("a/b:c", "package.module:function"),
    ],
)
def test_unknown_names_are_errors_that_say_what_exists(name, part):
    for ask in (activations.get_info, activations.make_activation, activations.canonical_name):
        with pytest.raises(UserError) as caught:
            ask(name)
        assert part in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("thing", [nn.ReLU(), nn.ReLU, None, 3, ["relu"]])
def test_a_module_in_place_of_a_name_is_an_error(thing):
    with pytest.raises(UserError, match="by name, a string such as 'relu'"):
        activations.make_activation(thing)


def test_other_tools_names_label_themselves():
    assert activations.label("MyTool-Activation v2") == "MyTool-Activation v2"


# -- one's own ----------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(activations, "_REGISTERED", {})


SHARED = nn.ReLU()


def softsign(x):
    return x / (1 + x.abs())


def test_registering(registry):
    info = activations.register_activation("softsign", nn.Softsign, smoothness="C1", formula="x / (1 + |x|)")
    assert info == activations.get_info("softsign") == activations.list_activations()[-1]
    assert info.smooth and info.label == "softsign" and not activations.importable("softsign")
    assert isinstance(activations.make_activation("softsign"), nn.Softsign)
    assert activations.make_activation("softsign") is not activations.make_activation("softsign")

    with pytest.raises(UserError, match="registered already"):
        activations.register_activation("softsign", nn.Softsign)
    assert activations.register_activation("softsign", softsign, overwrite=True).smooth is None
    x = torch.linspace(-3, 3, 7)
    assert torch.equal(activations.make_activation("softsign")(x), softsign(x))
    with pytest.raises(UserError, match="did you mean 'softsign'"):
        activations.get_info("softsing")


def test_a_registered_gate(registry):
    assert activations.register_activation("tanh_glu", nn.Tanh, gated=True, smoothness="C∞").gated


@pytest.mark.parametrize(
    "name",
    ["a/b", "a\\b", "..", ".hidden", "", "a b", "a:b", "Mine", "é", "a--b", "x" * 81, "nul", "con.x", "all", "relu"]
    + ["smelu_0.3", "smelu_mine", "a\n", "-a", None, 3],
)
def test_names_that_can_not_be_registered(name, registry):
    with pytest.raises(UserError):
        activations.register_activation(name, nn.ReLU)


@pytest.mark.parametrize(
    "factory, part",
    [
        (nn.ReLU(), "is a module already made"),
        (lambda shared=SHARED: shared, "makes the same module each time"),
        (lambda: 3, "makes a value of type int"),
        (nn.Linear, "does not work: TypeError"),
        (math.sqrt, "does not work"),
    ],
)
def test_factories_that_do_not_make_an_activation(factory, part, registry):
    activations.register_activation("mine", factory)
    with pytest.raises(UserError) as caught:
        activations.make_activation("mine")
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_arguments_of_registering(registry):
    with pytest.raises(UserError, match="function or a class"):
        activations.register_activation("mine", "relu")
    with pytest.raises(UserError, match="smoothness must be one of"):
        activations.register_activation("mine", nn.ReLU, smoothness="smooth")


def test_import_paths(tmp_path, monkeypatch):
    (tmp_path / "my_activations.py").write_text(
        "import torch\n"
        "def cube(x):\n    return x**3\n"
        "def maker():\n    return torch.nn.Hardswish()\n"
        "class Group:\n    @staticmethod\n    def double(x):\n        return 2 * x\n"
        "number = 3\n",
        encoding="utf-8",
    )
    (tmp_path / "broken_activations.py").write_text("this is no Python\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    x = torch.linspace(-3, 3, 7)
    make = activations.make_activation
    assert torch.equal(make("my_activations:cube")(x), x**3)
    assert isinstance(make("my_activations:maker"), nn.Hardswish)
    assert torch.equal(make("my_activations:Group.double")(x), 2 * x)
    assert isinstance(make("torch.nn:PReLU"), nn.PReLU)
    assert torch.equal(make("torch:tanh")(x), x.tanh())
    assert torch.equal(make("torch.nn.functional:softsign")(x), softsign(x))

    info = activations.get_info("my_activations:cube")
    assert (info.label, info.smooth, info.gated) == ("cube", None, False)
    assert activations.importable("my_activations:cube")
    for name, part in {
        "no_such_module:f": "can't import no_such_module",
        "broken_activations:f": "SyntaxError",
        "my_activations:cubee": "did you mean cube?",
        "my_activations:number": "must be a function or class",
    }.items():
        activations.get_info(name)  # what is known of an import path needs no import
        with pytest.raises(UserError) as caught:
            make(name)
        assert part in str(caught.value) and "\n" not in str(caught.value)


# -- width of the hidden layer ------------------------------------------------------------------------------------


def test_gated_layers_have_as_many_parameters_within_one_percent_at_every_width():
    for n in range(32, 2049):
        h = activations.hidden_width(n, True)
        assert activations.hidden_width(n, False) == 4 * n
        assert abs(3 * n * h / (8 * n * n) - 1) <= 0.01
        assert abs((3 * n * h + 2 * h + n) / (8 * n * n + 5 * n) - 1) <= 0.01
    assert activations.hidden_width(768, True) == 2048  # Shazeer's 8/3
    assert all(activations.hidden_width(n, True) % 8 == 0 for n in (96, 128, 192, 256, 384, 512, 768))
    assert activations.hidden_width(1, True) >= 1
    for bias, weights, biases in ((False, 3 * 48 * 128, 0), (True, 3 * 48 * 128, 2 * 128 + 48)):  # as counted above
        layers = (nn.Linear(48, 2 * activations.hidden_width(48, True), bias=bias), nn.Linear(128, 48, bias=bias))
        assert sum(p.numel() for layer in layers for p in layer.parameters()) == weights + biases


@pytest.mark.parametrize("arguments", [(0, True), (-1, False), (1.5, True), (True, True), ("64", True), (64, True, 0)])
def test_widths_that_make_no_sense(arguments):
    with pytest.raises(UserError, match="positive whole number"):
        activations.hidden_width(*arguments)


# -- the benchmark ------------------------------------------------------------------------------------------------


def test_the_benchmark_runs(tmp_path, capsys):
    threads, file = torch.get_num_threads(), tmp_path / "figures.json"
    try:
        assert bench.main(
            ["--activation", "smelu_05", "gelu", "--shape", "4,8", "--repeats", "3", "--json", str(file)]
        ) == 0  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert [r["dtype"] for r in figures["results"]] == ["float32", "bfloat16"]
    for result in figures["results"]:
        assert [row["activation"] for row in result["activations"]] == ["smelu_05", "gelu"]
        for row in result["activations"]:
            assert row["ratio_to_relu"] == pytest.approx(row["seconds"] / row["relu_seconds"])
    assert "× ReLU" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--activation", "rlu"], ["--shape", "4,x"], ["--shape", "0"], ["--threads", "0"]]
)
def test_the_benchmark_refuses_wrong_input(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        bench.main(arguments)
    assert caught.value.code == 2
