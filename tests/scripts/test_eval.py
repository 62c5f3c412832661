"""eval.py: its numbers against a loop over the files, the paper's beside them, what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.optim import SGD

import eval as eval_script
from common.errors import InputError
from datasets import FER2013, RAFDB, transforms
from engine.folds import fold_checksum, fold_images
from networks import DAN, AffinityLoss, ResNet18
from results.calibration import Calibration
from results.views import MeanOverViews
from tests.support.networks import varied
from tests.support.scripts import (
    CLASSES,
    LABEL_FILE,
    SIZE,
    damage,
    face,
    load,
    train_tiny,
    write_fer2013_csv,
    write_labelled,
)
from train_rafdb import RECIPE

pytestmark = pytest.mark.slow

FEAR = 1
RELEASED_NAME = "rafdb_epoch21_acc0.897_bacc0.8275.pth"
OURS = {"dataset": "rafdb", "class_names": list(RAFDB.classes), "settings": {"image_size": SIZE}}
SKIP = ("--on-bad-image", "skip")


def evaluate(checkpoint: Path, root: Path, *flags: object) -> dict:
    """Run eval.py in this process; returns what it writes as json, which is JSON to the letter."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    target = checkpoint.with_suffix(".json")
    always = ["--workers", 0, "--device", "cpu", "--json", target, "--data", root]
    eval_script.main([str(word) for word in (checkpoint, *always, *flags)])
    return json.loads(target.read_text(), parse_constant=refuse)


