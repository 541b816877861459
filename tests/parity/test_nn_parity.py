"""lampion.nn against torch.nn: printing, state_dict keys, forward values, gradients, errors."""
import copy
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nn_cases import LAYERS, LOSSES, PRINTED  # noqa: E402
from nn_checks import (  # noqa: E402
    REDUCTIONS,
    array,
    build,
    check_scenario,
    compare,
    copy_state,
    inputs,
    plain,
    run,
    sample,
    tensors,
)

import lampion  # noqa: E402


@pytest.mark.parametrize("expression", [*dict.fromkeys(e for e, _ in LAYERS), *PRINTED])
def test_repr_and_keys(expression):
    ours, theirs = build(lampion, expression), build(torch, expression)
    assert plain(repr(ours)) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert dict(ours.state_dict()._metadata) == dict(theirs.state_dict()._metadata)
    if "Lazy" not in expression:
        for key, value in theirs.state_dict().items():
            mine = ours.state_dict()[key]
            assert tuple(mine.shape) == tuple(value.shape)
            assert plain(str(mine.dtype)) == str(value.dtype)


@pytest.mark.parametrize("expression, specs", LAYERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_forward_and_gradients(expression, specs, training):
    if "RReLU" in expression and training:
        pytest.skip("random")
    ours, theirs = build(lampion, expression), build(torch, expression)
    copy_state(theirs, ours)
    ours.train(training)
    theirs.train(training)
    his, his_grads = run(theirs, inputs(torch, specs), expression)
    mine, my_grads = run(ours, inputs(lampion, specs), expression)
    compare(mine, his)
    compare(my_grads, his_grads)
    compare([array(b) for b in ours.buffers()], [array(b) for b in theirs.buffers()])


@pytest.mark.parametrize("expression, specs", LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.filterwarnings("ignore")
def test_losses(expression, specs, reduction):
    expression = expression.format(f"reduction={reduction!r}")
    ours, theirs = build(lampion, expression), build(torch, expression)
    assert repr(ours) == repr(theirs)
    his = inputs(torch, specs)
    mine = inputs(lampion, specs)
    for args in (his, mine):
        for other in args[1:]:
            if "NLL" in expression or "BCE" in expression or "SoftMargin" in expression:
                other.requires_grad_(False)
    compare(*[sum(run(m, a, expression), []) for m, a in ((ours, mine), (theirs, his))])


WEIGHTED = [("NLLLoss", [(3, 4), ("int", (3,), 4)], (4,)),
            ("CrossEntropyLoss", [(3, 4), ("int", (3,), 4)], (4,)),
            ("BCELoss", [("pos", (3, 4)), ("pos", (3, 4))], (3, 4)),
            ("BCEWithLogitsLoss", [(3, 4), ("pos", (3, 4))], (4,)),
            ("MultiLabelSoftMarginLoss", [(3, 4), ("pos", (3, 4))], (4,)),
            ("MultiMarginLoss", [(3, 4), ("int", (3,), 4)], (4,))]


@pytest.mark.parametrize("name, specs, shape", WEIGHTED)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weighted_losses(name, specs, shape, reduction):
    found = []
    for library in (lampion, torch):
        weight = library.tensor(sample(("pos", shape), 7))
        loss = getattr(library.nn, name)(weight=weight, reduction=reduction)
        args = inputs(library, specs)
        args[1].requires_grad_(False)
        found.append(sum(run(loss, args, name), []))
    compare(*found)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("joined", [True, False])
def test_ctc_loss(reduction, joined):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((9, 3, 5)).astype(np.float32)
    labels = rng.integers(1, 5, (3, 4)).astype(np.int64)
    lengths = [4, 2, 3]
    flat = np.concatenate([row[:n] for row, n in zip(labels, lengths)])
    found = []
    for library in (lampion, torch):
        x = library.tensor(values).requires_grad_()
        targets = library.tensor(flat if joined else labels)
        loss = library.nn.CTCLoss(reduction=reduction)(
            library.nn.functional.log_softmax(x, 2), targets, library.tensor([9, 7, 8]),
            library.tensor(lengths))
        loss.sum().backward()
        found.append([array(loss), array(x.grad)])
    compare(*found)


def test_ctc_loss_impossible():
    for zero_infinity in (False, True):
        found = []
        for library in (lampion, torch):
            x = library.nn.functional.log_softmax(library.tensor(
                np.zeros((2, 1, 3), np.float32)), 2)
            found.append(array(library.nn.functional.ctc_loss(
                x, library.tensor([[1, 1]]), [2], [2], zero_infinity=zero_infinity)))
        np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.filterwarnings("ignore")
def test_fractional_pool_and_unpool():
    found = []
    for library in (lampion, torch):
        out = []
        for axes, shape in ((2, (2, 3, 9, 8)), (3, (1, 2, 6, 7, 5))):
            x = library.tensor(sample(shape, 3)).requires_grad_()
            u = library.tensor(sample(("pos", (*shape[:2], axes)), 4))
            pool = getattr(library.nn, f"FractionalMaxPool{axes}d")(
                2, output_ratio=0.5, return_indices=True, _random_samples=u)
            y, at = pool(x)
            (y * y).sum().backward()
            out += [array(y), array(at), array(x.grad)]
            x = library.tensor(sample(shape, 5)).requires_grad_()
            pool = getattr(library.nn, f"MaxPool{axes}d")(2, stride=2, return_indices=True)
            unpool = getattr(library.nn, f"MaxUnpool{axes}d")(2, stride=2)
            y = unpool(*pool(x), output_size=x.size())
            (y * y).sum().backward()
            out += [array(y), array(x.grad)]
        found.append(out)
    compare(*found)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align", [True, False])
def test_grid_sample(mode, padding, align):
    found = []
    for library in (lampion, torch):
        F, out = library.nn.functional, []
        for shape, theta in (((2, 3, 5, 6), (2, 2, 3)), ((1, 2, 3, 4, 5), (1, 3, 4))):
            if len(shape) == 5 and mode == "bicubic":
                continue
            x = library.tensor(sample(shape, 1)).requires_grad_()
            t = library.tensor(sample(theta, 2) * 0.9).requires_grad_()
            grid = F.affine_grid(t, shape, align_corners=align)
            y = F.grid_sample(x, grid, mode=mode, padding_mode=padding, align_corners=align)
            (y * y).sum().backward()
            out += [array(grid), array(y), array(x.grad)]
            if mode != "nearest":
                out.append(array(t.grad))
        found.append(out)
    for mine, his in zip(*found):
        np.testing.assert_allclose(mine, his, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag_offsets(mode):
    found = []
    for library in (lampion, torch):
        w = library.tensor(sample((10, 3), 1)).requires_grad_()
        index = library.tensor(sample(("int", (8,), 10), 2))
        offsets = library.tensor([0, 3, 3, 6])
        scale = library.tensor(sample((8,), 3)).requires_grad_() if mode == "sum" else None
        y = library.nn.functional.embedding_bag(index, w, offsets, mode=mode,
                                                per_sample_weights=scale)
        (y * y).sum().backward()
        found.append([array(y), array(w.grad)] + ([array(scale.grad)] if scale is not None else []))
    compare(*found)


def test_packed_sequences():
    found = []
    for library in (lampion, torch):
        rnn, out = library.nn.utils.rnn, []
        padded = library.tensor(sample((5, 3, 2), 1)).requires_grad_()
        packed = rnn.pack_padded_sequence(padded, [3, 5, 2], enforce_sorted=False)
        out += [array(packed.data), array(packed.batch_sizes), array(packed.sorted_indices)]
        for first in (True, False):
            back, lengths = rnn.pad_packed_sequence(packed, first, -1.0, total_length=7)
            out += [array(back), array(lengths)]
        (back * back).sum().backward()
        out.append(array(padded.grad))
        rows = [library.tensor(sample((n, 2), n)) for n in (4, 2, 1)]
        out += [array(t) for t in rnn.unpack_sequence(rnn.pack_sequence(rows))]
        out += [array(rnn.pad_sequence(rows, True, 9.0, padding_side=s)) for s in ("left", "right")]
        found.append(out)
    compare(*found)


@pytest.mark.parametrize("name, options", [
    ("LSTM", {"num_layers": 2, "bidirectional": True}), ("GRU", {"bidirectional": True}),
    ("RNN", {"batch_first": True}), ("LSTM", {"proj_size": 2})])
def test_recurrent_layers_on_packed_sequences(name, options):
    theirs = getattr(torch.nn, name)(3, 4, **options)
    ours = getattr(lampion.nn, name)(3, 4, **options)
    copy_state(theirs, ours)
    found = []
    for library, layer in ((lampion, ours), (torch, theirs)):
        x = library.tensor(sample((5, 3, 3), 1)).requires_grad_()
        packed = library.nn.utils.rnn.pack_padded_sequence(x, [3, 5, 2], enforce_sorted=False)
        output, state = layer(packed)
        parts = [output.data, *tensors(state)]
        sum((p * p).sum() for p in parts).backward()
        found.append([array(p) for p in parts] + [array(x.grad)]
                     + [array(p.grad) for p in layer.parameters()])
    compare(*found)


def masks(library):
    yield {}
    yield {"key_padding_mask": library.tensor([[False] * 6, [False] * 4 + [True] * 2, [False] * 6])}
    yield {"attn_mask": library.tensor(np.triu(np.full((5, 6), -np.inf, np.float32), 2))}
    yield {"attn_mask": library.tensor(np.triu(np.ones((5, 6), bool), 2)),
           "key_padding_mask": library.tensor(np.array([[0] * 6, [0] * 6, [0] * 5 + [1]], bool))}


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_attention_masks(which, need_weights, average):
    theirs, ours = torch.nn.MultiheadAttention(8, 2), lampion.nn.MultiheadAttention(8, 2)
    copy_state(theirs, ours)
    found = []
    for library, layer in ((lampion, ours), (torch, theirs)):
        q, k = (library.tensor(sample(s, i)).requires_grad_()
                for i, s in enumerate([(5, 3, 8), (6, 3, 8)]))
        out, weights = layer(q, k, k, need_weights=need_weights, average_attn_weights=average,
                             **list(masks(library))[which])
        (out * out).sum().backward()
        found.append([array(t) for t in tensors((out, weights))] + [array(q.grad), array(k.grad)])
    compare(*found)


def test_adaptive_log_softmax():
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10], div_value=2.0, head_bias=True)
    ours = lampion.nn.AdaptiveLogSoftmaxWithLoss(8, 20, [5, 10], div_value=2.0, head_bias=True)
    copy_state(theirs, ours)
    found = []
    for library, layer in ((lampion, ours), (torch, theirs)):
        x = library.tensor(sample((6, 8), 1)).requires_grad_()
        out = layer(x, library.tensor([0, 7, 19, 4, 5, 10]))
        out.loss.backward()
        found.append([array(out.output), array(out.loss), array(x.grad), array(layer.log_prob(x)),
                      array(layer.predict(x))])
    compare(*found)


# ---- start values: the same distributions --------------------------------------------------------

STARTS = ["Linear(300, 200)", "Conv2d(30, 40, 5)", "ConvTranspose2d(30, 40, 5)", "LSTM(200, 100)",
          "Embedding(300, 100)", "MultiheadAttention(128, 4)", "Bilinear(50, 60, 70)",
          "GRUCell(100, 100)", "PReLU(10)", "BatchNorm2d(100)"]


@pytest.mark.parametrize("expression", STARTS)
def test_start_distributions(expression):
    ours, theirs = build(lampion, expression), build(torch, expression)
    for (name, mine), his in zip(ours.named_parameters(), theirs.parameters()):
        a, b = array(mine), array(his)
        scale = max(float(np.abs(b).max()), 1e-6)
        assert abs(np.abs(a).max() - np.abs(b).max()) < 0.2 * scale, name
        assert abs(a.mean() - b.mean()) < 0.4 * scale, name
        assert abs(a.std() - b.std()) < 0.3 * scale, name


INITS = ["uniform_(t, -2, 3)", "normal_(t, 1.0, 2.0)", "trunc_normal_(t, std=0.5, a=-0.6)",
         "constant_(t, 0.3)", "ones_(t)", "zeros_(t)", "eye_(t)", "xavier_uniform_(t, 2.0)",
         "xavier_normal_(t)", "kaiming_uniform_(t, 0.1, 'fan_out')",
         "kaiming_normal_(t, nonlinearity='relu')", "sparse_(t, 0.3)"]


@pytest.mark.parametrize("expression", INITS)
def test_init_functions(expression):
    stats = []
    for library in (lampion, torch):
        t = library.empty(200, 300)
        back = eval("init." + expression, {"init": library.nn.init, "t": t})
        assert back is t
        values = array(t)
        stats.append(np.array([values.mean(), values.std(), np.abs(values).max(),
                               (values == 0).mean()]))
    np.testing.assert_allclose(stats[0], stats[1], rtol=0.25, atol=0.02)


def test_orthogonal_and_dirac():
    for shape in ((5, 3), (3, 5), (4, 2, 3)):
        t = lampion.nn.init.orthogonal_(lampion.empty(*shape), gain=2.0)
        flat = array(t).reshape(shape[0], -1)
        square = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
        np.testing.assert_allclose(square, 4 * np.eye(len(square)), atol=1e-4)
    for shape, groups in (((4, 2, 3), 2), ((3, 3, 3, 3), 1)):
        mine = lampion.nn.init.dirac_(lampion.empty(*shape), groups)
        his = torch.nn.init.dirac_(torch.empty(*shape), groups)
        np.testing.assert_array_equal(array(mine), array(his))


def test_gains():
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "selu", "leaky_relu"):
        ours, theirs = (t.nn.init.calculate_gain(name) for t in (lampion, torch))
        assert math.isclose(ours, theirs)


