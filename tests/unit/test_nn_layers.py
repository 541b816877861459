"""Layers on their own: shapes, random behaviour, lazy forms, sequences, utilities."""
import copy
import math

import pytest

import lampion
from lampion import nn
from lampion.nn import functional as F


@pytest.mark.parametrize("layer, shape, expected", [
    (lambda: nn.Conv2d(3, 8, 3, padding=1), (2, 3, 8, 8), (2, 8, 8, 8)),
    (lambda: nn.ConvTranspose2d(3, 8, 2, stride=2), (2, 3, 4, 4), (2, 8, 8, 8)),
    (lambda: nn.MaxPool2d(2), (2, 3, 8, 8), (2, 3, 4, 4)),
    (lambda: nn.LayerNorm(8), (2, 3, 8), (2, 3, 8)),
    (lambda: nn.Flatten(), (2, 3, 4), (2, 12)),
    (lambda: nn.PixelShuffle(2), (1, 8, 3, 3), (1, 2, 6, 6)),
    (lambda: nn.TransformerEncoderLayer(8, 2, 16), (5, 3, 8), (5, 3, 8)),
])
def test_output_shapes(layer, shape, expected):
    assert tuple(layer()(lampion.randn(*shape)).shape) == expected


def test_seed_decides_start_values_and_dropout():
    def draw():
        lampion.manual_seed(3)
        layer = nn.Linear(5, 5)
        return layer.weight.tolist(), F.dropout(lampion.ones(20), 0.5).tolist()

    assert draw() == draw()


def test_dropout_statistics():
    x = lampion.ones(20000)
    y = nn.Dropout(0.25)(x)
    kept = (y != 0).to(lampion.float32).mean().item()
    assert abs(kept - 0.75) < 0.02
    assert abs(y.max().item() - 4 / 3) < 1e-5
    assert nn.Dropout(0.25).eval()(x) is x
    assert F.dropout(x, 1.0).abs().sum().item() == 0
    with pytest.raises(ValueError):
        nn.Dropout(-0.1)


def test_channel_dropout_drops_whole_channels():
    y = nn.Dropout2d(0.5)(lampion.ones(50, 8, 3, 3)).sum((2, 3))
    values = {round(v, 3) for row in y.tolist() for v in row}
    assert values == {0.0, 18.0}
    assert nn.Dropout1d(0.5)(lampion.ones(8, 3)).shape == (8, 3)


def test_alpha_dropout_keeps_mean_and_variance():
    lampion.manual_seed(0)
    x = lampion.randn(40000)
    y = nn.AlphaDropout(0.3)(x)
    assert abs(y.mean().item()) < 0.05 and abs(y.var().item() - 1) < 0.06


def test_rrelu_slopes_stay_in_range():
    y = nn.RReLU(0.1, 0.3)(lampion.full((1000,), -1.0))
    assert -0.3 <= y.min().item() < -0.25 and -0.15 < y.max().item() <= -0.1
    assert nn.RReLU(0.1, 0.3).eval()(lampion.full((1,), -1.0)).item() == pytest.approx(-0.2)


def test_gumbel_softmax():
    logits = lampion.zeros(200, 4, requires_grad=True)
    hard = F.gumbel_softmax(logits, hard=True)
    assert hard.sum(1).tolist() == pytest.approx([1.0] * 200)
    (hard * lampion.arange(4.0)).sum().backward()
    assert logits.grad.abs().sum().item() > 0


def test_embedding_padding_row_and_max_norm():
    table = nn.Embedding(5, 3, padding_idx=0)
    assert table.weight[0].tolist() == [0.0] * 3
    table(lampion.tensor([0, 1, 1])).sum().backward()
    assert table.weight.grad.sum(1).tolist() == [0.0, 6.0, 0.0, 0.0, 0.0]
    small = nn.Embedding(5, 3, max_norm=0.1)
    small(lampion.tensor([2]))
    assert small.weight[2].norm().item() <= 0.1 + 1e-5
    sparse = nn.Embedding(5, 3, sparse=True)
    sparse(lampion.tensor([1, 1])).sum().backward()
    assert sparse.weight.grad.is_sparse
    assert sparse.weight.grad.to_dense().sum(1).tolist() == [0, 6, 0, 0, 0]


def test_batch_norm_statistics():
    norm = nn.BatchNorm1d(2, momentum=0.5)
    x = lampion.tensor([[1.0, 2.0], [3.0, 6.0]])
    norm(x)
    assert norm.running_mean.tolist() == [1.0, 2.0]
    assert norm.running_var.tolist() == [1.5, 4.5]
    assert norm.num_batches_tracked.item() == 1
    average = nn.BatchNorm1d(2, momentum=None)
    average(x), average(x * 3)
    assert average.running_mean.tolist() == pytest.approx([4.0, 8.0])


