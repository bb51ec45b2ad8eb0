"""`--arch switch_transformer_iwslt_de_en` and `..._vaswani_wmt_en_de_big`: fairseq's Transformer with Switch layers.

The mathematics is in `core/switch.py`. This module has the flags, the fairseq layers with several experts, and the
listener that adds their loss and statistics to any criterion. Every process has all experts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.distributed import fsdp_wrap
from fairseq.logging import metrics
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import (
    TransformerConfig,
    TransformerDecoderBase,
    TransformerEncoderBase,
    TransformerModel,
)
from fairseq.models.transformer.transformer_legacy import transformer_iwslt_de_en, transformer_vaswani_wmt_en_de_big
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase
from fairseq.trainer import Trainer
from torch import Tensor, nn

from ..core.switch import STATISTICS, FeedForward, SwitchFeedForward
from ..errors import UserError
from .trainer_events import TrainerListener


@dataclass
class SwitchConfig(TransformerConfig):
    switch_experts: int = field(
        default=4, metadata={"help": "experts of each Switch layer; 1: the dense Transformer, bit for bit"}
    )
    switch_every: int = field(default=2, metadata={"help": "every N-th layer is a Switch layer; 1: all layers"})
    switch_capacity: float = field(
        default=1.25,
        metadata={"help": "in training, tokens of a batch that an expert takes, relative to an equal share; 0: all"},
    )
    switch_eval_capacity: float = field(
        default=0.0, metadata={"help": "the same in evaluation, within each source sentence; 0: no token is dropped"}
    )
    switch_aux_weight: float = field(default=0.01, metadata={"help": "alpha: strength of the load-balancing loss"})
    switch_z_weight: float = field(default=0.0, metadata={"help": "strength of the router z-loss"})
    switch_jitter: float = field(
        default=0.01, metadata={"help": "eps: in training the router's input is multiplied by 1 - eps to 1 + eps"}
    )


SWITCH_FIELDS = [f for f in fields(SwitchConfig) if f.name.startswith("switch_")]


class SwitchEncoderLayer(TransformerEncoderLayerBase):
    def __init__(self, cfg: SwitchConfig, return_fc: bool = False) -> None:
        super().__init__(cfg, return_fc)
        _add_experts(self, cfg, cfg.encoder.ffn_embed_dim, cfg.switch_eval_capacity)

    def forward(self, x: Tensor, encoder_padding_mask: Tensor | None, *args: Any, **kwargs: Any) -> Any:
        self.fc1.padding = encoder_padding_mask
        return super().forward(x, encoder_padding_mask, *args, **kwargs)

    def _load_from_state_dict(self, *args: Any) -> None:
        # fairseq 0.12.2 copies the weights of a dense layer here, for a fast path that a Switch layer cannot take.
        nn.Module._load_from_state_dict(self, *args)


class SwitchDecoderLayer(TransformerDecoderLayerBase):
    def __init__(self, cfg: SwitchConfig, no_encoder_attn: bool = False) -> None:
        super().__init__(cfg, no_encoder_attn)
        # In generation the final length is unknown, and so is the capacity: no token is dropped.
        _add_experts(self, cfg, cfg.decoder.ffn_embed_dim, eval_capacity=0.0)

    def forward(self, x: Tensor, *args: Any, self_attn_padding_mask: Tensor | None = None, **kwargs: Any) -> Any:
        self.fc1.padding = self_attn_padding_mask
        return super().forward(x, *args, self_attn_padding_mask=self_attn_padding_mask, **kwargs)


def _add_experts(layer: Any, cfg: SwitchConfig, hidden: int, eval_capacity: float) -> None:
    """Replace fc1 of `layer` by the experts, and the rest of its feed-forward block by the identity."""
    # DEVIATION: Fedus et al. initialise all weights with a tenth of the usual scale (section 2.4), as a remedy for
    # unstable training at their size. Here experts are initialised as fairseq's feed-forward layers, the router as in
    # their paper.
    noise = (layer.quant_noise, layer.quant_noise_block_size)
    pairs = [(layer.fc1, layer.fc2)]
    for _ in range(cfg.switch_experts - 1):
        fc1 = layer.build_fc1(layer.embed_dim, hidden, *noise)
        pairs.append((fc1, layer.build_fc2(hidden, layer.embed_dim, *noise)))
    # DEVIATION: Fedus et al. evaluate with a capacity as well. A limit over the batch would make a translation depend
    # on the other sentences of its batch. So the default here is no limit, a limit applies within each source sentence,
    # and the decoder drops no token.
    layer.fc1 = SwitchFeedForward(
        [FeedForward(*pair, layer.activation_fn, layer.activation_dropout_module) for pair in pairs],
        layer.embed_dim,
        capacity=cfg.switch_capacity,
        eval_capacity=eval_capacity,
        balance_weight=cfg.switch_aux_weight,
        z_weight=cfg.switch_z_weight,
        jitter=cfg.switch_jitter,
    )
    layer.fc2, layer.activation_fn, layer.activation_dropout_module = (nn.Identity() for _ in range(3))


def _is_switch(cfg: SwitchConfig, number: int) -> bool:
    """Whether layer `number`, counted from 1, has several experts."""
    return cfg.switch_experts > 1 and number % cfg.switch_every == 0


def _with_fairseq_wrappers(layer: nn.Module, cfg: SwitchConfig) -> nn.Module:
    """Wrap `layer` for activation checkpointing and FSDP, as fairseq wraps its own layers."""
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)


class SwitchEncoder(TransformerEncoderBase):
    layers_built = 0

    def build_encoder_layer(self, cfg: SwitchConfig) -> nn.Module:
        self.layers_built += 1
        if not _is_switch(cfg, self.layers_built):
            return super().build_encoder_layer(cfg)
        return _with_fairseq_wrappers(SwitchEncoderLayer(cfg, self.return_fc), cfg)


class SwitchDecoder(TransformerDecoderBase):
    layers_built = 0

    def build_decoder_layer(self, cfg: SwitchConfig, no_encoder_attn: bool = False) -> nn.Module:
        self.layers_built += 1
        if not _is_switch(cfg, self.layers_built):
            return super().build_decoder_layer(cfg, no_encoder_attn)
        return _with_fairseq_wrappers(SwitchDecoderLayer(cfg, no_encoder_attn), cfg)


@register_model("switch_transformer")
class SwitchTransformer(TransformerModel):
    """The Switch Transformer of Fedus et al. 2022."""

    @classmethod
    def add_args(cls, parser: Any) -> None:
        gen_parser_from_dataclass(parser, SwitchConfig(), delete_default=True, with_prefix="")

    @classmethod
    def build_model(cls, args: Any, task: Any) -> nn.Module:
        cfg = SwitchConfig.from_namespace(args)
        _refuse_invalid(cfg)
        return super().build_model(cfg, task)

    @classmethod
    def build_encoder(cls, cfg: SwitchConfig, src_dict: Any, embed_tokens: nn.Module) -> nn.Module:
        return SwitchEncoder(cfg, src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, cfg: SwitchConfig, tgt_dict: Any, embed_tokens: nn.Module) -> nn.Module:
        return SwitchDecoder(cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention)


def _refuse_invalid(cfg: SwitchConfig) -> None:
    """Raise UserError for values out of range."""
    for setting in SWITCH_FIELDS:
        minimum = 1 if setting.type is int else 0
        value, flag = getattr(cfg, setting.name), f"--{setting.name.replace('_', '-')}"
        if value < minimum:
            raise UserError(f"{flag} must be at least {minimum}, got {value:g}; type {flag} {setting.default}")
    if cfg.switch_jitter >= 1:
        raise UserError(f"--switch-jitter must be less than 1, got {cfg.switch_jitter:g}; type 0.01")
    depth = max(cfg.encoder.layers, cfg.decoder.layers)
    if cfg.switch_experts > 1 and cfg.switch_every > depth:
        raise UserError(
            f"--switch-every {cfg.switch_every} leaves no Switch layer among {depth}; type --switch-every {depth}"
        )


def _register(dense: Callable[[Any], None]) -> None:
    """Register a variant with experts of fairseq's architecture `dense`."""

    @register_model_architecture("switch_transformer", f"switch_{dense.__name__}")
    def set_defaults(args: Any) -> None:
        dense(args)
        for setting in SWITCH_FIELDS:  # stored in checkpoints, so that later defaults do not change the model
            setattr(args, setting.name, getattr(args, setting.name, setting.default))


