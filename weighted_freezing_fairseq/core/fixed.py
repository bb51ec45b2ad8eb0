"""Guided by a mask that is made once and stays: FISH Mask (Sung et al. 2021) and LFR-CM (Gu et al. 2022).

A weight outside the mask is bit-identical to its start after any number of updates, whatever momentum and decay do.
Where few numbers of a parameter move, the base holds just these (`compressed_state.py`). Left out on purpose: how
Fisher information is measured well (`fisher.py`); what is measured here, in the first updates, is the cheap squared
gradient of the batch.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from . import kernels_c
from .compressed_state import CompressedState, is_elementwise, is_worth_compressing
from .importance import fisher
from .masks import count_beside, largest_beside, quantile, stream_key, uniform
from .rules import Given, Rule
from .scope import Slot
from .snapshot import pack_bits, unpack_bits
from .wrapped import NORMS, WrappedOptimizer, choice, gradient, optimizer_row

# What a mask can be chosen by, beside Fisher information: the baselines of Sung et al. 2021, section 4.
SOURCES: Mapping[str, Callable[[Slot, int], Tensor]] = MappingProxyType(
    {
        "random": lambda slot, seed: uniform(len(slot), stream_key(seed, 0, slot.name), 0, slot.weight.device).view(
            slot.shape
        ),
        "magnitude": lambda slot, seed: slot.weight.abs().float(),
        "bias": lambda slot, seed: torch.full(slot.shape, float(slot.name.endswith("bias")), device=slot.weight.device),
    }
)


class FixedMaskOptimizer(WrappedOptimizer):
    """`base`, updating only the numbers that a mask lets move, the same ones in every update.

    method: `fish_mask` or `lfr_cm`. slots: the weights that are masked; others train as ever. What decides is, for
    fish_mask, `masks` (by slot name, 1 = is updated) or `density`: exactly k = round(density * n) of the n numbers in
    all slots, those with the largest scores; for lfr_cm `tau` or `quantile`: the numbers with scores up to tau, or up
    to the score that this fraction of the numbers does not exceed, in each tensor or over all (`norm="global"`).
    source: the scores, by slot name; or `fisher`: the mean of grad ** 2 over the first `observe` updates, in which no
    weight in scope or out of it moves; or `random`, `magnitude`; or `bias`: exactly the biases (BitFit), no density.
    always: a regular expression; parameters whose name it matches are in the mask, and count in k. never, for
    lfr_cm: likewise; these parameters never move, and their scores do not count.

    Not for training from scratch: what is important there is not known before. Around a base that does not treat every
    number by itself (Adafactor) the gradient is masked in place, and no state is saved.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        slots: Iterable[Slot],
        method: str | Rule = "fish_mask",
        *,
        masks: Mapping[str, Tensor] | None = None,
        density: float | None = None,
        tau: float | None = None,
        quantile: float | None = None,
        source: str | Mapping[str, Tensor] = "fisher",
        observe: int = 1,
        norm: Literal["tensor", "global"] = "tensor",
        always: str = "",
        never: str = "",
        seed: int = 1,
        base_fused: bool = True,
    ) -> None:
        super().__init__(base, slots, optimizer_row(method, "", measured=False), None, seed, base_fused)
        self.density, self.tau, self.quantile, self.source, self.observe = density, tau, quantile, source, observe
        self.norm = choice("norm", norm, NORMS)
        self.always = re.compile(always) if always else None
        self.never = re.compile(never) if never else None
        self.masks: dict[str, Tensor] | None = None
        self.observed: dict[str, Tensor] = {}
        self._compressed: CompressedState | None = None
        self._held: list[tuple[Tensor, Tensor]] = []
        self._check()
        if masks is not None:
            self.masks = self._by_the_row([Given(mask=masks[s.name] | self._forced(s)) for s in self.slots], None)
        elif not isinstance(source, str) or source in ("random", "bias"):
            self.masks = self._chosen()  # neither weights nor gradients are needed

    # Which numbers move.

    def _check(self) -> None:
        known = ("fisher", *SOURCES)
        if isinstance(self.source, str) and self.source not in known:
            raise ValueError(f"unknown source {self.source!r}; choose one of: {', '.join(known)}")
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(f"density must be above 0 and at most 1, got {self.density}")
        if self.quantile is not None and not 0 < self.quantile <= 1:
            raise ValueError(f"quantile must be above 0 and at most 1, got {self.quantile}")
        if self.never and not self.rule.has_threshold:
            raise ValueError(f"never is an option of lfr_cm, not of {self.rule.name}; choose other slots instead")
        if self.observe < 1:
            raise ValueError("no update to estimate the mask in; give observe >= 1")
        if self.always and not any(self.always.search(slot.name) for slot in self.slots):
            raise ValueError(f"no parameter in scope has a name with {self.always.pattern!r} in it, such as "
                             f"{self.slots[0].name}")  # fmt: skip
        if self.density is not None:
            count_beside({slot.name: len(slot) for slot in self.slots}, self.density, self.always)

    def _forced(self, slot: Slot) -> bool:
        return bool(self.always and self.always.search(slot.name))

    def _excluded(self, slot: Slot) -> bool:
        return bool(self.never and self.never.search(slot.name))

    def _thresholds(self, scores: Sequence[Tensor]) -> list[float]:
        """Up to which score the numbers of each slot move."""
        # DEVIATION: Li et al. section 2.2 do not say over what the quantile is taken; the code of Gu et al. takes it in
        # each tensor (the default), and leaves norms and positions out (`never`).
        if self.quantile is None:
            if self.tau is None:
                raise ValueError(f"{self.rule.name} needs tau or quantile")
            thresholds = [self.tau] * len(scores)
        elif self.norm == "global":
            counted = [score for score, slot in self._with(scores) if not self._excluded(slot)]
            thresholds = [quantile(counted, self.quantile)] * len(scores)
        else:
            thresholds = [quantile([score], self.quantile) if score.numel() else 0.0 for score in scores]
        return [-math.inf if self._excluded(slot) else t for t, slot in zip(thresholds, self.slots, strict=True)]

    def _chosen(self) -> dict[str, Tensor]:
        """The masks that source and fraction give."""
        scores = [self._score(slot).to(slot.parameter.device) for slot in self.slots]
        if self.rule.has_threshold:
            return self._by_the_row([Given(tau=tau) for tau in self._thresholds(scores)], scores)
        if self.source == "bias":
            return self._by_the_row([Given(mask=(s > 0) | self._forced(slot)) for s, slot in self._with(scores)], None)
        if self.density is None:
            raise ValueError(f"{self.rule.name} needs masks or density")
        chosen = largest_beside({slot.name: score for score, slot in self._with(scores)}, self.density, self.always)
        return self._by_the_row([Given(mask=chosen[slot.name]) for slot in self.slots], None)

    def _with(self, scores: Sequence[Tensor]) -> Iterable[tuple[Tensor, Slot]]:
        return zip(scores, self.slots, strict=True)

    def _score(self, slot: Slot) -> Tensor:
        if not isinstance(self.source, str):
            return self.source[slot.name]
        if self.source == "fisher":
            return self.observed.get(slot.name, torch.zeros(slot.shape)) / self.observe
        return SOURCES[self.source](slot, self.seed)

    def _by_the_row(self, givens: Sequence[Given], scores: Sequence[Tensor] | None) -> dict[str, Tensor]:
        """-g(I) of the row, which must be a mask."""
        masks = {}
        for index, (slot, given) in enumerate(zip(self.slots, givens, strict=True)):
            of = torch.zeros(slot.shape) if scores is None else scores[index]
            factor = -self.rule.g.value(of.to(slot.parameter.device), given)
            if not bool(((factor == 0) | (factor == 1)).all()):
                raise ValueError(f"{self.rule.name} differs from {self.rule.source}: its factor is not 0 or 1")
            masks[slot.name] = factor.bool()
        return masks

    # State.

    def _own_state(self) -> dict[str, Any]:
        if self.masks is not None:
            return {"masks": {name: pack_bits(mask) for name, mask in self.masks.items()}}
        return {"observed": dict(self.observed)}

    def _load_own_state(self, own: dict[str, Any]) -> None:
        if "masks" in own:
            shapes = {slot.name: (slot.shape, slot.parameter.device) for slot in self.slots}
            if own["masks"].keys() != shapes.keys():
                raise ValueError("this state was saved with a mask over other weights than this run's scope")
            saved = {name: unpack_bits(own["masks"][name].to(dev), shape) for name, (shape, dev) in shapes.items()}
            if self.masks is not None and any(not torch.equal(saved[name], mask) for name, mask in self.masks.items()):
                raise ValueError("this state was saved with another mask than this run's")
            self.masks = saved
            self._settle()
        self.observed = {
            slot.name: own["observed"][slot.name].to(slot.parameter.device, torch.float32)
            for slot in self.slots
            if slot.name in own.get("observed", {})
        }

    def _load_base_state(self, state_dict: dict[str, Any]) -> None:
        super()._load_base_state(state_dict)
        if self._compressed is not None:
            self._compressed.take_options_of_base()

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return self.base.param_groups if self._compressed is None else self._compressed.groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self._compressed is not None:
            raise ValueError("add parameters before the first step: the base holds only what the mask lets move")
        self.base.add_param_group(param_group)

    @property
    def extra_bytes(self) -> int:
        own = [*(self.masks or {}).values(), *self.observed.values(), *self._positions()]
        return sum(t.numel() * t.element_size() for t in own)

    def _positions(self) -> list[Tensor]:
        return [] if self._compressed is None else self._compressed.tensors

    # The step.

    def _update(self, active: Sequence[Slot]) -> None:
        self._note(active)
        if self.masks is None:
            if self.source == "fisher" and not self._observe(active):
                return
            self.masks = self._chosen()
            self.observed = {}
            if self.source == "fisher":
                return  # the last of the updates in which no weight moves
        self._settle()
        if self._compressed is None:
            self._step_and_restore()
        else:
            self._compressed.give_options_to_base()
            self._compressed.step(self._step_and_restore)

    def _step_and_restore(self) -> None:
        """One step of the base, after which what is held is as it was."""
        held = [(parameter, parameter.detach().clone(), mask) for parameter, mask in self._held]
        for parameter, _, mask in held:
            if parameter.grad is not None and not self._elementwise:  # or a number that stays moves its neighbours
                parameter.grad.mul_(mask)
        self._step_base()
        if kernels_c.ready((parameter, old) for parameter, old, _ in held):
            kernels_c.restore_(held)
        else:
            for parameter, old, mask in held:
                torch.where(mask, parameter, old, out=parameter)

    @property
    def _elementwise(self) -> bool:
        return is_elementwise(self.base)

    def _observe(self, active: Sequence[Slot]) -> bool:
        """Add grad ** 2; whether this was the last of the updates in which no weight moves."""
        for slot in active:
            square = fisher(slot.weight, gradient(slot).float())
            self.observed[slot.name] = self.observed[slot.name].add_(square) if slot.name in self.observed else square
        return self.updates >= self.observe

    def _settle(self) -> None:
        """Sort the parameters: compressed in the base, restored after each step, or free to move as a whole."""
        if self._compressed is not None or self._held or self.masks is None:
            return
        keep = dict[Tensor, Tensor]()
        for slot in self.slots:
            whole = keep.setdefault(slot.parameter, torch.ones_like(slot.parameter, dtype=torch.bool))
            slot.part(whole).copy_(self.masks[slot.name])
        compressed = {p: mask for p, mask in keep.items() if self._elementwise and is_worth_compressing(p, mask)}
        self._held = [(p, mask) for p, mask in keep.items() if p not in compressed and not bool(mask.all())]
        if compressed:
            self._compressed = CompressedState(self.base, compressed)

    def _sums(self, active: Sequence[Slot]) -> Iterable[tuple[Slot, Tensor]]:
        for slot in active:
            sums = torch.zeros(3, dtype=torch.float64, device=slot.parameter.device)
            for _, (weight, grad) in self._blocks(slot):
                scores = self._scores(weight, grad).double()
                sums[1:] += torch.stack([scores.sum(), scores.square().sum()])
            sums[0] = len(slot) - (0 if self.masks is None else self.masks[slot.name].sum())
            yield slot, sums
