"""The criterions on a tiny RoBERTa: fairseq's own `sentence_prediction` when neutral, and the formulas by hand."""

import itertools
import math
import random
import shutil
from argparse import Namespace
from dataclasses import fields

import numpy as np
import pytest
import tiny_sentences
import torch
from fairseq import models
from fairseq.criterions import CRITERION_REGISTRY
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.criterions.sentence_prediction import SentencePredictionConfig
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.sentence_prediction import SentencePredictionConfig as TaskConfig
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import OmegaConf

from weighted_freezing_fairseq.core.scope import catalogue
from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.plugin import alignreg, criterions
from weighted_freezing_fairseq.plugin.teachers import Teachers, _task_difference

pytestmark = [  # fairseq's own, and old torch's
    pytest.mark.filterwarnings("ignore:.*torch.(cpu|cuda).amp.autocast"),
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype"),
]

HEAD = "sentence_classification_head"
REPORTS = [f.name for f in fields(SentencePredictionConfig) if f.name.startswith("report_")]  # none in fairseq 0.12.2
ROWS = {
    "intra_distillation": (criterions.IntraDistillation, criterions.IntraDistillationConfig, {"alpha": 0.0}),
    "one pass": (criterions.IntraDistillation, criterions.IntraDistillationConfig, {"num_passes": 1}),
    "ewc": (criterions.Ewc, criterions.EwcConfig, {"ewc_lambda": 0.0}),
    "self_distillation": (criterions.SelfDistillation, criterions.SelfDistillationConfig, {"teacher_weight": 0.0}),
    "alignreg": (alignreg.AlignReg, alignreg.AlignRegConfig, {"alignreg": "none"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_sentences.write(tmp_path_factory.mktemp("sentences"))


@pytest.fixture
def a_task(folder):
    def make(regression=False):
        kind, classes = ("scores", 1) if regression else ("classes", tiny_sentences.CLASSES)
        settings = {"data": str(folder / kind), "num_classes": classes, "init_token": 0, "separator_token": 2}
        more = {"regression_target": regression, "classification_head_name": HEAD, "seed": 1, "max_positions": 40}
        cfg = OmegaConf.merge(OmegaConf.structured(TaskConfig), settings, more)
        task = SentencePredictionTask.setup_task(cfg)
        task.load_dataset("train")
        return task

    return make


@pytest.fixture(params=[False, True], ids=["classes", "scores"])
def task(a_task, request):
    return a_task(request.param)


def build(task, dropout=0.2, seed=1):
    torch.manual_seed(seed)
    args = Namespace(arch="roberta_base", encoder_layers=1, encoder_embed_dim=16, encoder_ffn_embed_dim=24,
                     encoder_attention_heads=2, dropout=dropout, attention_dropout=dropout)  # fmt: skip
    models.ARCH_CONFIG_REGISTRY[args.arch](args)
    model = task.build_model(args).train()
    for parameter in model.classification_heads.parameters():  # one that prefers something
        parameter.data.normal_(std=0.5)
    return model


def batch(task):
    return task.dataset("train").collater([task.dataset("train")[number] for number in range(7)])


def criterion(task, row="intra_distillation", neutral=False, **settings):
    kind, config, neutral_settings = ROWS[row]
    cfg = OmegaConf.structured(config)
    OmegaConf.set_struct(cfg, False)
    given = {"label_smoothing": 0.0, "sentence_avg": False, "max_update": 0, "seed": 1,
             "regression_target": task.cfg.regression_target}  # fmt: skip
    given |= {"alpha_schedule": "constant", "alpha": 3.0} if kind is criterions.IntraDistillation else {}
    return kind.build_criterion(OmegaConf.merge(cfg, given, neutral_settings if neutral else {}, settings), task)


def stock(task, **settings):
    cfg = {"classification_head_name": HEAD, "regression_target": task.cfg.regression_target}
    return CRITERION_REGISTRY["sentence_prediction"](
        OmegaConf.merge(OmegaConf.structured(SentencePredictionConfig), cfg, settings), task
    )


def run(loss_of, model, sample):
    """Loss, gradients and what is logged, from one state of every source of random numbers."""
    for source in (torch.manual_seed, random.seed, np.random.seed):
        source(3)
    model.zero_grad()
    loss, size, logged = loss_of(model, sample)
    if model.training:
        loss.backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), size, logged, grads


def assert_equal(one, other, **tolerance):
    torch.testing.assert_close(one[0], other[0], **tolerance)
    assert one[1] == other[1] and one[3].keys() == other[3].keys()
    for name, grad in one[3].items():
        torch.testing.assert_close(grad, other[3][name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


EXACTLY = {"rtol": 0, "atol": 0}


def shown(kind, logs):
    """What fairseq shows of some batches."""
    with metrics.aggregate(new_root=True) as seen:
        kind.reduce_metrics(logs)
    return {k: v for k, v in seen.get_smoothed_values().items() if not isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("row", ROWS)
def test_neutral_settings_are_fairseqs_own_loss_bit_for_bit(task, row):
    model, sample = build(task), batch(task)
    plain, neutral = run(stock(task), model, sample), run(criterion(task, row, neutral=True), model, sample)
    assert_equal(plain, neutral, **EXACTLY)
    assert plain[2] == neutral[2]


@pytest.mark.filterwarnings("ignore:.*single label was found")
@pytest.mark.parametrize("row", ROWS)
def test_validation_is_fairseqs_own_with_every_report(task, row):
    scores = task.cfg.regression_target
    reports = {name: True for name in REPORTS if ("pearson" in name) == scores}
    needed = {"ewc_lambda": 1.0} if row == "ewc" else {"teacher": "some.pt"} if row == "self_distillation" else {}
    model, sample = build(task).eval(), batch(task)
    if not scores:
        sample["target"] %= 2  # F1 is of two classes
    stocks, mine = stock(task, **reports).eval(), criterion(task, row, **reports, **needed).eval()
    plain, ours = run(stocks, model, sample), run(mine, model, sample)
    assert_equal(plain, ours, **EXACTLY)
    assert plain[2] == ours[2] and ("pred" in ours[2]) == bool(reports)
    values = shown(type(mine), [ours[2]])
    assert values == shown(type(stocks), [plain[2]])
    assert {"mcc", "f1", "accuracy"} <= values.keys() or {"pearson", "spearman"} <= values.keys() or not REPORTS


def by_hand(logits, sample, strength, divergence, scores):
    """Xu et al. 2022, eq. 8 to 10, number by number in float64: loss, loss of the task, divergence, right answers."""
    passes = [each.double().numpy() for each in logits]
    targets, k = sample["target"].view(-1).tolist(), len(passes)
    own = apart = right = 0.0
    for row, target in enumerate(targets):
        made = [each[row] for each in passes]
        if scores:
            own += sum((y[0] - target) ** 2 for y in made) / k
            apart += sum((y[0] - sum(z[0] for z in made) / k) ** 2 for y in made) / k
            continue
        p = [np.exp(y - y.max()) / np.exp(y - y.max()).sum() for y in made]
        mean = sum(p) / k
        own -= sum(np.log(each[target]) for each in p) / k
        right += sum(each.argmax() == target for each in p) / k
        forth = sum((each * np.log(each / mean)).sum() for each in p) / k
        back = sum((mean * np.log(mean / each)).sum() for each in p) / k
        squares = sum(((each - mean) ** 2).sum() for each in p) / k
        apart += {"x": forth + back, "js": forth, "mse": squares}[divergence]
    return own + strength * apart, own, apart, right


@pytest.mark.parametrize("mode", ["concat", "loop", "recompute"])
@pytest.mark.parametrize("divergence", ["x", "js", "mse"])
def test_the_loss_is_the_formula_by_hand(task, mode, divergence):
    scores = task.cfg.regression_target
    model, sample, made = build(task), batch(task), []
    hook = model.classification_heads[HEAD].register_forward_hook(lambda *a: made.append(a[2].detach()))
    mine = criterion(task, pass_mode=mode, divergence=divergence)
    loss, size, logged, _ = run(mine, model, sample)
    hook.remove()
    logits = made[0].chunk(3) if mode == "concat" else made
    wanted = by_hand(logits, sample, 3.0, divergence, scores)
    name = "mse_loss" if scores else "ce_loss"
    found = [loss, logged[name], logged["divergence"], logged.get("ncorrect", 0.0)]
    assert [float(x) for x in found] == pytest.approx(wanted, rel=1e-5) and wanted[2] > 1e-3
    assert size == logged["sample_size"] == logged["nsentences"] == 7 and logged["alpha"] == 3.0 * 7
    values = shown(type(mine), [logged, logged])
    assert values[name] + 3 * values["divergence"] == pytest.approx(values["loss"], abs=1e-3)
    assert values["alpha"] == 3 and ("accuracy" in values) != scores


def a_trainer(folder, reduction):
    """Of Intra-Distillation without dropout."""
    more = ["model.dropout=0", "model.attention_dropout=0", "criterion.alpha=0.5", "criterion.pass_mode=loop"]
    more.append(f"criterion.divergence_reduction={reduction}")
    made = tiny_sentences.trainer(folder / "classes", "intra_distillation", *more)
    made.task.load_dataset("train")
    return made


def other_in_each_pass(model):
    """Passes that differ without chance: the scores of pass k of 3 have k times their square added."""
    calls = itertools.count()

    def change(module, inputs, scores):
        return scores + (next(calls) % 3) * scores**2

    return model.classification_heads[HEAD].register_forward_hook(change)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_sum_over_the_batch_counts_the_sentences_of_the_whole_update(folder, reduction):
    """mean(CE) + alpha mean(D), or mean(CE) + alpha sum(D) as Xu et al. on GLUE, also where a batch is cut in two."""
    trainer = a_trainer(folder, reduction)
    model, data = trainer.model.train(), trainer.task.dataset("train")
    other_in_each_pass(model)
    parts = [data.collater([data[number] for number in numbers]) for numbers in (range(8), range(8, 12))]
    ce, apart = torch.zeros(()), torch.zeros(())
    for part in parts:
        log_p = torch.stack(
            [model(**part["net_input"], classification_head_name=HEAD)[0].log_softmax(-1) for _ in range(3)]
        )
        m = log_p.exp().mean(0)
        ce = ce - log_p.gather(2, part["target"].view(1, -1, 1).expand(3, -1, 1)).sum() / 3
        apart = apart + sum(((p.exp() - m) * (p - m.log())).sum() for p in log_p) / 3
    assert apart > 0.1
    wanted = ce / 12 + 0.5 * apart / (1 if reduction == "sum" else 12)
    grads = torch.autograd.grad(wanted, list(model.parameters()), allow_unused=True)
    logged = trainer.train_step(parts)
    for (name, parameter), grad in zip(model.named_parameters(), grads, strict=True):
        if grad is not None:  # fairseq's Adamax leaves absolute values behind
            limit = 1e-4 * float(grad.abs().max()) + 1e-4
            torch.testing.assert_close(parameter.grad, grad.abs(), rtol=0, atol=limit, msg=name)
    bits = [x.item() / math.log(2) for x in (wanted, ce / 12, apart / (1 if reduction == "sum" else 12))]
    assert [logged[name] for name in ("loss", "ce_loss", "divergence")] == pytest.approx(bits, abs=1e-3)
    assert logged["alpha"] == 0.5
    trainer.criterion.update_begun(trainer, [parts[0], {}])  # nothing is counted where the last batch is a stand-in
    assert trainer.criterion._update_size == 0


def test_a_sum_of_one_sentence_is_its_mean_and_a_neutral_one_needs_no_trainer(folder, a_task):
    weights = []
    for reduction in ("mean", "sum"):
        trainer = a_trainer(folder, reduction)
        other_in_each_pass(trainer.model)
        trainer.train_step([trainer.task.dataset("train").collater([trainer.task.dataset("train")[0]])])
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))
    task = a_task()
    model, sample = build(task), batch(task)
    neutral = criterion(task, neutral=True, divergence_reduction="sum")
    neutral.update_begun(None, [sample])
    assert_equal(run(stock(task), model, sample), run(neutral, model, sample), **EXACTLY)


def test_recomputed_passes_equal_a_loop_and_copies_are_in_their_order(task):
    model, sample = build(task), batch(task)
    loop, again = (run(criterion(task, pass_mode=mode), model, sample) for mode in ("loop", "recompute"))
    assert_equal(loop, again, **EXACTLY)
    model = build(task, dropout=0.0)
    plain, copies = run(stock(task), model, sample), run(criterion(task, pass_mode="concat"), model, sample)
    assert float(copies[2]["divergence"]) < 1e-6
    assert_equal(plain, copies, rtol=1e-4, atol=1e-5)


def test_a_teacher_is_the_mean_of_an_ensemble(task):
    scores = task.cfg.regression_target
    model, sample = build(task), batch(task)
    mine = criterion(task, "self_distillation", teacher="some.pt", teacher_weight=0.5)
    mine._teachers = Teachers([build(task, seed=seed) for seed in (5, 6)])
    made = []
    hook = model.classification_heads[HEAD].register_forward_hook(lambda *a: made.append(a[2].detach()))
    loss, _, logged, _ = run(mine, model, sample)
    hook.remove()
    with torch.no_grad():
        told = [t(**sample["net_input"], classification_head_name=HEAD)[0].double() for t in mine._teachers.models]
    (y,) = [each.double() for each in made]
    if scores:
        apart = ((y - sum(told) / 2) ** 2).sum()
    else:
        q = sum(each.softmax(1) for each in told) / 2
        apart = (q * (q.log() - y.log_softmax(1))).sum()
    own = by_hand(made, sample, 0.0, "x", scores)[1]
    assert float(logged["teacher_mse" if scores else "teacher_kl"]) == pytest.approx(float(apart), rel=1e-4)
    assert float(loss) == pytest.approx(own + 0.5 * float(apart), rel=1e-4)


def test_a_teacher_of_another_task_or_dictionary_is_not_taken(a_task, tmp_path):
    mine, scores = a_task(), a_task(regression=True)
    its = OmegaConf.merge(mine.cfg, {"_name": "sentence_prediction"})
    assert _task_difference(its, mine) is None
    assert _task_difference(OmegaConf.merge(scores.cfg, {"_name": "sentence_prediction"}), mine).endswith("True there")
    assert _task_difference(OmegaConf.merge(its, {"_name": "translation"}), mine) == "its task is translation"
    for side in ("input0", "label"):
        other = tmp_path / side
        shutil.copytree(its.data, other)
        first, *rest = (other / side / "dict.txt").read_text().splitlines()
        (other / side / "dict.txt").write_text("\n".join([*rest, first]) + "\n")
        difference = _task_difference(OmegaConf.merge(its, {"data": str(other)}), mine)
        assert f"{side}/dict.txt are not this run's" in difference
    assert _task_difference(OmegaConf.merge(its, {"data": str(tmp_path / "gone")}), mine) is None


@pytest.mark.skipif(not REPORTS, reason="fairseq 0.12.2 has no reports")
def test_predictions_are_gathered_over_processes_and_training_is_summed(a_task):
    for make in (stock, criterion):
        plain, reporting = make(a_task()), make(a_task(), report_mcc=True)
        summed = [c.logging_outputs_can_be_summed() for c in (plain.train(), plain.eval(), reporting.train())]
        assert summed == [True] * 3 and not reporting.eval().logging_outputs_can_be_summed()


def test_heads_are_in_no_linear_scope(a_task):
    linear = {entry.name for entry, _ in catalogue(build(a_task())) if entry.within("linear")}
    layer = "encoder.sentence_encoder.layers.0"
    attention = {f"{layer}.self_attn.{part}_proj.weight" for part in ("q", "k", "v", "out")}
    assert linear == attention | {f"{layer}.fc1.weight", f"{layer}.fc2.weight"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"label_smoothing": 0.1},
            "--label-smoothing is not a setting of the loss of SentencePredictionTask; leave it out",
        ),
        ({"ignore_prefix_size": 1}, "--ignore-prefix-size is not"),
        ({"alpha_schedule": "adaptive"}, "add --max-update 50000, or --alpha-schedule constant"),
    ],
)
def test_impossible_settings_say_what_to_type(a_task, settings, words):
    with pytest.raises(UserError, match=words):
        criterion(a_task(), **settings)


