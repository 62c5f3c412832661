"""Several processes on one run: the step, the numbers and the files are those of one process."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
import torch

from common.errors import InputError
from datasets import RAFDB, transforms
from engine.data import (
    OrderedBatches,
    SeededImages,
    TrainingBatches,
    evaluation_loader,
    make_loaders,
)
from engine.distributed import World, join_processes
from engine.evaluate import Metrics, predict
from engine.optim import SAMPLINGS, shuffle
from engine.run_folder import FILES
from engine.train import train
from tests.support.distributed_script import IMAGES, gradients, write_parts
from tests.support.processes import processes
from tests.support.scripts import (
    CLASSES,
    PATIENCE,
    ROOT,
    SIZE,
    TINY,
    Forked,
    differences,
    load,
    script_environment,
    small_recipe,
    write_rafdb,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*published are")

CPU = torch.device("cpu")
LABELS = [0] * 40 + [1] * 9 + [2] * 4
MANY = ("--epochs", 10_000)  # longer than any test waits
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def torchrun(*arguments: object, restarts: int = 0, **environment: str):
    """Two processes of tests/distributed_script.py."""
    options = ["--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    script = ["-m", "tests.support.distributed_script", *map(str, arguments)]
    return run_command([*TORCHRUN, *options, *script], **environment)


def run_command(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end, in the project's folder."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**script_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


# --------------------------------------------------------------------------------------------
# What each process takes


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 3068])
def test_shares_are_even_and_leave_nothing_out(size, count):
    shares = [World(rank, size).share(count) for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_processes_share_every_batch_of_one_process(sampling):
    def batches(world: World) -> list[list]:
        def order(generator):
            return SAMPLINGS[sampling](LABELS, generator)

        made = TrainingBatches(53, 10, 3, order, share=world.share, min_size=world.min_batch_size)
        made.epoch = 2
        return list(made)

    whole = batches(World())
    assert [len(batch) for batch in whole] == [10, 10, 10, 10, 10, 3]
    for size, lengths in ((2, [10, 10, 10, 10, 13]), (3, [10, 10, 10, 10, 13])):
        parts = zip(*(batches(World(rank, size)) for rank in range(size)), strict=True)
        joined = [[draw for part in batch for draw in part] for batch in parts]
        assert [len(batch) for batch in joined] == lengths
        # The same draws in the same order; a rest too small for all joins the batch before it.
        assert [d for batch in joined for d in batch] == [d for batch in whole for d in batch]


def test_every_test_image_is_evaluated_by_one_process():
    draws = [
        index
        for rank in range(3)
        for batch in OrderedBatches(20, 4, share=World(rank, 3).share)
        for index, _ in batch
    ]
    assert draws == list(range(20))


@pytest.mark.parametrize(("images", "batch"), [(7, 8), (99, 7)])
def test_too_few_images_for_all_processes_are_refused(images, batch):
    order = partial(shuffle, range(images))
    with pytest.raises(InputError, match=r"at least 2.* in each of 4 processes"):
        TrainingBatches(images, batch, 0, order, min_size=World(0, 4).min_batch_size)


def test_too_few_images_to_evaluate_for_all_processes_are_refused(tmp_path):
    data = write_rafdb(tmp_path / "data", test=7)
    with pytest.raises(InputError, match="7 images to evaluate for 8 processes"):
        make_loaders(small_recipe(data, tmp_path / "run"), CPU, World(0, 8))


def test_each_process_has_a_device_of_its_own(monkeypatch):
    world = World(3, 8, local_rank=1, local_size=2)
    assert world.device_name("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [world.device_name(name) for name in ("auto", "cuda")] == ["cuda:1", "cuda:1"]
    assert World().device_name("cuda:5") == "cuda:5"
    with pytest.raises(InputError, match="--device cuda:0 with 8 processes"):
        world.device_name("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="2 processes on this machine, but torch sees 1 GPUs"):
        world.device_name("auto")


def test_without_torchrun_there_is_one_process():
    with join_processes("cpu") as world:
        assert world == World()
        assert not torch.distributed.is_initialized()


# --------------------------------------------------------------------------------------------
# Two processes on this machine


@pytest.mark.slow
def test_gradients_are_those_of_one_process_on_the_whole_batch(tmp_path):
    with processes([lambda: write_parts(tmp_path / "parts.pth")] * 2) as started:
        printed = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert printed == [b"printed by 0\n", b""]
    found = load(tmp_path / "parts.pth")
    assert found["size"] == 2
    assert found["gathered"].tolist() == list(range(IMAGES))
    assert found["from first"] == "from 0"
    expected = gradients(World())
    assert list(found["gradients"]) == list(expected)
    assert "affinity.centers" in expected
    for name, gradient in expected.items():
        torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-9, atol=1e-12)


def training(place: Path, output: Path) -> list[str]:
    """What torchrun is to run: three epochs on the data in a place."""
    small = ("--image-size", SIZE, "--batch-size", 8, "--epochs", 3, "--device", "cpu")
    quick = ("--workers", 0, "--pretrained", "none", "--optimizer", "adamw", "--lr", 0.005)
    flags = (*small, *quick, "--data", place / "data", "--resume", "--output", output)
    return [str(flag) for flag in flags]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, dict[str, subprocess.CompletedProcess[str]]]:
    """Three runs: undisturbed, one whose second process dies in epoch 2, one stopped there."""
    place = tmp_path_factory.mktemp("runs")
    write_rafdb(place / "data")
    death = {"DIE_RANK": "1", "DIE_EPOCH": "2", "DIE_MARK": str(place / "died")}
    stop = {"DIE_RANK": "0", "DIE_EPOCH": "2", "DIE_MARK": str(place / "hit"), "DIE_BY": "Ctrl-C"}
    return place, {
        "whole": torchrun(*training(place, place / "whole"), LOGITS=str(place / "logits")),
        "restarted": torchrun(*training(place, place / "restarted"), restarts=1, **death),
        "stopped": torchrun(*training(place, place / "stopped"), **stop),
    }


def assert_same_content(place: Path, name: str) -> None:
    """The end of a run is, to the last bit, that of the undisturbed one."""
    one, other = (load(place / folder / "last.pth") for folder in ("whole", name))
    for content in (one, other):
        del content["settings"]["output"]
    assert differences(one, other) == []
    metrics = (place / "whole/metrics.csv").read_bytes()
    assert (place / name / "metrics.csv").read_bytes() == metrics


@pytest.mark.slow
def test_the_first_process_alone_prints_and_writes(runs):
    place, results = runs
    result = results["whole"]
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert sum("in 2 processes" in line for line in lines) == 1
    assert sum(line.startswith("epoch 2/3") for line in lines) == 1
    assert result.stderr.count("rafdb train: 21 images") == 1
    names = sorted(path.name for path in (place / "whole").iterdir())
    assert names == sorted(FILES)


@pytest.mark.slow
def test_metrics_are_those_of_one_process(runs):
    """14 test images, each counted once: one process finds the same in the checkpoint."""
    place, _ = runs
    content = load(place / "whole/last.pth")
    network = TINY.method.network(CLASSES)
    network.load_state_dict(content["model_state_dict"])
    images = SeededImages(RAFDB(place / "data", "test", transforms.evaluation(SIZE)))
    loader = evaluation_loader(images, 5, workers=0, device=CPU)
    logits, labels, _ = predict(network, loader, CPU)
    # The parts of both processes, in order, from the running statistics that are saved.
    torch.testing.assert_close(load(place / "logits"), logits, rtol=1e-4, atol=1e-5)
    metrics = Metrics.of(logits, labels)
    assert metrics.images == 14
    row = content["metrics"][-1]
    assert {key: row[key] for key in metrics.scores()} == metrics.scores()
    with (place / "whole/metrics.csv").open(newline="") as stream:
        assert [int(row["epoch"]) for row in csv.DictReader(stream)] == [1, 2, 3]
    # 21 images in batches of 8 over both processes: 8, 8 and 5.
    assert content["optimizer_state_dict"]["state"][0]["step"] == 3 * 3


@pytest.mark.slow
def test_a_process_that_dies_stops_the_run_and_a_restart_goes_on(runs):
    place, results = runs
    result = results["restarted"]
    assert result.returncode == 0, result.stderr
    assert (place / "died").exists()
    # Whether the other process says what it lost, before torchrun ends it, is a matter of time;
    # test_a_signal_to_one_ends_the_other has it without torchrun.
    assert "from epoch 2" in result.stdout
    assert_same_content(place, "restarted")


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_goes_on(runs):
    place, results = runs
    result = results["stopped"]
    assert result.returncode != 0
    told = f"stopped by Ctrl-C; 1 of 3 epochs are in {place}/stopped; to continue, repeat"
    assert sum(line.startswith(told) for line in result.stderr.splitlines()) == 1
    names = sorted(path.name for path in (place / "stopped").iterdir())
    assert names == sorted(FILES)
    result = torchrun(*training(place, place / "stopped"))
    assert result.returncode == 0, result.stderr
    assert "from epoch 2" in result.stdout
    assert_same_content(place, "stopped")


@pytest.mark.slow
def test_torchrun_prints_the_reason_and_fails(runs):
    place, _ = runs
    result = torchrun(*training(place, place / "none"), "--data", place / "gone")
    assert result.returncode != 0
    assert f"error: data folder {place}/gone does not exist" in result.stderr


@pytest.mark.slow
def test_two_machines_give_the_numbers_of_one(runs):
    """Two torchruns here, as on two machines; the second has a run folder that it does not need."""
    place, _ = runs
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]

    def one(node: int) -> subprocess.CompletedProcess[str]:
        script = [
            "-m",
            "tests.support.distributed_script",
            *training(place, place / f"machine{node}"),
        ]
        return run_command([*TORCHRUN, *where, f"--node-rank={node}", *script])

    with ThreadPoolExecutor() as pool:
        first, second = pool.map(one, (0, 1))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "in 2 processes" in first.stdout
    assert second.stdout == ""
    assert not (place / "machine1").exists()
    assert_same_content(place, "machine0")


# --------------------------------------------------------------------------------------------
# One process fails: all end soon, and the reason is printed


def trainings(
    flags: Sequence[tuple], data: Path, folder: Path, *, machines: int = 1
) -> AbstractContextManager[list[Forked]]:
    """As many processes as there are `flags` that train into a folder."""

    def training(own: tuple) -> Callable[[], None]:
        return lambda: train(small_recipe(data, folder, *own))

    return processes([training(own) for own in flags], machines=machines)


def ends(started: list[Forked]) -> tuple[list[int], list[str]]:
    """The exit statuses, and the lines that the processes said on stderr apart from warnings."""
    said = []
    for process in started:
        text = process.communicate()[1].decode().replace("\r", "\n")
        assert "Traceback" not in text
        lines = [line for line in text.splitlines() if line.strip() and "%|" not in line]
        said += [line for line in lines if not line.startswith(("warning: ", "["))]
    return [process.returncode for process in started], said


def assert_whole(folder: Path) -> int:
    """A run folder of complete epochs; returns their number."""
    content = load(folder / "last.pth")
    assert content["iter"] == len(content["metrics"]) >= 1
    assert (folder / "metrics.csv").read_text().count("\n") == 1 + content["iter"]
    return content["iter"]


@pytest.mark.slow
def test_an_unreadable_image_is_named(tmp_path):
    data = write_rafdb(tmp_path / "data")
    image = data / "Image/aligned/train_00003_aligned.jpg"
    image.write_bytes(image.read_bytes()[:200])
    with trainings([("--workers", 0)] * 2, data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    assert sum(line.startswith(f"error: image {image} cannot be decoded") for line in said) >= 1
    assert not (tmp_path / "run/.lock").exists()


REFUSED = {
    "skipping": (("--on-bad-image", "skip"), "--on-bad-image skip is not supported with 2"),
    "few images": (("--batch-size", 3), "--batch-size is 3; BatchNorm needs at least 2"),
}


@pytest.mark.parametrize(("flags", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.slow
def test_what_several_processes_cannot_do_is_refused(flags, words, data, tmp_path):
    with trainings([flags, flags], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    assert any(words in line for line in said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("there", ["a run", "a file"])
@pytest.mark.slow
def test_a_folder_that_the_first_process_cannot_use_ends_all(data, tmp_path, there):
    if there == "a file":
        (tmp_path / "run").touch()
    else:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/metrics.csv").touch()
    with trainings([(), ()], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    words = "is a file; expected a folder" if there == "a file" else "already holds a run (metrics"
    assert sum(words in line for line in said) == 1


@pytest.mark.slow
def test_data_that_the_second_process_alone_does_not_find_end_all(data, tmp_path):
    with trainings([(), ("--data", tmp_path / "gone")], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    assert f"error: data folder {tmp_path}/gone does not exist" in "\n".join(said)


@pytest.mark.slow
def test_processes_with_other_settings_are_refused(data, tmp_path):
    with trainings([(), ("--lr", 0.5)], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    words = "process 1 of 2 has other settings than the first: lr 0.5, not 0.001"
    assert sum(words in line for line in said) == 1


@pytest.mark.parametrize("change", ["fewer", "labels"])
@pytest.mark.slow
def test_processes_with_other_data_are_refused(data, tmp_path, change):
    """They would wait for each other's batches for ever, or train on other labels."""
    other = write_rafdb(tmp_path / "other", train=21 if change == "labels" else 20)
    labels = other / "EmoLabel/list_patition_label.txt"
    if change == "labels":
        labels.write_text(labels.read_text().replace("train_00001.jpg 1", "train_00001.jpg 2"))
    with trainings([(), ("--data", other)], data, tmp_path / "run") as started:
        statuses, said = ends(started)
    assert statuses == [2, 2]
    assert sum("process 1 of 2 has other data than the first" in line for line in said) == 1


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow
def test_a_signal_to_one_ends_the_other(data, tmp_path, rank, number):
    with trainings([MANY, MANY], data, tmp_path / "run") as started:
        started[0].wait_for("epoch 2/")
        os.kill(started[rank].pid, number)
        statuses, said = ends(started)
    killed = number == signal.SIGKILL
    assert statuses[rank] == (-number if killed else 128 + number)
    assert statuses[1 - rank] == 2
    lost = f"error: process {1 - rank} of 2 has lost another one"
    assert sum(line.startswith(lost) for line in said) == 1
    assert_whole(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_to_all_ends_all(data, tmp_path, number):
    with trainings([MANY, MANY], data, tmp_path / "run") as started:
        started[0].wait_for("epoch 2/")
        for process in reversed(started):
            os.kill(process.pid, number)
        statuses, said = ends(started)
    assert statuses == [128 + number] * 2
    done = assert_whole(tmp_path / "run")
    assert (
        sum(f"; {done} of 10000 epochs are in {tmp_path}/run; to continue" in line for line in said)
        == 1
    )
