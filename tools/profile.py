"""Where the time goes on this machine: by kind of operation, and against what it can do.

    python -m tools.profile
    python -m tools.profile --device cuda

First a training step, a forward pass of the same batch and one of a single image, as the scripts
run them: the share of each kind of operation, by torch's profiler. Beside it how many
multiply-adds a second that is, and how many a single large convolution or matrix product reaches
on the same machine, which is the limit. Then an epoch of training on synthetic faces: the share of
it in which no step is taken, for want of images. Two minutes on two cores; --quick shows only that
everything runs.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity

from common.batch import Batch
from common.cli import Parser, call_main
from common.errors import InputError
from common.files import write_json
from common.image_cache import CachedImages
from datasets import transforms
from engine.data import SeededImages, TrainingBatches, batches_on, make_loader, worker_count
from engine.optim import shuffle
from engine.speed import MEMORY_FORMAT, reporting_compiler_errors

from .bench import (
    Setting,
    compiles,
    forward,
    heading,
    make_setting,
    networks,
    sizes,
    step,
    stopwatch,
    synthetic_faces,
    trainer,
    types,
)

#: Kinds of operation by torch's names of them, the first that fits; the rest is "other".
KINDS = (
    ("convolutions, backward", r"conv\w*_backward"),
    ("convolutions, forward", r"conv"),
    ("batch norm", r"batch_norm"),
    ("ReLU", r"relu|threshold|clamp_min"),
    ("pooling", r"pool"),
    ("matrix products", r"::(mm|addmm|bmm|baddbmm)$"),
    ("optimiser", r"_fused_|[Oo]ptimizer"),
    ("copies", r"copy_|::fill_|::zero_"),
)
#: A training step takes the forward products once more for either gradient.
STEP_PRODUCTS = 3


class Profile(NamedTuple):
    """One thing that was looked at."""

    what: str
    seconds: float
    shares: dict[str, float]  # kind -> share of the time of all operations
    products: float  # multiply-adds a second
    limit: float  # the same of a single large operation


class Epoch(NamedTuple):
    """An epoch of training steps on images from memory."""

    images: int
    workers: int
    bf16: bool
    seconds: float
    waited: float  # of these, without a step


def main(arguments: Sequence[str] | None = None) -> None:
    """Look and print; raises InputError for flags that do not fit the machine."""
    args = parse_arguments(arguments)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler talks to itself
    setting = make_setting(args)
    print(heading(setting), flush=True)
    found: list[Profile] = []
    with reporting_compiler_errors():
        for name, bf16 in types(setting):
            for profile in profiles(setting, args.batch_size, name, bf16=bf16):
                print("\n" + "\n".join(lines(profile)), flush=True)
                found.append(profile)
    waiting = wait(setting, args)
    print("\n" + waiting_line(waiting), flush=True)
    if args.json:
        shown = {"profiles": [one._asdict() for one in found], "epoch": waiting._asdict()}
        write_json(args.json, {"setting": heading(setting), **shown})


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1 [cpu]")
    add("--image-size", type=int, default=224, metavar="N", help="pixels [224]")
    add("--batch-size", type=int, default=32, metavar="N", help="images per step [32]")
    add("--images", type=int, default=320, metavar="N", help="synthetic faces of the epoch [320]")
    add("--compile", action="store_true", help="also the step under torch.compile")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    add("--quick", action="store_true", help="32 pixels, few images: only to see that it runs")
    args = parser.parse_args(arguments)
    if args.quick:
        args.batch_size, args.images = 4, 16
    if not 32 <= args.image_size <= 4096:
        raise InputError(f"--image-size is {args.image_size}; expected 32 to 4096")
    if args.batch_size < 2 or args.images < args.batch_size:
        raise InputError("--batch-size and --images: expected 2 or more, and a batch of images")
    args.image_sizes, args.batch_sizes = [args.image_size], [args.batch_size]
    args.pairs, args.seconds = 5, 9.0
    return args


# --------------------------------------------------------------------------------------------
# By kind of operation


def profiles(setting: Setting, batch: int, name: str, *, bf16: bool) -> Iterator[Profile]:
    """A training step, and inference of a batch and of one image."""
    costs, limit = sizes(setting), fastest_product(setting, bf16=bf16)
    products = {key: cost["flops"] / 2 for key, cost in costs.items()}
    training = f"training step, batch {batch}", step, batch, STEP_PRODUCTS * products["DAN"]
    runs = [
        training,
        (f"inference, batch {batch}", forward, batch, products["DAN, fused"]),
        ("inference, batch 1", forward, 1, products["DAN, fused"]),
    ]
    if compiles(setting, bf16=bf16):
        runs.append((f"compiled {training[0]}", partial(step, compiled=True), *training[2:]))
    for what, make, size, each in runs:
        run = make(networks()[0], setting, size, plain=False, bf16=bf16)
        seconds = typical_seconds(setting, run)
        shares = shares_of(run, setting)
        yield Profile(f"{what}, {name}", seconds, shares, size * each / seconds, limit)


def typical_seconds(setting: Setting, run: Callable[[], Any]) -> float:
    """The median time of a call, after two that lay out memory and choose kernels."""
    clock = stopwatch(setting.device)
    for _ in range(2):
        run()
    times = sorted(clock(run) for _ in range(setting.pairs))
    return times[len(times) // 2]


def shares_of(run: Callable[[], Any], setting: Setting) -> dict[str, float]:
    """Kind -> its fraction of the time of all operations in a call, largest first."""
    gpu = setting.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        if gpu:
            torch.cuda.synchronize()
    spent: dict[str, float] = {}
    for event in profile.key_averages():
        # GPU kernels are also listed on their own; counting them would count their time twice.
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue
        own = event.self_device_time_total if gpu else event.self_cpu_time_total
        spent[kind_of(event.key)] = spent.get(kind_of(event.key), 0.0) + own
    whole = sum(spent.values())
    return {kind: part / whole for kind, part in sorted(spent.items(), key=lambda kv: -kv[1])}


def kind_of(operation: str) -> str:
    """The kind of an operation that torch's profiler names."""
    return next((kind for kind, names in KINDS if re.search(names, operation)), "other")


