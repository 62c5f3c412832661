"""How fast this is on this machine, as ratios of things measured in turn within one run.

    python -m tools.bench
    python -m tools.bench --device cuda --json bench.json
    python -m tools.bench --image-size 64 --batch-sizes 64

"Plain" is the network as the paper draws it: float32, contiguous, every layer on its own, an
optimiser that goes through the parameters one by one. "Ours" is what the scripts run:
channels_last, fused optimiser, products on small maps, for inference the fused network of --fast;
in float32 and, where the hardware natively supports it, in bfloat16. Both sides run in turn (A B A
B ...), and every ratio is the median over the pairs, so other work on the machine hits both alike.
Everything is measured at the first image size; at the others training steps of the largest batch
alone. About five minutes on two cores; --quick shows only that everything runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torchvision import transforms as v1

from common.batch import Batch
from common.cli import Parser, call_main
from common.devices import find_device, wants_bf16
from common.errors import InputError
from common.files import write_json
from common.image_cache import CachedImages
from datasets import RAFDB, transforms
from datasets.demo import write_rafdb
from datasets.transforms import MEAN, STD
from engine.data import OrderedBatches, SeededImages, batches_on, make_loader
from engine.evaluate import predict
from engine.optim import make_optimizer
from engine.speed import (
    MEMORY_FORMAT,
    autocast,
    reporting_compiler_errors,
)
from networks import DAN, DANLoss, ResNet18, fast_network, fuse, products_on_small_maps
from results.costs import cost_of_network

CLASSES = 7
#: FER2013's published training faces; the public test faces are an eighth of them.
FER2013_FACES, FER2013_SIZE = 28_709, 64


@dataclass(frozen=True)
class Row:
    """A line of the table: two things measured in turn."""

    what: str
    slow: str
    fast: str
    slow_ms: float
    fast_ms: float
    ratio: float  # median over the pairs of slow / fast
    pairs: int


@dataclass(frozen=True)
class Setting:
    """What everything is measured under."""

    device: torch.device
    image_size: int
    batch_sizes: tuple[int, ...]
    pairs: int
    seconds: float  # at most so long for a line, once it has three pairs
    bf16: bool
    compile: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table; raises InputError for flags that do not fit the machine."""
    args = parse_arguments(arguments)
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler talks to itself
    setting = make_setting(args)
    print(heading(setting), flush=True)
    rows: list[Row] = []
    with reporting_compiler_errors():
        for row in all_rows(setting, args.image_sizes[1:]):
            print(line(row), flush=True)
            rows.append(row)
    costs, peaks = sizes(setting), memory(setting)
    print("\n" + "\n".join([*costs_lines(costs), *peaks_lines(peaks)]))
    if args.json:
        content = {"setting": heading(setting), "rows": [asdict(row) for row in rows]}
        write_json(args.json, {**content, "costs": costs, "peak_megabytes": peaks})
        print(f"\nwrote {args.json}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1 [cpu]")
    many = {"type": int, "nargs": "+", "metavar": "N"}
    add("--image-size", dest="image_sizes", **many, default=[224, 112, 64], help="[224 112 64]")
    add("--batch-sizes", **many, default=[1, 8, 32], help="[1 8 32]")
    add("--pairs", type=int, default=15, metavar="N", help="at most so many of each [15]")
    add("--seconds", type=float, default=7.0, metavar="X", help="at most so long a line [7]")
    add("--quick", action="store_true", help="32 pixels, one pair: only to see that it runs")
    add("--compile", action="store_true", help="also the step under torch.compile")
    add("--json", type=Path, metavar="FILE", help="write everything there")
    args = parser.parse_args(arguments)
    for size in args.image_sizes:
        if not 32 <= size <= 4096:
            raise InputError(f"--image-size is {size}; expected 32 to 4096")
    if min(args.batch_sizes) < 1 or args.pairs < 1:
        raise InputError("--batch-sizes and --pairs: expected numbers from 1 up")
    return args


def make_setting(args: argparse.Namespace) -> Setting:
    """The flags as a setting."""
    device = find_device(args.device)
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {args.device} is not measured; expected cpu or cuda")
    if args.quick:
        args.image_sizes, args.batch_sizes, args.pairs = [32], [2], 1
    bf16, batches = wants_bf16("auto", device), tuple(args.batch_sizes)
    return Setting(
        device, args.image_sizes[0], batches, args.pairs, args.seconds, bf16, args.compile
    )


