"""`lampion.kernel`: ops whose kernel is a text on one device and a composite on all others."""

from __future__ import annotations

import numpy as np
import pytest

lampion = pytest.importorskip("lampion")
from lampion import config  # noqa: E402
from lampion.base.errors import DtypeError, UnsupportedError  # noqa: E402
from lampion.explaining import explain  # noqa: E402
from lampion.ops.text_schemas import Schema  # noqa: E402
from lampion.testing import op_checks  # noqa: E402

LOOP = """
define void @{name}({head}, i64 %begin, i64 %end) {{
entry:
  %any = icmp slt i64 %begin, %end
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %loop ]
{body}
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""


def ir(name, head, body):
    return LOOP.format(name=name, head=head, body=body)


def elementwise_ir(name, t="float"):
    """swish in LLVM IR."""
    e = "expf" if t == "float" else "exp"
    return f"declare {t} @{e}({t})\n" + ir(
        name, f"ptr %out, ptr %x, {t} %beta, i64 %n", f"""
  %px = getelementptr {t}, ptr %x, i64 %i
  %v = load {t}, ptr %px
  %bv = fmul {t} %v, %beta
  %neg = fneg {t} %bv
  %e = call {t} @{e}({t} %neg)
  %d = fadd {t} %e, 1.0
  %r = fdiv {t} %v, %d
  %po = getelementptr {t}, ptr %out, i64 %i
  store {t} %r, ptr %po""")


SWISH_CL = """
__kernel void swish(__global float *out, __global const float *x, float beta, long n) {
  long i = get_global_id(0);
  if (i < n) out[i] = x[i] / (1 + exp(-beta * x[i]));
}
"""
SWISH_CUDA = """
extern "C" __global__ void swish(float *out, const float *x, float beta, long long n) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = x[i] / (1 + expf(-beta * x[i]));
}
"""


@lampion.kernel("rawtest::swish(x: float32[*b], beta: float32 = 1.0) -> float32[*b]", SWISH_CUDA,
                device="cuda", group=(64,))
@lampion.kernel("rawtest::swish(x: float32[*b], beta: float32 = 1.0) -> float32[*b]", SWISH_CL,
                device="opencl")
@lampion.kernel("rawtest::swish(x: float64[*b], beta: float64 = 1.0) -> float64[*b]",
                elementwise_ir("swish", "double"), device="cpu")
@lampion.kernel("rawtest::swish(x: float32[*b], beta: float32 = 1.0) -> float32[*b]",
                elementwise_ir("swish"), device="cpu", samples="f(3, 4)\nf(4, 3).transposed, 2.5\n"
                "f(5).offset\nf(0, 3)\nf()\nf(3, dtype=float64), 0.5",
                reference=lambda x, beta=1.0: x / (1 + np.exp(-beta * x)))
def swish(x, beta):
    """x * sigmoid(beta x)."""
    return x * (beta * x).sigmoid()


# Sums of rows, with a result of another shape, two results, a row per point, and whole numbers.
ROWS_CL = """
__kernel void rows(__global double *sums, __global int *counts, __global const double *x,
                   __global const double *w, int above, long m, long n) {
  long r = get_global_id(0);
  if (r >= m) return;
  double s = 0; int c = 0;
  for (long k = 0; k < n; k++) { s += w[k] * x[r * n + k]; c += x[r * n + k] > above; }
  sums[r] = s; counts[r] = c;
}
"""
ROWS_CUDA = ROWS_CL.replace("__kernel", 'extern "C" __global__').replace("__global ", "").replace(
    "long ", "long long ").replace(
    "get_global_id(0)", "(long long)blockIdx.x * blockDim.x + threadIdx.x")
ROWS_IR = ir("rows", "ptr %sums, ptr %counts, ptr %x, ptr %w, i32 %above, i64 %m, i64 %n", """
  %row = mul i64 %i, %n
  %limit = sitofp i32 %above to double
  %has = icmp sgt i64 %n, 0
  br i1 %has, label %inner, label %out
