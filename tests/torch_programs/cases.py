"""Models of public repositories, from their unmodified files: (model, inputs, loss, optimizer).

Each case gets the folder that holds the checkouts, by the names that `git clone` gives them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from package_cases import CASES as PACKAGES


def _file(programs: str, path: str, name: str | None = None) -> ModuleType:
    """The module in a file, which may import its neighbours."""
    file = Path(programs) / path
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(name or file.stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def _adam(parameters: Any) -> Any:
    return torch.optim.AdamW(parameters, lr=1e-3)


def _classes(model: Any, x: Any, y: Any) -> Any:
    logits = model(x)
    return logits, F.cross_entropy(logits, y)


def _images(n: int, size: int, channels: int = 3) -> list[Any]:
    return [torch.randn(n, channels, size, size), torch.randint(10, (n,))]


def nano_gpt(programs: str, batch: int = 3, length: int = 16, layers: int = 2,
             width: int = 32) -> Any:
    made = _file(programs, "nanoGPT/model.py")
    model = made.GPT(made.GPTConfig(block_size=length, vocab_size=50, n_layer=layers, n_head=2,
                                    n_embd=width, dropout=0.0, bias=True))
    tokens = torch.randint(50, (batch, length + 1))
    return model, [tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()], \
        lambda model, x, y: model(x, y), _adam


def _makemore(kind: str) -> Any:
    def case(programs: str) -> Any:
        made = _file(programs, "makemore/makemore.py")
        config = made.ModelConfig(vocab_size=27, block_size=8, n_layer=2, n_head=2, n_embd=16,
                                  n_embd2=16)
        model = {"transformer": lambda: made.Transformer(config), "mlp": lambda: made.MLP(config),
                 "bow": lambda: made.BoW(config), "rnn": lambda: made.RNN(config, "rnn"),
                 "gru": lambda: made.RNN(config, "gru")}[kind]()
        x, y = torch.randint(27, (4, 8)), torch.randint(27, (4, 8))
        return model, [x, y], lambda model, x, y: model(x, y), _adam

    return case


def _cifar(name: str, make: str, batch: int = 2) -> Any:
    def case(programs: str) -> Any:
        sys.path.insert(0, str(Path(programs) / "pytorch-cifar"))
        made = _file(programs, f"pytorch-cifar/models/{name}.py", f"cifar_{name}")
        return eval(make, vars(made)), _images(batch, 32), _classes, _sgd

    return case


def _vit(name: str, batch: int = 2, **options: Any) -> Any:
    def case(programs: str) -> Any:
        made = _file(programs, f"vit-pytorch/vit_pytorch/{name}.py", f"vit_{name}")
        cls = next(v for k, v in vars(made).items() if k.lower() == name.replace("_", ""))
        sizes = {"image_size": 16, "patch_size": 4, "dim": 32, "depth": 2, "heads": 2,
                 "mlp_dim": 48, **options}
        return cls(num_classes=10, **sizes), _images(batch, sizes["image_size"]), _classes, _adam

    return case


def _example(path: str, cls: str) -> Any:
    """A class of a program that trains when it is run: what comes before its `main`."""
    def source(programs: str) -> Any:
        text = (Path(programs) / path).read_text()
        tree = compile(text, path, "exec", dont_inherit=True, flags=0x400)
        tree.body = [n for n in tree.body if type(n).__name__ in (
            "Import", "ImportFrom", "ClassDef") and "torchvision" not in ast_names(n)]
        names: dict[str, Any] = {"__name__": path}
        exec(compile(tree, path, "exec"), names)
        return names[cls]

    return source


def ast_names(node: Any) -> list[str]:
    """The modules that an import names."""
    found = [getattr(node, "module", None) or ""] + [a.name for a in getattr(node, "names", [])]
    return [n.partition(".")[0] for n in found]


def mnist(programs: str) -> Any:
    model = _example("examples/mnist/main.py", "Net")(programs)().eval()  # without its dropout
    return model, _images(4, 28, 1), lambda m, x, y: ((o := m(x)), F.nll_loss(o, y)), \
        lambda p: torch.optim.Adadelta(p, lr=1.0)


def vae(programs: str) -> Any:
    model = _example("examples/vae/main.py", "VAE")(programs)()
    model.reparameterize = lambda mu, logvar: mu  # without its random numbers

    def loss(model: Any, x: Any) -> Any:
        out, mu, logvar = model(x)
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return out, F.binary_cross_entropy(out, x.view(-1, 784), reduction="sum") + kl

    return model, [torch.rand(4, 1, 28, 28)], loss, lambda p: torch.optim.Adam(p, lr=1e-3)


def _language(kind: str, width: int = 16, batch: int = 3, length: int = 6) -> Any:
    def case(programs: str) -> Any:
        made = _file(programs, "examples/word_language_model/model.py", "word_model")
        if kind == "Transformer":
            model = made.TransformerModel(40, 16, 2, 24, 2, 0.0).eval()  # its layers' dropout

            def run(model: Any, x: Any) -> Any:
                return model(x)
        else:
            model = made.RNNModel(kind, 40, width, width, 2, 0.0, True)

            def run(model: Any, x: Any) -> Any:
                return model(x, model.init_hidden(x.shape[1]))[0]

        def loss(model: Any, x: Any, y: Any) -> Any:
            out = run(model, x).view(-1, 40)
            return out, F.nll_loss(out, y)

        tokens = [torch.randint(40, (length, batch)), torch.randint(40, (length * batch,))]
        return model, tokens, loss, _sgd

    return case


def time_sequence(programs: str) -> Any:
    model = _example("examples/time_sequence_prediction/train.py", "Sequence")(programs)().double()

    def loss(model: Any, x: Any, y: Any) -> Any:
        out = model(x)
        return out, F.mse_loss(out, y)

    t = torch.sin(torch.arange(13.0, dtype=torch.float64) * 0.3 + torch.rand(3, 1).double())
    return model, [t[:, :-1].contiguous(), t[:, 1:].contiguous()], loss, _adam


def siamese(programs: str) -> Any:
    sys.modules.setdefault("torchvision", SimpleNamespace())
    from torch import nn

    made = _file(programs, "pytorch-cifar/models/resnet.py", "cifar_resnet")

    class Pairs(nn.Module):
        """One tower for both pictures."""

        def __init__(self) -> None:
            super().__init__()
            self.tower, self.head = made.ResNet18(), nn.Bilinear(10, 10, 1)

        def forward(self, a: Any, b: Any) -> Any:
            return self.head(self.tower(a), self.tower(b)).squeeze(1)

    def loss(model: Any, a: Any, b: Any, y: Any) -> Any:
        out = model(a, b)
        return out, F.binary_cross_entropy_with_logits(out, y)

    return Pairs(), [torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.rand(2)], loss, \
        _sgd


def gpt2(programs: str) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=60, n_positions=16, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0))

    def loss(model: Any, x: Any) -> Any:
        out = model(x, labels=x)
        return out.logits, out.loss

    return model, [torch.randint(60, (2, 10))], loss, _adam


def einops_layers(programs: str) -> Any:
    from einops.layers.torch import EinMix, Rearrange, Reduce
    from torch import nn

    model = nn.Sequential(
        Rearrange("b c (h p) (w q) -> b (h w) (c p q)", p=4, q=4), nn.Linear(48, 16), nn.GELU(),
        EinMix("b t d -> b t e", weight_shape="d e", bias_shape="e", d=16, e=12),
        Reduce("b t d -> b d", "mean"), nn.Linear(12, 10))
    return model, _images(3, 16), _classes, _adam


CASES = {
    "nanoGPT": nano_gpt,
    **{f"makemore-{k}": _makemore(k) for k in ("transformer", "mlp", "bow", "rnn", "gru")},
    "cifar-resnet18": _cifar("resnet", "ResNet18()"), "cifar-vgg11": _cifar("vgg", "VGG('VGG11')"),
    "cifar-mobilenet": _cifar("mobilenet", "MobileNet()"),
    "cifar-mobilenetv2": _cifar("mobilenetv2", "MobileNetV2()"),
    "cifar-lenet": _cifar("lenet", "LeNet()"),
    "cifar-shufflenetv2": _cifar("shufflenetv2", "ShuffleNetV2(0.5)"),
    "cifar-senet": _cifar("senet", "SENet18()"),
    "vit": _vit("vit"), "vit-simple": _vit("simple_vit"), "vit-deep": _vit("deepvit"),
    "mnist": mnist, "vae": vae, "time-sequence": time_sequence, "siamese": siamese,
    **{f"word-{k.lower()}": _language(k) for k in ("LSTM", "GRU", "RNN_TANH", "Transformer")},
    "gpt2": gpt2, "einops": einops_layers, **PACKAGES,
}

# Sizes at which kernels take most of the time, for timings.
LARGE = {
    "nanoGPT-large": lambda programs: nano_gpt(programs, 8, 128, 4, 128),
    "cifar-resnet18-large": _cifar("resnet", "ResNet18()", 16),
    "word-lstm-large": _language("LSTM", 200, 20, 35),
    "vit-large": _vit("vit", 16, image_size=64, patch_size=8, dim=128, depth=4, heads=4,
                      mlp_dim=256),
}
