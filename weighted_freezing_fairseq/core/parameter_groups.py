"""Groups of parameters, by type of module and by layer, for tables and figures.

Groups depend only on names and types of modules, so that those of several models can be compared.
"""

import re
from collections.abc import Iterable

from torch import nn

from .scope import Entry

Group = tuple[str, str]  # the kind of group ("model", "type" or "layer") and its name

_KINDS = ("model", "type", "layer")
# Names of modules in Transformers; callers may add names.
ATTENTION = {"self_attn": "self-attention", "encoder_attn": "cross-attention"}
FEED_FORWARD = {"fc1", "fc2"}
OUTPUT = {"output_projection"}


def module_type(entry: Entry) -> str:
    """The type of a parameter: `self-attention q`, `fc1`, `embedding`, `norm`, `bias` ...

    Encoder and decoder have the same types. An embedding that is tied to the output projection is an embedding. Other
    types are the parameter's name without the indices of layers.
    """
    parent, module, attribute = ["", "", *entry.name.split(".")][-3:]
    if any(issubclass(owner, nn.LayerNorm) for owner in entry.owners) or re.search(r"layer_?norm", module):
        return "norm"
    if "bias" in attribute:
        return "bias"
    if any(issubclass(owner, nn.Embedding) for owner in entry.owners):
        return "embedding"
    if module in OUTPUT:
        return "output projection"
    if parent in ATTENTION and module.endswith("_proj"):
        return f"{ATTENTION[parent]} {module.removesuffix('_proj')}"
    if module in FEED_FORWARD:
        return module
    return re.sub(r"\.\d+(?=\.)", "", entry.name)


def layer(entry: Entry) -> str | None:
    """The layer of a parameter, such as `encoder.layers.0`; None outside of layers (embeddings, last norms)."""
    match = re.match(r"(.*?\.\d+)\.", entry.name)
    return match and match[1]


def groups_of(entry: Entry) -> list[Group]:
    """The groups of a parameter: the whole model, its type, and its layer if it has one."""
    layers = [("layer", name)] if (name := layer(entry)) else []
    return [("model", "all"), ("type", module_type(entry)), *layers]


def in_order(groups: Iterable[Group]) -> list[Group]:
    """Sort groups for a table: the model, types, layers; within a kind the order does not change."""
    return sorted(groups, key=lambda group: _KINDS.index(group[0]))
