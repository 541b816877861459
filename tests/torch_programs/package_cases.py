"""Models of installed packages that read no checkout: (model, inputs, loss, optimizer).

Each was chosen for something that others do not do: windows that overlap, views of many axes,
`axis` for `dim`, dtypes as Python's types, buffers that are filled while they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Case = tuple[Any, list[Any], Callable[..., Any], Callable[..., Any]]
CASES: dict[str, Callable[[str], Case]] = {}


def _sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.01)


def _case(make: Callable[[], Case]) -> Any:
    CASES["package-" + make.__name__.replace("_", "-")] = lambda programs: make()
    return make


def _mean(model: Any, *inputs: Any) -> Any:
    out = model(*inputs)
    return out, out.pow(2).mean()


def _words(model: Any, x: Any) -> Any:
    out = model(input_ids=x, labels=x)
    return out.logits, out.loss


SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 48, "max_position_embeddings": 48}


@_case
def longformer() -> Case:
    from transformers import LongformerConfig, LongformerForMaskedLM

    model = LongformerForMaskedLM(LongformerConfig(attention_window=4, **SMALL)).eval()
    return model, [torch.randint(4, 60, (2, 24))], _words, _sgd


@_case
def mamba2() -> Case:
    from transformers import Mamba2Config, Mamba2ForCausalLM

    model = Mamba2ForCausalLM(Mamba2Config(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=4, head_dim=16,
        n_groups=1, chunk_size=4))
    return model, [torch.randint(60, (2, 12))], _words, _sgd


@_case
def funnel() -> Case:
    from transformers import FunnelConfig, FunnelForMaskedLM

    model = FunnelForMaskedLM(FunnelConfig(
        vocab_size=60, d_model=32, block_sizes=[1, 1], n_head=2, d_head=16, d_inner=48)).eval()
    return model, [torch.randint(4, 60, (2, 12))], _words, _sgd


@_case
def performer() -> Case:
    from performer_pytorch import PerformerLM

    model = PerformerLM(num_tokens=50, max_seq_len=32, dim=32, depth=2, heads=2, dim_head=16,
                        nb_features=16)
    return model, [torch.randint(50, (2, 32))], _mean, _sgd


@_case
def spline_flow() -> Case:
    import zuko

    model = zuko.flows.NSF(3, 2, transforms=2, hidden_features=(16, 16))

    def loss(model: Any, x: Any, c: Any) -> Any:
        density = model(c).log_prob(x)
        return density, -density.mean()

    return model, [torch.randn(8, 3), torch.randn(8, 2)], loss, _sgd


@_case
def controlled_equation() -> Case:
    import torchcde

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 12)

        def forward(self, t: Any, z: Any) -> Any:
            return self.layer(z).tanh().view(z.shape[0], 4, 3)

    class Path(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field, self.start = Field(), nn.Linear(3, 4)

        def forward(self, x: Any) -> Any:
            path = torchcde.CubicSpline(
                torchcde.hermite_cubic_coefficients_with_backward_differences(x))
            return torchcde.cdeint(
                X=path, func=self.field, z0=self.start(path.evaluate(path.interval[0])),
                t=path.interval, method="rk4", options={"step_size": 0.5}, adjoint=False)

    return Path(), [torch.randn(4, 7, 3)], _mean, _sgd


@_case
def stages() -> Case:
    import torchode

    class Solved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, y: Any) -> Any:
            term = torchode.ODETerm(lambda t, y: torch.tanh(self.layer(y)))
            solver = torchode.AutoDiffAdjoint(
                torchode.Dopri5(term=term),
                torchode.IntegralController(atol=1e-6, rtol=1e-3, term=term))
            times = torch.linspace(0, 1, 5).repeat(len(y), 1)
            return solver.solve(torchode.InitialValueProblem(y0=y, t_eval=times)).ys

    return Solved(), [torch.randn(3, 2)], _mean, _sgd


@_case
def equivariant_graph() -> Case:
    from egnn_pytorch import EGNN_Network

    model = EGNN_Network(num_tokens=10, num_positions=12, dim=16, depth=2, num_nearest_neighbors=4)

    def loss(model: Any, kinds: Any, places: Any) -> Any:
        features, moved = model(kinds, places)
        return features, features.pow(2).mean() + moved.pow(2).mean()

    return model, [torch.randint(10, (2, 12)), torch.randn(2, 12, 3)], loss, _sgd


@_case
def random_field() -> Case:
    from torchcrf import CRF

    model = nn.ModuleDict({"layer": nn.Linear(6, 4), "crf": CRF(4, batch_first=True)})

    def loss(model: Any, x: Any, tags: Any) -> Any:
        scores = model["layer"](x)
        mask = torch.arange(5) < torch.tensor([[5], [3], [4]])
        best = [tag for row in model["crf"].decode(scores, mask) for tag in row]
        return torch.tensor(best).float(), -model["crf"](scores, tags, mask=mask)

    return model, [torch.randn(3, 5, 6), torch.randint(4, (3, 5))], loss, _sgd


@_case
def segmenter() -> Case:
    from monai.losses import DiceCELoss
    from monai.networks.nets import SegResNet

    def loss(model: Any, x: Any, y: Any) -> Any:
        out = model(x)
        return out, DiceCELoss(to_onehot_y=True, softmax=True)(out, y)

    return SegResNet(2, init_filters=8, in_channels=1, out_channels=2), \
        [torch.randn(2, 1, 32, 32), torch.randint(2, (2, 1, 32, 32))], loss, _sgd


@_case
def meta_learner() -> Case:
    import higher

    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def loss(model: Any, x: Any, y: Any) -> Any:
        with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (copy, steps):
            for _ in range(3):
                steps.step(F.mse_loss(copy(x), y))
            out = copy(x)
            return out, F.mse_loss(out, y)

    return model, [torch.randn(6, 4), torch.randn(6, 1)], loss, _sgd
