"""Checkpoints, ours and released ones: what is read, what is refused, on which data they go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from datasets import DATASETS, FER2013, RAFDB
from engine.evaluate import predict
from engine.folds import fold_checksum, fold_images
from networks import DAN, ResNet18
from results.trained import open_dataset, predictions_of, read_trained
from tests.support.scripts import CLASSES, LABEL_FILE, SIZE, write_fer2013_csv

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

CPU = torch.device("cpu")
RELEASED_NAME = "rafdb_epoch21_acc0.897_bacc0.8275.pth"
OURS = {"dataset": "rafdb", "class_names": list(RAFDB.classes), "settings": {"image_size": SIZE}}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return ResNet18(CLASSES).eval()


@pytest.fixture(scope="module")
def weights(network) -> dict[str, Tensor]:
    return network.state_dict()


def save(path: Path, weights: dict[str, Tensor], **extra: object) -> Path:
    torch.save({"iter": 21, "model_state_dict": weights, **extra}, path)
    return path


# ---- reading


def test_our_checkpoints_describe_themselves(weights, tmp_path):
    trained = read_trained(save(tmp_path / "x.pth", weights, **OURS))
    assert type(trained.network) is ResNet18
    assert (trained.dataset, trained.image_size, trained.epoch) == ("rafdb", SIZE, 21)
    assert trained.classes == trained.class_names() == list(RAFDB.classes)
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(tensor, weights[name])


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), "hot", True])
def test_a_temperature_that_is_none_is_refused(weights, tmp_path, temperature):
    path = save(tmp_path / "x.pth", weights, **OURS, temperature=temperature)
    with pytest.raises(InputError, match=f"its temperature is {temperature!r}; expected above 0"):
        read_trained(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("fusion", "sum"), ("fusion", "softmax"), ("head_scale", "map"), ("head_scale", "norm")],
)
def test_a_network_weighs_its_heads_as_in_training(tmp_path, name, value):
    settings = {"image_size": SIZE, name: value}
    path = save(tmp_path / "x.pth", DAN(7, 2).state_dict(), **{**OURS, "settings": settings})
    assert getattr(read_trained(path).network, name) == value
    settings[name] = "mean"
    save(path, DAN(7, 2).state_dict(), **{**OURS, "settings": settings})
    with pytest.raises(
        InputError, match=r"x.pth: the weights are of --(fusion|head-scale) mean; known"
    ):
        read_trained(path)


@pytest.mark.parametrize(
    ("name", "count", "dataset"),
    [
        (RELEASED_NAME, 7, "rafdb"),
        ("affecnet8_epoch5_acc0.6209.pth", 8, "affectnet8"),
        ("affecnet7_epoch6_acc0.6569.pth", 7, "affectnet7"),
    ],
)
def test_a_released_file_is_known_by_its_name(name, count, dataset, tmp_path):
    trained = read_trained(save(tmp_path / name, DAN(count, 4).state_dict()))
    assert isinstance(trained.network, DAN)
    assert trained.network.num_heads == 4
    assert (trained.dataset, trained.image_size) == (dataset, 224)
    assert trained.class_names() == list(DATASETS[dataset].classes)
    assert trained.framing == DATASETS[dataset].framing


def test_our_key_wins_over_the_files_name(weights, tmp_path):
    path = save(tmp_path / RELEASED_NAME, weights, dataset="fer2013")
    assert read_trained(path).dataset == "fer2013"


def test_classes_that_nothing_names_are_numbered(weights, tmp_path):
    trained = read_trained(save(tmp_path / "x.pth", weights))
    assert trained.class_names() == [f"class {i}" for i in range(CLASSES)]
    assert trained.class_names("rafdb") == list(RAFDB.classes)
    assert trained.class_names("affectnet8") == trained.class_names()  # another number


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"settings": [1, 2]}, "settings"),
        ({"settings": {"image_size": "large"}}, "image_size is 'large'"),
        ({"settings": {"image_size": 5000}}, "image_size is 5000"),
        ({"settings": {"data": 5}}, "data"),
        ({"class_names": 7}, "class_names"),
        ({"class_names": [1, 2]}, "class_names"),
        ({"dataset": ["rafdb"]}, "dataset"),
        ({"iter": "many"}, "iter"),
    ],
)
def test_keys_of_other_programs_are_refused_by_name(extra, word, weights, tmp_path):
    """Other programs write `settings` and `dataset` too, with other meanings."""
    path = save(tmp_path / "x.pth", weights, **{**OURS, **extra})
    with pytest.raises(InputError) as error:
        read_trained(path)
    assert word in str(error.value)
    assert str(path) in str(error.value)


def test_weights_that_fit_no_network_are_refused_with_their_file(weights, tmp_path):
    cases = {
        "fc.weight": {"bn.weight": torch.zeros(7)},
        "[0, 3]": {n.replace("head1", "head3"): t for n, t in DAN(CLASSES, 2).state_dict().items()},
        "fc.bias": {name: tensor for name, tensor in weights.items() if name != "fc.bias"},
        "have 1 classes": {**weights, "fc.weight": torch.zeros(1, 512)},
    }
    for word, content in cases.items():
        path = save(tmp_path / RELEASED_NAME, content)
        with pytest.raises(InputError) as error:
            read_trained(path)
        assert word in str(error.value)
        assert f"checkpoint {path}" in str(error.value)


# ---- the data to evaluate on


def test_data_and_size_are_those_of_the_training(weights, data, tmp_path):
    settings = {"image_size": SIZE, "data": str(data)}
    trained = read_trained(save(tmp_path / "x.pth", weights, **{**OURS, "settings": settings}))
    dataset = open_dataset(trained)
    assert (dataset.root, dataset.split) == (data, "test")
    assert dataset[0].image.shape == (3, SIZE, SIZE)
    other = open_dataset(trained, data=data, split="train", image_size=48)
    assert (other.split, other[0].image.shape) == ("train", (3, 48, 48))


def test_missing_training_data_give_a_warning(weights, tmp_path, monkeypatch):
    settings = {"image_size": SIZE, "data": str(tmp_path / "gone")}
    trained = read_trained(save(tmp_path / "x.pth", weights, **{**OURS, "settings": settings}))
    monkeypatch.chdir(tmp_path)
    warned = pytest.warns(UserWarning, match="gone, where it was trained, is gone; evaluating on")
    with warned, pytest.raises(InputError, match="datasets/raf-basic does not exist"):
        open_dataset(trained)


def test_a_file_that_names_no_data_set_needs_one(weights, data, tmp_path):
    trained = read_trained(save(tmp_path / "x.pth", weights))
    with pytest.raises(InputError, match="for an unknown data set; give --dataset rafdb, "):
        open_dataset(trained, data=data)
    assert open_dataset(trained, name="rafdb", data=data).name == "rafdb"


def test_text_from_a_file_cannot_control_the_terminal(weights, tmp_path):
    trained = read_trained(save(tmp_path / "x.pth", weights, dataset="\x1b[2Jrafdb\n\u202e"))
    with pytest.raises(InputError) as error:
        open_dataset(trained)
    assert str(error.value).isprintable()
    assert "\\x1b[2J" in str(error.value)


@pytest.mark.parametrize("names", [FER2013.classes, sorted(RAFDB.classes)], ids=["other", "order"])
def test_other_classes_are_refused_with_both_lists(names, weights, data, tmp_path):
    """The same classes in another order are others."""
    trained = read_trained(save(tmp_path / "x.pth", weights, class_names=list(names)))
    with pytest.raises(InputError) as error:
        open_dataset(trained, name="rafdb", data=data)
    assert ", ".join(names) in str(error.value)
    assert ", ".join(RAFDB.classes) in str(error.value)


@pytest.mark.parametrize("count", [2, 6, 8])
def test_another_number_of_classes_is_refused(count, data, tmp_path):
    trained = read_trained(save(tmp_path / RELEASED_NAME, ResNet18(count).state_dict()))
    with pytest.raises(InputError, match=f"class {count - 1}; the data set has Surprise"):
        open_dataset(trained, data=data)


def test_a_layout_is_only_for_data_sets_that_come_in_several(weights, data, tmp_path):
    trained = read_trained(save(tmp_path / "x.pth", weights, dataset="fer2013"))
    root = write_fer2013_csv(tmp_path / "fer2013")
    with pytest.raises(InputError, match="--layout is given, but fer2013 has no layouts"):
        open_dataset(trained, data=root, layout="csv")
    assert open_dataset(trained, data=root).name == "fer2013"


# ---- predictions


def test_predictions_are_those_of_the_network_as_trained(network, weights, data, tmp_path):
    trained = read_trained(save(tmp_path / "x.pth", weights, **OURS))
    dataset = open_dataset(trained, data=data)
    logits, labels, indices = predictions_of(trained, dataset, CPU, batch_size=5, workers=0)
    assert labels.tolist() == dataset.labels
    assert indices == list(range(len(dataset)))
    with torch.inference_mode():
        alone = torch.cat([network(dataset[i].image[None]).logits for i in indices])
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)
    assert type(trained.network) is ResNet18


def fold_checkpoint(folder: Path, weights: dict[str, Tensor], data: Path, fold: str) -> Path:
    """A checkpoint of a run that held a fold of the 21 training faces out."""
    dataset = RAFDB(data, "train")
    held_out = dataset.with_clear_label(fold_images(dataset, fold)[1])
    checksum = fold_checksum(dataset, held_out)
    ours = {**OURS, "settings": {**OURS["settings"], "fold": fold}}
    return save(folder / "x.pth", weights, **ours, fold_checksum=checksum)


def test_a_run_with_a_fold_is_evaluated_on_it(network, weights, data, tmp_path):
    trained = read_trained(fold_checkpoint(tmp_path, weights, data, "2/3"))
    dataset = open_dataset(trained, data=data)
    assert (trained.fold, dataset.split) == ("2/3", "train")
    logits, labels, indices = predictions_of(trained, dataset, CPU, workers=0)
    assert indices == fold_images(dataset, "2/3")[1]
    assert sorted(labels.tolist()) == list(range(7))
    with torch.inference_mode():
        alone = torch.cat([network(dataset[i].image[None]).logits for i in indices])
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-4)
    test = open_dataset(trained, data=data, split="test")
    assert len(predictions_of(trained, test, CPU, workers=0).labels) == len(test) == 14


def test_of_a_fold_those_with_a_clear_label_are_evaluated(weights, data, tmp_path, monkeypatch):
    monkeypatch.setattr(RAFDB, "with_clear_label", lambda self, indices: list(indices)[2:])
    trained = read_trained(fold_checkpoint(tmp_path, weights, data, "2/3"))
    dataset = open_dataset(trained, data=data)
    indices = predictions_of(trained, dataset, CPU, workers=0).indices
    assert indices == fold_images(dataset, "2/3")[1][2:]


def test_the_fold_of_other_data_is_refused(weights, own_data, tmp_path):
    trained = read_trained(fold_checkpoint(tmp_path, weights, own_data, "2/3"))
    pairs = [line.split() for line in (own_data / LABEL_FILE).read_text().splitlines()]
    (own_data / LABEL_FILE).write_text("".join(f"{n} {int(k) % 7 + 1}\n" for n, k in pairs))
    dataset = open_dataset(trained, data=own_data)
    words = r"held out other images than fold 2/3 of .* now has; give the data of its training"
    with pytest.raises(InputError, match=words):
        predictions_of(trained, dataset, CPU, workers=0)


@pytest.mark.parametrize("fold", ["6/5", "x", 3])
def test_a_fold_that_is_none_is_refused(weights, tmp_path, fold):
    ours = {**OURS, "settings": {**OURS["settings"], "fold": fold}}
    with pytest.raises(InputError, match=f"its fold is {fold!r}; expected such as 2/5"):
        read_trained(save(tmp_path / "x.pth", weights, **ours))


@pytest.mark.parametrize(
    ("options", "name", "dtype"),
    [
        ({}, "DAN", torch.float32),
        ({"fast": True}, "FusedDAN", torch.float32),
        ({"amp": "bf16"}, "DAN", torch.bfloat16),
        ({"fast": True, "amp": "bf16"}, "FusedDAN", torch.bfloat16),
    ],
)
def test_flags_choose_network_and_type(data, tmp_path, monkeypatch, *, options, name, dtype):
    torch.manual_seed(0)
    trained = read_trained(save(tmp_path / "x.pth", DAN(CLASSES, 2).state_dict(), **OURS))
    dataset = open_dataset(trained, data=data)
    ran = []

    def noting(network, *args, **options):
        network.register_forward_hook(
            lambda module, _, output: ran.append((type(module).__name__, output.features.dtype))
        )
        return predict(network, *args, **options)

    monkeypatch.setattr("results.trained.predict", noting)
    found = predictions_of(trained, dataset, CPU, batch_size=14, workers=0, **options)
    assert ran == [(name, dtype)]
    assert found.logits.dtype == torch.float32
