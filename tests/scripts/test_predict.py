"""predict.py: what it prints and writes, and what it says of bad input."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import predict
from common.errors import InputError
from common.flags import settings
from datasets import RAFDB
from datasets.detectors import FaceDetector
from datasets.transforms import evaluation
from inference.faces import FacePredictor
from inference.gallery import MEANING
from inference.sources import find_sources, read_pictures
from inference.video import Frame, VideoWriter
from networks import DAN, Method, pretrained
from results.trained import read_trained
from tests.support.patches import find_patches, patch, save_checkpoint, scene
from tests.support.scripts import assert_refused, run_script, snapshot, write_rafdb

NAMES = list(RAFDB.classes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("weights") / "last.pth", arch=DAN)


@pytest.fixture
def perfect(monkeypatch):
    """In the place of every detector: one that finds the faces of `scene`."""
    detector = FaceDetector("perfect", find_patches, 0.5)
    monkeypatch.setattr(predict, "make_detector", lambda *_, **__: detector)


@pytest.fixture
def photos(tmp_path):
    """Two pictures of one name in two folders, and one with a name that is hard to write."""
    folder = tmp_path / "my photos"
    for name, faces in {
        "a/x.jpg": [(patch(1), (30, 40)), (patch(2), (250, 40))],
        "b/x.jpg": [(patch(3), (100, 50))],
        "b/Gesicht ü <&>.bmp": [(patch(4), (300, 100))],
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {"quality": 98} if name.endswith("jpg") else {}
        scene(faces).save(folder / name, **kind)
    return folder


def command(checkpoint, *arguments) -> list[str]:
    given = [*arguments, "--checkpoint", checkpoint, "--device", "cpu", "--amp", "off"]
    return [str(one) for one in given]


def test_photos_become_a_table_json_csv_pictures_and_a_page(
    photos, checkpoint, perfect, tmp_path, capsys
):
    out = tmp_path / "out"
    given = ["--output", out, "--json", tmp_path / "f.json", "--csv", tmp_path / "f.csv"]
    assert predict.main(command(checkpoint, photos, *given)) == 0
    content = json.loads((tmp_path / "f.json").read_text())
    files = [entry["file"] for entry in content]
    assert files == sorted(
        map(str, [photos / "a/x.jpg", photos / "b/x.jpg", photos / "b/Gesicht ü <&>.bmp"])
    )
    assert [len(entry["faces"]) for entry in content] == [2, 1, 1]
    first = content[0]["faces"][0]
    assert first["box"] == pytest.approx([30, 40, 130, 140], abs=3)
    assert list(first["probabilities"]) == NAMES
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert first["probability"] == max(first["probabilities"].values())
    assert first["probabilities"][first["expression"]] == first["probability"]
    with (tmp_path / "f.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["file"], row["expression"]) for row in rows] == [
        (entry["file"], face["expression"]) for entry in content for face in entry["faces"]
    ]
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 4
    assert f"{first['expression']:<10} {100 * first['probability']:5.1f} %  box " in printed.out
    assert re.search(r"4 faces in 3 pictures.* detection \d+ %, .* network \d+ %", printed.err)
    annotated = {"annotated/a/x.jpg", "annotated/b/x.jpg", "annotated/b/Gesicht ü <&>.bmp.png"}
    assert set(snapshot(out)) == {*annotated, "index.html"}
    check_page((out / "index.html").read_text(), faces=4, heads=2)


def check_page(page: str, *, faces: int, heads: int) -> None:
    assert page.count('<section class="face">') == faces
    assert page.count("data:image/jpeg") == faces * (1 + heads)
    assert "Gesicht ü &lt;&amp;&gt;.bmp" in page
    assert "<&>" not in page
    assert 'href="annotated/b/Gesicht%20%C3%BC%20%3C%26%3E.bmp.png"' in page
    assert MEANING in page
    assert "MODEL_CARD.md" in page
    assert not re.search(r'(src|href)="(http|//)', page)
    for name in NAMES:
        assert page.count(f'<th scope="row">{name}</th>') == faces


def test_pictures_without_faces_and_files_that_are_none_are_listed(
    photos, checkpoint, perfect, tmp_path, capsys
):
    scene([]).save(photos / "c.png")
    (photos / "d.jpg").write_bytes(b"")
    (photos / "e.jpg").write_bytes(b"no picture")
    scene([(patch(1, 3), (50, 50))]).save(photos / "f.png")  # a face of three pixels
    assert predict.main(command(checkpoint, photos, "--json", tmp_path / "f.json")) == 1
    errors = capsys.readouterr().err
    assert f"no face found: {photos / 'c.png'}" in errors
    assert f"no face found: {photos / 'f.png'}" in errors
    assert errors.count("cannot be decoded") == 2
    assert len(json.loads((tmp_path / "f.json").read_text())) == 5


def test_nothing_that_can_be_read_is_an_error(checkpoint, perfect, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of the pictures and videos could be read"):
        predict.main(command(checkpoint, tmp_path / "x.jpg", "--json", tmp_path / "f.json"))
    assert json.loads((tmp_path / "f.json").read_text()) == []


def test_the_results_of_a_run_are_not_read_by_the_next(photos, checkpoint, perfect, tmp_path):
    """An output folder inside the input folder."""
    for _ in range(2):
        given = ["--output", photos / "out", "--json", tmp_path / "f.json"]
        assert predict.main(command(checkpoint, photos, *given)) == 0
    assert len(json.loads((tmp_path / "f.json").read_text())) == 3


def test_an_annotated_copy_does_not_replace_its_picture(checkpoint, perfect, tmp_path):
    (tmp_path / "annotated").mkdir()
    path = tmp_path / "annotated/x.png"
    scene([(patch(1), (30, 40))]).save(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="would be overwritten by its own annotated copy"):
        predict.main(command(checkpoint, path, "--output", tmp_path))
    assert path.read_bytes() == before


def test_hidden_files_and_folders_are_left_out(tmp_path):
    for name in (".thumbnails/x.png", "a/.x.png", "a/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        patch(1).save(tmp_path / name)
    assert [source.path for source in find_sources([tmp_path])] == [tmp_path / "a/x.png"]


def test_a_large_aligned_face_is_small_on_the_page(checkpoint, tmp_path):
    patch(1, 1500).save(tmp_path / "x.png")
    given = ["--detector", "none", "--output", tmp_path / "out"]
    assert predict.main(command(checkpoint, tmp_path / "x.png", *given)) == 0
    assert (tmp_path / "out/index.html").stat().st_size < 100_000


def test_one_face_per_picture(photos, checkpoint, perfect, tmp_path):
    given = ["--choose", "size", "--json", tmp_path / "f.json"]
    assert predict.main(command(checkpoint, photos / "a", *given)) == 0
    (entry,) = json.loads((tmp_path / "f.json").read_text())
    assert len(entry["faces"]) == 1


# ---- Videos


@pytest.fixture
def clip(tmp_path):
    """One second: a face that moves, another that appears after half a second."""
    pytest.importorskip("av", reason="av (requirements-predict.txt) is not installed")
    path = tmp_path / "Clip 1.mov"
    writer = VideoWriter(path)
    for i in range(20):
        faces = [(patch(5), (20 + 2 * i, 50))] + ([(patch(6), (280, 60))] if i >= 10 else [])
        writer.write(Frame(i / 20, scene(faces)))
    writer.close()
    return path


def test_a_video_has_one_number_per_person_and_a_row_per_face_and_frame(
    clip, checkpoint, perfect, tmp_path, capsys
):
    out = tmp_path / "out"
    given = ["--output", out, "--json", tmp_path / "f.json", "--smooth", "0.2"]
    assert predict.main(command(checkpoint, clip, *given)) == 0
    content = json.loads((tmp_path / "f.json").read_text())
    assert [entry["time"] for entry in content] == pytest.approx(np.arange(20) / 20, abs=1e-3)
    people = [[face["person"] for face in entry["faces"]] for entry in content]
    assert people == [[1]] * 10 + [[1, 2]] * 10
    names = {"Clip 1.mov.mp4", "Clip 1.mov.faces.csv", "Clip 1.mov.timeline.png"}
    assert set(snapshot(out)) == {"index.html", *(f"annotated/{name}" for name in names)}
    rows = list(csv.DictReader((out / "annotated/Clip 1.mov.faces.csv").open(newline="")))
    assert [int(row["person"]) for row in rows] == [person for entry in people for person in entry]
    page = (out / "index.html").read_text()
    assert page.count('<section class="face">') == 2
    assert "person 2, first seen at 0.5 s" in page
    assert page.count("data:image/png") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[2].partition(":")[0] for line in lines] == ["person 1", "person 2"]


@pytest.mark.usefixtures("perfect")
def test_of_a_video_that_ends_early_what_was_read_is_written(clip, checkpoint, tmp_path, capsys):
    import av  # noqa: PLC0415 - an extra

    with av.open(str(clip)) as source, av.open(str(tmp_path / "cut.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    out = tmp_path / "out"
    given = ["--output", out, "--json", tmp_path / "f.json"]
    assert predict.main(command(checkpoint, tmp_path / "cut.mkv", *given)) == 1
    frames = len(json.loads((tmp_path / "f.json").read_text()))
    assert 0 < frames < 20
    said = capsys.readouterr().err
    assert re.search(rf"cut.mkv: {frames} frames were read \(the file ends at 0.\d of 1.0", said)
    assert (out / "annotated/cut.mkv.mp4").is_file()
    # Cut off before the first frame: nothing is written but the page, which says so.
    (tmp_path / "cut.mkv").write_bytes(content[:700])
    with pytest.raises(InputError, match="none of the pictures and videos"):
        predict.main(command(checkpoint, tmp_path / "cut.mkv", "--output", tmp_path / "none"))
    assert set(snapshot(tmp_path / "none")) == {"index.html"}


@pytest.mark.usefixtures("perfect")
def test_a_damaged_video_is_listed_beside_the_pictures(clip, photos, checkpoint, tmp_path, capsys):
    (photos / "bad.mp4").write_bytes(b"nothing")
    clip.rename(photos / "good.mov")
    given = ["--json", tmp_path / "f.json", "--every", "10"]
    assert predict.main(command(checkpoint, photos, *given)) == 1
    content = json.loads((tmp_path / "f.json").read_text())
    assert [entry.get("time") for entry in content] == [None] * 3 + [0.0, 0.5]
    assert "bad.mp4 cannot be read" in capsys.readouterr().err


# ---- As a user runs it


@pytest.mark.slow
def test_aligned_faces_get_eval_pys_numbers(checkpoint, tmp_path):
    data = write_rafdb(tmp_path / "data")
    report = tmp_path / "eval.json"
    run_script("eval.py", checkpoint, "--data", data, "--json", report, cwd=tmp_path)
    test = tmp_path / "test"
    test.mkdir()
    for path in (data / "Image/aligned").glob("test_*"):
        path.rename(test / path.name)
    given = command(checkpoint, test, "--detector", "none", "--json", tmp_path / "f.json")
    result = run_script("predict.py", *given, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = [
        entry["faces"][0]["expression"] for entry in json.loads((tmp_path / "f.json").read_text())
    ]
    counts = np.zeros((7, 7), int)
    for number, name in enumerate(found):
        counts[number % 7, NAMES.index(name)] += 1
    assert counts.tolist() == json.loads(report.read_text())["confusion_counts"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["give pictures, videos or folders, or --webcam"]),
        (["nowhere.jpg"], ["nowhere.jpg does not exist"]),
        (["."], ["no pictures or videos there"]),
        (["x.png", "--min-score", "2"], ["lowest score of a face is 2.0; expected 0 to 1"]),
        (["x.png", "--every", "0"], ["--every is 0; expected at least 1"]),
        (["x.png", "--smooth", "nan"], ["--smooth is nan; expected seconds"]),
        (["x.png", "--detector", "none", "--choose", "size"], ["--detector none takes neither"]),
        (["x.png", "--webcam"], ["or --webcam"]),
        (
            ["x.png", "--detector", "none", "--json", "no/f.json"],
            ["no/f.json: expected a file in a folder that exists"],
        ),
        (["x.png", "--detector", "yunet", "--weights", "x.png"], ["detector"]),
    ],
)
def test_bad_flags_are_one_line(arguments, words, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "x.png" in arguments:
        patch(1).save("x.png")
    with pytest.raises(InputError) as error:
        predict.main(command(checkpoint, *arguments))
    for word in words:
        assert word in str(error.value)


def test_without_weights_the_message_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    patch(1).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"dan_ferplus are not in .*\(--checkpoint FILE\)"):
        predict.main([str(tmp_path / "x.png")])
    save_checkpoint(tmp_path / "dan_ferplus.pth")
    assert predict.main([str(tmp_path / "x.png"), "--detector", "none", "--device", "cpu"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["dacl", "eac", "feratt", "phanet", "ran", "scn"])
def test_a_rival_predicts_what_its_network_does(arch, tmp_path, capsys):
    method = Method(arch=arch, pretrained="none")
    network = method.network(len(NAMES), 64).eval()
    checkpoint = save_checkpoint(
        tmp_path / "last.pth",
        model_state_dict=network.state_dict(),
        settings={**settings(method), "image_size": 64},
    )
    patch(3, 64).save(tmp_path / "face.png")
    given = [tmp_path / "face.png", "--detector", "none", "--json", tmp_path / "f.json"]
    assert predict.main(command(checkpoint, *given)) == 0
    (face,) = json.loads((tmp_path / "f.json").read_text())[0]["faces"]
    with torch.no_grad():
        expected = network(evaluation(64)(patch(3, 64))[None]).logits.softmax(dim=1)[0]
    assert list(face["probabilities"].values()) == pytest.approx(expected.tolist(), abs=2e-4)
    assert ("only the abstract of PhaNet" in capsys.readouterr().err) == (arch == "phanet")


@pytest.mark.slow
def test_another_project_s_checkpoint_is_one_line(tmp_path):
    patch(1).save(tmp_path / "x.png")
    torch.save({"model_state_dict": {"w": torch.ones(1)}}, tmp_path / "w.pth")
    result = run_script("predict.py", "x.png", "--checkpoint", "w.pth", cwd=tmp_path)
    assert_refused(result, "w.pth")


def test_after_an_interruption_the_files_are_whole(
    photos, checkpoint, perfect, tmp_path, monkeypatch
):
    calls = []
    original = FacePredictor.__call__

    def interrupted(self, pictures):
        calls.append(len(pictures))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, pictures)

    monkeypatch.setattr(FacePredictor, "__call__", interrupted)
    monkeypatch.setattr("inference.sources.PICTURES_AT_ONCE", 1)
    given = ["--output", tmp_path / "out", "--json", tmp_path / "f.json"]
    with pytest.raises(KeyboardInterrupt):
        predict.main(command(checkpoint, photos, *given))
    assert len(json.loads((tmp_path / "f.json").read_text())) == 2
    page = (tmp_path / "out/index.html").read_text()
    assert page.rstrip().endswith("</html>")


def test_classes_without_names_are_numbered(tmp_path, perfect):
    weights = save_checkpoint(tmp_path / "w.pth", dataset="unknown", class_names=[])
    scene([(patch(1), (30, 40))]).save(tmp_path / "x.png")
    predict.main(command(weights, tmp_path / "x.png", "--json", tmp_path / "f.json"))
    (entry,) = json.loads((tmp_path / "f.json").read_text())
    assert entry["faces"][0]["expression"].startswith("class ")
    assert read_trained(weights).class_names()[0] == "class 0"


def test_pictures_are_decoded_a_few_at_a_time(tmp_path, monkeypatch):
    for i in range(5):
        Image.new("RGB", (20, 10)).save(tmp_path / f"{i}.png")
    monkeypatch.setattr("inference.sources.PIXELS_AT_ONCE", 450)
    batches = list(read_pictures(find_sources([tmp_path]), []))
    assert [len(batch) for batch in batches] == [2, 2, 1]
