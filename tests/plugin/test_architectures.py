"""The Switch Transformer in real fairseq trainers: its loss with every criterion, its sizes, its neighbours."""

import re
from argparse import Namespace

import pytest
import torch
from fairseq import models
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from fairseq_runs import UNSET_IN_0_12_2, assert_same

from weighted_freezing_fairseq.core.scope import scope_of
from weighted_freezing_fairseq.core.switch import SwitchFeedForward
from weighted_freezing_fairseq.costs.subjects import Size, subject_of, synthetic
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.workspace.configs import CONFIGS

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore:.*torch.(cuda|cpu).amp"),
]

TINY = Size(layers=2, width=16, feed_forward=24, heads=2, vocabulary=30, sentences=4, length=8)
SAMPLE, TASK = synthetic(TINY, seed=1)
SWITCH = [
    "model._name=switch_transformer_iwslt_de_en", "model.dropout=0", "model.switch_jitter=0", "model.switch_every=1",
]  # fmt: skip


def a_trainer(method="standard", *more):
    """A real trainer of a toy YAML with the Switch Transformer in place of the dense one."""
    return subject_of(method, CONFIGS / f"toy/{method}.yaml", TINY, "cpu", 1, TASK, [*SWITCH, *more]).trainer


def a_batch(padded_source=True):
    sample = {**SAMPLE, "net_input": dict(SAMPLE["net_input"])}
    if padded_source:
        source = sample["net_input"]["src_tokens"].clone()
        source[1:, 5:] = TASK.source_dictionary.pad()  # in front of an end, which the model does not ask for
        sample["net_input"]["src_tokens"] = source
    return sample


def switches(model):
    return [module for module in model.modules() if isinstance(module, SwitchFeedForward)]


def gradients_of(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def explicit_auxiliary(model, criterion, sample):
    """Mean over passes, sum over layers of alpha E sum f P + beta z, from what the routers said, by autograd."""
    said, hooks = [], []
    for layer in switches(model):
        hooks.append(layer.router.register_forward_hook(lambda _, x, y, own=layer: said.append((own, own.padding, y))))
    loss, sample_size, _ = criterion.forward(model, sample)  # not called: no hook of the trainer's runs
    for hook in hooks:
        hook.remove()
    total = 0
    for layer, padding, logits in said:
        counted = torch.ones_like(logits[..., 0], dtype=torch.bool) if padding is None else ~padding.T
        p = logits[counted].softmax(-1)
        share = torch.stack([(p.argmax(-1) == e).double().mean() for e in range(p.shape[-1])])
        total = total + layer.balance_weight * p.shape[-1] * (share * p.mean(0)).sum()
        total = total + layer.z_weight * logits[counted].exp().sum(-1).log().square().mean()
    return loss, total * sample_size / (len(said) / len(switches(model)))


CRITERIONS = {
    "stock": ("standard", []),
    "mean over sentences": ("standard", ["criterion.sentence_avg=true"]),
    "z-loss": ("standard", ["model.switch_z_weight=0.1", "model.switch_aux_weight=0"]),
    "recomputed layers": ("standard", ["model.checkpoint_activations=true"]),
    **{
        mode: ("intra_distillation", ["criterion.alpha_schedule=constant", f"criterion.pass_mode={mode}"])
        for mode in ("concat", "loop", "recompute")
    },
    "ewc": ("ewc", []),
    "alignreg": ("alignreg", []),
    "self_distillation": ("self_distillation", []),
}  # fmt: skip


def largest_error(method, more, wrong=1.0):
    """Of any parameter's gradient, relative to its largest entry; in float64, the loss times 8 as under --fp16."""
    oracle = a_trainer(method, *(setting for setting in more if "checkpoint" not in setting))
    trainer = a_trainer(method, *more)
    found = []
    for each in (oracle, trainer):
        model, criterion = each.get_model().double().train(), each.get_criterion().train()
        if method == "self_distillation":
            criterion._teachers = oracle.get_criterion()._teachers  # made of random numbers: the same for both
            criterion._teachers.models[0].double()
        if each is oracle:
            plain, auxiliary = explicit_auxiliary(model, criterion, a_batch())
            (8 * (plain + auxiliary)).backward()
        else:
            for layer in switches(model):
                layer.balance_weight, layer.z_weight = layer.balance_weight * wrong, layer.z_weight * wrong
            loss, _, logged = criterion(model, a_batch())
            (8 * loss).backward()
        found.append(gradients_of(model))
    for value in (loss, logged["loss"]):  # the loss itself stays as it was
        torch.testing.assert_close(torch.as_tensor(value).detach().to(plain), plain.detach())
    expected, mine = found
    assert expected.keys() == mine.keys() and auxiliary > 0
    return max(float((mine[n] - g).abs().max() / g.abs().max()) for n, g in expected.items() if g.abs().max() > 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "more"), CRITERIONS.values(), ids=CRITERIONS)
