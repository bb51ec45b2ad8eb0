"""`wff fisher` on a real checkpoint: every estimator, interruptions, and what is refused."""

import logging
import signal
import time

import pytest
import torch
from fairseq_runs import Fairseq, assert_same
from locked import waits_for

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.core import fisher, masks, scope, snapshot
from weighted_freezing_fairseq.workspace.locks import lock_file

# fairseq's own attention, which the references below use as it is; `plugin/mends` hides this outside pytest.
pytestmark = pytest.mark.filterwarnings("ignore:.*mismatched key_padding_mask")


@pytest.fixture
def wff(trained, toy_data, tmp_path, capsys):
    """The command on the toy data; `ok=False` gives the one line of its mistake."""

    def call(*words, out="f.pt", checkpoint=trained, data=toy_data, ok=True):
        named = [] if checkpoint is None else [checkpoint, "--data", data]
        status = main([str(word) for word in ("fisher", *named, "--out", tmp_path / out, *words)])
        said = capsys.readouterr()
        assert status == (0 if ok else 2), said.err
        if not ok:
            assert len(said.err.splitlines()) == 1
        return said.out if ok else said.err

    call.out = tmp_path
    yield call
    logging.disable(logging.NOTSET)


@pytest.fixture
def model(trained, toy_data):
    from weighted_freezing_fairseq.plugin.trained import Trained

    return Trained.load(trained, toy_data, "train", "cpu")


def assert_close(found, wanted):
    """Equal up to rounding. The gradient of an attention key's bias is 0 but for rounding, hence the floor."""
    assert found.keys() == wanted.keys()
    floor = 1e-9 * max(float(tensor.max()) for tensor in wanted.values())
    for name, tensor in wanted.items():
        limit = 1e-4 * float(tensor.max()) + floor
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=limit, msg=name)


def by_hand(trained, ids, together=1):
    """Squared gradients by autograd alone, `together` sentences at a time."""
    parameters = {e.name: p for e, p in scope.catalogue(trained.model) if p.requires_grad}
    totals = {name: torch.zeros_like(p) for name, p in parameters.items()}
    trained.model.eval()
    for start in range(0, len(ids), together):
        total = trained.log_likelihoods(trained.gold(ids[start : start + together])).sum()
        for name, grad in zip(
            parameters, torch.autograd.grad(total, list(parameters.values()), allow_unused=True), strict=True
        ):
            if grad is not None:
                totals[name] += grad**2
    return {name: total / len(ids) for name, total in totals.items()}


@pytest.mark.slow
def test_per_sample_equals_single_sentences(wff, model, caplog):
    said = wff("--samples", 50)
    assert "per-sample Fisher information from 50 sentences of train\n" in said
    assert "the top 0.5 % of the first 25 and of all 50 sentences overlap by" in said
    assert "one sentence at a time" not in caplog.text
    found = snapshot.load(wff.out / "f.pt", "fisher")
    assert_close(found.tensors, by_hand(model, model.draw(50, 1)[0]))
    assert not list(wff.out.glob(".*.part*"))
    weights = {entry.name: p for entry, p in scope.catalogue(model.model)}
    assert found.about["fingerprint"] == snapshot.fingerprint(weights) == snapshot.fingerprint(found.weights)
    assert found.about["metric"] == "fisher" and found.about["samples"] == 50


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_the_checkpoints_weights_come_along_to_the_last_bit(wff, trained, tmp_path, precision):
    state = torch.load(trained, weights_only=False)
    assert {tensor.dtype for tensor in state["model"].values()} == {torch.float32}
    state["model"] = {name: tensor.to(precision) for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "checkpoint.pt")
    wff("--samples", 4, checkpoint=tmp_path / "checkpoint.pt")
    found = snapshot.load(wff.out / "f.pt", "fisher")
    assert found.weights.keys() == found.tensors.keys()
    assert_same(found.weights, {name: state["model"][name] for name in found.tensors})
    assert {tensor.dtype for tensor in found.weights.values()} == {precision}
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32}


