"""ONNX models run by lampion: some operators on every device against NumPy (`make onnx` has the
onnx package's own tests of all), then weights, older opsets, subgraphs, functions, errors."""

import copy
import subprocess
import sys

import numpy as np
import pytest

import lampion

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from lampion.base.errors import UnsupportedError  # noqa: E402

rng = np.random.default_rng(5)
F, INT = TensorProto.FLOAT, TensorProto.INT64


def info(name, kind=F, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, weights=None, opset=17, functions=(), domains=()):
    """A checked model; inputs and outputs are names (floats) or infos."""
    def infos(values):
        return [info(v) if isinstance(v, str) else v for v in values]

    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), [
        numpy_helper.from_array(v, k) for k, v in (weights or {}).items()])
    made = helper.make_model(graph, opset_imports=[
        helper.make_opsetid("", opset), *[helper.make_opsetid(d, 1) for d in domains]],
        functions=functions)
    made.ir_version = min(made.ir_version, 8)
    return made


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def floats(*shape):
    return rng.standard_normal(shape, dtype=np.float32)


def close(tensor, array, tol=1e-5):
    np.testing.assert_allclose(tensor.detach().cpu().numpy(), array, rtol=tol, atol=tol)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def lstm(x, w, r, b):
    """One direction, gates i o f c, states 0; (time, 1, batch, hidden)."""
    h = c = np.zeros((x.shape[1], r.shape[-1]), np.float32)
    rows = []
    for t in x:
        i, o, f, g = np.split(t @ w[0].T + h @ r[0].T + b[0, :len(b[0]) // 2]
                              + b[0, len(b[0]) // 2:], 4, 1)
        i, o, f = (1 / (1 + np.exp(-v)) for v in (i, o, f))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        rows.append(h)
    return np.stack(rows)[:, None]


A, B, C = floats(3, 4), floats(4, 5), floats(5)
IMAGE, SEQ = floats(2, 3, 4, 4), floats(5, 2, 3)
W, R, BIAS = floats(1, 16, 3), floats(1, 16, 4), floats(1, 32)
CASES = [
    # operator, inputs, attributes, result
    ("Gemm", (A, B, C), {"alpha": 0.5, "beta": 2.0}, 0.5 * A @ B + 2 * C),
    ("Gemm", (A.T.copy(), B.T.copy()), {"transA": 1, "transB": 1}, A @ B),
    ("Einsum", (A, B), {"equation": "ij, jk -> ki"}, (A @ B).T),
    ("Div", (np.array([7, -7]), np.array([2, 2])), {}, np.array([3, -3])),
    ("Mod", (np.array([7, -7]), np.array([3, 3])), {}, np.array([1, 2])),
    ("Pow", (np.array([2, 3]), np.array([2.5, 2], np.float32)), {}, np.array([5, 9])),
    ("Softmax", (A,), {}, softmax(A)),
    ("LogSoftmax", (A,), {"axis": 0}, np.log(softmax(A.T)).T),
    ("ReduceSum", (IMAGE, np.array([1, -1])), {"keepdims": 0}, IMAGE.sum((1, 3))),
    ("ReduceSum", (A,), {"noop_with_empty_axes": 1}, A),
    ("ReduceMax", (np.zeros((0, 2), np.float32), np.array([0])), {"keepdims": 0},
     np.full(2, -np.inf, np.float32)),
    ("CumSum", (A, np.array(1)), {"exclusive": 1, "reverse": 1},
     np.cumsum(A[:, ::-1], 1)[:, ::-1] - A),
    ("Slice", (A, np.array([-1]), np.array([-9]), np.array([1]), np.array([-2])), {}, A[:, ::-2]),
    ("Gather", (A, np.array([[0, -1]])), {"axis": 1}, A[:, [[0, -1]]]),
    ("GatherND", (A, np.array([[0, 1], [2, -1]])), {}, A[[0, 2], [1, 3]]),
    ("ScatterND", (C, np.array([[1], [1]]), np.ones(2, np.float32)), {"reduction": "add"},
     C + np.array([0, 2, 0, 0, 0], np.float32)),
    ("Pad", (A, np.array([0, 1, 0, 2])), {"mode": "reflect"},
     np.pad(A, ((0, 0), (1, 2)), "reflect")),
    ("Expand", (A[:, :1].copy(), np.array([2, 1, 4])), {}, np.broadcast_to(A[:, :1], (2, 3, 4))),
    ("DepthToSpace", (IMAGE[:, :1].repeat(4, 1).copy(),), {"blocksize": 2},
     IMAGE[:, :1].repeat(2, 2).repeat(2, 3)),
    ("AveragePool", (IMAGE,), {"kernel_shape": [2, 2], "strides": [2, 2]},
     IMAGE.reshape(2, 3, 2, 2, 2, 2).mean((3, 5))),
    ("AveragePool", (np.ones((1, 1, 3), np.float32),), {
        "kernel_shape": [2], "pads": [1, 0], "count_include_pad": 1},
     np.array([[[0.5, 1, 1]]], np.float32)),
    ("Resize", (IMAGE, np.array([], np.float32), np.array([1, 1, 0.5, 0.5], np.float32)),
     {"mode": "linear"}, IMAGE.reshape(2, 3, 2, 2, 2, 2).mean((3, 5))),
    ("Resize", (IMAGE, np.array([], np.float32), np.array([], np.float32), np.array([2, 3, 8, 4])),
     {"mode": "nearest"}, IMAGE.repeat(2, 2)),
    ("LSTM", (SEQ, W, R, BIAS), {"hidden_size": 4}, lstm(SEQ, W, R, BIAS)),
    ("LSTM", (SEQ, W, R, BIAS), {"hidden_size": 4, "direction": "reverse"},
     lstm(SEQ[::-1], W, R, BIAS)[::-1]),
    ("QuantizeLinear", (np.array([-9, 0.5, 300], np.float32), np.array(2, np.float32),
                        np.array(10, np.uint8)), {}, np.array([6, 10, 160], np.uint8)),
    ("DequantizeLinear", (np.array([[6, 10]], np.uint8), np.array([2, 3], np.float32),
                          np.array([10, 9], np.uint8)), {"axis": 1},
     np.array([[-8, 3]], np.float32)),
    ("NonMaxSuppression", (np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 10, 1, 11]]], np.float32),
                           np.array([[[0.9, 0.8, 0.7]]], np.float32), np.array([3]),
                           np.array([0.5], np.float32)), {}, np.array([[0, 0, 0], [0, 0, 2]])),
]


