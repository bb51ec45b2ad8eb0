"""Which weights are in scope, and under which name."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from weighted_freezing_fairseq.core.scope import HEADS, blocks, catalogue, scope_of


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


def with_modules(*names: str) -> nn.Module:
    """A model with a linear layer at each of these dotted names."""
    model = nn.Module()
    for name in names:
        *parents, last = name.split(".")
        module = model
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, nn.Module())
            module = getattr(module, parent)
        module.add_module(last, nn.Linear(4, 4))
    return model


@pytest.mark.parametrize(
    "head",
    ["classifier", "classifier.dense", "pre_classifier", "score", "lm_head", "qa_outputs", "bert.pooler.dense",
     "cls.predictions.transform.dense", "classification_heads.rte.dense", "logits_proj", "vocab_transform"],
)  # fmt: skip
def test_linear_scope_leaves_out_the_heads_of_hugging_face(head):
    model = with_modules(head, "encoder.layer.0.output.dense")
    assert [slot.name for slot in scope_of(model)] == ["encoder.layer.0.output.dense.weight"]


def test_a_head_is_a_whole_part_of_a_name():
    model = with_modules("scored.fc", "layer.classifiers")
    assert [slot.name for slot in scope_of(model)] == ["scored.fc.weight", "layer.classifiers.weight"]


def test_the_caller_names_heads_of_his_own():
    model = with_modules("body", "my_head.dense", "score")
    assert [slot.name for slot in scope_of(model)] == ["body.weight", "my_head.dense.weight"]
    assert [slot.name for slot in scope_of(model, heads=HEADS | {"my_head"})] == ["body.weight"]
    assert [slot.name for slot in scope_of(model, heads=set())] == [
        "body.weight",
        "my_head.dense.weight",
        "score.weight",
    ]


class Wrapper(nn.Module):
    """As fairseq's DDP wraps a model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class NotOnlyAWrapper(Wrapper):
    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.fc = nn.Linear(4, 4)


@pytest.mark.slow
def test_wrappers_leave_no_trace_in_names():
    plain, inside = Tied(), Tied()
    names = [entry.aliases for entry, _ in catalogue(plain)]
    inside.fc = torch.compile(inside.fc)
    for wrapped in (torch.compile(Tied()), Wrapper(Tied()), Wrapper(torch.compile(Wrapper(Tied()))), inside):
        assert [entry.aliases for entry, _ in catalogue(wrapped)] == names
    assert [slot.name for slot in scope_of(NotOnlyAWrapper(nn.Linear(4, 4)))] == ["module.weight", "fc.weight"]


def test_ddp_leaves_no_trace_in_names(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(nn.Sequential(nn.Linear(2, 2)))
        assert [slot.name for slot in scope_of(wrapped)] == ["0.weight"]
    finally:
        torch.distributed.destroy_process_group()


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
    with pytest.raises(ValueError, match="use scope='all'"):
        scope_of(nn.Embedding(3, 2))
    with pytest.raises(ValueError, match="choose one of: linear, all"):
        scope_of(nn.Linear(2, 2), "attention")  # type: ignore[arg-type]


def test_sparse_gradient_is_refused_with_the_scope_to_use():
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="use scope='linear'"):
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
