"""A run: what a step computes, what an epoch writes, what ends it."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import signal
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

import train_rafdb
from common.batch import Batch
from common.errors import InputError
from common.flags import flag, settings
from common.signals import Stopped
from datasets import RAFDB, transforms
from engine import train as engine_train
from engine.data import Loaded, SeededImages, TrainingBatches, batches_on, evaluation_loader
from engine.evaluate import Metrics, predict
from engine.loss_log import LossLog
from engine.optim import OPTIMIZERS, make_optimizer, shuffle
from engine.run_folder import FILES
from engine.train import build, evaluate, run_epoch, train_one_epoch
from networks import DAN, DANLoss, LossTerms
from networks.fused import FusedDAN
from tests.support.scripts import (
    CLASSES,
    ROOT,
    SIZE,
    TINY,
    TinyMethod,
    assert_same_run,
    batch_of,
    differences,
    load,
    read_metrics,
    scramble_random_generators,
    small_recipe,
    snapshot,
    train_tiny,
    train_until,
    write_labelled,
)

CPU = torch.device("cpu")
DAN_RECIPE = train_rafdb.RECIPE
GOLDEN_NAMES = ROOT / "tests/golden/state_dict_7classes_4heads.csv"
FEAR = 1
EVERY = range(CLASSES)
WITHOUT_FEAR = [0, 2, 3, 4, 5, 6]


# --------------------------------------------------------------------------------------------
# The step


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_epoch_is_the_plain_loop_to_the_bit(data, tmp_path, optimizer):
    """Batches of 8, 8 and 5 images; the means count every image alike."""
    recipe = small_recipe(data, tmp_path, "--optimizer", optimizer)
    run, expected = build(recipe), build(recipe)
    means = train_one_epoch(run, 1)
    sums: dict[str, float] = {}
    for batch in batches_on(expected.training, CPU):
        loss = expected.criterion(expected.network(batch.images), batch)
        expected.optimizer.zero_grad()
        loss.total.backward()
        expected.optimizer.step()
        for name, value in {"loss": loss.total, **loss.terms}.items():
            sums[name] = sums.get(name, 0.0) + len(batch) * value.item()
    assert means == pytest.approx({name: value / 21 for name, value in sums.items()}, rel=1e-9)
    for part in ("network", "criterion", "optimizer"):
        one, other = (dict(getattr(r, part).state_dict()) for r in (run, expected))
        assert differences(one, other) == []


class FixedBatches:
    """A loader that gives one batch several times."""

    def __init__(self, batch: Batch, times: int):
        self.batch, self.times = batch, times
        self.batch_sampler = SimpleNamespace(epoch=0)
        dataset = SimpleNamespace(labels=[0], classes=EVERY, describe=str)
        self.dataset = SeededImages(dataset, [0])

    def __iter__(self) -> Iterator[Loaded]:
        return iter([Loaded(self.batch, [])] * self.times)


@pytest.mark.parametrize("every", [20, 2])
def test_a_step_asks_the_device_for_no_value(data, tmp_path, monkeypatch, every):
    """Fake tensors have no values: whatever waits for one fails, as the log does when it reads."""
    run, mode = build(small_recipe(data, tmp_path)), FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        run.ddp_network, run.ddp_criterion = DAN(CLASSES, 2), DANLoss(CLASSES)
        parameters = [*run.ddp_network.parameters(), *run.ddp_criterion.parameters()]
        run.optimizer = make_optimizer(OPTIMIZERS["adamw"], parameters, lr=0.1)
        batch = batch_of(torch.zeros(4, dtype=torch.int64), torch.randn(4, 3, 64, 64))
    # Indices stay on the CPU.
    run.training = FixedBatches(dataclasses.replace(batch, indices=torch.arange(4)), 3)

    class GPULog(LossLog):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments)
            self.every = every

        def means(self, _world: object) -> dict[str, float]:
            return {"steps": len(self.pending)}

    monkeypatch.setattr(engine_train, "LossLog", GPULog)
    reads = every <= 3
    with mode, pytest.raises(DataDependentOutputException) if reads else nullcontext():
        assert train_one_epoch(run, 1) == {"steps": 3}
    assert all(parameter.grad is not None for parameter in parameters)


def test_images_and_weights_are_channels_last(data, tmp_path):
    run = build(small_recipe(data, tmp_path))
    batch = next(batches_on(run.training, CPU))
    for tensor in (run.network.features[0].weight, batch.images):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.bfloat16), ("off", torch.float32)])
def test_amp_decides_the_type_of_the_forward_pass_alone(data, tmp_path, amp, dtype):
    run = build(small_recipe(data, tmp_path, "--amp", amp))
    seen = []
    run.network.register_forward_hook(lambda _, __, output: seen.append(output.features.dtype))
    run.criterion.register_forward_hook(lambda _, __, loss: seen.append(loss.total.dtype))
    train_one_epoch(run, 1)
    assert seen == [dtype, torch.float32] * 3
    assert {p.grad.dtype for p in run.network.parameters()} == {torch.float32}


# --------------------------------------------------------------------------------------------
# Learning, and what the seed decides


def test_training_lowers_the_loss_and_learns(data, tmp_path):
    train_tiny(data, tmp_path / "run", "--epochs", 6, "--lr", 0.02)
    rows = read_metrics(tmp_path / "run")
    assert rows[-1]["cls"] < 0.6 * rows[0]["cls"]
    assert max(row["accuracy"] for row in rows) > 0.8


def test_same_seed_same_run_and_another_seed_another(data, tmp_path):
    runs = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        scramble_random_generators()
        runs[name] = train_tiny(data, tmp_path / name, "--epochs", 2, "--seed", seed)
    assert_same_run(tmp_path / "one", tmp_path / "again")
    for part in ("model_state_dict", "criterion_state_dict", "optimizer_state_dict", "metrics"):
        assert differences(runs["one"][part], runs["other"][part]) != []


def test_every_epoch_of_a_run_has_an_order_of_its_own(data, tmp_path, monkeypatch):
    seen = []
    add = LossLog.add

    def noting(log, loss, batch):
        seen.append(batch.indices.tolist())
        add(log, loss, batch)

    monkeypatch.setattr(LossLog, "add", noting)
    train_tiny(data, tmp_path / "run", "--epochs", 3, "--seed", 4)
    sampler = TrainingBatches(21, 8, 4, lambda generator: shuffle([0] * 21, generator))
    expected = []
    for sampler.epoch in (1, 2, 3):
        expected += [[index for index, _ in batch] for batch in sampler]
    assert seen == expected
    assert seen[:3] != seen[3:6] != seen[6:]


def test_the_learning_rate_follows_the_schedule_and_is_logged(data, tmp_path):
    train_tiny(data, tmp_path / "run", "--epochs", 3, "--lr", 0.5, "--scheduler", "exponential")
    rates = [row["lr"] for row in read_metrics(tmp_path / "run")]
    assert rates == pytest.approx([0.5, 0.3, 0.18])


# --------------------------------------------------------------------------------------------
# What is optimised, and where it starts


def test_one_optimizer_group_has_the_network_and_last_the_centers(data, tmp_path):
    """The release's order, by which its optimiser states are read."""
    run = build(small_recipe(data, tmp_path, recipe=DAN_RECIPE))
    (group,) = run.optimizer.param_groups
    expected = [*run.network.parameters(), run.criterion.affinity.centers]
    assert [id(p) for p in group["params"]] == [id(p) for p in expected]
    assert len(expected) == 153
    with GOLDEN_NAMES.open(newline="") as stream:
        names = [row["name"] for row in csv.DictReader(stream)]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    released = [name for name in names if not name.endswith(buffers)]
    assert [name for name, _ in run.network.named_parameters()] == released
    assert expected[-1].shape == (7, 512)


