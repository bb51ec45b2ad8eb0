"""One optimizer class for each method, made from a model in one line, in the manner of torch.optim.

    optimizer = WeightedFreeze(model, lr=1e-3)                          # around AdamW
    optimizer = Sage(model, base=torch.optim.SGD, lr=0.1, momentum=0.9)
    optimizer = FishMask(model, base=existing_optimizer, fish_density=0.005)

The settings of a method have the names of its flags. Everything else goes to the base optimizer.
"""

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from . import snapshot
from .fixed import FixedMaskOptimizer
from .guided import GuidedOptimizer
from .rules import Scope
from .scope import HEADS, Slot, scope_of

Model = nn.Module | Iterable[tuple[str, nn.Parameter]]
Base = type[torch.optim.Optimizer] | torch.optim.Optimizer


class WeightedFreeze(GuidedOptimizer):
    """Weighted Freezing (Li et al. 2023): a weight is frozen at random, the more often the more important it is.

    Args:
        model: its parameters are trained; or pairs of name and parameter, all of which are guided.
        lr: learning rate of the base; None: the base's own default.
        base: class of the base optimizer, or one that holds the model's parameters.
        scope: which weights are guided, `linear` or `all`, see `scope_of`.
        heads: names of modules that `linear` leaves out, see `scope_of`.
        freeze_rule: `important`, `printed`, `smooth` or `random`, the variants in the table that `wff rules` prints.
        freeze_keep: with `random`, the fixed share of weights that is updated.
        freeze_apply: `gradient`, or `update`, which undoes momentum and weight decay too.
        importance: `magnitude`, `loss-preserving` or `fisher` (default: that of the method).
        importance_norm: compare importance within each `tensor`, or over all guided weights (`global`).
        importance_start: the first update, counted from 1, in which the method acts.
        seed: the seed of random masks.
        **base_settings: further arguments of the base's class, such as weight_decay.

    Raises:
        ValueError: if a setting has no such value, or if no weight is in scope.
        TypeError: if the base does not take one of the settings, or exists and has its settings already.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import WeightedFreeze
        >>> model = torch.nn.Linear(8, 2)
        >>> optimizer = WeightedFreeze(model, lr=1e-3, weight_decay=0.01)
        >>> model(torch.randn(4, 8)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.updates, [slot.name for slot in optimizer.slots]
        (1, ['weight'])
    """

    def __init__(
        self,
        model: Model,
        lr: float | None = None,
        base: Base = torch.optim.AdamW,
        *,
        scope: Scope = "linear",
        heads: Set[str] = HEADS,
        freeze_rule: str = "important",
        freeze_keep: float | None = None,
        freeze_apply: Literal["gradient", "update"] = "gradient",
        importance: str | None = None,
        importance_norm: Literal["tensor", "global"] = "tensor",
        importance_start: int = 1,
        seed: int = 1,
        **base_settings: Any,
    ) -> None:
        optimizer, slots = _base_and_slots(type(self).__name__, model, base, lr, base_settings, scope, heads)
        super().__init__(
            optimizer, slots, "weighted_freeze", variant=freeze_rule, keep=freeze_keep, stage=freeze_apply,
            importance=importance, norm=importance_norm, start=importance_start, seed=seed,
        )  # fmt: skip


