"""`wff distribute` in small: workers that train apart, what they exchange, and a kill in the middle."""

import re

import pytest
import tiny_sentences
import torch
from fairseq_runs import TOY_YAML, USER_DIR, Fairseq, assert_same
from recipe_runs import kill_when_there, wff

from weighted_freezing_fairseq.__main__ import main
from weighted_freezing_fairseq.core import snapshot
from weighted_freezing_fairseq.data import binary
from weighted_freezing_fairseq.studies import distribute
from weighted_freezing_fairseq.workspace.checkpoints import read_checkpoint

YAML = f"""\
common: {{seed: 1, log_interval: 1, log_format: json}}
task: {{_name: translation, data: "???"}}
{TOY_YAML}
optimizer: {{_name: fish_mask, base_optimizer: adam, fish_mask: "???"}}
lr_scheduler: {{_name: polynomial_decay, warmup_updates: 2}}
dataset: {{max_tokens: 120, num_workers: 0, required_batch_size_multiple: 1}}
optimization: {{max_update: "???", lr: [0.01]}}
checkpoint: {{save_dir: "???", finetune_from_model: "???", no_epoch_checkpoints: true}}
"""


@pytest.fixture
def words(tmp_path, toy_data, trained, monkeypatch):
    """The command, but for the workers; one thread each, as `Fairseq` has."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "fish.yaml").write_text(YAML)
    words = ["distribute", trained, "--data", toy_data, "--config", tmp_path / "fish.yaml", "--device", "cpu"]
    return [*words, "--density", 0.1, "--samples", 20]


def typed(*words):
    done = wff(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def model_of(path):
    return read_checkpoint(path)[1]


def test_one_worker_trains_as_fish_mask_does_alone(words, tmp_path, toy_data, trained):
    """Two rounds of three updates are six updates, bit for bit, with the optimizer's state and the learning rate."""
    typed(*words, "--workers", 1, "--rounds", 2, "--local-updates", 3, "--out", tmp_path / "one")
    alone = ["--config-dir", tmp_path, "--config-name", "fish", f"common.user_dir={USER_DIR}"]
    alone += ["hydra.run.dir=.", "common.cpu=true", f"task.data={toy_data}", "optimization.max_update=6"]
    alone += [f"optimizer.fish_mask={tmp_path}/one/mask.pt", f"checkpoint.finetune_from_model={trained}"]
    alone += [f"checkpoint.save_dir={tmp_path}/alone", "dataset.disable_validation=true"]
    Fairseq(toy_data, tmp_path)("hydra_train", *alone)
    found, wanted = (
        torch.load(path / "checkpoint_last.pt", weights_only=False)
        for path in (tmp_path / "one/round-2/worker-1/checkpoints", tmp_path / "alone")
    )
    for key in ("model", "last_optimizer_state"):
        assert_same(found[key], wanted[key], key)
    assert_same(model_of(tmp_path / "one/round-2/merged.pt"), dict(wanted["model"]))
    assert any(not torch.equal(tensor, wanted["model"][name]) for name, tensor in model_of(trained).items())


def test_workers_add_up_what_they_changed_inside_their_masks_through_a_kill(words, tmp_path, toy_data, trained):
    words += ["--workers", 2, "--rounds", 2, "--local-updates", 2]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    kill_when_there(killed / "round-1/worker-1/checkpoints/checkpoint_last.pt", *words, "--out", killed)
    shown = typed(*words, "--out", killed)
    typed(*words, "--out", whole)
    assert_same(model_of(killed / "round-2/merged.pt"), model_of(whole / "round-2/merged.pt"))

    masks = [snapshot.load(killed / f"mask-{worker}.pt", "mask").tensors for worker in (1, 2)]
    base = model_of(trained)
    for number in (1, 2):
        tuned = [model_of(killed / f"round-{number}/worker-{n}/checkpoints/checkpoint_last.pt") for n in (1, 2)]
        found = model_of(killed / f"round-{number}/merged.pt")
        for name, mask in masks[0].items():
            own = (mask, masks[1][name])
            for changed, part in zip(tuned, own, strict=True):
                assert torch.equal(changed[name][~part], base[name][~part]), name
            rest = torch.where(own[1], tuned[1][name], base[name])
            assert torch.equal(found[name], torch.where(own[0], tuned[0][name], rest)), name
        assert any((tuned[0][name] != base[name]).any() for name in masks[0])
        base = found
    sent, received = (
        max((killed / f"round-1/{name}.wff").stat().st_size for name in names)
        for names in (("worker-1", "worker-2"), ("merged",))
    )
    total = sum(mask.numel() for mask in masks[0].values())
    assert f"| 1 | {sent:,} | {received:,} | {2 * 4 * round(0.1 * total):,} | {2 * 4 * total:,} |" in shown
    assert re.search(rf"^merged: {killed}/round-2/merged.pt$", shown, re.M)
    assert typed(*words, "--out", killed) == shown  # does nothing
    sizes = [binary.sentences_in(killed / f"data-{worker}/train.x-y.x.idx") for worker in (1, 2)]
    assert sizes == [150, 150]


def test_of_equal_masks_the_mean_is_taken(words, tmp_path, trained):
    typed(*words, "--workers", 2, "--rounds", 1, "--local-updates", 2, "--masks", "equal", "--out", tmp_path / "equal")
    base, found = model_of(trained), model_of(tmp_path / "equal/round-1/merged.pt")
    tuned = [model_of(tmp_path / f"equal/round-1/worker-{n}/checkpoints/checkpoint_last.pt") for n in (1, 2)]
    for name, mask in snapshot.load(tmp_path / "equal/mask.pt", "mask").tensors.items():
        mean = (tuned[0][name].double() + tuned[1][name].double()) / 2
        torch.testing.assert_close(found[name], mean.float(), rtol=1e-6, atol=1e-7)
        assert torch.equal(found[name][~mask], base[name][~mask])
    assert not (tmp_path / "equal/mask-1.pt").exists()


def test_labelled_sentences_are_divided_with_their_labels(tmp_path):
    data = tiny_sentences.write(tmp_path / "sentences")
    for kind in ("classes", "scores"):
        job = distribute.Distribution(
            parent=tmp_path, data=data / kind, config=tmp_path, out=tmp_path / kind, workers=7, rounds=1,
            local_updates=1, masks="equal", density=0.1, samples=2, seed=1, assignments=(), command="",
        )  # fmt: skip
        distribute._write_data(job, 7)
        part = job.data_of(7)
        for folder in ("input0", "input1", *(["label"] if kind == "classes" else [])):
            assert binary.sentences_in(part / folder / "train.idx") == 17  # 6, 13, ... 118 of 120
            assert binary.sentences_in(part / folder / "valid.idx") == 21
    lines = (data / "scores/label/train.label").read_text().splitlines()
    assert (part / "label/train.label").read_text().splitlines() == lines[6::7]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--workers", 9], "type --workers 8"),
        (["--rounds", 0], "type --rounds 1"),
        (["--density", 5], "type --density 0.05"),
        (["--config", "{configs}/adapt/standard.yaml"], "give --config a YAML of fish_mask"),
        (["--masks", "other"], "invalid choice 'other'"),
    ],
)
def test_wrong_calls_say_what_to_type(words, more, told, tmp_path, capsys):
    from weighted_freezing_fairseq.workspace.configs import CONFIGS

    call = [str(word).format(configs=CONFIGS) for word in (*words, "--out", tmp_path / "out", *more)]
    try:
        assert main(call) == 2
    except SystemExit as stop:
        assert stop.code == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()
