"""Nested containers seen as trees: flatten to a list of leaves and a spec, map, rebuild.

Lists, tuples, named tuples, dicts, OrderedDicts, defaultdicts and deques are nodes; everything
else is a leaf, unless its type is registered. Names and results are PyTorch's.

Floor 7; imports nothing of lampion.
"""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = [
    "GetAttrKey",
    "LeafSpec",
    "MappingKey",
    "SequenceKey",
    "TreeSpec",
    "key_get",
    "keystr",
    "register_pytree_node",
    "tree_all",
    "tree_all_only",
    "tree_any",
    "tree_any_only",
    "tree_flatten",
    "tree_flatten_with_path",
    "tree_is_leaf",
    "tree_iter",
    "tree_leaves",
    "tree_leaves_with_path",
    "tree_map",
    "tree_map_",
    "tree_map_only",
    "tree_map_only_",
    "tree_map_with_path",
    "tree_structure",
    "tree_unflatten",
]

IsLeaf = Callable[[Any], bool] | None


class SequenceKey(NamedTuple):
    """Step of a path into a sequence."""

    idx: int

    def __str__(self) -> str:
        return f"[{self.idx!r}]"

    def get(self, parent: Any) -> Any:
        """The child of `parent` at this step."""
        return parent[self.idx]


class MappingKey(NamedTuple):
    """Step of a path into a mapping."""

    key: Any

    def __str__(self) -> str:
        return f"[{self.key!r}]"

    def get(self, parent: Any) -> Any:
        """The child of `parent` at this step."""
        return parent[self.key]


class GetAttrKey(NamedTuple):
    """Step of a path through an attribute."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"

    def get(self, parent: Any) -> Any:
        """The child of `parent` at this step."""
        return getattr(parent, self.name)


@dataclass(frozen=True)
class _Node:
    """How one container type is taken apart and put together."""

    flatten: Callable[[Any], tuple[list[Any], Any]]
    unflatten: Callable[[Iterable[Any], Any], Any]
    keys: Callable[[Any], list[Any]] | None = None

    @property
    def flatten_fn(self) -> Callable[[Any], tuple[list[Any], Any]]:
        """`flatten`, as PyTorch calls it; so the next two."""
        return self.flatten

    @property
    def unflatten_fn(self) -> Callable[[Iterable[Any], Any], Any]:
        return self.unflatten

    @property
    def flatten_with_keys_fn(self) -> Callable[[Any], Any] | None:
        """Takes a container apart into (key, child) pairs and its context."""
        keys = self.keys
        if keys is None:
            return None

        def flatten_with_keys(tree: Any) -> Any:
            children, context = self.flatten(tree)
            return list(zip(keys(tree), children)), context

        return flatten_with_keys


def _range_keys(tree: Any) -> list[Any]:
    return [SequenceKey(i) for i in range(len(tree))]


def _mapping_keys(tree: Any) -> list[Any]:
    return [MappingKey(key) for key in tree]


def _unflatten_defaultdict(children: Iterable[Any], context: Any) -> Any:
    factory, keys = context
    return defaultdict(factory, zip(keys, children))


_NODES: dict[type, _Node] = {
    list: _Node(lambda t: (t, None), lambda c, _: list(c), _range_keys),
    tuple: _Node(lambda t: (list(t), None), lambda c, _: tuple(c), _range_keys),
    dict: _Node(
        lambda t: (list(t.values()), list(t)), lambda c, k: dict(zip(k, c)), _mapping_keys
    ),
    OrderedDict: _Node(
        lambda t: (list(t.values()), list(t)), lambda c, k: OrderedDict(zip(k, c)), _mapping_keys
    ),
    defaultdict: _Node(
        lambda t: (list(t.values()), (t.default_factory, list(t))),
        _unflatten_defaultdict,
        _mapping_keys,
    ),
    deque: _Node(
        lambda t: (list(t), t.maxlen), lambda c, maxlen: deque(c, maxlen=maxlen), _range_keys
    ),
}

_NAMEDTUPLE = _Node(
    lambda t: (list(t), type(t)),
    lambda c, cls: cls(*c),
    lambda t: [GetAttrKey(name) for name in t._fields],
)

_NODES[namedtuple] = _NAMEDTUPLE  # type: ignore[index]
SUPPORTED_NODES = _NODES
BUILTIN_TYPES = frozenset(_NODES)
PyTree = Context = DumpableContext = Any
FlattenFn = UnflattenFn = ToDumpableContextFn = FromDumpableContextFn = Callable[..., Any]


def _get_node_type(tree: Any) -> Any:
    """The key of a tree's type in SUPPORTED_NODES: `namedtuple` for all tuples with names."""
    return namedtuple if is_namedtuple_instance(tree) else type(tree)


