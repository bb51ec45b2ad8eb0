"""Measure time and memory of methods: in each round every method makes one update on the same batch.

Noise of the machine affects all methods of a round alike, so the ratios within each round are compared. Memory is the
sum of torch's allocations on a CPU (memory events of the profiler), and the peak of the allocator on a GPU.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
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

    for subject in subjects:
        subject.warm_up(sample)
    transients = {subject.method: _transient_bytes(lambda s=subject: s.update(sample), device) for subject in subjects}
    operations = {subject.method: subject.count_operations(sample) for subject in subjects}
    step_bytes = {subject.method: subject.step_bytes() for subject in subjects}
    rates = Rates.measure(device, lambda: _synchronise(device))
    bounds = {method: rates.seconds(operations[method].products, step_bytes[method]) for method in operations}
    updates: dict[str, list[float]] = {subject.method: [] for subject in subjects}  # seconds of each round
    steps: dict[str, list[float]] = {subject.method: [] for subject in subjects}
    bar = Progress(desc=f"bench {case.name}", total=rounds, unit="round", lines=True)
    for index in range(rounds):
        order = subjects[index % len(subjects) :] + subjects[: index % len(subjects)]
        for subject in order:
            updates[subject.method].append(_seconds(lambda s=subject: s.update(sample), device))
        for subject in order:
            subject.randomise_gradients()
        for subject in order:
            steps[subject.method].append(_seconds(subject.step, device))
        bar.update()
    bar.close()
    standard, used_device = subjects[0], device_name(device)
    peaks = {subject.method: subject.resident_bytes() + transients[subject.method] for subject in subjects}
    rows = []
    for subject in subjects:
        method = subject.method
        time_low, time_ratio, time_high = _quartiles(_ratios(updates[method], updates[standard.method]))
        share_low, share_added, share_high = _quartiles(
            (step - standard_step) / standard_update
            for step, standard_step, standard_update in zip(
                steps[method], steps[standard.method], updates[standard.method], strict=True
            )
        )
        rows.append(
            Cost(
                method=method,
                size=case.name,
                precision=precision,
                time_ratio=time_ratio,
                time_low=time_low,
                time_high=time_high,
                step_ratio=statistics.median(_ratios(steps[method], steps[standard.method])),
                step_share_added=share_added,
                step_share_low=share_low,
                step_share_high=share_high,
                memory_ratio=peaks[method] / peaks[standard.method],
                peak_bytes=peaks[method],
                transient_ratio=transients[method] / transients[standard.method],
                state_bytes=subject.state_bytes() - standard.state_bytes(),
                flops=operations[method].products + operations[method].others,
                product_flops=operations[method].products,
                step_bytes=step_bytes[method],
                bound_seconds=bounds[method],
                bound_ratio=bounds[method] / bounds[standard.method],
                update_seconds=statistics.median(updates[method]),
                parameters=sum(p.numel() for p in subject.trainer.model.parameters()),
                tokens=sample["ntokens"],
                rounds=rounds,
                varied=case.varied,
                value=case.value,
                device=used_device,
                threads=torch.get_num_threads(),
                torch=torch.__version__,
            )
        )
    return rows


def _seconds(work: Callable[[], None], device: str) -> float:
    """The duration of `work`, which all processes begin together."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    _synchronise(device)
    start = time.perf_counter()
    work()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _transient_bytes(work: Callable[[], None], device: str) -> int:
    """The peak memory during `work`, minus the memory before it."""
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
    sizes = (event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()))  # negative when memory is freed
    return max(itertools.accumulate(sizes, initial=0))


def _ratios(seconds: Sequence[float], standard_seconds: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(seconds, standard_seconds, strict=True)]


def _quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    values = list(values)
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
