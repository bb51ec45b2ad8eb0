"""Measure what `--mask-communication` saves: bytes sent in an update, and time to average gradients.

Gloo processes on this machine average gradients of a model's size with DistributedDataParallel: dense gradients (row
`whole`), and masked gradients of several densities. The time is that of a backward pass with almost no arithmetic; the
row `nothing` is this pass without communication. Communication between machines is slower than these copies in memory.
"""

import argparse
import socket
import statistics
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from weighted_freezing_fairseq import FixedMaskOptimizer, MaskedReduce, reduce_bucket, scope_of
from weighted_freezing_fairseq.costs.subjects import SIZES, synthetic
from weighted_freezing_fairseq.workspace.configs import CONFIGS, config_path


class Weights(nn.Module):
    """Parameters of these shapes, and their sum as the loss: all gradients are 1."""

    def __init__(self, shapes: list[torch.Size]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.zeros(shape) for shape in shapes)

    def forward(self) -> Tensor:
        return torch.stack([weight.sum() for weight in self.weights]).sum()


class Exchange:
    """A model whose gradients are averaged over all processes, with a mask unless `density` is None."""

    def __init__(self, shapes: list[torch.Size], density: float | None) -> None:
        self.model = Weights(shapes)
        self.ddp = DistributedDataParallel(self.model)
        self.reduce: MaskedReduce | None = None
        if density is not None:
            base = torch.optim.SGD(self.model.parameters(), lr=1)
            slots = scope_of(self.model, "all")
            self.reduce = MaskedReduce(FixedMaskOptimizer(base, slots, density=density, source="random"))
            self.ddp.register_comm_hook(self.reduce, reduce_bucket)

    def seconds(self, communicate: bool = True) -> float:
        for p in self.model.parameters():
            p.grad = None
        dist.barrier()
        start = time.perf_counter()
        if communicate:
            self.ddp().backward()
        else:
            with self.ddp.no_sync():
                self.ddp().backward()
        return time.perf_counter() - start

    def bytes(self) -> int:
        """The bytes that this process sends in an update."""
        if self.reduce is None:
            return sum(p.numel() * p.element_size() for p in self.model.parameters())
        before = self.reduce.sent
        self.seconds()
        return self.reduce.sent - before


def measure(rank: int, world: int, port: int, shapes: list[torch.Size], densities: list[float], rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    exchanges = {str(density or "whole"): Exchange(shapes, density) for density in (None, *densities)}
    whole = exchanges["whole"]
    sent = {"nothing": 0, **{name: exchange.bytes() for name, exchange in exchanges.items()}}
    times: dict[str, list[float]] = {name: [] for name in sent}
    for index in range(rounds + 2):  # DistributedDataParallel rebuilds its buckets after the first backward pass
        for name in times:
            seconds = exchanges[name].seconds() if name in exchanges else whole.seconds(communicate=False)
            times[name] += [seconds] if index > 1 else []
    if rank == 0:
        for name, seconds_of_rounds in times.items():
            low, middle, high = statistics.quantiles([1000 * s for s in seconds_of_rounds], n=4, method="inclusive")
            share = sent[name] / sent["whole"]
            print(f"| {world} | {name} | {sent[name]:,} | {share:.3f} | {middle:.1f} [{low:.1f}, {high:.1f}] |")
    dist.barrier()  # gloo's threads must release the last hook before this process ends
    dist.destroy_process_group()


def shapes_of(size: str) -> list[torch.Size]:
    from weighted_freezing_fairseq.plugin.runs import load_config

    overrides = [*SIZES[size].overrides(), "task.data=unused", "checkpoint.save_dir=unused"]
    cfg: Any = load_config(config_path("standard", CONFIGS / "toy"), overrides)
    return [p.shape for p in synthetic(SIZES[size], seed=1)[1].build_model(cfg.model).parameters()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="size of the model (default small)")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], help="default 2 4")
    parser.add_argument("--density", type=float, nargs="+", default=[0.5, 0.25, 0.05, 0.005])
    parser.add_argument("--rounds", type=int, default=9, help="default 9")
    args = parser.parse_args()
    shapes = shapes_of(args.size)
    print(
        "| processes | density | bytes sent in an update | of whole | milliseconds |\n|---|---|---|---|---|", flush=True
    )
    for world in args.processes:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        multiprocessing.spawn(measure, (world, port, shapes, args.density, args.rounds), nprocs=world)


if __name__ == "__main__":
    main()
