"""Find the faces in your own photos and videos, and say which expressions they show.

    python predict.py photo.jpg holiday/ --checkpoint runs/rafdb-seed0/best.pth
    python predict.py holiday/ clip.mp4 --output build/faces --json faces.json --csv faces.csv
    python predict.py --webcam --output build/camera
    python predict.py faces/ --detector none     # pictures that are aligned faces already

Faces are found by a detector (one command installs the quickest: pip install -r
requirements-predict.txt) and framed as the images that the network was trained on. What a label
means, and what it does not: docs/predicting.md and MODEL_CARD.md.

Exit status: 0 every picture had a face, 1 some had none or could not be read (they are listed),
2 nothing could be done.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.cli import Parser, call_main
from common.devices import find_device
from common.errors import InputError
from common.progress import progress_bar
from datasets.alignment import CHOICES
from datasets.detectors import DETECTORS, device_for_detectors, make_detector
from inference.faces import BATCH_SIZE, FacePredictor, PredictedFace
from inference.outputs import ANNOTATED, Outputs
from inference.sources import Source, find_sources, read_pictures
from inference.tracking import SeenFrame, Tracker, follow_faces
from inference.video import Frame, Video, camera_frames
from networks.pretrained import shipped_weights
from results.text import printable
from results.trained import read_trained


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict as the command line says; returns the exit status; raises InputError."""
    args = parse_arguments(arguments)
    leave_out = args.output and args.output / ANNOTATED
    sources = find_sources(args.paths, leave_out) if args.paths else []
    predictor = make_predictor(args)
    run = Run(predictor, args)
    try:
        if args.webcam is not None:
            run.watch(args.webcam)
        run.pictures([source for source in sources if not source.is_video])
        for source in sources:
            if source.is_video:
                run.video(source)
    finally:
        # Also after Ctrl-C: what was found until then is written, in whole files.
        run.close()
    return run.status(len(sources))


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("paths", type=Path, nargs="*", metavar="PATH", help="pictures, videos, folders of them")
    add("--webcam", type=int, nargs="?", const=0, metavar="N", help="watch camera N [0]")
    add("--checkpoint", type=Path, metavar="FILE", help="ours or released [this project's weights]")
    add("--json", type=Path, metavar="FILE", help="write every picture and its faces there")
    add("--csv", type=Path, metavar="FILE", help="write a row per face there")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="write index.html with every face there, annotated pictures and videos",
    )
    add(
        "--detector",
        choices=("auto", *DETECTORS, "none"),
        default="auto",
        help="auto takes the first that is installed; none: the pictures are aligned faces [auto]",
    )
    add("--weights", type=Path, metavar="FILE", help="the detector's [downloaded once]")
    add("--min-score", type=float, default=0.6, metavar="X", help="fainter faces are none [0.6]")
    add("--choose", choices=list(CHOICES), help="one face per picture, chosen so [all faces]")
    add("--every", type=int, default=1, metavar="N", help="analyse every N-th frame [1]")
    add(
        "--smooth",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="average each person's probabilities over time [0: every frame on its own]",
    )
    add("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="faces at a time [64]")
    add("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps [auto]")
    add(
        "--amp",
        choices=("auto", "bf16", "off"),
        default="auto",
        help="mixed precision: auto is bf16 where the hardware natively supports it [auto]",
    )
    args = parser.parse_args(arguments)
    if bool(args.paths) == (args.webcam is not None):
        raise InputError("give pictures, videos or folders, or --webcam; --help lists the flags")
    if args.detector == "none" and (args.weights or args.choose):
        raise InputError("--detector none takes neither --weights nor --choose; leave them out")
    for name in ("every", "batch_size"):
        if getattr(args, name) < 1:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is {getattr(args, name)}; expected at least 1")
    if not 0 <= args.smooth < float("inf"):
        raise InputError(f"--smooth is {args.smooth}; expected seconds, from 0 up")
    return args


def make_predictor(args: argparse.Namespace) -> FacePredictor:
    """The network with its detector; says which they are."""
    trained = read_trained(args.checkpoint or shipped_weights())
    device = find_device(args.device)
    detector = None
    if args.detector != "none":
        detector = make_detector(
            args.detector,
            weights=args.weights,
            device=device_for_detectors(device),
            min_score=args.min_score,
        )
    print(
        f"{trained.path}: {trained.method}, {', '.join(trained.class_names())}; "
        f"detector {detector.name if detector else 'none'}; {device}",
        file=sys.stderr,
    )
    return FacePredictor(
        trained,
        detector and detector.batch,
        device,
        choose=args.choose,
        amp=args.amp,
        batch_size=args.batch_size,
    )


class Run:
    """Pictures and videos -> outputs, and the count of what had no face."""

    def __init__(self, predictor: FacePredictor, args: argparse.Namespace):
        self.predictor, self.args = predictor, args
        self.outputs = Outputs(
            predictor.trained, predictor.device, json=args.json, csv=args.csv, folder=args.output
        )
        self.unreadable: list[str] = []
        self.without_face: list[str] = []
        self.read = 0  # pictures and videos
        self.started = time.perf_counter()

    def pictures(self, sources: Sequence[Source]) -> None:
        """Predict pictures; prints a line per face."""
        with tqdm(**bar(len(sources), "pictures")) as progress:
            for batch in read_pictures(sources, self.unreadable):
                found = self.predictor([picture.image for picture in batch])
                for (source, image), faces in zip(batch, found, strict=True):
                    self.outputs.add_picture(source, image, faces)
                    for face in faces:
                        say(face_line(str(source.path), face))
                    if not faces:
                        self.without_face.append(str(source.path))
                self.read += len(batch)
                progress.set_postfix_str(self.speed())
                progress.update(self.read + len(self.unreadable) - progress.n)

    def video(self, source: Source) -> None:
        """Predict a video; prints a line per person."""
        try:
            video = Video(source.path)
        except InputError as error:
            self.unreadable.append(str(error))
            return
        persons: dict[int, Counter[str]] = {}
        with tqdm(**bar(video.total, source.path.name, "frames")) as progress:

            def seen(one: SeenFrame) -> None:
                progress.update()
                progress.set_postfix_str(self.speed(), refresh=False)
                for number, face in one.faces if one.analysed else ():
                    persons.setdefault(number, Counter())[face.expression] += 1

            frames = self.follow(source, video, seen)
        for number, counts in persons.items():
            say(f"{source.path}  person {number}: {shares(counts)}")
        self.read += frames > 0
        if not frames or video.problem:
            why = video.problem or "there are no more"
            self.unreadable.append(f"video {source.path}: {frames:,} frames were read ({why})")
        elif not persons:
            self.without_face.append(str(source.path))

    def watch(self, number: int) -> None:
        """Predict what a camera sees until Ctrl-C; prints a line when an expression changes."""
        source = Source(Path(f"camera{number}"), Path(f"camera{number}.mp4"))
        before: dict[int, str] = {}

        def seen(one: SeenFrame) -> None:
            for person, face in one.faces:
                if before.get(person) != face.expression:
                    before[person] = face.expression
                    say(face_line(f"{one.frame.time:7.1f} s  person {person}", face))

        self.follow(source, camera_frames(number), seen, at_once=1)

    def follow(
        self,
        source: Source,
        frames: Iterable[Frame],
        seen: Callable[[SeenFrame], None],
        **options: Any,
    ) -> int:
        """Predict frames and follow the faces; returns how many frames there were."""
        count = 0
        tracker = Tracker(self.args.smooth)
        try:
            for one in follow_faces(
                self.predictor, frames, tracker, every=self.args.every, **options
            ):
                count += 1
                self.outputs.add_frame(source, one.frame, one.faces, analysed=one.analysed)
                seen(one)
        finally:
            self.outputs.close_video()
        return count

    def speed(self) -> str:
        """Faces per second so far."""
        return f"{self.predictor.faces / (time.perf_counter() - self.started):.1f} faces/s"

    def close(self) -> None:
        """Complete the files and say what was done."""
        lines = [f"no face found: {name}" for name in self.without_face] + self.unreadable
        self.outputs.close(lines)
        for line in lines:
            print(printable(line), file=sys.stderr)
        if not self.predictor.pictures:
            return
        whole = time.perf_counter() - self.started
        stages = dict(self.predictor.seconds)
        stages["reading and writing"] = max(0.0, whole - sum(stages.values()))
        parts = ", ".join(f"{name} {100 * spent / whole:.0f} %" for name, spent in stages.items())
        print(
            f"{self.predictor.faces:,} faces in {self.predictor.pictures:,} pictures and frames, "
            f"{self.speed()}; {parts} of the time",
            file=sys.stderr,
        )
        if self.args.output:
            print(f"wrote {self.args.output / 'index.html'}", file=sys.stderr)

    def status(self, sources: int) -> int:
        """The exit status; raises InputError where none of the sources could be read."""
        if sources and not self.read:
            raise InputError("none of the pictures and videos could be read; see above")
        return 1 if self.without_face or self.unreadable else 0


def bar(total: int | None, description: str, unit: str = "pictures") -> dict[str, Any]:
    """Arguments of tqdm."""
    return {**progress_bar(total, description), "unit": f" {unit}", "disable": None}


def say(line: str) -> None:
    """Print a line above the progress bar; file names may hold what no terminal can show."""
    tqdm.write(printable(line))
    sys.stdout.flush()


def face_line(where: str, face: PredictedFace) -> str:
    """A face as a row of the printed table."""
    left, top, right, bottom = (round(side) for side in face.face.box)
    return (
        f"{where}  {face.expression:<10} {100 * face.probability:5.1f} %  "
        f"box {left} {top} {right} {bottom}"
    )


def shares(counts: Counter[str]) -> str:
    """How much of the time each expression was seen, the most frequent first."""
    total = counts.total()
    return ", ".join(f"{name} {100 * n / total:.0f} %" for name, n in counts.most_common())


if __name__ == "__main__":
    call_main(main)
