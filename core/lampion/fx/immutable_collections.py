"""Lists and dicts that nodes hold their arguments in: reading works, changing is an error.

A node has to see every change of its arguments, to keep `users` right. Floor 7; imports pytree.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ..utils import _pytree

__all__ = ["immutable_list", "immutable_dict"]


def _no_mutation(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    raise TypeError(f"{type(self).__name__!r} object does not support mutation. If you are "
                    "attempting to modify the kwargs or args of a torch.fx.Node object, instead "
                    "create a new copy of it and assign the copy to the node:\n"
                    "    new_args = ...  # copy and mutate args\n    node.args = new_args")


class immutable_list(list):
    """A list that cannot be changed.

    >>> immutable_list([1, 2]) == [1, 2]
    True
    """

    __delitem__ = __iadd__ = __imul__ = __setitem__ = _no_mutation  # type: ignore[assignment]
    append = clear = extend = insert = pop = remove = reverse = sort = _no_mutation  # type: ignore

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

    def __reduce__(self) -> Any:
        return type(self), (tuple(self),)


class immutable_dict(dict):
    """A dict that cannot be changed."""

    __delitem__ = __ior__ = __setitem__ = _no_mutation  # type: ignore[assignment]
    clear = pop = popitem = setdefault = update = _no_mutation  # type: ignore[assignment]

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> Any:
        return type(self), (dict(self),)


_pytree.register_pytree_node(immutable_list, lambda x: (list(x), None),
                             lambda items, _: immutable_list(items))
_pytree.register_pytree_node(immutable_dict, lambda x: (list(x.values()), list(x)),
                             lambda items, keys: immutable_dict(zip(keys, items)))
