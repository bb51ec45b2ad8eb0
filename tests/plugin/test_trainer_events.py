"""The events of real trainers: their order, how often they come, and who listens."""

from itertools import pairwise

import pytest
import torch
from fairseq.trainer import Trainer
from in_process import Here

from weighted_freezing_fairseq.hydra_train import FIRST_UPDATE
from weighted_freezing_fairseq.plugin.trainer_events import TrainerListener
from weighted_freezing_fairseq.plugin.trainers import LISTENERS

pytestmark = pytest.mark.filterwarnings("ignore")  # fairseq's own

EVENTS = [name for name in vars(TrainerListener) if not name.startswith("_") and name != "for_trainer"]
BUILT = ["optimizer_requested", "optimizer_built"]
UPDATE = ["update_begun", "gradients_final", "clipped", "updated"]


class Recorder(TrainerListener):
    """Keeps the names of the events, and what each was told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.told: dict[str, list[tuple]] = {}

    def note(self, event: str, trainer: Trainer, *told: object) -> None:
        self.events.append(event)
        self.told.setdefault(event, []).append((trainer.get_num_updates(), *told))

    def checkpoint_saving(self, trainer: Trainer, extra_state: dict) -> None:
        self.note("checkpoint_saving", trainer, extra_state)
        extra_state["recorder"] = trainer.get_num_updates()


for _name in set(EVENTS) - {"checkpoint_saving"}:
    setattr(Recorder, _name, lambda self, *told, event=_name: self.note(event, *told))


def recorded(here: Here, *settings: str) -> Recorder:
    recorder = Recorder()
    here.more_listeners = (recorder,)
    here.run("run", "dataset.max_tokens=100000", "dataset.batch_size=75", *settings)
    return recorder


def test_a_resumed_run_reports_every_event_in_the_documented_order(here: Here, caplog: pytest.LogCaptureFixture):
    """Four batches of 75 sentences an epoch make two updates of two micro-batches."""
    caplog.set_level("INFO")
    first = recorded(here, "optimization.update_freq=[2]", "optimization.max_update=2")
    assert first.events == ["batches_built", *BUILT, "epoch_begun", *UPDATE * 2, "checkpoint_saving"]
    second = recorded(here, "optimization.update_freq=[2]", "optimization.max_update=3")
    assert second.events == [*BUILT, "checkpoint_loaded", "batches_built", "epoch_begun", *UPDATE, "checkpoint_saving"]
    positions = [EVENTS.index(event) for event in dict.fromkeys(second.events)]
    assert all(earlier < later for earlier, later in pairwise(positions)) and len(positions) == len(EVENTS) - 1
    updates, extra_state, path, reset = second.told["checkpoint_loaded"][0]
    assert (updates, extra_state["recorder"], reset) == (2, 2, False) and path.endswith("checkpoint_last.pt")
    assert [len(samples) for _, samples in second.told["update_begun"]] == [2]
    assert [told[0] for told in second.told["updated"]] == [3]  # and not where the checkpoint's count was loaded
    assert second.told["epoch_begun"] == [(2, 2)] and torch.is_tensor(second.told["clipped"][0][1])
    assert [record.message for record in caplog.records].count(FIRST_UPDATE) == 2  # of two runs


def test_an_overflow_ends_an_update_before_it_is_clipped(here: Here):
    fp16 = ["common.fp16=true", "common.fp16_no_flatten_grads=true", "common.fp16_init_scale=1099511627776"]
    recorder = recorded(here, *fp16, "common.fp16_scale_window=1000", "optimization.max_update=1")
    assert recorder.events.count("update_begun") > recorder.events.count("clipped") == 1
    assert recorder.events.count("updated") == 1


def test_only_what_a_run_needs_listens_and_in_the_listed_order(here: Here):
    def kinds(*settings: str, every: int = 0) -> list[str]:
        here.run("run", "optimization.max_update=1", "checkpoint.no_save=true", *settings, every=every)
        return [type(listener).__name__ for listener in here.trainer.listeners]

    assert kinds() == ["JoinedLosses", "PrunedStart", "FirstUpdate"]
    every_one = ["optimizer._name=fish_mask", "optimizer.fish_density=0.5", "optimizer.mask_communication=true"]
    listed = [kind.__name__.replace("GuidedCriterion", "Ewc") for kind in LISTENERS]
    assert kinds(*every_one, "criterion._name=ewc", "criterion.ewc_lambda=1", every=1) == listed
