"""Numbers from predictions, and eval.py: which checkpoints it reads, refuses and compares."""

from __future__ import annotations

import contextlib
import json
import math
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.interval import Z95
from engine.loading import OrderedBatches, SeededImages, make_loader
from engine.report import metrics_json, metrics_text
from PIL import Image
from sklearn import metrics as sklearn_metrics
from torch import Tensor, nn
from torch.optim import SGD

import eval as eval_script
from common.errors import InputError
from datasets import FER2013, RAFDB, transforms
from engine.evaluate import ConfusionMatrix, confusion_of, predict
from engine.train import train
from networks import DAN, AffinityLoss, ResNet18, fuse
from tests.support.scripts import (
    CLASSES,
    SIZE,
    TinyNetwork,
    load,
    small_recipe,
    write_fer2013_csv,
    write_rafdb,
)
from train_rafdb import RECIPE

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

CPU = torch.device("cpu")

# --------------------------------------------------------------------------------------------
# The confusion matrix against scikit-learn


def random_predictions(seed: int, *, absent=(), never=()) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions that agree half of the time, in seven classes."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([c for c in range(CLASSES) if c not in absent], 400)
    guesses = rng.choice([c for c in range(CLASSES) if c not in never], 400)
    agree = (rng.random(400) < 0.5) & ~np.isin(labels, never)
    return labels, np.where(agree, labels, guesses)


def matrix_of(labels: np.ndarray, predictions: np.ndarray) -> ConfusionMatrix:
    return ConfusionMatrix.of(torch.from_numpy(labels), torch.from_numpy(predictions), CLASSES)


CASES = {
    "all classes": {},
    "an absent class": {"absent": (2,)},
    "a class never predicted": {"never": (4,)},
    "a class in neither": {"absent": (6,), "never": (6,)},
    "several of each": {"absent": (0, 1), "never": (1, 5)},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_scikit_learn(seed, case):
    labels, predictions = random_predictions(seed, **case)
    matrix = matrix_of(labels, predictions)
    known = np.arange(CLASSES)
    expected = sklearn_metrics.confusion_matrix(labels, predictions, labels=known)
    assert (matrix.counts.numpy() == expected).all()
    assert matrix.total == 400
    assert matrix.accuracy == pytest.approx(sklearn_metrics.accuracy_score(labels, predictions))
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        labels, predictions, labels=known, zero_division=np.nan
    )
    # scikit-learn's F1 of a class without images is set by zero_division alone.
    neither = (support == 0) & (expected.sum(0) == 0)
    np.testing.assert_allclose(matrix.recalls(), recall)
    np.testing.assert_allclose(matrix.precisions(), precision)
    ours = np.array(matrix.f1_scores())
    assert (np.isnan(ours) == neither).all()
    np.testing.assert_allclose(ours[~neither], np.nan_to_num(f1)[~neither])


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_means_over_classes_are_those_of_scikit_learn(case):
    labels, predictions = random_predictions(11, **case)
    matrix = matrix_of(labels, predictions)
    balanced = sklearn_metrics.balanced_accuracy_score(labels, predictions)
    macro_f1 = sklearn_metrics.f1_score(labels, predictions, average="macro")
    assert matrix.mean_class_accuracy == pytest.approx(balanced)
    assert matrix.macro_f1 == pytest.approx(macro_f1)
    assert matrix.metrics() == {
        "accuracy": matrix.accuracy,
        "mean_class_accuracy": matrix.mean_class_accuracy,
        "macro_f1": matrix.macro_f1,
    }