def is_namedtuple_class(cls: Any) -> bool:
    """Whether instances of a class are tuples with names."""
    return isinstance(cls, type) and issubclass(cls, tuple) and hasattr(cls, "_fields")


def is_namedtuple_instance(obj: Any) -> bool:
    """Whether an object is a tuple with names."""
    return is_namedtuple_class(type(obj))


def is_namedtuple(obj: Any) -> bool:
    """Whether an object, or a class, is of tuples with names."""
    return is_namedtuple_class(obj if isinstance(obj, type) else type(obj))


def is_structseq_class(cls: Any) -> bool:
    """Whether a class is a struct sequence of C, as `time.struct_time` is."""
    return (isinstance(cls, type) and cls.__bases__ == (tuple,)
            and isinstance(getattr(cls, "n_sequence_fields", None), int))


def is_structseq_instance(obj: Any) -> bool:
    """Whether an object is a struct sequence."""
    return is_structseq_class(type(obj))


def is_structseq(obj: Any) -> bool:
    """Whether an object, or a class, is a struct sequence."""
    return is_structseq_class(obj if isinstance(obj, type) else type(obj))


def _dict_flatten(tree: Any) -> tuple[list[Any], Any]:
    """The values and keys of a dict."""
    return _NODES[dict].flatten(tree)


def _dict_unflatten(values: Iterable[Any], context: Any) -> Any:
    """The dict of values and keys."""
    return _NODES[dict].unflatten(values, context)


def _dict_flatten_with_keys(tree: Any) -> Any:
    """The (key, value) pairs and keys of a dict."""
    return _NODES[dict].flatten_with_keys_fn(tree)  # type: ignore[misc]


def register_pytree_node(
    cls: type,
    flatten_fn: Callable[[Any], tuple[list[Any], Any]],
    unflatten_fn: Callable[[Iterable[Any], Any], Any],
    *,
    serialized_type_name: str | None = None,
    to_dumpable_context: Any = None,
    from_dumpable_context: Any = None,
    flatten_with_keys_fn: Callable[[Any], tuple[list[tuple[Any, Any]], Any]] | None = None,
) -> None:
    """Make instances of `cls` nodes.

    Args:
        flatten_fn: `(instance) -> (children, context)`.
        unflatten_fn: `(children, context) -> instance`.
        flatten_with_keys_fn: `(instance) -> ([(key, child), ...], context)`, for paths.

    Raises ValueError if the type is registered already.
    """
    if cls in _NODES:
        raise ValueError(f"{cls} is already registered as pytree node.")
    keys = None
    if flatten_with_keys_fn is not None:

        def keys(tree: Any) -> list[Any]:
            return [key for key, _ in flatten_with_keys_fn(tree)[0]]

    _NODES[cls] = _Node(flatten_fn, unflatten_fn, keys)


def _node_of(tree: Any) -> _Node | None:
    return _node_of_type(type(tree))


def _node_of_type(kind: type) -> _Node | None:
    found = _NODES.get(kind)
    if found is None and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _NAMEDTUPLE
    return found


