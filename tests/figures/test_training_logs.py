"""What is read from a run's log, and where the files of a run are looked for."""

import pytest
from plotted import line
from torch.utils.tensorboard import SummaryWriter

from weighted_freezing_fairseq.figures.training_logs import RunFiles, losses_at_best, read_log


def losses(log):
    return [(row["split"], row["update"], row["loss"], row.get("nll_loss")) for row in read_log(log)]


def test_both_log_forms_are_read_and_a_resumed_run_counts_once(tmp_path):
    log = tmp_path / "train.log"
    lines = [
        "noise {",
        line("train_inner", 50, 9.0),
        line("train_inner", 100, 8.0),
        line("train_inner", 100, 7.5, hydra=True),  # resumed from 50
        line("train", 100, 8.5),  # the epoch, told by its intervals already
        line("valid", 100, 7.0, hydra=True, bleu=12.5, ppl="inf"),
        line("train_inner", 150, 7.0)[:-9],  # killed while writing
    ]
    log.write_text("\n".join(lines))
    assert losses(log) == [("train", 50, 9.0, 8.0), ("train", 100, 7.5, 6.5), ("valid", 100, 7.0, 6.0)]
    assert read_log(log)[-1]["bleu"] == 12.5


SIMPLE = """\
2026-11-27 | INFO | train_inner | epoch 001:     50 / 127 loss=9.1, nll_loss=8.2, num_updates=50, lr=1e-05, wall=3
2026-11-27 | INFO | train_inner | epoch 001:    100 / 127 loss=8.1, nll_loss=7.2, num_updates=100, lr=2e-05, clip=None
2026-11-27 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 7.5 | nll_loss 6.5 | bleu 3.25 | num_updates 127
2026-11-27 | INFO | train | epoch 001 | loss 8.6 | nll_loss 7.7 | num_updates 127 | lr 2.5e-05
2026-11-27 | INFO | fairseq.trainer | begin training epoch 2
[2026-11-27][train_inner][INFO] - epoch 002:     23 / 127 loss=7.1, nll_loss=6.1, num_updates=150, lr=3e-05
2026-11-27 | INFO | train_inner | epoch 002:     73 / 127 loss=6.1, nll_loss=5.1, num_updates=20"""


def test_the_simple_format_is_read(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(SIMPLE)  # killed while writing
    assert losses(log) == [
        ("train", 50, 9.1, 8.2), ("train", 100, 8.1, 7.2), ("train", 150, 7.1, 6.1), ("valid", 127, 7.5, 6.5)
    ]  # fmt: skip
    assert read_log(log)[-1]["bleu"] == 3.25 and read_log(log)[0]["lr"] == 1e-5


def test_tensorboard_files_are_read_where_there_is_no_log(tmp_path):
    for kind, update, loss in (("train_inner", 50, 9.123), ("train_inner", 100, 8.1), ("valid", 100, 7.5)):
        with SummaryWriter(tmp_path / "run/tensorboard" / kind) as writer:
            writer.add_scalar("loss", loss, update)
            writer.add_scalar("nll_loss", loss - 1, update)
    expected = [("train", 50, 9.123), ("train", 100, 8.1), ("valid", 100, 7.5)]
    events = next((tmp_path / "run/tensorboard/valid").iterdir())
    for path in (tmp_path / "run", tmp_path / "run/tensorboard", events.parent, events):
        rows = RunFiles(path).history()
        assert [(row["split"], row["update"], row["loss"]) for row in rows] == expected, path
    (tmp_path / "run/train.log").write_text(SIMPLE)
    assert len(RunFiles(tmp_path / "run").history()) == 4 and RunFiles(tmp_path).events is None
    assert RunFiles(events).log is None


def test_a_validation_with_reports_of_predictions_is_read(tmp_path):
    """With --report-mcc and its kind fairseq writes two lists, which are empty, among the numbers."""
    log = tmp_path / "train.log"
    log.write_text(line("valid", 10, 5.0, mcc=30.5, pred=[], targ=[]))
    (found,) = read_log(log)
    assert found["mcc"] == 30.5 and "pred" not in found


def test_a_run_whose_intervals_are_longer_than_an_epoch_is_told_by_epochs(tmp_path):
    log = tmp_path / "any.log"
    log.write_text("\n".join(line("train", update, 9 - update / 10) for update in (20, 10)))
    assert losses(log) == [("train", 10, 8.0, 7.0), ("train", 20, 7.0, 6.0)]


@pytest.mark.parametrize("given", ["run", "run/checkpoints", "run/train.log"])
def test_the_files_of_a_run_are_found_from_wherever_it_is_named(tmp_path, given):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    for name in ("train.log", "run.yaml", "checkpoints/importance.csv"):
        (tmp_path / "run" / name).write_text("criterion: {_name: ewc}\n")
    files = RunFiles(tmp_path / given)
    assert files.log.resolve() == tmp_path / "run/train.log"
    assert files.importance == tmp_path / "run/checkpoints/importance.csv"
    assert files.settings() == {"criterion": {"_name": "ewc"}}


def test_what_hydra_leaves_by_itself_is_read(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("criterion: {_name: ewc}\n")
    (tmp_path / "hydra_train.log").write_text(line("valid", 10, 5.0, hydra=True))
    assert RunFiles(tmp_path).settings() == {"criterion": {"_name": "ewc"}}
    assert losses(RunFiles(tmp_path).log) == [("valid", 10, 5.0, 4.0)]


def test_a_plain_folder_of_fairseq_has_what_it_has(tmp_path):
    (tmp_path / "importance.csv").write_text("update,by\n")
    files = RunFiles(tmp_path)
    assert files.log is None and files.settings() == {}
    assert files.importance == RunFiles(tmp_path / "importance.csv").importance == tmp_path / "importance.csv"


def test_the_losses_at_the_best_update_are_told():
    def row(split, update, loss):
        return {"split": split, "update": update, "loss": loss, "nll_loss": loss - 1}

    training = [row("train", update, 10 - update / 100) for update in (100, 200, 300)]
    valid = [row("valid", 100, 9.0), row("valid", 150, 8.5), row("valid", 300, 8.9)]
    assert losses_at_best(training + valid) == {"best_update": 150, "valid_nll": 7.5, "train_nll": 7.0}
    assert losses_at_best(training) == {"best_update": None, "valid_nll": None, "train_nll": None}
