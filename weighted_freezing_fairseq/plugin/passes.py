"""K passes of one batch through a model, each with its own dropout, as the fused loss takes them.

The model is called, never its encoder or decoder, so that every wrapper for several processes sees every pass. Where
the model can stop at the features before its output projection, the scores of all words are never made at once.
Left out on purpose: what is done with the passes (`core/fused.py`).
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from fairseq.models import FairseqDecoder
from fairseq.models.transformer import TransformerDecoderBase, TransformerModelBase
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ..errors import UserError

# Of one batch: (K, B * T, D) and the projection's weight, or (K, B * T, V) log-probabilities and None.
Outputs = tuple[Tensor, Tensor | None]
# One pass of a batch through a model, of these inputs: rows of outputs, and the weight to project them with if any.
OnePass = Callable[[nn.Module, Mapping[str, Any], Mapping[str, Any]], Outputs]


def unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """The model's wrappers, outermost first, and last the model itself."""
    yield model
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
        yield model


def output_weight(model: nn.Module) -> Tensor | None:
    """The weight of the output projection, if features times it are the scores of `model`; else None.

    Only fairseq's own transformer says so: a subclass with another forward pass, output or normalisation does not, nor
    does sharded training, where no process holds the weight.
    """
    *wrappers, inner = unwrapped(model)
    decoder = getattr(inner, "decoder", None)
    if getattr(decoder, "adaptive_softmax", None) is not None:
        raise UserError(
            "this criterion needs one softmax over the whole vocabulary; leave out --adaptive-softmax-cutoff"
        )
    if not isinstance(inner, TransformerModelBase) or not isinstance(decoder, TransformerDecoderBase):
        return None
    stock = (
        type(inner).forward is TransformerModelBase.forward
        and type(inner).get_normalized_probs is TransformerModelBase.get_normalized_probs
        and type(decoder).forward is TransformerDecoderBase.forward
        and type(decoder).output_layer is TransformerDecoderBase.output_layer
        and type(decoder).get_normalized_probs is FairseqDecoder.get_normalized_probs
    )
    projection = decoder.output_projection
    if not stock or type(projection) is not nn.Linear or projection.bias is not None:
        return None
    for wrapper in wrappers:
        if type(wrapper).__name__ == "FullyShardedDataParallel":
            return None
        # It calls unused what a forward pass does not use, and an untied projection would be used after that.
        untied = projection.weight is not decoder.embed_tokens.weight
        if isinstance(wrapper, DistributedDataParallel) and wrapper.find_unused_parameters and untied:
            return None
    return projection.weight


def one_pass(model: nn.Module, sample: Mapping[str, Any], inputs: Mapping[str, Any]) -> Outputs:
    """Features and the weight to project them with, or log-probabilities; (rows, T, D or V)."""
    weight = output_weight(model)
    if weight is not None:
        return model(**inputs, features_only=True)[0], weight
    return model.get_normalized_probs(model(**inputs), log_probs=True, sample=sample), None


def concatenated(model: nn.Module, sample: Mapping[str, Any], passes: int, once: OnePass = one_pass) -> Outputs:
    """One forward pass of K copies of the batch."""
    size = len(sample["target"])
    copies = {
        key: torch.cat([value] * passes) if isinstance(value, Tensor) and value.dim() and len(value) == size else value
        for key, value in sample["net_input"].items()
    }
    outputs, weight = once(model, sample, copies)
    return outputs.reshape(passes, -1, outputs.shape[-1]), weight


def looped(model: nn.Module, sample: Mapping[str, Any], passes: int, once: OnePass = one_pass) -> Outputs:
    """K forward passes of the batch."""
    made = [once(model, sample, sample["net_input"]) for _ in range(passes)]
    return _stacked([outputs for outputs, _ in made]), made[-1][1]


def recomputed(model: nn.Module, sample: Mapping[str, Any], passes: int, once: OnePass = one_pass) -> Outputs:
    """K forward passes that keep the activations of the last one alone.

    The backward pass makes those of the others again, one after the other, with the same dropout. The forward method
    itself is run again, within the call of the model, so that wrappers for several processes see K passes as ever.
    """
    *_, inner = unwrapped(model)
    with _forward_made_again(inner):
        made = [once(model, sample, sample["net_input"]) for _ in range(passes - 1)]
    last, weight = once(model, sample, sample["net_input"])
    return _stacked([*(outputs for outputs, _ in made), last]), weight


PASS_MODES: Mapping[str, Callable[[nn.Module, Mapping[str, Any], int, OnePass], Outputs]] = {
    "concat": concatenated,
    "loop": looped,
    "recompute": recomputed,
}


def differ(outputs: Tensor) -> bool:
    """Whether the first two of K passes (K, rows, D or V) differ by more than rounding; waits for a GPU."""
    one, other = outputs[:2].float()
    rounding = 1e-5 + 4 * torch.finfo(outputs.dtype).eps
    return bool((one - other).norm() > rounding * one.norm())


def _stacked(outputs: list[Tensor]) -> Tensor:
    return torch.stack([each.reshape(-1, each.shape[-1]) for each in outputs])


@contextmanager
def _forward_made_again(model: nn.Module) -> Iterator[None]:
    """While this lasts, the model's forward passes keep no activations and are run again in the backward pass."""
    device = next(model.parameters()).device
    before = {name: value for name, value in vars(model).items() if name == "forward"}  # somebody else's, if at all
    model.forward = partial(  # type: ignore[method-assign]
        checkpoint,
        model.forward,
        use_reentrant=False,
        preserve_rng_state=False,  # torch's own way leaves out Python's and numpy's, and devices of keyword arguments
        context_fn=lambda: _recorded_and_replayed(device),
    )
    try:
        yield
    finally:
        del model.forward
        vars(model).update(before)


def _recorded_and_replayed(device: torch.device) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Two contexts: within the second, every source of random numbers starts as it did at the first."""
    start = _random_state(device)

    @contextmanager
    def record() -> Iterator[None]:
        yield

    @contextmanager
    def replay() -> Iterator[None]:
        now = _random_state(device)
        _set_random_state(device, start)
        try:
            yield
        finally:
            _set_random_state(device, now)

    return record(), replay()


def _random_state(device: torch.device) -> tuple[Any, ...]:
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_gpu, random.getstate(), np.random.get_state()


def _set_random_state(device: torch.device, state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
    random.setstate(state[2])
    np.random.set_state(state[3])
