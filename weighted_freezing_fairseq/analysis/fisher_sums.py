"""Sums of squared gradients over drawn sentences, in one or several processes, which a second call resumes.

The two halves of the drawn sentences are cut into batches and summed separately. Each of P processes sums every P-th
batch, and saves its partial sums at intervals.
"""

import contextlib
import logging
import multiprocessing
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core import fisher
from ..core.tensor_files import read
from ..errors import UserError
from ..files import atomic_file
from ..workspace.checkpoints import save
from ..workspace.processes import end_with_parent, refuse_when_stopping, without_interrupts
from ..workspace.progress import Progress

_SECONDS_BETWEEN_SAVES = 30.0
_SAVE_INTERVAL_FACTOR = 20  # the interval is at least this many times the duration of a save

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FisherSettings:
    """The settings of a measurement; those after `seed` change the result by rounding only."""

    checkpoint: str
    data: str
    split: str
    estimator: str
    samples: int
    draws: int
    seed: int
    max_tokens: int
    memory: int  # bytes
    device: str
    processes: int


@dataclass(frozen=True)
class Plan:
    """The batches of the drawn sentences: first those of the first half of the draw, in each half by falling length."""

    batches: list[tuple[int, list[int]]]  # (half, sentence ids)
    counts: tuple[int, int]
    too_long: int


@dataclass
class PartialSums:
    """The sums of a process over the first `done` batches of its share, for each half of the draw."""

    key: dict[str, Any]
    done: int
    sums: tuple[fisher.Totals, fisher.Totals]

    def save(self, path: Path) -> None:
        with atomic_file(path) as part:
            save({"key": self.key, "done": self.done, "sums": self.sums}, part)

    @classmethod
    def load(cls, path: Path, key: dict[str, Any]) -> "PartialSums | None":
        """The partial sums at `path`, or None if there are none of the measurement with this `key`."""
        if not path.is_file():
            return None
        try:
            partial = cls(**read(path, "part of a measurement", "remove it"))
        except Exception as error:
            reason = error or type(error).__name__
            logger.warning("%s cannot be read (%s); this share is measured again", path, reason)
            return None
        if partial.key != key:
            logger.warning("%s has other settings or another checkpoint; this share is measured again", path)
            return None
        return partial


def load_trained(settings: FisherSettings, device: str) -> Any:
    """Load the checkpoint and its data."""
    from ..plugin.trained import Trained

    return Trained.load(Path(settings.checkpoint), Path(settings.data), settings.split, device)


