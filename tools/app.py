"""A page in the browser: drop a photo or use the camera, see the faces with their expressions.

    python -m tools.app --checkpoint runs/rafdb-seed0/best.pth

Then open the address that is printed. Only this machine can reach the page unless --host says
otherwise, and nobody has to log in: behind --host 0.0.0.0 everybody in the network can use it.
Photos are deleted after ten minutes and when the program ends. Needs
`pip install -r requirements-app.txt` and a face detector (docs/predicting.md).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from common.cli import Parser, call_main
from common.devices import find_device
from common.errors import InputError
from datasets.detectors import DETECTORS, device_for_detectors, make_detector
from datasets.reading import open_rgb
from inference import FacePredictor, annotated
from inference.gallery import FOLDER, MEANING, MODEL_CARD, Sections
from networks.pretrained import shipped_weights
from results import page
from results.trained import read_trained

TITLE = "Facial expressions"
MAX_FILE_SIZE = "20mb"  # of an upload; `open_rgb` limits the pixels
KEPT, CLEANING = 600, 60  # seconds: until a photo is deleted, and between two looks
#: The colours of page.css, from gradio's light or dark theme.
COLORS = (
    "--rule: var(--border-color-primary); --panel: var(--background-fill-secondary);"
    "--accent: var(--color-accent); --quiet: var(--body-text-color);"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C; raises InputError."""
    args = parse_arguments(arguments)
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs the package gradio; pip install -r requirements-app.txt")
    analyse = make_analysis(args)
    with tempfile.TemporaryDirectory() as folder:
        # Read when gradio is imported: its telemetry off, uploads where we delete them.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = folder
        serve(build(analyse), args.host, args.port)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, metavar="FILE", help="ours or released [this project's weights]")
    add("--detector", choices=("auto", *DETECTORS), default="auto", help="[auto]")
    add("--weights", type=Path, metavar="FILE", help="the detector's [downloaded once]")
    add("--min-score", type=float, default=0.6, metavar="X", help="fainter faces are none [0.6]")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps [auto]")
    add("--host", default="127.0.0.1", help="address to listen on [127.0.0.1: this machine only]")
    add("--port", type=int, default=7860, metavar="N", help="[7860]")
    return parser.parse_args(arguments)


def make_analysis(args: argparse.Namespace) -> Callable[[Path], tuple[Image.Image, str]]:
    """The function of the page: a file -> the annotated picture and a section of HTML per face.

    It raises InputError where the file is no picture.
    """
    trained = read_trained(args.checkpoint or shipped_weights())
    device = find_device(args.device)
    detector = make_detector(
        args.detector,
        weights=args.weights,
        device=device_for_detectors(device),
        min_score=args.min_score,
    )
    predictor, sections = FacePredictor(trained, detector.batch, device), Sections(trained, device)

    def analyse(path: Path) -> tuple[Image.Image, str]:
        picture = open_rgb(path)
        (faces,) = predictor([picture])
        html = "".join(sections.of(path.name, None, faces))
        return annotated(picture, faces), html or "<p>No face was found.</p>"

    return analyse


def build(analyse: Callable[[Path], tuple[Image.Image, str]]) -> Any:
    """The page, a `gradio.Blocks`."""
    import gradio  # noqa: PLC0415 - an extra

    def show(path: str | None) -> tuple[Image.Image | None, str]:
        if path is None:  # the photo was taken away
            return None, ""
        try:
            return analyse(Path(path))
        except InputError as error:
            # The message names the file where it lies on this machine.
            message = str(error).replace(str(Path(path).parent) + os.sep, "")
            return None, f"<p role='alert'>{escape(message)}</p>"

    styles = [file.read_text() for file in (page.FOLDER / "page.css", FOLDER / "gallery.css")]
    card = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", MODEL_CARD.read_text())  # links to other files
    with gradio.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(CLEANING, KEPT)
    ) as blocks:
        gradio.Markdown(f"# {TITLE}\n{MEANING} [MODEL_CARD.md](#model-card) says more.")
        with gradio.Row():
            photo = gradio.Image(label="Photo", sources=["upload", "webcam", "clipboard"])
            # Gradio would decode a file of any size and format before we see it.
            photo.preprocess = lambda payload: payload and payload.path
            faces = gradio.Image(label="Faces", interactive=False, format="jpeg", buttons=[])
        sections = gradio.HTML(apply_default_css=False, css_template="\n".join([COLORS, *styles]))
        photo.input(show, photo, [faces, sections], api_name="predict")
        with gradio.Accordion("MODEL_CARD.md", open=False, elem_id="model-card"):
            gradio.Markdown(card)
    return blocks


def serve(blocks: Any, host: str, port: int) -> None:
    """Serve the page until Ctrl-C; raises InputError where the address is taken."""
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            max_file_size=MAX_FILE_SIZE,
            share=False,
            run_history=False,  # gradio would keep the photos in the browser
            show_error=True,
            ssr_mode=False,
            footer_links=[],
            prevent_thread_lock=True,
            quiet=True,
        )
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error}); give another --port"
        ) from error
    print(f"open {blocks.local_url} in a browser; Ctrl-C ends it", flush=True)
    blocks.block_thread()


if __name__ == "__main__":
    call_main(main)