def fastest_product(setting: Setting, *, bf16: bool) -> float:
    """Multiply-adds a second of a large matrix product or a large convolution, the faster one."""
    gpu, tiny = setting.device.type == "cuda", setting.image_size < 64
    dtype = torch.bfloat16 if bf16 else torch.float32
    side = 256 if tiny else (8192 if gpu else 2048)
    batch, channels, size = (2, 32, 8) if tiny else (256 if gpu else 32, 256, 28)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=setting.device).to(dtype)

    left, right = random(side, side), random(side, side)
    images = random(batch, channels, size, size).contiguous(memory_format=MEMORY_FORMAT)
    kernel = random(channels, channels, 3, 3).contiguous(memory_format=MEMORY_FORMAT)
    # On a GPU float32 convolutions are computed in TF32 unless that is off: so are the products.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    products = (
        (side**3, lambda: torch.mm(left, right)),
        (images.numel() * channels * 9, lambda: F.conv2d(images, kernel, padding=1)),
    )
    clock = stopwatch(setting.device)
    with torch.inference_mode():
        return max(count / min(clock(run) for _ in range(12)) for count, run in products)


# --------------------------------------------------------------------------------------------
# Waiting for images


def wait(setting: Setting, args: argparse.Namespace) -> Epoch:
    """Train two epochs on synthetic faces from memory; returns the second."""
    take_step = trainer(networks()[0], setting, plain=False, bf16=setting.bf16)
    with tempfile.TemporaryDirectory() as folder:
        augment = transforms.rafdb_train(setting.image_size)
        faces = synthetic_faces(Path(folder), args.images, augment)
        dataset = CachedImages(faces, range(len(faces)))
        images, workers = SeededImages(dataset), worker_count(-1, setting.device)
        order = partial(shuffle, images.labels)
        batches = TrainingBatches(len(images), args.batch_size, 0, order)
        loader = make_loader(images, batches, workers=workers, device=setting.device)
        for _ in range(2):  # the first epoch starts the workers and fills the memory
            whole, waited = epoch(loader, setting.device, take_step)
    return Epoch(len(images), workers, setting.bf16, whole, waited)


def epoch(
    loader: Any, device: torch.device, take_step: Callable[[Batch], None]
) -> tuple[float, float]:
    """Take a step on every batch; returns the seconds of all, and of those without a step.

    On a GPU the seconds of a step are those of the device, which works while the loop goes on.
    """
    marks, started = [], time.perf_counter()
    for batch in batches_on(loader, device):
        begin = mark(device)
        take_step(batch)
        marks.append((begin, mark(device)))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    whole = time.perf_counter() - started
    return whole, whole - sum(seconds_between(*ends) for ends in marks)


def mark(device: torch.device) -> Any:
    """A point in time: on a GPU that at which the device gets there."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Seconds between two marks that the device has passed."""
    return end - begin if isinstance(end, float) else begin.elapsed_time(end) / 1000


# --------------------------------------------------------------------------------------------
# Text


def lines(profile: Profile) -> list[str]:
    """A profile as text."""
    return [
        f"{profile.what}: {1000 * profile.seconds:,.1f} ms, {profile.products / 1e9:,.0f} billion "
        f"multiply-adds a second, {profile.products / profile.limit:.0%} of the "
        f"{profile.limit / 1e9:,.0f} of a single large operation",
        *(f"  {kind:<24}{share:6.1%}" for kind, share in profile.shares.items()),
    ]


def waiting_line(waiting: Epoch) -> str:
    """How fast an epoch was and how long it waited, as text."""
    per_second, share = waiting.images / waiting.seconds, waiting.waited / waiting.seconds
    return (
        f"an epoch of {waiting.images:,} images from memory, {waiting.workers} DataLoader workers, "
        f"{'bfloat16' if waiting.bf16 else 'float32'}: {per_second:.1f} images/s, "
        f"waiting for images {share:.1%} of the time"
    )


if __name__ == "__main__":
    call_main(main)
