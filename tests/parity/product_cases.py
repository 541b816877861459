"""Calls that PyTorch and lampion must agree on: (name, function of (module, *tensors), shapes)."""

from __future__ import annotations


def f(name, *args, **kwargs):
    """A call of nn.functional with trailing arguments."""
    return lambda t, *tensors: getattr(t.nn.functional, name)(*tensors, *args, **kwargs)


def top(name, *args, **kwargs):
    """A call of a top-level function."""
    return lambda t, *tensors: getattr(t, name)(*tensors, *args, **kwargs)


def einsum(equation):
    return lambda t, *tensors: t.einsum(equation, *tensors)


_MATMUL = [
    ((2, 3), (3, 4)), ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (5, 3, 4)), ((5, 2, 3), (3,)), ((3,), (5, 3, 4)), ((2, 1, 2, 3), (5, 3, 4)),
    ((2, 3), (5, 3, 4)), ((0, 3), (3, 4)), ((2, 0), (0, 4)), ((40, 33), (33, 41)),
]
PRODUCTS = [(f"matmul {a} {b}", top("matmul"), (a, b)) for a, b in _MATMUL] + [
    ("mm of transposes", lambda t, a, b: t.mm(a.t(), b.t()), ((3, 2), (4, 3))),
    ("mm of slices", lambda t, a, b: t.mm(a[::2], b[:, 1::2]), ((5, 3), (3, 6))),
    ("bmm", top("bmm"), ((6, 3, 2), (6, 2, 4))),
    ("mv", top("mv"), ((6, 3), (3,))), ("dot", top("dot"), ((6,), (6,))),
    ("linear", f("linear"), ((2, 3), (4, 3), (4,))),
    ("linear no bias", f("linear"), ((5, 2, 3), (4, 3))),
    ("linear 3-d", f("linear"), ((5, 2, 3), (4, 3), (4,))),
    ("linear vector weight", f("linear"), ((2, 3), (3,))),
    ("addmm", top("addmm", beta=0.5, alpha=2.0), ((2, 4), (2, 3), (3, 4))),
    ("addmm row", top("addmm"), ((4,), (2, 3), (3, 4))),
    ("addmv", top("addmv"), ((2,), (2, 3), (3,))),
    ("baddbmm", top("baddbmm"), ((2,), (5, 3, 4), (5, 4, 2))),
    ("addbmm", top("addbmm", alpha=3.0), ((3, 2), (5, 3, 4), (5, 4, 2))),
    ("addr", top("addr"), ((2, 3), (2,), (3,))), ("outer", top("outer"), ((2,), (3,))),
    ("inner", top("inner"), ((2, 3), (5, 3))), ("kron", top("kron"), ((2, 3), (4, 5))),
    ("vdot", top("vdot"), ((3,), (3,))), ("cross", top("cross"), ((4, 3), (4, 3))),
    ("tensordot", top("tensordot", ([1, 0], [0, 2])), ((2, 3, 5), (3, 4, 2))),
    ("matrix_power", top("matrix_power", 5), ((2, 3, 3),)),
    ("multi_dot", lambda t, *a: t.linalg.multi_dot(a), ((2, 3), (3, 4), (4, 5), (5,))),
    ("vecdot", lambda t, a, b: t.linalg.vecdot(a, b), ((2, 3), (2, 3))),
    ("einsum chain", einsum("ij,jk,kl->il"), ((2, 3), (3, 4), (4, 5))),
    ("einsum batch", einsum("...ij,...jk->...ik"), ((5, 2, 3), (7, 5, 3, 4))),
    ("einsum diagonal", einsum("aab,bcc->ac"), ((2, 2, 3), (3, 4, 4))),
    ("einsum sum", einsum("ij,kl->"), ((2, 3), (4, 5))),
    ("einsum broadcast", einsum("ij,ij->i"), ((2, 3), (2, 1))),
    ("einsum implicit", einsum("ba,cb"), ((2, 3), (4, 2))),
]
CONVOLUTIONS = [
    ("conv2d", f("conv2d"), ((2, 3, 8, 8), (4, 3, 3, 3), (4,))),
    ("conv2d padded", f("conv2d", None, 1, 1), ((2, 3, 8, 8), (4, 3, 3, 3))),
    ("conv2d uneven", f("conv2d", (2, 1), (1, 2), (1, 2)), ((2, 3, 9, 8), (4, 3, 3, 2), (4,))),
    ("conv2d same", f("conv2d", padding="same"), ((2, 3, 9, 8), (4, 3, 3, 2), (4,))),
    ("conv2d groups", f("conv2d", padding=1, groups=2), ((2, 4, 9, 8), (6, 2, 3, 2), (6,))),
    ("conv2d depthwise", f("conv2d", groups=4), ((2, 4, 9, 8), (4, 1, 3, 2), (4,))),
    ("conv2d one image", f("conv2d", padding=1), ((3, 9, 8), (4, 3, 3, 2), (4,))),
    ("conv1d", f("conv1d", stride=3, padding=1), ((2, 3, 10), (4, 3, 3), (4,))),
    ("conv3d", f("conv3d", padding=1), ((2, 3, 4, 5, 6), (4, 3, 3, 2, 1), (4,))),
    ("conv2d no image", f("conv2d"), ((0, 3, 8, 8), (4, 3, 3, 3), (4,))),
    ("conv_transpose2d", f("conv_transpose2d", None, 2, 1, 1), ((2, 3, 5, 6), (3, 4, 3, 3))),
    ("conv_transpose2d groups", f("conv_transpose2d", stride=2, groups=2, dilation=2),
     ((2, 4, 5, 6), (4, 3, 3, 3), (6,))),
    ("conv_transpose1d", f("conv_transpose1d", stride=2), ((2, 4, 5), (4, 3, 3), (3,))),
    ("conv_transpose3d", f("conv_transpose3d", stride=2), ((4, 5, 2, 3), (4, 3, 3, 2, 2))),
    ("conv_tbc", top("conv_tbc", pad=1), ((7, 2, 3), (3, 3, 4), (4,))),
    ("unfold", f("unfold", (3, 2), padding=1), ((2, 3, 9, 8),)),
    ("fold", f("fold", (9, 8), (3, 2), stride=2), ((2, 18, 16),)),
]
POOLINGS = [
    ("max_pool2d", f("max_pool2d", 2), ((2, 3, 8, 8),)),
    ("max_pool2d overlapping", f("max_pool2d", 3, 2, 1), ((20, 3, 9, 8),)),
    ("max_pool2d dilated", f("max_pool2d", (3, 2), (1, 3), (1, 0), (2, 1)), ((2, 3, 9, 8),)),
    ("max_pool2d ceil", f("max_pool2d", 3, 2, ceil_mode=True), ((2, 3, 9, 8),)),
    ("max_pool2d large", f("max_pool2d", 7, 2, 3), ((2, 3, 19, 18),)),
    ("max_pool1d", f("max_pool1d", 2), ((3, 2, 9),)),
    ("max_pool3d", f("max_pool3d", 2, 1), ((3, 2, 4, 5, 6),)),
    ("avg_pool2d", f("avg_pool2d", 3, 2, 1), ((2, 3, 9, 8),)),
    ("avg_pool2d ceil", f("avg_pool2d", 3, 2, 1, True, False), ((2, 3, 9, 8),)),
    ("avg_pool2d divisor", f("avg_pool2d", 3, 2, 1, divisor_override=5), ((2, 3, 9, 8),)),
    ("avg_pool1d", f("avg_pool1d", 3, 2, 1), ((2, 3, 8),)),
    ("avg_pool3d", f("avg_pool3d", 3, 2, 1), ((2, 5, 9, 8),)),
] + [(f"adaptive_{kind}_pool2d {size}", f(f"adaptive_{kind}_pool2d", size), ((2, 3, 9, 8),))
     for kind in ("avg", "max") for size in ((3, 4), (1, 1), (5, None), (11, 3))]
