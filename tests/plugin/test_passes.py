"""K passes through real fairseq models: the three modes agree, and R-Drop is one of their settings."""

import random
from argparse import Namespace

import numpy as np
import pytest
import torch
from fairseq import models
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import OmegaConf

from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.plugin import passes
from weighted_freezing_fairseq.plugin.criterions import IntraDistillation, IntraDistillationConfig
from weighted_freezing_fairseq.plugin.passes import PASS_MODES, output_weight

pytestmark = [  # fairseq's own, and old torch's
    pytest.mark.filterwarnings("ignore:.*torch.cpu.amp.autocast"),
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated"),
    pytest.mark.filterwarnings("ignore:Using non-full backward hooks"),
]

WORDS, PAD = 30, 1
TINY = {
    f"{side}_{key}": value
    for side in ("encoder", "decoder")
    for key, value in {
        "layers": 2, "embed_dim": 16, "ffn_embed_dim": 24, "attention_heads": 2, "hidden_size": 16,
        "conv_dim": 16, "conv_type": "dynamic", "kernel_size_list": [3, 3], "glu": True,
    }.items()
}  # fmt: skip


DROPOUT = {
    "dropout": 0.3, "attention_dropout": 0.1, "activation_dropout": 0.1, "input_dropout": 0.1, "relu_dropout": 0.1,
    "weight_dropout": 0.1, "max_source_positions": 50, "max_target_positions": 50, "weight_softmax": True,
    "criterion": "intra_distillation",
}  # fmt: skip
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "relu_dropout": 0.0}


@pytest.fixture
def task():
    words = Dictionary()
    for index in range(WORDS - len(words)):
        words.add_symbol(f"w{index}")
    words.finalize(padding_factor=1)
    return TranslationTask(TranslationConfig(), words, words)


def build(task, arch="transformer", **settings):
    torch.manual_seed(1)
    args = Namespace(**{"arch": arch, **TINY, **DROPOUT, **settings})
    models.ARCH_CONFIG_REGISTRY[arch](args)
    return models.ARCH_MODEL_REGISTRY[arch].build_model(args, task).train()


def batch():
    generator = torch.Generator().manual_seed(2)
    source, target = (torch.randint(4, WORDS, (3, 6), generator=generator) for _ in range(2))
    target[1, 4:], target[2, 2:] = PAD, PAD
    previous = torch.cat([torch.full((3, 1), 2), target[:, :-1]], 1)
    inputs = {"src_tokens": source, "src_lengths": torch.full((3,), 6), "prev_output_tokens": previous}
    return {"net_input": inputs, "target": target, "ntokens": int(target.ne(PAD).sum()), "nsentences": 3}


def criterion(task, **settings):
    cfg = OmegaConf.structured(IntraDistillationConfig)
    OmegaConf.set_struct(cfg, False)
    defaults = {"label_smoothing": 0.1, "sentence_avg": False, "max_update": 0, "alpha_schedule": "constant"}
    return IntraDistillation.build_criterion(OmegaConf.merge(cfg, defaults, settings), task).train()


def run(loss_of, model, seed=3):
    """Loss and gradients, from one state of every source of random numbers."""
    for source in (torch.manual_seed, random.seed, np.random.seed):
        source(seed)
    model.zero_grad()
    loss, _, logged = loss_of(model, batch())
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, logged


def assert_close(one, other, factor=1.0, **kwargs):
    torch.testing.assert_close(one[0] * factor, other[0], **kwargs)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        torch.testing.assert_close(grad * factor, other[1][name], msg=lambda m, n=name: f"{n}: {m}", **kwargs)


