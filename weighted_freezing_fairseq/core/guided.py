"""Optimizer rows that act anew in every update: Weighted Freezing, SAGE, cautious updates, MoFO, Magma, GMT, SPG, LISA.

The row of the table (`rules.py`) gives the factor -g(I). It multiplies a weight's gradient at stage `gradient`, or the
whole change that the base optimizer makes at stage `update`; at stage `parameter` the base skips parameters with 0.
Cautious weight decay has a factor f(I) of the weight.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from . import kernels, kernels_c
from .kernels_c import GuidedWeight
from .masks import keep_probability, stream_key, uniform
from .rules import ALIGNMENT_BETA, RULES, Given, Rule, alignment, soft_mask
from .scope import Slot, block_size, blocks
from .snapshot import few, fingerprint, mismatches
from .wrapped import MOMENTUM, NORMS, WrappedOptimizer, choice, gradient, optimizer_row

STAGES = ("gradient", "update")
LAYER_PATTERN = r".*?\b(layers?|blocks?|h)\.\d+"  # matches from its start the name of a parameter in a layer
MOMENTUM_KEYS = ("exp_avg", "momentum_buffer")  # in the state of Adam and its like, and of SGD

Statistics = dict[str, Tensor | float]  # of the scores of one slot: lo and hi, mean, rate


class Change(NamedTuple):
    """A weight, its value before the base's step, and the factor for its change."""

    weight: Tensor
    old: Tensor
    factor: Tensor

    @classmethod
    def of(cls, slot: Slot) -> "Change":
        """The change of a slot, with `old` and `factor` uninitialized; `factor` is at least float32."""
        dtype = torch.promote_types(slot.parameter.dtype, torch.float32)
        return cls(slot.weight, torch.empty_like(slot.weight), torch.empty_like(slot.weight, dtype=dtype))


