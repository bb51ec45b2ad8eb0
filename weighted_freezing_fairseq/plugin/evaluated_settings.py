"""Refuses checkpoints with code in the settings that fairseq passes to `eval`.

A file loaded without pickled code can still run code through these settings. Allowed are literals, and sums and
repetitions of literals such as `[(512, 3)] * 20`, which fairseq's own architectures use. Settings that other plugins
evaluate are not checked, nor are the files that a setting names.
"""

import argparse
import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..errors import UserError

# tests/plugin/test_evaluated_settings.py compares these names with the source of the installed fairseq.
EVALUATED = frozenset(
    """
    adafactor_eps adam_betas adamax_betas adaptive_input_cutoff adaptive_softmax_cutoff character_filters
    conv_aggregator_layers conv_feature_layers decoder_attention decoder_layers decoder_xformers_att_config downsample
    encoder_attention encoder_layers encoder_xformers_att_config feature_encoder_spec gated_attention lamb_betas
    left_pad_source left_pad_target pipeline_balance pipeline_decoder_balance pipeline_decoder_devices pipeline_devices
    pipeline_encoder_balance pipeline_encoder_devices pretrained project_input self_attention wer_args
    xformers_att_config
    """.split()
)
_MAX_LENGTH = 10_000  # of the text of a setting, and of its value
_REFERENCE = re.compile(r"\$\{[\w.]+\}")  # to another setting


def literal(text: str) -> Any:
    """The value of a literal, or of sums and repetitions of literals; ValueError for any other expression.

    >>> from weighted_freezing_fairseq.plugin.evaluated_settings import literal
    >>> literal("[(512, 3)] * 2 + [(1024, 1)]")
    [(512, 3), (512, 3), (1024, 1)]
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError("too long")
    try:
        value = _evaluated(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(str(error)) from None
    if isinstance(value, str):  # fairseq may evaluate it again
        raise ValueError("text")
    return value


def _evaluated(node: ast.expr) -> Any:
    if isinstance(node, ast.List | ast.Tuple):
        kind = list if isinstance(node, ast.List) else tuple
        return kind(_evaluated(element) for element in node.elts)
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Add | ast.Mult):
        return ast.literal_eval(node)
    left, right = _evaluated(node.left), _evaluated(node.right)
    lengths = [len(side) if hasattr(side, "__len__") else side for side in (left, right)]
    if isinstance(node.op, ast.Add):
        value = left + right
    elif lengths != [left, right] and lengths[0] * lengths[1] > _MAX_LENGTH:
        raise ValueError("too long")
    else:
        value = left * right
    if hasattr(value, "__len__") and len(value) > _MAX_LENGTH:
        raise ValueError("too long")
    return value


def refuse_code(state: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a loaded checkpoint whose settings would run code, or read variables of this machine's environment."""
    for part in ("cfg", "args"):
        for name, value in _settings(state.get(part)):
            key = name.rpartition(".")[2]
            if key in EVALUATED and not _is_literal(value):
                raise UserError(
                    f"{path} was not loaded: fairseq would run its setting {name} as Python, and {_shortened(value)} "
                    "is code; allowed are literals such as '[(512, 3)] * 20'. To load it with another value, type "
                    f"--model-overrides \"{{'{key}': '...'}}\" in fairseq's commands, or save it again with that value"
                )
            if isinstance(value, str) and "${" in _REFERENCE.sub("", value):
                raise UserError(
                    f"{path} was not loaded: its setting {name} asks for something of this machine, such as a variable "
                    f"of the environment: {_shortened(value)}; save the checkpoint again with a plain value"
                )


def _settings(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting with its dotted name; references to other settings are not resolved."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=False)
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from _settings(item, f"{name}.{key}" if name else str(key))


def _is_literal(value: Any) -> bool:
    if not isinstance(value, str):
        return not isinstance(value, bytes)  # eval takes bytes too, and refuses the rest
    try:
        literal(value)
    except ValueError:
        return False
    return True


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
