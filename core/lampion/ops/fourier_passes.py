"""Fourier transforms as kernel programs, for every device that has no library for them.

Floor 3; imports base, ir, runtime. A line of n = r1 r2 ... points is transformed by one kernel per
radix in Stockham's order, which leaves the result sorted: a grid point reads r elements, combines
them in registers, turns the sums by roots of unity and writes r elements. Sizes with a prime
factor above `RADICES` go through Bluestein's identity jk = (j^2 + k^2 - (j-k)^2) / 2, which makes
a transform a convolution of a smooth size. Roots of unity are made on the device at the start of
every program, from angles reduced exactly in integers.

Sources: C. Van Loan, Computational Frameworks for the Fast Fourier Transform (1992), sections 1.7
and 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..base import dtype as dt
from ..base.meta import contiguous_strides
from ..ir import expr as E
from ..ir.kernel import Program, Store
from ..runtime.lowering import Nest, collapse

RADICES = (8, 4, 2, 3, 5, 7, 11, 13)


def factors(n):
    """Radices whose product is n, or None if a prime factor is too large."""
    found = []
    for r in RADICES:
        while n % r == 0:
            found.append(r)
            n //= r
    return (found or [1]) if n == 1 else None


def _int(n):
    return E.const(n, dt.int64)


# ---------------------------------------------------------------- arithmetic on (re, im) pairs

def add(a, b):
    """a + b."""
    return a[0] + b[0], a[1] + b[1]


def sub(a, b):
    """a - b."""
    return a[0] - b[0], a[1] - b[1]


def mul(a, b):
    """a b."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def turn(a, k, r):
    """a exp(2 pi i k / r), without multiplication where the angle is a multiple of pi / 2."""
    k %= r
    if k == 0:
        return a
    if 4 * k == r:
        return -a[1], a[0]
    if 2 * k == r:
        return -a[0], -a[1]
    if 4 * k == 3 * r:
        return a[1], -a[0]
    angle = 2 * math.pi * k / r
    return mul(a, (E.const(math.cos(angle)), E.const(math.sin(angle))))