class TreeSpec:
    """The shape of a tree: node types, contexts and child specs, without the leaves."""

    __slots__ = ("type", "context", "children_specs", "node", "num_leaves")

    def __init__(
        self, type: Any, context: Any, children_specs: list[TreeSpec], node: Any = None
    ) -> None:
        self.type = type
        self.context = context
        self.children_specs = children_specs
        self.node = node
        self.num_leaves = sum(child.num_leaves for child in children_specs) if node else 1

    def is_leaf(self) -> bool:
        """Whether this is the spec of a single leaf."""
        return self.node is None

    @property
    def num_children(self) -> int:
        """Number of children of this node."""
        return len(self.children_specs)

    @property
    def num_nodes(self) -> int:
        """Nodes and leaves of the whole tree."""
        return 1 + sum(child.num_nodes for child in self.children_specs)

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """The tree of this shape with these leaves (see `tree_unflatten`)."""
        return tree_unflatten(leaves, self)

    def flatten_up_to(self, tree: Any) -> list[Any]:
        """The subtrees of `tree` where this spec has leaves. ValueError if shapes differ."""
        out: list[Any] = []
        self._flatten_up_to(tree, out)
        return out

    def _flatten_up_to(self, tree: Any, out: list[Any]) -> None:
        if self.node is None:
            out.append(tree)
            return
        if type(tree) is not self.type:
            raise ValueError(f"Type mismatch; expected {self.type!r}, but got {type(tree)!r}.")
        children, context = self.node.flatten(tree)
        if len(children) != len(self.children_specs):
            raise ValueError(
                f"Node arity mismatch; expected {len(self.children_specs)}, got {len(children)}."
            )
        if context != self.context:
            same = isinstance(tree, dict) and set(tree) == set(self._keys())
            if not same:
                raise ValueError(
                    f"Node context mismatch; expected {self.context!r}, got {context!r}."
                )
            children = [tree[key] for key in self._keys()]
        for spec, child in zip(self.children_specs, children):
            spec._flatten_up_to(child, out)

    def _keys(self) -> Any:
        return self.context[1] if self.type is defaultdict else self.context

    def _parts(self) -> tuple[Any, ...]:
        return self.type, self.context, self.children_specs

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, TreeSpec) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash((self.type, repr(self.context), tuple(self.children_specs)))

    def __reduce__(self) -> Any:
        return _spec_of, self._parts()

    def __repr__(self) -> str:
        if self.node is None:
            return "*"
        inner = ",\n  ".join(
            repr(child).replace("\n", "\n  ") for child in self.children_specs
        )
        return f"TreeSpec({self.type.__name__}, {self.context}, [{inner}])"


