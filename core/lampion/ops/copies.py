"""The copying forms of the views: `transpose_copy` and its kin, all derived from the views.

Floor 3. Each is the view of the same name, copied into contiguous memory of its own, with the
view's arguments and an `out=`.
"""

from __future__ import annotations

from . import memory
from .checks import IndexRangeError
from .registry import ATTR, REGISTRY, CompositeOp, composite, register


def copying(name, view, samples):
    """Declare `name` as the copying form of a view, or of a function that gives several."""
    op = REGISTRY[view]

    def body(*args, **kwargs):
        try:
            made = op.fn(*args, **kwargs)
        except IndexError as e:
            raise IndexRangeError(f"{name}: {e}") from None
        if type(made) is tuple:
            return tuple([memory.duplicate.fn(v, contiguous=True) for v in made])
        return memory.duplicate.fn(made, contiguous=True)

    body.__name__ = name
    body.__doc__ = doc = f"A contiguous copy of what `{view}` gives."
    params = tuple([p._replace(kind=ATTR) for p in op.params])
    register(CompositeOp(name=name, kind="composite", params=params, doc=doc, body=body,
                         method=name == "narrow_copy", samples=samples))  # torch's one method


COPIES = {
    "alias_copy": ("alias", "f(2, 3, 4).transposed"),
    "as_strided_copy": ("as_strided", """
        f(2, 3, 4), (2, 2), (3, 1)
        f(24), (3,), (0,), 2
    """),
    "diagonal_copy": ("diagonal", """
        f(2, 3, 4)
        f(2, 3, 4).transposed, 1, -1, 0
        f(3, 3), -2
    """),
    "expand_copy": ("expand", """
        f(3, 1), (2, 3, 4)
        f(3, 1), (-1, 2)
    """),
    "narrow_copy": ("narrow", """
        f(2, 3, 4).transposed, 1, 1, 2
        f(4, 3), 0, -4, 0
    """),
    "permute_copy": ("permute", "f(2, 3, 4), (2, 0, 1)"),
    "select_copy": ("select", """
        f(2, 3, 4), 1, -1
        f(3).strided, 0, 0
    """),
    "slice_copy": ("slice", """
        f(2, 3, 4).transposed
        f(2, 3, 4), 1, 1
        f(2, 3, 4), -1, -3, None, 2
    """),
    "split_copy": ("split", """
        f(2, 3, 4), 2, -1
        f(2, 3, 4).transposed, 2, 1
    """),
    "split_with_sizes_copy": ("split_with_sizes", "f(2, 3, 4).transposed, (1, 3), 2"),
    "squeeze_copy": ("squeeze", """
        f(1, 3, 1)
        f(1, 3, 1), 0
        f(1, 3, 1), (0, -1)
    """),
    "t_copy": ("t", "f(2, 3)"),
    "transpose_copy": ("transpose", "f(2, 3, 4), 0, -1"),
    "unbind_copy": ("unbind", """
        f(2, 3, 4)
        f(2, 3, 4).transposed, -2
    """),
    "unfold_copy": ("unfold", """
        f(2, 3, 4), 2, 2, 1
        f(2, 3, 4).transposed, 1, 3, 2
    """),
    "unsqueeze_copy": ("unsqueeze", """
        f(2, 3, 4).transposed, -1
        f(2, 3), 1
    """),
    "view_as_complex_copy": ("view_as_complex", "f(3, 2)"),
    "view_as_real_copy": ("view_as_real", "c(3, 2)"),
    "view_copy": ("view", """
        f(2, 3, 4), (6, -1)
        f(0, 3), (3, 0, 1)
    """),
}
for _name, (_view, _samples) in COPIES.items():
    copying(_name, _view, _samples)


@composite(differentiable=False, samples="f(2, 3, 4).transposed")
def detach_copy(input):
    """A contiguous copy without a history."""
    return memory.duplicate.fn(input.detach(), contiguous=True)
