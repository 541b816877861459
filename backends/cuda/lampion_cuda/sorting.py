"""Sorting and selection: bitonic networks in shared memory, radix passes beyond.

Elements become unsigned keys that order like them (NaN is the largest, the two zeros are equal),
inverted where the order is descending; ties keep the order of positions. A line of up to `TILE`
entries is sorted by one block, several short lines together. Longer ones take one pass per byte
of the key, each of three kernels: count the digits of every block's part, add up the counts, and
move the pairs of key and position to their places, in order. The last pass writes the results.
Imports lampion's floors 0-2 and this package.

Sources: D. Knuth, The Art of Computer Programming 3, 5.2.5 (radix) and 5.3.4 (bitonic networks);
D. Merrill and A. Grimshaw, High Performance and Scalable Radix Sorting (2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lampion.base import dtype as dt
from lampion.base.dtype import dtype
from lampion.runtime.backend import Launch, OpCall

from .handwritten import Lines, bits_type, kernel
from .launch import make_launch

if TYPE_CHECKING:
    from .driver import Device

TILE = 4096       # entries that one block sorts
TOGETHER = 1024   # short lines are sorted together in arrays of this size
THREADS = 512     # of a block of the radix kernels
LONGEST = (1 << 31) - (1 << 16)  # positions of a line, and of the tile behind it, are ints
_MANTISSA = {dt.float16: 10, dt.bfloat16: 7, dt.float32: 23, dt.float64: 52}


def keys(d: dtype, descending: bool) -> dict[str, str]:
    """The holes that turn elements into keys: the types RAW and KEY, and functions `key_of`,
    `value_of` and `exact` (whether `value_of` gives the very bits back)."""
    bits = 8 * d.itemsize
    suffix = "ul" if bits == 64 else "u"
    whole, sign = (f"{hex(v)}{suffix}" for v in ((1 << bits) - 1, 1 << (bits - 1)))
    flip = f"{whole} ^ k" if descending else "k"
    if d.kind == "f":
        inf = f"{hex((((1 << bits) - 1) >> 1) & ~((1 << _MANTISSA[d]) - 1))}{suffix}"
        key = (f"KEY k = u & ({whole} ^ {sign}); if (k > {inf}) k = {whole}; "
               f"else if (!k) k = {sign}; else k = u & {sign} ? {whole} ^ u : u | {sign};")
        value = f"return (RAW)(k & {sign} ? k ^ {sign} : k ^ {whole});"
        exact = f"return k != {whole} && k != {sign};"
    else:
        turned = sign if d.kind == "i" else f"0{suffix}"
        key = f"KEY k = (KEY)u ^ {turned};"
        value, exact = f"return (RAW)(k ^ {turned});", "return true;"
    text = (f"typedef {bits_type(d)} RAW; typedef {'ulong' if bits == 64 else 'uint'} KEY;\n"
            f"static __forceinline__ __device__ KEY key_of(RAW v) {{ const KEY u = v; {key} "
            f"return {flip}; }}\n"
            f"static __forceinline__ __device__ RAW value_of(KEY k) {{ k = {flip}; {value} }}\n"
            f"static __forceinline__ __device__ bool exact(KEY k) {{ k = {flip}; {exact} }}\n")
    return {"KEYS": text, "LAST_KEY": whole, "WIDE": str(int(bits == 64))}


_TILE = """
$KEYS
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(const RAW *x, RAW *v, long *places,
    const long lines, const long n, const long wanted$PARAMETERS) {
  __shared__ ulong word[$SIZE];
#if $WIDE
  __shared__ uint at[$SIZE];
#endif
  const int t = threadIdx.x, each = $SIZE / $LINE;
  const long first = (long)blockIdx.x * each;
  for (int p = t; p < $SIZE; p += $THREADS) {
    const int own = $ACROSS ? p % each : p / $LINE, c = $ACROSS ? p / each : p % $LINE;
    const long row = first + own;
    ulong w = ~0ul;
    if (row < lines && c < n) {
      $X_OFFSET
      const ulong k = key_of(x[x_at + c * x_step]);
      w = $WIDE ? k : k << 32 | (uint)c;
    }
    word[own * $LINE + c] = w;
#if $WIDE
    at[own * $LINE + c] = row < lines && c < n ? (uint)c : ~0u;
#endif
  }
  __syncthreads();
  for (int size = 2; size <= $LINE; size <<= 1)
    for (int d = size >> 1; d > 0; d >>= 1) {
      for (int q = t; q < $SIZE / 2; q += $THREADS) {
        const int low = q & (d - 1), base = (q & ~(d - 1)) << 1;
        const int a = base + low, b = base + (d == size >> 1 ? size - 1 - low : d + low);
        const ulong wa = word[a], wb = word[b];
#if $WIDE
        const uint ia = at[a], ib = at[b];
        if (wb < wa || (wb == wa && ib < ia)) {
          word[a] = wb; word[b] = wa; at[a] = ib; at[b] = ia;
        }
#else
        if (wb < wa) { word[a] = wb; word[b] = wa; }
#endif
      }
      const int next = d > 1 ? d >> 1 : size;  // pairs up to 32 apart stay within a warp
      if (d > 32 || next > 32) __syncthreads(); else __syncwarp();
    }
  __syncthreads();
$RESULT
}
"""
_FIRST_OF_LINES = """
  for (int p = t; p < $SIZE; p += $THREADS) {
    const int own = $ACROSS ? p % each : p / $LINE, c = $ACROSS ? p / each : p % $LINE;
    const long row = first + own;
    if (row < lines && c < wanted) {
      $OFFSETS
      const int s = own * $LINE + c;
      const long from = $WIDE ? $PLACE : (long)(uint)word[s];
      v[v_at + c * v_step] = x[x_at + from * x_step];
      places[places_at + c * places_step] = from;
    }
  }"""
_ENTRY_OF_LINES = """
  for (int own = t; own < each; own += $THREADS) {
    const long row = first + own;
    if (row < lines) {
      long k = wanted;
      if (wanted < 0) {  // the median: -1 is NaN if there is one, -2 leaves NaN out
        int real = 0;    // entries before the first NaN
        for (int step = $LINE; step > 0; step >>= 1) {
          const int s = own * $LINE + real + step - 1;
          if (real + step <= n && !($FLOAT && ($WIDE ? word[s] : word[s] >> 32) == $LAST_KEY))
            real += step;
        }
        k = wanted == -1 && real < n ? real : (real > 0 ? (real - 1) / 2 : 0);
      }
      $OFFSETS
      const int s = own * $LINE + (int)k;
      const long from = $WIDE ? $PLACE : (long)(uint)word[s];
      v[v_at] = x[x_at + from * x_step];
      places[places_at] = from;
    }
  }"""

_COUNT = """
$KEYS
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(const $SOURCE *x, uint *counts, const long n,
    const long parts, const long span, const long shift$PARAMETERS) {
  __shared__ uint found[$WARPS][256];
  const int t = threadIdx.x;
  const long row = blockIdx.x / parts, part = blockIdx.x % parts;
  const long start = part * span, end = start + span < n ? start + span : n;
  for (int k = t; k < $WARPS * 256; k += $THREADS) found[k / 256][k % 256] = 0;
  __syncthreads();
  $OFFSETS
  for (long c = start + t; c < end; c += $THREADS)
    atomicAdd(&found[t >> 5][($READ >> shift) & 255], 1u);
  __syncthreads();
  if (t >= 256) return;
  uint sum = 0;
  for (int k = 0; k < $WARPS; k++) sum += found[k][t];
  counts[(row * 256 + t) * parts + part] = sum;
}
"""
_ADD_UP = """
LMP_KERNEL __launch_bounds__($THREADS) void $NAME(uint *counts, uint *totals, const long lines,
    const long parts) {
  const int lane = threadIdx.x & 31;
  const long line = (long)blockIdx.x * ($THREADS / 32) + (threadIdx.x >> 5);
  if (line >= lines) return;
  uint before = 0;
  for (long base = 0; base < parts; base += 32) {
    const long c = base + lane;
    const uint own = c < parts ? counts[line * parts + c] : 0;
    uint sum = own;
    for (int d = 1; d < 32; d <<= 1) {
      const uint other = __shfl_up_sync(0xffffffffu, sum, d);
      if (lane >= d) sum += other;
    }
    if (c < parts) counts[line * parts + c] = before + sum - own;
    before += __shfl_sync(0xffffffffu, sum, 31);
  }
  if (lane == 0) totals[line] = before;
}
"""
_MOVE = """
$KEYS
// The sum of what lower threads have; the first 256 of them matter.
static __forceinline__ __device__ uint before(uint own, uint *warps) {
  const int lane = threadIdx.x & 31, w = threadIdx.x >> 5;
  uint sum = own;
  for (int d = 1; d < 32; d <<= 1) {
    const uint other = __shfl_up_sync(0xffffffffu, sum, d);
    if (lane >= d) sum += other;
  }
  if (lane == 31) warps[w] = sum;
  __syncthreads();
  uint lower = 0;
  for (int k = 0; k < 8; k++) lower += k < w ? warps[k] : 0;
  __syncthreads();
  return lower + sum - own;
}
LMP_KERNEL __launch_bounds__($THREADS, 2) void $NAME($POINTERS, const uint *counts,
    const uint *totals, const long n, const long parts, const long span, const long shift,
    const long wanted$PARAMETERS) {
  __shared__ ushort seen[$WARPS][256];
  __shared__ uint start_of[256], warps[$WARPS], place[$ITEMS * $THREADS];
  __shared__ KEY sorted[$ITEMS * $THREADS];
  const int t = threadIdx.x, lane = t & 31, w = t >> 5;
  const uint lower = (1u << lane) - 1;
  const long row = blockIdx.x / parts, part = blockIdx.x % parts;
  const int start = (int)(part * span), end = (int)(start + span < n ? start + span : n);
  $OFFSETS
  $BEGIN
  uint base = before(t < 256 ? totals[row * 256 + t] : 0, warps);  // of the digit t
  if (t < 256) base += counts[(row * 256 + t) * parts + part];
  for (int tile = start; tile < end; tile += $ITEMS * $THREADS) {
    const int here = end - tile < $ITEMS * $THREADS ? end - tile : $ITEMS * $THREADS;
    KEY key[$ITEMS];
    uint rank[$ITEMS];
    #pragma unroll 1
    for (int k = t; k < $WARPS * 256; k += $THREADS) seen[k / 256][k % 256] = 0;
    #pragma unroll
    for (int e = 0; e < $ITEMS; e++) {
      const int p = (w * $ITEMS + e) * 32 + lane;
      const int c = tile + p;
      key[e] = p < here ? $READ : 0;
    }
    __syncthreads();
    #pragma unroll
    for (int e = 0; e < $ITEMS; e++) {
      const bool real = (w * $ITEMS + e) * 32 + lane < here;
      const uint digit = (uint)(key[e] >> shift) & 255;
      uint same = __ballot_sync(0xffffffffu, real);
      #pragma unroll 4
      for (int bit = 0; bit < 8; bit++) {
        const bool set = digit >> bit & 1;
        const uint all = __ballot_sync(0xffffffffu, set);
        same &= set ? all : ~all;
      }
      const uint count = seen[w][digit];
      rank[e] = count + __popc(same & lower);
      __syncwarp();
      if (real && !(same & lower)) seen[w][digit] = (ushort)(count + __popc(same));
      __syncwarp();
    }
    __syncthreads();
    uint sum = 0;
    if (t < 256)
      #pragma unroll 2
      for (int k = 0; k < $WARPS; k++) {
        const uint c = seen[k][t];
        seen[k][t] = (ushort)sum;
        sum += c;
      }
    const uint local = before(sum, warps);
    if (t < 256) {
      #pragma unroll 2
      for (int k = 0; k < $WARPS; k++) seen[k][t] = (ushort)(seen[k][t] + local);
      start_of[t] = base - local;
      base += sum;
    }
    __syncthreads();
    #pragma unroll
    for (int e = 0; e < $ITEMS; e++) {
      const int own = (w * $ITEMS + e) * 32 + lane;
      const int c = tile + own;
      if (own < here) {
        const uint p = seen[w][(uint)(key[e] >> shift) & 255] + rank[e];
        sorted[p] = key[e];
        place[p] = $FROM;
      }
    }
    __syncthreads();
    #pragma unroll 2
    for (int p = t; p < here; p += $THREADS) {
      const KEY k = sorted[p];
      const uint to = (uint)(start_of[(uint)(k >> shift) & 255] + (uint)p);
      const uint own = place[p];
      $WRITE
    }
    __syncthreads();
  }
}
"""
_WRITE_PAIR = "moved[to] = k; from_moved[to] = own;"
_WRITE_RESULT = """if (to < wanted) {
        v[to * v_step] = exact(k) ? value_of(k) : x[own * x_step];
        places[to * places_step] = own;
      }"""


def tile_call(device: Device, lines: Lines, d: dtype, n: int, descending: bool, wanted: int,
              result: str) -> Any:
    """The kernel call that sorts lines of up to TILE entries."""
    line = max(2, 1 << (n - 1).bit_length())
    size = max(line, min(TOGETHER, 1 << max(0, lines.count * line - 1).bit_length()))
    each = size // line
    holes = {**keys(d, descending), "SIZE": size, "LINE": line,
             "ACROSS": int(lines.steps["x"] != 1 and each > 1), "FLOAT": int(d.kind == "f"),
             "PLACE": "(long)at[s]" if d.itemsize == 8 else "0",
             "PARAMETERS": lines.declared(), "X_OFFSET": lines.offsets("x"),
             "OFFSETS": lines.offsets("x", "v", "places")}
    text = _TILE.replace("$RESULT", result)
    return kernel(device, "k_sort_tile", text, -(-lines.count // each), min(1024, size // 2),
                  (2, 0, 1), (lines.count, n, wanted, *lines.integers), **holes)


def radix_calls(device: Device, lines: Lines, d: dtype, n: int, descending: bool, wanted: int,
                ) -> tuple[list[Any], tuple[int, ...]]:
    """(kernel calls, scratch sizes) that sort long lines; program slots 0 to 2 are the values,
    positions and input."""
    width = 8 if d.itemsize == 8 else 4
    items = 4 if width == 8 else 8
    parts, span = _parts(device, lines.count, n, items)
    passes = d.itemsize
    pairs = lines.count * n
    scratch = (pairs * width * (passes > 1), pairs * 4 * (passes > 1),
               pairs * width * (passes > 2), pairs * 4 * (passes > 2),
               lines.count * 256 * parts * 4, lines.count * 256 * 4)
    buffers, counts, totals = ((3, 4), (5, 6)), 7, 8
    grid = lines.count * parts
    made = keys(d, descending)
    calls = []
    for k in range(passes):
        first, last = k == 0, k == passes - 1
        (key, place), (to_key, to_place) = buffers[(k + 1) % 2], buffers[k % 2]
        of_lines = {**made, "PARAMETERS": lines.declared()}
        plain = {**made, "KEYS": f"typedef {'ulong' if width == 8 else 'uint'} KEY;",
                 "PARAMETERS": "", "OFFSETS": ""}  # one text for all dtypes
        integers = (n, parts, span, 8 * k)
        calls.append(kernel(
            device, f"k_radix_count{'_first' * first}", _COUNT, grid, THREADS,
            (2 if first else key, counts), (*integers, *(lines.integers if first else ())),
            **({**of_lines, "SOURCE": "RAW", "READ": "key_of(x[x_at + c * x_step])",
                "OFFSETS": lines.offsets("x")} if first else
               {**plain, "SOURCE": "KEY", "READ": "x[row * n + c]"})))
        digits = lines.count * 256
        calls.append(kernel(device, "k_radix_add", _ADD_UP, -(-digits // (THREADS // 32)), THREADS,
                            (counts, totals), (digits, parts)))
        slots: list[int] = []
        pointers, names, begins = [], [], []
        if not first:
            pointers += ["const KEY *key_in", "const uint *from_in"]
            slots += [key, place]
            begins += ["row * n"] * 2
        if first or last:
            pointers.append("const RAW *x")
            slots.append(2)
            names.append("x")
            begins.append("x_at")
        if last:
            pointers += ["RAW *v", "long *places"]
            slots += [0, 1]
            names += ["v", "places"]
            begins += ["v_at", "places_at"]
        else:
            pointers += ["KEY *moved", "uint *from_moved"]
            slots += [to_key, to_place]
            begins += ["row * n"] * 2
        calls.append(kernel(
            device, f"k_radix_move{'_first' * first}{'_last' * last}", _MOVE, grid, THREADS,
            (*slots, counts, totals), (*integers, wanted, *(lines.integers if names else ())),
            **{**(of_lines if names else plain), "OFFSETS": lines.offsets(*names) if names else "",
               "POINTERS": ", ".join(pointers), "ITEMS": items,
               "BEGIN": " ".join(f"{p.split('*')[-1]} += {at};" for p, at in zip(
                   pointers, begins)),
               "READ": "key_of(x[c * x_step])" if first else "key_in[c]",
               "FROM": "(uint)c" if first else "from_in[c]",
               "WRITE": _WRITE_RESULT if last else _WRITE_PAIR}))
    return calls, scratch


def order_calls(device: Device, n: int, bits: int, source: int, pairs: Sequence[tuple[int, int]],
                counts: int, totals: int) -> tuple[list[Any], tuple[int, int]]:
    """(kernel calls, program slots of the result) that sort `n` keys of `bits` bits, uint32 in the
    slot `source`, stably. The results are the keys in order and, uint32 too, where each was;
    `pairs` are two pairs of slots of that size, and `order_scratch` says that of `counts` and
    `totals`."""
    parts, span = _parts(device, 1, n, 8)
    holes = {"KEYS": "typedef uint KEY;", "PARAMETERS": "", "OFFSETS": ""}
    calls: list[Any] = []
    result = (source, -1)
    for k in range(-(-bits // 8)):
        (key, place), to = result, pairs[k % 2]
        integers = (n, parts, span, 8 * k)
        calls.append(kernel(device, "k_radix_count", _COUNT, parts, THREADS, (key, counts),
                            integers, SOURCE="KEY", READ="x[row * n + c]", **holes))
        calls.append(kernel(device, "k_radix_add", _ADD_UP, -(-256 // (THREADS // 32)), THREADS,
                            (counts, totals), (256, parts)))
        names = ["const KEY *key_in", "const uint *from_in", "KEY *moved", "uint *from_moved"]
        slots = [key, place, *to]
        if k == 0:
            del names[1], slots[1]
        calls.append(kernel(
            device, f"k_radix_move{'_keys' * (k == 0)}", _MOVE, parts, THREADS,
            (*slots, counts, totals), (*integers, n), POINTERS=", ".join(names), ITEMS=8, BEGIN="",
            READ="key_in[c]", FROM="from_in[c]" if k else "(uint)c", WRITE=_WRITE_PAIR, **holes))
        result = to
    return calls, result


def order_scratch(device: Device, n: int) -> tuple[int, int]:
    """Bytes of `counts` and `totals` of `order_calls`."""
    return _parts(device, 1, n, 8)[0] * 256 * 4, 256 * 4


def _parts(device: Device, lines: int, n: int, items: int) -> tuple[int, int]:
    """(parts of a line that blocks sort side by side, entries of each)."""
    tiles = -(-n // (items * THREADS))
    per_part = max(1, tiles * lines // (4 * device.units))
    return -(-tiles // per_part), per_part * items * THREADS


def _built(device: Device, call: OpCall, descending: bool, wanted: int,
           result: str = _FIRST_OF_LINES) -> Launch | None:
    m = call.args["input"]
    if m.dtype.kind == "c" or not call.outputs[0].numel:
        return None
    d = call.dim % m.ndim if m.ndim else 0
    n = m.shape[d] if m.ndim else 1
    lines = Lines(d, x=m, v=call.outputs[0], places=call.outputs[1])
    sizes = [o.span for o in call.outputs]
    if n <= TILE:
        calls, scratch = [tile_call(device, lines, m.dtype, n, descending, wanted, result)], ()
    elif n >= LONGEST or result is not _FIRST_OF_LINES:
        return None
    else:
        calls, scratch = radix_calls(device, lines, m.dtype, n, descending, wanted)
    return make_launch(device, calls, "s", sizes, scratch, [f"cuda.{call.op}"])


def sort(device: Device, call: OpCall) -> Launch | None:
    """sort(input, dim, descending): a stable sort of every line."""
    m = call.args["input"]
    return _built(device, call, bool(call.descending), m.shape[call.dim] if m.ndim else 1)


def topk(device: Device, call: OpCall) -> Launch | None:
    """topk(input, k, dim, largest): the first k of the sorted lines."""
    return _built(device, call, bool(call.largest), call.k if call.args["input"].ndim else 1)


def entry_at(device: Device, call: OpCall) -> Launch | None:
    """entry_at(input, k, dim): one entry of the sorted lines. Long ones are the op's composition
    over `sort`."""
    wanted = {"median": -1, "nanmedian": -2}.get(call.k, call.k)
    return _built(device, call, False, wanted, _ENTRY_OF_LINES)
