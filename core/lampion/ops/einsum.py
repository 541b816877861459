"""einsum: parse the equation, choose an order of pairs, contract each pair by one matrix product.

Floor 3. Labels are letters; the dims of an ellipsis get the labels -1, -2, ... from the right.
"""

from __future__ import annotations

import math
from functools import lru_cache

from .contract import gemm
from .registry import composite

# ---------------------------------------------------------------- parsing

def _fail(text):
    raise RuntimeError(f"einsum(): {text}")


def _terms(text, operand):
    """Labels of one operand: letters, and "..." for an ellipsis."""
    out, k = [], 0
    while k < len(text):
        c = text[k]
        if c == ".":
            where = f"for operand {operand}" if operand is not None else "in the output"
            if text[k:k + 3] != "...":
                _fail(f"found '.' {where} that is not part of any ellipsis")
            if "..." in out:
                _fail(f"found '.' {where} for which an ellipsis was already found")
            out.append("...")
            k += 3
            continue
        if not (c.isascii() and c.isalpha()):
            _fail(f"invalid subscript given at index {k} in the equation string, subscripts must "
                  "be in [a-zA-Z]")
        out.append(c)
        k += 1
    return out


@lru_cache(1024)
def parse(equation, ranks):
    """(labels of every operand, labels of the output), ellipses resolved for these ranks."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    parts = left.split(",")
    if len(parts) > len(ranks):
        _fail("fewer operands were provided than specified in the equation")
    if len(parts) < len(ranks):
        _fail("more operands were provided than specified in the equation")
    terms = [_terms(p, k) for k, p in enumerate(parts)]
    return resolve(terms, _terms(right, None) if arrow else None, ranks)


def resolve(terms, output, ranks):
    """Replace ellipses by labels of their dims and derive the implicit output."""
    labels, widest = [], 0
    for k, (term, rank) in enumerate(zip(terms, ranks)):
        rest = rank - len([t for t in term if t != "..."])
        if "..." not in term:
            if rest:
                _fail(f"the number of subscripts in the equation ({len(term)}) does not match the "
                      f"number of dimensions ({rank}) for operand {k} and no ellipsis was given")
        elif rest < 0:
            _fail(f"the number of subscripts in the equation ({len(term) - 1}) is more than the "
                  f"number of dimensions ({rank}) for operand {k}")
        widest = max(widest, rest if "..." in term else 0)
        labels.append(_spread(term, rest))
    if output is None:
        flat = [t for term in labels for t in term]
        once = sorted({t for t in flat if isinstance(t, str) and flat.count(t) == 1})
        return labels, list(range(-widest, 0)) + once
    seen = {t for term in labels for t in term}
    for t in output:
        if t == "...":
            continue
        if output.count(t) > 1:
            _fail(f"output subscript {t} appears more than once in the output")
        if t not in seen:
            _fail(f"output subscript {t} does not appear in the equation for any input operand")
    return labels, _spread(output, widest)


def _spread(term, rest):
    out = []
    for t in term:
        out += range(-rest, 0) if t == "..." else [t]
    return out


def _sublists(args):
    """The operand / sublist form: op1, [0, 1], op2, [1, 2], ..., [output]."""
    operands, terms = list(args[0::2]), list(args[1::2])
    output = None
    if len(args) % 2:
        output = _letters(operands.pop())
    return operands, [_letters(t) for t in terms], output


def _letters(numbers):
    out = []
    for n in numbers:
        if n is Ellipsis:
            out.append("...")
        elif not 0 <= n < 52:
            _fail(f"not all subscripts were within the valid range [0, 52): {n}")
        else:
            out.append(chr(ord("A") + n) if n < 26 else chr(ord("a") + n - 26))
    return out


# ---------------------------------------------------------------- contraction

class _Term:
    """An operand with one distinct label per dim."""

    def __init__(self, tensor, labels):
        self.tensor, self.labels = tensor, labels

    def size(self, label):
        return self.tensor.meta.shape[self.labels.index(label)]

    def without(self, drop):
        """Summed over the dims of these labels."""
        if not drop:
            return self
        dims = tuple(self.labels.index(t) for t in drop)
        return _Term(self.tensor.sum(dims), [t for t in self.labels if t not in drop])

    def arranged(self, labels):
        """The tensor with its dims in this order; labels it lacks become dims of size 1."""
        have = [t for t in labels if t in self.labels]
        order = [self.labels.index(t) for t in have]
        x = self.tensor if order == list(range(len(order))) else self.tensor.permute(order)
        for k, t in enumerate(labels):
            if t not in self.labels:
                x = x.unsqueeze(k)
        return x


def _distinct(tensor, labels, operand):
    """Repeated labels of one operand read its diagonal."""
    labels = list(labels)
    k = 0
    while k < len(labels):
        first = labels.index(labels[k])
        if first == k:
            k += 1
            continue
        a, b = tensor.meta.shape[first], tensor.meta.shape[k]
        if a != b:
            _fail(f"subscript {labels[k]} is repeated for operand {operand} but the sizes don't "
                  f"match, {b} != {a}")
        label = labels[k]
        tensor = tensor.diagonal(0, first, k)
        labels = labels[:first] + labels[first + 1:k] + labels[k + 1:] + [label]
        k = 0
    return _Term(tensor, labels)


def _sizes(terms):
    """The size of every label; a size of 1 broadcasts."""
    sizes = {}
    for k, term in enumerate(terms):
        for label, n in zip(term.labels, term.tensor.meta.shape):
            have = sizes.setdefault(label, n)
            if have == 1:
                sizes[label] = n
            elif n not in (1, have):
                if isinstance(label, int):
                    _fail(f"dimension {label} covered by ellipsis in operand {k} has size {n} "
                          "which does not broadcast with previously seen ellipsis with size "
                          f"{have} for the respective dimension")
                _fail(f"subscript {label} has size {n} for operand {k} which does not broadcast "
                      f"with previously seen size {have}")
    return sizes


def _squeezed(term, sizes):
    """Without dims of size 1 that broadcast against a larger size elsewhere."""
    drop = [t for t, n in zip(term.labels, term.tensor.meta.shape) if n == 1 and sizes[t] != 1]
    if not drop:
        return term
    dims = tuple(term.labels.index(t) for t in drop)
    return _Term(term.tensor.squeeze(*dims), [t for t in term.labels if t not in drop])


def contract_pair(a, b, needed):
    """The sum of products of two terms over the labels that nobody needs any more."""
    keep = set(needed)
    a = a.without([t for t in a.labels if t not in keep and t not in b.labels])
    b = b.without([t for t in b.labels if t not in keep and t not in a.labels])
    both = [t for t in a.labels if t in b.labels]
    batch = [t for t in both if t in keep]
    inner = [t for t in both if t not in keep]
    rows = [t for t in a.labels if t not in both]
    columns = [t for t in b.labels if t not in both]
    labels = batch + rows + columns
    if not inner:
        return _Term(a.arranged(labels) * b.arranged(labels), labels)
    lead = [a.size(t) for t in batch]
    k = math.prod(a.size(t) for t in inner)
    m, n = math.prod(a.size(t) for t in rows), math.prod(b.size(t) for t in columns)
    x = a.arranged(batch + rows + inner).reshape(*lead, m, k)
    y = b.arranged(batch + columns + inner).reshape(*lead, n, k)
    shape = lead + [a.size(t) for t in rows] + [b.size(t) for t in columns]
    return _Term(gemm.fn(x, y, False, True).reshape(shape), labels)


def order_of_pairs(terms, sizes, output):
    """Positions of the pairs to contract, one after the other: opt_einsum's order where it is
    installed, else the pair with the smallest result first."""
    if len(terms) > 2:
        try:
            from opt_einsum.paths import optimal
        except ImportError:
            pass
        else:
            if len(terms) <= 8:
                path = optimal([frozenset(t.labels) for t in terms], frozenset(output), sizes,
                               None)
                return [tuple(sorted(p)) for p in path if len(p) == 2]
    sets, path = [set(t.labels) for t in terms], []
    while len(sets) > 1:
        best = None
        for i in range(len(sets)):
            for j in range(i + 1, len(sets)):
                rest = set(output).union(*(s for k, s in enumerate(sets) if k not in (i, j)))
                result = (sets[i] | sets[j]) & rest
                cost = (math.prod(sizes[t] for t in result)
                        - math.prod(sizes[t] for t in sets[i])
                        - math.prod(sizes[t] for t in sets[j]))
                if best is None or cost < best[0]:
                    best = (cost, i, j, result)
        _, i, j, result = best
        path.append((i, j))
        sets = [s for k, s in enumerate(sets) if k not in (i, j)] + [result]
    return path


@composite(out=False, replay=True, samples="""
    "bij,bjk->bik", f(2, 3, 4), f(2, 4, 2)
    "ij->ji", f(2, 3).transposed
    "ii->i", f(3, 3)
    "ij,j", f(2, 3), f(3)
    "...i,...i->...", f(2, 3), f(3)
    "i,j,k->ijk", f(2), f(3), f(2)
    "ij->", f(2, 3)
    f(2, 3), [0, 1], f(3, 2), [1, 2], [0, 2]