def test_settings_of_sentences_are_refused_in_translation(a_task):
    words = a_task().dictionary
    with pytest.raises(UserError, match="--regression-target is not a setting of the loss of TranslationTask"):
        criterions.IntraDistillation.build_criterion(
            OmegaConf.structured(criterions.IntraDistillationConfig(regression_target=True)),
            TranslationTask(TranslationConfig(), words, words),
        )


def test_a_sum_over_the_batch_is_refused_in_translation(a_task):
    words = a_task().dictionary
    translation = TranslationTask(TranslationConfig(), words, words)
    cfg = OmegaConf.structured(criterions.IntraDistillationConfig(divergence_reduction="sum", sentence_avg=False))
    with pytest.raises(UserError, match="not with TranslationTask; type --divergence-reduction mean"):
        criterions.IntraDistillation.build_criterion(cfg, translation)


def test_a_task_without_words_and_a_model_without_the_head_are_refused_in_one_line(a_task):
    task = a_task()
    language_model = LanguageModelingTask(Namespace(), task.dictionary)
    language_model.cfg = task.cfg
    assert isinstance(criterion(language_model).loss, LabelSmoothedCrossEntropyCriterion)
    with pytest.raises(UserError, match="such as --task translation, .* FairseqTask has no target dictionary"):
        criterion(FairseqTask(task.cfg))
    with pytest.raises(UserError, match="has no classification head 'other'; use an encoder"):
        criterion(task, classification_head_name="other")(build(task), batch(task))
    model = build(task)
    model.args.ffn_reg_scale_factor = 0.1
    with pytest.raises(UserError, match="leave out --mha-reg-scale-factor and --ffn-reg"):
        criterion(task)(model, batch(task))
