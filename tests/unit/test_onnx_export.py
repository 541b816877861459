"""Models exported to ONNX: checked by the onnx package, and run by its reference evaluator, by
lampion and, where that is installed, by ONNX Runtime. `make onnx` does the same for every op."""

import io
import warnings

import numpy as np
import pytest

import lampion
from lampion import nn
from lampion.base.errors import UnsupportedError
from lampion.nn import functional as F
from lampion.utils import _pytree

onnx = pytest.importorskip("onnx")
from onnx.reference import ReferenceEvaluator  # noqa: E402

try:
    import onnxruntime
except ImportError:
    onnxruntime = None


def tensors(tree):
    return [t for t in _pytree.tree_leaves(tree) if isinstance(t, lampion.Tensor)]


def runs(data, feeds):
    """What everybody who can run the model makes of it, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield "reference", ReferenceEvaluator(data).run(None, feeds)
        ours = lampion.onnx.load(data)(**feeds)
        yield "lampion", [t.numpy() for t in tensors(ours)]
        if onnxruntime is not None:
            session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            yield "onnxruntime", session.run(None, feeds)


def agree(model, args, others=(), **options):
    """Export, check, run on the example and on others; returns the program."""
    file = io.BytesIO()
    program = lampion.onnx.export(model, args, file, **options)
    onnx.checker.check_model(file.getvalue(), full_check=True)
    names = [i.name for i in program.model_proto.graph.input]
    for given in (args, *others):
        with lampion.no_grad():
            want = tensors(model(*_pytree.tree_map(
                lambda t: t.clone() if isinstance(t, lampion.Tensor) else t, given)))
        feeds = {n: t.numpy() for n, t in zip(names, tensors(given), strict=True)}
        for who, got in runs(file.getvalue(), feeds):
            for g, w in zip(got, want, strict=True):
                g, w = np.asarray(g), w.numpy()
                assert g.dtype == w.dtype and g.shape == w.shape, who
                np.testing.assert_allclose(g, w, 1e-5, 1e-5, err_msg=who)
    return program


class Residual(nn.Module):
    """The block of a ResNet-18, with its writes in place."""

    def __init__(self, inner, outer, stride):
        super().__init__()
        self.one = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.two = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outer), nn.BatchNorm2d(outer)
        self.relu = nn.ReLU(inplace=True)
        self.down = None if stride == 1 else nn.Sequential(
            nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x):
        out = self.norm2(self.two(self.relu(self.norm1(self.one(x)))))
        out += x if self.down is None else self.down(x)
        return self.relu(out)


def resnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1), Residual(8, 8, 1), Residual(8, 8, 1), Residual(8, 16, 2),
        Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 32, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10))


class Gpt(nn.Module):
    """A block of a GPT between its embeddings and its head."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 16), nn.Embedding(32, 16)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 64), nn.GELU(approximate="tanh"),
                                 nn.Linear(64, 16), nn.Dropout(0.1))
        self.head = nn.Linear(16, 20, bias=False)

    def forward(self, ids):
        b, t = ids.shape
        x = self.tokens(ids) + self.places(lampion.arange(t, device=ids.device))
        q, k, v = (p.view(b, t, 4, 4).transpose(1, 2)
                   for p in self.qkv(self.norm1(x)).split(16, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(b, t, 16))
        return self.head(x + self.mlp(self.norm2(x)))


def models():
    lampion.manual_seed(0)
    r = lampion.randn
    yield "mlp", nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 2), nn.Softmax(-1)), (
        r(3, 5),), {"input": {0: "batch"}}, [(r(1, 5),), (r(8, 5),)]
    yield "cnn", nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6), nn.SiLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, padding="same"), nn.Hardswish(), nn.AvgPool2d(2, padding=1),
        nn.Flatten(), nn.Linear(36, 3)), (r(2, 3, 8, 8),), {"input": [0]}, [(r(5, 3, 8, 8),)]
    yield "resnet", resnet(), (r(1, 3, 32, 32),), {"input": {0: "n", 2: "h", 3: "w"}}, [
        (r(2, 3, 48, 40),)]
    yield "encoder", nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2,
        enable_nested_tensor=False), (r(2, 5, 8),), {"src": {0: "batch", 1: "time"}}, [
            (r(3, 9, 8),), (r(1, 1, 8),)]
    yield "lstm", nn.LSTM(5, 4, 2, bidirectional=True), (r(6, 2, 5),), {"input": {1: "batch"}}, [
        (r(6, 7, 5),)]
    yield "gru", nn.GRU(5, 4), (r(3, 2, 5),), {}, []
    yield "gpt", Gpt(), (lampion.randint(0, 20, (2, 7)),), {"ids": {0: "batch", 1: "time"}}, [
        (lampion.randint(0, 20, (3, 11)),), (lampion.randint(0, 20, (1, 1)),)]


