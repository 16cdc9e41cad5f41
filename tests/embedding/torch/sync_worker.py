"""One process of tests/embedding/torch/test_sync.py: rank, processes, meeting file; ends with an error if a check
fails."""

import copy
import sys

import pytest
import torch
import torch.distributed as dist

import bnkern.torch as bt

PARTS = {"unequal": (3, 1), "empty": (4, 0), "equal": (2, 2)}


def check(rank, parts, activation, residual, dtype):
    """This rank's part of a step against the whole batch in one process."""
    torch.manual_seed(0)
    x, dy, added = (torch.randn(4, 3, 5, 2, dtype=torch.float64).to(dtype) for _ in range(3))
    layer = bt.SyncBatchNorm(3, activation=activation, momentum=None)
    torch.nn.init.normal_(layer.weight)
    whole = bt.BatchNorm2d(3, activation=activation, momentum=None)
    whole.load_state_dict(layer.state_dict())
    start = sum(parts[:rank])
    mine = slice(start, start + parts[rank])
    for _ in range(2):
        results = []
        for module, where in ((whole, slice(None)), (layer, mine)):
            module.zero_grad()
            leaf, more = (t[where].clone().requires_grad_() for t in (x, added))
            y = module(leaf, more if residual else None)
            y.backward(dy[where])
            results.append((y.detach(), leaf.grad, more.grad))
        (want_y, want_dx, want_more), (y, dx, more) = results
        tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(y, want_y[mine], **tolerance)
        torch.testing.assert_close(dx, want_dx[mine], **tolerance)
        if residual:
            torch.testing.assert_close(more, want_more[mine], **tolerance)
        for name, p in layer.named_parameters():
            dist.all_reduce(p.grad)  # what DistributedDataParallel does, without its division
            torch.testing.assert_close(p.grad, whole.get_parameter(name).grad, rtol=1e-4, atol=1e-4)
        for name, buffer in layer.named_buffers():
            torch.testing.assert_close(buffer, whole.get_buffer(name), rtol=1e-5, atol=1e-6)
            seen = [torch.empty_like(buffer) for _ in parts]
            dist.all_gather(seen, buffer)
            assert all(torch.equal(buffer, other) for other in seen), "the same bits on every rank"


def counts_collectives(rank):
    """One all_gather forward, one all_reduce backward."""
    calls = []
    for name in ("all_gather", "all_reduce"):
        original = getattr(dist, name)
        setattr(dist, name, lambda *a, _n=name, _f=original, **k: (calls.append(_n), _f(*a, **k))[1])
    layer = bt.SyncBatchNorm(3)
    layer(torch.randn(4, 3, 2, 2, requires_grad=True)).sum().backward()
    assert calls == ["all_gather", "all_reduce"], calls
    calls.clear()
    layer.eval()(torch.randn(4, 3, 2, 2))
    assert calls == []


def whole_model(rank):
    """convert_sync on a model of PyTorch's under DistributedDataParallel, three steps, against one process."""
    from torch import nn

    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    alone = bt.convert(copy.deepcopy(model))
    spread = nn.parallel.DistributedDataParallel(bt.convert(bt.convert_sync(model), fuse=True))
    x = torch.randn(4, 3, 6, 6)
    for m, part, scale in ((alone, x, 0.5), (spread, x[2 * rank : 2 * rank + 2], 1.0)):
        optimizer = torch.optim.SGD(m.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (m(part).square().sum() * scale).backward()  # DistributedDataParallel divides by the two ranks
            optimizer.step()
    for a, b in zip(alone.state_dict().values(), spread.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def errors(rank):
    """A single value in the whole group raises on every rank; a second derivative raises."""
    layer = bt.SyncBatchNorm(3)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(torch.ones(1 - rank, 3))
    for function, residual in ((lambda y: y.pow(3).sum(), None), (lambda y: y.sum(), torch.randn(4, 3))):
        x = torch.randn(4, 3, requires_grad=True)
        y = layer(x, residual, activation=None if residual is None else "relu")
        grads = torch.autograd.grad(function(y), (x, layer.weight), create_graph=True)
        for grad in grads:  # in the second, dy is a constant
            with pytest.raises(RuntimeError, match="SyncBatchNorm: expected no second derivative"):
                (y.mean() + grad.pow(2).sum()).backward(retain_graph=True)


if __name__ == "__main__":
    rank, size, meeting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    for parts in PARTS.values():
        check(rank, parts, None, False, torch.float32)
    check(rank, PARTS["unequal"], "relu", True, torch.float32)
    check(rank, PARTS["unequal"], ("leaky_relu", 0.1), False, torch.bfloat16)
    check(rank, PARTS["empty"], None, True, torch.float32)
    errors(rank)
    whole_model(rank)
    counts_collectives(rank)
    dist.destroy_process_group()
    print("right")
