"""What `--log-importance` costs: one measurement beside an update, by turns in one process on the same batch.

The figure to look at is the last: the share of a training's time at the default interval, where one of so many updates
is measured. A guided optimizer has its own pass for what is frozen, which is timed beside it.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from weighted_freezing_fairseq.costs.subjects import SIZES, subject_of, synthetic
from weighted_freezing_fairseq.workspace.configs import CONFIGS, config_path, methods_in
from weighted_freezing_fairseq.workspace.progress import Progress


def quartiles(values: list[float], unit: str) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f} {unit} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="iwslt", help="of model and batch (default iwslt)")
    parser.add_argument("--method", choices=methods_in(CONFIGS / "toy"), default="standard", help="default standard")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    from weighted_freezing_fairseq.plugin.importance_log import DEFAULT_INTERVAL, ImportanceLog

    logging.disable(logging.INFO)
    size, config = SIZES[args.size], config_path(args.method, CONFIGS / "toy")
    sample, task = synthetic(size, seed=1)
    updates, measurements = [], []
    with tempfile.TemporaryDirectory() as folder:
        words = ["common.log_importance=1", f"checkpoint.save_dir={folder}"]
        subject = subject_of(args.method, config, size, args.device, 1, task, words)
        subject.update(sample)
        (log,) = (listener for listener in subject.trainer.listeners if isinstance(listener, ImportanceLog))
        for _ in Progress(range(args.rounds), unit="round"):
            log.interval = sys.maxsize
            updates.append(timed(lambda: subject.update(sample)))
            log.interval = 1
            measurements.append(timed(lambda: measure(log, subject.trainer)))
    share = [100 * one / other / DEFAULT_INTERVAL for one, other in zip(measurements, updates, strict=True)]
    print(f"{args.method}, {args.size}: an update of {size.sentences * size.length} tokens {quartiles(updates, 's')}")
    print(f"a measurement {quartiles(measurements, 's')}")
    print(f"at every {DEFAULT_INTERVAL}. update {quartiles(share, '% of the time')}")


def measure(log: Any, trainer: Any) -> None:
    """What a measured update does beside the others, on the gradients of the last one."""
    log.clipped(trainer, torch.ones(()))
    for optimizer in log.guided:
        optimizer.record = True
        optimizer._note([slot for slot in optimizer.slots if slot.grad is not None])
    log.updated(trainer)


def timed(work: Callable[[], None]) -> float:
    """Seconds until `work` is done; a GPU has finished then, since both end with figures on the CPU."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