class Sage(GuidedOptimizer):
    """SAGE (Liang et al. 2022): a weight's learning rate follows how far its sensitivity is from its moving average.

    Args:
        sage_variant: `full`, `li` or `light`, the variants in the table that `wff rules` prints.
        sage_beta: rate of the moving average.
        sage_eps: smoothing, above and below the line.
        sage_max_scale: upper bound of the factor; None: max(1, beta / (1 - beta)).
        sage_state_dtype: precision of the moving average; None: as the weights.

    The other arguments are those of `WeightedFreeze`.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import Sage
        >>> model = torch.nn.Linear(8, 2)
        >>> optimizer = Sage(model, lr=0.1, base=torch.optim.SGD, momentum=0.9)
        >>> model(torch.randn(4, 8)).sum().backward()
        >>> optimizer.step()
        >>> optimizer.base.defaults["momentum"], optimizer.averages["weight"].shape
        (0.9, torch.Size([2, 8]))
    """

    def __init__(
        self,
        model: Model,
        lr: float | None = None,
        base: Base = torch.optim.AdamW,
        *,
        scope: Scope = "linear",
        heads: Set[str] = HEADS,
        sage_variant: str = "full",
        sage_beta: float = 0.75,
        sage_eps: float = 1e-12,
        sage_max_scale: float | None = None,
        sage_state_dtype: torch.dtype | None = None,
        importance: str | None = None,
        importance_norm: Literal["tensor", "global"] = "tensor",
        importance_start: int = 1,
        seed: int = 1,
        **base_settings: Any,
    ) -> None:
        optimizer, slots = _base_and_slots(type(self).__name__, model, base, lr, base_settings, scope, heads)
        super().__init__(
            optimizer, slots, "sage", variant=sage_variant, beta=sage_beta, eps=sage_eps, max_scale=sage_max_scale,
            state_dtype=sage_state_dtype, importance=importance, norm=importance_norm, start=importance_start,
            seed=seed,
        )  # fmt: skip


class FishMask(FixedMaskOptimizer):
    """FISH Mask (Sung et al. 2021): only the share of the parameters with the largest Fisher information is trained.

    Args:
        fish_density: the share; needed unless `fish_mask` is given.
        fish_mask: masks by parameter name (1 = is updated), or a file of `wff fisher --mask-density`.
        fish_source: `fisher`, `sift`, `smt`, `lift`, or one of the baselines `random`, `magnitude`, `bias`.
        fish_updates: first updates, in which the mask is measured and no weight moves (default: 32 for `fisher`, 1 for
            `sift`, 100 for `smt`).
        fish_block: rows and columns of a block of `smt`.
        fish_rank: rank of the approximation of `lift`.
        fish_always: regular expression; parameters with such a name are always updated.

    The other arguments are those of `WeightedFreeze`.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import FishMask
        >>> model = torch.nn.Linear(8, 2, bias=False)
        >>> optimizer = FishMask(model, lr=0.1, fish_density=0.25, fish_updates=1)
        >>> before = model.weight.detach().clone()
        >>> for update in range(2):  # the first measures the Fisher information
        ...     model(torch.randn(4, 8)).sum().backward()
        ...     optimizer.step()
        >>> int((model.weight != before).sum())  # a quarter of 16 weights
        4
    """

    def __init__(
        self,
        model: Model,
        lr: float | None = None,
        base: Base = torch.optim.AdamW,
        *,
        scope: Scope = "all",
        heads: Set[str] = HEADS,
        fish_density: float | None = None,
        fish_mask: Mapping[str, Tensor] | str | Path | None = None,
        fish_source: str = "fisher",
        fish_updates: int | None = None,
        fish_block: int = 256,
        fish_rank: int = 128,
        fish_always: str = "",
        seed: int = 1,
        **base_settings: Any,
    ) -> None:
        if fish_density is None and fish_mask is None and fish_source != "bias":
            raise ValueError("FishMask needs fish_density, such as fish_density=0.005, or fish_mask")
        optimizer, slots = _base_and_slots(type(self).__name__, model, base, lr, base_settings, scope, heads)
        super().__init__(
            optimizer, slots, "fish_mask", masks=None if fish_mask is None else _tensors(fish_mask, "mask", slots),
            density=fish_density, source=fish_source, observe=fish_updates, block=fish_block, rank=fish_rank,
            always=fish_always, seed=seed,
        )  # fmt: skip


