"""Forms of the optimizer rows by their settings, in fairseq's own trainer: resume, precisions, processes.

The default forms go through the real fairseq-train too, in tests/e2e/test_optimizers.py.
"""

import itertools
from pathlib import Path

import pytest
import torch
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq_runs import Fairseq, assert_close, assert_same
from torch import nn

from weighted_freezing_fairseq.core import snapshot
from weighted_freezing_fairseq.core.rules import RULES, rows
from weighted_freezing_fairseq.core.scope import catalogue
from weighted_freezing_fairseq.costs.subjects import Size, subject_of, synthetic
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.plugin import parameters
from weighted_freezing_fairseq.workspace.configs import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore")  # fairseq's own

TINY = Size(layers=1, width=16, feed_forward=24, heads=2, vocabulary=30, sentences=4, length=8)
TASK = synthetic(TINY, seed=1)[1]
UPDATES = 4
BATCHES = [synthetic(TINY, seed)[0] for seed in range(2 * UPDATES)]  # two for each update
COMMON = ["model.dropout=0", "optimization.lr=[0.01]", "lr_scheduler.warmup_updates=2", "optimizer.weight_decay=0.01"]
# Row, form -> settings, with `optimizer.` before each. FISHER stands for a file.
FORMS = {
    ("weighted_freeze", "printed"): ["freeze_rule=printed"],
    ("weighted_freeze", "smooth"): ["freeze_rule=smooth"],
    ("weighted_freeze", "random"): ["freeze_rule=random"],
    ("weighted_freeze", "random, freeze_keep"): ["freeze_rule=random", "freeze_keep=0.3"],
    ("sage", "li"): ["sage_variant=li"],
    ("sage", "light"): ["sage_variant=light"],
    ("magma", "skip_update"): ["magma_variant=skip_update"],
    ("spg", "update"): ["spg_apply=update", "fisher=FISHER"],
    ("lisa", "saved in a period"): ["lisa_layers=1", "lisa_period=3"],
    ("lisa", "saved between periods"): ["lisa_layers=1", "lisa_period=1"],
    ("lfr_cm", "lfr_norm"): ["lfr_norm=global", "lfr_quantile=0.25", "fisher=FISHER"],
}
DEFAULTS = {
    ("weighted_freeze", "important"): [],
    ("sage", "full"): [],
    ("fish_mask", "fisher"): ["fish_density=0.05", "fish_updates=2"],
    ("lfr_cm", "tensor"): ["lfr_quantile=0.25", "fisher=FISHER"],
    ("spg", "gradient"): ["fisher=FISHER"],
    ("cautious", ""): [],
    ("magma", "aligned"): [],
    ("mofo", ""): [],
    ("gmt", ""): [],
    ("cautious_decay", ""): ["weight_decay=0.5"],
}
PRECISIONS = {
    "fp32": [],
    "bf16": ["common.bf16=true"],
    "memory-efficient-fp16": ["common.memory_efficient_fp16=true", "common.fp16=true", "common.fp16_init_scale=4"],
}
RESUMED = [*itertools.product(FORMS, PRECISIONS), *itertools.product(DEFAULTS, ["fp32"])]


@pytest.fixture(scope="module")
def fisher(tmp_path_factory):
    """Fisher information that differs in size between tensors, so that a global quantile is another mask."""
    path = tmp_path_factory.mktemp("fisher") / "fisher.pt"
    generator = torch.Generator().manual_seed(1)
    model = subject_of("standard", CONFIGS / "toy/standard.yaml", TINY, "cpu", 1, TASK).trainer.get_model()
    weights = [(entry.name, p.shape) for entry, p in catalogue(model)]
    scores = {name: torch.rand(shape, generator=generator) * 2.0**n for n, (name, shape) in enumerate(weights)}
    snapshot.save(path, "fisher", scores)
    return path


