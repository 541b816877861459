"""lampion.export: programs equal the functions they were made of, also in a process that lacks the
code, on other devices, and for other sizes; what cannot be exported, and damaged files, say so."""

import io
import json
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

import lampion
from lampion import nn
from lampion.export import Dim, ExportedProgram, export, load, save
from lampion.nn import functional as F


def same(got, want, tol=0.0):
    lampion.testing.assert_close(got, want, rtol=tol, atol=tol)


def again(program, **options):
    """The program, written and read."""
    file = io.BytesIO()
    save(program, file)
    file.seek(0)
    return load(file, **options)


def run(fn, *args, seed=7, **kwargs):
    lampion.manual_seed(seed)
    with lampion.no_grad():
        return fn(*args, **kwargs)


class Block(nn.Module):
    """A residual block with writes in place, as in public ResNets."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.norm(self.conv(x))
        out += x
        return self.relu(out)


class Decoder(nn.Module):
    """A small causal transformer that makes its mask and positions itself."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 8), nn.Embedding(16, 8)
        self.qkv, self.out, self.norm = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids, scale: float = 1.0):
        b, t = ids.shape
        x = self.tokens(ids) + self.places(lampion.arange(t, device=ids.device))
        q, k, v = (p.view(b, t, 2, 4).transpose(1, 2) for p in self.qkv(self.norm(x)).chunk(3, -1))
        weights = q @ k.transpose(-2, -1) / 2.0
        mask = lampion.ones(t, t, dtype=lampion.bool, device=ids.device).tril()
        weights = weights.masked_fill(~mask, float("-inf")).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(b, t, 8)) * scale
        return {"logits": self.head(x), "last": x[:, -1]}


def writes(x):
    """Writes in place of all kinds, constants among their targets."""
    x = x.clone()
    x[:, 0] = 1
    x[0] = x[1]
    x[x > 2] = 0.5
    x[:, lampion.tensor([1, 2])] *= 2
    c = lampion.tensor([1.0, 2.0, 3.0])
    c += 1
    c[0] = 9
    e = lampion.empty(3)
    e.fill_(2).add_(c)
    view = x.flatten()[:4]
    view.mul_(3)
    return x, c, e


def draws(x):
    return F.dropout(x, 0.5) + lampion.rand(x.shape) * lampion.randn(3, 1), lampion.randperm(5)


def pieces(x):
    values, where = x.topk(2, 1)
    resized = F.interpolate(x[None, None], scale_factor=2, mode="bilinear")
    return [values, where.to(lampion.float64), *x.split([1, 2]), resized, x.mean(), x.std(1),
            lampion.einsum("ij,kj->ik", x, x), x[..., None, 1:], x[[2, 0]], x.roll(1, 0),
            F.cross_entropy(x, lampion.tensor([0, 1, 2])), lampion.complex(x, x).abs()]


def case(name):
    lampion.manual_seed(0)
    x = lampion.randn(3, 5)
    return {
        "mlp": (nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)), (x,)),
        "resnet": (nn.Sequential(nn.Conv2d(3, 4, 3), Block(), Block(), nn.AdaptiveAvgPool2d(1),
                                 nn.Flatten(), nn.Linear(4, 2)).eval(),
                   (lampion.randn(2, 3, 9, 9),)),
        "encoder": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(),
                    (lampion.randn(2, 5, 8),)),
        "lstm": (nn.LSTM(5, 4, 2, bidirectional=True), (lampion.randn(6, 2, 5),)),
        "decoder": (Decoder(), (lampion.randint(0, 11, (2, 6)), 0.5)),
        "writes": (writes, (lampion.randn(4, 5),)), "draws": (draws, (x,)),
        "pieces": (pieces, (x,))}[name]


NAMES = ("mlp", "resnet", "encoder", "lstm", "decoder", "writes", "draws", "pieces")


@pytest.mark.parametrize("name", NAMES)
def test_programs_equal_their_functions(name):
    fn, args = case(name)
    want = run(fn, *args)
    program = export(fn, args)
    same(run(program, *args), want)
    same(run(program, *args), want)  # constants that are written to start afresh
    same(run(again(program).module(), *args), want)
    assert str(program.graph).startswith("graph(") and "return" in str(program.graph)


def test_programs_run_on_every_device(device):
    for name in ("mlp", "resnet", "decoder", "lstm"):
        fn, args = case(name)
        want = run(fn, *args)
        moved = [a.to(device) if isinstance(a, lampion.Tensor) else a for a in args]
        got = run(again(export(fn, args)).module().to(device), *moved)
        same(lampion.utils._pytree.tree_map(lambda t: t.cpu(), got), want, 1e-5)
    loaded = again(export(*case("mlp")), device=device)
    assert {t.device.type for t in loaded.parameters()} == {device.partition(":")[0]}