class LeafSpec(TreeSpec):
    """The spec of a tree that is one leaf."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(None, None, [])


_LEAF = LeafSpec()


def _spec_of(kind: Any, context: Any, children: list[TreeSpec]) -> TreeSpec:
    """A spec as it was before it was pickled; how its type is taken apart is looked up."""
    if kind is None:
        return _LEAF
    return TreeSpec(kind, context, children, _node_of_type(kind))


def tree_is_leaf(tree: Any, is_leaf: IsLeaf = None) -> bool:
    """Whether `tree` is a leaf."""
    return (is_leaf is not None and is_leaf(tree)) or _node_of(tree) is None


def tree_flatten(tree: Any, is_leaf: IsLeaf = None) -> tuple[list[Any], TreeSpec]:
    """The leaves of a tree, left to right, and its spec.

    Args:
        is_leaf: treat nodes for which it is true as leaves.

    Example:
        >>> leaves, spec = tree_flatten({"a": [1, 2], "b": 3})
        >>> leaves
        [1, 2, 3]
        >>> tree_unflatten([x * 10 for x in leaves], spec)
        {'a': [10, 20], 'b': 30}
    """
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves, is_leaf)


def _flatten(tree: Any, leaves: list[Any], is_leaf: IsLeaf) -> TreeSpec:
    node = _node_of(tree)
    if node is None or (is_leaf is not None and is_leaf(tree)):
        leaves.append(tree)
        return _LEAF
    children, context = node.flatten(tree)
    specs = [_flatten(child, leaves, is_leaf) for child in children]
    return TreeSpec(type(tree), context, specs, node)


def tree_unflatten(leaves: Iterable[Any], treespec: TreeSpec) -> Any:
    """The tree with this spec and these leaves. ValueError if their number does not fit."""
    if not isinstance(treespec, TreeSpec):
        raise TypeError(
            "tree_unflatten(leaves, treespec): Expected `treespec` to be instance of TreeSpec "
            f"but got item of type {type(treespec)}."
        )
    leaves = list(leaves)
    if len(leaves) != treespec.num_leaves:
        raise ValueError(
            f"tree_unflatten(leaves, treespec): `leaves` has length {len(leaves)} but the spec "
            f"refers to a pytree that holds {treespec.num_leaves} items ({treespec})."
        )
    return _unflatten(iter(leaves), treespec)


def _unflatten(leaves: Iterator[Any], spec: TreeSpec) -> Any:
    if spec.node is None:
        return next(leaves)
    children = [_unflatten(leaves, child) for child in spec.children_specs]
    return spec.node.unflatten(children, spec.context)


def tree_iter(tree: Any, is_leaf: IsLeaf = None) -> Iterator[Any]:
    """Iterate over the leaves."""
    node = _node_of(tree)
    if node is None or (is_leaf is not None and is_leaf(tree)):
        yield tree
    else:
        for child in node.flatten(tree)[0]:
            yield from tree_iter(child, is_leaf)


def tree_leaves(tree: Any, is_leaf: IsLeaf = None) -> list[Any]:
    """The leaves, left to right."""
    return list(tree_iter(tree, is_leaf))


def tree_structure(tree: Any, is_leaf: IsLeaf = None) -> TreeSpec:
    """The spec alone."""
    return tree_flatten(tree, is_leaf)[1]


def tree_map(func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: IsLeaf = None) -> Any:
    """A tree of the same shape with `func(leaf, *leaves of rests)` in place of each leaf.

    Example:
        >>> tree_map(lambda x, y: x + y, [1, (2,)], [10, (20,)])
        [11, (22,)]
    """
    leaves, spec = tree_flatten(tree, is_leaf)
    others = [spec.flatten_up_to(rest) for rest in rests]
    return _unflatten(map(func, leaves, *others), spec)


def tree_map_(func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: IsLeaf = None) -> Any:
    """Call `func` on each leaf for its effect; gives `tree` back."""
    leaves, spec = tree_flatten(tree, is_leaf)
    others = [spec.flatten_up_to(rest) for rest in rests]
    for _ in map(func, leaves, *others):
        pass
    return tree


def _predicate(kind: Any) -> Callable[[Any], bool]:
    if isinstance(kind, (type, tuple)) or not callable(kind):
        return lambda leaf: isinstance(leaf, kind)
    return kind


def tree_map_only(
    type_or_types_or_pred: Any, /, func: Callable[[Any], Any], tree: Any, is_leaf: IsLeaf = None
) -> Any:
    """`tree_map` over the leaves of some types (or that fulfil a predicate) only."""
    chosen = _predicate(type_or_types_or_pred)
    return tree_map(lambda leaf: func(leaf) if chosen(leaf) else leaf, tree, is_leaf=is_leaf)


def tree_map_only_(
    type_or_types_or_pred: Any, /, func: Callable[[Any], Any], tree: Any, is_leaf: IsLeaf = None
) -> Any:
    """`tree_map_` over the leaves of some types (or that fulfil a predicate) only."""
    chosen = _predicate(type_or_types_or_pred)
    return tree_map_(lambda leaf: func(leaf) if chosen(leaf) else None, tree, is_leaf=is_leaf)


def tree_all(pred: Callable[[Any], bool], tree: Any, is_leaf: IsLeaf = None) -> bool:
    """Whether every leaf fulfils `pred`."""
    return all(map(pred, tree_iter(tree, is_leaf)))


def tree_any(pred: Callable[[Any], bool], tree: Any, is_leaf: IsLeaf = None) -> bool:
    """Whether some leaf fulfils `pred`."""
    return any(map(pred, tree_iter(tree, is_leaf)))


def tree_all_only(
    type_or_types: Any, /, pred: Callable[[Any], bool], tree: Any, is_leaf: IsLeaf = None
) -> bool:
    """Whether every leaf of these types fulfils `pred`."""
    return all(pred(x) for x in tree_iter(tree, is_leaf) if isinstance(x, type_or_types))


def tree_any_only(
    type_or_types: Any, /, pred: Callable[[Any], bool], tree: Any, is_leaf: IsLeaf = None
) -> bool:
    """Whether some leaf of these types fulfils `pred`."""
    return any(pred(x) for x in tree_iter(tree, is_leaf) if isinstance(x, type_or_types))


def tree_leaves_with_path(tree: Any, is_leaf: IsLeaf = None) -> list[tuple[Any, Any]]:
    """The leaves as `(path, leaf)`; a path is a tuple of keys (see `keystr`)."""
    out: list[tuple[Any, Any]] = []
    _walk_paths(tree, (), out, is_leaf)
    return out


def _walk_paths(tree: Any, path: Any, out: list[Any], is_leaf: IsLeaf) -> None:
    node = _node_of(tree)
    if node is None or (is_leaf is not None and is_leaf(tree)):
        out.append((path, tree))
        return
    if node.keys is None:
        raise ValueError(
            f"Did not find a flatten_with_keys_fn for type: {type(tree)}. Pass one to "
            "register_pytree_node to use paths."
        )
    for key, child in zip(node.keys(tree), node.flatten(tree)[0]):
        _walk_paths(child, (*path, key), out, is_leaf)


def tree_flatten_with_path(tree: Any, is_leaf: IsLeaf = None) -> tuple[list[Any], TreeSpec]:
    """Like `tree_flatten`, with `(path, leaf)` pairs."""
    return tree_leaves_with_path(tree, is_leaf), tree_structure(tree, is_leaf)


def tree_map_with_path(
    func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: IsLeaf = None
) -> Any:
    """Like `tree_map`, with the path as the function's first argument."""
    pairs, spec = tree_flatten_with_path(tree, is_leaf)
    others = [spec.flatten_up_to(rest) for rest in rests]
    paths, leaves = [path for path, _ in pairs], [leaf for _, leaf in pairs]
    return _unflatten(map(func, paths, leaves, *others), spec)