""")
def einsum(*args):
    """Sum of products in Einstein's notation: einsum("bij,bjk->bik", a, b).

    Takes an equation and tensors, or tensors and lists of dim numbers in turn. "..." stands for
    any dims, a repeated label for the diagonal; without "->" the labels that occur once make the
    result, in alphabetical order. RuntimeError for equations that do not fit.
    """
    if not args:
        raise ValueError("einsum(): must specify the equation string and at least one operand, or "
                         "at least one operand and its subscripts list")
    if isinstance(args[0], str):
        equation, operands = args[0], args[1:]
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = operands[0]
        if not operands:
            raise ValueError("einsum(): must specify the equation string and at least one operand, "
                             "or at least one operand and its subscripts list")
        labels, output = parse(equation, tuple(t.meta.ndim for t in operands))
    else:
        operands, terms, output = _sublists(args)
        labels, output = resolve(terms, output, [t.meta.ndim for t in operands])
    terms = [_distinct(t, x, k) for k, (t, x) in enumerate(zip(operands, labels))]
    sizes = _sizes(terms)
    if len(terms) > 1:
        terms = [_squeezed(t, sizes) for t in terms]
    for i, j in order_of_pairs(terms, sizes, output):
        rest = [t for k, t in enumerate(terms) if k not in (i, j)]
        needed = set(output).union(*(t.labels for t in rest))
        terms = rest + [contract_pair(terms[i], terms[j], needed)]
    last = terms[0]
    last = last.without([t for t in last.labels if t not in output])
    return last.arranged(output)