# --------------------------------------------------------------------------------------------
# Measuring


def stopwatch(device: torch.device) -> Callable[[Callable[[], Any]], float]:
    """A function that runs another and returns its seconds; by device events on a GPU."""

    def on_cpu(run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def on_gpu(run: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000

    return on_gpu if device.type == "cuda" else on_cpu


def in_turn(
    setting: Setting, runs: tuple[Callable[[], Any], Callable[[], Any]]
) -> list[tuple[float, float]]:
    """Seconds of the first and of the second, measured one after the other, pair by pair."""
    clock = stopwatch(setting.device)
    for run in runs:  # memory is laid out and kernels are chosen at the first call
        run()
    pairs, started = [], time.perf_counter()
    while len(pairs) < setting.pairs:
        pairs.append((clock(runs[0]), clock(runs[1])))
        if len(pairs) >= 3 and time.perf_counter() - started > setting.seconds:
            break
    return pairs


def row_of(
    setting: Setting, what: str, slow: tuple[str, Callable], fast: tuple[str, Callable]
) -> Row:
    """Two named things measured in turn."""
    pairs = in_turn(setting, (slow[1], fast[1]))
    return Row(
        what=f"{what}, {setting.image_size} px",
        slow=slow[0],
        fast=fast[0],
        slow_ms=1000 * statistics.median(a for a, _ in pairs),
        fast_ms=1000 * statistics.median(b for _, b in pairs),
        ratio=statistics.median(a / b for a, b in pairs),
        pairs=len(pairs),
    )


def types(setting: Setting) -> list[tuple[str, bool]]:
    """The number formats to measure: (name, whether it is bfloat16)."""
    return [("float32", False), *([("bfloat16", True)] if setting.bf16 else [])]


def compiles(setting: Setting, *, bf16: bool) -> bool:
    """Whether --compile has this type compiled, which takes a minute: the faster one alone."""
    return setting.compile and bf16 == setting.bf16


# --------------------------------------------------------------------------------------------
# Networks


def networks() -> tuple[nn.Module, nn.Module]:
    """DAN and the bare ResNet-18, the same weights every time."""
    torch.manual_seed(0)
    return DAN(CLASSES), ResNet18(CLASSES)


def forward(
    network: nn.Module, setting: Setting, batch: int, *, plain: bool, bf16: bool
) -> Callable[[], None]:
    """A call that classifies a batch, in plain float32 or as eval.py --fast does."""
    network = (
        network.eval().to(setting.device)
        if plain
        else fast_network(network, setting.device, bf16=bf16)
    )
    images = random_images(setting, batch, plain=plain)

    def run() -> None:
        with torch.inference_mode(), autocast(setting.device, bf16):
            network(images)

    return run


def random_images(setting: Setting, batch: int, *, plain: bool) -> Tensor:
    """Images (batch, 3, size, size) on the device; plain: channels first."""
    shape = (batch, 3, setting.image_size, setting.image_size)
    images = torch.randn(shape, device=setting.device)
    return images if plain else images.contiguous(memory_format=MEMORY_FORMAT)


def step(
    network: nn.Module,
    setting: Setting,
    batch: int,
    *,
    plain: bool,
    bf16: bool,
    compiled: bool = False,
    criterion: nn.Module | None = None,
) -> Callable[[], None]:
    """A call that takes a training step, in plain float32 or as the train scripts do.

    The images also have a face's targets, for methods whose criterion (`trainer`) asks for them.
    """
    if compiled:
        network.compile()
    take_step = trainer(network, setting, plain=plain, bf16=bf16, criterion=criterion)
    labels = torch.arange(batch, device=setting.device) % CLASSES
    images = random_images(setting, batch, plain=plain)
    face = {"mask": torch.ones_like(images[:, :1]), "clean": torch.zeros_like(images)}
    return partial(take_step, Batch(images, labels, torch.arange(batch), face))


def trainer(
    network: nn.Module,
    setting: Setting,
    *,
    plain: bool,
    bf16: bool,
    criterion: nn.Module | None = None,
) -> Callable[[Batch], None]:
    """A call that takes a training step on a batch, as `engine.train.train_one_epoch` does.

    criterion: by default DAN's, or cross-entropy for the ResNet-18.
    """
    if criterion is None:
        baseline = {} if isinstance(network, DAN) else {"fcn_loss": "none", "partition": "none"}
        criterion = DANLoss(CLASSES, **baseline)
    criterion = criterion.to(setting.device)
    network = network.to(setting.device).train()
    parameters = [*network.parameters(), *criterion.parameters()]
    sgd = partial(SGD, momentum=0.9, weight_decay=1e-4)
    if plain:
        optimizer = sgd(parameters, lr=1e-4, foreach=False)
    else:
        products_on_small_maps(network).to(memory_format=MEMORY_FORMAT)
        optimizer = make_optimizer(sgd, parameters, lr=1e-4)

    def take_step(batch: Batch) -> None:
        with autocast(setting.device, bf16):
            output = network(batch.images)
        loss = criterion(output, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        optimizer.step()

    return take_step


def all_rows(setting: Setting, other_sizes: Sequence[int]) -> Iterator[Row]:
    """Everything at the first image size; at the others training steps of the largest batch."""
    for batch in setting.batch_sizes:
        yield from rows(setting, "inference", forward, batch)
    # Not for a batch of one, which has no variance.
    for batch in (size for size in setting.batch_sizes if size > 1):
        yield from rows(setting, "train step", step, batch)
    for size in other_sizes:
        at_size = replace(setting, image_size=size)
        yield from rows(at_size, "train step", step, max(2, *setting.batch_sizes))
    yield from loading_rows(setting)
    yield epoch_row(replace(setting, image_size=FER2013_SIZE))


def rows(setting: Setting, what: str, make: Callable, batch: int) -> Iterator[Row]:
    """Ours against plain float32, and DAN against the ResNet-18 under our settings."""
    what = f"{what}, batch {batch}"
    plain = make(networks()[0], setting, batch, plain=True, bf16=False)
    for name, bf16 in types(setting):
        ours, bare = (make(net, setting, batch, plain=False, bf16=bf16) for net in networks())
        yield row_of(setting, what, ("plain float32", plain), (f"ours {name}", ours))
        yield row_of(setting, what, (f"DAN {name}", ours), (f"ResNet-18 {name}", bare))
        if make is step and compiles(setting, bf16=bf16):
            both = step(networks()[0], setting, batch, plain=False, bf16=bf16, compiled=True)
            yield row_of(setting, what, (f"ours {name}", ours), (f"compiled {name}", both))


# --------------------------------------------------------------------------------------------
# Loading, and a whole epoch


def loading_rows(setting: Setting) -> Iterator[Row]:
    """RAF-DB's augmentation: the released transforms on files against ours on files and memory."""
    count = 8 * min(setting.pairs, 12)
    with tempfile.TemporaryDirectory() as folder:
        faces = partial(synthetic_faces, Path(folder), count)
        ours = transforms.rafdb_train(setting.image_size)
        datasets = [faces(released_transform(setting.image_size)), faces(ours)]
        datasets.append(CachedImages(datasets[1], range(count)))

        def load(dataset: Any) -> None:
            images = SeededImages(dataset)
            for position in range(len(images)):
                images[(position, position)]

        released, files, memory = (partial(load, dataset) for dataset in datasets)
        what = f"loading {count} images"
        clock = replace(setting, device=torch.device("cpu"))
        yield row_of(clock, what, ("released, files", released), ("ours, files", files))
        yield row_of(clock, what, ("released, files", released), ("ours, memory", memory))


def epoch_row(setting: Setting) -> Row:
    """Loading, training and evaluation of as many faces as FER2013 has: a part, scaled up."""
    batch = max(2, *setting.batch_sizes)
    count = 4 * batch
    name, bf16 = types(setting)[-1]
    with tempfile.TemporaryDirectory() as folder:
        faces = synthetic_faces(Path(folder), count, transforms.fer2013_train(setting.image_size))
        images = SeededImages(CachedImages(faces, range(count)))
        draws = OrderedBatches(count, batch), OrderedBatches(count // 8, batch)
        training, evaluation = (
            make_loader(images, each, workers=0, device=setting.device) for each in draws
        )

        def epoch(network: nn.Module, take_step: Callable[[Batch], None]) -> None:
            network.train()
            for loaded in batches_on(training, setting.device):
                take_step(loaded)
            with torch.inference_mode():
                predict(network, evaluation, setting.device)

        sides = (
            partial(epoch, network, trainer(network, setting, plain=False, bf16=bf16))
            for network in networks()
        )
        names = (f"DAN {name}", f"ResNet-18 {name}")
        row = row_of(setting, "epoch of FER2013's size", *zip(names, sides, strict=True))
    scale = FER2013_FACES / count
    return replace(row, slow_ms=scale * row.slow_ms, fast_ms=scale * row.fast_ms)


def synthetic_faces(folder: Path, count: int, transform: Any) -> Any:
    """The training split of a data set of `count` synthetic faces, written to a folder once."""
    root = folder / "raf-basic"
    if not root.exists():
        write_rafdb(root, train=count, test=CLASSES, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few images are not the published ones
        return RAFDB(root, "train", transform)


def released_transform(size: int) -> Callable:
    """The release's augmentation for RAF-DB, as it writes it."""
    shifted = [v1.RandomRotation(20), v1.RandomCrop(size, padding=round(size * 32 / 224))]
    return v1.Compose(
        [
            v1.Resize((size, size)),
            v1.RandomHorizontalFlip(),
            v1.RandomApply(shifted, p=0.2),
            v1.ToTensor(),
            v1.Normalize(MEAN, STD),
            v1.RandomErasing(scale=(0.02, 0.25)),
        ]
    )


# --------------------------------------------------------------------------------------------
# Sizes


def sizes(setting: Setting) -> dict[str, dict[str, float]]:
    """Parameters and floating-point operations of a forward pass on one image."""
    dan, resnet = (network.eval() for network in networks())
    image = torch.randn(1, 3, setting.image_size, setting.image_size)
    found = {}
    for name, network in (("DAN", dan), ("DAN, fused", fuse(dan)), ("ResNet-18", resnet)):
        parameters, multiply_adds = cost_of_network(network, image)
        found[name] = {"parameters": parameters, "flops": 2 * multiply_adds}
    return found


def memory(setting: Setting) -> dict[str, float]:
    """Peak memory of a training step, megabytes, by side: activations and gradients.

    Weights, momentum and the batch are there before it, and not counted.
    """
    batch = max(setting.batch_sizes)
    found = {}
    for name, plain, bf16 in (("plain float32", True, False), ("ours", False, setting.bf16)):
        run = step(networks()[0], setting, max(2, batch), plain=plain, bf16=bf16)
        run()
        found[f"{name}, train step, batch {max(2, batch)}"] = peak(run, setting.device) / 1e6
    return found


def peak(run: Callable[[], Any], device: torch.device) -> float:
    """The most bytes of tensors that were alive at once in a call, beyond those before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    alive = most = 0
    events = [
        event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


# --------------------------------------------------------------------------------------------
# Text


def heading(setting: Setting) -> str:
    """What was measured on what."""
    name = (
        torch.cuda.get_device_name(setting.device)
        if setting.device.type == "cuda"
        else f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    if setting.device.type == "cuda" and torch.backends.cudnn.allow_tf32:  # torch's default
        name += ", float32 convolutions in TF32"
    return (
        f"{setting.device.type} ({name}), torch {torch.__version__}, {setting.image_size} px, "
        f"median of up to {setting.pairs} pairs"
    )


def line(row: Row) -> str:
    """A row as text."""
    return (
        f"{row.what:<32} {row.slow + ' / ' + row.fast:<42} {row.slow_ms:9.1f} / "
        f"{row.fast_ms:8.1f} ms = {row.ratio:5.2f}"
    )


def costs_lines(costs: dict[str, dict[str, float]]) -> list[str]:
    """Parameters and operations as text."""
    return [
        f"{name:<12} {cost['parameters']:>12,} parameters  {cost['flops'] / 2e9:6.3f} billion "
        "multiply-adds an image"
        for name, cost in costs.items()
    ]


def peaks_lines(peaks: dict[str, float]) -> list[str]:
    """Peak memory as text."""
    return [f"peak memory, {name}: {megabytes:,.0f} MB" for name, megabytes in peaks.items()]


if __name__ == "__main__":
    call_main(main)
