"""Forward, loss and gradients of all members of a stack, traced once into plain calls of torch.

Enters: a stack, one member's module as the template, the loss and a batch. Leaves: a graph that is replayed under `no_grad`. The decision that shaped it: what
functorch costs is its dispatch, and a replay has none (8x against 4.6x for 32 small networks, SPEED.md); so autograd through a vmapped forward is traced by
`make_fx`, random calls are replaced by draws from each member's own stream, and calls that change nothing are taken out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fivestep import seeds
from fivestep.data.batches import Batch, map_tensors, tensors_of
from fivestep.train.stack import Stack, Streams


class Unstackable(Exception):
    """These members cannot be trained stacked; the text says why, as a reason beside the plan."""


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out; the allocator of a CPU says so by its text alone."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def one_member(template: nn.Module, names: Sequence[str], held_names: Sequence[str], loss: Callable[..., Any]) -> Callable[..., Any]:
    """`loss = f(weights, held, inputs, targets, weights of rows)` of one member, as torch.func wants it."""

    def value_of(weights: Sequence[Tensor], held: Sequence[Tensor], inputs: Any, targets: Any, row_weights: Any) -> Tensor:
        state = dict(zip(names, weights)) | dict(zip(held_names, held))
        arguments = inputs if isinstance(inputs, (tuple, list)) else () if isinstance(inputs, dict) else (inputs,)
        outputs = torch.func.functional_call(template, state, tuple(arguments), inputs if isinstance(inputs, dict) else None)
        value = loss(outputs, targets) if row_weights is None else loss(outputs, targets, row_weights)
        if isinstance(value, tuple):
            value = value[0] / value[1]
        return value

    return value_of


def traced(
    stack: Stack,
    template: nn.Module,
    loss: Callable[..., Any],
    batch: Batch,
    *,
    shared: bool,
    training: bool,
    streams: Streams,
    frozen: Sequence[nn.Module] = (),
) -> Any:
    """`(losses (K,), gradients) = f(*weights, *held, *batch)` as a graph of plain torch calls; without gradients where not `training`.

    `shared`: the batch is the same for all members, else its tensors are (K, batch, ...). Raises Unstackable for what torch.func cannot do.
    """
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.attention import SDPBackend, sdpa_kernel

    num_weights, num_held = len(stack.names), len(stack.held)
    value_of = one_member(template, stack.names, stack.held_names, loss)
    leaves = tensors_of(tuple(batch))

    def rebuilt(given: Sequence[Tensor]) -> Batch:
        remaining = iter(given)
        return Batch(*map_tensors(lambda _: next(remaining), tuple(batch)))

    def function(*flat: Tensor) -> Any:
        weights, held = list(flat[:num_weights]), list(flat[num_weights : num_weights + num_held])
        inputs, targets, row_weights = rebuilt(flat[num_weights + num_held :])
        dims = tuple(None if shared or part is None else 0 for part in (inputs, targets, row_weights))  # one number stands for a whole nest
        losses = torch.vmap(value_of, in_dims=(0, 0, *dims), randomness="different")(weights, held, inputs, targets, row_weights)
        if losses.dim() != 1:
            raise Unstackable("the loss is no single number")
        if not training:
            return losses, []
        gradients = torch.autograd.grad(losses.sum(), weights, allow_unused=True)
        return losses, [gradient if gradient is not None else None for gradient in gradients]

    flags = [(module, module.training) for module in template.modules()]
    template.train(training)
    for module in frozen:
        module.eval()
    try:
        # The fused kernels of attention have no batching rule (each member would be computed alone); the plain formula has.
        with seeds.restored(), torch.enable_grad() if training else torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            weights = [view.detach().clone().requires_grad_(training) for view in stack.views]
            graph = make_fx(function)(*weights, *[tensor.detach().clone() for tensor in stack.held], *leaves)
    except Unstackable:
        raise
    except Exception as error:  # whatever torch.func cannot do with a user's module comes as its own error
        if out_of_memory(error):
            raise
        text = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise Unstackable(f"torch.func cannot stack it: {type(error).__name__}: {text[:200]}") from error
    finally:
        for module, flag in flags:
            module.training = flag
    draw_from(graph, streams, stack.K)
    simplify(graph)
    return graph


def draw_from(graph: Any, streams: Streams, num_members: int) -> None:
    """Random calls of the graph become draws from each member's own stream; Unstackable for those that are none of dropout's."""
    aten = torch.ops.aten
    graph.add_submodule("streams", streams)
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
            continue
        value = node.meta.get("val")
        if node.target not in (aten.bernoulli.p, aten.bernoulli_.float) or value is None or value.shape[:1] != (num_members,):
            raise Unstackable(f"the model draws random numbers by {node.target}, which has no stream for each member here (dropout has)")
        with graph.graph.inserting_before(node):
            drawn = graph.graph.call_module("streams", (tuple(value.shape), node.args[1] if len(node.args) > 1 else 0.5, value.dtype))
            drawn.meta = dict(node.meta)
            if node.target is aten.bernoulli_.float:
                copied = graph.graph.call_function(aten.copy_.default, (node.args[0], drawn))
                copied.meta = dict(node.meta)
                drawn = copied
        node.replace_all_uses_with(drawn)
        graph.graph.erase_node(node)


def simplify(graph: Any) -> None:
    """Calls that change nothing leave the graph: detach, a view or expand to the same shape, times 1, a transpose undone by the next. Each costs 1 to 2 us."""
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or not node.args:
            continue
        source = node.args[0]
        before, after = getattr(source, "meta", {}).get("val"), node.meta.get("val")
        if before is None or after is None or not isinstance(after, Tensor) or not isinstance(before, Tensor):
            continue
        same = before.shape == after.shape and before.stride() == after.stride()
        nothing = node.target is aten.detach.default
        nothing |= same and node.target in (aten.expand.default, aten.view.default, aten._unsafe_view.default)
        nothing |= node.target is aten.mul.Scalar and node.args[1] == 1 and before.dtype == after.dtype
        if nothing:
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
            continue
        undone = node.target is aten.transpose.int and source.op == "call_function" and source.target is aten.transpose.int
        if undone and {axis % after.dim() for axis in node.args[1:]} == {axis % after.dim() for axis in source.args[1:]}:
            node.replace_all_uses_with(source.args[0])
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def compiled(graph: Any, inputs: Sequence[Tensor]) -> Any:
    """A traced graph as compiled code. Inductor takes it as it is; `torch.compile` would check its guards at every call, which costs W1 more than the step itself."""
    if any(node.op == "call_module" for node in graph.graph.nodes):  # dropout's streams are Python, which only torch.compile goes around
        return torch.compile(graph, dynamic=False)
    from torch._inductor import compile as inductor
    from torch.fx.graph import CodeGen

    flat = torch.fx.GraphModule(graph, copy.deepcopy(graph.graph))
    flat.graph.set_codegen(CodeGen())
    (output,) = flat.graph.find_nodes(op="output")
    losses, gradients = output.args[0]
    output.args = ((losses, *gradients),)
    flat.recompile()
    code: Any = inductor(flat, [tensor.detach() for tensor in inputs])

    def run(*given: Tensor) -> tuple[Tensor, list[Tensor]]:
        losses, *gradients = code(*given)
        return losses, gradients

    return run
