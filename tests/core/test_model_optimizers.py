"""One line from a model to an optimizer: the same bits as the optimizer below it, and errors that say what to pass."""

import copy

import pytest
import torch

from weighted_freezing_fairseq import (
    FishMask,
    FixedMaskOptimizer,
    GuidedOptimizer,
    LfrCm,
    Sage,
    WeightedFreeze,
    scope_of,
)
from weighted_freezing_fairseq.core import snapshot


def a_model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.Linear(16, 4))


def trained(model, optimizer, steps=4):
    torch.manual_seed(2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.randn(6, 8)), torch.randint(4, (6,))).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


FISHER = {name: torch.rand_like(parameter) for name, parameter in a_model().named_parameters()}
MASKS = {name: fisher > 0.5 for name, fisher in FISHER.items()}
# What is made in one line, and the same around a base by hand: scope, class, and its arguments.
METHODS = {
    "weighted_freeze": (WeightedFreeze, "linear", GuidedOptimizer, {"method": "weighted_freeze"}),
    "smooth, update": (
        lambda m, **k: WeightedFreeze(m, freeze_rule="smooth", freeze_apply="update", seed=3, importance_start=2, **k),
        "linear", GuidedOptimizer,
        {"method": "weighted_freeze", "variant": "smooth", "stage": "update", "seed": 3, "start": 2},
    ),
    "random": (
        lambda m, **k: WeightedFreeze(m, freeze_rule="random", freeze_keep=0.3, **k), "linear", GuidedOptimizer,
        {"method": "weighted_freeze", "variant": "random", "keep": 0.3},
    ),
    "sage": (
        lambda m, **k: Sage(m, sage_beta=0.6, sage_eps=1e-8, sage_max_scale=2.0, importance_norm="global", **k),
        "linear", GuidedOptimizer,
        {"method": "sage", "variant": "full", "beta": 0.6, "eps": 1e-8, "max_scale": 2.0, "norm": "global"},
    ),
    "sage, li": (
        lambda m, **k: Sage(m, sage_variant="li", sage_state_dtype=torch.bfloat16, importance="magnitude", **k),
        "linear", GuidedOptimizer,
        {"method": "sage", "variant": "li", "state_dtype": torch.bfloat16, "importance": "magnitude"},
    ),
    "fish_mask": (
        lambda m, **k: FishMask(m, fish_density=0.2, fish_updates=2, fish_always="bias", **k),
        "all", FixedMaskOptimizer,
        {"method": "fish_mask", "density": 0.2, "observe": 2, "always": "bias"},
    ),
    "a mask": (lambda m, **k: FishMask(m, fish_mask=MASKS, **k), "all", FixedMaskOptimizer, {"masks": MASKS}),
    "lfr_cm": (
        lambda m, **k: LfrCm(m, fisher=FISHER, lfr_quantile=0.3, lfr_norm="global", lfr_always_frozen="^1", **k),
        "all", FixedMaskOptimizer,
        {"method": "lfr_cm", "source": FISHER, "quantile": 0.3, "norm": "global", "never": "^1"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("base", ["default", "class", "instance"])
@pytest.mark.parametrize("name", METHODS)
def test_it_trains_as_the_optimizer_below_it_does(name, base):
    in_one_line, scope, wrapper, arguments = METHODS[name]
    ours, theirs = a_model(), a_model()
    if base == "default":
        optimizer, by_hand = in_one_line(ours, lr=0.01), torch.optim.AdamW(theirs.parameters(), lr=0.01)
    elif base == "class":
        optimizer = in_one_line(ours, lr=0.1, base=torch.optim.SGD, momentum=0.9, weight_decay=0.01)
        by_hand = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    else:
        optimizer = in_one_line(ours, base=torch.optim.Adam(ours.parameters(), lr=0.02))
        by_hand = torch.optim.Adam(theirs.parameters(), lr=0.02)
    guided = wrapper(by_hand, scope_of(theirs, scope), **arguments)
    before = [parameter.detach().clone() for parameter in ours.parameters()]
    after = trained(ours, optimizer)
    assert all(map(torch.equal, after, trained(theirs, guided)))
    assert not all(map(torch.equal, after, before))


def test_named_parameters_are_all_guided():
    model = a_model()
    optimizer = WeightedFreeze(model.named_parameters(), lr=0.1, base=torch.optim.SGD)
    assert [slot.name for slot in optimizer.slots] == [name for name, _ in model.named_parameters()]
    only = Sage([(name, p) for name, p in model.named_parameters() if name.startswith("2")], lr=0.1)
    assert [slot.name for slot in only.slots] == ["2.weight", "2.bias"]
    assert len(only.param_groups[0]["params"]) == 2


def test_frozen_parameters_are_left_to_nobody():
    model = a_model()
    model[0].weight.requires_grad_(False)
    optimizer = WeightedFreeze(model, lr=0.1)
    assert [slot.name for slot in optimizer.slots] == ["2.weight"] and len(optimizer.param_groups[0]["params"]) == 5


def test_files_of_wff_fisher_are_taken(tmp_path):
    snapshot.save(tmp_path / "mask.pt", "mask", MASKS, density=0.5)
    snapshot.save(tmp_path / "fisher.pt", "fisher", FISHER)
    for model, from_file, given in (
        (a_model(), {"fish_mask": str(tmp_path / "mask.pt")}, {"fish_mask": MASKS}),
        (a_model(), {"fisher": tmp_path / "fisher.pt", "lfr_quantile": 0.3}, {"fisher": FISHER, "lfr_quantile": 0.3}),
    ):
        method, other = FishMask if "fish_mask" in given else LfrCm, copy.deepcopy(model)
        one, two = method(model, lr=0.1, **from_file), method(other, lr=0.1, **given)
        assert all(map(torch.equal, trained(model, one), trained(other, two)))


def test_copies_states_and_schedules_work_as_in_torch():
    model = a_model()
    optimizer = Sage(model, lr=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    trained(model, optimizer)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.005
    again = a_model()
    resumed = Sage(again, lr=0.01)
    again.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(map(torch.equal, trained(model, optimizer), trained(again, resumed)))
    twin_model, twin = copy.deepcopy((model, optimizer))
    assert type(twin) is Sage
    assert all(map(torch.equal, trained(model, optimizer), trained(twin_model, twin)))


@pytest.mark.parametrize("method", [WeightedFreeze, lambda model, **k: FishMask(model, fish_density=0.5, **k)])
def test_parameters_that_are_added_later_are_trained_and_named_in_a_warning(method, caplog):
    model, added = a_model(), torch.nn.Parameter(torch.ones(3, 5))
    optimizer = method(model, lr=0.1, base=torch.optim.SGD)
    optimizer.add_param_group({"params": [added], "lr": 1.0})
    assert "does not act on parameters that are added later ((3, 5)); only SGD updates them" in caplog.text
    added.grad = torch.ones(3, 5)
    optimizer.base.step()
    assert torch.equal(added, torch.zeros(3, 5))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda m: WeightedFreeze(m.parameters(), lr=0.1), TypeError, "pass the model, or model.named_parameters()"),
        (lambda m: WeightedFreeze([{"params": [m[0].weight]}]), TypeError, "pass the model, or model.named"),
        (lambda m: WeightedFreeze(m, lr=0.1, base="adam"), TypeError, "base must be a class such as torch.optim.AdamW"),
        (lambda m: Sage(m, 0.1, torch.optim.SGD(m.parameters(), lr=1)), TypeError, "leave out lr, or pass its class"),
        (lambda m: Sage(m, lr=0.1, beta=0.5), TypeError, "beta.*arguments of Sage that are not its own go to AdamW"),
        (lambda m: Sage(m, sage_variant="heavy"), ValueError, "its variants: full, li, light"),
        (lambda m: WeightedFreeze([]), ValueError, "got no parameter that requires a gradient"),
        (lambda m: WeightedFreeze(torch.nn.LayerNorm(3)), ValueError, "use scope='all'"),
        (lambda m: FishMask(m), ValueError, "fish_density=0.005, or fish_mask"),
        (lambda m: FishMask(m, fish_mask={"0.weight": torch.ones(16, 8)}), ValueError, "there is no mask for 0.bias"),
        (lambda m: LfrCm(m, fisher=FISHER), ValueError, "needs one of lfr_quantile, such as lfr_quantile=0.25"),
    ],
)  # fmt: skip
def test_errors_say_what_to_pass(make, error, words):
    with pytest.raises(error, match=words.replace("(", r"\(").replace(")", r"\)")):
        make(a_model())
