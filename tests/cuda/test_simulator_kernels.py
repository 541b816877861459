"""The host's CUDA C: what kernels compute there, and which of their mistakes it shows."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from simulator import hostcc

i32, i64, f32 = ctypes.c_int, ctypes.c_longlong, ctypes.c_float
ORDERS = (0, -1, 7)
rng = np.random.default_rng(3)

SOFTMAX = """
static __device__ __forceinline__ float warp_sum(float v) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
extern "C" __global__ void __launch_bounds__(128)
softmax(const float *__restrict__ x, float *__restrict__ y, int cols) {
  __shared__ float part[32];
  __shared__ float total;
  const float *row = x + (long long)blockIdx.x * cols;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  float s = 0.f;
  for (int i = threadIdx.x; i < cols; i += blockDim.x) s += expf(row[i]);
  s = warp_sum(s);
  if (lane == 0) part[warp] = s;
  __syncthreads();
  if (warp == 0) {
    s = warp_sum(lane < warps ? part[lane] : 0.f);
    if (lane == 0) total = s;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < cols; i += blockDim.x)
    y[(long long)blockIdx.x * cols + i] = expf(row[i]) / total;
}
"""


@pytest.fixture(autouse=True, scope="module")
def compiler():
    try:
        hostcc.compiler()
    except RuntimeError as error:
        pytest.skip(str(error))


def softmax(source, order):
    x = rng.standard_normal((5, 300)).astype(np.float32)
    y = np.empty_like(x)
    hostcc.Kernels(source)["softmax"]((5,), (128,), [x, y, i32(300)], order=order)
    e = np.exp(x)
    return y, e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("order", ORDERS)
def test_a_correct_kernel_is_correct_in_every_order(order):
    got, expected = softmax(SOFTMAX, order)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_barrier_shows_in_some_order(which):
    pieces = SOFTMAX.split("__syncthreads();")
    source = "".join(p + ("" if k in (which, 2) else "__syncthreads();")
                     for k, p in enumerate(pieces))
    assert source.count("__syncthreads") == 1
    results = [softmax(source, order) for order in ORDERS]
    assert not all(np.allclose(got, expected, rtol=1e-5) for got, expected in results)


def test_shared_memory_starts_poisoned_in_every_block():
    source = """extern "C" __global__ void read(float *out) {
      __shared__ float never[4];
      LMP_DYN_SMEM(float, nor_this);
      out[2 * blockIdx.x] = never[3]; out[2 * blockIdx.x + 1] = nor_this[3];
      never[3] = nor_this[3] = 1.f; }"""
    out = np.zeros(6, np.float32)
    hostcc.Kernels(source)["read"]((3,), (1,), [out], shared=16)
    assert np.isnan(out).all()


def test_threads_and_blocks_have_their_numbers_in_three_dimensions():
    source = """extern "C" __global__ void number(int *out) {
      const int b = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
      const int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
      const int n = blockDim.x * blockDim.y * blockDim.z;
      out[b * n + t] += b * n + t; }"""
    for order in ORDERS:
        out = np.zeros(24 * 30, np.int32)
        hostcc.Kernels(source)["number"]((2, 3, 4), (5, 3, 2), [out], order=order)
        np.testing.assert_array_equal(out, np.arange(24 * 30))


def test_arguments_of_every_size_arrive_in_their_order():
    source = """LMP_KERNEL void keep(double *out, unsigned char a, short b, int c, long d, float e,
                                     double f, const double *g) {
      out[0] = a; out[1] = b; out[2] = c; out[3] = d; out[4] = e; out[5] = f; out[6] = *g; }"""
    out, g = np.zeros(7), np.array([7.5])
    run = hostcc.Kernels('#define LMP_KERNEL extern "C" __global__\n' + source)["keep"]
    run((1,), (1,), [out, ctypes.c_ubyte(200), ctypes.c_short(-2), i32(1 << 30), i64(-1 << 40),
                     f32(1.5), ctypes.c_double(1e300), g])
    assert out.tolist() == [200, -2, 1 << 30, -1 << 40, 1.5, 1e300, 7.5]


def test_warp_functions():
    source = """extern "C" __global__ void warp(int *out) {
      const int t = threadIdx.x;
      int *o = out + 12 * t;
      const unsigned all = 0xffffffffu;
      o[0] = __shfl_sync(all, t, 3);
      o[1] = __shfl_up_sync(all, t, 2);
      o[2] = __shfl_down_sync(all, t, 5, 8);
      o[3] = __shfl_xor_sync(all, t, 1);
      o[4] = (int)__ballot_sync(all, t % 3 == 0);
      o[5] = __any_sync(all, t == 40) + 2 * __all_sync(all, t < 40);
      o[6] = (int)__reduce_add_sync(all, (unsigned)t);
      o[7] = (int)__match_any_sync(all, t / 4);
      if (t % 32 < 16) o[8] = __shfl_sync(0xffffu, t, 15);
      else o[8] = __shfl_sync(0xffff0000u, t, 16);
      o[9] = (int)__shfl_sync(all, (double)t + 0.5, 31);
      o[10] = __reduce_max_sync(all, -t);
      o[11] = __syncthreads_count(t % 5 == 0); }"""
    t = np.arange(64)
    lane, base = t % 32, t // 32 * 32
    expected = np.stack([
        base + 3, np.where(lane >= 2, t - 2, t), np.where(lane % 8 + 5 < 8, t + 5, t), t ^ 1,
        [sum(1 << k for k in range(32) if (b + k) % 3 == 0) for b in base],
        np.where(base == 0, 2, 1), [sum(range(b, b + 32)) for b in base],
        0xf << (lane // 4 * 4), base + np.where(lane < 16, 15, 16), base + 31, -base,
        np.full(64, 13)], 1).astype(np.uint32).view(np.int32)
    for order in ORDERS:
        out = np.zeros((64, 12), np.int32)
        hostcc.Kernels(source)["warp"]((1,), (64,), [out], order=order)
        np.testing.assert_array_equal(out, expected)


def test_a_shuffle_from_a_lane_outside_the_mask_is_poison():
    source = """extern "C" __global__ void outside(float *out) {
      if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1.f, 20); }"""
    out = np.zeros(16, np.float32)
    hostcc.Kernels(source)["outside"]((1,), (32,), [out])
    assert np.isnan(out).all()


@pytest.mark.parametrize("body, says", [
    ("if (threadIdx.x < 5) return;\n__syncthreads();", "deadlock: 27 threads wait at a barrier"),
    ("if (threadIdx.x < 5) { __syncthreads(); } else {\n__syncthreads(); }", "divergent barrier"),
    ("__shfl_sync(threadIdx.x < 5 ? 0xfu : ~0u, 1, 0);", "mask"),
    ("if (threadIdx.x) __ballot_sync(~0u, 1);", "31 in a warp function"),
    ("assert(threadIdx.x < 9);", "assertion failed: threadIdx.x < 9"),
    ("volatile int *p = x; while (*p) __nanosleep(1);", "spin wait without end"),
])
def test_threads_that_do_not_meet_are_reported(body, says):
    run = hostcc.Kernels(f'extern "C" __global__ void wrong(int *x) {{ {body} }}')["wrong"]
    x = np.ones(1, np.int32)
    with pytest.raises(RuntimeError, match=says) as caught:
        run((1,), (32,), [x])
    assert "wrong, block (0, 0, 0), thread (" in str(caught.value)
    out = np.zeros(300, np.float32)  # and the runtime still works
    hostcc.Kernels(SOFTMAX)["softmax"]((1,), (64,), [np.zeros(300, np.float32), out, i32(300)])
    np.testing.assert_allclose(out, 1 / 300, rtol=1e-6)


def test_atomics():
    source = """extern "C" __global__ void atomics(int *i, unsigned long long *u, float *f,
                                                   int *c) {
      atomicAdd(i, 1); atomicMax(i + 1, (int)threadIdx.x); atomicMin(i + 2, -(int)threadIdx.x);
      atomicAdd(u, 1ull << 33); atomicAdd(f, 0.5f);
      int old = *c, seen;
      do { seen = old; old = atomicCAS(c, seen, seen + 2); } while (old != seen); }"""
    i, u, f, c = np.zeros(3, np.int32), np.zeros(1, np.uint64), np.zeros(1, np.float32), \
        np.zeros(1, np.int32)
    hostcc.Kernels(source)["atomics"]((3,), (50,), [i, u, f, c], order=5)
    assert i.tolist() == [150, 49, -49] and u[0] == 150 << 33 and f[0] == 75 and c[0] == 300


def test_numeric_intrinsics():
    source = """extern "C" __global__ void numbers(unsigned *o, const float *x) {
      o[0] = __umulhi(0x80000000u, 6u); o[1] = __popc(0xff00u); o[2] = __clz(1); o[3] = __ffs(8);
      o[4] = __brev(1u); o[5] = __byte_perm(0x03020100u, 0x07060504u, 0x7531u);
      o[6] = __funnelshift_l(0x80000000u, 1u, 1); o[7] = __float_as_uint(1.f);
      o[8] = (unsigned)__float2int_rn(x[0]); o[9] = (unsigned)__float2int_rz(x[1]);
      o[10] = (unsigned)__float2int_rn(x[2]); o[11] = hc_float_to_half(x[0]);
      o[12] = hc_float_to_bfloat16(x[0]); o[13] = __float_as_uint(hc_half_to_float(0x3c01));
      const float4 v = make_float4(1, 2, 3, 4); o[14] = (unsigned)(v.x + v.w) + sizeof(v);
      o[15] = max(3u, 4u) + min(2u, 7u); }"""
    out = np.zeros(16, np.uint32)
    x = np.array([2.5, -2.7, 1e20], np.float32)
    hostcc.Kernels(source)["numbers"]((1,), (1,), [out, x])
    half, bfloat = np.float16(2.5).view(np.uint16), np.float32(2.5).view(np.uint32) >> 16
    assert out.tolist() == [
        3, 8, 31, 4, 1 << 31, 0x07050301, 3, 0x3f800000, 2, 2**32 - 2, 2**31 - 1, half, bfloat,
        np.float16(1 + 2**-10).astype(np.float32).view(np.uint32), 21, 6]


def test_what_nvrtc_lacks_is_lacking_here():
    for text in ("std::sqrt(x[0])", "uint32_t u = 1", "x[0] = FLT_MAX"):
        with pytest.raises(RuntimeError, match="does not compile for the host"):
            hostcc.kernel_image(f'extern "C" __global__ void k(float *x) {{ {text}; }}')


def test_entry_points():
    source = """
        #define LMP_KERNEL extern "C" __global__
        LMP_KERNEL void __launch_bounds__(256) one(int x) {}
        extern "C"  __global__ __launch_bounds__(sizeof(int) * (8), 2)
        void two() {}
        static __device__ void three() {}"""
    assert hostcc.entry_points(source) == ["one", "two"]
    with pytest.raises(RuntimeError, match="no `extern"):
        hostcc.kernel_image("static void f() {}", "f")


def test_without_a_compiler_the_error_names_the_remedy(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install ziglang"):
        hostcc.compiler.__wrapped__()