class LfrCm(FixedMaskOptimizer):
    """LFR-CM (Gu et al. 2022): in a new domain, only weights that matter little to the old one are trained.

    Args:
        fisher: Fisher information of the old domain by parameter name, or a file of `wff fisher`.
        lfr_quantile: the share of the weights that is trained, those with the least Fisher information; this, or
        lfr_threshold: weights with Fisher information up to this are trained.
        lfr_norm: take the share of each `tensor`, or over all (`global`).
        lfr_always_frozen: regular expression; parameters with such a name are never trained.

    The other arguments are those of `WeightedFreeze`.

    Examples:
        >>> import torch
        >>> from weighted_freezing_fairseq import LfrCm
        >>> model = torch.nn.Linear(4, 1, bias=False)
        >>> fisher = {"weight": torch.tensor([[0.1, 0.2, 0.3, 0.4]])}
        >>> optimizer = LfrCm(model, lr=0.1, fisher=fisher, lfr_quantile=0.5)
        >>> before = model.weight.detach().clone()
        >>> model(torch.randn(4, 4)).sum().backward()
        >>> optimizer.step()
        >>> (model.weight != before).tolist()
        [[True, True, False, False]]
    """

    def __init__(
        self,
        model: Model,
        lr: float | None = None,
        base: Base = torch.optim.AdamW,
        *,
        fisher: Mapping[str, Tensor] | str | Path,
        scope: Scope = "all",
        heads: Set[str] = HEADS,
        lfr_quantile: float | None = None,
        lfr_threshold: float | None = None,
        lfr_norm: Literal["tensor", "global"] = "tensor",
        lfr_always_frozen: str = "",
        seed: int = 1,
        **base_settings: Any,
    ) -> None:
        if (lfr_quantile is None) == (lfr_threshold is None):
            raise ValueError("LfrCm needs one of lfr_quantile, such as lfr_quantile=0.25, and lfr_threshold")
        optimizer, slots = _base_and_slots(type(self).__name__, model, base, lr, base_settings, scope, heads)
        super().__init__(
            optimizer, slots, "lfr_cm", source=_tensors(fisher, "fisher", slots), quantile=lfr_quantile,
            tau=lfr_threshold, norm=lfr_norm, never=lfr_always_frozen, seed=seed,
        )  # fmt: skip


def _base_and_slots(
    method: str,
    model: Model,
    base: Base,
    lr: float | None,
    base_settings: dict[str, Any],
    scope: Scope,
    heads: Set[str],
) -> tuple[torch.optim.Optimizer, list[Slot]]:
    """The base optimizer, built where a class is given, and the weights that are guided."""
    if isinstance(model, nn.Module):
        parameters: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
        slots = scope_of(model, scope, heads)
    else:
        slots = _named_slots(method, model)
        parameters = [slot.parameter for slot in slots]
    if isinstance(base, torch.optim.Optimizer):
        settings = {**({} if lr is None else {"lr": lr}), **base_settings}
        if settings:
            raise TypeError(
                f"{', '.join(settings)} cannot be set on an optimizer that exists; leave out {', '.join(settings)}, or "
                f"pass its class: base=torch.optim.{type(base).__name__}"
            )
        return base, slots
    if not (isinstance(base, type) and issubclass(base, torch.optim.Optimizer)):
        raise TypeError(f"base must be a class such as torch.optim.AdamW, or an optimizer, got {base!r}")
    settings = {**base_settings, **({} if lr is None else {"lr": lr})}
    try:
        return base(parameters, **settings), slots
    except TypeError as error:
        raise TypeError(f"{error}: arguments of {method} that are not its own go to {base.__name__}") from None


def _named_slots(method: str, pairs: Iterable[tuple[str, nn.Parameter]]) -> list[Slot]:
    slots = []
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(
                f"{method} needs the names of parameters, by which masks are drawn and saved, got "
                f"{type(pair).__name__}; pass the model, or model.named_parameters()"
            )
        name, parameter = pair
        if parameter.requires_grad:
            slots.append(Slot(name, parameter, parameter.shape))
    if not slots:
        raise ValueError(f"{method} got no parameter that requires a gradient; pass the model, or its named parameters")
    return slots


def _tensors(source: Mapping[str, Tensor] | str | Path, kind: snapshot.Kind, slots: list[Slot]) -> Mapping[str, Tensor]:
    """Tensors for these slots, from a mapping or a file."""
    if isinstance(source, Mapping):
        missing = [slot.name for slot in slots if slot.name not in source]
        if missing:
            raise ValueError(f"there is no {kind} for {missing[0]}; it needs one for each of {len(slots)} parameters")
        return {slot.name: source[slot.name].bool() if kind == "mask" else source[slot.name] for slot in slots}
    path = Path(source)
    return snapshot.of_this_model(snapshot.load(path, kind), path, [(slot.name, slot.shape) for slot in slots])