@pytest.mark.parametrize(("op", "inputs", "attributes", "want"), CASES,
                         ids=[f"{c[0]}-{k}" for k, c in enumerate(CASES)])
def test_operators(op, inputs, attributes, want, device):
    names = [f"i{k}" for k in range(len(inputs))]
    kinds = [info(n, helper.np_dtype_to_tensor_dtype(a.dtype)) for n, a in zip(names, inputs)]
    made = model([helper.make_node(op, names, ["y"], **attributes)], kinds, ["y"], opset=19)
    got = lampion.onnx.load(made)(*[lampion.tensor(a, device=device) for a in inputs])
    assert got.cpu().numpy().dtype == want.dtype and tuple(got.shape) == want.shape
    close(got, want)


@pytest.fixture(scope="module")
def network():
    """A small convolutional network with its answer, computed step by step in NumPy."""
    w, b = floats(4, 3, 1, 1), floats(4)
    scale, shift, mean, var = floats(4), floats(4), floats(4), np.abs(floats(4)) + 0.5
    dense = floats(4 * 3 * 3, 5)
    nodes = [node("Conv", "x w b", "c"), node("BatchNormalization", "c scale shift mean var", "n"),
             node("Relu", "n", "r"), node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
             node("Shape", "p", "s"), node("Gather", "s zero", "batch", axis=0),
             node("Concat", "batch minus", "shape", axis=0), node("Reshape", "p shape", "f"),
             node("MatMul", "f block.dense", "y")]
    weights = {"w": w, "b": b, "scale": scale, "shift": shift, "mean": mean, "var": var,
               "zero": np.array([0]), "minus": np.array([-1]), "block.dense": dense}
    made = model(nodes, [info("x", F, ["N", 3, 6, 6])], [info("y", F, [None, 5])], weights)
    onnx.checker.check_model(made)
    x = floats(2, 3, 6, 6)
    y = np.einsum("nchw,dc->ndhw", x, w[:, :, 0, 0]) + b[:, None, None]
    y = (y - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
    y = np.maximum(y * scale[:, None, None] + shift[:, None, None], 0)
    y = y.reshape(2, 4, 3, 2, 3, 2).max((3, 5))
    return made, x, y.reshape(2, -1) @ dense


def test_a_network_runs_on_every_device(network, device):
    made, x, y = network
    run = lampion.onnx.load(made).to(device)
    out = run(lampion.tensor(x, device=device))
    assert out.device.type == device.partition(":")[0]
    close(out, y)
    close(run(x=x), y)  # an array, by name


def test_shapes_are_computed_in_host_memory(network, monkeypatch):
    """Nothing is read back from the device to find the shape of the Reshape."""
    made, x, y = network
    run = lampion.onnx.load(made).to("ref")
    x = lampion.tensor(x, device="ref")
    run(x)
    backend = x.device.backend
    monkeypatch.setattr(type(backend), "copy_to_host", None)
    monkeypatch.setattr(type(backend), "fetch", None, raising=False)
    out = run(x)
    monkeypatch.undo()
    close(out, y)


def test_weights_are_parameters_and_statistics_buffers(network):
    made, x, y = network
    run = lampion.onnx.load(made)
    assert set(dict(run.named_parameters())) == {"w", "b", "scale", "shift", "block.dense"}
    assert set(dict(run.named_buffers())) == {"mean", "var", "zero", "minus"}
    assert set(run.state_dict()) == {"w", "b", "scale", "shift", "block.dense", "mean", "var",
                                     "zero", "minus"}
    assert not any(p.requires_grad for p in run.parameters())
    run.requires_grad_()
    run(lampion.tensor(x)).square().sum().backward()
    assert run.get_parameter("block.dense").grad.shape == (36, 5)
    assert float(run.get_parameter("w").grad.abs().sum()) > 0
    other = lampion.onnx.load(made)
    other.load_state_dict(run.state_dict())
    assert lampion.equal(other(lampion.tensor(x)), run(lampion.tensor(x)))


def test_files_bytes_copies_and_external_weights(network, tmp_path):
    made, x, y = network
    path = tmp_path / "net.onnx"
    onnx.save(made, path)
    close(lampion.onnx.load(path)(x), y)
    close(lampion.onnx.load(str(path))(x), y)
    close(lampion.onnx.load(path.read_bytes())(x), y)
    with path.open("rb") as file:
        close(lampion.onnx.load(file)(x), y)
    close(copy.deepcopy(lampion.onnx.load(path))(x), y)
    onnx.save(made, tmp_path / "far.onnx", save_as_external_data=True, location="far.bin",
              size_threshold=0)
    close(lampion.onnx.load(tmp_path / "far.onnx")(x), y)


def test_attributes_of_older_opsets_are_the_inputs_of_newer_ones():
    x = floats(2, 3, 4)
    for opset, nodes, weights, want in (
            (9, [node("Squeeze", "x", "y", axes=[0])], {}, x[:1].squeeze(0)),
            (9, [node("Slice", "x", "y", starts=[1], ends=[3], axes=[2])], {}, x[:1, :, 1:3]),
            (9, [node("Clip", "x", "y", min=-0.5, max=0.25)], {}, x[:1].clip(-0.5, 0.25)),
            (9, [node("Pad", "x", "y", pads=[0, 1, 0, 0, 0, 0], value=3.0)], {},
             np.pad(x[:1], ((0, 0), (1, 0), (0, 0)), constant_values=3)),
            (9, [node("TopK", "x", "y i", k=2)], {}, -np.sort(-x[:1])[..., :2]),
            (9, [node("Softmax", "x", "y")], {}, None),
            (9, [node("Upsample", "x s", "y")], {"s": np.array([1, 1, 2], np.float32)},
             x[:1].repeat(2, 2)),
            (10, [node("Dropout", "x", "y", ratio=0.4)], {}, x[:1]),
            (7, [node("Sum", "x x", "y")], {}, 2 * x[:1])):
        got = lampion.onnx.load(model(nodes, ["x"], ["y"], weights, opset))(x[:1])
        if want is None:  # over all dims from the axis on
            e = np.exp(x[:1].reshape(1, -1))
            want = (e / e.sum()).reshape(1, 3, 4)
        close(got, want)


def test_graphs_inside_see_the_names_outside():
    """An If in a Loop, both reading a weight and a value of the graphs around them."""
    then = helper.make_graph([node("Add", "s w", "t")], "then", [], [info("t")])
    other = helper.make_graph([node("Sub", "s x", "t")], "else", [], [info("t")])
    body = helper.make_graph(
        [node("Mod", "i two", "m"), node("Equal", "m zero", "even"),
         node("If", "even", "new", then_branch=then, else_branch=other),
         node("Identity", "c", "going"), node("Mul", "new new", "square")], "body",
        [info("i", INT, []), info("c", TensorProto.BOOL, []), info("s", F, [2])],
        [info("going", TensorProto.BOOL, []), info("new", F, [2]), info("square", F, [2])])
    made = model([node("Loop", "n cond x", "last squares", body=body)],
                 [info("x", F, [2]), info("n", INT, []), info("cond", TensorProto.BOOL, [])],
                 [info("last", F, [2]), info("squares", F, [None, 2])],
                 {"w": np.array([10, 20], np.float32), "two": np.array(2), "zero": np.array(0)})
    run = lampion.onnx.load(made)
    x = lampion.tensor([1.0, 2.0])
    last, squares = run(x, lampion.tensor(3), lampion.tensor(True))
    states = [x + run.get_parameter("w")]
    states.append(states[0] - x)
    states.append(states[1] + run.get_parameter("w"))
    assert lampion.equal(last, states[-1])
    assert lampion.equal(squares, lampion.stack(states) ** 2)
    last, squares = run(x, lampion.tensor(0), lampion.tensor(True))
    assert lampion.equal(last, x) and squares.shape == (0, 2)


def test_functions_of_the_model_and_of_onnx():
    scaled = helper.make_function("mine", "Scaled", ["a", "b"], ["c"], [
        helper.make_node("Constant", [], ["k"], value_float=3.0), node("Mul", "a k", "t"),
        node("Add", "t b", "c")], [helper.make_opsetid("", 17)], [])
    made = model([helper.make_node("Scaled", ["x", "x"], ["u"], domain="mine"),
                  helper.make_node("Scaled", ["u", "x"], ["y"], domain="mine")], ["x"], ["y"],
                 functions=[scaled], domains=["mine"])
    x = floats(3)
    close(lampion.onnx.load(made)(x), 13 * x)


def test_strings_and_small_numbers_stay_on_the_host():
    made = model([node("Cast", "x", "q", to=TensorProto.FLOAT8E4M3FN),
                  node("Reshape", "q shape", "r"), node("Cast", "r", "y", to=F)],
                 ["x"], [info("r", TensorProto.FLOAT8E4M3FN), "y"], {"shape": np.array([2, 2])},
                 opset=21)
    q, y = lampion.onnx.load(made)(np.array([1.06, 300, -2, 1e9], np.float32))
    assert q.dtype.name == "float8_e4m3fn" and q.shape == (2, 2)
    assert y.tolist() == [[1.0, 288.0], [-2.0, 448.0]]
    made = model([node("Gather", "s i", "t"), node("Equal", "t u", "y")],
                 [info("s", TensorProto.STRING), info("i", INT), info("u", TensorProto.STRING)],
                 [info("t", TensorProto.STRING), info("y", TensorProto.BOOL)], opset=19)
    t, y = lampion.onnx.load(made)(np.array(["a", "b"], object), np.array([1, 0, 1]),
                                   np.array(["b", "b", "b"], object))
    assert t.tolist() == ["b", "a", "b"] and y.tolist() == [True, False, True]


def test_an_operator_of_ones_own():
    @lampion.onnx.operator("Shifted", domain="mine")
    def shifted(X, *, by: float = 0.0):
        return X + by

    made = model([helper.make_node("Shifted", ["x"], ["y"], domain="mine", by=2.5)], ["x"], ["y"],
                 domains=["mine"])
    assert lampion.onnx.load(made)(lampion.zeros(2)).tolist() == [2.5, 2.5]


def test_errors_say_what_to_do(tmp_path):
    x = floats(2, 3)
    with pytest.raises(UnsupportedError, match="no operator 'Nonsense' of the domain 'other'"):
        lampion.onnx.load(model([helper.make_node("Nonsense", ["x"], ["y"], domain="other")],
                                ["x"], ["y"], domains=["other"]))
    run = lampion.onnx.load(model([node("MatMul", "a b", "y")], ["a", "b"], ["y"]))
    with pytest.raises(TypeError, match="lacks the input 'b'"):
        run(x)
    with pytest.raises(TypeError, match="no input 'z'"):
        run(x, x, z=x)
    with pytest.raises(TypeError, match="has 2 inputs"):
        run(x, x, x)
    with pytest.raises(RuntimeError, match="in the ONNX node MatMul of 'y'"):
        run(x, x)
    with pytest.raises(RuntimeError, match="not an ONNX model"):
        lampion.onnx.load(b"nonsense")
    with pytest.raises(FileNotFoundError):
        lampion.onnx.load(tmp_path / "none.onnx")
    with pytest.raises(UnsupportedError, match="opset 1"):
        lampion.onnx.load(model([node("Add", "x x", "y", broadcast=1)], ["x"], ["y"], opset=1))


def test_without_the_package_the_error_names_the_remedy():
    code = """
import sys
sys.modules["onnx"] = None
import lampion
assert "lampion.onnx" not in sys.modules
try:
    lampion.onnx.load("x.onnx")
except ImportError as error:
    assert "pip install onnx" in str(error)
else:
    raise SystemExit("no error")
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