# ---- what programs see of modules ---------------------------------------------------------------

def scenario_assignment(t):
    nn = t.nn
    linear, norm, chain = nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.ReLU())

    class Early(nn.Module):
        def __init__(self, value):
            self.value = value

    yield lambda: setattr(linear, "weight", 3)
    yield lambda: setattr(linear, "weight", t.ones(3))
    yield lambda: setattr(norm, "running_mean", 3)
    yield lambda: setattr(chain, "0", 3)
    yield lambda: Early(nn.Parameter(t.ones(1)))
    yield lambda: Early(nn.ReLU())
    yield lambda: Early(nn.Buffer(t.ones(1)))
    yield lambda: Early(3).value
    yield lambda: linear.missing
    yield lambda: delattr(linear, "missing")
    for register in (lambda n, v: linear.register_parameter(n, v),
                     lambda n, v: linear.register_buffer(n, v),
                     lambda n, v: linear.add_module(n, v)):
        for name in ("a.b", "", 3, "training", "forward"):
            yield lambda r=register, n=name: r(n, None)
        yield lambda r=register: r("fresh", 3)
    yield lambda: linear.register_parameter("product", nn.Parameter(t.ones(1)) * 2)
    yield lambda: nn.Module(3)
    yield lambda: nn.Module(a=3)
    yield lambda: nn.Module()(3)
    yield lambda: linear.train(3)
    yield lambda: linear.to(t.int32)


