"""K forward passes of one batch through a model, each with its own dropout, as input of the fused loss.

The passes call the model, not its encoder or decoder, so that wrappers for several processes see them. If the model can
return the features before its output projection, the scores of the whole vocabulary are never in memory at once.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

Sample = Mapping[str, Any]  # a batch, as fairseq's data sets collate it
LossAndLog = tuple[Tensor, dict[str, Any]]  # summed over a batch: the loss, and what is logged
# Of one batch: features (K, B * T, D) and the projection's weight, or log-probabilities (K, B * T, V) and None.
Outputs = tuple[Tensor, Tensor | None]
# One pass: takes the model, the batch and the model's inputs; returns outputs, and the projection's weight or None.
OnePass = Callable[[nn.Module, Sample, Mapping[str, Any]], Outputs]


def unwrapped(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the wrappers of the model, outermost first, and then the model itself."""
    yield model
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
        yield model


def output_weight(model: nn.Module) -> Tensor | None:
    """The weight of the output projection, if the scores of `model` are its features times this weight; else None.

    This is so for fairseq's own transformer. A subclass may have another forward pass, output layer or normalisation,
    and in sharded training no process has the whole weight.
    """
    *wrappers, inner = unwrapped(model)
    decoder = getattr(inner, "decoder", None)
    if getattr(decoder, "adaptive_softmax", None) is not None:
        raise UserError("this criterion needs one softmax over all words; leave out --adaptive-softmax-cutoff")
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
        # find_unused_parameters marks what the forward pass does not use. The loss uses the projection after that pass.
        untied = projection.weight is not decoder.embed_tokens.weight
        if isinstance(wrapper, DistributedDataParallel) and wrapper.find_unused_parameters and untied:
            return None
    return projection.weight


def one_pass(model: nn.Module, sample: Sample, inputs: Mapping[str, Any]) -> Outputs:
    """One forward pass: features and the projection's weight, or log-probabilities and None; (rows, T, D or V)."""
    weight = output_weight(model)
    if weight is not None:
        return model(**inputs, features_only=True)[0], weight
    return model.get_normalized_probs(model(**inputs), log_probs=True, sample=sample), None


def concatenated(model: nn.Module, sample: Sample, passes: int, forward: OnePass = one_pass) -> Outputs:
    """One forward pass of K copies of the batch."""
    size = len(sample["target"])
    copies = {
        key: torch.cat([value] * passes) if isinstance(value, Tensor) and value.dim() and len(value) == size else value
        for key, value in sample["net_input"].items()
    }
    outputs, weight = forward(model, sample, copies)
    return outputs.reshape(passes, -1, outputs.shape[-1]), weight


def looped(model: nn.Module, sample: Sample, passes: int, forward: OnePass = one_pass) -> Outputs:
    """K forward passes of the batch."""
    return _stacked([forward(model, sample, sample["net_input"]) for _ in range(passes)])


def recomputed(model: nn.Module, sample: Sample, passes: int, forward: OnePass = one_pass) -> Outputs:
    """K forward passes, of which only the last one stores its activations.

    The backward pass recomputes the other passes one at a time, with the same dropout. Only the forward method inside
    the call of the model is run again, so that wrappers for several processes see K passes as in the other modes.
    """
    *_, inner = unwrapped(model)
    with _checkpointed_forward(inner):
        outputs = [forward(model, sample, sample["net_input"]) for _ in range(passes - 1)]
    return _stacked([*outputs, forward(model, sample, sample["net_input"])])


PASS_MODES: Mapping[str, Callable[[nn.Module, Sample, int, OnePass], Outputs]] = {
    "concat": concatenated,
    "loop": looped,
    "recompute": recomputed,
}


def differ(outputs: Tensor) -> bool:
    """Whether the first two of K passes (K, rows, D or V) differ by more than rounding; synchronises a GPU."""
    first, second = outputs[:2].float()
    rounding = 1e-5 + 4 * torch.finfo(outputs.dtype).eps
    return bool((first - second).norm() > rounding * first.norm())


def _stacked(passes: list[Outputs]) -> Outputs:
    return torch.stack([outputs.reshape(-1, outputs.shape[-1]) for outputs, _ in passes]), passes[-1][1]


@contextmanager
def _checkpointed_forward(model: nn.Module) -> Iterator[None]:
    """Within this context, forward passes of the model store no activations; the backward pass recomputes them."""
    device = next(model.parameters()).device
    patched = {name: value for name, value in vars(model).items() if name == "forward"}  # on this instance, if any
    model.forward = partial(
        checkpoint,
        model.forward,
        use_reentrant=False,
        preserve_rng_state=False,  # it omits Python's and numpy's generators, and devices of keyword arguments
        context_fn=lambda: _record_and_replay(device),
    )
    try:
        yield
    finally:
        del model.forward
        vars(model).update(patched)


def _record_and_replay(device: torch.device) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a pass and its recomputation, in which random number generators start in the state of the pass."""
    start = _random_state(device)

    @contextmanager
    def replay() -> Iterator[None]:
        current = _random_state(device)
        _set_random_state(device, start)
        try:
            yield
        finally:
            _set_random_state(device, current)

    return nullcontext(), replay()


def _random_state(device: torch.device) -> tuple[Any, ...]:
    on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_gpu, random.getstate(), np.random.get_state()


def _set_random_state(device: torch.device, state: tuple[Any, ...]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
    random.setstate(state[2])
    np.random.set_state(state[3])