def test_a_process_without_the_code_runs_the_file(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "secret_model.py").write_text(textwrap.dedent("""
        import lampion
        from lampion import nn

        class Secret(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(3, 4)
                self.register_buffer("shift", lampion.arange(4.0))

            def forward(self, x, *, twice=False):
                y = lampion.nn.functional.gelu(self.inner(x)) + self.shift
                return y * 2 if twice else y
    """))
    sys.path.insert(0, str(tmp_path / "code"))
    try:
        from secret_model import Secret
        model = Secret()
    finally:
        sys.path.remove(str(tmp_path / "code"))
    x = lampion.randn(2, 3)
    save(export(model, (x,), {"twice": True}, dynamic_shapes={"x": {0: Dim("n")}}),
         tmp_path / "m.pt2")
    big = lampion.randn(9, 3)
    np.savez(tmp_path / "want.npz", x=big.numpy(), y=model(big, twice=True).detach().numpy())
    code = """
import sys, numpy as np, lampion
try:
    import secret_model
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the model's code is there")
program = lampion.export.load("m.pt2")
data = np.load("want.npz")
for device in ("cpu", "ref"):
    y = program.module().to(device)(lampion.tensor(data["x"], device=device), twice=True)
    np.testing.assert_allclose(y.detach().cpu().numpy(), data["y"], 1e-5, 1e-6)
assert set(program.state_dict) == {"inner.weight", "inner.bias", "shift"}
assert "secret_model" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- what a program is

def test_weights_keep_their_names_and_learn():
    model, args = case("resnet")
    program = again(export(model, args))
    module = program.module()
    assert set(program.state_dict) == set(model.state_dict())
    assert {n for n, _ in module.named_parameters()} == {n for n, _ in model.named_parameters()}
    module.load_state_dict(model.state_dict())
    for m in (model, module):
        m(*args).square().sum().backward()
    for (n, p), (_, q) in zip(sorted(model.named_parameters()), sorted(module.named_parameters())):
        same(q.grad, p.grad, 1e-6), n


def test_training_mode_updates_buffers_as_the_model_does():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    x = lampion.randn(8, 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    export(model, (x,))
    same(dict(model.state_dict()), before)  # making the program changed nothing
    program = again(export(model, (x,))).module()
    for _ in range(3):
        same(program(x), model(x), 1e-6)
    same(dict(program.state_dict()), dict(model.state_dict()), 1e-6)


def test_arguments_are_changed_only_by_running():
    def fn(x):
        x += 1
        return x * 2

    x = lampion.zeros(2)
    program = export(fn, (x,))
    assert x.tolist() == [0, 0]
    assert program(x).tolist() == [2, 2] and x.tolist() == [1, 1]


def test_arguments_nest_and_go_by_name():
    def fn(pair, more, *, flag=True, words="no"):
        (a, b), c = pair, more["c"][0]
        return {"sum": a + b + c, "parts": (a, [b, 3])}

    one, two, three = (lampion.tensor([float(k)]) for k in range(3))
    program = again(export(fn, ((one, two), {"c": [three]}), {"flag": False}))
    assert program((one, two), {"c": [three]}, flag=False)["sum"].item() == 3
    got = program(more={"c": [one]}, pair=[two, two], flag=False)
    assert got["sum"].item() == 2 and got["parts"][1][1] == 3
    with pytest.raises(TypeError, match=r"misses its argument 'flag'"):
        program((one, two), {"c": [three]})
    with pytest.raises(TypeError, match=r"argument more must be a dict with the keys c"):
        program((one, two), {"d": [three]}, flag=False)
    with pytest.raises(ValueError, match="flag was False when the program was exported"):
        program((one, two), {"c": [three]}, flag=True)
    with pytest.raises(TypeError, match="must be Tensor, not int"):
        program((1, two), {"c": [three]}, flag=False)
    with pytest.raises(TypeError, match=r"takes lampion.float32 of shape \[1\]"):
        program((one.int(), two), {"c": [three]}, flag=False)


def test_the_module_is_callable_and_names_are_pytorchs():
    fn, args = case("mlp")
    assert isinstance(lampion.export(fn, args), ExportedProgram)
    program = lampion.export.export(fn, args)
    signature = program.graph_signature
    assert signature.user_inputs == ("input",) and signature.parameters[0] == "0.weight"
    assert program.example_inputs == (args, {}) and program.run_decompositions() is program
    extra = {"note.txt": ""}
    file = io.BytesIO()
    save(program, file, extra_files={"note.txt": "hello"})
    file.seek(0)
    load(file, extra_files=extra)
    assert extra == {"note.txt": "hello"}


# ---------------------------------------------------------------- other sizes

def test_dims_that_change():
    batch, time = Dim("batch", max=32), Dim("time", max=16)
    model, args = case("decoder")
    program = again(export(model, args, dynamic_shapes={"ids": {0: batch, 1: time}}))
    for b, t in ((1, 1), (2, 6), (5, 16), (32, 3)):
        ids = lampion.randint(0, 11, (b, t))
        same(run(program, ids, 0.5), run(model, ids, 0.5), 1e-6)
    assert "int64[batch, time]" in str(program.graph)
    with pytest.raises(ValueError, match="time may be 0 to 16"):
        program(lampion.zeros(2, 17, dtype=lampion.int64), 0.5)
    model, args = case("resnet")
    program = export(model, args, dynamic_shapes=({0: Dim("n"), 2: Dim.AUTO, 3: Dim.AUTO},))
    for shape in ((1, 3, 9, 9), (4, 3, 7, 12)):
        x = lampion.randn(shape)
        same(run(program, x), run(model, x), 1e-5)


def test_dims_of_one_name_are_equal_and_others_do_not_change():
    n = Dim("n")
    program = export(lambda a, b: a * b.sum(1), (lampion.ones(2), lampion.ones(2, 3)),
                     dynamic_shapes={"a": {0: n}, "b": {0: n}})
    assert program(lampion.ones(4), lampion.ones(4, 3)).tolist() == [3] * 4
    with pytest.raises(ValueError, match="n is 4 already"):
        program(lampion.ones(4), lampion.ones(3, 3))
    with pytest.raises(ValueError, match="size 5 in dim 1, where the program takes 3"):
        program(lampion.ones(4), lampion.ones(4, 5))


def test_sizes_are_numbers_that_follow_from_dims():
    def fn(x):
        b, t = x.shape
        return x.reshape(b * t).expand(2, b * t).sum(1) / t, b + 2 * t, t * t

    program = again(export(fn, (lampion.ones(2, 3),), dynamic_shapes={
        "x": {0: Dim("b"), 1: Dim("t")}}))
    total, linear, square = program(lampion.ones(4, 7))
    assert total.tolist() == [4, 4] and linear == 18 and square == 49


@pytest.mark.parametrize(("fn", "message"), [
    (lambda x: sum(row.sum() for row in x), "which ops run depends on the size of n"),
    (lambda x: x + lampion.tensor([float(k) for k in range(len(x))])[:, None],
     "a constant that is made of Python's numbers depends on the size of n"),
    (lambda x: x * 2 if len(x) > 3 else x + 1, "which ops run depends on the size of n"),
    (lambda x: x + 2.0 ** len(x), "no polynomial"),
    (lambda x: x[:4] + lampion.zeros(min(len(x), 4), 3), "no polynomial"),
])
def test_sizes_that_no_graph_can_follow(fn, message):
    with pytest.raises(RuntimeError, match=message):
        export(fn, (lampion.ones(2, 3),), dynamic_shapes={"x": {0: Dim("n")}})


def test_bounds_and_specifications_are_checked():
    x = lampion.ones(2, 3)
    with pytest.raises(RuntimeError, match="fails where n = 5.*bounds"):
        export(lambda x: lampion.ones(4)[:, None].expand(4, 3)[:len(x)] + x, (x,),
               dynamic_shapes={"x": {0: Dim("n")}})
    with pytest.raises(RuntimeError, match="too narrow"):
        export(lambda x: x, (x,), dynamic_shapes={"x": {0: Dim("n", max=4)}})
    for wrong, message in (({"y": {0: Dim("n")}}, "does not fit"), ({"x": {2: Dim("n")}}, "has 2"),
                           ({"x": {0: 2.5}}, "give a Dim"), (({}, {}), "2 entries for 1")):
        with pytest.raises(ValueError, match=message):
            export(lambda x: x, (x,), dynamic_shapes=wrong)
    with pytest.raises(ValueError, match="bounds"):
        Dim("n", min=3, max=2)


# ---------------------------------------------------------------- what cannot be exported

def reads(x):
    if x.sum() > 0:
        return x
    return -x


@pytest.mark.parametrize(("fn", "message"), [
    (reads, "read on the host.*test_export.py"),
    (lambda x: x * x[0, 0].item(), "read on the host"),
    (lambda x: x[lampion.nonzero(x)[:, 0]], "read on the host"),
    (lambda x: x.to("ref"), "copied from|is on ref"),
    (lambda x: object(), "returns a object"),
    (lambda x, g=lampion.Generator().manual_seed(1): x + lampion.rand(5, generator=g),
     "generator of the program's own"),
    (lambda x: lampion.manual_seed(1) and x, "generators? (is|are) seeded"),
])
def test_what_a_graph_cannot_say(fn, message):
    with pytest.raises(lampion.export.ExportError, match=message):
        export(fn, (lampion.randn(3, 5),))


def test_arguments_that_cannot_be_given():
    with pytest.raises(TypeError, match="args must be a tuple"):
        export(lambda x: x, lampion.ones(1))
    with pytest.raises(RuntimeError, match="is a object"):
        export(lambda x: x, (object(),))


def test_after_a_failure_all_is_as_before():
    from lampion import callpath
    from lampion.runtime import tracing
    from lampion.runtime.backend import host_readers, host_writers

    with pytest.raises(RuntimeError):
        export(reads, (lampion.ones(2),))
    assert not callpath.layers and not tracing.active and not host_readers and not host_writers
    assert callpath.NS["modes"] == 0


# ---------------------------------------------------------------- files

@pytest.fixture(scope="module")
def written():
    lampion.manual_seed(0)
    file = io.BytesIO()
    save(export(nn.Linear(2, 2).eval(), (lampion.ones(1, 2),)), file)
    return file.getvalue()


def rewritten(data, change, drop=()):
    """The file with its program changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if name in drop:
                continue
            content = old.read(name)
            if name == "program.json":
                program = json.loads(content)
                change(program)
                content = json.dumps(program)
            new.writestr(name, content)
    return io.BytesIO(out.getvalue())