def scenario_lookup(t):
    nn = t.nn
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for target in ("", "0", "5", "0.weight", "0.missing", "1.running_mean", "a.b", "weight"):
        yield lambda n=target: net.get_submodule(n)
        yield lambda n=target: tuple(net.get_parameter(n).shape)
        yield lambda n=target: tuple(net.get_buffer(n).shape)
        for strict in (True, False):
            yield lambda n=target, s=strict: net.set_submodule(n, nn.ReLU(), s) or repr(net)
    yield lambda: net.set_submodule("0", 3)


def scenario_loading(t):
    nn = t.nn

    def net():
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))

    good = net().state_dict()
    yield lambda: net().load_state_dict(good)
    yield lambda: net().load_state_dict({})
    yield lambda: net().load_state_dict({}, strict=False)
    yield lambda: net().load_state_dict(3)
    yield lambda: nn.Linear(2, 3).load_state_dict(
        {"weight": t.ones(2, 2), "bias": 3, "x": 1, "y.z": 1})
    yield lambda: net().load_state_dict(
        {"0.weight": t.ones(2, 2), "0.bias": t.ones(3), "x": 1, "0.y": 1, "5.y": 2,
         "0.weight.d": 3})
    yield lambda: net().load_state_dict(
        {k: v for k, v in good.items() if "tracked" not in k})
    yield lambda: nn.Linear(2, 3).load_state_dict({"weight": t.ones(3, 2)}, strict=False)
    yield lambda: nn.PReLU().load_state_dict({"weight": t.tensor(0.5)})

    def assigned():
        layer, state = nn.Linear(2, 2), nn.Linear(2, 2).state_dict()
        layer.load_state_dict(state, assign=True)
        return type(layer.weight).__name__, layer.weight.requires_grad

    yield assigned