def test_the_baseline_is_trained_with_cross_entropy_alone(data, tmp_path):
    run = build(small_recipe(data, tmp_path, "--arch", "resnet18", recipe=DAN_RECIPE))
    assert list(run.criterion.parameters()) == []
    assert len(run.optimizer.param_groups[0]["params"]) == 62
    labels = torch.tensor([0, 3, 6])
    output = run.network.eval()(torch.randn(3, 3, SIZE, SIZE))
    loss = run.criterion(output, batch_of(labels))
    assert loss.total.item() == pytest.approx(F.cross_entropy(output.logits, labels).item())


def test_the_centers_are_trained(data, tmp_path):
    before = build(small_recipe(data, tmp_path)).criterion.affinity.centers.detach().clone()
    after = train_tiny(data, tmp_path / "run")["criterion_state_dict"]["affinity.centers"]
    assert after.shape == (CLASSES, 512)
    # Weight decay alone would shrink all centers by one factor.
    assert (after / before).std() > 1e-4


def test_without_the_affinity_loss_there_are_no_centers(data, tmp_path):
    content = train_tiny(data, tmp_path / "run", "--fcn-loss", "none", "--partition", "none")
    assert content["criterion_state_dict"] == {}
    (row,) = content["metrics"]
    assert list(row)[2:4] == ["loss", "cls"]
    assert not {"affinity", "partition"} & set(row)


