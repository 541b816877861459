"""Graphs and code of traced programs are those of torch.fx, but for the package's name."""

import math
from typing import Any

import pytest
import torch

import lampion


def net(T: Any) -> Any:
    class Net(T.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = T.nn.Conv2d(3, 4, 3)
            self.p = T.nn.Parameter(T.ones(4))
            self.register_buffer("b", T.ones(1))
            self.seq = T.nn.Sequential(T.nn.Linear(4, 4), T.nn.ReLU())

        def forward(self, x, y: int = 3, *args, **kw):
            F = T.nn.functional
            z = F.relu(self.conv1(x), inplace=True)
            z = T.max(z, 1)[0] + self.p.sum() + self.b
            z += 1
            z = z.flatten(1)
            k = T.cat([z, self.b * z], dim=-1)[:, 1:3]
            k = F.dropout(k, 0.5, self.training)
            a = F.interpolate(k, size=z.shape[-2:], mode="nearest")
            t = k.to(device=T.device("cpu"))
            T.add(k, float("inf"), alpha=float("nan"))
            return {"z": z, "l": [k, a, (T.ones(3) @ k,)]}, k.T, k.dtype, self.seq(t)

    return Net()


def operators(T: Any) -> Any:
    def fn(x, y):
        b = T.ones(3)
        return (1 / x, 2 ** x, -x, ~x, (x == 2) & (y > 1), x // y, x % 2, abs(x), x << 1, x ^ y,
                b - x, b / x, b @ x, b == x, b[x], x[..., None, 1:], x[y], b.view(x, 3),
                x @ y)

    return fn


def functions(T: Any) -> Any:
    F = T.nn.functional

    def fn(x, w):
        return (F.max_pool2d(x, 2), F.pad(x, (1, 1)), F.linear(x, w), T.split(x, 2, dim=0),
                T.fft.fft(x),
                F.batch_norm(x, w, w), T.zeros_like(x), T.reshape(w, (x, 1)), T.unbind(x),
                F.adaptive_max_pool2d(x, 1), T.is_floating_point(x), T.full((2,), x),
                F.glu(x, dim=1), F.leaky_relu(x), T.det(x), x.__radd__(2), T._assert(x, "k"))

    return fn


def methods(T: Any) -> Any:
    def fn(x, *, scale=math.pi, flag=None):
        a, b = x.chunk(2, -1)
        c = a.add_(b).view(-1, x.size(0)).permute(1, 0).contiguous()
        return c.mul(scale), x.shape, x.is_cuda, x.max(dim=1, keepdim=True).values, c[0:2]

    return fn


def text(made: Any) -> str:
    """What a graph shows, for packages of any name. The names under which functions are public
    differ where PyTorch's are those of its extension module."""
    shown = f"{made.graph}\n{made.code}"
    for private, public in (("torch._C._nn.", "torch.nn.functional."),
                            ("torch._C._fft.fft_", "torch.fft."), ("torch.functional.", "torch.")):
        shown = shown.replace(private, public)
    return shown.replace("lampion", "torch")


@pytest.mark.parametrize("program", [net, operators, functions, methods],
                         ids=lambda p: p.__name__)
def test_traces_agree(program):
    want = text(torch.fx.symbolic_trace(program(torch)))
    assert text(lampion.fx.symbolic_trace(program(lampion))) == want


@pytest.mark.parametrize("program", [operators, methods], ids=lambda p: p.__name__)
def test_changed_graphs_agree(program):
    shown = []
    for T in (torch, lampion):
        made = T.fx.symbolic_trace(program(T))
        nodes = [n for n in made.graph.nodes if n.op.startswith("call_")]
        with made.graph.inserting_after(nodes[2]):
            new = made.graph.call_function(T.neg, (nodes[2],))
        nodes[2].replace_all_uses_with(new, lambda user, new=new: user is not new)
        with made.graph.inserting_before(nodes[0]):
            made.graph.placeholder("extra", default_value=None)
        made.graph.eliminate_dead_code()
        made.graph.lint()
        made.recompile()
        shown.append(text(made))
    assert shown[0] == shown[1]


def test_concrete_arguments_agree():
    shown = []
    for T in (torch, lampion):
        def fn(d, e, flag, none):
            return {"r": d["p"] + d["q"][0]}, e * 2 if flag else e

        PH = T.fx.PH
        given = {"d": {"p": PH, "q": [PH, 3]}, "flag": True, "none": None}
        shown.append(text(T.fx.symbolic_trace(fn, concrete_args=given)))
    assert shown[0] == shown[1]


def test_splits_and_patterns_agree():
    shown = []
    for T in (torch, lampion):
        def fn(x, y):
            a = T.relu(x) + y
            b = T.relu(a) + 2
            return T.relu(b) * y, T.tanh(a)

        made = T.fx.symbolic_trace(fn)
        T.fx.replace_pattern(made, lambda p, q: T.relu(p) + q, lambda p, q: T.sub(p, q))
        shown.append(text(made))
        split_module = __import__(f"{T.__name__}.fx.passes.split_module",
                                  fromlist=["split_module"]).split_module
        parts = iter([0, 0, 1, 1, 2, 2])
        split = split_module(made, made, lambda n, parts=parts: next(parts))
        shown[-1] += "".join(text(module) for module in (split, *split.children()))
    assert shown[0] == shown[1]


def test_text_for_people_agrees():
    shown = [T.fx.symbolic_trace(net(T)).print_readable(print_output=False)
             for T in (torch, lampion)]
    assert shown[1].replace("lampion", "torch") == shown[0]
