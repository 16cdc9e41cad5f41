"""Beside PyTorch's threads and a DataLoader's workers: the same bits, and no more threads than were there."""

import pytest
from helpers.libraries import of_framework
from helpers.support import linux_only

of_framework("torch")

TRAINING = """
import sys, hashlib, torch
from pathlib import Path
import bnkern, bnkern.torch

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 24
    def __getitem__(self, i):
        x = torch.randn(8, 30, 31, generator=torch.Generator().manual_seed(i))
        mean = bnkern.batch_stats(x[None]).mean  # bnkern in the worker too, which was forked after use here
        return x - mean[:, None, None].float()

def main(workers):
    torch.manual_seed(0)
    bnkern.batch_stats(torch.randn(64, 8, 99, 99))  # threads exist when workers are forked
    layers = [bnkern.torch.BatchNorm2d(8, activation="relu"), bnkern.torch.BatchNorm2d(8)]
    told, most = hashlib.sha256(), 0
    for x in torch.utils.data.DataLoader(Data(), batch_size=8, num_workers=workers):
        y = x
        for layer in layers:
            y = layer(y)
        y.pow(3).mean().backward()
        most = max(most, len(list(Path("/proc/self/task").iterdir())))
        for t in [y] + [t for l in layers for t in (*l.buffers(), *(p.grad for p in l.parameters()))]:
            told.update(t.detach().contiguous().numpy().tobytes())
    print(told.hexdigest(), most)

main(int(sys.argv[1]))
"""


@linux_only
@pytest.mark.parametrize("threads", [1, 2])
def test_training_under_two_workers(python, threads):
    """The same bits without workers and with two, for each number of PyTorch's threads."""
    code = TRAINING.replace("torch.manual_seed(0)", f"torch.manual_seed(0); torch.set_num_threads({threads})")
    alone, _ = python(code, "0").stdout.split()
    spread, _ = python(code, "2").stdout.split()
    assert alone == spread


@linux_only
def test_one_team_of_threads(python):
    """PyTorch's operators and bnkern's take turns on the same team: together no more threads than PyTorch alone."""
    code = """
import torch
import bnkern, bnkern.torch
from pathlib import Path
n = lambda: len(list(Path("/proc/self/task").iterdir()))
torch.set_num_threads(2)
bnkern.set_num_threads(2)
x = torch.randn(64, 8, 99, 99)
x.exp()
before = n()
for _ in range(3):
    bnkern.torch.batch_norm(x, None, None, training=True).exp()
print(n() - before)
"""
    assert int(python(code).stdout) == 0
