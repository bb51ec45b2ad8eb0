"""Which weights are in scope, and under which name."""

import pytest
import torch
from torch import nn

from weighted_freezing_fairseq.core.scope import blocks, catalogue, scope_of


class Tied(nn.Module):
    """An embedding tied to the output projection, as in most translation models, and one untied projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.fc = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.generator = nn.Linear(4, 7, bias=False)
        self.generator.weight = self.embed.weight
        self.output_projection = nn.Linear(4, 7, bias=False)
        self.frozen = nn.Linear(4, 4, bias=False).requires_grad_(False)


def test_linear_scope_holds_attention_and_feed_forward_matrices_only():
    assert [slot.name for slot in scope_of(Tied())] == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "fc.weight",
    ]


def test_all_scope_counts_tied_weights_once_and_leaves_out_what_is_not_trained():
    model = Tied()
    slots = scope_of(model, "all")
    assert sum(map(len, slots)) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    entry = catalogue(model)[0][0]
    assert entry.name == "embed.weight" and entry.aliases == ("embed.weight", "generator.weight")
    assert entry.owners == (nn.Embedding, nn.Linear)


def test_catalogue_is_in_the_order_of_parameters():
    model = Tied()
    assert [id(p) for _, p in catalogue(model)] == [id(p) for p in model.parameters()]


def test_empty_scope_says_what_to_type():
    with pytest.raises(ValueError, match="--importance-scope all"):
        scope_of(nn.Embedding(3, 2))
    with pytest.raises(ValueError, match="choose one of linear, all"):
        scope_of(nn.Linear(2, 2), "attention")  # type: ignore[arg-type]


def test_sparse_gradient_is_refused_with_the_flag():
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="--importance-scope linear"):
        _ = scope_of(embedding, "all")[0].grad


def test_blocks_are_views_that_cover_everything():
    a, b = torch.zeros(3, 5), torch.ones(3, 5)
    starts = []
    for start, (x, y) in blocks(15, 4, a, b):
        starts.append(start)
        x.add_(y)
    assert starts == [0, 4, 8, 12] and torch.equal(a, b)


def test_blocks_come_whole_where_memory_is_not_contiguous():
    a = torch.zeros(3, 5).t()
    assert [(start, x.shape) for start, (x,) in blocks(15, 4, a)] == [(0, a.shape)]