inner:
  %k = phi i64 [ 0, %loop ], [ %k1, %inner ]
  %s = phi double [ 0.0, %loop ], [ %s1, %inner ]
  %c = phi i32 [ 0, %loop ], [ %c1, %inner ]
  %at = add i64 %row, %k
  %px = getelementptr double, ptr %x, i64 %at
  %v = load double, ptr %px
  %pw = getelementptr double, ptr %w, i64 %k
  %f = load double, ptr %pw
  %p = fmul double %v, %f
  %s1 = fadd double %s, %p
  %g = fcmp ogt double %v, %limit
  %one = zext i1 %g to i32
  %c1 = add i32 %c, %one
  %k1 = add i64 %k, 1
  %again = icmp slt i64 %k1, %n
  br i1 %again, label %inner, label %out
out:
  %sf = phi double [ 0.0, %loop ], [ %s1, %inner ]
  %cf = phi i32 [ 0, %loop ], [ %c1, %inner ]
  %ps = getelementptr double, ptr %sums, i64 %i
  store double %sf, ptr %ps
  %pc = getelementptr i32, ptr %counts, i64 %i
  store i32 %cf, ptr %pc""").replace("[ %next, %loop ]", "[ %next, %out ]")
ROWS = ("rawtest::rows(x: float64[m, n], w: float64[n], above: int32 = 0)"
        " -> float64[m], int32[m]")


def rows_vjp(ctx, g, _):
    return g[:, None] * ctx.w, (g[:, None] * ctx.x).sum(0)


@lampion.kernel(ROWS, ROWS_CUDA, device="cuda", grid="m")
@lampion.kernel(ROWS, ROWS_CL, device="opencl", grid=["m"], group=(4,))
@lampion.kernel(ROWS, ROWS_IR, device="cpu", grid="m", vjp=rows_vjp, save=("x", "w"),
                samples="f(4, 3, dtype=float64), f(3, dtype=float64), 0\n"
                "f(2, 5, dtype=float64).transposed, f(5, dtype=float64).strided, -1",
                reference=lambda x, w, above: ((x * w).sum(1), (x > above).sum(1).astype("i4")))
def rows(x, w, above):
    """Weighted sums of rows, and how many of their entries are above a number."""
    return (x * w).sum(1), (x > above).sum(1).to(lampion.int32)


@pytest.mark.parametrize("op", op_checks.ops_of("rawtest"), ids=str)
def test_what_every_op_is_tested_for(op, device):
    op_checks.check_op(op, device)


def test_the_text_runs_where_there_is_one(device):
    known = device.partition(":")[0] in ("cpu", "opencl", "cuda")
    for x in (lampion.ones(2, 3, device=device), lampion.ones(3, 2, device=device).t()):
        told = explain(swish, x)
        assert (told[-1].chosen == "kernel rawtest (priority 0) [swish]") == known, told
        assert ("sigmoid" in str(told)) != known


def test_gradients_of_a_text(device):
    x = lampion.randn(3, 4, dtype=lampion.float64, requires_grad=True)
    assert lampion.autograd.gradcheck(lambda x: swish(x, 2.0), x)
    assert lampion.autograd.gradgradcheck(lambda x: swish(x, 2.0), x)
    a = lampion.randn(5, device=device, requires_grad=True)
    b = a.detach().cpu().requires_grad_()
    swish(a, 3).sum().backward()
    (b * (3 * b).sigmoid()).sum().backward()
    np.testing.assert_allclose(a.grad.cpu().numpy(), b.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_views_and_transforms_of_a_text(device):
    x = lampion.arange(12, dtype=lampion.float32, device=device).view(3, 4)
    want = x.cpu().numpy() / (1 + np.exp(-x.cpu().numpy()))
    np.testing.assert_allclose(swish(x[1:]).cpu().numpy(), want[1:], rtol=1e-5)
    np.testing.assert_allclose(swish(x[:, 1]).cpu().numpy(), want[:, 1], rtol=1e-5)
    np.testing.assert_allclose(lampion.vmap(swish)(x).cpu().numpy(), want, rtol=1e-5)
    out = lampion.zeros(8, device=device)
    swish(x[0], out=out[4:])
    np.testing.assert_allclose(out.cpu().numpy(), [0] * 4 + list(want[0]), rtol=1e-5)


def test_many_points_are_spread_over_the_threads():
    x = lampion.randn(300_001, device="cpu")
    np.testing.assert_allclose(swish(x).numpy(), (x * x.sigmoid()).numpy(), rtol=2e-6, atol=1e-6)


def test_a_call_that_no_schema_allows_is_an_error_everywhere(device):
    ints = lampion.ones(3, dtype=lampion.int64, device=device)
    with pytest.raises(DtypeError, match="none of its schemas fits(.|\n)*x is int64, and the "
                       r"schema says float32\[\*b\]. Convert it with .to\(lampion.float32\)"):
        swish(ints)
    x, w = (lampion.ones(*s, dtype=lampion.float64, device=device) for s in ((2, 3), (4,)))
    with pytest.raises(RuntimeError, match=r"rawtest::rows: w of shape \[4\] is float64\[n\] in "
                       "the schema, where n is 4, but x says that it is 3"):
        rows(x, w)
    with pytest.raises(RuntimeError, match=r"x has shape \[3\], and the schema says float64"):
        rows(x[0], w)
    with pytest.raises(TypeError, match="'above' must be int"):
        rows(x, w[:3], 1.5)
    with pytest.raises(TypeError, match="'x' .* must be Tensor"):
        swish(3.0)


def test_numbers_beyond_their_dtype_are_refused():
    x, w = (lampion.ones(*s, dtype=lampion.float64, device="cpu") for s in ((2, 3), (3,)))
    with pytest.raises(OverflowError, match="'above' is 2147483648, which is no int32"):
        rows(x, w, 1 << 31)


def test_a_setting_switches_a_text_off():
    x = lampion.ones(3, device="cpu")
    with config.override({"kernels": {"rawtest::swish@cpu": "generated"}}):
        assert "sigmoid" in str(explain(swish, x))
    assert "sigmoid" not in str(explain(swish, x))


@pytest.mark.parametrize("text, message", [
    ("define void @broken(ptr %out", "broken"),
    ("define void @other(ptr %a) { ret void }", "does not define a function @broken"),
    ("define void @broken(ptr %o, i64 %n) { ret void }",
     r"@broken takes \(ptr, i64\), and its schema hands over \(ptr, ptr, i64, i64, i64\)"),
])
def test_a_text_that_does_not_build_says_why(text, message):
    with lampion.ops.registry.namespace(f"rawbroken{abs(hash(text))}"):
        @lampion.kernel("broken(x: float32[n]) -> float32[n]", text, device="cpu")
        def broken(x):
            return x

    with pytest.raises(RuntimeError, match=r"its kernel in LLVM IR does not build for cpu: [^~]*"
                       + message):
        broken(lampion.ones(2, device="cpu"))


def test_texts_of_other_devices_do_not_build_either(device):
    kind = device.partition(":")[0]
    if kind not in ("opencl", "cuda"):
        pytest.skip("takes no C")
    head = "__kernel" if kind == "opencl" else 'extern "C" __global__'
    memory = "__global " if kind == "opencl" else ""
    texts = {"syntax": f"{head} void syntax({memory}float *o, {memory}float *x, long n) {{ o = }}",
             "absent": f"{head} void present({memory}float *o) {{ }}"}
    if kind == "opencl":
        texts["count"] = "__kernel void count(__global float *o) { }"
    for name, text in texts.items():
        with lampion.ops.registry.namespace(f"rawbad_{kind}"):
            op = lampion.kernel(f"{name}(x: float32[n]) -> float32[n]", text, device=kind)(
                lambda x: x * 1)
        with pytest.raises(RuntimeError, match=f"rawbad_{kind}::{name}: its kernel in .* does not "
                           "build"):
            op(lampion.ones(2, device=device))


def test_a_device_without_the_language_is_an_error_and_not_a_composite():
    def make(name, **more):
        return lampion.kernel(f"rawlang::{name}(x: float32[n]) -> float32[n]", "text", **more)(
            lambda x: x * 1)

    with pytest.raises(UnsupportedError, match="the device cpu takes kernels in LLVM IR, not in "
                       r'Cobol. Setting \[kernels\] "rawlang::a@cpu" = "generated"'):
        make("a", device="cpu", language="Cobol")(lampion.ones(2, device="cpu"))
    pytest.importorskip("lampion_refdevice")
    with pytest.raises(UnsupportedError, match="the device ref takes no kernels as text"):
        make("b", device="ref")(lampion.ones(2, device="ref"))


def test_a_composite_that_breaks_the_schema_is_found():
    op = lampion.kernel("rawlie::lie(x: float32[n]) -> float32[n]", "", device="nosuch")(
        lambda x: x.double())
    with pytest.raises(RuntimeError, match=r"its composite gave float64\[2\], where the schema "
                       r"says float32\[2\]"):
        op(lampion.ones(2))


@pytest.mark.parametrize("schema, message", [
    ("f(x)", "write it as name"),
    ("f(x) -> float32[n]", "not written as name: dtype"),
    ("f(x: real[n]) -> float32[n]", "'real' is no dtype"),
    ("f(x: float32[n]) -> float32", "a tensor: write float32"),
    ("f(x: float32[n]) -> float32[m]", "no argument says how large 'm' is"),
    ("f(x: float32[*n]) -> float32[n]", "several sizes: write [*]n"),
    ("f(x: float32[n]) -> float32[*n]", "one size: write it without"),
    ("f(x: float32[*a, *b]) -> float32[]", "more than one [*]"),
    ("f(x: float32[n.real]) -> float32[]", "is no size"),
    ("f(x: float32[n / 2]) -> float32[]", "is no size"),
    ("f(a: float32) -> float32[]", "at least one argument must be a tensor"),
    ("f(x: float32[n], a: complex64) -> float32[]", "is a number, which can be"),
    ("f(x: float32[n], a: int32 = n) -> float32[]", "must be a number, not n"),
    ("f(x: float32[n], a: int32 = 1, b: int32) -> float32[]", "'b' needs a default"),
    ("f(x: float32[n], x: int32) -> float32[]", "two arguments are called 'x'"),
])
def test_a_wrong_schema_is_told_at_once(schema, message):
    with pytest.raises(ValueError, match=f"the schema .*{message}"):
        Schema(schema)


def test_declarations_that_do_not_fit_together():
    def declare(schema="f(x: float32[n]) -> float32[n]", fn=lambda x: x, **more):
        return lampion.kernel(schema, "", **{"device": "cpu", **more})(fn)

    for more, message in [
            ({"device": "cpu:1"}, "write its name without a number"),
            ({"fn": lambda y: y}, "does not take the arguments"),
            ({}, "needs a namespace"),
            ({"grid": "m"}, "no argument says how large 'm'"),
            ({"grid": ["n"] * 4}, "one to three"),
            ({"group": (1, 2)}, "as many entries as the grid"),
            ({"schema": "rawtest::other(x: float32[n]) -> float32[n]", "fn": swish},
             "is stacked on the op rawtest::swish"),
            ({"schema": "rawtest::swish(x: float32[n]) -> float32[n]", "fn": swish},
             "other arguments"),
            ({"schema": "rawtest::swish(x: float32[*b], beta: float32 = 1.0) -> float32[*b]",
              "fn": swish, "vjp": rows_vjp}, "belongs to the innermost")]:
        with pytest.raises(ValueError, match=message):
            declare(**more)


def test_shapes_by_schema():
    meta = lampion.zeros(5, 7, 2, dtype=lampion.float32).meta
    kernel = lampion.zeros(3, dtype=lampion.float32).meta
    s = Schema("g::f(x: float32[*b, n, 2], k: float32[m]) -> float32[*b, n - m + 1], int64[n * m]")
    sizes = s.bind("f", [meta, kernel])
    assert sizes == {"b": (5,), "n": 7, "m": 3} and s.numbers(sizes) == (5, 7, 3)
    assert [shape for _, shape in s.shapes("f", sizes)] == [(5, 5), (21,)]
    with pytest.raises(RuntimeError, match=r"would have shape \[-1\]"):
        Schema("f(x: float32[n]) -> float32[n - 4]").shapes("f", {"n": 3})
