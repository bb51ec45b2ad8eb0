"""`wff fisher` on `sentence_prediction`: the classifier in every mask, and the expectation over all classes."""

import copy
import logging

import pytest
import tiny_sentences
import torch

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.analysis import fisher_sums
from weighted_freezing_fairseq.core import scope, snapshot
from weighted_freezing_fairseq.plugin.trained import Trained, TrainedOnSentences

pytestmark = pytest.mark.filterwarnings("ignore:.*mismatched key_padding_mask")
HEAD = "classification_heads."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and a checkpoint of both kinds: classes.pt and scores.pt."""
    place = tiny_sentences.write(tmp_path_factory.mktemp("sentences"))
    for kind in ("classes", "scores"):
        trainer = tiny_sentences.trainer(place / kind, regression=kind == "scores")
        trainer.consolidate_optimizer()  # fairseq saves nothing without
        trainer.save_checkpoint(str(place / f"{kind}.pt"), {})
    return place


@pytest.fixture
def wff(folder, tmp_path, capsys):
    """The command; `ok=False` gives the one line of its mistake."""

    def call(*words, out="f.pt", kind="classes", ok=True):
        named = [] if "--from" in words else [folder / f"{kind}.pt", "--data", folder / kind]
        status = main([str(word) for word in ("fisher", *named, "--out", tmp_path / out, *words)])
        said = capsys.readouterr()
        assert status == (0 if ok else 2), said.err
        return said.out if ok else said.err

    call.out = tmp_path
    yield call
    logging.disable(logging.NOTSET)


def test_a_mask_holds_the_classifier_which_counts(wff):
    """As Sung et al. section 2.2 and their code: k = round(density * n) with the classifier's numbers in it."""
    wff("--samples", 20)
    said = wff("--samples", 20, "--mask-density", 0.2, out="m.pt")
    wff("--from", wff.out / "f.pt", "--mask-density", 0.2, out="again.pt")
    wff("--samples", 20, "--mask-density", 0.2, "--always", "", out="without.pt")
    wff("--samples", 20, "--mask-density", 0.2, "--always", "lm_head", out="other.pt")
    mask, again, without, other = (
        snapshot.load(wff.out / f"{name}.pt", "mask") for name in ("m", "again", "without", "other")
    )
    total = sum(t.numel() for t in mask.tensors.values())
    for made in (mask, again, without, other):
        assert sum(int(t.sum()) for t in made.tensors.values()) == round(0.2 * total)
    heads = [name for name in mask.tensors if name.startswith(HEAD)]
    assert len(heads) == 4 and all(mask.tensors[name].all() for name in heads)
    assert not all(without.tensors[name].all() for name in heads) and "always" not in without.about
    assert all(t.all() for name, t in other.tensors.items() if "lm_head" in name)
    assert again.about == mask.about and all(torch.equal(again.tensors[n], t) for n, t in mask.tensors.items())
    assert f"the largest {round(0.2 * total):,} of {total:,}, with all of (^|\\.)classification_heads\\.," in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--mask-density", 0.001], "give a density of at least 0.0"),
        (["--mask-density", 0.001], "or type --always ''"),
        (["--mask-density", 0.2, "--always", "nothing"], "no parameter has a name with 'nothing' in it, such as"),
        (["--mask-density", 0.2, "--always", "("], "is not a regular expression"),
        (["--always", "head"], "--always applies to masks; add --mask-density 0.005"),
    ],
)
def test_mistakes_say_what_to_type(wff, words, told):
    assert told in wff("--samples", 4, *words, ok=False)


@pytest.mark.parametrize(("always", "whole"), [(None, True), ("", False), ("^nowhere", None)])
def test_the_optimizers_own_mask_holds_the_classifier_too(folder, always, whole):
    given = ["optimizer._name=fish_mask", "optimizer.base_optimizer=adamax", "optimizer.fish_density=0.2"]
    given += ["optimizer.fish_source=random", *([] if always is None else [f"optimizer.fish_always='{always}'"])]
    if whole is None:
        with pytest.raises(ValueError, match="no parameter in scope has a name that matches always='\\^nowhere'"):
            tiny_sentences.trainer(folder / "classes", "standard", *given).optimizer  # noqa: B018
        return
    masks = tiny_sentences.trainer(folder / "classes", "standard", *given).optimizer.optimizer.masks
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == round(0.2 * total)
    assert all(mask.all() for name, mask in masks.items() if name.startswith(HEAD)) == whole