def keystr(path: Iterable[Any]) -> str:
    """A path as the Python expression that leads to the leaf.

    Example:
        >>> keystr((MappingKey("a"), SequenceKey(1)))
        "['a'][1]"
    """
    return "".join(map(str, path))


def key_get(obj: Any, path: Iterable[Any]) -> Any:
    """The part of `obj` that a path leads to."""
    for key in path:
        obj = key.get(obj)
    return obj


# ---- specs as text ------------------------------------------------------------------------------

_TEXT_TYPES = {f"{t.__module__}.{t.__qualname__}": t for t in (
    list, tuple, dict, OrderedDict, deque)}


def treespec_dumps(treespec: TreeSpec, protocol: int | None = None) -> str:
    """A spec as JSON. NotImplementedError for types whose context is no JSON.

    >>> treespec_loads(treespec_dumps(tree_structure({"a": [1, 2]}))).num_leaves
    2
    """
    def of(spec: TreeSpec) -> Any:
        if spec.is_leaf():
            return {"type": None, "context": None, "children_spec": []}
        name = f"{spec.type.__module__}.{spec.type.__qualname__}"
        if name not in _TEXT_TYPES:
            raise NotImplementedError(f"treespec_dumps: specs of {spec.type.__name__} cannot be "
                                      f"written; those of {', '.join(_TEXT_TYPES)} can")
        return {"type": name, "context": json.dumps(spec.context),
                "children_spec": [of(c) for c in spec.children_specs]}

    return json.dumps((1, of(treespec)))


def treespec_loads(serialized: str) -> TreeSpec:
    """The spec of such a text."""
    def of(data: Any) -> TreeSpec:
        if data["type"] is None:
            return _LEAF
        kind = _TEXT_TYPES.get(data["type"])
        if kind is None:
            raise NotImplementedError(f"treespec_loads: there is no type {data['type']!r}")
        return _spec_of(kind, json.loads(data["context"]), [of(c) for c in data["children_spec"]])

    protocol, data = json.loads(serialized)
    if protocol != 1:
        raise ValueError(f"treespec_loads: protocol {protocol} is not known; 1 is")
    return of(data)


def treespec_pprint(treespec: TreeSpec) -> str:
    """A spec as text for people."""
    return repr(treespec)


PyTreeSpec = TreeSpec
