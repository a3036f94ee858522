"""A dense network, costs and a budget -> gates that learn each layer's N while its weights train.

"Attentive Fine-Grained Structured Sparsity for Image Restoration" (SLS), Oh et al., CVPR 2022.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nmcompile.pattern import DENSE, Pattern
from nmcompile.plan import Layer
from nmcompile.training.masking import Masking
from nmcompile.training.network import Trainable
from nmcompile.training.policy import OneLevel
from nmcompile.training.ranks import entry_levels

# The paper's lambda of 1e-10 on raw MACs, with L1 on 0..255: CARN's 3.567e9 MACs a patch make it
# 0.357 / 255 of the value range for a network that is wholly dense.
PENALTY = 0.0014
_OPEN = 0.5
_ANNEALING, _STALLED = 1.2, 0.2
DEADLINE = 0.5  # share of the training by which the search ends, met its budget or not


class Gates(nn.Module):
    """M - 1 scalars k -> how many of M weights are kept, 1 .. M, and a gradient for each step.

    p_1 = 1, p_{i+1} = k_1 ... k_i, each k between 0 and 1; weight i of the ranking is kept where
    p_i > 0.5. Backwards the comparison counts as the identity (section 3.3 of the paper; its code
    clamps k at 1.03, which the paper does not and which lets p grow again).
    """

    speed: Tensor

    def __init__(self, m: int, speed: float) -> None:
        """Args: m: weights of a group; speed: how many times as fast as `travelled` k moves."""
        super().__init__()
        self.travelled = nn.Parameter(torch.zeros(m - 1))
        # In the module's state, so that a run resumed at another rate finds its gates in place.
        self.register_buffer("speed", torch.tensor(speed))

    def chain(self) -> Tensor:
        """p [M], falling from 1."""
        k = (1 - self.speed * self.travelled).clamp(0, 1)
        return torch.cat([k.new_ones(1), k.cumprod(0)])

    def confine(self) -> None:
        """Puts k back between 0 and 1: beyond, the clamp would let no gradient reach it again."""
        with torch.no_grad():
            self.travelled.clamp_(0, 1 / float(self.speed))

    def forward(self) -> Tensor:
        """1 or 0 for each place of the ranking [M]."""
        p = self.chain()
        return (p > _OPEN).to(p.dtype) - p.detach() + p


class GatedMask(Masking):
    """A weight whose mask follows the gates until it is frozen."""

    levels: Tensor
    count: Tensor

    def __init__(self, weight: Tensor, layer: Layer, family: Pattern, speed: float) -> None:
        """Args: weight: as the network starts; layer, family: see entry_levels."""
        super().__init__()
        self.layer, self.family = layer, family
        self.gates = Gates(family.m, speed)
        self.register_buffer("levels", entry_levels(weight, layer, family))
        self.register_buffer("count", torch.tensor(0))  # N once it is frozen

    def forward(self, weight: Tensor) -> Tensor:
        """The weight as the network applies it; pruned weights get no gradient."""
        if self.count:
            return weight * (self.levels < self.count)
        gates: Tensor = self.gates()
        return weight * gates[self.levels]

    def mask(self) -> Tensor:
        """What is kept now."""
        return self.levels < self.n

    @property
    def n(self) -> int:
        """N as it is now."""
        return int(self.count) or int((self.gates.chain() > _OPEN).sum())

    def freeze(self, n: int) -> None:
        """N stays; which weights these are still follows the ranking."""
        self.count.fill_(n)

    def rank(self, weight: Tensor) -> None:
        """Ranks the weights anew."""
        self.levels.copy_(entry_levels(weight, self.layer, self.family))


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched for, and how fast.

    Attributes:
        family: v, m and whole of all layers' patterns.
        limit: the most that the layers may cost together.
        fixed: what the other layers cost, whatever is chosen.
        epochs: of the whole training; at the end of each the weights are ranked.
    """

    family: Pattern
    limit: float
    fixed: float
    epochs: int