def test_the_loss_of_the_routers_reaches_the_gradient_with_every_criterion(method, more):
    assert largest_error(method, more) < 1e-9


@pytest.mark.parametrize("name", ["stock", "z-loss"])
def test_a_strength_that_is_a_thousandth_off_is_found(name):
    assert largest_error(*CRITERIONS[name], wrong=1.001) > 1e-5


def test_a_batch_that_only_fills_up_and_validation_have_no_loss_of_the_routers():
    trainer = a_trainer()
    model, criterion = trainer.get_model().train(), trainer.get_criterion()
    loss, _, _ = criterion(model, a_batch())
    loss *= 0  # as fairseq does with a batch that makes up the numbers
    loss.backward()
    assert not any(g.any() for g in gradients_of(model).values())
    model.eval()
    found = criterion(model, a_batch())
    plain = LabelSmoothedCrossEntropyCriterion.forward(criterion, model, a_batch())
    assert torch.equal(found[0], plain[0]) and found[2].keys() == plain[2].keys()


def test_one_expert_is_the_dense_transformer_bit_for_bit():
    one, dense = (
        a_trainer("standard", "model.dropout=0.2", *more)
        for more in (["model.switch_experts=1"], ["model._name=transformer"])
    )
    weights = dense.get_model().state_dict()
    one.get_model().load_state_dict(weights, strict=True)
    for trainer in (one, dense):
        for _ in range(3):  # with dropout
            trainer.train_step([a_batch()])
    assert_same(*(dict(trainer.get_model().state_dict()) for trainer in (one, dense)))


def test_experts_are_in_scope_and_routers_are_not():
    model = a_trainer().get_model()
    names = {slot.name for slot in scope_of(model)}
    experts = {
        f"{side}.layers.{layer}.fc1.experts.{e}.{fc}.weight"
        for side in ("encoder", "decoder")
        for layer in range(2) for e in range(4) for fc in ("fc1", "fc2")
    }  # fmt: skip
    assert {name for name in names if "_proj" not in name} == experts
    assert any("router" in name for name, _ in model.named_parameters())


def parameters(arch, words, **settings):
    """How many parameters an architecture has: built on the meta device, where numbers take no memory."""
    known = Dictionary()
    for number in range(words - len(known)):
        known.add_symbol(f"w{number}")
    args = Namespace(arch=arch, max_source_positions=1024, max_target_positions=1024, **settings)
    with torch.device("meta"):
        model = models.build_model(args, TranslationTask(TranslationConfig(), known, known))
    return sum(p.numel() for name, p in model.named_parameters() if not UNSET_IN_0_12_2.search(name))


