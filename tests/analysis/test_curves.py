"""Learning curves: what is read from logs, and what is drawn."""

import json

from weighted_freezing_fairseq.analysis import curves


def line(kind, update, loss, hydra=False):
    prefix = "valid_" if kind == "valid" else ""
    values = {f"{prefix}num_updates": str(update), f"{prefix}loss": str(loss), f"{prefix}nll_loss": str(loss - 1)}
    return (f"[2026][{kind}][INFO] - " if hydra else f"2026 | INFO | {kind} | ") + json.dumps(values)


def test_both_log_forms_are_read_and_a_resumed_run_counts_once(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(
        "\n".join(
            [
                "noise {",
                line("train_inner", 50, 9.0),
                line("train_inner", 100, 8.0),
                line("train_inner", 100, 7.5, hydra=True),  # resumed from 50
                line("valid", 100, 7.0, hydra=True),
                line("train_inner", 150, 7.0)[:-9],  # killed while writing
            ]
        )
    )
    assert curves.read_log(log) == [
        {"split": "train", "update": 50, "loss": 9.0, "nll_loss": 8.0},
        {"split": "train", "update": 100, "loss": 7.5, "nll_loss": 6.5},
        {"split": "valid", "update": 100, "loss": 7.0, "nll_loss": 6.0},
    ]


def test_the_picture_shows_the_csv(tmp_path, monkeypatch):
    from matplotlib import pyplot

    logs = {}
    for run, shift in (("standard-1", 0.0), ("weighted_freeze-1", 0.5)):
        logs[run] = tmp_path / f"{run}.log"
        logs[run].write_text(
            "\n".join(line(k, u, 9 - u / 100 + shift) for u in (50, 100) for k in ("train_inner", "valid"))
        )
    curves.write_csv(logs, tmp_path / "curves.csv")
    shown = []
    monkeypatch.setattr(pyplot, "close", shown.append)
    curves.draw(tmp_path / "curves.csv", tmp_path / "curves.png", title="de-en")
    top, bottom = shown[0].axes
    assert [drawn.get_label() for drawn in top.lines] == list(logs)
    assert top.lines[1].get_xydata().tolist() == [[50, 9.0], [100, 8.5]]
    assert bottom.lines[0].get_xydata().tolist() == [[50, 7.5], [100, 7.0]]
    assert bottom.get_xlabel() == "updates" and "nll" in bottom.get_ylabel()
    assert (tmp_path / "curves.png").stat().st_size > 1000
    monkeypatch.undo()
    pyplot.close("all")
