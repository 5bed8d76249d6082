"""The weights of K members in one flat tensor, and the random stream of each.

Enters: the members' modules. Leaves: `Stack`, whose views the modules become, so that a line of the optimizer is one call whatever the number of layers, and a
member's validation, checkpoint or prediction is the module's own; `Streams`, from which dropout draws for each member what its run alone would have drawn.

Axis letters: `K` members.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fivestep import seeds


class Stack:
    """K members' trainable weights in one flat tensor, one block for each parameter: `views[name]` is (K, *shape) and contiguous.

    `held` are frozen parameters and buffers, (K, *shape) each. The members' modules point into both.
    """

    def __init__(self, modules: Sequence[nn.Module], names: Sequence[str]):
        self.modules = list(modules)
        self.names = list(names)
        parameters = [dict(module.named_parameters()) for module in modules]
        self.shapes = [parameters[0][name].shape for name in names]
        self.numels = [shape.numel() for shape in self.shapes]
        self.flat = torch.cat([torch.stack([one[name].detach() for one in parameters]).reshape(-1) for name in names])
        tensors = [dict(module.named_parameters()) | dict(module.named_buffers()) for module in modules]
        self.held_names = [name for name in tensors[0] if name not in set(names)]
        self.held = [torch.stack([one[name].detach() for one in tensors]) for name in self.held_names]
        self._index()
        self._point()

    @property
    def K(self) -> int:
        return len(self.modules)

    def _index(self) -> None:
        device = self.flat.device
        self.views = self.views_of(self.flat)
        self.member_of_element = torch.cat([torch.arange(self.K, device=device).repeat_interleave(numel) for numel in self.numels])

    def views_of(self, flat: Tensor) -> list[Tensor]:
        """(K, *shape) views of a tensor laid out like `flat`."""
        found, start = [], 0
        for shape, numel in zip(self.shapes, self.numels):
            found.append(flat[start : start + self.K * numel].view(self.K, *shape))
            start += self.K * numel
        return found

    def _point(self) -> None:
        """The members' modules become views: what reads a module reads the stack."""
        for k, module in enumerate(self.modules):
            named = dict(module.named_parameters()) | dict(module.named_buffers())
            for name, view in [*zip(self.names, self.views), *zip(self.held_names, self.held)]:
                named[name].data = view[k]

    def release(self, k: int) -> None:
        """Member k's module gets tensors of its own again."""
        module = self.modules[k]
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.data = tensor.detach().clone()

    def kept(self, flat: Tensor, members: Sequence[int]) -> Tensor:
        """A tensor laid out like `flat`, for these members only."""
        chosen = torch.tensor(list(members), device=flat.device)
        return torch.cat([view.index_select(0, chosen).reshape(-1) for view in self.views_of(flat)])

    def cut(self, members: Sequence[int]) -> None:
        """Only these members stay; the others' modules own their tensors again."""
        for k in range(self.K):
            if k not in members:
                self.release(k)
        self.flat = self.kept(self.flat, members)
        chosen = torch.tensor(list(members), device=self.flat.device)
        self.held = [tensor.index_select(0, chosen) for tensor in self.held]
        self.modules = [self.modules[k] for k in members]
        self._index()
        self._point()


class Streams(nn.Module):
    """Each member's own random stream, as its run alone would draw from torch's global generator: seeded by (seed, epoch), masks in the order of the forward.

    Members with the same seed get the same masks, drawn once.
    """

    def __init__(self, member_seeds: Sequence[int], device: torch.device):
        super().__init__()
        self.device = device
        self.cut(member_seeds)

    def cut(self, member_seeds: Sequence[int]) -> None:
        self.distinct = list(dict.fromkeys(member_seeds))
        self.stream_of_member = torch.tensor([self.distinct.index(seed) for seed in member_seeds], device=self.device)
        self.generators = [torch.Generator(self.device) for _ in self.distinct]

    def seed(self, epoch: int) -> None:
        for seed, generator in zip(self.distinct, self.generators):
            generator.manual_seed(seeds.derive(seed, "forward", epoch))

    def forward(self, shape: Sequence[int], probability: float, dtype: torch.dtype, members: Sequence[int] | None = None) -> Tensor:
        """0 or 1 of the shape (K, ...), each member's part from its own stream."""
        drawn = [torch.empty(shape[1:], dtype=dtype, device=self.device).bernoulli_(probability, generator=generator) for generator in self.generators]
        if len(drawn) == 1:
            return drawn[0].expand(shape).contiguous()  # written to in place: each member its own copy
        return torch.stack(drawn).index_select(0, self.stream_of_member)


class PartOfStack:
    """Some members of a stack, copied out, for a step in which batches have several sizes."""

    def __init__(self, stack: Stack, chosen: Tensor):
        self.names, self.held_names = stack.names, stack.held_names
        self.views = [view.index_select(0, chosen) for view in stack.views]
        self.held = [tensor.index_select(0, chosen) for tensor in stack.held]
        self.K = len(chosen)
