"""Masks in torch: pruned weights are exactly zero after every optimizer step.

    masked = onnxprune.integrations.torch.apply(net, "masks.safetensors")
    ...  # train as ever
    masked.check()
    masked.remove()

Gradients alone are not enough: momentum and weight decay move a weight whose gradient is zero. So the step of every
optimizer is followed by zeroing; gradients are masked too, so that momentum and clipping do not see what is pruned.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from onnxprune.errors import MaskError
from onnxprune.integrations.matching import Masks, match, revived


class Masked:
    """Masks at work on a module; see `apply`."""

    def __init__(self, module: torch.nn.Module, masks: Masks) -> None:
        named = dict(module.named_parameters(remove_duplicate=False))
        arrays = match(masks, {name: tuple(parameter.shape) for name, parameter in named.items()})
        self._pruned: dict[str, tuple[torch.nn.Parameter, torch.Tensor]] = {}
        names: dict[int, str] = {}
        for name, array in arrays.items():
            parameter, pruned = named[name], torch.from_numpy(~array).to(named[name].device)
            first = names.setdefault(id(parameter), name)
            if first == name:
                self._pruned[name] = parameter, pruned
            elif not torch.equal(pruned, self._pruned[first][1]):
                raise MaskError(f"'{first}' and '{name}' are one parameter, but their masks differ")
        # A hook on all optimizers: it does not matter whether they are made before or after.
        self._hooks = [register_optimizer_step_post_hook(lambda *_: self.zero())]
        self._hooks += [self._hook_gradient(name) for name in self._pruned]
        self.zero()

    def zero(self) -> None:
        """Zero the pruned weights now, as after loading a checkpoint."""
        with torch.no_grad():
            for name, (parameter, _) in self._pruned.items():
                parameter.masked_fill_(self._where(name, parameter), 0)

    def check(self) -> None:
        """Raise WeightError where a pruned weight is not exactly zero."""
        nonzero = {
            name: int(parameter.detach()[self._where(name, parameter)].count_nonzero())
            for name, (parameter, _) in self._pruned.items()
        }
        revived(nonzero)

    def remove(self) -> None:
        """Let the pruned weights train again."""
        for hook in self._hooks:
            hook.remove()

    def _where(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """Where a weight is pruned, on the device where it now is."""
        parameter, pruned = self._pruned[name]
        if pruned.device != like.device:
            pruned = pruned.to(like.device)
            self._pruned[name] = parameter, pruned
        return pruned

    def _hook_gradient(self, name: str) -> Any:
        parameter = self._pruned[name][0]
        trained = parameter.requires_grad
        parameter.requires_grad_(True)  # a frozen weight takes no hook, and may be thawed later
        hook = parameter.register_hook(functools.partial(self._gradient, name))
        parameter.requires_grad_(trained)
        return hook

    def _gradient(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * ~self._where(name, gradient)


def apply(module: torch.nn.Module, masks: Masks) -> Masked:
    """Zero the pruned weights of a module, and keep them zero until `remove`.

    Parameters without a mask are left alone; a tied parameter is masked under any of its names.

    Args:
        module: its `named_parameters` are what `masks` names.
        masks: a mask file, or name -> bool array, True where a weight is kept.

    Raises:
        MaskError: a mask does not fit its parameter, or the masks of a tied parameter differ.
    """
    return Masked(module, masks)