def scenario_hooks(t):
    nn, log = t.nn, []

    def note(name, answer=None):
        def hook(*args):
            log.append((name, len(args), [type(a).__name__ for a in args[1:]]))
            return answer(*args) if answer else None
        return hook

    def forward():
        log.clear()
        layer = nn.Linear(2, 2)
        layer.register_forward_pre_hook(note("pre"))
        layer.register_forward_pre_hook(note("pre first", lambda m, a: (a[0] * 2,)), prepend=True)
        layer.register_forward_pre_hook(note("pre kw", lambda m, a, k: (a, k)), with_kwargs=True)
        layer.register_forward_hook(note("post", lambda m, a, o: o + 1))
        layer.register_forward_hook(note("post kw"), with_kwargs=True)
        handle = layer.register_forward_hook(note("removed"))
        handle.remove()
        with layer.register_forward_hook(note("inside")):
            layer(t.ones(1, 2))
        layer(input=t.ones(1, 2))
        return list(log)

    def bad_answer():
        layer = nn.Linear(2, 2)
        layer.register_forward_pre_hook(lambda m, a, k: 3, with_kwargs=True)
        layer(t.ones(1, 2))

    def always():
        log.clear()
        layer = nn.Linear(2, 2)
        layer.register_forward_hook(note("always"), always_call=True)
        layer.register_forward_hook(note("always kw"), always_call=True, with_kwargs=True)
        layer.register_forward_hook(note("sometimes"))
        try:
            layer("text")
        except Exception:
            log.append("raised")
        return list(log)

    def backward():
        log.clear()
        layer = nn.Bilinear(2, 2, 2)
        layer.register_full_backward_hook(note("full"))
        layer.register_full_backward_hook(note("halve", lambda m, i, o: tuple(g / 2 for g in i)))
        layer.register_full_backward_pre_hook(note("pre", lambda m, o: (o[0] * 3,)))
        x, y = t.ones(1, 2, requires_grad=True), t.ones(1, 2)
        with t.no_grad():
            for p in layer.parameters():
                p.fill_(1.0)
        layer(x, y).sum().backward() if False else layer(x, x).sum().backward()
        return list(log), x.grad.tolist(), layer.bias.grad.tolist()

    def backward_wrong_count():
        layer = nn.Linear(2, 2)
        layer.register_full_backward_hook(lambda m, i, o: (i[0], i[0]))
        layer(t.ones(1, 2, requires_grad=True)).sum().backward()

    def backward_no_input_grad():
        log.clear()
        layer = nn.Linear(2, 2)
        layer.register_full_backward_hook(
            lambda m, i, o: log.append((i, [tuple(g.shape) for g in o])))
        layer(t.ones(1, 2)).sum().backward()
        return list(log)

    def mixing():
        layer = nn.Linear(2, 2)
        layer.register_full_backward_hook(note("a"))
        layer.register_backward_hook(note("b"))

    def global_hooks():
        log.clear()
        module = t.nn.modules.module
        layer = nn.Sequential(nn.ReLU())
        layer.register_forward_hook(note("own"))
        with module.register_module_forward_pre_hook(note("global pre")), \
                module.register_module_forward_hook(note("global post")), \
                module.register_module_full_backward_hook(note("global full")):
            layer(t.ones(1, 2, requires_grad=True)).sum().backward()
        layer(t.ones(1, 2))
        return list(log)

    def state_hooks():
        log.clear()
        layer = nn.Sequential(nn.Linear(1, 1))
        layer.register_state_dict_pre_hook(lambda m, p, k: log.append(("pre", p, k)))
        layer.register_state_dict_post_hook(lambda m, s, p, meta: log.append((list(s), p, meta)))
        layer[0].register_state_dict_post_hook(lambda m, s, p, meta: s.update(extra=1))
        layer.register_load_state_dict_pre_hook(
            lambda m, s, p, meta, strict, missing, unexpected, errors: s.pop("extra"))
        layer.register_load_state_dict_post_hook(lambda m, keys: log.append(str(keys)))
        layer.load_state_dict(layer.state_dict())
        return list(log)

    def post_hook_returns():
        layer = nn.Linear(1, 1)
        layer.register_state_dict_post_hook(lambda *a: {})
        layer.state_dict()

    yield from (forward, bad_answer, always, backward, backward_wrong_count, backward_no_input_grad,
                mixing, global_hooks, state_hooks, post_hook_returns)