def test_the_loss_in_metrics_is_the_weighted_sum_of_its_terms(data, tmp_path):
    train_tiny(data, tmp_path / "run", "--lambda1", 0.5, "--lambda2", 0.25)
    (row,) = read_metrics(tmp_path / "run")
    total = row["cls"] + 0.5 * row["affinity"] + 0.25 * row["partition"]
    assert row["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_a_run_of_ours_as_pretrained_gives_its_backbone(data, tmp_path):
    baseline = ("--arch", "resnet18")
    trained = train_tiny(data, tmp_path / "r18", *baseline, recipe=DAN_RECIPE)["model_state_dict"]
    flags = ("--heads", 1, "--pretrained", tmp_path / "r18/last.pth", "--seed", 9)
    network = build(small_recipe(data, tmp_path, *flags, recipe=DAN_RECIPE)).network
    backbone = network.features.state_dict()
    assert len(backbone) == 120
    for name, tensor in backbone.items():
        assert torch.equal(tensor, trained[f"features.{name}"])
    # Trained, so not what the seed alone would give.
    fresh = build(small_recipe(data, tmp_path, *baseline, recipe=DAN_RECIPE)).network
    assert not torch.equal(fresh.features[0].weight, network.features[0].weight)


SGD_FLAGS = ("--optimizer", "sgd", "--lr", "0.1")


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        (SGD_FLAGS, True),
        (("--optimizer", "adamw"), False),
        (("--optimizer", "adam"), False),
        ((*SGD_FLAGS, "--arch", "resnet18"), False),
    ],
)
def test_dan_from_random_weights_under_sgd_is_warned_of(data, tmp_path, flags, warned):
    flags = ("--heads", 1, "--pretrained", "none", *flags)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build(small_recipe(data, tmp_path, *flags, recipe=DAN_RECIPE))
    advice = [str(w.message) for w in caught if "random weights" in str(w.message)]
    assert len(advice) == warned
    assert all("--arch resnet18 --pretrained none" in text for text in advice)


# --------------------------------------------------------------------------------------------
# The network that is evaluated


def test_fast_gives_the_references_numbers_to_rounding(data, tmp_path, monkeypatch):
    """By default the network is evaluated as it was trained."""
    seen = []

    def noting(network, *arguments, **options):
        seen.append((network, predict(network, *arguments, **options)))
        return seen[-1][1]

    monkeypatch.setattr(engine_train, "predict", noting)
    run = build(small_recipe(data, tmp_path, "--heads", 2, recipe=DAN_RECIPE))
    train_one_epoch(run, 1)
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    reference = evaluate(run, 1)
    run.recipe = dataclasses.replace(run.recipe, fast=True)
    fast = evaluate(run, 1)
    (network, expected), (fused, found) = seen
    assert network is run.network
    assert type(fused) is FusedDAN
    difference = (found.logits - expected.logits).abs().max()
    assert 0 < difference < 1e-4 * expected.logits.abs().max()
    assert (fast.logits.argmax(dim=1) == reference.logits.argmax(dim=1)).all()
    assert differences(before, dict(run.network.state_dict())) == []


@pytest.mark.parametrize("flags", [(), ("--fast",)])
def test_the_methods_fast_network_is_asked_for_by_the_flag(data, tmp_path, flags):
    asked = []

    class Noting(TinyMethod):
        def fast(self, network, device):
            asked.append(device)
            return network

    recipe = dataclasses.replace(TINY, method=Noting())
    train_tiny(data, tmp_path / "run", "--epochs", 2, *flags, recipe=recipe)
    assert asked == [CPU, CPU] * len(flags)


