"""SyncBatchNorm: two processes over gloo are one batch; alone it is a BatchNorm."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.libraries import of_framework

torch = of_framework("torch")

import bnkern.torch as bt  # noqa: E402

WORKER = Path(__file__).with_name("sync_worker.py")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_two_processes(tmp_path):
    """Unequal, empty and equal parts, activation, residual, bfloat16, a model under DistributedDataParallel."""
    command = [sys.executable, "-P", str(WORKER)]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([*command, str(rank), "2", str(tmp_path / "meeting")], stdout=pipe, stderr=pipe, text=True)
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [out.strip().splitlines()[-1:] for out, _ in told] == [["right"]] * 2, "\n".join(err for _, err in told)


def test_alone_it_is_a_batch_norm():
    x = torch.randn(4, 5, 3)
    layer, plain = bt.SyncBatchNorm(5, activation="relu"), bt.BatchNorm1d(5, activation="relu")
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.running_var, plain.running_var)
    with pytest.raises(ValueError, match="expected at least 2D input"):
        layer(torch.ones(5))


def test_convert_sync_and_back():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), bt.BatchNorm2d(3), torch.nn.SyncBatchNorm(3))
    keys = list(model.state_dict())
    assert [type(m) for m in bt.convert_sync(model)] == [bt.SyncBatchNorm] * 3
    assert list(model.state_dict()) == keys
    assert [type(m) for m in bt.restore(model)] == [torch.nn.SyncBatchNorm] * 3
