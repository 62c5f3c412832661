"""eval.py --subset, another --dataset, --corruptions: against predictions made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from datasets import FER2013, RAFDB, transforms
from datasets.corruptions import corrupt
from engine.folds import fold_images
from networks import ResNet18
from tests.scripts.test_eval import OURS, evaluate, logits_of, refusal, save, varied
from tests.support.scripts import (
    CLASSES,
    SIZE,
    assert_refused,
    draw_patch,
    run_script,
    train_tiny,
    write_fer2013_csv,
)
from train_rafdb import RECIPE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def baseline(data) -> nn.Module:
    torch.manual_seed(0)
    return varied(ResNet18(CLASSES), data)


@pytest.fixture(scope="module")
def ours(baseline, tmp_path_factory) -> Path:
    """A checkpoint of ours for RAF-DB."""
    return save(tmp_path_factory.mktemp("weights") / "x.pth", baseline, **OURS)


# --------------------------------------------------------------------------------------------
# Subsets


def test_each_list_has_its_row_beside_the_whole_split(baseline, ours, data, tmp_path, capsys):
    occluded, turned = tmp_path / "occluded.txt", tmp_path / "turned.txt"
    occluded.write_text("".join(f"test_{i + 1:04}_aligned {i % 7} 1\n" for i in (1, 4, 4, 12)))
    turned.write_text("3 7\n6/test_0007_aligned.jpg\n5/test_0001_aligned.jpg\n1/other.jpg\n")
    flags = ("--subset", occluded, turned, "--report", tmp_path / "report")
    content = evaluate(ours, data, *flags)
    shown = capsys.readouterr().out
    logits, labels = logits_of(baseline, data)
    right = (logits.argmax(dim=1) == labels).double()
    for row, path, images in zip(
        content["subsets"], (occluded, turned), ([1, 4, 12], [0, 6]), strict=True
    ):
        assert row["list"] == str(path)
        assert row["images"] == len(images)
        assert row["accuracy"] == pytest.approx(right[images].mean().item())
        cells = next(line for line in shown.splitlines() if line.startswith(f"{path} ")).split()
        low, high = (f"{100 * end:.2f}" for end in row["accuracy_interval_95"])
        mean = f"{100 * row['mean_class_accuracy']:.2f}"
        assert cells[1:] == [
            f"{len(images)}",
            f"{100 * row['accuracy']:.2f}",
            low,
            "to",
            high,
            mean,
        ]
    assert content["images"] == 14
    assert content["accuracy"] == pytest.approx(right.mean().item())
    assert f"{occluded}: 1 of 4 lines name an image again" in shown
    assert f"{turned}: 1 of 3 lines name no image of this split; the first: line 4" in shown
    assert f"{turned}: 1 of 3 lines have another label" in shown
    page = (tmp_path / "report/index.html").read_text()
    assert "<h2>Subsets</h2>" in page
    assert "whole split" in page
    assert "1 name no image of this split" in page


def test_lists_of_other_data_sets_are_refused_in_one_line(ours, data, tmp_path):
    path = tmp_path / "ferplus.txt"
    path.write_text("3/fer0034656.png\n")
    result = run_script("eval.py", ours, "--data", data, "--subset", path, cwd=tmp_path)
    assert_refused(result, "none of the 1 lines", "fer0034656", "rafdb test", "test_0001")
    path.write_text("\n")
    assert "names no image" in refusal(ours, "--data", data, "--subset", path)


# --------------------------------------------------------------------------------------------
# Other data


def test_another_data_set_is_evaluated_on_the_classes_that_it_shares(
    baseline, ours, tmp_path, capsys
):
    root = write_fer2013_csv(tmp_path / "fer2013")
    content = evaluate(ours, root, "--dataset", "fer2013", "--report", tmp_path / "report")
    shown = capsys.readouterr().out
    dataset = FER2013(root, "test", transforms.evaluation(SIZE))
    with torch.no_grad():
        logits = baseline(torch.stack([sample.image for sample in dataset])).logits
    names = {"Angry": "Anger", "Happy": "Happiness", "Sad": "Sadness"}
    taken = [RAFDB.classes[i] for i in logits.argmax(dim=1).tolist()]
    true = [names.get(FER2013.classes[i], FER2013.classes[i]) for i in dataset.labels]
    right = sum(a == b for a, b in zip(taken, true, strict=True))
    assert 0 < right < 14
    assert content["accuracy"] == pytest.approx(right / 14)
    assert content["classes"] == list(FER2013.classes)
    assert ["Happiness", "Happy"] in content["class_map"]["shared"]
    assert content["paper"] == []
    for text in (shown, (tmp_path / "report/index.html").read_text()):
        assert "trained on rafdb; 7 shared classes, by meaning: Anger = Angry, Disgust," in text
        assert "fer2013 frames faces in another way than the training data" in text


def test_contempt_is_left_out_or_wrong_as_the_flag_says(ours, tmp_path, capsys):
    root = tmp_path / "affectnet"
    for label in range(8):
        (root / f"val/{label}").mkdir(parents=True)
        Image.fromarray(draw_patch(0, np.random.default_rng(label))).save(
            root / f"val/{label}/a.png"
        )
    found = {}
    for unshared in ("both", "images", "argmax"):
        flags = ("--dataset", "affectnet8", "--unshared", unshared, "--report", tmp_path / "report")
        found[unshared] = evaluate(ours, root, *flags)
        assert f"--unshared {unshared}: " in capsys.readouterr().out
    assert [found[name]["images"] for name in found] == [7, 7, 8]
    assert [len(found[name]["classes"]) for name in found] == [7, 7, 8]
    assert found["both"]["class_map"]["images_left_out"] == {"Contempt": 1}
    assert found["argmax"]["per_class_recall"][7] == 0
    assert found["argmax"]["accuracy"] == pytest.approx(found["both"]["accuracy"] * 7 / 8)


# --------------------------------------------------------------------------------------------
# Corruptions


def test_corrupted_images_are_evaluated_against_a_reference(baseline, ours, data, tmp_path, capsys):
    other = ResNet18(CLASSES)
    reference = save(tmp_path / "reference.pth", varied(other, data), **OURS)
    flags = ("--corruptions", "jpeg", "geometry", "--reference", reference)
    content = evaluate(ours, data, *flags, "--report", tmp_path / "report")["corruptions"]
    shown = capsys.readouterr().out
    assert "4 in 5 severities, 20 passes over 14 images, 280 images, and again with" in shown
    assert shown.index("20 passes") < shown.index("accuracy on corrupted images")
    dataset = RAFDB(data, "test", transforms.evaluation(SIZE))
    labels = torch.tensor(dataset.labels)

    def accuracies(network: nn.Module, name: str) -> list[float]:
        shares = []
        for severity in (1, 2, 3, 4, 5):
            pictures = [corrupt(dataset.read_image(i), name, severity, seed=i) for i in range(14)]
            with torch.no_grad():
                logits = network(torch.stack([dataset.transform(p) for p in pictures])).logits
            shares.append((logits.argmax(dim=1) == labels).double().mean().item())
        return shares

    assert list(content["by_corruption"]) == ["jpeg", "rotation", "shift", "scale"]
    ratios = []
    for name, row in content["by_corruption"].items():
        assert row["accuracy"] == pytest.approx(accuracies(baseline, name))
        errors, others = (5 - sum(accuracies(n, name)) for n in (baseline, other))
        ratios.append(errors / others)
        assert content["reference"]["corruption_error"][name] == pytest.approx(errors / others)
    mean = content["reference"]["mean_corruption_error"]
    assert mean == pytest.approx(sum(ratios) / 4)
    page = (tmp_path / "report/index.html").read_text()
    for text in (shown, page):
        assert f"mean corruption error {100 * mean:.1f} %" in text
    assert "<figcaption>Geometry</figcaption>" in page
    assert page.count('alt="shift, severity') == 5


def test_a_network_is_as_robust_as_itself_and_workers_change_nothing(ours, data):
    flags = ("--corruptions", "noise", "rain", "--reference", ours)
    content = evaluate(ours, data, *flags)["corruptions"]
    assert set(content["reference"]["corruption_error"].values()) == {1}
    assert content["reference"]["mean_corruption_error"] == 1
    again = evaluate(ours, data, *flags, "--workers", 2, "--batch-size", 9)["corruptions"]
    assert again == content


def test_corruptions_of_what_cannot_be_are_refused(ours, baseline, data, tmp_path):
    given = (ours, "--data", data)
    assert "no corruption 'frost'" in refusal(*given, "--corruptions", "frost")
    assert "--reference is for --corruptions" in refusal(*given, "--reference", ours)
    names = ["Contempt", *RAFDB.classes[1:]]
    path = save(tmp_path / "other.pth", baseline, **{**OURS, "class_names": names})
    message = refusal(*given, "--corruptions", "--reference", path)
    assert "is evaluated on Fear, Disgust, " in message
    assert "expected a reference with the same classes" in message


def test_a_fold_is_corrupted_as_it_is_evaluated(data, tmp_path):
    flags = ("--arch", "resnet18", "--fold", "2/3")
    train_tiny(data, tmp_path / "run", *flags, recipe=RECIPE)
    checkpoint = tmp_path / "run/last.pth"
    content = evaluate(checkpoint, data, "--corruptions", "fog", "--reference", checkpoint)
    assert content["images"] == content["corruptions"]["images"] == 7
    assert set(content["corruptions"]["reference"]["corruption_error"].values()) <= {1, None}
    _, held_out = fold_images(RAFDB(data, "train"), "2/3")
    other = next(i for i in range(21) if i not in held_out)
    names = "".join(f"train_{i + 1:05}\n" for i in (*held_out[:3], other))
    (tmp_path / "list.txt").write_text(names)
    content = evaluate(checkpoint, data, "--subset", tmp_path / "list.txt")
    assert content["subsets"][0]["images"] == 3
