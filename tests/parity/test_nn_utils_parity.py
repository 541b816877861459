"""lampion.nn.utils and lazy modules against torch's."""
import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nn_checks import array, check_scenario, compare, copy_state, outcome, sample  # noqa: E402

import lampion  # noqa: E402


def both(action):
    """`action(library)` for both: a list of arrays each."""
    return [[array(t) for t in action(library)] for library in (lampion, torch)]


def with_grads(library):
    params = [library.nn.Parameter(library.tensor(sample(s, i))) for i, s in
              enumerate([(3, 4), (5,), ()])]
    for i, param in enumerate(params[:2]):
        param.grad = library.tensor(sample(tuple(param.shape), 50 + i) * 3)
    return params


@pytest.mark.parametrize("norm", [1, 2.0, 3, float("inf")])
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clip_by_norm(norm, limit):
    def action(library):
        params = with_grads(library)
        total = library.nn.utils.clip_grad_norm_(params, limit, norm)
        return [total, *(p.grad for p in params[:2])]

    compare(*both(action))


def test_clip_by_value_and_total_norm():
    def action(library):
        params = with_grads(library)
        library.nn.utils.clip_grad_value_(params, 0.7)
        grads = [p.grad for p in params[:2]]
        yield library.nn.utils.get_total_norm(grads)
        yield from grads

    compare(*both(action))


def test_vectors():
    def action(library):
        params = with_grads(library)
        vector = library.nn.utils.parameters_to_vector(params)
        library.nn.utils.vector_to_parameters(vector * 2, params)
        return [vector, *params]

    compare(*both(action))


def made(library, expression):
    """The layer of `expression` with equal values in both libraries."""
    layer = eval(expression, {"nn": library.nn})
    with library.no_grad():
        for i, param in enumerate(layer.parameters()):
            param.copy_(library.tensor(sample(tuple(param.shape), i)))
    return layer


LAYERS = [("nn.Linear(4, 3)", (2, 4)), ("nn.Conv2d(2, 3, 2)", (1, 2, 4, 4)),
          ("nn.ConvTranspose1d(2, 3, 2)", (1, 2, 4))]


