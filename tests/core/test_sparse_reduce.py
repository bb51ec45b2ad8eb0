"""Gradients of 2 and 4 real gloo processes: what is sent, counted, and what comes of it, against whole gradients."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import warm_python
from guided_rows import a_model, guided_model
from torch import nn
from warm_python import ENVIRONMENT

from weighted_freezing_fairseq.core.sparse_reduce import MaskedReduce

# Each process runs this: the same training with whole gradients, under DistributedDataParallel's hook, and by hand.
PROCESS = """
import sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from guided_rows import a_model, guided_model, same
from weighted_freezing_fairseq.core.sparse_reduce import MaskedReduce, reduce_bucket

rank, world, port = map(int, sys.argv[1:])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
TOTAL = sum(p.numel() for p in a_model().parameters())
counted = [0]
all_reduce = dist.all_reduce

def counting(tensor, op=dist.ReduceOp.SUM, *args, **kwargs):
    counted[0] += (op == dist.ReduceOp.SUM) * tensor.numel() * tensor.element_size()
    return all_reduce(tensor, op, *args, **kwargs)

dist.all_reduce = counting

def backward(net, update, part, scale):
    generator = torch.Generator().manual_seed(100 * update + 10 * part + rank)
    (net(torch.randn(8, 6, generator=generator)).pow(2).mean() * scale).backward()

def train(how, updates=5, **settings):
    '''The weights after some updates of two batches each, and the bytes that each update sent.'''
    model = a_model()
    optimizer = guided_model("fish_mask", model, "adamw", **settings)
    reduce = MaskedReduce(optimizer)
    ddp = DistributedDataParallel(model, bucket_cap_mb=0.0005, gradient_as_bucket_view=how == "views")
    if how in ("hook", "views"):
        ddp.register_comm_hook(reduce, reduce_bucket)
    sent = []
    for update in range(updates):
        optimizer.zero_grad()
        before = counted[0], reduce.sent
        with ddp.no_sync():
            backward(ddp, update, 0, 1)
            if how == "by hand":
                backward(ddp, update, 1, 2)
        if how == "by hand":
            reduce.average_(model.parameters())
        else:
            backward(ddp, update, 1, 2)
        if how != "whole" and optimizer.masks is not None:
            assert all(not p.grad[~optimizer.masks[name]].any() for name, p in model.named_parameters())
        sent.append(counted[0] - before[0])
        assert sent[-1] == reduce.sent - before[1]
        optimizer.step()
    weights = [p.detach() for p in model.parameters()]
    for weight in weights:
        first = weight.clone()
        dist.broadcast(first, 0)
        assert torch.equal(first, weight)
    return weights, sent

density = 0.3 if world == 2 else 0.02
whole, _ = train("whole", density=density, observe=2)
assert not same(whole, a_model().parameters())
for how in ("hook", "views", "by hand"):
    weights, sent = train(how, density=density, observe=2)
    assert sent == 2 * [4 * TOTAL] + 3 * [4 * round(density * TOTAL)], (how, sent)
    if world == 2:
        assert same(weights, whole), how
    torch.testing.assert_close(weights, whole, rtol=1e-5, atol=1e-6)

_, sent = train("hook", 1, density=1.0, source="random")  # nothing is masked
assert set(sent) == {4 * TOTAL}
_, sent = train("hook", 1, source="bias", density=None)
assert set(sent) == {4 * sum(p.numel() for n, p in a_model().named_parameters() if n.endswith("bias"))}
try:
    train("by hand", 1, density=0.1, source="random", seed=rank)
except ValueError as error:
    assert "different masks" in str(error)
else:
    raise AssertionError("masks of one's own were not noticed")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_what_is_sent_is_what_is_updated_and_training_stays_as_it_is(world: int):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    setup = f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    ranks = []
    for rank in range(world):
        words = [sys.executable, "-c", setup + PROCESS, str(rank), str(world), str(port)]
        start = warm_python.popen()
        ranks.append(start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT, text=True))
    outputs = [process.communicate(timeout=100)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * world, "\n".join(outputs)


def test_a_single_process_zeroes_what_several_would_not_send():
    model = a_model()
    model[3].weight = nn.Parameter(torch.rand(20, 3).t())  # lies in memory by columns
    optimizer = guided_model("fish_mask", model, density=0.3, source="random")
    model(torch.ones(2, 6)).sum().backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert not model[3].weight.grad.is_contiguous()
    model[0].bias.grad = None
    reduce = MaskedReduce(optimizer)
    reduce.zero_outside_(model.parameters())
    assert reduce.sent == 0 and model[0].bias.grad is None
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.equal(p.grad, before[name] * optimizer.masks[name])
