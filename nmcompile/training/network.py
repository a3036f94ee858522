"""A Program and a Policy -> a module whose weights are trained under masks -> a Program again."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from nmcompile.convs import get_tensor, read_conv, set_tensor, weight_uses
from nmcompile.program import Program
from nmcompile.training.masking import Masking
from nmcompile.training.policy import Policy


class Trainable:
    """A copy of a program's graph that can be trained; the program itself is left as it was.

    Attributes:
        program: where it came from.
        module: the copy; weights and biases of its layers, and all else that the network holds as
            a parameter, have gradients; a weight that several nodes apply is one parameter.
        maskings: layer name -> what stands between its weight and the network.
    """

    def __init__(self, program: Program, policy: Policy) -> None:
        """Args: program: with a plan; policy: what is masked, and how."""
        self.program, self._policy = program, policy
        self.module = program.clone_module().requires_grad_(False)
        self._names = _trained(self.module)
        for name in self._names:
            set_tensor(self.module, name, get_tensor(self.module, name))
            owner, leaf = _place(self.module, name)
            getattr(owner, leaf).requires_grad_()
        self.maskings: dict[str, Masking] = {}
        for layer in program.the_plan.layers:
            masking = policy.masking(layer, get_tensor(self.module, layer.name))
            if masking is not None:
                owner, leaf = _place(self.module, layer.name)
                parametrize.register_parametrization(owner, leaf, masking)
                self.maskings[layer.name] = masking
        policy.begin(self)

    def __call__(self, image: Tensor) -> Tensor:
        """Runs the network on [N, C, H, W] in its own value range; gradients flow.

        Every masked weight is made once, however many nodes apply it.
        """
        return run(self.module, self.program, image)

    def raw(self, name: str) -> nn.Parameter:
        """What is trained of a layer's weight, before it is masked; may be changed in place."""
        owner, leaf = _place(self.module, name)
        if name not in self.maskings:
            return owner.get_parameter(leaf)
        return owner.get_parameter(f"parametrizations.{leaf}.original")

    def state(self) -> dict[str, Tensor]:
        """A copy of all parameters and buffers, on the CPU."""
        return {n: v.detach().cpu().clone() for n, v in self.module.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        self.module.load_state_dict(state)

    def to_program(self) -> Program:
        """The program with the weights as they are now, exactly zero where masked.

        Of levels it is the last, which keeps what any of them does; the network is left at it.
        Its plan has the policy's patterns, the reasons of layers whose pattern changed saying so.
        """
        self._policy.set_level(self._policy.levels(None)[-1])
        module = self.program.clone_module()
        with torch.no_grad():
            for name in self._names:
                value = get_tensor(self.module, name)
                if name in self.maskings:
                    value = torch.where(self.maskings[name].mask(), value, 0.0)
                set_tensor(module, name, value.cpu().contiguous())
        patterns = self._policy.patterns()
        plan = self.program.the_plan
        reasons = {
            layer.name: "chosen while training"
            for layer in plan.layers
            if patterns.get(layer.name, layer.pattern) != layer.pattern
        }
        result = self.program.with_module(module).with_plan(plan.assign(patterns, reasons))
        return dataclasses.replace(result, facts=result.facts | {"pruned"})


def run(module: nn.Module, program: Program, image: Tensor) -> Tensor:
    """A module with a program's graph, or a wrapper of one, on the image and further inputs."""
    extras = [extra.to(image.device) for extra in program.interface.arguments(image)[1:]]
    with parametrize.cached():
        result: Tensor = module(image, *extras)
    return result


def _trained(module: fx.GraphModule) -> list[str]:
    """The tensors that training changes, in the order in which the graph reads them."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    names = {
        str(node.target): None
        for node in module.graph.nodes
        if node.op == "get_attr" and str(node.target) in parameters
    }
    for nodes in weight_uses(module).values():
        for node in nodes:
            conv = read_conv(node)
            assert conv is not None
            for held in (conv.weight, conv.bias):
                if held is not None and held.op == "get_attr":
                    names[str(held.target)] = None
    return [name for name in names if get_tensor(module, name).is_floating_point()]


def _place(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf
