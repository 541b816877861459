"""Trees of containers."""

from collections import OrderedDict, defaultdict, deque, namedtuple

import pytest

from lampion.utils import _pytree as T

Pair = namedtuple("Pair", "x y")


@pytest.mark.parametrize(
    "tree",
    [
        1,
        None,
        [1, 2, [3]],
        (),
        (1, (2,), []),
        {"b": 1, "a": [2]},
        OrderedDict([("z", 1), ("a", 2)]),
        defaultdict(list, {"k": 5}),
        deque([1, 2], maxlen=3),
        Pair(1, [2]),
        {"m": (Pair(1, 2), {"n": None})},
    ],
)
def test_flatten_and_unflatten(tree):
    leaves, spec = T.tree_flatten(tree)
    back = T.tree_unflatten(leaves, spec)
    assert back == tree and type(back) is type(tree)
    assert spec.num_leaves == len(leaves) == len(T.tree_leaves(tree))
    assert T.tree_structure(back) == spec
    if isinstance(tree, deque):
        assert back.maxlen == 3


def test_unflatten_checks():
    _, spec = T.tree_flatten([1, 2])
    with pytest.raises(ValueError, match="length 3"):
        T.tree_unflatten([1, 2, 3], spec)
    with pytest.raises(TypeError):
        T.tree_unflatten([1], 3)


def test_map():
    assert T.tree_map(lambda x: x * 2, {"a": (1, [2])}) == {"a": (2, [4])}
    assert T.tree_map(lambda x, y: x + y, [1, (2,)], [10, (20,)]) == [11, (22,)]
    assert T.tree_map(lambda x, y: y, {"a": 1, "b": 2}, {"b": [3], "a": 4}) == {"a": 4, "b": [3]}
    assert T.tree_map(len, [[1, 2], [3]], is_leaf=lambda t: t and type(t[0]) is int) == [2, 1]
    assert T.tree_map_only(int, lambda x: -x, [1, "a", 2.5]) == [-1, "a", 2.5]
    assert T.tree_map_only(lambda x: x == "a", str.upper, [1, "a"]) == [1, "A"]
    with pytest.raises(ValueError, match="Type mismatch"):
        T.tree_map(max, [1], (1,))
    with pytest.raises(ValueError, match="arity"):
        T.tree_map(max, [1], [1, 2])
    with pytest.raises(ValueError, match="context"):
        T.tree_map(max, {"a": 1}, {"b": 1})


def test_effects_and_quantifiers():
    seen = []
    tree = [1, ("a", 2)]
    assert T.tree_map_(seen.append, tree) is tree and seen == [1, "a", 2]
    T.tree_map_only_(str, seen.append, tree)
    assert seen[-1] == "a"
    assert T.tree_any(lambda x: x == 2, tree) and not T.tree_all(lambda x: x == 2, tree)
    assert T.tree_all_only(int, lambda x: x > 0, tree)
    assert not T.tree_any_only(int, lambda x: x > 2, tree)


def test_paths():
    tree = {"a": [1, Pair(2, 3)]}
    found = [(T.keystr(path), leaf) for path, leaf in T.tree_leaves_with_path(tree)]
    assert found == [("['a'][0]", 1), ("['a'][1].x", 2), ("['a'][1].y", 3)]
    for path, leaf in T.tree_leaves_with_path(tree):
        assert T.key_get(tree, path) == leaf
    named = T.tree_map_with_path(lambda path, x: (len(path), x), tree)
    assert named == {"a": [(2, 1), Pair((3, 2), (3, 3))]}


def test_registered_types():
    class Box:
        def __init__(self, item):
            self.item = item

    assert T.tree_leaves([Box(1)])[0].item == 1
    T.register_pytree_node(Box, lambda b: ([b.item], None), lambda c, _: Box(*c))
    assert T.tree_leaves([Box((1, 2))]) == [1, 2]
    assert T.tree_map(lambda x: x + 1, Box(1)).item == 2
    with pytest.raises(ValueError, match="already registered"):
        T.register_pytree_node(Box, None, None)
    with pytest.raises(ValueError, match="flatten_with_keys_fn"):
        T.tree_leaves_with_path(Box(1))


def test_spec_repr():
    spec = T.tree_structure({"a": [1]})
    assert repr(spec) == "TreeSpec(dict, ['a'], [TreeSpec(list, None, [*])])"