def at(path, value):
    """A change of one entry."""
    def change(program):
        *way, last = path
        for key in way:
            program = program[key]
        program[last] = value

    return change


@pytest.mark.parametrize(("change", "message"), [
    (at(["version"], 99), "version 99.*newer"),
    (at(["format"], "other"), "another format"),
    (at(["calls", 0, "op"], "os.system"), "an op that is not installed"),
    (at(["calls", 0, "op"], "acme::fast"), "install the package that declares the ops of 'acme'"),
    (at(["calls", 0, "args"], [{"ref": 17}]), "uses the value 17"),
    (at(["calls", 0, "args"], [{"ref": "1"}]), "no integer"),
    (at(["calls", 0, "args"], [{"call": "os.system"}]), "kind 'call'"),
    (at(["calls", 0, "args"], [{"record": "os.path", "of": []}]), "no record"),
    (at(["calls", 0, "outputs"], [9]), "makes the value 9"),
    (at(["results"], {"ref": 50}), "the result uses the value 50"),
    (at(["results"], {"size": [["1", ["n"]]], "inverse": False, "scale": 1.0}), "no input has"),
    (at(["arguments"], {"dict": []}), "arguments are not those"),
    (at(["weights", 0, "shape"], [3, 3]), "weight 'weight' is float32"),
    (at(["weights", 0, "kind"], "secret"), "'secret'"),
    (at(["inputs", 0, "shape"], ["n", 2]), "nothing explains"),
    (at(["inputs", 0, "dtype"], "float7"), "damaged"),
    (lambda p: p.pop("calls"), "damaged"),
])
def test_damaged_programs_are_named(written, change, message):
    with pytest.raises(RuntimeError, match=message):
        load(rewritten(written, change))


