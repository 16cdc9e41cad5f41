"""Training steps of whole models, PyTorch's layers against bnkern's: the batch-norm part and the step.

    python -P benchmarks/models.py run resnet50 channels_last float32     # adds a row to the results
    python -P benchmarks/models.py run densenet contiguous float32 --compile
    python -P benchmarks/models.py table                                  # writes the table of all rows

One run measures one row: the variants (PyTorch's layers, `convert`, `convert(fuse=True)`) take their steps in turn, so
that what disturbs the machine disturbs all alike; the lower quartile counts. A step is forward, backward and SGD. Its
batch-norm part is what torch.profiler finds under batch norm, activations and additions, both ways, in a step of
each variant, also in turn. A compiled graph has no such part: there the whole step stands alone.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
from helpers import torch_models  # noqa: E402

import bnkern.torch  # noqa: E402

RESULTS = HERE / "results" / "models.json"
MODELS = {
    "resnet50": (torch_models.ResNet50, (8, 3, 224, 224)),
    "densenet": (torch_models.DenseBlock, (16, 3, 96, 96)),
    "mobilenet": (torch_models.MobileBlocks, (16, 3, 112, 112)),
    "unet": (torch_models.UNet, (4, 3, 96, 96)),
    "mlp": (torch_models.MLP, (256, 3, 32, 32)),
}
VARIANTS = ("torch", "bnkern", "fused")
# Whole operators: what one calls is in its time. Nothing of these is called by another of them.
PART = {
    "aten::batch_norm", "aten::native_batch_norm_backward", "aten::relu", "aten::relu_", "aten::threshold_backward",
    "aten::hardtanh", "aten::hardtanh_", "aten::hardtanh_backward", "aten::leaky_relu", "aten::leaky_relu_",
    "aten::leaky_relu_backward", "aten::add", "aten::add_", "bnkern::batch_norm_train", "bnkern::batch_norm_backward",
    "bnkern::update_running",
}  # fmt: skip


def made(name, layout):
    """The three variants, from the same weights, and an input."""
    torch.manual_seed(0)
    kind, shape = MODELS[name]
    model, x = kind(), torch.randn(shape)
    if layout == "channels_last":
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    ours = bnkern.torch.convert(copy.deepcopy(model))
    return dict(zip(VARIANTS, (model, ours, bnkern.torch.convert(copy.deepcopy(model), fuse=True)), strict=True)), x


class Trainer:
    def __init__(self, model, dtype, compiled):
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        self.model = torch.compile(model, fullgraph=True) if compiled else model
        self.mixed = dtype == "bfloat16"

    def step(self, x):
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            loss = self.model(x).float().square().mean()
        loss.backward()
        self.optimizer.step()

    def part(self, x):
        """Milliseconds of a step that are the batch-norm part."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            self.step(x)
        return sum(e.cpu_time_total for e in profile.key_averages() if e.key in PART) / 1e3


def measure(name, layout, dtype, compiled, seconds):
    models, x = made(name, layout)
    trainers = {variant: Trainer(model, dtype, compiled) for variant, model in models.items()}
    for trainer in trainers.values():
        trainer.step(x)
    steps, parts = {v: [] for v in VARIANTS}, {v: [] for v in VARIANTS}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(steps["fused"]) < 3:
        for variant, trainer in trainers.items():
            start = time.perf_counter()
            trainer.step(x)
            steps[variant].append(1e3 * (time.perf_counter() - start))
        if not compiled and len(parts["fused"]) * 3 < len(steps["fused"]):
            for variant, trainer in trainers.items():
                parts[variant].append(trainer.part(x))
    row = {"model": name, "layout": layout, "dtype": dtype, "mode": "compiled" if compiled else "eager"}
    row |= {"shape": MODELS[name][1], "steps": len(steps["fused"]), "threads": torch.get_num_threads()}
    row |= {"step": {v: lower(t) for v, t in steps.items()}, "part": {v: lower(t) for v, t in parts.items()}}
    return row


def lower(times):
    return statistics.quantiles(times, n=4)[0] if len(times) > 1 else times[0] if times else None


def table(rows):
    lines = [
        "| model, batch | layout | dtype | mode | step, PyTorch | bnkern | fused | part, PyTorch | bnkern | fused |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        step, part = row["step"], row["part"]
        cells = [f"{row['model']} {'x'.join(map(str, row['shape']))}", row["layout"], row["dtype"], row["mode"]]
        for times in (step, part):
            base = times["torch"]
            cells.append("-" if base is None else f"{base:.1f} ms")
            cells += ["-" if base is None else f"{times[v]:.1f} ({times[v] / base:.2f})" for v in VARIANTS[1:]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


HEAD = """# Training steps of whole models

Made by `benchmarks/models.py`, whose head says what is measured; each row is one interleaved run. In brackets: share
of PyTorch's time. Part: batch norm, activations and additions, both ways, by torch.profiler. bfloat16: under autocast.
The rows are of 2026-11-21, AMD EPYC (Zen 4, 2 cores), with the kernels of commit 0401469; those that are missing were
not measured.

"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("model", choices=MODELS)
    run.add_argument("layout", choices=("contiguous", "channels_last"))
    run.add_argument("dtype", choices=("float32", "bfloat16"))
    run.add_argument("--compile", action="store_true")
    run.add_argument("--seconds", type=float, default=15)
    commands.add_parser("table")
    given = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if given.command == "run":
        row = measure(given.model, given.layout, given.dtype, given.compile, given.seconds)
        key = ("model", "layout", "dtype", "mode")
        rows = [other for other in rows if any(other[k] != row[k] for k in key)] + [row]
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        print(table([row]))
    else:
        RESULTS.with_suffix(".md").write_text(HEAD + table(rows))


if __name__ == "__main__":
    main()
