"""The optimizer row that draws the layers to train: LISA (Pan et al. 2024).

Where the factor -g is 0, a parameter loses its gradient and its state in the base, which skips it.
"""

import re
from collections.abc import Iterable, Sequence

import torch

from .masks import stream_key
from .rules import Given, Rule
from .scope import Slot
from .wrapped import WrappedOptimizer

LAYER_PATTERN = r".*?\b(layers?|blocks?|h)\.\d+"  # matches from its start the name of a parameter in a layer


class DrawnLayersOptimizer(WrappedOptimizer):
    """Updates by `base` a few layers, which are drawn anew now and then, and all parameters outside of layers.

    The base keeps state for these only: a layer that is drawn again starts afresh.

    Args:
        method: `lisa`, or a row of the table.
        layers: number of layers that are drawn.
        period: number of updates after which layers are drawn again. The draw depends on seed, number of the period and
            names of layers only; `drawn_layers` holds the last.
        layer_pattern: regular expression; what it matches, from the start of a parameter's name, is the name of its
            layer (default: `encoder.layers.0`, `transformer.h.0`, `encoder.block.0` and their like).

    The other arguments are those of `GuidedOptimizer`.

    Raises:
        ValueError: if a setting has no such value, if a slot is a part of a parameter, or if the base is Adagrad.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import DrawnLayersOptimizer, scope_of
        >>> model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))})
        >>> base = torch.optim.AdamW(model.parameters(), lr=1e-3)
        >>> optimizer = DrawnLayersOptimizer(base, scope_of(model, "all"), layers=1, period=10)
        >>> sum(layer(torch.randn(2, 4)).sum() for layer in model["layers"]).backward()
        >>> optimizer.step()
        >>> len(optimizer.drawn_layers), len(base.state)  # a matrix and a bias
        (1, 2)
    """

    gives = frozenset(("drawn",))
    stages = ("parameter",)

    def __init__(
        self,
        base: torch.optim.Optimizer,
        slots: Iterable[Slot],
        method: str | Rule = "lisa",
        *,
        layers: int,
        period: int = 20,
        layer_pattern: str = LAYER_PATTERN,
        importance: str | None = None,
        start: int = 1,
        seed: int = 1,
        base_fused: bool = True,
    ) -> None:
        super().__init__(base, slots, method, importance, seed, base_fused, start=start)
        if period < 1:
            raise ValueError(f"period must be at least 1, got {period}")
        if isinstance(base, torch.optim.Adagrad):
            raise ValueError(
                f"{self.rule.label} drops the state of layers that are not drawn, and Adagrad makes its state only "
                "once; choose another base, such as Adam"
            )
        if any(slot.start is not None for slot in self.slots):
            raise ValueError(
                f"{self.rule.label} needs each weight as a parameter of its own, and {self.slots[0].name} is a part of "
                "one"
            )
        matches = {slot.name: re.match(layer_pattern, slot.name) for slot in self.slots}
        self.layer_of = {name: match[0] if match else "" for name, match in matches.items()}  # empty if it is in none
        self.all_layers = frozenset(self.layer_of.values()) - {""}
        if not self.all_layers:
            raise ValueError(
                f"no parameter has a name that matches layer_pattern={layer_pattern!r} from its start; "
                f"there are names such as {self.slots[0].name}"
            )
        if not 1 <= layers <= len(self.all_layers):
            raise ValueError(
                f"layers must be between 1 and {len(self.all_layers)}, the number of layers in scope, got {layers}"
            )
        self.layers, self.period = layers, period
        self.drawn_layers: frozenset[str] = frozenset()

    def _update(self, active: Sequence[Slot]) -> None:
        self.drawn_layers = self._draw() if self.started else self.all_layers
        factors = {slot.name: self._factor(slot) for slot in self.slots}
        self._record_statistics((slot, self._mask_sums(slot, len(slot) * (1 - factors[slot.name]))) for slot in active)
        # DEVIATION: the experiments of Pan et al. began each period as a run of its own, as an author says in an issue
        # of their code, so that all moments started at zero; their published code keeps the moments of frozen layers,
        # and a second version beside it drops them. Here a layer that is drawn after it was frozen starts afresh, and
        # what is always trained keeps its moments.
        for slot in self.slots:
            if factors[slot.name] == 0:
                slot.parameter.grad = None
                self.base.state.pop(slot.parameter, None)
        self._step_base()

    def _draw(self) -> frozenset[str]:
        """The layers of the period that this update is in."""
        period = (self.updates - 1) // self.period
        return frozenset(sorted(self.all_layers, key=lambda name: stream_key(self.seed, period, name))[: self.layers])

    def _factor(self, slot: Slot) -> float:
        """-g: 1 if the layer of a slot is drawn, or if it is in none, else 0."""
        layer = self.layer_of[slot.name]
        factor = -self.rule.g.value(slot.weight, Given(drawn=float(not layer or layer in self.drawn_layers)))
        if factor not in (0, 1):
            raise ValueError(f"{self.rule.label} differs from {self.rule.source}: its factor is not 0 or 1")
        return float(factor)
