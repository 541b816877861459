"""ONNX operators on strings, which are NumPy arrays of objects on the host. Floor 7; imports this
package."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..table import operator
from ..values import from_array, to_array


def _each(x: Any, fn: Callable[[str], Any], kind: Any = object) -> Any:
    out = np.empty(x.shape, kind)
    for k, s in enumerate(x.reshape(-1)):
        out.reshape(-1)[k] = fn(s)
    return out


@operator("StringConcat", host_only=True)
def string_concat(X: Any, Y: Any) -> Any:
    """Strings of two arrays joined, element by element."""
    return np.asarray(np.add(X, Y), object)


@operator("RegexFullMatch", host_only=True)
def regex_full_match(X: Any, *, pattern: str = "", device: Any = None) -> Any:
    """Whether a pattern matches the whole of each string."""
    found = re.compile(pattern)
    return from_array(_each(X, lambda s: found.fullmatch(s) is not None, np.bool_), device)


@operator("StringSplit", host_only=True)
def string_split(X: Any, *, delimiter: str | None = None, maxsplit: int | None = None,
                 device: Any = None) -> Any:
    """The parts of each string, filled up with empty ones, and how many there are."""
    parts = [s.split(delimiter or None, -1 if maxsplit is None else maxsplit)
             for s in X.reshape(-1)]
    width = max(map(len, parts), default=0)
    out = np.full((len(parts), width), "", object)
    for k, row in enumerate(parts):
        out[k, :len(row)] = row
    counts = np.array([len(p) for p in parts], np.int64).reshape(X.shape)
    return out.reshape(*X.shape, width), from_array(counts, device)


@operator("StringNormalizer", host_only=True)
def string_normalizer(X: Any, *, case_change_action: str = "NONE", is_case_sensitive: int = 0,
                      locale: str | None = None, stopwords: Sequence[str] | None = None) -> Any:
    """Strings without stop words, in another case; a row of them may get shorter."""
    change: Callable[[str], str] = {"LOWER": str.lower, "UPPER": str.upper}.get(
        case_change_action, str)
    stops = set(stopwords or ())
    if not is_case_sensitive:
        stops = set(map(change, stops)) if case_change_action != "NONE" else {
            s.lower() for s in stops}

    def known(s: str) -> bool:
        if is_case_sensitive:
            return s in stops
        return (change(s) if case_change_action != "NONE" else s.lower()) in stops

    def plain(s: str) -> str:
        letters = unicodedata.normalize("NFKD", s)
        return s if s.isascii() else "".join(c for c in letters if not unicodedata.combining(c))

    if X.ndim > 2 or (X.ndim == 2 and X.shape[0] != 1):
        raise RuntimeError(f"StringNormalizer: shape {list(X.shape)} is no row of strings")
    kept = [change(plain(s)) for s in X.reshape(-1) if not known(s)] or [""]
    row = np.array(kept, object)
    return row.reshape(1, -1) if X.ndim == 2 else row


@operator("TfIdfVectorizer", host_only=True)
def tfidf_vectorizer(X: Any, *, max_gram_length: int, max_skip_count: int, min_gram_length: int,
                     mode: str, ngram_counts: Sequence[int], ngram_indexes: Sequence[int],
                     pool_int64s: Sequence[int] | None = None,
                     pool_strings: Sequence[str] | None = None,
                     weights: Sequence[float] | None = None, device: Any = None) -> Any:
    """How often n-grams of a pool occur in each row, weighted."""
    pool = list(pool_strings if pool_strings is not None else pool_int64s or ())
    columns: dict[tuple[Any, ...], int] = {}
    ends = [*ngram_counts, len(pool)]
    for n, (start, end) in enumerate(pairwise(ends), 1):
        for k in range(start, end, n):
            columns.setdefault(tuple(pool[k:k + n]), len(columns))
    array = to_array(X)
    rows = array.reshape(1, -1) if array.ndim < 2 else array
    counts = np.zeros((len(rows), max(ngram_indexes, default=-1) + 1), np.float32)
    for r, row in enumerate(rows):
        items = [v.item() if hasattr(v, "item") else v for v in row]
        for n in range(min_gram_length, max_gram_length + 1):
            for skip in range(1, (max_skip_count if n > 1 else 0) + 2):
                for k in range(len(items) - (n - 1) * skip):
                    at = columns.get(tuple(items[k:k + (n - 1) * skip + 1:skip]))
                    if at is not None:
                        counts[r, ngram_indexes[at]] += 1
    factors = np.ones(counts.shape[1], np.float32)
    if weights is not None:
        for at, w in zip(ngram_indexes, weights):
            factors[at] = w
    if mode == "IDF":
        counts = (counts > 0) * factors
    elif mode == "TFIDF":
        counts = counts * factors
    out = counts.astype(np.float32)
    return from_array(out[0] if array.ndim < 2 else out, device)