def scenario_traversal(t):
    nn = t.nn
    shared = nn.Linear(2, 2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = shared
            self.b = nn.ModuleList([shared, nn.BatchNorm1d(2)])
            self.scale = nn.Parameter(t.ones(1))
            self.register_buffer("seen", t.zeros(1), persistent=False)
            self.kept = nn.Buffer(t.zeros(1))
            self.none = None
            self.register_parameter("absent", None)

        def get_extra_state(self):
            return {"v": 1}

        def set_extra_state(self, state):
            self.loaded = state

    net = Net()
    yield lambda: [n for n, _ in net.named_parameters()]
    yield lambda: [n for n, _ in net.named_parameters(remove_duplicate=False)]
    yield lambda: [n for n, _ in net.named_parameters("root", recurse=False)]
    yield lambda: [n for n, _ in net.named_buffers()]
    yield lambda: [n for n, _ in net.named_modules()]
    yield lambda: [n for n, _ in net.named_modules(remove_duplicate=False)]
    yield lambda: [n for n, _ in net.named_modules(prefix="top")]
    yield lambda: [n for n, _ in net.named_children()]
    yield lambda: list(net.state_dict())
    yield lambda: net.state_dict()._metadata
    yield lambda: net.load_state_dict(net.state_dict()) and net.loaded
    yield lambda: [n for n in dir(net) if n in ("a", "b", "scale", "seen", "absent", "kept")]
    yield lambda: repr(net)
    yield lambda: str(net.double().scale.dtype)
    yield lambda: str(net.half().a.weight.dtype) + str(net.b[1].num_batches_tracked.dtype)
    yield lambda: str(net.to(dtype=t.bfloat16).kept.dtype)
    yield lambda: str(net.float().seen.dtype)
    yield lambda: [m.training for m in net.eval().modules()]
    yield lambda: [p.requires_grad for p in net.requires_grad_(False).parameters()]
    yield lambda: repr(copy.deepcopy(net)) == repr(net)
    yield lambda: copy.deepcopy(net).a is copy.deepcopy(net).b[0]

    def renamed():
        other = copy.deepcopy(net)
        del other.scale
        other.scale = t.ones(1)
        other.a = None
        return [n for n, _ in other.named_parameters()], other.scale.requires_grad

    yield renamed


def scenario_containers(t):
    nn = t.nn

    def chain(n=3):
        return nn.Sequential(*[nn.Linear(i + 1, i + 1) for i in range(n)])

    yield lambda: chain()[-1]
    yield lambda: chain()[1:]
    yield lambda: chain()[5]
    yield lambda: chain() + chain(1)
    yield lambda: chain(1) * 3
    yield lambda: 2 * chain(1)
    yield lambda: chain(1) * 0
    yield lambda: chain(1) * 1.5
    yield lambda: chain() + 3
    yield lambda: chain(2).insert(1, nn.ReLU())
    yield lambda: chain(2).insert(9, nn.ReLU())
    yield lambda: chain(2).insert(0, 3)
    yield lambda: chain(2).append(nn.ReLU()).extend([nn.Tanh()])
    yield lambda: chain().pop(1)
    yield lambda: nn.Sequential(3)

    def deleted():
        net = chain()
        del net[0]
        net[0] = nn.ReLU()
        return net, list(net._modules), len(net)

    yield deleted
    yield lambda: nn.ModuleList([nn.ReLU()]) + [nn.Tanh()]
    yield lambda: nn.ModuleList([nn.ReLU(), nn.Tanh()])[::-1]
    yield lambda: nn.ModuleList(3)
    yield lambda: nn.ModuleList([3])
    yield lambda: nn.ModuleList([nn.ReLU()])(3)
    yield lambda: nn.ModuleDict([("a", nn.ReLU())])["a"]
    yield lambda: nn.ModuleDict(3)
    yield lambda: nn.ModuleDict([(1, 2, 3)])
    yield lambda: nn.ModuleDict({"type": nn.ReLU()})
    yield lambda: list(nn.ParameterDict({"b": t.ones(1), "a": t.ones(1)}).keys())
    yield lambda: list(nn.ParameterDict([("b", t.ones(1)), ("a", t.ones(1))]).keys())
    yield lambda: nn.ParameterDict({"a": t.ones(1)}) | nn.ParameterDict({"b": t.ones(2)})
    yield lambda: nn.ParameterDict({"a": t.ones(1)})[3]
    yield lambda: nn.ParameterDict({"a": t.ones(1)})["q"]
    yield lambda: nn.ParameterDict({"a": 1}).setdefault("b", 2)
    yield lambda: nn.ParameterDict({"a": 1, "b": 2}).popitem()
    yield lambda: nn.ParameterList([1, 2, 3])[1:]
    yield lambda: nn.ParameterList([1])[3]
    yield lambda: nn.ParameterList(t.ones(3))
    yield lambda: nn.ParameterList([1])(3)
    yield lambda: list(nn.ParameterList([t.ones(1)]).state_dict())


def scenario_arguments(t):
    nn, F = t.nn, t.nn.functional
    yield lambda: nn.Conv2d(3, 4, 3, groups=2)
    yield lambda: nn.Conv2d(4, 3, 3, groups=2)
    yield lambda: nn.Conv2d(4, 4, 3, groups=0)
    yield lambda: nn.Conv2d(4, 4, 3, padding="same", stride=2)
    yield lambda: nn.ConvTranspose2d(4, 4, 3, padding_mode="reflect")
    yield lambda: nn.GroupNorm(3, 4)
    yield lambda: nn.Dropout(1.5)
    yield lambda: nn.Bilinear(0, 2, 3)
    yield lambda: nn.LSTM(2, 3, dropout=2)
    yield lambda: nn.LSTM(2, 3, proj_size=3)
    yield lambda: nn.GRU(2, 3, proj_size=1)
    yield lambda: nn.RNN(2, 3, nonlinearity="gelu")
    yield lambda: nn.LSTM(2, 3.5)
    yield lambda: nn.RNN(2, 3)(t.ones(2, 2, 2, 2))
    yield lambda: nn.RNN(2, 3)(t.ones(2, 2, 5))
    yield lambda: nn.RNN(2, 3)(t.ones(2, 2, 2), t.ones(1, 1, 3))
    yield lambda: nn.MultiheadAttention(5, 2)
    yield lambda: nn.MultiheadAttention(0, 2)
    yield lambda: nn.TripletMarginLoss(margin=0)
    yield lambda: nn.MultiMarginLoss(p=3)
    yield lambda: nn.Unflatten(1, 3)
    yield lambda: nn.Unflatten(1, (2, "a"))
    yield lambda: nn.BatchNorm1d(3)(t.ones(2, 3, 4, 5))
    yield lambda: nn.BatchNorm2d(3)(t.ones(2, 3))
    yield lambda: nn.BatchNorm1d(3)(t.ones(1, 3))
    yield lambda: nn.FractionalMaxPool2d(2)
    yield lambda: nn.FractionalMaxPool2d(2, output_ratio=1.5)
    yield lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 5, [3, 2])
    yield lambda: nn.Embedding(3, 2, padding_idx=3)
    yield lambda: nn.Embedding.from_pretrained(t.ones(3))
    yield lambda: nn.Embedding.from_pretrained(t.ones(3, 2)).weight.requires_grad
    yield lambda: F.pixel_shuffle(t.ones(1, 3, 2, 2), 2)
    yield lambda: F.glu(t.ones(3))
    yield lambda: F.mse_loss(t.ones(3), t.ones(3), reduction="other")
    yield lambda: F.mse_loss(t.ones(3), t.zeros(3), size_average=False)
    yield lambda: F.binary_cross_entropy(t.ones(3), t.ones(2))
    yield lambda: F.softmax(t.zeros(2, 2)).tolist()
    yield lambda: nn.factory_kwargs({"a": 1}) if hasattr(nn, "factory_kwargs") else None
    yield lambda: nn.init.kaiming_normal_(t.ones(3))
    yield lambda: nn.init.calculate_gain("other")
    yield lambda: nn.utils.rnn.pack_padded_sequence(t.ones(3, 2), [1, 3])
    yield lambda: nn.utils.rnn.pack_padded_sequence(t.ones(3, 2), [3, 0])
    yield lambda: nn.Parameter(t.ones(2, dtype=t.int64))
    yield lambda: nn.Parameter(t.ones(2))
    yield lambda: type(nn.Parameter(t.ones(2)) * 2).__name__
    yield lambda: type(copy.deepcopy(nn.Parameter(t.ones(2)))).__name__
    yield lambda: nn.UninitializedParameter()
    yield lambda: nn.UninitializedParameter().shape
    yield lambda: isinstance(nn.Buffer(t.ones(1)), nn.Buffer)
    yield lambda: isinstance(t.ones(1), nn.Buffer)


SCENARIOS = [scenario_assignment, scenario_lookup, scenario_loading, scenario_hooks,
             scenario_traversal, scenario_containers, scenario_arguments]
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.filterwarnings("ignore")
def test_scenario(scenario):
    check_scenario(scenario)