def test_a_matrix_by_hand():
    # Class 0: 2 of 3 found, 1 taken for 1. Class 1: 1 of 1. Class 2: absent, predicted never.
    matrix = ConfusionMatrix(torch.tensor([[2, 1, 0], [0, 1, 0], [0, 0, 0]]))
    assert matrix.accuracy == 3 / 4
    assert matrix.recalls()[:2] == [2 / 3, 1.0]
    assert math.isnan(matrix.recalls()[2])
    assert matrix.precisions()[:2] == [1.0, 1 / 2]
    assert math.isnan(matrix.precisions()[2])
    assert matrix.f1_scores()[:2] == [4 / 5, 2 / 3]
    assert math.isnan(matrix.f1_scores()[2])
    assert matrix.mean_class_accuracy == pytest.approx((2 / 3 + 1) / 2)
    assert matrix.macro_f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert matrix.fractions() == [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 0]]


def test_no_images_give_no_number_instead_of_an_error():
    matrix = ConfusionMatrix(torch.zeros(3, 3, dtype=torch.int64))
    for value in (matrix.accuracy, matrix.mean_class_accuracy, matrix.macro_f1):
        assert math.isnan(value)
    assert matrix.accuracy_interval() == (0.0, 1.0)
    content = metrics_json(matrix, ("a", "b", "c"))
    assert content["accuracy"] is None
    assert content["per_class_recall"] == [None, None, None]
    assert "-" in metrics_text(matrix, ("a", "b", "c"))


def test_the_average_accuracy_does_not_come_from_batches():
    """The paper's 85.32 was averaged batch by batch; ours is one matrix over the split."""
    labels, predictions = random_predictions(3)
    whole = matrix_of(labels, predictions)
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = matrix_of(labels[order], predictions[order])
    assert torch.equal(shuffled.counts, whole.counts)
    halves = [matrix_of(labels[half], predictions[half]) for half in (order[:30], order[30:])]
    by_batch = np.mean([half.mean_class_accuracy for half in halves])
    assert by_batch != pytest.approx(whole.mean_class_accuracy, abs=1e-4)
    assert torch.equal(halves[0].counts + halves[1].counts, whole.counts)


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        # As scipy.stats.binomtest(right, images).proportion_ci(method="wilson") gives them.
        (2750, 3068, 0.8850635026268904, 0.9066440228434068),
        (50, 100, 0.4038315303659956, 0.5961684696340044),
        (0, 10, 0.0, 0.27753279986288926),
        (10, 10, 0.7224672001371109, 1.0),
        (1, 1, 0.20654931437723745, 1.0),
    ],
)
def test_the_interval_is_wilsons(right, images, low, high):
    counts = torch.tensor([[right, images - right], [0, 0]])
    interval = ConfusionMatrix(counts).accuracy_interval()
    assert interval == pytest.approx((low, high), abs=1e-12)
    for bound in interval:
        if 1e-9 < bound < 1 - 1e-9:  # each bound solves |p - share| = z sqrt(p (1 - p) / n)
            distance = Z95 * math.sqrt(bound * (1 - bound) / images)
            assert abs(bound - right / images) == pytest.approx(distance, rel=1e-6)


def test_the_interval_on_rafdb_is_about_as_wide_as_the_papers_margins():
    low, high = ConfusionMatrix(torch.tensor([[2750, 318], [0, 0]])).accuracy_interval()
    assert 100 * (high - low) / 2 == pytest.approx(1.08, abs=0.01)


def test_the_text_has_every_number():
    labels, predictions = random_predictions(5, never=(4,))
    matrix = matrix_of(labels, predictions)
    text = metrics_text(matrix, RAFDB.classes)
    low, high = matrix.accuracy_interval()
    for value in (matrix.accuracy, low, high, matrix.mean_class_accuracy, matrix.macro_f1):
        assert f"{100 * value:.2f}" in text
    for name, recall, precision in zip(
        RAFDB.classes, matrix.recalls(), matrix.precisions(), strict=True
    ):
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert f"{100 * recall:.2f}" in line
        assert ("-" if math.isnan(precision) else f"{100 * precision:.2f}") in line
    last_row = text.splitlines()[-1].split()
    assert last_row[0] == "Neutral"
    assert [float(cell) for cell in last_row[1:]] == [
        round(100 * value, 1) for value in matrix.fractions()[6]
    ]