def trainer_of(form, fisher, *settings):
    """The trainer of a form."""
    own = [f"optimizer.{each}".replace("FISHER", str(fisher)) for each in (FORMS | DEFAULTS)[form]]
    settings = [f"optimizer._name={form[0]}", *COMMON, *own, *settings]
    return subject_of(form[0], CONFIGS / "toy/standard.yaml", TINY, "cpu", 1, TASK, settings).trainer


def train(trainer, updates, batches=(0, 1)):
    """Updates from where the trainer is, on some of the two batches of each."""
    for update in updates:
        trainer.train_step([BATCHES[2 * update + number] for number in batches])
    return {name: p.detach() for name, p in trainer.get_model().named_parameters()}


def test_every_form_that_is_no_default_is_here():
    others = {(row.name, row.variant) for row in rows() if row.kind == "optimizer"} - {
        (row.name, row.variant) for row in RULES.values()
    }
    assert others and others <= FORMS.keys()
    assert {name for name, _ in FORMS | DEFAULTS} == {row.name for row in rows() if row.kind == "optimizer"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "precision"), RESUMED, ids=lambda part: part if isinstance(part, str) else " ".join(part)
)
def test_a_resumed_run_equals_an_uninterrupted_one(form, precision, fisher, tmp_path):
    middle = UPDATES // 2
    first, second = (trainer_of(form, fisher, *PRECISIONS[precision]) for _ in range(2))
    train(first, range(middle))
    first.consolidate_optimizer()
    first.save_checkpoint(str(tmp_path / "middle.pt"), {"train_iterator": {"epoch": 1}})
    second.load_checkpoint(str(tmp_path / "middle.pt"))
    if precision == "bf16":  # fairseq saves the rounded weights and no others
        for p in first.optimizer.optimizer.param_groups[0]["params"]:
            p.data.copy_(p.data.bfloat16())
    saved, loaded = (trainer.optimizer.state_dict() for trainer in (first, second))
    assert_same(saved, loaded)
    whole, resumed = (train(trainer, range(middle, UPDATES)) for trainer in (first, second))
    assert second.get_num_updates() == second.optimizer.optimizer.updates == UPDATES
    assert all(weight.isfinite().all() for weight in whole.values())
    assert_same(whole, resumed)


RANK = """
import sys
import warnings
warnings.simplefilter("ignore")
rank, folder, fisher = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.path[:0] = sys.argv[4:]
import test_every_form
test_every_form.train_together(rank, folder, fisher)
"""


def train_together(rank, folder, fisher):
    """What one of two processes does: a training of every form."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    settings = {"world_size": 2, "rank": rank}
    settings = [f"distributed_training.distributed_{name}={value}" for name, value in settings.items()]
    settings += ["distributed_training.ddp_backend=legacy_ddp"]
    weights = {
        form: train(trainer_of(form, fisher, *settings), range(UPDATES), batches=[rank]) for form in FORMS | DEFAULTS
    }
    torch.save(weights, f"{folder}/{rank}.pt")


def test_two_processes_agree_and_equal_one_with_twice_the_update_freq(toy_data, fisher, tmp_path):
    start = Fairseq(toy_data, tmp_path).python
    paths = [Path(__file__).parent, Path(__file__).parents[1]]
    processes = [start("-c", RANK, rank, tmp_path, fisher, *paths) for rank in range(2)]
    one = {form: train(trainer_of(form, fisher), range(UPDATES)) for form in FORMS | DEFAULTS}
    told = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(each[-3000:] for each in told)
    two = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert_same(*two)
    for form, weights in one.items():
        assert_close(weights, two[0][form])
    for first, second in itertools.combinations(one, 2):  # each does what no other does
        assert any(not torch.allclose(w, one[second][name], atol=1e-4) for name, w in one[first].items())


def test_lisa_refuses_flat_parameters_with_what_to_type():
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 3)])})
    flat = nn.Parameter(torch.zeros(9))
    cfg = trainer_of(("lisa", "saved in a period"), "").cfg.optimizer
    with parameters.published(model), pytest.raises(UserError, match="add --fp16-no-flatten-grads"):
        OPTIMIZER_REGISTRY["lisa"](cfg, [flat])