def by_hand(model, dataset, ids):
    """Sung et al. eq. 3 with its expectation, in float64, by autograd alone: a mean over sentences of
    sum_c p(c | x) (d log p(c | x) / d theta)^2.
    """
    model = copy.deepcopy(model).double().eval()
    parameters = {entry.name: p for entry, p in scope.catalogue(model)}
    totals = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for number in ids:
        inputs = dataset.collater([dataset[number]])["net_input"]
        log_p = model(**inputs, classification_head_name="sentence_classification_head")[0].log_softmax(1)[0]
        for value in log_p:
            grads = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
            for total, grad in zip(totals.values(), grads, strict=True):
                if grad is not None:
                    total += value.detach().exp() * grad**2 / len(ids)
    return totals


def assert_close(found, wanted):
    """Equal up to the rounding of float32. The gradient of an attention key's bias is 0 but for rounding."""
    floor = 1e-9 * max(float(tensor.max()) for tensor in wanted.values())
    for name, tensor in wanted.items():
        limit = 1e-4 * float(tensor.max()) + floor
        torch.testing.assert_close(found[name].double(), tensor.double(), rtol=0, atol=limit, msg=name)


@pytest.fixture(scope="module")
def model(folder):
    return Trained.load(folder / "classes.pt", folder / "classes", "train", "cpu")


def test_the_expectation_over_all_classes_is_that_by_hand(wff, model):
    said = wff("--estimator", "expected", "--samples", 20)
    assert "expected Fisher information from 20 sentences of train\n" in said
    found = snapshot.load(wff.out / "f.pt", "fisher")
    ids = model.draw(20, 1)[0]
    wanted = by_hand(model.model, model.dataset, ids)
    assert_close(found.tensors, wanted)
    assert found.about["estimator"] == "expected" and found.about["samples"] == 20
    wff("--samples", 20, out="gold.pt")
    name = "classification_heads.sentence_classification_head.out_proj.weight"
    gold = snapshot.load(wff.out / "gold.pt", "fisher").tensors[name].double()
    assert (gold - wanted[name]).abs().max() > 0.1 * wanted[name].max()  # another quantity


@pytest.mark.slow
def test_draws_from_the_model_tend_to_the_expectation(wff):
    wff("--estimator", "expected", "--samples", 10)
    wff("--estimator", "sampled", "--draws", 150, "--samples", 10, out="drawn.pt")
    name = "classification_heads.sentence_classification_head.out_proj.bias"
    one, other = (snapshot.load(wff.out / file, "fisher").tensors[name] for file in ("f.pt", "drawn.pt"))
    torch.testing.assert_close(other, one, rtol=0.3, atol=0)


@pytest.mark.parametrize("words", [["--max-tokens", 40], ["--memory", 1]], ids=lambda w: w[0])
def test_how_the_expectation_is_computed_does_not_matter(wff, words):
    wff("--estimator", "expected", "--samples", 20)
    wff("--estimator", "expected", "--samples", 20, *words, out="g.pt")
    one, other = (snapshot.load(wff.out / name, "fisher") for name in ("f.pt", "g.pt"))
    assert_close(other.tensors, one.tensors)
    assert other.about == one.about


def test_an_interrupted_expectation_goes_on_where_it_was(wff, monkeypatch):
    call = ["--estimator", "expected", "--samples", 30, "--max-tokens", 60]
    wff(*call, out="whole.pt")
    monkeypatch.setattr(fisher_sums, "_SECONDS_BETWEEN_SAVES", -1.0)
    monkeypatch.setattr(fisher_sums, "_SAVE_INTERVAL_FACTOR", -1.0)
    counted, every_class = [], TrainedOnSentences.every_class

    def interrupted(self, ids):
        if len(counted) == 3:
            raise KeyboardInterrupt
        counted.append(len(ids))
        return every_class(self, ids)

    monkeypatch.setattr(TrainedOnSentences, "every_class", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wff(*call)
    done, counted[:] = sum(counted), [0] * 4
    wff(*call)
    assert sum(counted) == 30 - done > 0
    whole, resumed = (snapshot.load(wff.out / name, "fisher").tensors for name in ("whole.pt", "f.pt"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("estimator", ["expected", "sampled"])
def test_a_regression_has_no_distribution(wff, estimator):
    told = wff("--estimator", estimator, kind="scores", ok=False)
    assert "a regression has no distribution of targets; type --estimator per-sample" in told
