"""The measurement: every method makes one whole update per round on the same batch, in turns.

A noisy machine disturbs all methods of a round alike, so ratios within a round are compared. On a CPU, memory is the
sum of torch's own allocations (the memory events of the profiler); on a GPU it is the peak of the allocator.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..workspace.machine import device_name
from ..workspace.progress import Progress
from .cases import Case
from .results import Cost
from .subjects import Subject


def measure(
    subjects: Sequence[Subject], case: Case, sample: dict[str, Any], rounds: int, device: str, precision: str = "fp32"
) -> list[Cost]:
    """The cost of each of `subjects`, the first of which is standard training."""
    import torch

    from .operations import Rates

    seconds: dict[str, list[float]] = {subject.method: [] for subject in subjects}
    steps: dict[str, list[float]] = {subject.method: [] for subject in subjects}
    for subject in subjects:
        subject.settle(sample)
    transients = {subject.method: _transient_bytes(lambda s=subject: s.update(sample), device) for subject in subjects}
    counts = {subject.method: subject.count(sample) for subject in subjects}
    rates = Rates.of(device, lambda: _wait(device))
    bounds = {method: rates.seconds(found.products, moved) for method, (found, moved) in counts.items()}
    bar = Progress(desc=f"bench {case.name}", total=rounds, unit="round", lines=True)
    for turn in range(rounds):
        order = subjects[turn % len(subjects) :] + subjects[: turn % len(subjects)]
        for subject in order:
            seconds[subject.method].append(_timed(lambda s=subject: s.update(sample), device))
        for subject in order:
            subject.forget_gradients()
        for subject in order:
            steps[subject.method].append(_timed(subject.step, device))
        bar.update()
    bar.close()
    base, named = subjects[0], device_name(device)
    rows = []
    for subject in subjects:
        time_low, time_mid, time_high = _quartiles(_ratios(seconds[subject.method], seconds[base.method]))
        added = [
            (mine - plain) / update
            for mine, plain, update in zip(steps[subject.method], steps[base.method], seconds[base.method], strict=True)
        ]
        share_low, share_mid, share_high = _quartiles(added)
        total = {s.method: s.resident_bytes() + transients[s.method] for s in (subject, base)}
        found, moved = counts[subject.method]
        rows.append(
            Cost(
                method=subject.method,
                size=case.name,
                precision=precision,
                time_ratio=time_mid,
                time_low=time_low,
                time_high=time_high,
                step_ratio=_quartiles(_ratios(steps[subject.method], steps[base.method]))[1],
                step_share_added=share_mid,
                step_share_low=share_low,
                step_share_high=share_high,
                memory_ratio=total[subject.method] / total[base.method],
                peak_bytes=total[subject.method],
                transient_ratio=transients[subject.method] / transients[base.method],
                state_bytes=subject.state_bytes() - base.state_bytes(),
                flops=found.products + found.others,
                product_flops=found.products,
                step_bytes=moved,
                bound_seconds=bounds[subject.method],
                bound_ratio=bounds[subject.method] / bounds[base.method],
                update_seconds=statistics.median(seconds[subject.method]),
                parameters=sum(p.numel() for p in subject.trainer.model.parameters()),
                tokens=sample["ntokens"],
                rounds=rounds,
                varied=case.varied,
                value=case.value,
                device=named,
                threads=torch.get_num_threads(),
                torch=torch.__version__,
            )
        )
    return rows


def _timed(work: Callable[[], None], device: str) -> float:
    _meet()
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _meet() -> None:
    """Wait for the other processes, if there are any."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _wait(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _transient_bytes(work: Callable[[], None], device: str) -> int:
    """The most bytes alive at once during `work` beyond those that were alive before it."""
    import torch

    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def _ratios(mine: Sequence[float], base: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(mine, base, strict=True)]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return (values[0],) * 3
    low, mid, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, mid, high
