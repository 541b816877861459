"""Errors say which layer of a model they happened in."""

import traceback

import pytest

import lampion
from lampion import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(9, 2))
        self.table = nn.Embedding(3, 4)

    def forward(self, x):
        return self.enc(self.table(x))


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Net(), Net()])

    def forward(self, x):
        return self.blocks[1](x)


SECOND = "in blocks.1.enc.2 of Deep: Linear(in_features=9, out_features=2, bias=True)"


@pytest.fixture(params=["eager", "compiled"])
def model(request):
    model = Deep()
    return model if request.param == "eager" else lampion.compile(model)


def test_a_shape_mismatch_names_the_layer(model):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
            model(lampion.tensor([0, 1]))
        assert str(caught.value).splitlines() == [
            "mat1 and mat2 shapes cannot be multiplied (2x8 and 9x2)", SECOND]


def test_an_index_out_of_range_names_the_layer(model):
    with pytest.raises(IndexError) as caught:
        model(lampion.tensor([0, 7]))
    assert str(caught.value).endswith("\nin blocks.1.table of Deep: Embedding(3, 4)")


@pytest.mark.parametrize("layer, input, where", [
    (nn.Conv2d(3, 4, 3), (1, 4, 8, 8), "Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))"),
    (nn.BatchNorm2d(3), (2, 4, 3, 3), "BatchNorm2d(3, "),
    (nn.BatchNorm2d(3), (2, 3), "BatchNorm2d(3, "),
    (nn.InstanceNorm2d(3), (2,), "InstanceNorm2d(3, "),
    (nn.LSTM(3, 4), (2, 2, 5), "LSTM(3, 4)"),
    (nn.GRUCell(3, 4), (2, 2, 3), "GRUCell(3, 4)"),
    (nn.LayerNorm(4), (2, 3), "LayerNorm((4,), "),
])
def test_checks_of_layers_name_them(layer, input, where):
    with pytest.raises((RuntimeError, ValueError)) as caught:
        nn.Sequential(nn.Identity(), layer)(lampion.zeros(input))
    assert f"\nin 1 of Sequential: {where}" in str(caught.value)


def test_attention_names_its_layer():
    layer = nn.TransformerEncoderLayer(8, 2)
    with pytest.raises(AssertionError, match="in self_attn of TransformerEncoderLayer: Multihead"):
        layer(lampion.zeros(1, 3, 9))


def test_indexing_and_writing_name_the_module():
    class Reads(nn.Module):
        def forward(self, x):
            return x[5]

    class Writes(nn.Module):
        def forward(self, x):
            x[5] = 1

    for module in (Reads(), Writes()):
        with pytest.raises(IndexError, match=rf"\nin {type(module).__name__}\(\)$"):
            module(lampion.zeros(3))


def test_outside_modules_nothing_is_added():
    with pytest.raises(RuntimeError) as caught:
        lampion.zeros(2, 3) @ lampion.zeros(2, 3)
    assert str(caught.value) == "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"


def test_modules_that_cannot_be_described():
    class Odd(nn.Module):
        def extra_repr(self):
            raise KeyError("no")

        def forward(self, x):
            return x @ x

    class Early(nn.Module):
        def __init__(self):
            lampion.zeros(2, 3) @ lampion.zeros(2, 3)

    with pytest.raises(RuntimeError, match=r"\(2x3 and 2x3\)\nin Odd$"):
        Odd()(lampion.zeros(2, 3))
    with pytest.raises(RuntimeError, match=r"\(2x3 and 2x3\)$"):
        Early()


def test_a_miss_in_a_cache_is_not_shown():
    with pytest.raises(RuntimeError) as caught:
        Net()(lampion.tensor([0, 1]))
    text = "".join(traceback.format_exception(caught.value))
    assert "KeyError" not in text and "During handling" not in text
    with pytest.raises(IndexError) as caught:
        lampion.zeros(3)[5]
    assert caught.value.__context__ is None


def test_the_programs_own_exception_stays_in_the_chain():
    with pytest.raises(RuntimeError) as caught:
        try:
            raise KeyError("mine")
        except KeyError:
            lampion.zeros(2, 3) @ lampion.zeros(2, 3)
    assert repr(caught.value.__context__) == "KeyError('mine')"


def test_in_place_writers_are_still_the_programs_lines():
    x = lampion.ones(3, requires_grad=True)
    y = x.exp()
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"last written by add_ at .*test_located.py:\d+"):
        y.sum().backward()
