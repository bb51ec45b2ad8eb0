"""Optimizer rows with a fixed mask: FISH Mask (Sung et al. 2021) and LFR-CM (Gu et al. 2022).

A mask of FISH Mask can also be chosen by the other scores in `SOURCES`.

Weights outside the mask stay bit-identical to their start, whatever momentum and weight decay do. Where the mask is
sparse, the base holds only the numbers inside it (`compressed_state.py`).
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from . import kernels_c
from .compressed_state import CompressedState, is_elementwise, is_worth_compressing
from .masks import block_count, block_masks, density_masks, matches, quantile, selected_count, stream_key, uniform
from .rules import Given, Rule
from .scope import Slot
from .snapshot import pack_bits, unpack_bits
from .wrapped import NORMS, WrappedOptimizer, choice, gradient


@dataclass(frozen=True)
class Measured:
    """What the scores of a mask are made of."""

    slot: Slot
    observed: Tensor  # the mean of `Source.observe` over the first updates
    seed: int
    rank: int


@dataclass(frozen=True)
class Source:
    """A row of `SOURCES`: how a mask is chosen. The numbers with the largest scores are in it."""

    text: str
    score: Callable[[Measured], Tensor]
    reference: str
    norm: Literal["tensor", "global", "block"] = "global"  # within what scores are compared
    observe: Callable[[Tensor], Tensor] | None = None  # a function of the gradient, averaged over the first updates
    updates: int = 0  # how many first updates, unless the user says otherwise
    at_once: bool = False  # the mask does not depend on weights or gradients


def low_rank(weight: Tensor, rank: int) -> Tensor:
    """The closest matrix of rank `rank`, from the largest singular values; a vector is its own."""
    if weight.dim() != 2 or min(weight.shape) <= rank:
        return weight.float()
    u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
    approximation: Tensor = (u[:, :rank] * s[:rank]) @ v[:rank]
    return approximation


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "fisher": Source(
            "mean of grad ** 2", lambda m: m.observed, "Sung et al. 2021, section 2.2", observe=torch.square, updates=32
        ),
        "random": Source(
            "random numbers",
            lambda m: uniform(len(m.slot), stream_key(m.seed, 0, m.slot.name), 0, m.slot.weight.device).view(
                m.slot.shape
            ),
            "Sung et al. 2021, section 4",
            at_once=True,
        ),
        "magnitude": Source("abs(theta)", lambda m: m.slot.weight.abs().float(), "Sung et al. 2021, section 4"),
        "bias": Source(
            "1 for biases, else 0 (BitFit); needs no density",
            lambda m: torch.full(m.slot.shape, float(m.slot.name.endswith("bias")), device=m.slot.weight.device),
            "Sung et al. 2021, section 4",
            at_once=True,
        ),
        # DEVIATION: the code of Song et al. takes int(rate * n) + 1 numbers of each matrix, by the gradient of the
        # first batch, and trains parameters that the user names without a mask. Here the counts of all tensors add up
        # to k, and no weight moves in an update that is observed.
        "sift": Source(
            "abs(mean of grad)", lambda m: m.observed.abs(), "Song et al. 2023", "tensor",
            observe=torch.clone, updates=1,
        ),
        # DEVIATION: He et al. train all weights in the updates that choose the blocks, and most blocks are in
        # attention. Here no weight moves in these updates, and every matrix in scope has blocks. The sizes of their
        # models are multiples of 256. Where the block does not divide a matrix, the blocks at its edges are smaller:
        # every weight is in a block, and a mean does not depend on the size. A matrix smaller than a block is one
        # block.
        "smt": Source(
            "mean of abs(grad) in a block", lambda m: m.observed, "He et al. 2024", "block",
            observe=torch.abs, updates=100,
        ),
        # DEVIATION: Liu et al. take as many numbers of a matrix as LoRA of some rank has, make the mask again after
        # some number of updates, and train other parameters without a mask. Here the mask is made once, before the
        # first update, by a share of each tensor, and what is trained without a mask is what is out of scope.
        "lift": Source(
            "abs(low-rank approximation of theta)", lambda m: low_rank(m.slot.weight, m.rank).abs(), "Liu et al. 2025",
            "tensor",
        ),
    }
)  # fmt: skip


def as_markdown() -> str:
    """The table of sources in docs/methods/fish_mask.md."""
    lines = ["| source | scores | compared in | first updates | reference |", "|---|---|---|---|---|"]
    for name, source in SOURCES.items():
        where = {"global": "all tensors", "tensor": "each tensor", "block": "all blocks of matrices"}[source.norm]
        lines.append(f"| `{name}` | {source.text} | {where} | {source.updates or '-'} | {source.reference} |")
    return "\n".join(lines)


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
        source: the scores of each slot by name; or the name of a row of the table of sources, such as `fisher`, the
            mean of grad ** 2 over the first `observe` updates. `sift` and `lift` take the largest scores of each
            tensor, with exactly k in all; `smt` takes whole blocks, with at most k numbers; `bias` updates exactly the
            biases (BitFit) and needs no density.
        observe: number of first updates, in which gradients are measured and no parameter moves (default: 32 for
            `fisher`, 1 for `sift`, 100 for `smt`).
        block: for source `smt`, the rows and columns of a block.
        rank: for source `lift`, the rank of the approximation.
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

    gives = frozenset(("mask", "tau"))
    stages = ("parameter",)

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
        observe: int | None = None,
        block: int = 256,
        rank: int = 128,
        norm: Literal["tensor", "global"] = "tensor",
        always: str = "",
        never: str = "",
        seed: int = 1,
        base_fused: bool = True,
    ) -> None:
        super().__init__(base, slots, method, None, seed, base_fused)
        self.density, self.tau, self.quantile, self.source = density, tau, quantile, source
        self.block, self.rank = block, rank
        self.norm = choice("norm", norm, NORMS)
        self.always = re.compile(always) if always else None
        self.never = re.compile(never) if never else None
        self.masks: dict[str, Tensor] | None = None
        self.observed: dict[str, Tensor] = {}  # sums of a function of the gradient, by `source`
        self._compressed: CompressedState | None = None
        self._restored: list[tuple[Tensor, Tensor]] = []  # parameters to restore after each step, with their masks
        if isinstance(source, str):
            choice("source", source, SOURCES)
        self.observe = observe if observe is not None or self._row is None else max(1, self._row.updates)
        self._check_settings()
        if masks is not None:
            self.masks = self._complete_masks(masks)
        elif self._row is None or self._row.at_once:
            self.masks = self._choose_masks()  # before weights and gradients are known

    @property
    def _row(self) -> Source | None:
        """The row of `SOURCES`, which is no attribute because its functions cannot be pickled."""
        return SOURCES[self.source] if isinstance(self.source, str) else None

    def _check_settings(self) -> None:
        for name in ("density", "quantile"):
            fraction = getattr(self, name)
            if fraction is not None and not 0 < fraction <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1, got {fraction}")
        if self.never and "tau" not in self.rule.needs:
            raise ValueError(f"never is an option of lfr_cm, not of {self.rule.name}; pass fewer slots instead")
        for name in ("observe", "block", "rank"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if self.always and not any(matches(self.always, slot.name) for slot in self.slots):
            raise ValueError(
                f"no parameter in scope has a name that matches always={self.always.pattern!r}; "
                f"there are names such as {self.slots[0].name}"
            )
        if self.density is not None:
            selected_count({slot.name: len(slot) for slot in self.slots}, self.density, self.always)
            if self._row is not None and self._row.norm == "block":
                block_count({slot.name: slot.shape for slot in self.slots}, self.density, self.always, self.block)

    # Choosing the mask.

    def _choose_masks(self) -> dict[str, Tensor]:
        """The masks by `source` and density, threshold or quantile."""
        scores = {slot.name: self._source_scores(slot).to(slot.parameter.device) for slot in self.slots}
        if "tau" in self.rule.needs:
            thresholds = self._thresholds(scores)
            return {s.name: self._mask_of_row(s, scores[s.name], Given(tau=thresholds[s.name])) for s in self.slots}
        if self.source == "bias":
            return self._complete_masks({name: score > 0 for name, score in scores.items()})
        if self.density is None:
            raise ValueError(f"{self.rule.name} needs masks or density; give for example density=0.005")
        norm = "global" if self._row is None else self._row.norm
        if norm == "block":
            return self._complete_masks(block_masks(scores, self.density, self.always, self.block))
        return self._complete_masks(density_masks(scores, self.density, self.always, norm))

    def _source_scores(self, slot: Slot) -> Tensor:
        if not isinstance(self.source, str):
            return self.source[slot.name]
        assert self._row is not None and self.observe is not None
        observed = self.observed.get(slot.name, torch.zeros(slot.shape)) / self.observe
        return self._row.score(Measured(slot, observed, self.seed, self.rank))

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
        return {"observed": dict(self.observed), "source": self.source}

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
        elif state.get("observed") and (measured_by := state.get("source", "fisher")) != self.source:
            raise ValueError(f"this state was saved while source {measured_by} measured, which is not that of this run")
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
        """Bytes of masks, sums over observed updates, and positions."""
        compressed = [] if self._compressed is None else self._compressed.tensors
        tensors = [*(self.masks or {}).values(), *self.observed.values(), *compressed]
        return sum(t.numel() * t.element_size() for t in tensors)

    # The step.

    def _update(self, active: Sequence[Slot]) -> None:
        masks = self.masks
        self._record_statistics(
            (slot, self._mask_sums(slot, len(slot) if masks is None else len(slot) - masks[slot.name].sum()))
            for slot in active
        )
        if self.masks is None and self._row is not None and self._row.observe is not None:
            self._observe(active, self._row.observe)
            assert self.observe is not None
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

    def _observe(self, active: Sequence[Slot], function: Callable[[Tensor], Tensor]) -> None:
        for slot in active:
            value = function(gradient(slot).float())
            self.observed[slot.name] = self.observed[slot.name].add_(value) if slot.name in self.observed else value

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