def test_lazy_layers_become_ordinary():
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(RuntimeError, match="uninitialized"):
        net[3].weight.shape  # noqa: B018
    twin = copy.deepcopy(net)
    assert tuple(net(lampion.randn(2, 3, 5, 5)).shape) == (2, 2)
    assert [type(m).__name__ for m in net] == ["Conv2d", "BatchNorm2d", "Flatten", "Linear"]
    twin.load_state_dict(net.state_dict())
    assert tuple(twin[3].weight.shape) == (2, 36)
    net(lampion.randn(2, 3, 5, 5)).sum().backward()
    assert net[0].weight.grad is not None


def test_recurrent_state_carries_over():
    layer = nn.LSTM(3, 4)
    x = lampion.randn(6, 2, 3)
    whole, _ = layer(x)
    first, state = layer(x[:4])
    second, _ = layer(x[4:], state)
    joined = lampion.cat([first, second])
    assert (whole - joined).abs().max().item() < 1e-5


def test_packed_and_padded_agree():
    layer = nn.GRU(3, 4, bidirectional=True)
    rows = [lampion.randn(n, 3) for n in (5, 3, 1)]
    packed, _ = layer(nn.utils.rnn.pack_sequence(rows))
    for row, mine in zip(rows, nn.utils.rnn.unpack_sequence(packed)):
        alone, _ = layer(row.unsqueeze(1))
        assert (alone.squeeze(1) - mine).abs().max().item() < 1e-5


def test_causal_attention_does_not_look_ahead():
    attend = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = lampion.randn(1, 6, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    before = attend(x, x, x, attn_mask=mask, need_weights=False)[0]
    with lampion.no_grad():
        x[:, 4:] += 5.0
    after = attend(x, x, x, attn_mask=mask, need_weights=False)[0]
    assert (before[:, :4] - after[:, :4]).abs().max().item() < 1e-5
    assert (before[:, 4:] - after[:, 4:]).abs().max().item() > 1e-3


def test_losses_have_known_values():
    logits = lampion.zeros(3, 4)
    target = lampion.tensor([0, 1, 3])
    assert nn.CrossEntropyLoss()(logits, target).item() == pytest.approx(math.log(4))
    assert nn.NLLLoss(reduction="sum")(logits - 1, target).item() == pytest.approx(3.0)
    assert nn.BCEWithLogitsLoss()(logits, logits).item() == pytest.approx(math.log(2))
    assert nn.HuberLoss()(lampion.full((1,), 3.0), lampion.zeros(1)).item() == pytest.approx(2.5)
    with pytest.raises(ValueError):
        F.mse_loss(logits, logits, reduction="median")


def test_clipping():
    params = [nn.Parameter(lampion.zeros(2)), nn.Parameter(lampion.zeros(1))]
    params[0].grad = lampion.tensor([3.0, 0.0])
    params[1].grad = lampion.tensor([4.0])
    assert nn.utils.clip_grad_norm_(params, 1.0).item() == pytest.approx(5.0)
    assert params[1].grad.item() == pytest.approx(0.8, rel=1e-4)
    nn.utils.clip_grad_value_(params, 0.5)
    assert params[1].grad.item() == pytest.approx(0.5)
    params[0].grad = lampion.tensor([float("nan"), 0.0])
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)


def test_vectors_of_parameters():
    layer = nn.Linear(2, 2)
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(lampion.zeros_like(vector), layer.parameters())
    assert layer.weight.abs().sum().item() == 0 and layer.bias.abs().sum().item() == 0


def test_parametrized_weights_follow_their_original():
    class Positive(nn.Module):
        def forward(self, x):
            return x.abs()

    layer = nn.utils.parametrize.register_parametrization(nn.Linear(2, 2), "weight", Positive())
    assert layer.weight.min().item() >= 0
    layer(lampion.ones(1, 2)).sum().backward()
    assert layer.parametrizations.weight.original.grad is not None
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Linear and isinstance(layer.weight, nn.Parameter)


def test_functional_call_restores_the_module():
    layer = nn.Linear(1, 1)
    before = layer.weight
    with pytest.raises(RuntimeError):
        nn.utils.stateless.functional_call(layer, {"weight": lampion.ones(7, 7)},
                                           lampion.ones(1, 1))
    assert layer.weight is before


def test_unknown_functions_are_named():
    with pytest.raises(AttributeError, match="no_such_function"):
        F.no_such_function  # noqa: B018