def test_damaged_files_are_named(written, tmp_path):
    load(io.BytesIO(written))
    path = tmp_path / "broken.pt2"
    for data in (b"", b"nothing", written[:len(written) // 2], written[:300] + written[310:]):
        path.write_bytes(data)
        with pytest.raises(RuntimeError, match="broken.pt2"):
            load(path)
    flipped = bytearray(written)
    place = written.index(b"NUMPY") + 140
    flipped[place] ^= 1
    with pytest.raises(RuntimeError, match="damaged"):
        load(io.BytesIO(bytes(flipped)))
    with pytest.raises(RuntimeError, match="damaged"):
        load(rewritten(written, lambda p: None, drop=["weights/0.npy"]))
    with pytest.raises(RuntimeError, match="has no program.json"):
        load(rewritten(written, lambda p: None, drop=["program.json"]))
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.pt2")
    with pytest.raises(TypeError, match="takes an ExportedProgram"):
        save(nn.Linear(1, 1), path)


def test_no_pickle_and_no_code_in_a_file(written):
    with zipfile.ZipFile(io.BytesIO(written)) as archive:
        names = archive.namelist()
        assert names[0] == "program.json" and all(
            n.startswith("weights/") and n.endswith(".npy") for n in names[1:])
        assert json.loads(archive.read("program.json"))["version"] == 1


def test_weights_of_all_dtypes_keep_their_bits_and_layout():
    values = {d: lampion.tensor([[1, 0, 3], [2, 5, 4]], dtype=d) for d in (
        lampion.float32, lampion.float64, lampion.float16, lampion.bfloat16, lampion.int8,
        lampion.int64, lampion.uint8, lampion.uint16, lampion.bool, lampion.complex64)}
    values["turned"] = lampion.randn(3, 2).t()
    program = again(export(lambda: {str(k): v.clone() for k, v in values.items()}, ()))
    for k, v in values.items():
        got = program()[str(k)]
        same(got, v)
        assert got.stride() == v.stride(), k