def test_the_moving_average_is_evaluated(data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(engine_train, "predict", lambda network, *a, **o: seen.append(network))
    run = build(small_recipe(data, tmp_path, "--ema", 0.9))
    train_one_epoch(run, 1)
    with pytest.raises(TypeError):
        evaluate(run, 1)
    assert seen == [run.average.module]


def test_images_grow_and_best_is_chosen_at_the_last_size(data, tmp_path, capsys):
    flags = ("--epochs", 4, "--grow", "32x1,40x2", "--image-size", 48)
    run, sizes = build(small_recipe(data, tmp_path, *flags)), []
    for epoch in range(1, 5):
        run.epoch = epoch - 1
        run_epoch(run)
        run.rows[-1]["accuracy"] = (0.9, 0.5, 0.6, 0.4)[epoch - 1]
        sizes += [
            next(iter(batches_on(loader, CPU))).images.shape[-1]
            for loader in (run.training, run.evaluation)
        ]
        assert run.best_row()["epoch"] == (1, 2, 3, 4)[epoch - 1]
    assert sizes == [32, 32, 40, 40, 40, 40, 48, 48]


# --------------------------------------------------------------------------------------------
# A method with another output, other terms and other targets


class WithPose(RAFDB):
    """RAF-DB whose images have a pose: their index, and half of it."""

    def targets(self, index: int) -> dict[str, Tensor]:
        """The pose of image `index`."""
        return {"pose": torch.tensor([index, index / 2])}


class PoseOutput(NamedTuple):
    """Logits (B, C) and the pose (B, 2)."""

    logits: Tensor
    pose: Tensor


class PoseNetwork(nn.Module):
    """Pooled colours to logits and pose; dropout draws random numbers in every step."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.logits, self.pose = nn.Linear(3, num_classes), nn.Linear(3, 2)

    def forward(self, images: Tensor) -> PoseOutput:
        pooled = F.dropout(images.mean(dim=(2, 3)), training=self.training)
        return PoseOutput(self.logits(pooled), self.pose(pooled))


class PoseLoss(nn.Module):
    """Cross-entropy and the distance of the pose, with a learned weight of every image."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = weight
        self.trust = nn.Parameter(torch.ones(21))

    def forward(self, output: PoseOutput, batch: Batch) -> LossTerms:
        distance = (output.pose - batch.targets["pose"]).square().sum(dim=1)
        terms = {
            "entropy": F.cross_entropy(output.logits, batch.labels),
            "pose": (self.trust[batch.indices].square() * distance).mean(),
            "index": batch.indices.double().mean(),
            "mismatch": (batch.targets["pose"][:, 0] - batch.indices).abs().max(),
        }
        return LossTerms(terms["entropy"] + self.weight * terms["pose"], terms)


@dataclasses.dataclass(frozen=True)
class PoseMethod:
    """Nothing of DAN's."""

    targets: ClassVar[tuple[str, ...]] = ()
    pose_weight: float = flag(0.5, help="weight of the pose")

    def network(self, num_classes: int) -> nn.Module:
        """Colours to logits and pose."""
        return PoseNetwork(num_classes)

    def criterion(self, num_classes: int) -> nn.Module:
        """The loss of both."""
        return PoseLoss(self.pose_weight)

    def training_batch(self, batch: Batch, num_classes: int) -> Batch:
        """The batch as it was loaded."""
        return batch

    def advice(self, optimizer: object) -> list[str]:
        """Nothing."""
        return []


POSE_RECIPE = dataclasses.replace(TINY, method=PoseMethod(), dataset=WithPose)


def test_a_method_with_other_terms_and_targets_trains_and_resumes(data, tmp_path):
    flags = ("--epochs", 2, "--pose-weight", 0.25)
    content = train_tiny(data, tmp_path / "whole", *flags, recipe=POSE_RECIPE)
    rows = read_metrics(tmp_path / "whole")
    terms = ["loss", "entropy", "pose", "index", "mismatch"]
    assert list(rows[0])[2:7] == terms
    for row in rows:
        assert row["loss"] == pytest.approx(row["entropy"] + 0.25 * row["pose"], rel=1e-6)
        # Every image once, with its own target.
        assert (row["index"], row["mismatch"]) == (10.0, 0.0)
    assert content["settings"]["pose_weight"] == 0.25
    trust = content["criterion_state_dict"]["trust"]
    assert trust.shape == (21,)
    assert (trust != 1).all()
    train_until(small_recipe(data, tmp_path / "cut", *flags, recipe=POSE_RECIPE), 1)
    scramble_random_generators()
    train_tiny(data, tmp_path / "cut", *flags, "--resume", recipe=POSE_RECIPE)
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


# --------------------------------------------------------------------------------------------
# What a run writes and says


@pytest.fixture(scope="module")
def written(data, tmp_path_factory) -> Path:
    """The folder of a run of six epochs whose best is not the last."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train_tiny(data, folder, "--epochs", 6, "--lr", 0.02, "--seed", 1)
    return folder


def test_a_run_folder_holds_its_files(written):
    assert sorted(path.name for path in written.iterdir()) == sorted(FILES)


def test_predictions_are_those_of_the_last_epoch_and_speeds_of_all(written):
    rows = load(written / "last.pth")["metrics"]
    head, *lines = (written / "predictions.csv").read_text().splitlines()
    assert head == "index,label,predicted"
    found = [tuple(map(int, line.split(","))) for line in lines]
    assert [index for index, _, _ in found] == list(range(14))
    right = sum(label == predicted for _, label, predicted in found)
    assert right / 14 == pytest.approx(rows[-1]["accuracy"])
    head, *lines = (written / "speed.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(float(line.split(",")[1]) > 0 for line in lines)


def test_checkpoints_hold_the_released_keys_and_ours(written):
    content = load(written / "last.pth")
    assert list(content) == [
        *("iter", "model_state_dict", "optimizer_state_dict"),  # as released
        *("criterion_state_dict", "scheduler_state_dict", "recipe", "settings", "dataset"),
        *("class_names", "framing", "training_images", "training_labels", "metrics"),
        "random_states",
    ]
    assert (content["iter"], content["recipe"], content["dataset"]) == (6, "rafdb", "rafdb")
    assert content["class_names"] == list(RAFDB.classes)
    assert content["settings"]["lr"] == 0.02
    (group,) = content["optimizer_state_dict"]["param_groups"]
    assert group["params"] == list(range(len(content["optimizer_state_dict"]["state"])))


def test_metrics_have_a_row_an_epoch_and_agree_with_the_checkpoint(written):
    rows = read_metrics(written)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert list(rows[0]) == [
        *("epoch", "lr", "loss", "cls", "affinity", "partition"),
        *("accuracy", "mean_class_accuracy", "macro_f1"),
    ]
    assert rows == load(written / "last.pth")["metrics"]


def test_best_is_the_first_epoch_with_the_best_accuracy(written):
    accuracies = [row["accuracy"] for row in read_metrics(written)]
    epoch = 1 + accuracies.index(max(accuracies))
    best = load(written / "best.pth")
    assert (best["iter"], len(best["metrics"])) == (epoch, epoch)
    # Otherwise best and last could be the same file.
    assert epoch < 6
    assert differences(best["model_state_dict"], load(written / "last.pth")["model_state_dict"])


@pytest.mark.parametrize("name", ["best.pth", "last.pth"])
def test_the_numbers_of_a_checkpoint_are_those_of_its_weights(data, written, name):
    content = load(written / name)
    network = TINY.method.network(CLASSES)
    network.load_state_dict(content["model_state_dict"])
    images = SeededImages(RAFDB(data, "test", transforms.evaluation(SIZE)))
    loader = evaluation_loader(images, 5, workers=0, device=CPU)
    logits, labels, _ = predict(network, loader, CPU)
    scores = Metrics.of(logits, labels).scores()
    assert {key: content["metrics"][-1][key] for key in scores} == scores


def test_config_says_what_was_run_on_what(written, data):
    config = json.loads((written / "config.json").read_text())
    recipe = small_recipe(data, written, "--epochs", 6, "--lr", 0.02, "--seed", 1)
    assert config["settings"] == settings(recipe)
    assert config["settings"]["optimizer"] == "AdamW(weight_decay=0.05)"
    assert (config["recipe"], config["dataset"]) == ("rafdb", "rafdb")
    assert (config["training_images"], config["evaluated_images"]) == (21, 14)
    assert (config["evaluated_split"], config["published_images"]) == ("test", False)
    assert config["class_names"] == list(RAFDB.classes)
    network = TINY.method.network(CLASSES)
    assert config["parameters"] == sum(p.numel() for p in network.parameters())
    assert (config["bf16"], config["processes"]) == (False, 1)
    assert config["versions"]["torch"] == torch.__version__


def test_the_log_has_a_line_an_epoch_and_how_to_evaluate(data, tmp_path, capsys):
    train_tiny(data, tmp_path / "run", "--epochs", 2)
    first, second = read_metrics(tmp_path / "run")
    shown = capsys.readouterr().out
    for row in (first, second):
        words = [f"epoch {row['epoch']:.0f}/2  lr {row['lr']:.3g}"]
        words += [f"{name} {row[name]:.4f}" for name in ("loss", "cls", "affinity", "partition")]
        words += [f"accuracy {100 * row['accuracy']:.2f} %"]
        assert any(all(word in line for word in words) for line in shown.splitlines())
    last_line = shown.splitlines()[-1]
    assert last_line.startswith(f"done: accuracy {100 * second['accuracy']:.2f} %")
    assert last_line.endswith(f"python eval.py {tmp_path}/run/last.pth")


def test_nothing_is_made_for_a_run_that_cannot_start(data, tmp_path):
    for flags in (
        ["--data", tmp_path / "nowhere"],
        ["--device", "banana"],
        ["--limit", 1],
        ["--holdout", 0.001],
    ):
        with pytest.raises(InputError):
            train_tiny(data, tmp_path / "run", *flags)
    flags = ["--pretrained", tmp_path / "nowhere.pth"]
    with pytest.raises(InputError, match=r"nowhere\.pth"):
        train_tiny(data, tmp_path / "run", *flags, recipe=DAN_RECIPE)
    assert snapshot(tmp_path) == {}
    assert not (tmp_path / "run").exists()


def test_a_signal_says_what_is_done_and_how_to_go_on(data, tmp_path, monkeypatch):
    def run_epoch_or_stop(run):
        if run.epoch == 1:
            raise Stopped(signal.SIGTERM)
        run_epoch(run)

    monkeypatch.setattr(engine_train, "run_epoch", run_epoch_or_stop)
    with pytest.raises(Stopped) as stopped:
        train_tiny(data, tmp_path / "run", "--epochs", 3)
    folder = tmp_path / "run"
    assert str(stopped.value) == (
        f"stopped by SIGTERM; 1 of 3 epochs are in {folder}; to continue, repeat the command "
        "with --resume"
    )
    assert load(folder / "last.pth")["iter"] == 1
    assert not (folder / ".lock").exists()


# --------------------------------------------------------------------------------------------
# A loss that is not finite


class Poisoned(nn.Module):
    """A criterion whose n-th loss is not a number."""

    def __init__(self, criterion: nn.Module, at_step: int):
        super().__init__()
        self.criterion, self.at_step, self.step = criterion, at_step, 0

    def forward(self, output: Any, batch: Batch) -> LossTerms:
        loss = self.criterion(output, batch)
        self.step += 1
        if self.step != self.at_step:
            return loss
        return LossTerms(loss.total * math.nan, {**loss.terms, "affinity": loss.total * math.inf})


def test_a_loss_that_is_not_finite_ends_the_run_with_its_terms_and_images(data, tmp_path):
    run = build(small_recipe(data, tmp_path / "run", "--epochs", 3))
    run.folder.mkdir()
    run_epoch(run)
    before = snapshot(run.folder)
    run.ddp_criterion = Poisoned(run.criterion, at_step=2)
    run.training.batch_sampler.epoch = 2
    second_batch = list(run.training.batch_sampler)[1]
    with pytest.raises(InputError) as error:
        run_epoch(run)
    message = str(error.value)
    for words in ("step 2 of the epoch", "loss nan", "affinity inf", "cls ", "lower --lr"):
        assert words in message
    named = {word for word in message.split() if word.endswith(".jpg")}
    assert named == {run.dataset.describe(position) for position, _ in second_batch}
    assert snapshot(run.folder) == before
    assert load(run.folder / "last.pth")["iter"] == 1


def test_a_learning_rate_beyond_reason_ends_with_one_line(data, tmp_path):
    with pytest.raises(InputError, match="not finite in step 2") as error:
        train_tiny(data, tmp_path / "run", "--lr", 1e30)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json"]


def test_weights_that_are_not_finite_never_become_a_checkpoint(data, tmp_path):
    """One step an epoch: its loss is finite, the weights after it are not."""
    flags = ("--batch-size", 99, "--lr", 1e38, "--optimizer", "sgd")
    with pytest.raises(InputError, match="network's output is not finite"):
        train_tiny(data, tmp_path / "run", *flags)
    assert not (tmp_path / "run/last.pth").exists()


# --------------------------------------------------------------------------------------------
# Data of odd sizes


def last_row(run: Path) -> dict[str, float]:
    """The last row of metrics.csv; all of it must be finite."""
    row = read_metrics(run)[-1]
    assert all(math.isfinite(value) for value in row.values()), row
    return row


def assert_finite(value: object) -> None:
    """No tensor below `value` holds nan or infinity."""
    if isinstance(value, Tensor):
        assert value.isfinite().all()
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            assert_finite(item)


@pytest.mark.parametrize("sampling", ["shuffle", "sqrt", "balanced"])
@pytest.mark.parametrize("loss", ["affinity", "center"])
def test_a_class_without_training_images_trains(tmp_path, sampling, loss):
    root = write_labelled(tmp_path / "data", WITHOUT_FEAR * 3, EVERY)
    flags = ("--sampling", sampling, "--fcn-loss", loss, "--epochs", 2)
    content = train_tiny(root, tmp_path / "run", *flags)
    for part in ("model_state_dict", "criterion_state_dict", "optimizer_state_dict"):
        assert_finite(content[part])
    # The class stays: the file has all seven, so that it can be evaluated on all.
    assert content["model_state_dict"]["fc.weight"].shape[0] == CLASSES
    # Fear has an image in the test split and counts in the mean.
    mean = last_row(tmp_path / "run")["mean_class_accuracy"]
    assert 7 * mean == pytest.approx(round(7 * mean))


@pytest.mark.parametrize("sampling", ["shuffle", "sqrt", "balanced"])
def test_one_class_alone_is_learned_and_then_always_predicted(tmp_path, sampling):
    root = write_labelled(tmp_path / "data", [FEAR] * 16, [FEAR, FEAR, FEAR, *EVERY])
    flags = ("--sampling", sampling, "--epochs", 4, "--lr", 0.02)
    train_tiny(root, tmp_path / "run", *flags)
    row = last_row(tmp_path / "run")
    assert row["accuracy"] == 4 / 10
    assert row["mean_class_accuracy"] == pytest.approx(1 / 7)
    assert row["macro_f1"] == pytest.approx(2 * 4 / (10 + 4) / 7)


def test_one_class_alone_is_a_finite_loss_of_dan(tmp_path):
    root = write_labelled(tmp_path / "data", [FEAR] * 4, EVERY)
    run = build(small_recipe(root, tmp_path, "--heads", 2, recipe=DAN_RECIPE))
    means = train_one_epoch(run, 1)
    assert sorted(means) == ["affinity", "cls", "loss", "partition"]
    assert all(math.isfinite(mean) for mean in means.values())
    assert_finite(run.network.state_dict())


@pytest.mark.parametrize("label", [0, FEAR])
def test_one_test_image_is_right_or_wrong(tmp_path, label):
    """All training images are Fear, so that is what is predicted."""
    root = write_labelled(tmp_path / "data", [FEAR] * 16, [label])
    train_tiny(root, tmp_path / "run", "--epochs", 4, "--lr", 0.02)
    row = last_row(tmp_path / "run")
    for name in ("accuracy", "mean_class_accuracy", "macro_f1"):
        assert row[name] == float(label == FEAR)


def test_a_last_batch_of_one_does_not_stop_dan(data, tmp_path):
    flags = ("--heads", 1, "--limit", 9)
    run = build(small_recipe(data, tmp_path, *flags, recipe=DAN_RECIPE))
    assert math.isfinite(train_one_epoch(run, 1)["loss"])
    assert [len(batch) for batch in run.training.batch_sampler] == [9]