# --------------------------------------------------------------------------------------------
# Predictions


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """40 training and 30 test images in RAF-DB's layout."""
    return write_rafdb(tmp_path_factory.mktemp("data") / "raf-basic", train=40, test=30)


def various(network: nn.Module, root: Path) -> nn.Module:
    """Give a random network the statistics of the images, so that its predictions vary."""
    images = torch.stack([image for image, _ in RAFDB(root, "test", transforms.evaluation(SIZE))])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches
    network.train()
    with torch.no_grad():
        network(images)
        network.fc.weight.mul_(30)
    return network.eval()


@pytest.fixture(scope="module")
def baseline(data) -> nn.Module:
    torch.manual_seed(0)
    return various(ResNet18(CLASSES), data)


@pytest.fixture(scope="module")
def dan(data) -> nn.Module:
    torch.manual_seed(1)
    return various(DAN(CLASSES, 4), data)


def counts_by_hand(network: nn.Module, root: Path, split: str = "test") -> list[list[int]]:
    """The confusion counts with neither the project's data set nor its loaders."""
    counts = [[0] * CLASSES for _ in range(CLASSES)]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for line in (root / "EmoLabel/list_patition_label.txt").read_text().splitlines():
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


def test_by_hand_predictions_vary(baseline, dan, data):
    """Otherwise the tests that compare with them would pass for any network."""
    for network in (baseline, dan):
        counts = np.array(counts_by_hand(network, data))
        assert (counts.sum(0) > 0).sum() >= 4
        assert 0 < counts.trace() < 30


def predicted(network: nn.Module, root: Path, batch_size: int, workers: int = 0):
    images = SeededImages(RAFDB(root, "test", transforms.evaluation(SIZE)))
    batches = OrderedBatches(len(images), batch_size)
    return predict(network, make_loader(images, batches, workers=workers, device=CPU), CPU)


def test_predictions_do_not_depend_on_batches_or_workers(baseline, data):
    logits, labels = predicted(baseline, data, 30)
    assert logits.shape == (30, CLASSES)
    assert labels.tolist() == RAFDB(data, "test").labels
    for batch_size, workers in ((1, 0), (7, 0), (64, 2)):
        other, other_labels = predicted(baseline, data, batch_size, workers)
        torch.testing.assert_close(other, logits, rtol=1e-3, atol=1e-3)
        assert torch.equal(other_labels, labels)
        counts = confusion_of(other, labels).counts
        assert torch.equal(counts, confusion_of(logits, labels).counts)


def test_the_fused_network_predicts_what_the_plain_one_does(dan, baseline, data):
    for network in (dan, baseline):
        logits, _ = predicted(network, data, 8)
        fused, _ = predicted(fuse(network), data, 8)
        assert (fused - logits).abs().max() < 1e-4 * logits.abs().max()
        assert torch.equal(fused.argmax(1), logits.argmax(1))


def test_predicting_changes_nothing_in_the_network(dan, data):
    before = {name: tensor.clone() for name, tensor in dan.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    dan.train()
    predicted(dan, data, 8)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dan.state_dict().items())
    assert not dan.training
    assert all(parameter.grad is None for parameter in dan.parameters())
    assert all(parameter.requires_grad for parameter in dan.parameters())
    assert torch.is_grad_enabled()
    assert expected.shape == (2,)


# --------------------------------------------------------------------------------------------
# eval.py


def evaluate(checkpoint: Path, root: Path, *flags: object) -> dict:
    """Run eval.py in this process; returns what it writes as json."""
    target = checkpoint.with_suffix(".json")
    always = ["--workers", 0, "--device", "cpu", "--json", target, "--data", root]
    eval_script.main([str(word) for word in (checkpoint, *always, *flags)])
    return json.loads(target.read_text())


