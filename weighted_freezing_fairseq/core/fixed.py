"""Optimizer rows with a fixed mask: FISH Mask (Sung et al. 2021) and LFR-CM (Gu et al. 2022).

Weights outside the mask stay bit-identical to their start, whatever momentum and weight decay do. Where the mask is
sparse, the base holds only the numbers inside it (`compressed_state.py`).
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from . import kernels_c
from .compressed_state import CompressedState, is_elementwise, is_worth_compressing
from .importance import fisher
from .masks import density_masks, matches, quantile, selected_count, stream_key, uniform
from .rules import Given, Rule
from .scope import Slot
from .snapshot import pack_bits, unpack_bits
from .wrapped import NORMS, WrappedOptimizer, choice, gradient, optimizer_row

# Scores of the baselines of Sung et al. 2021, section 4, which masks can be chosen by in place of Fisher information.
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
    """Updates by `base` only the numbers inside a mask that is chosen once.

    Not for training from scratch, when it is not yet known which weights are important. Around a base that is not
    elementwise (Adafactor) the gradient is masked in place, and the base holds its whole state.

    Args:
        base: the optimizer that updates the parameters.
        slots: the weights that are masked; other parameters are updated without a mask.
        method: `fish_mask` or `lfr_cm`.
        masks: for fish_mask, the mask of each slot by name, 1 = is updated.
        density: for fish_mask without `masks`: exactly k = round(density * n) of the n numbers in all slots are
            updated, those with the largest scores.
        tau: for lfr_cm, the largest score that is updated.
        quantile: for lfr_cm without `tau`: the fraction that is updated, the numbers with the smallest scores.
        source: the scores of each slot by name; or `fisher`, the mean of grad ** 2 over the first `observe` updates, in
            which no parameter moves; or `random`; or `magnitude`; or `bias`, which updates exactly the biases (BitFit)
            and needs no density.
        observe: number of updates in which source `fisher` is measured.
        norm: take `quantile` in each `tensor`, or over all slots (`global`).
        always: regular expression; parameters with a matching name are updated, and count in k.
        never: for lfr_cm, regular expression; parameters with a matching name are not updated, and do not count.
        seed: the seed of source `random`.
        base_fused: see `GuidedOptimizer`.

    Raises:
        ValueError: if a setting has no such value, or is one of the other method.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import FixedMaskOptimizer, scope_of
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> base = torch.optim.AdamW(model.parameters(), lr=0.1)
        >>> masks = {"weight": torch.tensor([[True, False, False, True]])}
        >>> optimizer = FixedMaskOptimizer(base, scope_of(model, "all"), masks=masks)
        >>> before = model.weight.detach().clone()
        >>> model(torch.randn(4, 4)).sum().backward()
        >>> optimizer.step()
        >>> (model.weight != before).tolist()
        [[True, False, False, True]]
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
        self.observed: dict[str, Tensor] = {}  # sums of grad ** 2
        self._compressed: CompressedState | None = None
        self._restored: list[tuple[Tensor, Tensor]] = []  # parameters to restore after each step, with their masks
        self._check_settings()
        if masks is not None:
            self.masks = self._complete_masks(masks)
        elif not isinstance(source, str) or source in ("random", "bias"):
            self.masks = self._choose_masks()  # before weights and gradients are known

    def _check_settings(self) -> None:
        if isinstance(self.source, str):
            choice("source", self.source, ("fisher", *SOURCES))
        for name in ("density", "quantile"):
            fraction = getattr(self, name)
            if fraction is not None and not 0 < fraction <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {fraction}")
        if self.never and not self.rule.has_threshold:
            raise ValueError(f"never is an option of lfr_cm, not of {self.rule.name}; pass fewer slots instead")
        if self.observe < 1:
            raise ValueError(f"observe must be at least 1, got {self.observe}")
        if self.always and not any(matches(self.always, slot.name) for slot in self.slots):
            raise ValueError(
                f"no parameter in scope has a name that matches always={self.always.pattern!r}; "
                f"there are names such as {self.slots[0].name}"
            )
        if self.density is not None:
            selected_count({slot.name: len(slot) for slot in self.slots}, self.density, self.always)

    # Choosing the mask.

    def _choose_masks(self) -> dict[str, Tensor]:
        """The masks by `source` and density, threshold or quantile."""
        scores = {slot.name: self._source_scores(slot).to(slot.parameter.device) for slot in self.slots}
        if self.rule.has_threshold:
            thresholds = self._thresholds(scores)
            return {s.name: self._mask_of_row(s, scores[s.name], Given(tau=thresholds[s.name])) for s in self.slots}
        if self.source == "bias":
            return self._complete_masks({name: score > 0 for name, score in scores.items()})
        if self.density is None:
            raise ValueError(f"{self.rule.name} needs masks or density; give for example density=0.005")
        return self._complete_masks(density_masks(scores, self.density, self.always))

    def _source_scores(self, slot: Slot) -> Tensor:
        if not isinstance(self.source, str):
            return self.source[slot.name]
        if self.source == "fisher":
            return self.observed.get(slot.name, torch.zeros(slot.shape)) / self.observe
        return SOURCES[self.source](slot, self.seed)

    def _thresholds(self, scores: Mapping[str, Tensor]) -> dict[str, float]:
        """The largest score that is updated, for each slot."""
        # DEVIATION: Li et al. section 2.2 do not say over what the quantile is taken; the code of Gu et al. takes it in
        # each tensor (the default), and leaves norms and positions out (`never`).
        if self.quantile is None:
            if self.tau is None:
                raise ValueError(f"{self.rule.name} needs tau or quantile; give for example quantile=0.25")
            thresholds = dict.fromkeys(scores, self.tau)
        elif self.norm == "global":
            counted = [score for name, score in scores.items() if not matches(self.never, name)]
            thresholds = dict.fromkeys(scores, quantile(counted, self.quantile))
        else:
            thresholds = {n: quantile([score], self.quantile) if score.numel() else 0.0 for n, score in scores.items()}
        return {name: -math.inf if matches(self.never, name) else tau for name, tau in thresholds.items()}

    def _complete_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`masks` with all numbers of the parameters in `always`."""
        return {
            slot.name: self._mask_of_row(
                slot, torch.zeros(slot.shape), Given(mask=masks[slot.name] | matches(self.always, slot.name))
            )
            for slot in self.slots
        }

    def _mask_of_row(self, slot: Slot, scores: Tensor, quantities: Given) -> Tensor:
        """-g(I) of the row, which must be a mask."""
        factor = -self.rule.g.value(scores.to(slot.parameter.device), quantities)
        if not bool(((factor == 0) | (factor == 1)).all()):
            raise ValueError(f"{self.rule.name} differs from {self.rule.source}: its factor is not 0 or 1")
        return factor.bool()

    # State.

    def _method_state(self) -> dict[str, Any]:
        if self.masks is not None:
            return {"masks": {name: pack_bits(mask) for name, mask in self.masks.items()}}
        return {"observed": dict(self.observed)}

    def _load_method_state(self, state: dict[str, Any]) -> None:
        if "masks" in state:
            packed = state["masks"]
            if packed.keys() != {slot.name for slot in self.slots}:
                raise ValueError("this state was saved with a mask over other weights than this run's scope")
            masks = {s.name: unpack_bits(packed[s.name].to(s.parameter.device), s.shape) for s in self.slots}
            if self.masks is not None and any(not torch.equal(masks[name], mask) for name, mask in self.masks.items()):
                raise ValueError("this state was saved with another mask than this run's")
            self.masks = masks
            self._prepare_parameters(masks)
        self.observed = {
            slot.name: state["observed"][slot.name].to(slot.parameter.device, torch.float32)
            for slot in self.slots
            if slot.name in state.get("observed", {})
        }

    def _load_base_state(self, state_dict: dict[str, Any]) -> None:
        super()._load_base_state(state_dict)
        if self._compressed is not None:
            self._compressed.load_options()

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of the base, with the model's own parameters."""
        return self.base.param_groups if self._compressed is None else self._compressed.groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self._compressed is not None:
            raise ValueError("the base holds only numbers inside the mask by now; add parameters before the first step")
        super().add_param_group(param_group)

    @property
    def extra_bytes(self) -> int:
        """Bytes of masks, Fisher sums and positions."""
        compressed = [] if self._compressed is None else self._compressed.tensors
        tensors = [*(self.masks or {}).values(), *self.observed.values(), *compressed]
        return sum(t.numel() * t.element_size() for t in tensors)

    # The step.

    def _update(self, active: Sequence[Slot]) -> None:
        self._record_statistics(self._sums(active))
        if self.masks is None and self.source == "fisher":
            self._observe(active)
            if self.updates >= self.observe:
                self.masks, self.observed = self._choose_masks(), {}
            return  # no parameter moves in an update that is observed
        if self.masks is None:
            self.masks = self._choose_masks()
        self._prepare_parameters(self.masks)
        if self._compressed is None:
            self._step_and_restore()
        else:
            self._compressed.step(self._step_and_restore)

    def _observe(self, active: Sequence[Slot]) -> None:
        for slot in active:
            square = fisher(slot.weight, gradient(slot).float())
            self.observed[slot.name] = self.observed[slot.name].add_(square) if slot.name in self.observed else square

    def _prepare_parameters(self, masks: Mapping[str, Tensor]) -> None:
        """Once: compress parameters with a sparse mask in the base; others are restored after each step."""
        if self._compressed is not None or self._restored:
            return
        parameter_masks = dict[Tensor, Tensor]()
        for slot in self.slots:
            mask = parameter_masks.setdefault(slot.parameter, torch.ones_like(slot.parameter, dtype=torch.bool))
            slot.part(mask).copy_(masks[slot.name])
        elementwise = is_elementwise(self.base)
        compressed = {p: mask for p, mask in parameter_masks.items() if elementwise and is_worth_compressing(p, mask)}
        self._restored = [(p, m) for p, m in parameter_masks.items() if p not in compressed and not bool(m.all())]
        if compressed:
            self._compressed = CompressedState(self.base, compressed)

    def _step_and_restore(self) -> None:
        """Step the base, then restore the numbers outside the masks."""
        restored = [(parameter, parameter.detach().clone(), mask) for parameter, mask in self._restored]
        if not is_elementwise(self.base):  # there a gradient outside the mask would change the step inside it
            for parameter, _, mask in restored:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
        self._step_base()
        if kernels_c.ready((parameter, old) for parameter, old, _ in restored):
            kernels_c.restore_(restored)
        else:
            for parameter, old, mask in restored:
                torch.where(mask, parameter, old, out=parameter)

    def _sums(self, active: Sequence[Slot]) -> Iterator[tuple[Slot, Tensor]]:
        for slot in active:
            sums = torch.zeros(3, dtype=torch.float64, device=slot.parameter.device)
            for _, (weight, grad) in self._blocks(slot):
                scores = self._scores(weight, grad).double()
                sums[1:] += torch.stack([scores.sum(), scores.square().sum()])
            sums[0] = len(slot) - (0 if self.masks is None else self.masks[slot.name].sum())
            yield slot, sums
