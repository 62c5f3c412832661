"""Runs are read as they were written, from their folders and from a csv of them."""

from __future__ import annotations

import pytest

from common.errors import InputError
from results.runs import read_metrics, read_run, read_runs, write_runs
from tests.support.run_folders import write_metrics, write_run


def test_a_run_is_read_as_it_was_written(tmp_path):
    folder = write_run(tmp_path / "r", "rafdb", [0.5, 0.75, 0.6], seed=3, heads=2)
    run = read_run(folder)
    assert (run.dataset, run.seed, run.epochs, run.best_epoch) == ("rafdb", 3, 3, 2)
    assert run.last == {"accuracy": 0.6, "mean_class_accuracy": 0.5}
    assert run.best == {"accuracy": 0.75, "mean_class_accuracy": 0.65}
    assert run.settings["heads"] == 2
    assert not {"output", "data", "workers", "device", "resume"} & run.settings.keys()


def test_the_best_epoch_is_the_first_of_equals(tmp_path):
    assert read_run(write_run(tmp_path / "r", "rafdb", [0.5, 0.7, 0.7])).best_epoch == 2


def test_an_unfinished_run_is_named_and_left_out(tmp_path):
    folder = write_run(tmp_path / "a/r", "rafdb", [0.5, 0.6])
    write_metrics(folder, [0.5])
    started = write_run(tmp_path / "b", "rafdb", [0.5])
    (started / "metrics.csv").unlink()
    assert read_runs(tmp_path) == ([], [folder, started])


def test_a_csv_of_runs_is_read_back_as_the_same_runs(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / f"runs/r{seed}"
        write_run(folder, "fer2013", [0.25 + seed / 3], seed=seed, images=(9, 11))
    lines = [f"{i},{i % 3},{i % 2}" for i in range(10)]  # one image was skipped
    (folder / "predictions.csv").write_text("\n".join(["index,label,predicted", *lines]))
    (folder / "speed.csv").write_text("epoch,images_per_second\n1,2.5\n2,4\n3,3\n")
    runs, _ = read_runs(tmp_path / "runs")
    assert [run.images_per_second for run in runs] == [None, 3.0]
    assert runs[1].correct().tolist() == [i % 3 == i % 2 for i in range(10)]
    write_runs(tmp_path / "runs.csv", runs)
    assert read_runs(tmp_path / "runs.csv") == (runs, [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", '{"dataset": "rafdb"}'),
        ("config.json", '{"dataset": 1, "settings": {}}'),
        ("metrics.csv", "epoch,accuracy\n1,0.5\n"),
        ("metrics.csv", "epoch,accuracy,mean_class_accuracy\n1,high,0.5\n"),
        ("metrics.csv", "epoch,accuracy,mean_class_accuracy\n1,nan,0.5\n"),
        ("metrics.csv", "epoch,accuracy,mean_class_accuracy\n1,0.5,0.5,0.5\n"),
        ("metrics.csv", "\0"),
    ],
)
def test_a_damaged_run_is_refused_by_name(tmp_path, name, content):
    folder = write_run(tmp_path / "r", "rafdb", [0.5])
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=name):
        read_runs(tmp_path)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "folder,dataset\nx,y\n", "folder\n"])
def test_a_csv_that_is_none_of_ours_is_refused(tmp_path, content):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(InputError, match="is not a csv of runs"):
        read_runs(tmp_path / "x.csv")


def test_metrics_that_are_not_there_are_no_rows(tmp_path):
    assert read_metrics(tmp_path / "metrics.csv") == []