ATTENTION = [
    ("attention", f("scaled_dot_product_attention"), ((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7))),
    ("attention causal", f("scaled_dot_product_attention", is_causal=True, scale=0.3),
     ((5, 4), (6, 4), (6, 7))),
    ("attention mask", f("scaled_dot_product_attention"),
     ((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7), (2, 1, 5, 6))),
    ("attention grouped", f("scaled_dot_product_attention", enable_gqa=True),
     ((2, 6, 5, 4), (2, 3, 6, 4), (2, 3, 6, 7))),
]
_MODES = {1: ("nearest", "nearest-exact", "linear", "area"),
          2: ("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
          3: ("nearest", "nearest-exact", "trilinear", "area")}
RESIZING = [
    (f"interpolate {rank}d {mode} {how}", f("interpolate", mode=mode, **how),
     ((2, 3, 7, 5, 4)[:2 + rank],))
    for rank, modes in _MODES.items() for mode in modes
    for how in ({"size": (11, 3, 4)[:rank]}, {"scale_factor": 1.7}, {"scale_factor": 0.6})
] + [
    (f"interpolate {mode} corners", f("interpolate", size=(11, 3), mode=mode, align_corners=True),
     ((2, 3, 7, 5),)) for mode in ("bilinear", "bicubic")
] + [
    (f"interpolate {mode} antialias", f("interpolate", size=(3, 9), mode=mode, antialias=True),
     ((2, 3, 17, 9),)) for mode in ("bilinear", "bicubic")
]
CASES = PRODUCTS + CONVOLUTIONS + POOLINGS + ATTENTION + RESIZING
INDICES = [
    ("max_pool2d", (2, 3, 19, 18), (3, 2, 1)), ("max_pool2d", (2, 3, 19, 18), (7, 2, 3)),
    ("max_pool2d", (2, 3, 9, 8), ((3, 2), (1, 3), (1, 0), (2, 1))),
    ("max_pool1d", (2, 3, 9), (2, 1)), ("max_pool3d", (2, 3, 5, 6, 7), (2, 1)),
    ("adaptive_max_pool2d", (2, 3, 19, 18), ((4, 5),)),
]
ERRORS = [
    lambda t: t.mm(t.ones(2, 3), t.ones(2, 3)), lambda t: t.mm(t.ones(2), t.ones(2, 3)),
    lambda t: t.matmul(t.ones(2, 3), t.ones(4)), lambda t: t.matmul(t.ones(()), t.ones(4)),
    lambda t: t.matmul(t.ones(2, 3, 4), t.ones(2, 3, 5)),
    lambda t: t.bmm(t.ones(2, 3, 4), t.ones(2, 5, 6)), lambda t: t.dot(t.ones(2), t.ones(3)),
    lambda t: t.mv(t.ones(2, 3), t.ones(2)), lambda t: t.outer(t.ones(2, 3), t.ones(2)),
    lambda t: t.inner(t.ones(2, 3), t.ones(3, 4)), lambda t: t.tensordot(t.ones(2), t.ones(3), 1),
    lambda t: t.nn.functional.linear(t.ones(2, 3), t.ones(4, 4)),
    lambda t: t.einsum("ij,jk->ik", t.ones(2, 3)),
    lambda t: t.einsum("ij,jk->il", t.ones(2, 3), t.ones(3, 4)),
    lambda t: t.einsum("ij,jk", t.ones(2, 3), t.ones(4, 4)),
    lambda t: t.einsum("i.j,jk", t.ones(2, 3), t.ones(3, 4)),
    lambda t: t.einsum("ii", t.ones(2, 3)), lambda t: t.cross(t.ones(4, 2), t.ones(4, 2)),
    lambda t: t.matrix_power(t.ones(2, 3), 2), lambda t: t.linalg.multi_dot([t.ones(2, 3)]),
    lambda t: t.conv2d(t.ones(1, 2, 8, 8), t.ones(3, 3, 3, 3)),
    lambda t: t.conv2d(t.ones(1, 1, 2, 2), t.ones(3, 1, 3, 3)),
    lambda t: t.conv2d(t.ones(8, 8), t.ones(3, 1, 3, 3)),
    lambda t: t.conv2d(t.ones(1, 1, 5, 5), t.ones(3, 1, 3, 3), padding="same", stride=2),
    lambda t: t.conv2d(t.ones(1, 1, 5, 5), t.ones(3, 1, 3, 3), stride=0),
    lambda t: t.conv2d(t.ones(1, 1, 5, 5), t.ones(3, 1, 3, 3), t.ones(4)),
    lambda t: t.conv_transpose2d(t.ones(1, 2, 8, 8), t.ones(3, 1, 3, 3)),
    lambda t: t.nn.functional.max_pool2d(t.ones(1, 2, 8, 8), 2, padding=2),
    lambda t: t.nn.functional.avg_pool2d(t.ones(1, 2, 8, 8), 2, divisor_override=0),
    lambda t: t.nn.functional.adaptive_avg_pool2d(t.ones(1, 2, 8, 8), (2, 2, 2)),
]