def plan(trained: Any, settings: FisherSettings) -> Plan:
    """Cut the drawn sentences into batches; the plan does not depend on the number of processes."""
    ids, too_long = trained.draw(settings.samples, settings.seed)
    lengths = {number: trained.dataset.num_tokens(number) for number in ids}
    halves = ids[: len(ids) // 2], ids[len(ids) // 2 :]
    batches = [
        (half, batch)
        for half, members in enumerate(halves)
        for batch in fisher.batches(members, lengths.__getitem__, settings.max_tokens)
    ]
    in_batches = sorted(number for _, batch in batches for number in batch)
    if in_batches != sorted(ids):
        raise RuntimeError(f"{len(in_batches)} of {len(ids)} drawn sentences are in batches")
    return Plan(batches, (len(halves[0]), len(halves[1])), too_long)


def measure(trained: Any, settings: FisherSettings, key: dict[str, Any], out: Path, count: int) -> list[fisher.Totals]:
    """Compute the sums over each half of the draw.

    Args:
        key: the settings of the measurement; partial sums with another key are not used.
        out: the file of the result; partial sums are saved beside it.
        count: the number of drawn sentences.
    """
    with Progress(total=count, unit="sentence") as bar:
        if settings.processes == 1:
            _measure_share(trained, settings, key, out, 0, bar.update)
        else:
            _measure_in_processes(settings, key, out, bar.update)
    sums: list[fisher.Totals] = [{}, {}]
    for rank in range(settings.processes):
        partial = PartialSums.load(_path(out, rank, settings.processes), key)
        if partial is None:
            raise RuntimeError(f"the partial sums of process {rank} are missing")
        for half, total in zip(partial.sums, sums, strict=True):
            for name, tensor in half.items():
                total[name] = total[name] + tensor if name in total else tensor.cpu()
    return sums


def remove_partial_sums(out: Path) -> None:
    """Remove the partial sums beside `out`, including temporary files of a killed process."""
    for path in list(out.parent.iterdir()):
        if path.name.startswith((f".{out.name}.part-", f"..{out.name}.part-")):
            path.unlink(missing_ok=True)


def _path(out: Path, rank: int, processes: int) -> Path:
    return out.with_name(f".{out.name}.part-{rank}-of-{processes}")


def _measure_share(
    trained: Any, settings: FisherSettings, key: dict[str, Any], out: Path, rank: int, count: Callable[[int], Any]
) -> None:
    """Sum the batches of one process and save the partial sums; `count` gets the number of new sentences."""
    from ..plugin.trained import attention_by_layers

    planned = plan(trained, settings)
    share = planned.batches[rank :: settings.processes]
    path = _path(out, rank, settings.processes)
    partial = PartialSums.load(path, key)
    if partial is None:
        parameters = fisher.trainable(trained.model)
        partial = PartialSums(key, 0, (fisher.zeros(parameters), fisher.zeros(parameters)))
    else:
        for totals in partial.sums:
            totals.update({name: total.to(trained.device) for name, total in totals.items()})
        count(sum(len(ids) for _, ids in share[: partial.done]))
    with fisher.without_dropout(trained.model), attention_by_layers(trained.model):
        add_ = _squares_adder(trained, settings, [number for _, ids in planned.batches for number in ids])
        saved_at, duration = time.monotonic(), 0.0
        for half, ids in share[partial.done :]:
            add_(partial.sums[half], ids)
            partial.done += 1
            count(len(ids))
            if time.monotonic() - saved_at > max(_SECONDS_BETWEEN_SAVES, _SAVE_INTERVAL_FACTOR * duration):
                start = time.monotonic()
                partial.save(path)
                saved_at = time.monotonic()
                duration = saved_at - start
    partial.save(path)


def _squares_adder(
    trained: Any, settings: FisherSettings, drawn: Sequence[int]
) -> Callable[[fisher.Totals, Sequence[int]], None]:
    """A function that adds the squared gradients of a batch of sentences to totals.

    Args:
        drawn: all drawn sentences; three of different length probe how the layers treat a batch.
    """
    parameters = fisher.trainable(trained.model)
    if settings.estimator == "batch":
        return lambda totals, ids: fisher.add_squared_sum_(
            totals, parameters, trained.log_likelihoods, trained.gold(ids)
        )
    by_length = sorted(drawn, key=trained.dataset.num_tokens)
    probe = [by_length[len(by_length) * quarter // 4] for quarter in (1, 2, 3)]
    squares = fisher.SquaredGradients(trained.model, trained.log_likelihoods, trained.gold(probe), settings.memory)
    if squares.looped:
        logger.warning("measured one sentence at a time: %s", ", ".join(squares.looped))
    if settings.estimator == "per-sample":
        return lambda totals, ids: squares.add_(totals, trained.gold(ids))

    def targets_of(ids: Sequence[int]) -> Iterator[list[Any]]:
        if settings.estimator == "expected":
            yield trained.every_class(ids)
        else:
            for draw in range(settings.draws):
                yield trained.sampled(ids, draw, settings.seed)

    def add_(totals: fisher.Totals, ids: Sequence[int]) -> None:
        for pairs in targets_of(ids):
            for batch in fisher.batches(pairs, trained.length, settings.max_tokens):
                squares.add_(totals, batch)

    return add_


def _worker(settings: FisherSettings, key: dict[str, Any], out: Path, rank: int, threads: int, counts: Any) -> None:
    """The work of a spawned process, which ends with its parent: otherwise it would run beside a resumed call."""
    end_with_parent()
    logging.disable(logging.INFO)
    torch.set_num_threads(threads)
    device = f"cuda:{rank}" if settings.device == "cuda" else settings.device
    _measure_share(load_trained(settings, device), settings, key, out, rank, counts.put)


def _measure_in_processes(
    settings: FisherSettings, key: dict[str, Any], out: Path, count: Callable[[int], Any]
) -> None:
    context = multiprocessing.get_context("spawn")
    counts = context.Queue()
    threads = max(1, torch.get_num_threads() // settings.processes)
    workers = [
        context.Process(target=_worker, args=(settings, key, out, rank, threads, counts), daemon=True)
        for rank in range(settings.processes)
    ]
    with without_interrupts():
        for worker in workers:
            worker.start()
    while any(worker.is_alive() for worker in workers) or not counts.empty():
        with contextlib.suppress(queue.Empty):
            count(counts.get(timeout=0.2))
        if any(worker.exitcode not in (None, 0) for worker in workers):
            break
    failed = [rank for rank, worker in enumerate(workers) if worker.exitcode != 0]
    for worker in workers:
        worker.terminate()
        worker.join()
    if failed:
        refuse_when_stopping()
        raise UserError(f"process {failed[0]} failed, see above; type the same call again to continue from its sums")