def refusal(*arguments: object) -> str:
    """The one line with which eval.py refuses."""
    with pytest.raises(InputError) as error:
        eval_script.main([str(word) for word in arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


def save(path: Path, network: nn.Module, **extra: object) -> Path:
    """A checkpoint with the released keys that matter, and `extra`."""
    torch.save({"iter": 21, "model_state_dict": network.state_dict(), **extra}, path)
    return path


@pytest.fixture(scope="module")
def baseline(data) -> nn.Module:
    torch.manual_seed(0)
    return varied(ResNet18(CLASSES), data)


@pytest.fixture(scope="module")
def dan(data) -> nn.Module:
    torch.manual_seed(1)
    return varied(DAN(CLASSES, 4), data)


@pytest.fixture(scope="module")
def ours(baseline, tmp_path_factory) -> Path:
    """A checkpoint of ours for RAF-DB."""
    return save(tmp_path_factory.mktemp("weights") / "x.pth", baseline, **OURS)


def counts_by_hand(network: nn.Module, root: Path, split: str = "test") -> list[list[int]]:
    """The confusion counts with neither the project's data set nor its loaders."""
    counts = [[0] * CLASSES for _ in range(CLASSES)]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for line in (root / LABEL_FILE).read_text().splitlines():
        name, label = line.split()
        if not name.startswith(split):
            continue
        with Image.open(root / "Image/aligned" / name.replace(".jpg", "_aligned.jpg")) as file:
            image = file.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        pixels = (np.asarray(image) / 255 - mean) / std
        batch = torch.from_numpy(pixels.transpose(2, 0, 1)).float().unsqueeze(0)
        with torch.no_grad():
            counts[int(label) - 1][int(network(batch).logits.argmax())] += 1
    return counts


# --------------------------------------------------------------------------------------------
# Numbers


def logits_of(network: nn.Module, root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = RAFDB(root, "test", transforms.evaluation(SIZE))
    with torch.no_grad():
        logits = network(torch.stack([sample.image for sample in dataset])).logits
    return logits, torch.tensor(dataset.labels)


def test_test_time_augmentation_stands_beside_the_plain_numbers(baseline, ours, data, capsys):
    plain = evaluate(ours, data)
    content = evaluate(ours, data, "--tta")
    tta = content.pop("tta")
    assert plain.pop("tta") is None
    assert content == plain
    logits, labels = logits_of(MeanOverViews(baseline), data)
    assert tta["views"] == 12
    assert tta["accuracy"] == (logits.argmax(dim=1) == labels).double().mean().item()
    accuracy = f"(12 views): accuracy {100 * tta['accuracy']:.2f} %"
    assert accuracy in capsys.readouterr().out


def test_probabilities_are_judged_before_and_after_calibration(baseline, ours, data, capsys):
    logits, labels = logits_of(baseline, data)
    expected = Calibration.of(logits, labels)
    found = evaluate(ours, data)["calibration"]
    assert list(found) == ["before"]
    assert found["before"]["nll"] == pytest.approx(expected.nll, rel=1e-4)
    calibrated = save(ours.with_name("t.pth"), baseline, **OURS, temperature=2.0)
    found = evaluate(calibrated, data)["calibration"]
    expected = Calibration.of(logits, labels, 2.0)
    assert found["after"]["temperature"] == 2.0
    assert found["after"]["brier"] == pytest.approx(expected.brier, rel=1e-4)
    assert "at temperature 2.0000" in capsys.readouterr().out


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_jsons_calibration_is_that_of_a_loop(baseline, data, tmp_path, temperature):
    path = save(tmp_path / "t.pth", baseline, **OURS, temperature=temperature)
    found = evaluate(path, data)["calibration"]
    assert list(found) == (["before"] if temperature == 1 else ["before", "after"])
    logits, labels = logits_of(baseline, data)
    for made in found.values():
        brier = nll = 0.0
        gaps = [0.0] * 15  # sum over a bin's images of right - top probability
        for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
            powers = [math.exp(value / made["temperature"]) for value in row]
            shares = [power / sum(powers) for power in powers]
            brier += sum((p - (c == label)) ** 2 for c, p in enumerate(shares))
            nll -= math.log(shares[label])
            top = max(shares)
            gaps[math.ceil(15 * top) - 1] += (shares[label] == top) - top
        expected = (brier, nll, sum(map(abs, gaps)))
        found_sums = tuple(len(labels) * made[name] for name in ("brier", "nll", "ece"))
        assert found_sums == pytest.approx(expected, rel=1e-4)


def test_averaged_weights_are_said_to_be_so(baseline, ours, data, capsys):
    settings = {"image_size": SIZE, "ema": 0.99}
    evaluate(save(ours.with_name("ema.pth"), baseline, **{**OURS, "settings": settings}), data)
    assert "ResNet18, moving average of the weights (--ema 0.99) on" in capsys.readouterr().out


def test_a_run_with_a_fold_is_evaluated_on_its_fold(baseline, data, tmp_path, capsys):
    dataset = RAFDB(data, "train", transforms.evaluation(SIZE))
    _, held_out = fold_images(dataset, "2/3")
    extra = {
        **OURS,
        "settings": {"image_size": SIZE, "fold": "2/3"},
        "fold_checksum": fold_checksum(dataset, held_out),
    }
    content = evaluate(
        save(tmp_path / "fold.pth", baseline, **extra), data, "--corruptions", "jpeg"
    )
    with torch.no_grad():
        answers = [int(baseline(dataset[i].image[None]).logits.argmax()) for i in held_out]
    right = sum(a == dataset.labels[i] for a, i in zip(answers, held_out, strict=True))
    assert (content["images"], content["accuracy"]) == (7, right / 7)
    assert (content["split"], content["published_images"]) == ("train fold 2/3", False)
    shown = capsys.readouterr().out
    assert "on rafdb train fold 2/3," in shown
    assert "5 passes over 7 images" in shown


def test_predictions_by_hand_vary(baseline, dan, data):
    """Otherwise the tests that compare with them would pass for any network."""
    for network in (baseline, dan):
        counts = np.array(counts_by_hand(network, data))
        assert (counts.sum(0) > 0).sum() >= 4
        assert 0 < counts.trace() < 14


def test_the_json_is_what_a_loop_over_the_files_counts(baseline, ours, data):
    content = evaluate(ours, data)
    counts = counts_by_hand(baseline, data)
    assert content["confusion_counts"] == counts
    assert content["classes"] == list(RAFDB.classes)
    assert content["accuracy"] == pytest.approx(sum(counts[i][i] for i in range(7)) / 14)
    recalls = [counts[i][i] / sum(counts[i]) for i in range(7)]
    assert content["per_class_recall"] == pytest.approx(recalls)
    assert content["mean_class_accuracy"] == pytest.approx(sum(recalls) / 7)
    for fractions, row in zip(content["confusion_matrix"], counts, strict=True):
        assert fractions == pytest.approx([count / sum(row) for count in row])
    low, high = content["accuracy_interval_95"]
    assert low < content["accuracy"] < high
    assert (content["images"], content["split"], content["image_size"]) == (14, "test", SIZE)


@pytest.mark.parametrize("name", ["last.pth", "best.pth"])
def test_a_checkpoint_of_a_run_gives_the_numbers_of_its_epoch(trained, data, name, capsys):
    content = evaluate(trained / name, data)
    row = load(trained / name)["metrics"][-1]
    for key in ("accuracy", "mean_class_accuracy", "macro_f1", "epoch"):
        assert content[key] == row[key]
    assert content["checkpoint"] == str(trained / name)
    shown = capsys.readouterr().out
    assert f"{100 * row['accuracy']:.2f} %" in shown
    assert f"ResNet18 on rafdb test, {data}" in shown


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """The folder of a run of the baseline over two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "r18"
    train_tiny(data, folder, "--arch", "resnet18", "--epochs", 2, recipe=RECIPE)
    return folder


def test_data_and_size_come_from_the_checkpoint(trained, data, capsys):
    eval_script.main([str(trained / "last.pth"), "--workers", "0"])
    assert str(data) in capsys.readouterr().out


def test_another_split_and_size_are_evaluated_on_request(baseline, ours, data):
    content = evaluate(ours, data, "--split", "train")
    assert content["confusion_counts"] == counts_by_hand(baseline, data, "train")
    assert (content["split"], content["paper"]) == ("train", [])
    larger = evaluate(ours, data, "--image-size", 48)
    assert larger["image_size"] == 48
    assert larger["confusion_counts"] != counts_by_hand(baseline, data)


def test_numbers_do_not_depend_on_batch_size_and_workers(ours, data):
    """Probabilities do to rounding: another batch size means other kernels."""
    expected = evaluate(ours, data)
    nll = expected.pop("calibration")["before"]["nll"]
    for flags in (("--batch-size", 1), ("--batch-size", 7, "--workers", 2)):
        found = evaluate(ours, data, *flags)
        assert found.pop("calibration")["before"]["nll"] == pytest.approx(nll, rel=1e-4)
        assert found == expected


def test_fast_gives_the_same_predictions(dan, data, tmp_path):
    path = save(tmp_path / RELEASED_NAME, dan)
    content = evaluate(path, data, "--image-size", SIZE, "--fast")
    assert content["confusion_counts"] == counts_by_hand(dan, data)


def test_a_released_file_is_read_by_its_name(dan, data, tmp_path, capsys):
    """153 optimiser parameters, and 8 centers by oversight, as in the release."""
    parameters = [*dan.parameters(), *AffinityLoss(8).parameters()]
    optimizer = SGD(parameters, lr=0.0, momentum=0.9, weight_decay=1e-4)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    path = save(tmp_path / RELEASED_NAME, dan, optimizer_state_dict=optimizer.state_dict())
    state = load(path)["optimizer_state_dict"]
    assert state["param_groups"][0]["params"] == list(range(153))
    assert state["state"][152]["momentum_buffer"].shape == (8, 512)
    content = evaluate(path, data, "--image-size", SIZE)
    assert (content["dataset"], content["epoch"]) == ("rafdb", 21)
    assert content["classes"] == list(RAFDB.classes)
    assert content["confusion_counts"] == counts_by_hand(dan, data)
    assert "DAN on rafdb test" in capsys.readouterr().out


# --------------------------------------------------------------------------------------------
# The paper's numbers


@pytest.fixture
def published(monkeypatch) -> None:
    """The tests' images are the published split."""
    monkeypatch.setattr(RAFDB, "published_counts", {"test": ((2,) * CLASSES,)})


@pytest.mark.usefixtures("published")
def test_the_papers_numbers_stand_beside_those_of_the_published_split(dan, data, tmp_path, capsys):
    path = save(tmp_path / RELEASED_NAME, dan)
    content = evaluate(path, data, "--image-size", SIZE)
    shown = capsys.readouterr().out
    assert content["published_images"]
    assert [(row["metric"], row["paper_percent"]) for row in content["paper"]] == [
        ("accuracy", 89.70),
        ("mean_class_accuracy", 85.32),
        ("mean_class_accuracy", 82.75),
    ]
    assert "\nbeside the paper:\n" in shown
    for row in content["paper"]:
        ours = 100 * content[row["metric"]]
        assert row["ours_percent"] == pytest.approx(ours)
        assert row["difference"] == pytest.approx(ours - row["paper_percent"])
        line = (
            f"{ours:.2f} %, paper {row['paper_percent']:.2f} %, difference {row['difference']:+.2f}"
        )
        assert line in shown


@pytest.mark.usefixtures("published")
def test_the_baseline_is_compared_with_the_papers_baseline(ours, data):
    assert [row["paper_percent"] for row in evaluate(ours, data)["paper"]] == [86.25, 77.32]


def test_other_images_are_not_compared_with_the_paper(ours, data, tmp_path, capsys):
    content = evaluate(ours, data, "--report", tmp_path / "report")
    assert not content["published_images"]
    assert content["paper"] == []
    shown = capsys.readouterr().out
    assert "not beside the paper: these 14 images are not the published split" in shown
    for text in (shown, (tmp_path / "report/index.html").read_text()):
        assert "86.25" not in text
        assert "difference" not in text


@pytest.mark.usefixtures("published")
def test_a_split_with_skipped_images_is_not_the_published_one(ours, own_data):
    assert evaluate(ours, own_data, *SKIP)["published_images"]
    damage(own_data, "test_0002")
    content = evaluate(ours, own_data, *SKIP)
    assert not content["published_images"]
    assert content["paper"] == []


def test_fer2013_has_no_number_of_the_paper(baseline, tmp_path, capsys):
    root = write_fer2013_csv(tmp_path / "fer2013")
    extra = {"dataset": "fer2013", "class_names": list(FER2013.classes)}
    content = evaluate(save(tmp_path / "x.pth", baseline, **extra), root, "--image-size", 48)
    assert (content["dataset"], content["images"], content["paper"]) == ("fer2013", 14, [])
    assert "paper" not in capsys.readouterr().out


# --------------------------------------------------------------------------------------------
# Images that cannot be read, and classes without any


def test_skipped_images_are_listed_and_counted(ours, own_data, capsys):
    assert evaluate(ours, own_data, *SKIP)["skipped"] == []
    damage(own_data, "test_0002", "test_0005")
    assert "test_0002" in refusal(ours, "--data", own_data, "--workers", 0)
    capsys.readouterr()
    content = evaluate(ours, own_data, *SKIP)
    shown = capsys.readouterr().out
    assert "2 of 14 images were skipped; the metrics exclude them" in shown
    for name, line in zip(("test_0002", "test_0005"), content["skipped"], strict=True):
        assert str(face(own_data, name)) in line
        assert f"skipped: {line}" in shown
    assert content["images"] == 12
    assert "12 images" in shown


@pytest.fixture(scope="module")
def fearful(tmp_path_factory) -> Path:
    """A checkpoint that takes every face for Fear."""
    network = ResNet18(CLASSES)
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.copy_(torch.eye(CLASSES)[FEAR])
    return save(tmp_path_factory.mktemp("weights") / "fear.pth", network, **OURS)


def test_the_mean_is_over_the_classes_with_test_images(fearful, tmp_path, capsys):
    root = write_labelled(tmp_path / "data", range(CLASSES), [FEAR, FEAR, 0, 3])
    flags = ("--report", tmp_path / "report", "--batch-size", 4096)
    content = evaluate(fearful, root, *flags)
    assert content["accuracy"] == 2 / 4
    assert content["mean_class_accuracy"] == pytest.approx((1 + 0 + 0) / 3)
    # F1 of Fear: 2 hits of 2 images and 4 predictions.
    assert content["macro_f1"] == pytest.approx((2 * 2 / (2 + 4) + 0 + 0) / 3)
    assert content["per_class_recall"] == [0, 1, None, 0, None, None, None]
    assert content["per_class_precision"] == [None, 1 / 2, None, None, None, None, None]
    disgust = next(line for line in capsys.readouterr().out.splitlines() if "Disgust " in line)
    assert disgust.split()[:5] == ["Disgust", "0", "-", "-", "-"]
    page = (tmp_path / "report/index.html").read_text()
    assert "33.33" in page
    assert ">nan" not in page.lower()


@pytest.mark.parametrize("label", [0, FEAR])
def test_one_test_image_is_reported(fearful, tmp_path, label):
    root = write_labelled(tmp_path / "data", range(CLASSES), [label])
    content = evaluate(fearful, root, "--report", tmp_path / "report")
    right = label == FEAR
    assert (content["images"], content["accuracy"]) == (1, right)
    assert content["mean_class_accuracy"] == right
    low, high = content["accuracy_interval_95"]
    assert 0 <= low <= right <= high <= 1
    assert high - low > 0.7  # one image says little
    assert ">nan" not in (tmp_path / "report/index.html").read_text().lower()


# --------------------------------------------------------------------------------------------
# What is refused


def test_a_file_without_a_known_name_needs_a_data_set(baseline, data, tmp_path):
    checkpoint = save(tmp_path / "downloaded.pth", baseline)
    message = refusal(checkpoint, "--data", data)
    assert "unknown data set" in message
    assert "--dataset rafdb, " in message
    content = evaluate(checkpoint, data, "--dataset", "rafdb", "--image-size", SIZE)
    assert content["confusion_counts"] == counts_by_hand(baseline, data)


def test_our_key_wins_over_the_files_name(baseline, tmp_path):
    extra = {"dataset": "fer2013", "class_names": list(FER2013.classes)}
    checkpoint = save(tmp_path / RELEASED_NAME, baseline, **extra)
    root = write_fer2013_csv(tmp_path / "fer2013")
    assert evaluate(checkpoint, root, "--image-size", 48)["dataset"] == "fer2013"


def test_classes_that_cannot_be_mapped_are_refused_and_nothing_is_written(baseline, tmp_path):
    target = tmp_path / "numbers.json"
    extra = {**OURS, "class_names": ["Happy", "Joy", *RAFDB.classes[2:]]}
    path = save(tmp_path / "x.pth", baseline, **extra)
    root = write_fer2013_csv(tmp_path / "fer2013")
    message = refusal(path, "--data", root, "--dataset", "fer2013", "--json", target)
    assert ", ".join(extra["class_names"]) in message
    assert ", ".join(FER2013.classes) in message
    assert not target.exists()


@pytest.mark.parametrize(
    ("weights", "word"),
    [
        ({"bn.weight": torch.zeros(7)}, "fc.weight"),
        ({0: torch.zeros(1)}, "fc.weight"),
        ({"fc.weight": torch.zeros(0, 512), "fc.bias": torch.zeros(0)}, "0 classes"),
        ({"fc.weight": torch.zeros(7, 512), "features.0.weight": torch.zeros(64, 3, 3, 3)}, "64"),
    ],
    ids=["no classifier", "no names", "no class", "another shape"],
)
def test_weights_that_fit_no_network_are_refused(data, tmp_path, weights, word):
    path = tmp_path / RELEASED_NAME
    torch.save({"model_state_dict": weights}, path)
    message = refusal(path, "--data", data)
    assert word in message
    assert str(path) in message


def test_a_network_whose_logits_are_not_finite_is_refused(baseline, data, tmp_path):
    weights = {**baseline.state_dict(), "fc.weight": torch.full((CLASSES, 512), 1e38)}
    torch.save({"iter": 1, "model_state_dict": weights, **OURS}, tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth", "--data", data, "--workers", 0)
    assert "network's output is not finite" in message
    weights["fc.weight"][0, 0] = math.nan
    torch.save({"iter": 1, "model_state_dict": weights, **OURS}, tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth", "--data", data, "--workers", 0)
    assert "model_state_dict/fc.weight holds numbers that are not finite" in message


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--split", "validation"], "'validation'"),
        (["--dataset", "imagenet"], "imagenet"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--batch-size", "many"], "many"),
        (["--image-size", "31"], "--image-size is 31"),
        (["--workers", "-2"], "--workers is -2"),
        (["--device", "banana"], "banana"),
        (["--repot", "x"], "--repot"),
        (["--data", "nowhere"], "nowhere"),
        (["--tables"], "either a CHECKPOINT or --tables"),
    ],
)
def test_bad_flags_are_refused(ours, data, flags, word):
    assert word in refusal(ours, "--data", data, *flags)


def test_no_checkpoint_is_refused():
    assert "CHECKPOINT" in refusal()


@pytest.mark.parametrize(
    "output",
    ["--json missing/out.json", "--json .", "--report file", "--report file/report"],
)
def test_results_that_cannot_be_written_are_refused_before_the_work(
    ours, data, tmp_path, monkeypatch, output
):
    flag, place = output.split()
    monkeypatch.setattr(eval_script, "predictions_of", lambda *_, **__: pytest.fail("too late"))
    (tmp_path / "file").write_text("mine")
    target = tmp_path / place
    assert str(target) in refusal(ours, "--data", data, "--workers", 0, flag, target)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


# --------------------------------------------------------------------------------------------
# The report


def test_the_report_has_the_numbers_and_a_picture_of_them(ours, data, tmp_path):
    report = tmp_path / "a/report"
    content = evaluate(ours, data, "--report", report)
    assert json.loads((report / "report.json").read_text()) == content
    files = ["confusion_matrix.png", "index.html", "report.json"]
    assert sorted(path.name for path in report.iterdir()) == files
    with Image.open(report / "confusion_matrix.png") as image:
        assert image.format == "PNG"
        assert min(image.size) >= 600
        picture = np.asarray(image.convert("L")).astype(float)
    # Text and cells on white: mostly light, some of it dark, many shades.
    assert 0.002 < (picture < 128).mean() < 0.5
    assert len(np.unique(picture)) > 50
    # Another matrix gives another picture.
    evaluate(ours, data, "--report", tmp_path / "b", "--split", "train")
    other = (tmp_path / "b/confusion_matrix.png").read_bytes()
    assert other != (report / "confusion_matrix.png").read_bytes()