class Masks:
    """Dropout whose mask depends on the pass and the call within it, not on how the passes are run.

    The first run (a loop) draws and keeps the masks; the second (copies) takes those of all passes side by side.
    """

    def __init__(self, calls_a_pass=None):
        self.kept, self.calls_a_pass, self.call = [], calls_a_pass, 0

    def draw(self, input, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return input
        self.kept.append(torch.rand(input.shape) >= p)
        return input * self.kept[-1] / (1 - p)

    def take(self, input, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return input
        mine = self.kept[self.call :: self.calls_a_pass]
        self.call += 1
        (side,) = [d for d in range(input.dim()) if input.shape[d] == len(mine) * mine[0].shape[d]]
        return input * torch.cat(mine, side) / (1 - p)


@pytest.mark.parametrize("tied", [True, False])
def test_copies_equal_a_loop_given_the_same_dropout(task, monkeypatch, tied):
    # The dropout of attention happens inside torch, out of reach.
    model = build(task, share_decoder_input_output_embed=tied, attention_dropout=0.0)
    masks = Masks()
    monkeypatch.setattr(torch.nn.functional, "dropout", masks.draw)
    loop = run(criterion(task, pass_mode="loop"), model)
    masks.calls_a_pass = len(masks.kept) // 3
    monkeypatch.setattr(torch.nn.functional, "dropout", masks.take)
    concat = run(criterion(task, pass_mode="concat"), model)
    assert masks.call == masks.calls_a_pass > 10 and loop[2]["divergence"] > 0.1
    assert_close(loop, concat, rtol=1e-4, atol=1e-5)


ARCHS = {
    "transformer": {}, "tied": {"arch": "transformer", "share_decoder_input_output_embed": True},
    "layerdrop": {"arch": "transformer", "encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5},
    "checkpointed": {"arch": "transformer", "checkpoint_activations": True},
    "lstm": {"arch": "lstm"}, "fconv": {
        "arch": "fconv", "encoder_layers": "[(16, 3)]", "decoder_layers": "[(16, 3)]", "decoder_attention": "True"
    }, "lightconv": {"arch": "lightconv"},
}  # fmt: skip


@pytest.mark.parametrize("settings", ARCHS.values(), ids=ARCHS)
def test_recomputed_passes_equal_a_loop_with_every_encoder_decoder(task, settings):
    model = build(task, **settings)
    loop, after_loop = run(criterion(task, pass_mode="loop"), model), torch.rand(3)
    again, after_again = run(criterion(task, pass_mode="recompute"), model), torch.rand(3)
    assert loop[2]["divergence"] > 0 and "forward" not in vars(model)
    assert_close(loop, again, rtol=0, atol=0)
    assert torch.equal(after_loop, after_again)  # the replay draws nothing from whoever comes next


def test_a_replay_restores_pythons_and_numpys_random_numbers_too(task):
    model = build(task)
    forward = model.forward

    def noisy(**inputs):
        features, extra = forward(**inputs)
        return features * (1 + random.random() + np.random.random()), extra

    model.forward = noisy
    loop = run(criterion(task, pass_mode="loop"), model)
    again = run(criterion(task, pass_mode="recompute"), model)
    assert_close(loop, again, rtol=0, atol=0)


@pytest.mark.parametrize("settings", ARCHS.values(), ids=ARCHS)
def test_features_give_what_scores_give(task, settings, monkeypatch):
    """The fused projection and the path of a model that cannot stop before it."""
    model = build(task, **settings)
    fast = run(criterion(task, pass_mode="loop"), model)
    assert (output_weight(model) is not None) == (settings.get("arch", "transformer") == "transformer")
    monkeypatch.setattr(passes, "output_weight", lambda model: None)
    assert_close(fast, run(criterion(task, pass_mode="loop"), model), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif("label_smoothed_cross_entropy_with_rdrop" not in CRITERION_REGISTRY, reason="fairseq 0.12.2")
def test_r_drop_is_two_passes_of_x_and_half_of_fairseqs_loss(task):
    """fairseq sums two cross entropies and alpha (KL(p||q) + KL(q||p)) / 2, undivided by the passes; X at K = 2 is
    (KL(p||q) + KL(q||p)) / 4 and stands beside the *mean* of the cross entropies: exactly half, with the same alpha."""
    r_drop = CRITERION_REGISTRY["label_smoothed_cross_entropy_with_rdrop"]
    model = build(task)
    theirs = run(r_drop(task, sentence_avg=False, label_smoothing=0.1, rdrop_alpha=5.0), model)
    ours = run(criterion(task, num_passes=2, alpha=5.0, pass_mode="concat"), model)
    assert_close(ours, theirs, factor=2.0, rtol=1e-4, atol=1e-5)
    assert ours[2]["divergence"] > 0.1


def test_padding_and_an_ignored_prefix_contribute_nothing(task):
    model = build(task, **NO_DROPOUT)
    stock = CRITERION_REGISTRY["label_smoothed_cross_entropy"](task, False, 0.1, ignore_prefix_size=1)
    plain = run(stock, model)
    passed = run(criterion(task, ignore_prefix_size=1), model)  # without dropout the passes are equal
    assert passed[2]["divergence"].abs() < 1e-5
    assert_close(plain, passed, rtol=1e-4, atol=1e-5)
    wide = batch()
    for key in ("target", "prev_output_tokens"):
        holder = wide if key == "target" else wide["net_input"]
        holder[key] = torch.nn.functional.pad(holder[key], (0, 3), value=PAD)
    loss, _, _ = criterion(task, ignore_prefix_size=1)(model, wide)
    torch.testing.assert_close(loss.detach(), passed[0])


def test_accuracy_is_reported_as_fairseq_reports_it(task):
    model = build(task, **NO_DROPOUT)
    stock = CRITERION_REGISTRY["label_smoothed_cross_entropy"](task, False, 0.1, report_accuracy=True)
    (_, _, plain), (_, _, passed) = run(stock, model), run(criterion(task, report_accuracy=True), model)
    assert passed["total"] == plain["total"] and passed["n_correct"] == pytest.approx(plain["n_correct"])


@pytest.mark.parametrize("settings", [{"alpha": 0.0}, {"num_passes": 1}])
def test_neutral_settings_are_fairseqs_own_loss_bit_for_bit(task, settings):
    model = build(task)
    plain = run(CRITERION_REGISTRY["label_smoothed_cross_entropy"](task, False, 0.1), model)
    neutral = run(criterion(task, **settings), model)
    assert_close(plain, neutral, rtol=0, atol=0)
    assert torch.equal(plain[2]["nll_loss"], neutral[2]["nll_loss"])


def test_validation_is_one_plain_pass(task):
    model = build(task).eval()
    plain = CRITERION_REGISTRY["label_smoothed_cross_entropy"](task, False, 0.1)(model, batch())
    ours = criterion(task).eval()(model, batch())
    assert torch.equal(plain[0], ours[0]) and plain[2].keys() == ours[2].keys()


def test_an_adaptive_softmax_is_refused(task):
    model = build(task, adaptive_softmax_cutoff="10,20")
    with pytest.raises(UserError, match="leave out --adaptive-softmax-cutoff"):
        criterion(task)(model, batch())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"num_passes": 0}, "type --num-passes 3"),
        ({"alpha": -1.0}, "type --alpha 5"),
        ({"alpha_schedule": "adaptive"}, "add --max-update 50000, or --alpha-schedule constant"),
        ({"alpha_schedule": "adaptive", "max_update": 9, "alpha_p": 10.0}, "type --alpha-p 5 --alpha-q 10"),
    ],
)
def test_impossible_settings_say_what_to_type(task, settings, expected):
    with pytest.raises(UserError, match=expected):
        criterion(task, **settings)


def test_every_mode_takes_the_whole_batch(task):
    model = build(task)
    shapes = {mode: PASS_MODES[mode](model, batch(), 4)[0].shape for mode in PASS_MODES}
    assert set(shapes.values()) == {(4, 18, 16)}
