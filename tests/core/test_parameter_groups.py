"""Which type and layer fairseq's parameters are found to be."""

import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.core.parameter_groups import layer, module_type
from weighted_freezing_fairseq.core.scope import Entry


@pytest.mark.parametrize(
    ("name", "owner", "kind", "place"),
    [
        ("encoder.embed_tokens.weight", nn.Embedding, "embedding", None),
        ("decoder.embed_positions.weight", nn.Embedding, "embedding", None),
        ("encoder.layers.11.self_attn.k_proj.weight", nn.Linear, "self-attention k", "encoder.layers.11"),
        ("decoder.layers.0.self_attn.out_proj.weight", nn.Linear, "self-attention out", "decoder.layers.0"),
        ("decoder.layers.0.encoder_attn.v_proj.weight", nn.Linear, "cross-attention v", "decoder.layers.0"),
        ("decoder.layers.0.encoder_attn.v_proj.bias", nn.Linear, "bias", "decoder.layers.0"),
        ("encoder.layers.0.fc1.weight", nn.Linear, "fc1", "encoder.layers.0"),
        ("encoder.layers.0.experts.3.fc2.weight", nn.Linear, "fc2", "encoder.layers.0"),
        ("encoder.layers.0.final_layer_norm.bias", nn.LayerNorm, "norm", "encoder.layers.0"),
        ("decoder.layernorm_embedding.weight", nn.Module, "norm", None),
        ("decoder.output_projection.weight", nn.Linear, "output projection", None),
        ("encoder.convolutions.2.weight_g", nn.Conv1d, "encoder.convolutions.weight_g", "encoder.convolutions.2"),
        ("encoder.lstm.weight_ih_l0", nn.LSTM, "encoder.lstm.weight_ih_l0", None),
        ("encoder.lstm.bias_ih_l0", nn.LSTM, "bias", None),
        ("weight", nn.Linear, "weight", None),
    ],
)
def test_types_and_layers(name, owner, kind, place):
    entry = Entry(name, (name,), (owner,), torch.Size([1]))
    assert (module_type(entry), layer(entry)) == (kind, place)


def test_an_embedding_that_is_the_output_projection_too_is_an_embedding():
    names = ("decoder.output_projection.weight", "decoder.embed_tokens.weight")
    assert module_type(Entry(names[0], names, (nn.Linear, nn.Embedding), torch.Size([1]))) == "embedding"
