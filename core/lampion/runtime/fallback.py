"""Running an op elsewhere, only if the user allows it, and never unreported.

Floor 2; imports base, config. Policy `error` (default), `warn` or `allow`. Every fallback is
counted in the ledger that `lampion.fallbacks()` shows.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

from ..base.device import device
from ..base.errors import UnsupportedError
from ..base.meta import Meta, meta
from .backend import Launch, OpCall


@dataclass
class Entry:
    """One line of the ledger: an op that ran on another device."""

    op: str
    device: str
    ran_on: str
    count: int = 0
    bytes: int = 0
    ms: float = 0.0


_ledger: dict[tuple[str, str], Entry] = {}


def fallbacks() -> list[Entry]:
    """The ops that ran on another device so far, most bytes first."""
    return sorted(_ledger.values(), key=lambda e: -e.bytes)


def reset_fallbacks() -> None:
    """Empty the ledger."""
    _ledger.clear()


def policy(op: str = "", kind: str = "") -> str:
    """The fallback policy in force, "error", "warn" or "allow": that of an op on a device (of the
    kind, without its number), of the op, of the device, or the general one."""
    from .. import config

    special = config.get("fallback.policies")
    for key in (f"{op}@{kind}", op, f"@{kind}"):
        if key in special:
            return str(special[key])
    return str(config.get("fallback.policy"))


def fallback_launch(op: Any, call: OpCall, reason: str, choose: Any, lower: Any = None,
                    ) -> tuple[Launch, str]:
    """A Launch that copies to a host-memory device, runs there and copies back.

    `choose(op, call, lower)` picks a kernel there; `lower()` gives the program where the op has
    no `lower` of its own. UnsupportedError under policy "error", or if no other device can run
    the op either.
    """
    rule = policy(op.qualname, call.device.type)
    if rule == "error":
        raise UnsupportedError(
            f"{call}: {reason}. Nothing runs elsewhere unless you allow it: set "
            "[fallback] policy = \"warn\" (or \"allow\") in lampion.toml, "
            "LAMPION_FALLBACK_POLICY=warn, for this op alone [fallback.policies] "
            f"\"{op.qualname}\" = \"warn\", or move the tensors with .to(...).")
    target = _target(call.device)
    inputs = tuple(_moved(m, target) for m in call.inputs)
    args = {k: _moved(v, target) for k, v in call.args.items()}
    outputs = tuple(_moved(m, target) for m in call.outputs)
    there = OpCall(call.op, inputs, args, outputs, target)
    rule_of = getattr(op, "lower", None)
    if lower is None and rule_of is not None:
        lower = lambda: rule_of(there)  # noqa: E731
    launch, chosen = choose(op, there, lower)
    if launch is None:
        raise UnsupportedError(f"{call}: {reason}; and on {target}: {chosen}")
    if rule == "warn":
        warnings.warn(f"{call.op} has no kernel on {call.device} ({reason}); it runs on {target} "
                      "with a copy there and back. lampion.fallbacks() counts them.", stacklevel=2)
    return _copying(op.qualname, call, there, launch), f"fallback on {target}"


def _target(here: device) -> device:
    from .. import config, plugins
    from .devices import resolve

    wanted = config.get("fallback.device")
    for name in [wanted] if wanted else plugins.backend_names():
        if name == here.type:
            continue
        try:
            d = resolve(name)
        except Exception:
            continue
        if "host-memory" in d.backend.capabilities(0).features:
            return d
    raise UnsupportedError(f"no device with host memory is installed to fall back to from {here}")


def _moved(m: Any, target: device) -> Any:
    if isinstance(m, Meta):
        return meta(m.dtype, m.shape, m.strides, target)
    if isinstance(m, list):
        return [_moved(v, target) for v in m]
    return target if isinstance(m, device) else m


def _copying(op: str, call: OpCall, there: OpCall, launch: Launch) -> Launch:
    here_b, there_b = call.device.backend, there.device.backend
    # results with gaps between their elements keep what is there
    dense = all(m.span == m.numel * m.dtype.itemsize for m in call.outputs)
    key = (op, str(call.device))

    def into(*args: Any) -> None:
        start = time.perf_counter()
        outs, inputs = args[:len(call.outputs)], args[len(call.outputs):]
        moved = [_copy(x, m, here_b, there_b, there.device) if isinstance(m, Meta) else x
                 for x, m in zip(inputs, call.inputs)]
        if dense:
            result = launch.launch(*moved)
            results = result if isinstance(result, tuple) else (result,)
        else:
            results = tuple([_copy(x, m, here_b, there_b, there.device)
                             for x, m in zip(outs, call.outputs)])
            launch.into(*results, *moved)
        for out, r, m in zip(outs, results, call.outputs):
            here_b.copy_from_host(bytes(there_b.copy_to_host(r, m.span)), out)
        entry = _ledger.setdefault(key, Entry(*key, str(there.device)))
        entry.count += 1
        entry.bytes += sum(m.span for m in (*call.inputs, *call.outputs) if isinstance(m, Meta))
        entry.ms += (time.perf_counter() - start) * 1e3

    def run(*inputs: Any) -> Any:
        outs = tuple(here_b.allocate(m.span, call.device) for m in call.outputs)
        into(*outs, *inputs)
        return outs[0] if len(outs) == 1 else outs

    return Launch(run, into, [f"fallback:{call.op}"])


def _copy(storage: Any, m: Meta, src: Any, dst: Any, target: device) -> Any:
    out = dst.allocate(m.span, target)
    dst.copy_from_host(bytes(src.copy_to_host(storage, m.span)), out)
    return out