def butterfly(xs, sign):
    """The transform of a few values: halves for even counts, for odd ones sums and differences of
    the values opposite each other."""
    r = len(xs)
    if r == 1:
        return xs
    if r % 2 == 0:
        even, odd = butterfly(xs[0::2], sign), butterfly(xs[1::2], sign)
        odd = [turn(x, sign * k, r) for k, x in enumerate(odd)]
        return [add(a, b) for a, b in zip(even, odd)] + [sub(a, b) for a, b in zip(even, odd)]
    half = range(1, r // 2 + 1)
    sums = {j: add(xs[j], xs[r - j]) for j in half}
    differences = {j: sub(xs[j], xs[r - j]) for j in half}
    total = xs[0]
    for j in half:
        total = add(total, sums[j])
    out = [total] + [None] * (r - 1)
    for k in half:
        even, odd = xs[0], None
        for j in half:
            angle = 2 * math.pi * (j * k % r) / r
            c, s = math.cos(angle), sign * math.sin(angle)
            even = add(even, (sums[j][0] * c, sums[j][1] * c))
            term = (-differences[j][1] * s, differences[j][0] * s)  # i s times the difference
            odd = term if odd is None else add(odd, term)
        out[k], out[r - k] = add(even, odd), sub(even, odd)
    return out


# ---------------------------------------------------------------- lines in memory

@dataclass(frozen=True)
class Lines:
    """Lines of elements in a program slot: strides of the dims that count the lines, and the step
    from one element of a line to the next."""

    slot: int
    dtype: dt.dtype
    strides: tuple[int, ...]
    step: int


class Pass(Nest):
    """A kernel over lines: its dims are those that count the lines, then `inside` ones."""

    def __init__(self, name, sizes, inside, real):
        super().__init__(name, (*sizes, *inside), compute=real, merge=False)
        self.rank, self.slots = len(sizes), []

    def on(self, lines, writing=False):
        """The operand for lines; element j is at its offset + j * step."""
        strides = (*lines.strides, *(0,) * (len(self.shape) - self.rank))
        o = self.output(lines, strides) if writing else self.input(lines, strides)
        self.slots.append(lines.slot)
        step = self.params.stride(lines.step)
        return o, lambda j: o.offset + j * step

    def at(self, k):
        """The coordinate of the k-th dim inside a line."""
        return self.coord(self.rank + k)

    def put(self, o, index, value, mask=None):
        """A statement that stores a value at an element index."""
        return Store(o.slot, self._index(index), self._into(o, value),
                     None if mask is None else self.typed(mask))


def read_plain(lines):
    """A reader: binds to a pass, then gives element j as a pair."""
    def bind(n):
        o, at = n.on(lines)

        def get(j, mask=None):
            v = o.at(at(j)) if mask is None else o.at(at(j), mask=mask)
            if lines.dtype.kind != "c":
                return v, E.const(0.0)
            return E.real(v), E.imag(v)

        return get

    return bind


def read_hermitian(lines, size):
    """Elements 0 .. size-1 of lines that are stored up to size // 2: the rest are conjugates."""
    def bind(n):
        o, at = n.on(lines)
        last, half = n.of(size), n.of(size // 2)

        def get(j):
            mirrored = E.op("gt", j, half)
            v = o.at(at(E.select(mirrored, last - j, j)))
            return E.real(v), E.select(mirrored, -E.imag(v), E.imag(v))

        return get

    return bind


def read_product(lines, factor):
    """Elements of lines times those of one other line."""
    def bind(n):
        get, (o, at) = read_plain(lines)(n), n.on(factor)

        def product(j):
            v = o.at(at(j))
            return mul(get(j), (E.real(v), E.imag(v)))

        return product

    return bind


def write_lines(lines, keep=None, scale=(0, 1)):
    """A writer: binds to a pass, then gives the statement that stores a pair at k. All statements
    go into one stage, so that what a butterfly shares is computed once. A real target takes the
    real part; with `keep`, only elements below it are written; `scale` (mode, n) divides by 1,
    sqrt(n) or n."""
    mode, count = scale

    def bind(n):
        o, at = n.on(lines, True)
        limit = None if keep is None else n.of(keep)
        divisor = n.of(count) if mode else None

        def put(k, v):
            if mode:
                d = E.cast(divisor, n.compute)
                d = 1.0 / (E.sqrt(d) if mode == 1 else d)
                v = v[0] * d, v[1] * d
            value = E.complex_(*v) if lines.dtype.kind == "c" else v[0]
            return n.put(o, at(k), value, None if limit is None else E.op("lt", k, limit))

        return put

    return bind


# ---------------------------------------------------------------- programs

class Builder:
    """Collects the kernel calls and scratch buffers of one program of two slots, out and in."""

    def __init__(self, complex_dtype, device):
        self.dtype, self.real = complex_dtype, complex_dtype.to_real()
        caps = device.backend.capabilities(device.index or 0)
        self.wide = dt.float64 if dt.float64 in caps.dtypes else self.real
        self.calls, self.scratch, self.named = [], [], {}

    def buffer(self, name, count):
        """The slot of a scratch buffer for `count` complex numbers; one per name and size."""
        found = self.named.get((name, count))
        if found is None:
            found = self.named[name, count] = 2 + len(self.scratch)
            self.scratch.append(count * self.dtype.itemsize)
        return found

    def dense(self, name, sizes, n):
        """Scratch lines of n elements without gaps."""
        strides = tuple(s * n for s in contiguous_strides(sizes))
        return Lines(self.buffer(name, math.prod(sizes) * n), self.dtype, strides, 1)

    def program(self):
        """The finished program."""
        return Program(tuple(self.calls), tuple(self.scratch))

    def line(self, name, n, rank):
        """One scratch line, the same for all lines of `rank` dims."""
        return Lines(self.buffer(name, n), self.dtype, (0,) * rank, 1)

    def fill(self, name, count, of, value, rank):
        """A line of `count` numbers exp(2 pi i t / of), t = value(k), made once per program."""
        known = (f"{name}{of}", count) in self.named
        line = self.line(f"{name}{of}", count, rank)
        if known:
            return line
        n = Pass(f"fft_{name}", (), (count,), self.wide)
        o, at = n.on(Lines(line.slot, self.dtype, (), 1), True)
        n.start()
        k, whole = n.at(0), n.of(of)
        t = value(k, n)
        quarter = E.idiv(t * _int(4) + E.idiv(whole, _int(2)), whole)  # nearest multiple of pi / 2
        rest = E.cast(t * _int(4) - quarter * whole, self.wide)
        angle = rest * (math.pi / 2) / E.cast(whole, self.wide)
        c, s = E.cos(angle), E.sin(angle)
        q = quarter & _int(3)
        swap, flip = E.ne(q & _int(1), 0), E.op("ge", q, 2)
        re, im = E.select(swap, -s, c), E.select(swap, c, s)
        re, im = E.select(flip, -re, re), E.select(flip, -im, im)
        n.store_at(o, at(k), E.complex_(re, im))
        self.calls.append(n.call(n.slots))
        return line

    def transform(self, sizes, n, read, write, sign):
        """Lines of n points from a reader to a writer."""
        radices = factors(n)
        if radices is None:
            self.bluestein(sizes, n, read, write, sign)
            return
        roots = None
        if len(radices) > 1:
            roots = self.fill("roots", n, n, lambda k, _: k, len(sizes))
        done = 1
        for k, r in enumerate(radices):
            last = k == len(radices) - 1
            target = None if last else self.dense("ab"[k % 2], sizes, n)
            put = write if last else write_lines(target)
            self.stage(sizes, n, r, done, read, put, roots, sign)
            read = None if last else read_plain(target)
            done *= r

    def stage(self, sizes, n, r, done, read, write, roots, sign):
        """One radix: element j1 m + j2 of `done` interleaved transforms goes to j2 r + k1."""
        m = n // (r * done)
        k = Pass(f"fft_radix{r}", sizes, (m, done), self.real)
        put, get = write(k), read(k)
        table, root = k.on(roots) if m > 1 else (None, None)
        k.start()
        j2, q = k.at(0), k.at(1)
        block, p = k.of(m * done), k.of(done)
        base = j2 * p + q
        xs = butterfly([get(base + _int(j1) * block) for j1 in range(r)], sign)
        if m > 1:
            for k1 in range(1, r):
                w = table.at(root(j2 * (p * _int(k1))))
                xs[k1] = mul(xs[k1], (E.real(w), E.imag(w) if sign > 0 else -E.imag(w)))
        base = j2 * (p * _int(r)) + q
        k.stage(*[put(base + p * _int(k1), x) for k1, x in enumerate(xs)], inner=False)
        self.calls.append(k.call(k.slots))

    def bluestein(self, sizes, n, read, write, sign):
        """A transform as a convolution with the chirp exp(pi i j^2 / n). That is one of sign -1;
        one of sign +1 conjugates on the way in and out."""
        rank = len(sizes)
        size = 1 << (2 * n - 2).bit_length()

        def square(j, pass_):
            whole = pass_.of(2 * n)
            return j * j - E.idiv(j * j, whole) * whole

        def around(j, pass_):
            other = pass_.of(size) - j
            near = E.minimum(j, other)
            # indices between n and size - n are never reached by a product of two short lines
            return square(E.minimum(near, pass_.of(n)), pass_)

        chirp = self.fill("chirp", n, 2 * n, square, rank)
        known = (f"filter{n}", size) in self.named
        spectrum = self.line(f"filter{n}", size, rank)
        if not known:
            around_line = self.fill("around", size, 2 * n, around, 0)
            target = Lines(spectrum.slot, self.dtype, (), 1)
            self.transform((), size, read_plain(around_line), write_lines(target), -1)
        padded = self.dense("padded", sizes, size)
        self.transform(sizes, size, self.chirped(read, chirp, n, sign), write_lines(padded), -1)
        self.transform(sizes, size, read_product(padded, spectrum),
                       self.unchirped(write, chirp, n, size, sign), 1)

    @staticmethod
    def chirped(read, chirp, n, sign):
        """A reader of elements (conjugated for sign +1) times the conjugate chirp, then zeros."""
        def bind(k):
            get, (o, at) = read(k), k.on(chirp)
            count = k.of(n)

            def value(j):
                inside = E.op("lt", j, count)
                j = E.select(inside, j, _int(0))
                v, w = get(j), o.at(at(j))
                v = (v[0], -v[1]) if sign > 0 else v
                v = mul(v, (E.real(w), -E.imag(w)))
                return E.select(inside, v[0], 0.0), E.select(inside, v[1], 0.0)

            return value

        return bind

    @staticmethod
    def unchirped(write, chirp, n, size, sign):
        """A writer of the first n elements, turned back, scaled and conjugated for sign +1."""
        def bind(k):
            put, (o, at) = write(k), k.on(chirp)
            scale = k.of(size)

            def store(j, v):
                w = o.at(at(E.minimum(j, k.of(n - 1))))
                v = mul(v, (E.real(w), -E.imag(w)))
                d = 1.0 / E.cast(scale, k.compute)
                return put(j, (v[0] * d, -v[1] * d if sign > 0 else v[1] * d))

            return store

        return bind


def lines_of(slot, m, shape, strides, d):
    """The lines of an array along dim d."""
    rest = [j for j in range(len(shape)) if j != d]
    return Lines(slot, m, tuple(strides[j] for j in rest), strides[d])


def program(x, out, steps, sign, mode):
    """The program of a transform of metas `x` to `out` over `steps`: (dim, points, how to read,
    how many to write) in order, "hermitian" reading extends a stored half. `mode` is the
    normalisation over all steps (0 none, 1 by the root, 2 by the number of points)."""
    complex_dtype = out.dtype.to_complex()
    b = Builder(complex_dtype, out.device)
    count = math.prod(points for _, points, _, _ in steps)
    slot, dtype, shape, strides = 1, x.dtype, x.shape, x.strides
    for k, (d, points, how, keep) in enumerate(steps):
        last = k == len(steps) - 1
        target = shape[:d] + (keep,) + shape[d + 1:]
        source = lines_of(slot, dtype, shape, strides, d)
        if last:
            sink = lines_of(0, out.dtype, target, out.strides, d)
        else:
            slot = b.buffer("xy"[k % 2], math.prod(target))
            dtype, strides = complex_dtype, contiguous_strides(target)
            sink = lines_of(slot, dtype, target, strides, d)
        sizes = [n for j, n in enumerate(shape) if j != d]
        sizes, (into, outof) = collapse(sizes, [sink.strides, source.strides])
        source = Lines(source.slot, source.dtype, tuple(outof), source.step)
        sink = Lines(sink.slot, sink.dtype, tuple(into), sink.step)
        read = read_hermitian(source, points) if how == "hermitian" else read_plain(source)
        part = None if keep == points and factors(points) else keep  # Bluestein's lines are longer
        write = write_lines(sink, part, (mode if last else 0, count))
        b.transform(tuple(sizes), points, read, write, sign)
        shape = target
    return b.program()
