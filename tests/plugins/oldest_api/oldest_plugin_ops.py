"""Ops and a command written for plug-in API 0.1. Not to be modernised."""

from __future__ import annotations

from lampion.plugins.hookspecs import Command


def lampion_ops(registry):
    from lampion.ir.expr import exp
    from lampion.ops.registry import (
        Attr,
        Scalar,
        composite,
        elementwise,
        kernel_op,
        namespace,
        view_op,
    )
    from lampion.runtime.lowering import Nest, reduced_strides

    with namespace("oldest"):
        @elementwise(promote="float")
        def swish(input, beta: Scalar = 1.0):
            return input / (1 + exp(-input * beta))

        @elementwise
        def power(input, n: Attr = 2):
            result = input
            for _ in range(n - 1):
                result = result * input
            return result

        @power.grad
        def _(g, out, input, n):
            return g * n * input ** (n - 1)

        @kernel_op("input: T, dim")
        class range_of:
            """Largest minus smallest value along one dim."""

            save = ("input",)

            def meta(input, dim):
                return [(input.dtype, input.shape[:dim] + input.shape[dim + 1:])]

            def lower(call):
                x, out = call.inputs[0], call.outputs[0]
                n = Nest("range_of", x.shape, [call.dim])
                o = n.output(out, reduced_strides(out, x.shape, [call.dim], False))
                a = n.input(x)
                n.start()
                high, low = n.reduce_all(("max", a()), ("min", a()))
                n.store(o, high - low, inner=False)
                return n.program()

            def vjp(ctx, g):
                x, d = ctx.input, ctx.dim
                top, low = x.amax(d, True), x.amin(d, True)
                return (g.unsqueeze(d) * ((x == top).to(x.dtype) - (x == low).to(x.dtype)),)

        @view_op("input: T")
        class corner:
            """The first row, as a view."""

            def view(m):
                return m.shape[1:], m.strides[1:], 0

            def vjp(ctx, g):
                m = ctx.meta("input")
                full = g.new_zeros(m.shape)
                full[0] = g
                return (full,)

        @composite
        def normed(input):
            return input / input.norm()


def lampion_cli_commands():
    def arguments(parser):
        parser.add_argument("word")

    def run(args):
        print("oldest says", args.word)
        return 7

    return [Command("oldest-say", "say a word", arguments, run)]
