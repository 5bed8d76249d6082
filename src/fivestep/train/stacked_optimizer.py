"""SGD, Adam and AdamW on a stack's flat tensor: one call a line, a number that differs between members beside each weight.

Enters: the gradient of all members, laid out like their weights, and the members' own optimizers, from which the rates are read. Leaves: moved weights. The
formulas are torch's own, so a member moves as it would alone, to rounding.

Axis letters: `K` members, `G` parameter groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fivestep.train.epochs import Training
from fivestep.train.stack import Stack


class StackedOptimizer:
    """SGD, Adam or AdamW on the flat tensor, one call a line; a number that differs between members or groups stands beside each weight, else it is a float.

    The formulas are torch's own (torch.optim.SGD, Adam, AdamW), so a member moves as it would alone, to rounding.
    """

    def __init__(self, stack: Stack, trainings: Sequence[Training]):
        self.stack = stack
        first = trainings[0]
        self.kind = type(first.optimizer)
        self.names = group_names(first)
        self.groups = [list(training.optimizer.param_groups) for training in trainings]  # [member][group]
        self.decoupled = self.kind is torch.optim.AdamW
        group = self.groups[0][0]
        self.nesterov, self.maximize, self.amsgrad = group.get("nesterov", False), group.get("maximize", False), group.get("amsgrad", False)
        self.state: dict[str, Tensor] = {}
        self.steps = 0
        self._index()

    def _index(self) -> None:
        group_of_name = {name: number for number, names in enumerate(self.names) for name in names}
        stack = self.stack
        group_of_element = torch.cat([torch.full((stack.K * numel,), group_of_name[name]) for name, numel in zip(stack.names, stack.numels)])
        self.row_of_element = group_of_element.to(stack.flat.device) * stack.K + stack.member_of_element
        self.table: dict[str, list[float]] = {}
        self.numbers: dict[str, Any] = {}
        self.read()

    def read(self) -> None:
        """Take the rates from the members' own optimizers, where their schedules move them."""
        rows = [[hyperparameters(groups[g]) for groups in self.groups] for g in range(len(self.names))]  # [group][member]
        for key in rows[0][0]:
            values = [one[key] for group in rows for one in group]
            if self.table.get(key) != values:
                self.table[key] = values
                uniform = all(value == values[0] for value in values)
                self.numbers[key] = values[0] if uniform else self._beside(values)

    def read_rates(self) -> None:
        """As `read`, for lr alone: what a schedule moves every step."""
        values = [groups[g]["lr"] for g in range(len(self.names)) for groups in self.groups]
        if self.table["lr"] != values:
            self.table["lr"] = values
            uniform = all(value == values[0] for value in values)
            self.numbers["lr"] = values[0] if uniform else self._beside(values)

    def _beside(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(self.stack.flat).index_select(0, self.row_of_element)

    def cut(self, members: Sequence[int], stack_before: Callable[[Tensor], Tensor]) -> None:
        """Called before the stack itself is cut: the state of these members stays."""
        self.state = {key: stack_before(tensor) for key, tensor in self.state.items()}
        self.groups = [self.groups[k] for k in members]

    def step(self, gradient: Tensor) -> None:
        """5. step, for all members. `gradient` is laid out like the weights and may be overwritten."""
        weights, numbers, state = self.stack.flat, self.numbers, self.state
        self.steps += 1
        if self.maximize:
            gradient.neg_()
        lr, decay = numbers["lr"], numbers.get("weight_decay", 0)
        if self.decoupled:
            if not (isinstance(decay, float | int) and decay == 0):
                weights.mul_(1 - lr * decay)
        elif not (isinstance(decay, float | int) and decay == 0):
            add_product(gradient, weights, decay)
        if self.kind is torch.optim.SGD:
            momentum, dampening = numbers["momentum"], numbers["dampening"]
            if not (isinstance(momentum, float | int) and momentum == 0):
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = gradient.clone()
                elif isinstance(dampening, float | int) and dampening == 0:
                    state["momentum_buffer"].mul_(momentum).add_(gradient)
                else:
                    state["momentum_buffer"].mul_(momentum).add_(gradient * (1 - dampening))
                if self.nesterov:
                    add_product(gradient, state["momentum_buffer"], momentum)
                else:
                    gradient = state["momentum_buffer"]
            add_product(weights, gradient, lr, -1.0)
            return
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weights), torch.zeros_like(weights)
            if self.amsgrad:
                state["max_exp_avg_sq"] = torch.zeros_like(weights)
        beta1, beta2, eps = numbers["beta1"], numbers["beta2"], numbers["eps"]
        if all(isinstance(number, float | int) for number in (beta1, beta2, eps)) and weights.device.type == "cpu":
            # torch's fused kernel with rate 1 on a tensor of zeros gives the direction in one pass over memory; each member's own rate then multiplies it.
            if "direction" not in self.__dict__ or self.direction.numel() != weights.numel():
                self.direction, self.count = torch.zeros_like(weights), torch.tensor(float(self.steps - 1))
            self.direction.zero_()
            self.count.add_(1)
            torch._fused_adam_(
                [self.direction], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [state["max_exp_avg_sq"]] if self.amsgrad else [], [self.count],
                lr=1.0, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=eps, amsgrad=self.amsgrad, maximize=False,
            )  # fmt: skip
            add_product(weights, self.direction, lr)
            return
        state["exp_avg"].add_((gradient - state["exp_avg"]) * (1 - beta1))
        state["exp_avg_sq"].mul_(beta2).add_(gradient.square() * (1 - beta2))
        correction1, correction2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        second = state["exp_avg_sq"]
        if self.amsgrad:
            second = torch.maximum(state["max_exp_avg_sq"], second, out=state["max_exp_avg_sq"])
        denominator = second.sqrt() / correction2**0.5 + eps
        weights.sub_(state["exp_avg"] / denominator * (lr / correction1))


def add_product(target: Tensor, tensor: Tensor, factor: Any, sign: float = 1.0) -> None:
    """target += sign * factor * tensor, in place; `factor` is a number or a tensor beside each element."""
    if isinstance(factor, Tensor):
        target.addcmul_(tensor, factor, value=sign)
    else:
        target.add_(tensor, alpha=sign * factor)


def clip_members(stack: Stack, gradient: Tensor, clip_norms: Tensor | None, clip_value: float | None) -> None:
    """Clip each member's gradients by value, then by their common 2-norm, as `precision.clip` does for one."""
    if clip_value is not None:
        gradient.clamp_(-clip_value, clip_value)
    if clip_norms is not None:
        norms = torch.stack([torch.linalg.vector_norm(view.reshape(stack.K, -1), dim=1) for view in stack.views_of(gradient)])
        total = torch.linalg.vector_norm(norms, dim=0)  # (K,)
        factor = (clip_norms / (total + 1e-6)).clamp(max=1.0)
        gradient.mul_(factor.index_select(0, stack.member_of_element))


def group_names(training: Training) -> list[list[str]]:
    names = {id(parameter): name for name, parameter in training.model.named_parameters()}
    return [[names.get(id(parameter), "?") for parameter in group["params"]] for group in training.optimizer.param_groups]


def hyperparameters(group: dict[str, Any]) -> dict[str, Any]:
    """What may differ between members: numbers that a line of the optimizer multiplies or adds."""
    found = {key: group[key] for key in ("lr", "momentum", "dampening", "weight_decay", "eps") if key in group}
    if "betas" in group:
        found["beta1"], found["beta2"] = group["betas"]
    return found