def test_a_file_of_before_weights_were_kept_makes_masks_and_is_not_overwritten(wff):
    wff("--samples", 10)
    found = snapshot.load(wff.out / "f.pt", "fisher")
    snapshot.save(wff.out / "f.pt", "fisher", found.tensors, **found.about)
    assert "choose another --out, or remove it" in wff("--samples", 10, ok=False)
    wff("--from", wff.out / "f.pt", "--mask-density", 0.1, checkpoint=None, out="m.pt")


def test_log_likelihood_is_the_plain_sum_over_tokens(model):
    pairs = model.gold([0, 1, 2, 3])
    model.model.eval()
    for pair, value in zip(pairs, model.log_likelihoods(pairs), strict=True):
        source, target = pair["source"][None], pair["target"]
        before = torch.cat([target[-1:], target[:-1]])[None]
        logits, _ = model.model(source, torch.tensor([source.shape[1]]), before)
        wanted = logits[0].log_softmax(1)[range(len(target)), target].sum()
        torch.testing.assert_close(value, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--max-tokens", 30], ["--memory", 1], ["--processes", 2]], ids=lambda w: w[0])
@pytest.mark.parametrize("estimator", ["per-sample", "sampled"])
def test_how_it_is_computed_does_not_matter(wff, estimator, words):
    call = ["--samples", 40, "--estimator", estimator]
    wff(*call)
    wff(*call, *words, out="g.pt")
    one, other = (snapshot.load(wff.out / name, "fisher") for name in ("f.pt", "g.pt"))
    assert_close(other.tensors, one.tensors)
    assert other.about == one.about
    assert snapshot.fingerprint(other.weights) == snapshot.fingerprint(one.weights)


def test_batch_of_one_is_per_sample_and_the_batch_is_recorded(wff):
    wff("--samples", 20)
    wff("--samples", 20, "--estimator", "batch", "--max-tokens", 1, out="one.pt")
    wff("--samples", 20, "--estimator", "batch", out="many.pt")
    sample, one, many = (snapshot.load(wff.out / name, "fisher") for name in ("f.pt", "one.pt", "many.pt"))
    assert_close(one.tensors, sample.tensors)
    assert one.about["max_tokens"] == 1 and many.about["max_tokens"] == 4000 and "max_tokens" not in sample.about
    assert not torch.allclose(many.tensors["encoder.layers.0.fc1.weight"], one.tensors["encoder.layers.0.fc1.weight"])


def test_drawn_targets_do_not_depend_on_the_batch(model):
    model.model.eval()
    ids = model.draw(30, 1)[0]
    together = [pair["target"].tolist() for pair in model.sampled(ids, 0, 1)]
    alone = [model.sampled([number], 0, 1)[0]["target"].tolist() for number in ids]
    assert together == alone
    words = model.dataset.tgt_dict
    for pair, target in zip(model.gold(ids), together, strict=True):
        assert target[-1] == words.eos() and words.eos() not in target[:-1]
        assert not {words.pad(), words.bos()} & set(target)
        assert len(target) <= 2 * len(pair["source"]) + 10
    assert together != [pair["target"].tolist() for pair in model.sampled(ids, 1, 1)]
    assert together != [pair["target"].tolist() for pair in model.sampled(ids, 0, 2)]


def test_more_draws_are_averaged(wff):
    wff("--samples", 20, "--estimator", "sampled", "--draws", 2)
    found = snapshot.load(wff.out / "f.pt", "fisher")
    assert found.about["draws"] == 2
    wff("--samples", 20, "--estimator", "sampled", out="g.pt")
    one = snapshot.load(wff.out / "g.pt", "fisher").tensors
    sums = [sum(float(t.sum()) for t in tensors.values()) for tensors in (found.tensors, one)]
    assert 0.5 < sums[0] / sums[1] < 2


def test_a_mask_holds_exactly_the_largest(wff):
    said = wff("--samples", 300, "--mask-density", 0.1, out="m.pt")
    mask = snapshot.load(wff.out / "m.pt", "mask")
    assert mask.weights is None
    wff("--samples", 400)
    found = snapshot.load(wff.out / "f.pt", "fisher")
    n = sum(t.numel() for t in found.tensors.values())
    assert f"the largest {round(0.1 * n):,} of {n:,} are updated" in said
    assert sum(int(t.sum()) for t in mask.tensors.values()) == round(0.1 * n)
    wanted = masks.largest(list(found.tensors.values()), round(0.1 * n))
    assert all(torch.equal(mask.tensors[name], w) for name, w in zip(found.tensors, wanted, strict=True))
    assert mask.about == {**found.about, "density": 0.1}  # all 300 sentences of the split in both
    wff("--from", wff.out / "f.pt", "--mask-density", 0.1, out="again.pt", checkpoint=None)
    again = snapshot.load(wff.out / "again.pt", "mask")
    assert again.about == mask.about
    assert all(torch.equal(again.tensors[name], t) for name, t in mask.tensors.items())


def test_a_smaller_split_is_used_whole_and_said(wff):
    assert "from 21 sentences of test (all of them)" in wff("--split", "test")


def test_sentences_too_long_for_the_model_are_counted(wff, monkeypatch):
    from weighted_freezing_fairseq.plugin import trained

    monkeypatch.setattr(trained.utils, "resolve_max_positions", lambda *_: (8, 8))
    said = wff()
    left = int(said.split("left out ")[1].split()[0])
    assert 0 < left < 300
    assert f"from {300 - left} sentences of train (all of them)" in said


def test_the_same_call_is_done_already_and_another_is_refused(wff):
    wff("--samples", 10)
    before = (wff.out / "f.pt").stat().st_mtime_ns
    assert "is there already, from the same settings" in wff("--samples", 10)
    assert "choose another --out, or remove it" in wff("--samples", 11, ok=False)
    assert "choose another --out, or remove it" in wff("--samples", 10, "--mask-density", 0.1, ok=False)
    (wff.out / "mine.txt").write_text("precious")
    assert "choose another --out" in wff("--samples", 10, out="mine.txt", ok=False)
    assert (wff.out / "mine.txt").read_text() == "precious"
    assert (wff.out / "f.pt").stat().st_mtime_ns == before


KILLED_AFTER_THREE_BATCHES = """
import os, signal, sys
from weighted_freezing_fairseq.analysis import fisher_sums
from weighted_freezing_fairseq.__main__ import main
fisher_sums._SECONDS_BETWEEN_SAVES = fisher_sums._SAVE_INTERVAL_FACTOR = -1.0
save = fisher_sums.PartialSums.save
def save_then_die(self, path):
    save(self, path)
    if self.done == 3:
        os.kill(os.getpid(), signal.SIGKILL)
fisher_sums.PartialSums.save = save_then_die
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_run_goes_on_where_it_was(wff, trained, toy_data, monkeypatch):
    words = ["--samples", 60, "--max-tokens", 50]
    wff(*words, out="whole.pt")
    call = ["fisher", trained, "--data", toy_data, "--out", wff.out / "f.pt", *words]
    killed = Fairseq(toy_data, wff.out).python("-c", KILLED_AFTER_THREE_BATCHES, *call)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (wff.out / "f.pt").exists() and (wff.out / ".f.pt.part-0-of-1").exists()
    counted = []
    add = fisher.SquaredGradients.add_
    monkeypatch.setattr(
        fisher.SquaredGradients, "add_", lambda self, totals, items: (counted.extend(items), add(self, totals, items))
    )
    wff(*words)
    assert 0 < len(counted) < 60
    whole, resumed = (snapshot.load(wff.out / name, "fisher") for name in ("whole.pt", "f.pt"))
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)
    assert snapshot.fingerprint(whole.weights) == snapshot.fingerprint(resumed.weights)
    assert not list(wff.out.glob(".*.part*"))


def test_part_files_belong_to_one_call(wff):
    wff("--samples", 10)
    (said,) = waits_for(lock_file(wff.out / "f.pt"), lambda: wff("--samples", 10))
    assert "is there already, from the same settings" in said


@pytest.mark.parametrize("other", ["seed", "broken"])
def test_parts_of_other_settings_are_not_used(wff, other, caplog):
    wff("--samples", 20, out="whole.pt")
    part = wff.out / ".f.pt.part-0-of-1"
    if other == "broken":
        part.write_bytes(b"half a fi")
    else:
        torch.save({"key": {"seed": 7}, "done": 1, "sums": ({}, {})}, part)
    wff("--samples", 20)
    assert "this share is measured again" in caplog.text
    whole, found = (snapshot.load(wff.out / name, "fisher").tensors for name in ("whole.pt", "f.pt"))
    assert all(torch.equal(whole[name], found[name]) for name in whole)


def test_a_worker_that_fails_ends_the_run(wff, trained, monkeypatch, tmp_path):
    from weighted_freezing_fairseq.analysis import fisher_sums

    copy = tmp_path / "copy.pt"
    copy.write_bytes(trained.read_bytes())
    start = fisher_sums._measure_in_processes

    def lose_the_checkpoint(*args):
        copy.unlink()
        start(*args)

    monkeypatch.setattr(fisher_sums, "_measure_in_processes", lose_the_checkpoint)
    begin = time.monotonic()
    said = wff("--samples", 10, "--processes", 2, checkpoint=copy, ok=False)
    assert "failed, see above; type the same call again" in said
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--samples", 1], "--samples must be at least 2"),
        (["--processes", 0], "--processes must be at least 1"),
        (["--draws", 2], "type --estimator sampled"),
        (["--estimator", "expected"], "type --estimator sampled --draws 10, or per-sample"),
        (["--estimator", "expected", "--processes", 2], "an expectation over all targets needs a few classes"),
        (["--mask-density", 0], "type --mask-density 0.005"),
        (["--mask-density", 1.5], "above 0 and at most 1"),
        (["--mask-density", 1e-9, "--samples", 4], "selects none of"),
        (["--split", "dev"], "has no split 'dev'; type --split test or train or valid"),
        (["--from", "x.pt"], "--from makes a mask; add --mask-density"),
        (["--from", "x.pt", "--mask-density", 0.1], "leave out the checkpoint and --data"),
    ],
    ids=str,
)
def test_mistakes_say_what_to_type(wff, words, said):
    assert said in wff(*words, ok=False)


def test_what_is_missing_or_broken_is_named(wff, trained, tmp_path):
    assert "there is no checkpoint" in wff(checkpoint=tmp_path / "no.pt", ok=False)
    assert "make it with fairseq-preprocess" in wff(data=tmp_path / "no", ok=False)
    assert "give a run folder or a checkpoint, or --from" in wff(checkpoint=None, ok=False)
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    assert "give an intact fairseq checkpoint" in wff(checkpoint=tmp_path / "bad.pt", ok=False)
    (tmp_path / "empty").mkdir()
    assert "could not be loaded with the dictionaries of" in wff(data=tmp_path / "empty", ok=False)
    missing = wff("--from", tmp_path / "no.pt", "--mask-density", 0.1, checkpoint=None, ok=False)
    assert "make one with: wff fisher" in missing
    if not torch.cuda.is_available():
        assert "torch sees no GPU; type --device cpu" in wff("--device", "cuda", ok=False)


def test_a_diverged_checkpoint_is_refused(wff, trained, tmp_path):
    state = torch.load(trained, weights_only=False)
    state["model"]["encoder.layers.0.fc1.weight"][0, 0] = torch.nan
    torch.save(state, tmp_path / "nan.pt")
    assert "is not finite: it holds nan; give another checkpoint" in wff(
        "--samples", 4, checkpoint=tmp_path / "nan.pt", ok=False
    )
