"""A captured step made faster and repeated: small products written out, a chunk of steps as one graph, machine code. Kernel: imports only torch.

Enters: the graph of one step. Leaves: a callable that takes and gives plain tensors. The decision that shaped it: torch's settings are changed only while it compiles.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

UNROLLED, UNROLLED_NODES = 16, 2_000  # the most steps, and the most operations, of a graph without a loop
SMALL = 16_384  # multiply-adds up to which a product is written as multiply-and-sum: see `write_out_small_products`


def write_out_small_products(graph: fx.GraphModule, limit: int = SMALL) -> int:
    """Matrix products of at most `limit` multiply-adds become multiply-and-sum, which the compiler fuses with what stands around; returns how many.

    A call of the matrix library costs more than the arithmetic of such a product. Measured by `bench/small_products.py` (one layer, one core): at 256 (W1) 2.1x
    faster written out, at 8,192 1.4x to 1.7x, at 16,384 1.2x, at 32,768 0.96x, at 65,536 0.67x.
    """
    aten = torch.ops.aten
    written = 0
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        left, right = node.args[-2:]
        if "val" not in left.meta or "val" not in right.meta or not left.meta["val"].is_floating_point():
            continue
        (rows, inner), columns = left.meta["val"].shape, right.meta["val"].shape[1]
        if rows * inner * columns > limit or left.meta["val"].dtype in (torch.float16, torch.bfloat16):
            continue
        with graph.graph.inserting_before(node):
            call = graph.graph.call_function
            product = call(aten.mul.Tensor, (call(aten.unsqueeze.default, (left, 2)), call(aten.unsqueeze.default, (right, 0))))
            result = call(aten.sum.dim_IntList, (product, [1]))
            if node.target is aten.addmm.default:
                result = call(aten.add.Tensor, (result, node.args[0]))
        result.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        graph.graph.erase_node(node)
        written += 1
    graph.recompile()
    return written


def compute_scalars_once(graph: fx.GraphModule, least: int = 256) -> int:
    """Numbers that an operation on `least` elements or more takes from 0-dim tensors are computed once a step; returns how many.

    The compiler writes such a chain into the loop over the elements: Adam's `1 - beta**step` was one call of `pow` for every 16 weights, a fifth of W3's step.
    `as_strided` is the operation before which it must have a value in memory.
    """
    aten = torch.ops.aten
    kept = 0
    for node in list(graph.graph.nodes):
        value = node.meta.get("val")
        if node.op != "call_function" or node.target is aten.as_strided.default:
            continue
        if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
            continue
        large = [user for user in node.users if isinstance(result := user.meta.get("val"), Tensor) and result.numel() >= least]
        if not large:
            continue
        with graph.graph.inserting_after(node):
            held = graph.graph.call_function(aten.as_strided.default, (node, [], []))
        held.meta = dict(node.meta)
        for user in large:
            user.replace_input_with(node, held)
        kept += 1
    graph.recompile()
    return kept


def unrolled_length(num_nodes: int, length: int) -> int:
    """Steps to write one after another where the scan is refused: at most 16, fewer for a step of many operations (the compiler's seconds grow with their number).

    Of the counts in the upper half the one that leaves the fewest of `length` steps over; below 2 it does not pay.

    >>> unrolled_length(40, 312), unrolled_length(200, 39), unrolled_length(5_000, 39)
    (13, 9, 1)
    """
    most = min(UNROLLED, max(1, UNROLLED_NODES // num_nodes), length)
    return max(range((most + 1) // 2, most + 1), key=lambda count: (-(length % count), count))


def unrolled(step: fx.GraphModule, count: int, num_state: int, num_batch: int, num_outside: int) -> fx.GraphModule:
    """`chunk(*state, rates, *batches, *outside) -> [*state, losses]`: `count` steps written one after another; rates and batches have a leading axis of steps."""
    aten = torch.ops.aten
    graph = fx.Graph()
    state: Any = [graph.placeholder(f"state_{i}") for i in range(num_state)]
    sequence = [graph.placeholder("rates"), *[graph.placeholder(f"batch_{i}") for i in range(num_batch)]]
    outside = [graph.placeholder(f"outside_{i}") for i in range(num_outside)]
    own = [node for node in step.graph.nodes if node.op == "placeholder"]
    losses = []
    for position in range(count):
        row = [graph.call_function(aten.select.int, (each, 0, position)) for each in sequence]
        given = dict(zip(own, (*state, *row, *outside), strict=True))
        *state, value = graph.graph_copy(step.graph, given)  # type: ignore[misc]
        losses.append(value)
    graph.output([*state, graph.call_function(aten.stack.default, (losses,))])
    return fx.GraphModule(step, graph)


def as_scan(step: fx.GraphModule, count: int, num_state: int, num_batch: int, num_outside: int) -> fx.GraphModule:
    """`chunk(*state, rates, *batches, *outside) -> [*state, losses]`: the step as the body of torch's scan; rates and batches have a leading axis of `count` steps."""
    from torch._higher_order_ops.scan import scan_op

    graph = fx.Graph()
    state = [graph.placeholder(f"state_{i}") for i in range(num_state)]
    sequence = [graph.placeholder("rates"), *[graph.placeholder(f"batch_{i}") for i in range(num_batch)]]
    outside = [graph.placeholder(f"outside_{i}") for i in range(num_outside)]
    scanned = graph.call_function(scan_op, (graph.get_attr("step"), state, sequence, tuple(outside)))
    graph.output([graph.call_function(operator.getitem, (scanned, i)) for i in range(num_state + 1)])
    return fx.GraphModule({"step": step}, graph)


def compile_graph(graph: fx.GraphModule, examples: Sequence[Tensor], device: torch.device) -> Callable[..., Sequence[Tensor]]:
    """The graph as machine code. torch's settings are changed only inside; its cache on disk is the default one."""
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # fallback_random: dropout draws from torch's own stream, so a checkpoint holds where it stands, and its masks are eager's where the dropped tensor is contiguous
    # (in attention it is a transposed one, and eager fills a mask in the order of memory).
    # Kernels and the calls between them are built apart (the calls at -O1): 3.6 s instead of 9.1 s of g++ for a small MLP, once torch's headers are precompiled.
    options: dict[str, Any] = {"fallback_random": True, "cpp_wrapper": device.type == "cpu", "triton.cudagraphs": device.type == "cuda"}
    if hasattr(config, "cpp_wrapper_build_separate"):
        options["cpp_wrapper_build_separate"] = device.type == "cpu"
    # Shapes as numbers: left to itself torch compiles them as symbols here, and no loop knows its bounds.
    mode = FakeTensorMode(shape_env=ShapeEnv())
    fixed = [mode.from_tensor(example, static_shapes=True) for example in examples]
    with torch.no_grad(), config.patch(options), tracing(TracingContext(mode)):
        return compile_fx(graph, fixed)  # type: ignore[return-value]