def refusal(*arguments: object) -> str:
    """The one line with which eval.py refuses; nothing may be written."""
    with pytest.raises(InputError) as error:
        eval_script.main([str(word) for word in arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """The folder of a run of the baseline over two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "r18"
    flags = ("--arch", "resnet18", "--epochs", 2)
    train(small_recipe(data, folder, *flags, recipe=RECIPE))
    return folder


@pytest.mark.parametrize("name", ["last.pth", "best.pth"])
def test_a_checkpoint_of_ours_gives_the_numbers_of_its_epoch(trained, data, name):
    content = evaluate(trained / name, data)
    row = load(trained / name)["metrics"][-1]
    for key in ("accuracy", "mean_class_accuracy", "macro_f1"):
        assert content[key] == row[key]
    assert content["epoch"] == row["epoch"]
    assert content["dataset"] == "rafdb"
    assert content["split"] == "test"
    assert content["image_size"] == SIZE
    assert content["images"] == 30
    assert content["checkpoint"] == str(trained / name)


def test_data_and_size_come_from_the_checkpoint(trained, data, capsys):
    eval_script.main([str(trained / "last.pth"), "--workers", "0"])
    assert str(data) in capsys.readouterr().out


def save(path: Path, network: nn.Module, **extra: object) -> Path:
    """A checkpoint with the released keys that matter, and `extra`."""
    torch.save({"iter": 21, "model_state_dict": network.state_dict(), **extra}, path)
    return path


OURS = {"dataset": "rafdb", "class_names": list(RAFDB.classes), "settings": {"image_size": SIZE}}


def test_the_json_is_what_a_loop_over_the_files_counts(baseline, data, tmp_path):
    content = evaluate(save(tmp_path / "x.pth", baseline, **OURS), data)
    counts = counts_by_hand(baseline, data)
    rows = [sum(row) for row in counts]
    assert content["confusion_counts"] == counts
    assert content["classes"] == list(RAFDB.classes)
    assert content["accuracy"] == pytest.approx(sum(counts[i][i] for i in range(7)) / 30)
    recalls = [counts[i][i] / rows[i] for i in range(7)]
    assert content["per_class_recall"] == pytest.approx(recalls)
    assert content["mean_class_accuracy"] == pytest.approx(sum(recalls) / 7)
    for fractions, row in zip(content["confusion_matrix"], counts, strict=True):
        assert sum(fractions) == pytest.approx(1)
        assert fractions == pytest.approx([count / sum(row) for count in row])
    low, high = content["accuracy_interval_95"]
    assert low < content["accuracy"] < high


def test_another_split_and_size_are_evaluated_on_request(baseline, data, tmp_path):
    checkpoint = save(tmp_path / "x.pth", baseline, **OURS)
    content = evaluate(checkpoint, data, "--split", "train")
    assert content["confusion_counts"] == counts_by_hand(baseline, data, "train")
    assert content["paper"] == []
    larger = evaluate(checkpoint, data, "--image-size", 48)
    assert larger["image_size"] == 48
    assert larger["confusion_counts"] != counts_by_hand(baseline, data)


def test_numbers_do_not_depend_on_batch_size_and_workers(baseline, data, tmp_path):
    checkpoint = save(tmp_path / "x.pth", baseline, **OURS)
    expected = evaluate(checkpoint, data)
    assert evaluate(checkpoint, data, "--batch-size", 1) == expected
    assert evaluate(checkpoint, data, "--batch-size", 7, "--workers", 2) == expected


RELEASED_NAME = "rafdb_epoch21_acc0.897_bacc0.8275.pth"


@pytest.mark.parametrize(
    ("flags", "network", "dtype"),
    [
        ((), "FusedDAN", torch.float32),
        (("--plain",), "DAN", torch.float32),
        (("--amp", "bf16"), "FusedDAN", torch.bfloat16),
    ],
)
def test_flags_choose_network_and_type(dan, data, tmp_path, monkeypatch, *, flags, network, dtype):
    ran = []

    def noting(model, *args, **options):
        model.register_forward_hook(
            lambda module, _, output: ran.append((type(module).__name__, output.features.dtype))
        )
        return predict(model, *args, **options)

    monkeypatch.setattr("engine.evaluate.predict", noting)
    path = save(tmp_path / "rafdb_dan.pth", dan)
    content = evaluate(path, data, "--batch-size", 30, "--image-size", SIZE, *flags)
    assert ran == [(network, dtype)]
    if dtype is torch.float32:
        assert content["confusion_counts"] == counts_by_hand(dan, data)


@pytest.fixture(scope="module")
def released(dan, data, tmp_path_factory) -> Path:
    """A file in the released layout: 153 optimiser parameters, 8 centers by oversight."""
    path = tmp_path_factory.mktemp("models") / RELEASED_NAME
    affinity = AffinityLoss(8)
    parameters = [*dan.parameters(), *affinity.parameters()]
    optimizer = SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)
    dan.train()
    output = dan(torch.randn(2, 3, SIZE, SIZE))
    (output.logits.square().sum() + affinity(output.features, torch.tensor([0, 6]))).backward()
    # Momentum for every parameter, without moving the weights.
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    various(dan, data)
    content = {
        "iter": 21,
        "model_state_dict": dan.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
    }
    torch.save(content, path)
    optimizer.zero_grad()
    dan.eval()
    return path


def test_a_released_file_is_read_by_its_name(released, dan, data, capsys):
    state = load(released)["optimizer_state_dict"]
    assert state["param_groups"][0]["params"] == list(range(153))
    assert state["state"][152]["momentum_buffer"].shape == (8, 512)
    content = evaluate(released, data, "--image-size", SIZE)
    assert content["dataset"] == "rafdb"
    assert content["epoch"] == 21
    assert content["classes"] == list(RAFDB.classes)
    assert content["confusion_counts"] == counts_by_hand(dan, data)
    assert "DAN on rafdb test" in capsys.readouterr().out


def test_the_papers_numbers_stand_beside_ours(released, data, capsys):
    content = evaluate(released, data, "--image-size", SIZE)
    shown = capsys.readouterr().out
    assert [(row["metric"], row["paper_percent"]) for row in content["paper"]] == [
        ("accuracy", 89.70),
        ("mean_class_accuracy", 85.32),
        ("mean_class_accuracy", 82.75),
    ]
    for row in content["paper"]:
        ours = 100 * content[row["metric"]]
        assert row["ours_percent"] == pytest.approx(ours)
        assert row["difference"] == pytest.approx(ours - row["paper_percent"])
        line = (
            f"{ours:.2f} %, paper {row['paper_percent']:.2f} %, difference {row['difference']:+.2f}"
        )
        assert line in shown


def test_images_that_are_not_the_published_split_are_said_to_be_so(
    released, data, capsys, monkeypatch
):
    content = evaluate(released, data, "--image-size", SIZE)
    assert not content["published_images"]
    note = f"for the form alone (these {content['images']} images are not the published split)"
    assert note in capsys.readouterr().out
    counts = tuple(sum(row) for row in content["confusion_counts"])
    monkeypatch.setattr(RAFDB, "published_counts", {"test": (counts,)})
    assert evaluate(released, data, "--image-size", SIZE)["published_images"]
    assert "\nbeside the paper:\n" in capsys.readouterr().out


def test_the_baseline_is_compared_with_the_papers_baseline(baseline, data, tmp_path):
    content = evaluate(save(tmp_path / "x.pth", baseline, **OURS), data)
    assert [row["paper_percent"] for row in content["paper"]] == [86.25, 77.32]


def test_fer2013_has_no_number_of_the_paper(baseline, tmp_path, capsys):
    root = write_fer2013_csv(tmp_path / "fer2013")
    extra = {"dataset": "fer2013", "class_names": list(FER2013.classes)}
    content = evaluate(save(tmp_path / "x.pth", baseline, **extra), root, "--image-size", 48)
    assert content["paper"] == []
    assert content["images"] == 14
    assert "paper" not in capsys.readouterr().out


def test_a_file_without_our_keys_and_without_a_known_name_needs_dataset(baseline, data, tmp_path):
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


def test_other_classes_are_refused_with_both_lists(baseline, data, tmp_path):
    checkpoint = save(tmp_path / "x.pth", baseline, **OURS)
    target = tmp_path / "numbers.json"
    message = refusal(checkpoint, "--data", data, "--dataset", "fer2013", "--json", target)
    assert ", ".join(RAFDB.classes) in message
    assert ", ".join(FER2013.classes) in message
    assert not target.exists()


def test_the_same_classes_in_another_order_are_refused(baseline, data, tmp_path):
    alphabetical = {**OURS, "class_names": sorted(RAFDB.classes)}
    message = refusal(save(tmp_path / "x.pth", baseline, **alphabetical), "--data", data)
    assert ", ".join(sorted(RAFDB.classes)) in message
    assert ", ".join(RAFDB.classes) in message


@pytest.mark.parametrize("classes", [2, 6, 8])
def test_another_number_of_classes_is_refused(data, tmp_path, classes):
    message = refusal(save(tmp_path / RELEASED_NAME, ResNet18(classes)), "--data", data)
    assert f"class {classes - 1};" in message
    assert ", ".join(RAFDB.classes) in message


def with_head(count: int, baseline: nn.Module) -> dict[str, Tensor]:
    """The baseline's weights with a classifier of `count` classes."""
    classifier = {"fc.weight": torch.zeros(count, 512), "fc.bias": torch.zeros(count)}
    return {**baseline.state_dict(), **classifier}


def renamed(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): tensor for name, tensor in weights.items()}


def test_weights_that_fit_no_network_are_refused(baseline, data, tmp_path):
    heads = DAN(CLASSES, 2).state_dict()
    plain = baseline.state_dict()
    cases = {
        "no classifier": ({"bn.weight": torch.zeros(7)}, "fc.weight"),
        "one class": (with_head(1, baseline), "class"),
        "no class": (with_head(0, baseline), "class"),
        "a gap between heads": (renamed(heads, "cat_head1", "cat_head3"), "[0, 3]"),
        "another layer": ({**plain, "attention.weight": torch.zeros(1)}, "attention.weight"),
        "a layer less": ({k: v for k, v in plain.items() if k != "fc.bias"}, "fc.bias"),
        "another shape": (
            {**plain, "features.0.weight": torch.zeros(64, 3, 3, 3)},
            "(64, 3, 3, 3)",
        ),
        "no names": ({0: torch.zeros(1)}, "fc.weight"),
    }
    for weights, word in cases.values():
        path = tmp_path / RELEASED_NAME
        torch.save({"model_state_dict": weights}, path)
        message = refusal(path, "--data", data)
        assert word in message
        assert str(path) in message


@pytest.mark.parametrize(
    "extra",
    [
        {"settings": [1, 2]},
        {"settings": {"image_size": "large"}},
        {"class_names": 7},
        {"dataset": ["rafdb"]},
        {"iter": "many"},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_keys_of_other_programs_are_no_reason_for_a_traceback(baseline, data, tmp_path, extra):
    """Other programs write `settings` and `dataset` too, with other meanings."""
    content = {"iter": 1, "model_state_dict": baseline.state_dict(), **OURS, **extra}
    torch.save(content, tmp_path / "x.pth")
    arguments = [tmp_path / "x.pth", "--data", data, "--workers", 0]
    with contextlib.suppress(InputError):  # refused or ignored, both will do
        eval_script.main([str(word) for word in arguments])


def test_a_file_for_a_data_set_of_the_paper_that_is_not_here_is_named(baseline, data, tmp_path):
    checkpoint = save(tmp_path / "affecnet8_epoch5_acc0.6209.pth", baseline)
    assert "affectnet8" in refusal(checkpoint, "--data", data)


def test_bad_flags_are_refused(trained, data, tmp_path):
    base = [trained / "last.pth", "--data", data]
    for flags, word in (
        (["--split", "validation"], "'validation'"),
        (["--dataset", "imagenet"], "imagenet"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--batch-size", "many"], "many"),
        (["--image-size", "31"], "--image-size is 31"),
        (["--workers", "-2"], "--workers is -2"),
        (["--device", "banana"], "banana"),
        (["--repot", "x"], "--repot"),
        (["--data", tmp_path / "nowhere"], "nowhere"),
    ):
        assert word in refusal(*base, *flags)
    assert "CHECKPOINT" in refusal()


def test_results_that_cannot_be_written_are_refused_before_the_work(
    trained, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(eval_script, "evaluate", lambda *_: pytest.fail("evaluated first"))
    (tmp_path / "file").write_text("mine")
    base = [trained / "last.pth", "--data", data, "--workers", 0]
    for flags in (
        ["--json", tmp_path / "missing/out.json"],
        ["--json", tmp_path],
        ["--report", tmp_path / "file"],
        ["--report", tmp_path / "file/report"],
    ):
        assert str(flags[1]) in refusal(*base, *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_network_whose_logits_are_not_numbers_is_refused(baseline, data, tmp_path):
    """arg max of nan is a class too: the numbers would look like those of a bad network."""
    weights = {**baseline.state_dict(), "fc.bias": torch.full((CLASSES,), math.nan)}
    torch.save({"iter": 1, "model_state_dict": weights, **OURS}, tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth", "--data", data, "--workers", 0)
    assert "not finite" in message


def dark_share(picture: np.ndarray) -> float:
    return float((picture < 128).mean())


def test_the_report_has_the_numbers_and_a_picture_of_them(baseline, data, tmp_path):
    checkpoint = save(tmp_path / "x.pth", baseline, **OURS)
    content = evaluate(checkpoint, data, "--report", tmp_path / "a/report")
    report = tmp_path / "a/report"
    assert json.loads((report / "report.json").read_text()) == content
    files = ["confusion_matrix.png", "index.html", "report.json"]
    assert sorted(path.name for path in report.iterdir()) == files
    with Image.open(report / "confusion_matrix.png") as image:
        assert image.format == "PNG"
        assert min(image.size) >= 600
        picture = np.asarray(image.convert("L")).astype(float)
    # Text and cells on white: mostly light, some of it dark, many shades.
    assert 0.002 < dark_share(picture) < 0.5
    assert len(np.unique(picture)) > 50
    # Another matrix gives another picture.
    evaluate(checkpoint, data, "--report", tmp_path / "b", "--split", "train")
    assert (tmp_path / "b/confusion_matrix.png").read_bytes() != (
        report / "confusion_matrix.png"
    ).read_bytes()


class CountedImages:
    """Images that are made when they are asked for, and counted while they are alive."""

    def __init__(self, count: int):
        self.labels = [index % CLASSES for index in range(count)]
        self.alive = self.most = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.full((3, SIZE, SIZE), float(index))
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self._gone)
        return image, self.labels[index]

    def _gone(self) -> None:
        self.alive -= 1


def test_evaluation_streams():
    """No more than a few batches are in memory, however many images there are."""
    network = TinyNetwork(CLASSES)
    most = []
    for count in (40, 400):
        images = CountedImages(count)
        loader = make_loader(SeededImages(images), OrderedBatches(count, 8), workers=0, device=CPU)
        logits, labels = predict(network, loader, CPU)
        assert (len(logits), labels.tolist()) == (count, images.labels)
        most.append(images.most)
        assert images.alive == 0
    assert most[0] == most[1] <= 16