def test_parameters_are_those_that_xu_et_al_print():
    """Table 2: 49.98M and 87.81M, 1.76 times as many: experts in all twelve layers, no embeddings shared.

    A feed-forward block has 2 * 512 * 1024 + 1024 + 512 parameters, a router 4 * 512: 12 * (3 blocks + router) more.
    """
    words = 12_001  # 12,000 pieces, of which three are fairseq's own, and a fourth of these
    dense = parameters("transformer_iwslt_de_en", words)
    every = {n: parameters("switch_transformer_iwslt_de_en", words, switch_every=n) for n in (1, 2)}
    assert every[1] - dense == 12 * (3 * (2 * 512 * 1024 + 1024 + 512) + 4 * 512) == 2 * (every[2] - dense)
    assert (f"{dense / 1e6:.2f}M", f"{every[1] / 1e6:.2f}M") == ("49.98M", "87.81M")
    shared = parameters("transformer_iwslt_de_en", words, share_all_embeddings=True)
    ratios = [every[1] / dense, every[2] / dense, 1 + (every[2] - dense) / shared, 1 + (every[1] - dense) / shared]
    print("Switch beside dense, times as many parameters:", " ".join(f"{ratio:.3f}" for ratio in ratios))
    page = (CONFIGS.parent / "docs/methods/switch_transformer.md").read_text(encoding="utf-8")
    assert all(f"{ratio:.2f}" in page for ratio in ratios) and f"{ratios[0]:.2f}" == "1.76"


def test_the_big_one_has_experts_too():
    big = {"share_all_embeddings": True, "switch_every": 3}
    more = parameters("switch_transformer_vaswani_wmt_en_de_big", 1000, **big)
    dense = parameters("transformer_vaswani_wmt_en_de_big", 1000, share_all_embeddings=True)
    assert more - dense == 4 * (3 * (2 * 1024 * 4096 + 4096 + 1024) + 4 * 1024)


def hypotheses(model, sample, incremental=True):
    generator = SequenceGenerator([model], TASK.target_dictionary, beam_size=3, max_len_b=6)
    generator.model.has_incremental = incremental
    found = generator.forward(sample)
    return [[(h["tokens"].tolist(), h["score"].item()) for h in beams] for beams in found]


def assert_same_hypotheses(a, b):
    for mine, its in zip(a, b, strict=True):
        assert [tokens for tokens, _ in mine] == [tokens for tokens, _ in its]
        assert [s for _, s in mine] == pytest.approx([s for _, s in its], rel=1e-4)


@pytest.mark.parametrize("capacity", [0, 0.5])
def test_hypotheses_depend_on_neither_the_batch_nor_incremental_states(capacity):
    model = a_trainer("standard", f"model.switch_eval_capacity={capacity}").get_model().eval()
    assert {layer.eval_capacity for layer in switches(model.decoder)} == {0}
    pad = TASK.source_dictionary.pad()
    generator = torch.Generator().manual_seed(4)
    sentences = [torch.randint(4, 30, (length,), generator=generator) for length in (8, 5, 3)]
    batch = torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True, padding_value=pad)

    def sample(tokens):
        return {"net_input": {"src_tokens": tokens, "src_lengths": tokens.ne(pad).sum(1)}}

    together = hypotheses(model, sample(batch))
    assert_same_hypotheses(together, hypotheses(model, sample(batch), incremental=False))
    assert_same_hypotheses(together, [hypotheses(model, sample(s[None]))[0] for s in sentences])
    if capacity:  # and tokens are dropped
        for layer in switches(model.encoder):
            layer.eval_capacity = 0
        assert hypotheses(model, sample(batch))[0][0][1] != pytest.approx(together[0][0][1], rel=1e-6)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("switch_experts=0", "type --switch-experts 4"),
        ("switch_every=0", "type --switch-every 2"),
        ("switch_every=3", "leaves no Switch layer among 2; type --switch-every 2"),
        ("switch_capacity=-1", "type --switch-capacity 1.25"),
        ("switch_jitter=1", "type 0.01"),
    ],
)
def test_impossible_settings_say_what_to_type(setting, words):
    with pytest.raises(UserError, match=re.escape(words)):
        a_trainer("standard", f"model.{setting}")
