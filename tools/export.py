"""Write a trained network for other programs: ONNX, or torch's own exported program.

    python -m tools.export runs/rafdb-seed0/best.pth rafdb.onnx
    python -m tools.export runs/rafdb-seed0/best.pth rafdb.pt2

Images (batch, 3, size, size), float32, RGB from 0 to 1, normalised with the mean and standard
deviation in the metadata; out come logits (batch, classes). The batch may have any size. Class
names are in the metadata too. What was written is read back and compared with the network before
the command ends. ONNX needs `pip install -r requirements-export.txt`.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from common.cli import Parser, call_main
from common.errors import InputError
from common.files import write_whole
from datasets.transforms import MEAN, STD
from networks import fuse
from networks.attention import LogitsOnly
from networks.fused import FUSABLE
from results.trained import Trained, read_trained

TOLERANCE = 1e-4  # of the largest logit
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def main(arguments: Sequence[str] | None = None) -> None:
    """Export as the command line says; raises InputError."""
    args = parse_arguments(arguments)
    trained = read_trained(args.checkpoint)
    size = args.image_size or trained.image_size
    about = describe(trained, size)
    network = trained.network
    module = LogitsOnly(fuse(network) if type(network) in FUSABLE else network).eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, size, size, generator=generator)
    program = torch.export.export(
        module, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    if args.target.suffix == ".onnx":
        write_onnx(program, args.target, about)
        worst = compare(module, images, lambda batch: run_onnx(args.target, batch))
    else:
        write_program(program, args.target, about)
        loaded = torch.export.load(str(args.target)).module()
        worst = compare(module, images, loaded)
    print(
        f"wrote {args.target}: {about['classes']} at {size} px; read back, its logits differ by "
        f"{worst:.1e} of the largest at most (batches of 1 and 3)"
    )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="last.pth, best.pth or a released file")
    add("target", type=Path, metavar="FILE", help="NAME.onnx, or NAME.pt2 for torch.export.load")
    add("--image-size", type=int, metavar="N", help="network input, pixels [as trained]")
    args = parser.parse_args(arguments)
    if args.target.suffix not in (".onnx", ".pt2"):
        raise InputError(f"{args.target}: expected a name that ends in .onnx or .pt2")
    if args.image_size is not None and not 32 <= args.image_size <= 4096:
        raise InputError(f"--image-size is {args.image_size}; expected 32 to 4096")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if args.target.suffix == ".onnx" and missing:
        raise InputError(
            f"ONNX needs {', '.join(missing)}: pip install -r requirements-export.txt, or write "
            "a .pt2"
        )
    return args


def describe(trained: Trained, size: int) -> dict[str, str]:
    """The metadata: class names in the order of the logits, and what the input should be."""
    return {
        "classes": json.dumps(trained.class_names()),
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
        "image_size": str(size),
        "color": "RGB, 0 to 1 before normalisation",
    }


def write_onnx(program, target: Path, about: dict[str, str]) -> None:
    """An exported program as ONNX with metadata."""
    import onnx  # noqa: PLC0415 - an extra

    made = torch.onnx.export(
        program, input_names=["images"], output_names=["logits"], verbose=False
    ).model_proto
    onnx.helper.set_model_props(made, about)
    onnx.checker.check_model(made)
    write_whole(target, lambda stream: stream.write(made.SerializeToString()))


def write_program(program, target: Path, about: dict[str, str]) -> None:
    """An exported program for `torch.export.load`, the metadata in the extra file about.json."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"about.json": json.dumps(about)})
    write_whole(target, lambda stream: stream.write(buffer.getvalue()))


def run_onnx(path: Path, images: Tensor) -> Tensor:
    """What onnxruntime makes of images."""
    import onnxruntime  # noqa: PLC0415 - an extra

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": images.numpy()})
    return torch.from_numpy(logits)


def compare(module: nn.Module, images: Tensor, other) -> float:
    """The largest difference of logits for batches of 1 and 3, relative to the largest logit.

    Raises InputError where it is more than rounding.
    """
    worst = 0.0
    for batch in (images[:1], images):
        with torch.no_grad():
            expected, found = module(batch), other(batch)
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    if not worst < TOLERANCE:
        raise InputError(
            f"what was written gives other logits (by {worst:.1e} of the largest); do not use it"
        )
    return worst


if __name__ == "__main__":
    call_main(main)
