"""The gradients of layer_norm in one pass.

The generated kernels go over the rows of `grad` and `input` twice: once along rows for the
gradient of the input, once down the columns for those of weight and bias, five rows moved where
three would do. Here a block takes rows in turn, has each in registers, and adds to the sums of its
columns, which stay in registers, too; a second kernel adds up the blocks' sums in their order.
Imports lampion's floors 0-2 and this package.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lampion.base import dtype as dt
from lampion.runtime.backend import Launch, OpCall

from .dialect import HALVES
from .handwritten import kernel
from .launch import make_launch

if TYPE_CHECKING:
    from .driver import Device

LEAST = 1 << 16   # elements from which on it is worth it
THREADS = 256     # of a block, or more where a row wants them
MOST = 16         # elements of a row that a thread has

_FROM = {dt.float32: "as_bits<float>(h)", dt.bfloat16: "as_bits<float>((uint)h << 16)",
         dt.float16: "lmp_from_float16(h)"}
_TO = {dt.float32: "as_bits<uint>(x)", dt.bfloat16: "lmp_to_bfloat16(x)",
       dt.float16: "lmp_to_float16(x)"}

_ROWS = """
$HALVES
typedef $RAW RAW;
static __forceinline__ __device__ float wide(RAW h) { return $FROM; }
static __forceinline__ __device__ RAW narrow(float x) { return $TO; }
static __forceinline__ __device__ void load(const RAW *from, float *to, bool aligned) {
  if (aligned) {
    const uint4 q = *(const uint4 *)from;
    const uint words[4] = {q.x, q.y, q.z, q.w};
    #pragma unroll
    for (int k = 0; k < $V; k++) to[k] = wide((RAW)(words[k * 4 / $V] >> (k * (128 / $V) & 31)));
  } else {
    #pragma unroll
    for (int k = 0; k < $V; k++) to[k] = wide(from[k]);
  }
}
static __forceinline__ __device__ void store(RAW *to, const float *from, bool aligned) {
  if (aligned) {
    uint words[4] = {0, 0, 0, 0};
    #pragma unroll
    for (int k = 0; k < $V; k++)
      words[k * 4 / $V] |= (uint)narrow(from[k]) << (k * (128 / $V) & 31);
    uint4 q; q.x = words[0]; q.y = words[1]; q.z = words[2]; q.w = words[3];
    *(uint4 *)to = q;
  } else {
    #pragma unroll
    for (int k = 0; k < $V; k++) to[k] = narrow(from[k]);
  }
}
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(RAW *dx, float *parts, const RAW *grad,
    const RAW *input, const float *mean, const float *rstd, const RAW *weight, const long rows,
    const long columns) {
  __shared__ float first[$WARPS], second[$WARPS];
#if $TEAMS > 1
  __shared__ float sums[2 * $SUMS];
#endif
  const int t = threadIdx.x % $LINE, team = threadIdx.x / $LINE, warp = threadIdx.x / 32;
  const bool aligned = (((ulong)dx | (ulong)grad | (ulong)input) & 15) == 0;
  float w[$EACH * $V], dw[$EACH * $V], db[$EACH * $V];
  #pragma unroll
  for (int e = 0; e < $EACH; e++) {
    const long c = (e * $LINE + t) * $V;
    #pragma unroll
    for (int k = 0; k < $V; k++) {
      w[e * $V + k] = c < columns ? wide(weight[c + k]) : 0;
      dw[e * $V + k] = db[e * $V + k] = 0;
    }
  }
  for (long start = (long)blockIdx.x * $TEAMS; start < rows; start += (long)gridDim.x * $TEAMS) {
    const long row = start + team;
    const bool live = row < rows;
    const float m = live ? mean[row] : 0, r = live ? rstd[row] : 0;
    float g[$EACH * $V], x[$EACH * $V];
    #pragma unroll
    for (int e = 0; e < $EACH; e++) {
      const long c = (e * $LINE + t) * $V;
      if (live && c < columns) {
        load(grad + row * columns + c, g + e * $V, aligned);
        load(input + row * columns + c, x + e * $V, aligned);
      } else {
        #pragma unroll
        for (int k = 0; k < $V; k++) { g[e * $V + k] = 0; x[e * $V + k] = m; }
      }
    }
    float a = 0, b = 0;
    #pragma unroll
    for (int k = 0; k < $EACH * $V; k++) {
      x[k] -= m;
      a += g[k] * w[k];
      b += g[k] * w[k] * x[k];
    }
    #pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
      a += __shfl_xor_sync(0xffffffffu, a, d);
      b += __shfl_xor_sync(0xffffffffu, b, d);
    }
    if ($LINE > 32) {
      if (threadIdx.x % 32 == 0) { first[warp] = a; second[warp] = b; }
      __syncthreads();
      a = b = 0;
      #pragma unroll
      for (int k = 0; k < $LINE / 32; k++) {
        a += first[team * ($LINE / 32) + k];
        b += second[team * ($LINE / 32) + k];
      }
      __syncthreads();
    }
    const float middle = a / (float)columns, slope = b * r * r / (float)columns;
    #pragma unroll
    for (int e = 0; e < $EACH; e++) {
      const long c = (e * $LINE + t) * $V;
      float out[$V];
      #pragma unroll
      for (int k = 0; k < $V; k++) {
        const int j = e * $V + k;
        out[k] = r * (g[j] * w[j] - middle - x[j] * slope);
        dw[j] += g[j] * (x[j] * r);
        db[j] += g[j];
      }
      if (live && c < columns) store(dx + row * columns + c, out, aligned);
    }
  }
  float *to = parts + (long)blockIdx.x * 2 * columns;