class GuidedOptimizer(WrappedOptimizer):
    """Scales the updates of `base` by a factor that depends on the importance I of each weight.

    In every step I = metric(theta, grad), or |momentum|, is measured on the weights in `slots`. Then

    - at stage `gradient`: grad <- -g(I) * grad; `base.step()`
    - at stage `update`: theta' = theta after `base.step()`; theta <- theta + -g(I) * (theta' - theta), so that g = 0
      also undoes momentum and weight decay.
    - at stage `parameter`, of lisa: where g = 0, the parameter loses its gradient, and its state in the base, so that
      `base.step()` skips it.

    For plain SGD these are the row's f, g, h (`rules.py`). cautious_decay takes over the `weight_decay` of the base's
    parameter groups, which is 0 while the base steps: theta <- f(I) * theta + (theta' - theta). The decay is decoupled
    whatever the base, and weights outside the slots have none.

    Args:
        base: the optimizer that updates the parameters.
        slots: the weights that the method acts on (`scope_of(model)`).
        method: a row of the table, or its name.
        variant: the name of another form of the row.
        importance: the metric (default: that of the row).
        norm: range and mean of scores: within each `tensor`, or over all slots (`global`).
        stage: where g acts (default: the row's stage).
        start: the first update, counted from 1, in which the method acts.
        seed: the seed of random masks.
        beta: decay rate of the moving average of I, for rows that have one. The average of a tensor is divided by
            1 - beta ** t after t updates in which the tensor had a gradient.
        eps: added to numerator and denominator of factors.
        max_scale: upper bound of factors (default: max(1, beta / (1 - beta)), which sage's `full` never exceeds).
        state_dtype: dtype of the moving averages (default: that of the parameter, bfloat16 for float16).
        keep: fraction of the weights that variant `random` of weighted_freeze updates (default: as many as variant
            `important` would update in the same tensor and update).
        fraction: for mofo and gmt: share of the numbers of each tensor that is updated, those with the largest I. For
            magma: probability of a tensor to be updated.
        fisher: for spg: Fisher information of the old task, for each slot by name. A state remembers which it was.
        layers: for lisa: number of layers that are drawn. Parameters outside of layers are always updated.
        period: for lisa: number of updates after which layers are drawn again. The draw depends on seed, number of the
            period and names of layers only; `drawn_layers` holds the last.
        layer_pattern: for lisa: regular expression; what it matches, from the start of a parameter's name, is the name
            of its layer (default: `encoder.layers.0`, `transformer.h.0`, `encoder.block.0` and their like).
        base_fused: run the step of a plain Adam or AdamW by PyTorch's fused implementation, which is equal up to
            rounding. With False the base steps itself, and neutral settings are bit-identical to it.

    Raises:
        ValueError: if a setting has no such value, if a weight in `slots` is not one of the base's, or if the step of
            the base needs a closure; if the row decays and a parameter group of the base has no lr or weight_decay; in
            the first step, if the row reads a momentum and the base keeps none.

    Masking the gradient does not freeze a weight under momentum or weight decay; use stage="update" for that. If you
    inspect gradients, do it before `step()`, which masks them in place. Around Adam and its like, spg at stage
    `gradient` has next to no effect, because its factors do not change and cancel in the step; use stage="update".
    bfloat16 averages stop changing when beta is above about 0.99.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import GuidedOptimizer, scope_of
        >>> model = torch.nn.Linear(8, 2)
        >>> base = torch.optim.Adam(model.parameters(), lr=1e-3)
        >>> optimizer = GuidedOptimizer(base, scope_of(model), "weighted_freeze", stage="update")
        >>> model(torch.randn(4, 8)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.updates
        1
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        slots: Iterable[Slot],
        method: str | Rule = "weighted_freeze",
        *,
        variant: str = "",
        importance: str | None = None,
        norm: Literal["tensor", "global"] = "tensor",
        stage: Literal["gradient", "update"] | None = None,
        start: int = 1,
        seed: int = 1,
        beta: float = 0.75,
        eps: float = 1e-12,
        max_scale: float | None = None,
        state_dtype: torch.dtype | None = None,
        keep: float | None = None,
        fraction: float | None = None,
        fisher: Mapping[str, Tensor] | None = None,
        layers: int | None = None,
        period: int = 20,
        layer_pattern: str = LAYER_PATTERN,
        base_fused: bool = True,
    ) -> None:
        rule = optimizer_row(method, variant, measured=True)
        super().__init__(base, slots, rule, importance, seed, base_fused)
        if rule.decays and any(group.get(key) is None for group in base.param_groups for key in ("lr", "weight_decay")):
            raise ValueError(
                f"{rule.label} needs the lr and weight_decay of the base's parameter groups, and {type(base).__name__} "
                "has none with its settings; choose AdamW as the base"
            )
        self.norm = choice("norm", norm, NORMS)
        self.stage = choice("stage", stage or rule.stage, rule.stages)
        self.start = start
        if not (0 <= beta < 1 and eps >= 0 and (max_scale is None or max_scale > 0)):
            raise ValueError(
                f"beta must be in [0, 1), eps at least 0 and max_scale above 0; got beta {beta}, eps {eps}, "
                f"max_scale {max_scale}"
            )
        if keep is not None and not (rule.has_rate and 0 <= keep <= 1):
            raise ValueError(
                "keep must be between 0 and 1 and needs variant 'random' of weighted_freeze; "
                f"got {keep} for {rule.label}"
            )
        if fraction is None and rule.selects_share:
            raise ValueError(f"{rule.label} needs fraction, the share that is updated, such as fraction=0.5")
        if fraction is not None and not (rule.selects_share and 0 < fraction <= 1):
            methods = " or ".join(repr(row.name) for row in RULES.values() if row.selects_share)
            raise ValueError(
                f"fraction must be above 0 and at most 1, such as 0.5, and needs method {methods}; "
                f"got {fraction} for {rule.label}"
            )
        if fisher is None and rule.reads_gamma:
            raise ValueError(f"{rule.label} needs fisher, the Fisher information of the old task by parameter name")
        if fisher is not None and not rule.reads_gamma:
            methods = " or ".join(repr(row.name) for row in RULES.values() if row.reads_gamma)
            raise ValueError(f"fisher needs method {methods}; leave it out for {rule.label}")
        if layers is None and rule.draws_layers:
            raise ValueError(f"{rule.label} needs layers, the number of layers that are drawn, such as layers=2")
        if layers is not None and not rule.draws_layers:
            methods = " or ".join(repr(row.name) for row in RULES.values() if row.draws_layers)
            raise ValueError(f"layers needs method {methods}; leave it out for {rule.label}")
        self.beta, self.eps, self.state_dtype, self.keep, self.fraction = beta, eps, state_dtype, keep, fraction
        self.max_scale = max(1.0, beta / (1 - beta)) if max_scale is None else max_scale
        self.alignments: dict[str, Tensor] = {}  # one number a slot
        self.averages: dict[str, Tensor] = {}
        self.averaged: dict[str, int] = {}  # number of updates in each average
        self.gammas: dict[str, Tensor] = {}  # of each slot, flat
        self.fisher_fingerprint = ""
        if fisher is not None:
            self._measure_gammas(fisher)
        self.layers, self.period = layers, period
        self.layer_of: dict[str, str] = {}  # of each slot; empty if it is in none
        self.drawn_layers: frozenset[str] = frozenset()
        if layers is not None:
            self._find_layers(layers, layer_pattern)

    def _measure_gammas(self, fisher: Mapping[str, Tensor]) -> None:
        if wrong := mismatches(fisher, [(slot.name, slot.shape) for slot in self.slots]):
            raise ValueError(f"fisher is of another model: {few(wrong)}; measure it on the model of the slots")
        for slot in self.slots:
            dtype = torch.promote_types(slot.parameter.dtype, torch.float32)
            self.gammas[slot.name] = soft_mask(fisher[slot.name]).flatten().to(slot.parameter.device, dtype)
        self.fisher_fingerprint = fingerprint({slot.name: fisher[slot.name] for slot in self.slots})

    def _find_layers(self, layers: int, pattern: str) -> None:
        if self.period < 1:
            raise ValueError(f"period must be at least 1, got {self.period}")
        if isinstance(self.base, torch.optim.Adagrad):
            raise ValueError(
                f"{self.rule.label} drops the state of layers that are not drawn, and Adagrad makes its state only "
                "once; choose another base, such as Adam"
            )
        if any(slot.start is not None for slot in self.slots):
            raise ValueError(
                f"{self.rule.label} needs each weight as a parameter of its own, and {self.slots[0].name} is a part of "
                "one"
            )
        matches = {slot.name: re.match(pattern, slot.name) for slot in self.slots}
        self.layer_of = {name: match[0] if match else "" for name, match in matches.items()}
        count = len(set(self.layer_of.values()) - {""})
        if not count:
            raise ValueError(
                f"no parameter has a name that matches layer_pattern={pattern!r} from its start; "
                f"there are names such as {self.slots[0].name}"
            )
        if not 1 <= layers <= count:
            raise ValueError(f"layers must be between 1 and {count}, the number of layers in scope, got {layers}")

    def _method_state(self) -> dict[str, Any]:
        if self.gammas:
            return {"fisher": self.fisher_fingerprint}
        if self.alignments:
            return {"alignments": dict(self.alignments)}
        return {"averages": dict(self.averages), "averaged": dict(self.averaged)} if self.averages else {}

    def _load_method_state(self, state: dict[str, Any]) -> None:
        if state.get("fisher", self.fisher_fingerprint) != self.fisher_fingerprint:
            raise ValueError("this state was saved with another Fisher information than this run's")
        alignments = {slot: state.get("alignments", {}).get(slot.name) for slot in self.slots}
        self.alignments = {s.name: a.to(s.parameter.device, copy=True) for s, a in alignments.items() if a is not None}
        saved = state.get("averages", {})
        self.averages = {s.name: self._average_of(s).copy_(saved[s.name]) for s in self.slots if s.name in saved}
        # States of earlier versions have no counts: every average had seen all updates since `start`.
        since_start = state.get("updates", 0) - self.start + 1
        self.averaged = {name: state.get("averaged", {}).get(name, since_start) for name in self.averages}

    @property
    def extra_bytes(self) -> int:
        """Bytes of the moving averages, and of gamma."""
        tensors = (*self.averages.values(), *self.alignments.values(), *self.gammas.values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _update(self, active: Sequence[Slot]) -> None:
        if self.updates < self.start:
            active = []
        if self.rule.averages:
            for slot in active:
                self.averaged[slot.name] = self.averaged.get(slot.name, 0) + 1
        changes = {slot.name: Change.of(slot) for slot in active} if self.stage == "update" else {}
        if self.rule.decays and self.updates >= self.start:
            self._step_and_decay_(active, changes)
            self._record_statistics(self._sums_of_changes(active, changes))
            return
        if self.rule.follows_step:
            self._step_and_fill_factors_(active, changes)
            self._record_statistics(self._sums_of_changes(active, changes))
        elif self.rule.draws_layers:
            self._draw_layers()
            self._record_statistics(self._sums(active))
            self._leave_out_layers()
            self._step_base()
        else:
            self._record_statistics(self._sums(active))
            if not self._scale_by_kernel_(active, changes):
                self._scale_(active, changes)
            self._step_base()
        self._apply_(list(changes.values()))

    # 1. Statistics of the scores.

    def _statistics(self, slots: Sequence[Slot], without_range: bool = False) -> list[Statistics]:
        """The statistics that the row `needs`, for each slot."""
        if not slots:
            return []
        needs = set(self.rule.needs)
        columns: dict[str, Sequence[Tensor | float]] = {}
        if needs & {"lo", "hi"} and not without_range:
            columns["lo"], columns["hi"] = self._ranges(slots)
        if "mean" in needs:
            columns["mean"] = self._means(slots)
        if "rate" in needs:
            columns["rate"] = self._rates(slots)
        return [{name: column[index] for name, column in columns.items()} for index in range(len(slots))]

    def _ranges(self, slots: Sequence[Slot]) -> tuple[list[Tensor], list[Tensor]]:
        """The smallest and the largest score of each slot, or of all slots together."""
        lo, hi = [], []
        for slot in slots:
            bounds = [torch.aminmax(self._scores(weight, grad)) for _, (weight, grad) in self._blocks(slot)]
            lo.append(torch.stack([block.min for block in bounds]).amin())
            hi.append(torch.stack([block.max for block in bounds]).amax())
        if self.norm == "tensor":
            return lo, hi
        return _copies(_stack(lo).amin(), slots), _copies(_stack(hi).amax(), slots)

    def _means(self, slots: Sequence[Slot]) -> list[Tensor]:
        """The mean score of each slot, or of all slots together."""
        means = [self._mean(slot) for slot in slots]
        if self.norm == "tensor":
            return means
        total = sum(map(len, slots))
        shares = [mean.double() * (len(slot) / total) for mean, slot in zip(means, slots, strict=True)]
        return _copies(_stack(shares).sum().to(means[0].dtype), slots)

    def _mean(self, slot: Slot) -> Tensor:
        """The mean score of a slot, accumulated in float64."""
        sums = [self._scores(weight, grad).sum(dtype=torch.float64) for _, (weight, grad) in self._blocks(slot)]
        return (torch.stack(sums).sum() / len(slot)).to(torch.promote_types(slot.parameter.dtype, torch.float32))

    def _rates(self, slots: Sequence[Slot]) -> Sequence[Tensor | float]:
        """The fraction of each slot that is updated: `keep`, or the mean `keep_probability` of its scores."""
        if self.keep is not None:
            return [self.keep] * len(slots)
        return [
            keep_probability(self._mean(slot), lo, hi) for slot, lo, hi in zip(slots, *self._ranges(slots), strict=True)
        ]

    # 2. The moving average of I.

    def _average_of(self, slot: Slot) -> Tensor:
        """The average of a slot, zero at first.

        Its dtype is `state_dtype` or the parameter's, but bfloat16 in place of float16: I is a product of two small
        numbers, which underflows in float16.
        """
        if slot.name not in self.averages:
            dtype = self.state_dtype or slot.parameter.dtype
            dtype = torch.bfloat16 if dtype == torch.float16 else dtype
            self.averages[slot.name] = torch.zeros(slot.shape, dtype=dtype, device=slot.parameter.device)
        return self.averages[slot.name]

    def _average_input(self, slot: Slot) -> tuple[Tensor, ...]:
        """The average of a slot if the row has one, as a tuple to pass to `_blocks`."""
        return (self._average_of(slot),) if self.rule.averages else ()

    def _next_average(self, average: Tensor, scores: Tensor) -> Tensor:
        """beta * average + (1 - beta) * I, in the average's dtype."""
        result = average.to(scores.dtype, copy=True).mul_(self.beta).add_(scores * (1 - self.beta))
        return result.to(average.dtype)

    def _correction(self, slot: Slot) -> float:
        # DEVIATION: neither paper prints a correction of the average for its start at zero. The code of Liang et al.
        # has it for Adam and not for Adamax; here it is always there, so that in a tensor's first update the average
        # is I itself and (but for eps) nothing moves.
        return 1 / (1 - self.beta ** self.averaged[slot.name])

    # 3. The factors -g(I).

    # DEVIATION: the code of Liang et al. scales Adam's step and leaves decoupled weight decay as it is. Both papers'
    # equations scale the learning rate, which the decay is multiplied by too: so does stage `update`.
    def _scale_(self, active: Sequence[Slot], changes: Mapping[str, Change]) -> None:
        """Stage `gradient`: grad <- -g(I) * grad. Stage `update`: set `old` and `factor` = -g(I) of each change."""
        for slot, statistics in zip(active, self._statistics(active), strict=True):
            change = changes.get(slot.name)
            target = gradient(slot) if change is None else change.factor
            for start, (weight, grad, output, *averages) in self._blocks(slot, target, *self._average_input(slot)):
                scores = self._scores(weight, grad)
                for average in averages:
                    average.copy_(self._next_average(average, scores))
                factor = self._factor(slot, statistics, start, scores, *averages)
                if change is None:
                    output.mul_(factor)
                else:
                    output.copy_(factor)
            if change is not None:
                change.old.copy_(slot.weight)

    def _factor(
        self, slot: Slot, statistics: Statistics, at: int, scores: Tensor, average: Tensor | None = None
    ) -> Tensor:
        """-g(I) for the block of a slot that begins at number `at`."""
        quantities: dict[str, Any] = {**statistics, "eps": self.eps, "max_scale": self.max_scale}
        quantities["fraction"] = self.fraction
        if self.rule.draws:
            u = uniform(scores.numel(), self._stream_key(slot), at, scores.device)
            quantities["u"] = u.view(scores.shape)
        if self.rule.draws_tensors:
            quantities["coin"] = uniform(1, self._stream_key(slot), device=scores.device)
        if self.rule.draws_layers:
            quantities["drawn"] = torch.full_like(scores, self._drawn(slot))
        if self.rule.reads_gamma:
            gamma = self.gammas[slot.name][at : at + scores.numel()]
            quantities["gamma"] = gamma.view(scores.shape).to(scores.dtype)
        if average is not None:
            quantities["average"] = average.to(scores.dtype) * self._correction(slot)
        return -self.rule.g.value(scores, Given(**quantities))

    def _stream_key(self, slot: Slot) -> tuple[int, int]:
        return stream_key(self.seed, self.updates, slot.name)

    def _scale_by_kernel_(self, active: Sequence[Slot], changes: Mapping[str, Change]) -> bool:
        """Do `_scale_` in a kernel; returns False if no kernel computes this row or supports these tensors."""
        tensors = [tensor for slot in active for tensor in (slot.weight, gradient(slot))]
        tensors += [tensor for change in changes.values() for tensor in change]
        averages = [average for slot in active for average in self._average_input(slot)]
        constants = (self.beta, self.eps, self.max_scale)
        kernel = kernels_c.kernel_of(self.rule.g.value, self.importance, averages, constants)
        module = kernels.module_for(tensors)
        if module is None or kernel is None or (kernel.scales and self.stage == "gradient"):
            return False
        change_action = kernels_c.SCALE_CHANGE if kernel.scales else kernels_c.CHANGE
        action = kernels_c.GRADIENT if self.stage == "gradient" else change_action
        guided_weights = []
        for slot, statistics in zip(active, self._statistics(active, without_range=True), strict=True):
            _, old, factor = changes.get(slot.name, (None, None, None))
            operand = statistics.get("rate", statistics.get("mean", 0.0))
            if self.rule.averages:
                operand = self._correction(slot)
            average, key = self.averages.get(slot.name), self._stream_key(slot)
            guided_weights.append(GuidedWeight(action, slot.weight, gradient(slot), old, factor, average, key, operand))
        module.guide_(guided_weights, self.importance, kernel, self.norm == "global")
        return True

    def _draw_layers(self) -> None:
        """Draw the layers of the period that this update is in; before `start` all are drawn."""
        layers = set(self.layer_of.values()) - {""}
        if self.updates >= self.start:
            period = (self.updates - 1) // self.period
            layers = set(sorted(layers, key=lambda layer: stream_key(self.seed, period, layer))[: self.layers])
        self.drawn_layers = frozenset(layers)

    def _drawn(self, slot: Slot) -> float:
        """1 if the layer of a slot is drawn, or if it is in none, else 0."""
        layer = self.layer_of[slot.name]
        return float(not layer or layer in self.drawn_layers)

    # DEVIATION: the experiments of Pan et al. began each period as a run of its own, as an author says in an issue of
    # their code, so that all moments started at zero; their published code keeps the moments of frozen layers, and a
    # second version beside it drops them. Here a layer that is drawn after it was frozen starts afresh, and what is
    # always trained keeps its moments.
    def _leave_out_layers(self) -> None:
        """Take gradient and state from parameters with factor 0: the base skips a parameter without a gradient."""
        for slot in self.slots:
            factor = -self.rule.g.value(slot.weight, Given(drawn=self._drawn(slot)))
            if factor not in (0, 1):
                raise ValueError(f"{self.rule.label} differs from {self.rule.source}: its factor is not 0 or 1")
            if factor == 0:
                slot.parameter.grad = None
                self.base.state.pop(slot.parameter, None)

    # 4. The change of the base's step.

    def _step_and_fill_factors_(self, active: Sequence[Slot], changes: Mapping[str, Change]) -> None:
        """Step the base, and set `old` and `factor` = -g(I) of each change, for rows that follow the step."""
        for change in changes.values():
            change.old.copy_(change.weight)
        self._step_base()
        for slot in active:
            weight, old, factor = changes[slot.name]
            quantities: Statistics = {
                "step": weight.to(factor.dtype) - old.to(factor.dtype),
                "grad": gradient(slot).to(factor.dtype),
            }
            if self.rule.reads_momentum:
                quantities["momentum"] = self._momentum(slot)
            if self.rule.aligns:
                quantities["alignment"] = self._next_alignment(slot).to(factor.dtype)
            factor.copy_(self._factor(slot, quantities, 0, self._scores_after_step(slot, old)))

    def _next_alignment(self, slot: Slot) -> Tensor:
        """The average of the alignment of a slot's momentum and gradient, with this update's, which is kept."""
        momentum = self._momentum(slot)
        new = alignment(momentum, gradient(slot).to(momentum.dtype))
        old = self.alignments.get(slot.name, new)
        self.alignments[slot.name] = ALIGNMENT_BETA * old + (1 - ALIGNMENT_BETA) * new
        return self.alignments[slot.name]

    def _scores_after_step(self, slot: Slot, old: Tensor) -> Tensor:
        """I of a whole slot after the base's step, before which its weight was `old`."""
        return self._momentum(slot).abs() if self.importance == MOMENTUM else self._scores(old, gradient(slot))

    def _momentum(self, slot: Slot) -> Tensor:
        """The momentum of a slot in the base's state, at least in float32."""
        state = self.base.state[slot.parameter]
        momentum = next((state[key] for key in MOMENTUM_KEYS if state.get(key) is not None), None)
        if momentum is None:
            raise ValueError(
                f"{self.rule.name} reads a momentum ({' or '.join(MOMENTUM_KEYS)}), and {type(self.base).__name__} "
                "keeps none with its settings; choose Adam as the base, or SGD with momentum 0.9"
            )
        return slot.part(momentum).to(torch.promote_types(momentum.dtype, torch.float32))

    @staticmethod
    def _apply_(changes: Sequence[Change]) -> None:
        """weight <- old + factor * (weight - old), exact for factors 0 and 1."""
        module = kernels.module_for(tensor for change in changes for tensor in change)
        if module is not None:
            module.advance_(changes)
            return
        for change in changes:
            for _, (weight, old, factor) in blocks(change.weight.numel(), block_size(change.weight), *change):
                new = weight.to(factor.dtype)
                step = new - old.to(factor.dtype)
                weight.copy_(torch.where(factor < 0.5, old + factor * step, new - (1 - factor) * step))

    # 5. The weight decay of a row that has one.

    def _step_and_decay_(self, active: Sequence[Slot], changes: Mapping[str, Change]) -> None:
        """Step the base without its weight decay, then weight <- weight + (f(I) - 1) * old; `factor` is f(I)."""
        settings = {id(p): (group["lr"], group["weight_decay"]) for group in self.param_groups for p in group["params"]}
        for change in changes.values():
            change.old.copy_(change.weight)
        self._step_base_without_decay()
        for slot in active:
            weight, old, factor = changes[slot.name]
            theta, (eta, lam) = old.to(factor.dtype), settings[id(slot.parameter)]
            given = Given(theta=theta, step=weight.to(factor.dtype) - theta, eta=eta, lam=lam)
            factor.copy_(self.rule.f.value(theta, given))
            weight.add_((factor - 1) * theta)

    def _step_base_without_decay(self) -> None:
        decays = [group["weight_decay"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                group["weight_decay"] = 0.0
            self._step_base()
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay

    # The sums that are logged (`_record_statistics`).

    def _sums(self, active: Sequence[Slot]) -> Iterator[tuple[Slot, Tensor]]:
        """The sums of each slot before the base's step."""
        for slot, statistics in zip(active, self._statistics(active), strict=True):
            sums = torch.zeros(3, dtype=torch.float64, device=slot.parameter.device)
            for start, (weight, grad, *averages) in self._blocks(slot, *self._average_input(slot)):
                scores = self._scores(weight, grad)
                averages = [self._next_average(average, scores) for average in averages]
                sums += self._block_sums(self._factor(slot, statistics, start, scores, *averages), scores)
            yield slot, sums

    def _sums_of_changes(self, active: Sequence[Slot], changes: Mapping[str, Change]) -> Iterator[tuple[Slot, Tensor]]:
        """The sums of each slot after the base's step, with the factors of the changes."""
        for slot in active:
            _, old, factor = changes[slot.name]
            yield slot, self._block_sums(factor, self._scores_after_step(slot, old))

    def _block_sums(self, factor: Tensor, scores: Tensor) -> Tensor:
        effect = factor.double().sum() if self.rule.scales else (factor == 0).sum().double()
        scores = scores.double()
        return torch.stack([effect, scores.sum(), scores.square().sum()])


def _stack(numbers: Sequence[Tensor]) -> Tensor:
    """Numbers of several devices as one vector on the device of the first."""
    return torch.stack([number.to(numbers[0].device) for number in numbers])


def _copies(number: Tensor, slots: Sequence[Slot]) -> list[Tensor]:
    """`number` on the device of each slot."""
    return [number.to(slot.parameter.device) for slot in slots]