_register(transformer_iwslt_de_en)
_register(transformer_vaswani_wmt_en_de_big)


class _StoreScale(torch.autograd.Function):
    """The identity on the loss; its backward pass stores the scale of the loss in the Switch layers."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, sample_size: Any, layers: list[SwitchFeedForward]) -> Tensor:
        ctx.sample_size, ctx.layers = sample_size, layers
        return loss.clone()  # fairseq multiplies it in place

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        scale = grad.to(torch.promote_types(grad.dtype, torch.float32))  # half precision overflows above 65,504
        for layer in ctx.layers:
            layer.auxiliary_scale = scale * ctx.sample_size / max(1, len(layer.statistics))
        return grad, None, None


class JoinedLosses(TrainerListener):
    """Adds the loss of the Switch layers to the training loss of any criterion.

    A criterion returns a sum, which the trainer divides by the sample size. The sum may be scaled (--fp16), multiplied
    by 0 (a placeholder batch) or computed from several passes, over which the loss of the layers is averaged. The
    backward pass knows all of that when it reaches the loss, which is before it reaches any layer.
    """

    def trainer_built(self, trainer: Trainer) -> None:
        layers = [module for module in trainer.get_model().modules() if isinstance(module, SwitchFeedForward)]

        def begin(*_: Any) -> None:
            for layer in layers:
                layer.reset()

        def add_loss(criterion: Any, inputs: Any, outputs: tuple[Tensor, Any, Any]) -> tuple[Tensor, Any, Any] | None:
            statistics = [values for layer in layers for values in layer.statistics]
            loss, sample_size, logged = outputs
            if not statistics or not loss.requires_grad:  # validation
                return None
            means = torch.stack(statistics).mean(0)
            for priority, (name, value) in enumerate(zip(STATISTICS, means, strict=True), start=610):
                metrics.log_scalar(f"switch_{name}", value, weight=1, priority=priority, round=4)
            return _StoreScale.apply(loss, sample_size, layers), sample_size, logged

        if layers:
            trainer.get_criterion().register_forward_pre_hook(begin)
            trainer.get_criterion().register_forward_hook(add_loss)
