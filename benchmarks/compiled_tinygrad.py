"""The cases of `compiled_models.py` in tinygrad: a process that trains when it is told to.

`python compiled_tinygrad.py MLP CPU|CL` talks as `compiled_jax.py` does. The step is a TinyJit. CPU
is its device that compiles with clang, for which `ziglang` from pip serves as well; CL is OpenCL,
the driver that pyopencl finds.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

# zig names its targets in its own way, and reads and writes files alone.
ZIG = """#!/bin/sh
folder=$(mktemp -d) && cat > "$folder/x.c" &&
"{python}" -m ziglang cc -target {machine}-freestanding-none -mcpu=native -c -O2 -fPIC \\
    -ffreestanding -fno-math-errno -nostdlib -fno-ident -fno-sanitize=all -g0 \\
    "$folder/x.c" -o "$folder/x.o" &&
cat "$folder/x.o"
status=$?
rm -r "$folder"
exit $status
"""


def compiler() -> str | None:
    """A C compiler of clang's kind: a path, "zig", or None."""
    return shutil.which("clang") or ("zig" if importlib.util.find_spec("ziglang") else None)


def prepare(device: str, folder: str) -> None:
    """What tinygrad finds its compiler or its OpenCL library by."""
    os.environ |= {"DEV": device, "CACHEDB": f"{folder}/cache.db"}
    if device == "CPU":
        os.environ["CC"] = found = compiler() or "clang"
        if found == "zig":
            shim = Path(folder) / "clang"
            shim.write_text(ZIG.format(python=sys.executable, machine=platform.machine()))
            shim.chmod(0o755)
            os.environ["CC"] = str(shim)
        return
    import pyopencl

    pyopencl.get_platforms()  # finds drivers that pip brought
    maps = Path("/proc/self/maps").read_text().split("\n")
    os.environ["OPENCL_PATH"] = next(m.split()[-1] for m in maps if "libOpenCL" in m)


def trainer(name: str) -> Any:
    """A function that runs one training step and returns the loss."""
    import compiled_models as models
    import numpy as np
    from compiled_remote import shapes_of
    from tinygrad import Context, Tensor, TinyJit
    from tinygrad.nn.optim import SGD, AdamW

    case = getattr(models, name)
    p = {n: Tensor(models.initial(f"{name}.{n}", s)).is_param_()
         for n, s in shapes_of(case).items()}
    x, y = (Tensor(np.asarray(a, np.float32 if a.dtype == np.float32 else np.int32))
            for a in case.data(case))

    def linear(at: str, x: Any) -> Any:
        return x.linear(p[f"{at}.weight"].T, p.get(f"{at}.bias"))

    def norm(at: str, x: Any) -> Any:
        return x.layernorm(eps=1e-5) * p[f"{at}.weight"] + p[f"{at}.bias"]

    def mlp(x: Any) -> Any:
        return linear("2", linear("0", x).relu())

    def cnn(x: Any) -> Any:
        for at, pad in (("0", 2), ("3", 0)):
            x = x.conv2d(p[f"{at}.weight"], p[f"{at}.bias"], padding=pad).relu().max_pool2d(2)
        x = x.flatten(1)
        for at in ("7", "9"):
            x = linear(at, x).relu()
        return linear("11", x)

    def gpt(ids: Any) -> Any:
        (b, t), c, h = ids.shape, case.width, case.heads
        x = p["tok.weight"][ids] + p["pos.weight"]
        for k in range(case.layers):
            at = f"blocks.{k}."
            qkv = linear(at + "qkv", norm(at + "n1", x))
            q, key, v = (z.reshape(b, t, h, c // h).transpose(1, 2) for z in qkv.chunk(3, 2))
            a = q.scaled_dot_product_attention(key, v, is_causal=True)
            x = x + linear(at + "out", a.transpose(1, 2).reshape(b, t, c))
            up = linear(at + "up", norm(at + "n2", x))
            x = x + linear(at + "down", up * 0.5 * (1 + (up * 0.5 ** 0.5).erf()))
        return linear("head", norm("norm", x)).reshape(b * t, -1)

    forward = {"MLP": mlp, "CNN": cnn, "GPT": gpt}[name]
    rule, options = case.optimizer
    opt = {"SGD": SGD, "AdamW": AdamW}[rule](list(p.values()), **options)

    @TinyJit
    def step() -> Any:
        loss = forward(x).sparse_categorical_crossentropy(y)
        opt.zero_grad()
        loss.backward()
        return loss.realize(*opt.schedule_step())

    def run() -> float:
        with Context(TRAINING=1):
            return step().item()

    return run


def main() -> None:
    """Talk to the benchmark."""
    from compiled_remote import serve

    name, device = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        prepare(device, folder)
        serve(trainer(name))


if __name__ == "__main__":
    main()