class SlsPolicy(OneLevel):
    """SLS: learns N of every layer under a cost regulariser, then trains on with N fixed.

    Deviations from the authors' code: costs may be milliseconds as well as MACs; groups of
    convolutions count; the regulariser is scaled by what the network costs dense, and the loss is
    taken in 0..1; k is kept from growing beyond 1, where it would be out of reach of any gradient;
    a search that has not met its budget halfway is ended by closing the gates of least p.
    """

    def __init__(self, search: Search, costs: Mapping[str, Sequence[float]], speed: float) -> None:
        """Starts with every layer dense.

        Args:
            search: see Search.
            costs: layer name -> cost of N = 1 .. M; layers that are not there stay dense.
            speed: see Gates.
        """
        self.search = search
        self._costs = {name: torch.tensor(cost) for name, cost in costs.items()}
        self._speed = speed
        self._maskings: dict[str, GatedMask] = {}
        self._network: Trainable | None = None
        self._strength = PENALTY
        self._last_share = 1.0
        self._epoch = 0
        self.found_at: float | None = None
        self.forced = False

    def masking(self, layer: Layer, weight: Tensor) -> Masking | None:
        """Gates for a layer that may become sparse."""
        if layer.name not in self._costs:
            return None
        made = GatedMask(weight, layer, self.search.family, self._speed)
        self._maskings[layer.name] = made
        return made

    def begin(self, network: Trainable) -> None:
        """Takes the weights that are to be ranked."""
        self._network = network

    def ready(self) -> bool:
        """Whether the budget is met, so that the network as it is may be kept."""
        return self.found_at is not None

    def penalty(self) -> Tensor | float:
        """The regulariser: grows with the share of the dense cost that is left."""
        if self.ready():
            return 0.0
        left = sum(
            (self._cost(name, masking) for name, masking in self._maskings.items()),
            torch.zeros(()),
        )
        return (left + self.search.fixed) / self._dense * self._strength

    def before_step(self, progress: float) -> None:
        """Nothing: gradients pass the masks as they are."""

    def after_step(self, progress: float) -> Collection[str]:
        """Ends the search where the budget is met; once an epoch ranks, and presses on."""
        for masking in self._maskings.values():
            masking.gates.confine()
        if not self.ready() and self.cost <= self.search.limit:
            self._freeze(progress)
        if not self.ready() and progress >= DEADLINE:
            self._force(progress)
        epoch = int(progress * self.search.epochs)
        if epoch == self._epoch:
            return ()
        self._epoch = epoch
        assert self._network is not None
        for name, masking in self._maskings.items():
            masking.rank(self._network.raw(name))
        if epoch % 2 == 0:
            share = self.cost / self._dense
            if abs(share - self._last_share) < _STALLED:
                self._strength *= _ANNEALING
            self._last_share = share
        return ()

    @property
    def cost(self) -> float:
        """What all layers cost with their N as it is."""
        own = (float(self._costs[name][m.n - 1]) for name, m in self._maskings.items())
        return sum(own) + self.search.fixed

    def describe(self) -> str:
        """The share of the dense cost that is left, and where the search stands."""
        share = f"{self.cost / self._dense:.3f} of the cost"
        if self.found_at is None:
            return f"{share}, searching"
        how = "ended" if self.forced else "done"
        return f"{share}, search {how} at {self.found_at:.0%} of the training"

    def patterns(self) -> dict[str, Pattern]:
        """The patterns that the masks follow."""
        return {
            name: DENSE if m.n == m.family.m else dataclasses.replace(m.family, n=m.n)
            for name, m in self._maskings.items()
        }

    def state(self) -> dict[str, Any]:
        """What the maskings do not hold themselves."""
        return {
            "strength": self._strength, "last_share": self._last_share, "epoch": self._epoch,
            "found_at": self.found_at, "forced": self.forced,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Takes what state() gave."""
        self._strength, self._last_share = state["strength"], state["last_share"]
        self._epoch = state["epoch"]
        self.found_at, self.forced = state["found_at"], state["forced"]

    @property
    def _dense(self) -> float:
        return self.search.fixed + sum(float(cost[-1]) for cost in self._costs.values())

    def _cost(self, name: str, masking: GatedMask) -> Tensor:
        """Differentiable: the cost of N = 1, and what each further open gate adds."""
        gates = masking.gates()
        cost = self._costs[name].to(gates.device)
        added: Tensor = cost[0] + (gates[1:] * cost.diff()).sum()
        return added

    def _freeze(self, progress: float) -> None:
        for masking in self._maskings.values():
            masking.freeze(masking.n)
        self.found_at = progress

    def _force(self, progress: float) -> None:
        """Closes gates of least p, of equals those that save most, until the budget is met."""
        chains = {name: m.gates.chain().tolist() for name, m in self._maskings.items()}
        counts = {name: m.n for name, m in self._maskings.items()}
        cost = self.cost

        def saved(name: str) -> float:
            costs = self._costs[name]
            return float(costs[counts[name] - 1] - costs[counts[name] - 2])

        while cost > self.search.limit:
            able = [name for name, n in counts.items() if n > 1]
            least = min(able, key=lambda name: (chains[name][counts[name] - 1], -saved(name)))
            cost -= saved(least)
            counts[least] -= 1
        for name, masking in self._maskings.items():
            masking.freeze(counts[name])
        self.found_at, self.forced = progress, True