MODELS = {name: rest for name, *rest in models()}


def trained(model):
    """A model in eval mode, with statistics that are not 0 and 1."""
    for name, b in model.named_buffers():
        if "running" in name:
            b.copy_(lampion.rand(b.shape) + 0.5)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    model, args, axes, others = MODELS[name]
    agree(trained(model), args)
    if axes:
        agree(model, args, others, dynamic_axes=axes)


@pytest.mark.parametrize(("name", "opset"), [
    # the reference evaluator takes a BatchNormalization below opset 14 for one in training
    ("gpt", 13), ("cnn", 15), ("gpt", 17), ("cnn", 20), ("gpt", 23)])
def test_opsets(name, opset):
    model, args, _, _ = MODELS[name]
    program = agree(model.eval(), args, opset_version=opset)
    assert program.model_proto.opset_import[0].version == opset


def test_layers_that_onnx_has_are_one_node():
    model, args, _, _ = MODELS["resnet"]
    ops = [n.op_type for n in agree(model.eval(), args).model_proto.graph.node]
    assert ops.count("BatchNormalization") == ops.count("Conv") == 15
    assert set(ops) == {"BatchNormalization", "Conv", "Relu", "MaxPool", "Add", "ReduceMean",
                        "Reshape", "Gemm"}


def test_pieces():
    def fn(x, y):
        values, where = x.topk(2, 1)
        return [values, where, *x.split([1, 2]), x.mean(), x.std(1), x.var((0, 1)),
                x[..., None, 1:], x[[2, 0]], x[:, ::2], x.roll(1, 0), x.flip(1), x.cumsum(1),
                x.argmax(1), x.norm(),
                lampion.einsum("ij,kj->ik", x, y), F.pad(x, (1, 2)),
                F.pad(x[None], (1, 1), "reflect"),
                lampion.where(x > 0, x, y), x.clamp(-0.5, 0.5), F.softplus(x), F.elu(x), F.mish(x),
                lampion.log1p(x.abs()), lampion.expm1(x), lampion.atan2(x, y), x.abs() ** 0.3,
                F.layer_norm(x, (5,)), F.normalize(x), x.sort(1).values, x.max(1).indices,
                F.one_hot(x.argmax(1), 5), x.tril(), lampion.stack([x, y], 1), x.gather(1, where),
                x.to(lampion.float64), x.int() // 2, x.int() % 2, (x > 0).any(1), ~(x > 0),
                F.interpolate(x[None, None], scale_factor=2, mode="bilinear"),
                F.adaptive_avg_pool1d(x[None], 2), x.masked_fill(x > 0, 1.0), x.diagonal()]

    agree(fn, (lampion.randn(3, 5), lampion.randn(3, 5)))


def test_writes_in_place():
    def fn(x):
        x[:, 0] = 1
        x[0] = x[1] * 2
        x[x > 1] = 0.5
        x[:, lampion.tensor([1, 2])] *= 3
        view = x.t()[1:3]
        view += 10
        table = lampion.zeros(4)
        table[1:3] = lampion.tensor([7.0, 8.0])
        table += 1
        return x, view, table.flip(0)

    agree(fn, (lampion.randn(4, 5),))


def test_names_and_arguments(tmp_path):
    class Two(nn.Module):
        def forward(self, a, pair, *, scale=1.0):
            return {"sum": a + pair[0] * scale, "more": (pair[1], 3)}

    a, b, c = (lampion.randn(2) for _ in range(3))
    path = tmp_path / "two.onnx"
    program = lampion.onnx.export(Two(), (a, (b, c)), path, kwargs={"scale": 2.0},
                                  input_names=["left", "right"], output_names=["total"])
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == ["left", "right", "pair_1"]
    assert [o.name for o in model.graph.output] == ["total", "output_1", "output_2"]
    assert model.producer_name == "lampion"
    total, same, three = lampion.onnx.load(path)(a, b, c)
    lampion.testing.assert_close(total, a + 2 * b)
    assert lampion.equal(same, c) and three.item() == 3
    assert lampion.equal(program(a, b, c)[1], c) and "left, right" in repr(program)
    assert lampion.onnx.export(Two(), (a, (b, c)), path, dynamo=False) is None


def test_parameters_keep_their_names_and_modes():
    model, args, _, _ = MODELS["cnn"]
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    program = lampion.onnx.export(model, args)
    names = {t.name for t in program.model_proto.graph.initializer}
    assert {"0.weight", "1.running_mean", "8.bias"} <= names
    assert model.training and model[1].training
    lampion.testing.assert_close(dict(model.state_dict()), before)
    loaded = lampion.onnx.load(program.model_proto)
    assert {"0.weight", "8.bias"} <= set(dict(loaded.named_parameters()))
    file = io.BytesIO()
    lampion.onnx.export(model.eval(), args, file, export_params=False)
    bare = onnx.load_from_string(file.getvalue())
    assert "0.weight" in {i.name for i in bare.graph.input} and not bare.graph.initializer


def test_weights_in_a_file_beside(tmp_path):
    model, args, _, _ = MODELS["gpt"]
    path = tmp_path / "gpt.onnx"
    lampion.onnx.export(model.eval(), args, path, external_data=True)
    assert (tmp_path / "gpt.onnx.data").stat().st_size > 4 * 20 * 16
    with lampion.no_grad():
        lampion.testing.assert_close(lampion.onnx.load(path)(*args), model(*args))


def test_an_exported_program_and_verification():
    model, args, _, _ = MODELS["mlp"]
    program = lampion.export.export(model.eval(), args)
    assert lampion.onnx.export(program, args, verify=True).model_proto.graph.node
    file = io.BytesIO()
    lampion.export.save(program, file)
    file.seek(0)
    with pytest.raises(ValueError, match="does not know its shapes"):
        lampion.onnx.export(lampion.export.load(file))


def test_translations_of_ones_own():
    def relu(g, input):
        return g.node("Max", input.name, g.number(0, input.dtype))

    program = lampion.onnx.export(nn.ReLU(), (lampion.randn(3),),
                                  custom_translation_table={"relu": relu})
    assert [n.op_type for n in program.model_proto.graph.node] == ["Max"]

    def wrong(g, input):
        return g.node("Neg", input.name)

    with pytest.raises(RuntimeError, match="output 0 differs"):
        lampion.onnx.export(nn.ReLU(), (lampion.ones(3),), verify=True,
                            custom_translation_table={lampion.relu: wrong})


@pytest.mark.parametrize(("fn", "options", "message"), [
    (lambda x: x if x.sum() > 0 else -x, {}, "read on the host"),
    (lambda x: lampion.linalg.svdvals(x), {}, r"svdvals_only .*has no translation.*custom"),
    (lambda x: lampion.lgamma(x), {}, "lgamma .*made of"),
    (lambda x: lampion.bitwise_and(x.int(), 1), {"opset_version": 17},
     "BitwiseAnd, which opset 17 lacks"),
    (lambda x: x.diagonal(), {"dynamic_axes": {"x": [0]}}, "dims it works on do not change"),
    (lambda x: lampion.fft.fft(x), {}, "fft_c2c"),
])
def test_what_onnx_cannot_say(fn, options, message):
    with pytest.raises((UnsupportedError, lampion.export.ExportError), match=message):
        lampion.onnx.export(fn, (lampion.rand(3, 3),), **options)