@pytest.mark.parametrize("expression, shape", LAYERS)
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("hooks", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_weight_norm(expression, shape, dim, hooks):
    def action(library):
        utils = library.nn.utils
        layer = made(library, expression)
        norm = utils.weight_norm if hooks else utils.parametrizations.weight_norm
        norm(layer, dim=dim)
        out = layer(library.tensor(sample(shape, 9)))
        (out * out).sum().backward()
        names = [n for n, _ in layer.named_parameters()]
        yield out
        yield from (p.grad for _, p in sorted(layer.named_parameters()))
        yield from (layer.state_dict()[k] for k in sorted(layer.state_dict()))
        if hooks:
            utils.remove_weight_norm(layer)
        else:
            utils.parametrize.remove_parametrizations(layer, "weight")
        yield layer.weight
        yield library.tensor([len(names), len(list(layer.parameters()))])

    compare(*both(action))


@pytest.mark.parametrize("expression, shape", LAYERS)
@pytest.mark.parametrize("hooks", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_spectral_norm(expression, shape, hooks, training):
    def action(library):
        utils = library.nn.utils
        layer = made(library, expression)
        norm = utils.spectral_norm if hooks else utils.parametrizations.spectral_norm
        norm(layer, n_power_iterations=2)
        names = ("weight_u", "weight_v") if hooks \
            else ("parametrizations.weight.0._u", "parametrizations.weight.0._v")
        with library.no_grad():
            for i, name in enumerate(names):
                buffer = layer.state_dict()[name]
                values = sample(tuple(buffer.shape), 30 + i)
                buffer.copy_(library.tensor(values / np.linalg.norm(values)))
        layer.train(training)
        out = layer(library.tensor(sample(shape, 9)))
        (out * out).sum().backward()
        yield out
        yield from (p.grad for _, p in sorted(layer.named_parameters()))
        yield from (layer.state_dict()[k] for k in names)
        layer.eval()
        if hooks:
            utils.remove_spectral_norm(layer)
        else:
            utils.parametrize.remove_parametrizations(layer, "weight")
        yield layer.weight

    compare(*both(action))


def parametrization_classes(t):
    class Symmetric(t.nn.Module):
        def forward(self, x):
            return x.triu() + x.triu(1).transpose(-1, -2)

    class Exponential(t.nn.Module):
        def forward(self, x):
            return x.exp()

        def right_inverse(self, x):
            return x.log()

    class Pair(t.nn.Module):
        def forward(self, a, b):
            return a + b

        def right_inverse(self, x):
            return x / 2, x / 2

    class Cut(t.nn.Module):
        def forward(self, x):
            return x[:1]

    return Symmetric, Exponential, Pair, Cut


def scenario_parametrize(t):
    P = t.nn.utils.parametrize
    Symmetric, Exponential, Pair, Cut = parametrization_classes(t)

    def linear():
        layer = t.nn.Linear(2, 2)
        with t.no_grad():
            layer.weight.copy_(t.tensor([[1.0, 2.0], [3.0, 4.0]]))
        return layer

    def facts(layer):
        return (sorted(n for n, _ in layer.named_parameters()), type(layer).__name__,
                [[round(v, 3) for v in row] for row in layer.weight.tolist()],
                P.is_parametrized(layer), P.is_parametrized(layer, "bias"))

    yield lambda: facts(P.register_parametrization(linear(), "weight", Symmetric()))
    yield lambda: facts(P.register_parametrization(linear(), "weight", Exponential()))
    yield lambda: facts(P.register_parametrization(linear(), "weight", Pair()))
    yield lambda: repr(P.register_parametrization(linear(), "weight", Pair()))
    yield lambda: P.register_parametrization(linear(), "missing", Pair())
    yield lambda: P.remove_parametrizations(linear(), "weight")
    yield lambda: facts(P.register_parametrization(linear(), "weight", Cut(), unsafe=True))

    def assigned():
        layer = P.register_parametrization(linear(), "weight", Exponential())
        layer.weight = t.ones(2, 2)
        return layer.parametrizations.weight.original.tolist(), layer.weight.tolist()

    def cannot_assign():
        layer = P.register_parametrization(linear(), "weight", Symmetric())
        layer.weight = t.ones(2, 2)

    def removed(leave):
        layer = P.register_parametrization(linear(), "weight", Symmetric())
        P.remove_parametrizations(layer, "weight", leave)
        return facts(layer), type(layer.weight).__name__

    def pair_removed(leave):
        layer = P.register_parametrization(linear(), "weight", Pair())
        P.remove_parametrizations(layer, "weight", leave)
        return facts(layer)

    def two():
        layer = P.register_parametrization(linear(), "weight", Symmetric())
        P.register_parametrization(layer, "weight", Exponential())
        return facts(layer), P.type_before_parametrizations(layer).__name__

    def once():
        calls = []

        class Count(t.nn.Module):
            def forward(self, x):
                calls.append(1)
                return x

        layer = P.register_parametrization(linear(), "weight", Count())
        calls.clear()
        with P.cached():
            layer(t.ones(1, 2))
            layer(t.ones(1, 2))
        layer(t.ones(1, 2))
        return len(calls)

    def copied():
        layer = P.register_parametrization(linear(), "weight", Symmetric())
        other = copy.deepcopy(layer)
        with t.no_grad():
            layer.parametrizations.weight.original.zero_()
        return facts(other), facts(layer)

    yield from (assigned, cannot_assign, lambda: removed(True), lambda: removed(False),
                lambda: pair_removed(True), lambda: pair_removed(False), two, once, copied)
    yield lambda: pickle.dumps(P.register_parametrization(linear(), "weight", Symmetric()))
    yield lambda: facts(P.transfer_parametrizations_and_params(
        P.register_parametrization(linear(), "weight", Symmetric()), t.nn.Linear(2, 2)))


def scenario_functional_call(t):
    call = t.nn.utils.stateless.functional_call if t is lampion else t.func.functional_call

    def net():
        layer = t.nn.Sequential(t.nn.Linear(1, 1), t.nn.BatchNorm1d(1))
        return layer.eval()

    def values(layer, scale):
        return {k: t.full_like(v, scale) for k, v in layer.state_dict().items()
                if "tracked" not in k}

    def plain_call():
        layer = net()
        before = {k: v.clone() for k, v in layer.state_dict().items()}
        out = call(layer, values(layer, 2.0), (t.ones(1, 1),))
        same = all(bool((before[k] == v).all()) for k, v in layer.state_dict().items())
        return round(out.item(), 4), same

    def tied(tie):
        class Net(t.nn.Module):
            def __init__(self):
                super().__init__()
                self.a = self.b = t.nn.Parameter(t.ones(1))

            def forward(self, x):
                return x * self.a + self.b

        return call(Net(), {"a": t.full((1,), 3.0)}, t.ones(1), tie_weights=tie).tolist()

    def gradient():
        layer = t.nn.Linear(1, 1)
        w = t.ones(1, 1, requires_grad=True)
        call(layer, {"weight": w}, t.full((1, 1), 5.0)).sum().backward()
        return w.grad.tolist(), layer.weight.grad

    yield from (plain_call, lambda: tied(True), lambda: tied(False), gradient)
    twice = ({"0.weight": t.ones(1, 1)}, {"0.weight": t.ones(1, 1)})
    yield lambda: call(net(), twice, t.ones(1, 1))


def scenario_lazy(t):
    nn = t.nn

    def becomes(expression, shape):
        layer = eval(expression, {"nn": nn})
        before = repr(layer), repr(layer.state_dict())
        out = layer(t.ones(*shape))
        return before, tuple(out.shape), repr(layer), \
            {k: tuple(v.shape) for k, v in layer.state_dict().items()}

    for expression, shape in (("nn.LazyLinear(3)", (2, 4)),
                              ("nn.LazyLinear(3, bias=False)", (2, 5, 4)),
                              ("nn.LazyConv1d(4, 2)", (1, 3, 5)),
                              ("nn.LazyConv2d(4, 2, groups=3 - 2, bias=False)", (1, 3, 5, 5)),
                              ("nn.LazyConv2d(4, 2, 1, 0, 1, 2)", (4, 5, 5)),
                              ("nn.LazyConv3d(4, 2)", (1, 3, 3, 3, 3)),
                              ("nn.LazyConvTranspose1d(4, 2, groups=2)", (1, 2, 5)),
                              ("nn.LazyConvTranspose2d(4, 2)", (1, 3, 5, 5)),
                              ("nn.LazyConvTranspose3d(4, 2)", (1, 3, 3, 3, 3)),
                              ("nn.LazyBatchNorm1d()", (4, 3)),
                              ("nn.LazyBatchNorm2d(affine=False)", (4, 3, 2, 2)),
                              ("nn.LazyBatchNorm3d(track_running_stats=False)", (4, 3, 2, 2, 2)),
                              ("nn.LazyInstanceNorm1d(affine=True)", (4, 3, 2)),
                              ("nn.LazyInstanceNorm2d()", (4, 3, 2, 2))):
        yield lambda e=expression, s=shape: becomes(e, s)

    def loads():
        lazy = nn.LazyLinear(3)
        lazy.load_state_dict(nn.Linear(4, 3).state_dict())
        return tuple(lazy.weight.shape), type(lazy.weight).__name__, lazy.has_uninitialized_params()

    def copies():
        lazy = copy.deepcopy(nn.LazyLinear(3))
        return tuple(lazy(t.ones(1, 2)).shape), repr(lazy)

    def casts():
        return str(nn.LazyLinear(3).double()(t.ones(1, 2, dtype=t.float64)).dtype)

    def into_eager():
        nn.Linear(4, 3).load_state_dict(nn.LazyLinear(3).state_dict())

    yield from (loads, copies, casts)
    yield lambda: type(outcome(into_eager)).__name__


@pytest.mark.parametrize("scenario", [scenario_parametrize, scenario_functional_call,
                                      scenario_lazy])
@pytest.mark.filterwarnings("ignore")
def test_scenario(scenario):
    check_scenario(scenario)


def test_states_of_weight_norm_are_exchanged():
    theirs = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2))
    ours = lampion.nn.utils.parametrizations.weight_norm(lampion.nn.Linear(3, 2))
    copy_state(theirs, ours)
    x = sample((4, 3), 1)
    compare([array(ours(lampion.tensor(x)))], [array(theirs(torch.tensor(x)))])