#if $TEAMS > 1
  for (int k = 0; k < $TEAMS; k++) {  // one team after the other
    if (team == k) {
      #pragma unroll
      for (int j = 0; j < $EACH * $V; j++) {
        const int p = (j / $V * $LINE + t) * $V + j % $V;
        sums[p] = k ? sums[p] + dw[j] : dw[j];
        sums[$SUMS + p] = k ? sums[$SUMS + p] + db[j] : db[j];
      }
    }
    __syncthreads();
  }
  for (long c = threadIdx.x; c < columns; c += $THREADS) {
    to[c] = sums[c];
    to[columns + c] = sums[$SUMS + c];
  }
#else
  #pragma unroll
  for (int j = 0; j < $EACH * $V; j++) {
    const long c = (long)(j / $V * $LINE + t) * $V + j % $V;
    if (c < columns) { to[c] = dw[j]; to[columns + c] = db[j]; }
  }
#endif
}
"""
_COLUMNS = """
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(float *dw, float *db, const float *parts,
    const long blocks, const long columns) {
  __shared__ float sums[$THREADS];
  const int lane = threadIdx.x % 32, part = threadIdx.x / 32;
  const long c = (long)blockIdx.x * 32 + lane;
  float sum = 0;
  if (c < 2 * columns)
    #pragma unroll 4
    for (long b = part; b < blocks; b += $WARPS) sum += parts[b * 2 * columns + c];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (part || c >= 2 * columns) return;
  for (int k = 1; k < $WARPS; k++) sum += sums[k * 32 + lane];
  if (c < columns) dw[c] = sum; else db[c - columns] = sum;
}
"""


def layer_norm_backward(device: Device, call: OpCall) -> Launch | None:
    """layer_norm_backward(grad, input, mean, rstd, weight, ndims) of dense rows whose length is a
    multiple of the elements in 16 bytes; None for others, and for few elements."""
    x, weight = call.args["input"], call.args["weight"]
    columns = math.prod(x.shape[x.ndim - call.ndims:])
    if x.dtype not in _FROM or weight is None or not all(
            m.contiguous for m in (*call.inputs, *call.outputs)):
        return None
    vector = 16 // x.dtype.itemsize
    each = MOST // vector
    line = max(32, 1 << (max(1, -(-columns // (vector * each))) - 1).bit_length())
    if x.numel < LEAST or columns % vector or line > 2 * THREADS:
        return None
    each = -(-columns // (vector * line))
    rows, threads = x.numel // columns, max(THREADS, line)
    teams = threads // line
    blocks = min(4 * device.units, -(-rows // teams))
    sums = line * each * vector
    names = f"k_layer_norm_backward_{x.dtype.name}", "k_layer_norm_backward_columns"
    calls = [
        kernel(device, names[0], _ROWS, blocks, threads, (0, 8, 3, 4, 5, 6, 7), (rows, columns),
               HALVES=HALVES, RAW="uint" if vector == 4 else "ushort", FROM=_FROM[x.dtype],
               TO=_TO[x.dtype], V=vector, LINE=line, EACH=each, TEAMS=teams, SUMS=sums),
        kernel(device, names[1], _COLUMNS, -(-2 * columns // 32), THREADS, (1, 2, 8),
               (blocks, columns))]
    return make_launch(device, calls, "s" * len(call.inputs), [m.span for m in call.outputs],
                       [blocks * 2 * columns * 4], names)


__all__ = ["layer_norm_backward"]
