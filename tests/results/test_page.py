"""The page of `eval.py --report`: its numbers, its escaping, that it needs nothing else."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval as eval_script
from datasets import RAFDB
from networks import DAN, ResNet18
from results.calibration import BINS, Calibration
from results.evidence import Attention, Look, Mistake
from results.metrics import metrics_json
from results.page import Embedded, embedded, page, percent, share, where_strongest
from results.report import Report
from results.text import printable
from tests.support.metrics import metrics_with

HOSTILE = '<script>alert("1")</script>&"\'><img src=x onerror=alert(2)>{{ 777 * 777 }}$a$'
BYTES = "f\udce4ce\x07\u202e.png"  # a file name that is no UTF-8, rings a bell, turns the line
VOID = {"meta", "img", "br"}


class Parsed(HTMLParser):
    """A page taken apart; raises where tags do not match."""

    def __init__(self, content: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # (innermost tag, text)
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert tag not in VOID
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def said(self) -> str:
        """What a reader reads, with single spaces."""
        words = " ".join(data for tag, data in self.texts if tag != "style")
        return " ".join(words.split())


def calibration(temperature: float = 1.0) -> Calibration:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 3, generator=generator)
    return Calibration.of(logits, torch.arange(20) % 3, temperature)


def numbers(**changes) -> dict:
    """A report.json of three classes, one of which is never predicted."""
    return {
        "checkpoint": "runs/x/last.pth",
        "epoch": 3,
        "dataset": "rafdb",
        "split": "test",
        "layout": "",
        "image_size": 64,
        "classes": ["Happy", "Sad", "Fear"],
        **metrics_json(metrics_with([[8, 1, 0], [2, 5, 0], [1, 3, 0]])),
        "paper": [
            {
                "metric": "accuracy",
                "paper_percent": 89.7,
                "ours_percent": 65.0,
                "difference": -24.7,
                "source": "Table 5",
            }
        ],
        "tta": None,
        "calibration": {"before": calibration().json()},
        "skipped": [],
        "published_images": True,
        **changes,
    }


def photo(seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    return Image.fromarray(values)


def report(**changes) -> Report:
    maps = np.random.default_rng(1).random((3, 4, 4))
    overlaps = [[1.0, 0.25, 0.5], [0.25, 1.0, 0.75], [0.5, 0.75, 1.0]]
    parts = {
        "numbers": numbers(),
        "network": "DAN",
        "history": [
            {"epoch": 1.0, "lr": 0.1, "loss": 2.5, "cls": 1.5, "affinity": 1.0}
            | {"accuracy": 0.5, "mean_class_accuracy": 0.4, "macro_f1": 0.3},
            {"epoch": 2.0, "lr": 0.1, "loss": 1.25, "cls": 0.75, "affinity": 0.5}
            | {"accuracy": 0.65, "mean_class_accuracy": 0.55, "macro_f1": 0.5},
        ],
        "mistakes": [Mistake(photo(), "a/one.jpg", 0, [0.0004, 0.9, 0.0996])],
        "attention": Attention([Look(photo(2), "a/two.jpg", 1, maps)], overlaps, 64, 0.375),
        "command": "python eval.py runs/x/last.pth --report out",
        "facts": {"PyTorch": "2.15.0"},
        **changes,
    }
    return Report(**parts)


def test_the_page_shows_the_probabilities_before_and_after_calibration():
    before, after = calibration(), calibration(1.7)
    uncalibrated = Parsed(page(report())).said()
    assert "python -m tools.calibrate fits one" in uncalibrated
    content = numbers(calibration={"before": before.json(), "after": after.json()})
    said = Parsed(page(report(numbers=content)))
    for name, made in (("before", before), ("after", after)):
        values = f"{100 * made.ece:.2f} {made.brier:.4f} {made.nll:.4f}"
        assert f"{name} {made.temperature:.4f} {values}" in said.said()
    labels = [svg.get("aria-label") for svg in said.all("svg")]
    expected = f"before {100 * before.ece:.2f} %, after {100 * after.ece:.2f} %"
    assert any(label.endswith(expected) for label in labels)
    for made in (before, after):
        rows = zip(made.counts, made.confidences, made.accuracies, strict=True)
        for i, (count, confidence, accuracy) in enumerate(rows):
            place = f"{100 * i / BINS:.1f} to {100 * (i + 1) / BINS:.1f} {count} "
            cells = (
                f"{100 * confidence:.2f} {100 * accuracy:.2f} {100 * (accuracy - confidence):+.2f}"
            )
            assert (place + cells in said.said()) == (count > 0)


def test_the_page_says_what_test_time_augmentation_gives():
    assert "augmentation" not in Parsed(page(report())).said()
    tta = {"views": 12, **metrics_json(metrics_with([[9, 0, 0], [2, 5, 0], [0, 0, 4]]))}
    said = Parsed(page(report(numbers=numbers(tta=tta)))).said()
    assert "probabilities of 12 views of each image: accuracy 90.00 %" in said


def test_the_page_has_the_numbers_of_the_report():
    content = numbers()
    said = Parsed(page(report())).said()
    assert "65.00 % of 20 images are right (13)" in said
    low, high = content["accuracy_interval_95"]
    assert f"{100 * low:.2f} to {100 * high:.2f} %" in said
    assert "Accuracy Table 5 65.00 89.70 -24.70" in said
    for i, name in enumerate(content["classes"]):
        row = (name, sum(content["confusion_counts"][i]), content["per_class_recall"][i])
        row += (content["per_class_precision"][i], content["per_class_f1"][i])
        assert " ".join(map(str, [*row[:2], *map(percent, row[2:])])) in said
        fractions = " ".join(f"{100 * share:.1f}" for share in content["confusion_matrix"][i])
        assert f"{name} {fractions}" in said
    assert "Best accuracy 65.00 % after epoch 2" in said
    assert "1 50.00 40.00 2.5000 1.5000 1.0000" in said
    assert "1 of the 7 wrong images" in said
    assert "taken for Sad 90.0 % labelled Happy under 0.1 % others: Fear 10.0 %" in said
    # (0.25 + 0.5 + 0.75) / 3
    assert "Mean overlap of two heads: 0.500, over 64 images" in said
    assert "saturated in 37.5 % of the channels" in said
    other = report().attention._replace(saturation=None)  # another fusion
    assert "saturated" not in Parsed(page(report(attention=other))).said()
    assert "4 x 4 positions" in said
    assert "python eval.py runs/x/last.pth --report out" in said
    assert "2.15.0" in said


def test_bars_are_as_long_as_the_recalls():
    styles = [tag.get("style") for tag in Parsed(page(report())).all("span") if tag.get("style")]
    assert styles == [f"width:{100 * r:.1f}%" for r in numbers()["per_class_recall"]]


def test_without_numbers_of_the_paper_there_is_no_column_for_them():
    said = Parsed(page(report(numbers=numbers(paper=[])))).said()
    assert "The paper has no numbers for this network" in said
    assert "difference" not in said
    said = Parsed(page(report(numbers=numbers(paper=[], published_images=False)))).said()
    assert "not the published split, so the paper's numbers do not stand here" in said
    assert "difference" not in said
    assert "89.7" not in said


def test_skipped_images_are_counted():
    assert "kipped" not in Parsed(page(report())).said()
    for lines, words in ((["a"], "1 image that"), (["a", "b"], "2 images that")):
        said = Parsed(page(report(numbers=numbers(skipped=lines)))).said()
        assert f"Skipped: {words} cannot be read." in said


def test_a_network_without_heads_and_a_run_without_history_say_so():
    said = Parsed(page(report(attention=None, network="ResNet18", history=[], mistakes=[]))).said()
    assert "ResNet18 has no attention heads" in said
    assert "no metrics.csv" in said
    assert "No image was taken for another class" in said


def test_one_head_and_one_epoch_have_nothing_to_compare():
    whole = report()
    look = whole.attention.looks[0]
    single = Attention([look._replace(maps=look.maps[:1])], [[1.0]], 8, 0.0)
    said = Parsed(page(report(attention=single, history=whole.history[:1]))).said()
    assert "There is one head" in said
    assert "last 50.00 % after epoch 1" in said


@pytest.mark.parametrize("bad", [HOSTILE, BYTES], ids=["markup", "bytes"])
def test_names_from_files_are_text_wherever_they_stand(bad):
    classes = [f"{bad}{i}" for i in range(3)]
    whole = report()
    content = numbers(classes=classes, checkpoint=bad, dataset=bad, split=bad)
    content["paper"] = [{**content["paper"][0], "source": bad}]
    history = [{**row, bad: 1.0} for row in whole.history]
    made = page(
        report(
            numbers=content,
            network=bad,
            history=history,
            mistakes=[m._replace(source=bad) for m in whole.mistakes],
            attention=Attention(
                [look._replace(source=bad) for look in whole.attention.looks],
                whole.attention.overlaps,
                64,
                0.375,
            ),
            command=bad,
            facts={bad: bad},
        )
    )
    made.encode()  # no lone surrogates
    found, plain = Parsed(made), Parsed(page(whole))
    # The same elements with the same attributes as a page of plain names, so nothing of the names
    # became markup.
    names = {tag for tag, _ in found.tags}
    assert names == {tag for tag, _ in plain.tags}
    assert len(found.all("img")) == len(plain.all("img"))
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert all(image["src"].startswith("data:image/") for image in found.all("img"))
    shown = " ".join(printable(bad).split())
    assert found.said().count(shown) > 20
    assert all(printable(bad) in image["alt"] for image in found.all("img"))
    assert "603729" not in found.said()  # no template either
    assert not any(ord(c) < 32 and c != "\n" for c in made)
    assert "\u202e" not in made


def test_the_page_refers_to_nothing_outside_itself():
    made = page(report())
    found = Parsed(made)
    assert "//" not in re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", made)
    assert set(re.findall(r"url\((.)", made)) == {"#"}
    assert "@import" not in made
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.tags}
    places = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    for tag, attributes in found.tags:
        assert not {"srcset", "xlink:href"} & set(attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        if "href" in attributes:
            assert tag == "use"
            assert attributes["href"].removeprefix("#") in places


def test_no_two_elements_have_one_id():
    ids = [attributes["id"] for _, attributes in Parsed(page(report())).tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0


def test_equal_reports_are_equal_pages():
    assert page(report()) == page(report())


def test_a_screen_reader_finds_its_way():
    found = Parsed(page(report()))
    assert found.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(found.all("main")) == 1
    assert found.all("th")
    assert all(cell.get("scope") in ("row", "col") for cell in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table"))
    assert all(image.get("alt") for image in found.all("img"))
    for drawing in found.all("svg"):
        assert drawing.get("aria-hidden") == "true" or (
            drawing["role"] == "img" and drawing["aria-label"]
        )
    labels = [tag["aria-label"] for tag in found.all("svg") if "role" in tag]
    assert any("accuracy 50.00 to 65.00" in label for label in labels)
    # What scrolls can be reached and is named.
    for box in found.all("div"):
        if box.get("class") == "scroll":
            assert (box["role"], box["tabindex"]) == ("region", "0")
            assert box["aria-label"]


# --------------------------------------------------------------------------------------------
# Parts


def test_a_picture_is_embedded_at_most_160_pixels_wide_and_high():
    found = embedded(Image.new("L", (400, 100), 200))
    assert isinstance(found, Embedded)
    assert (found.width, found.height) == (160, 40)
    assert found.uri.startswith("data:image/jpeg;base64,/9j/")


def test_shares_and_percents():
    assert [percent(value) for value in (None, 0.0, 0.12345, 1.0)] == [
        "–",
        "0.00",
        "12.35",
        "100.00",
    ]
    assert [share(value) for value in (0.0004, 0.0016, 0.5)] == [
        "under 0.1\xa0%",
        "0.2\xa0%",
        "50.0\xa0%",
    ]


def test_the_place_of_a_peak_in_words():
    heat = np.zeros((7, 7))
    heat[0, 6] = 1
    assert where_strongest(heat) == "at the top, right"
    assert where_strongest(heat.T) == "at the bottom, left"
    heat[3, 3] = 2
    assert where_strongest(heat) == "in the middle, centre"


# --------------------------------------------------------------------------------------------
# The whole command


def run_folder(root: Path, network: torch.nn.Module) -> Path:
    """A run folder as a train script leaves it."""
    root.mkdir(parents=True)
    classes = ["Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral"]
    content = {"iter": 1, "model_state_dict": network.state_dict(), "dataset": "rafdb"}
    torch.save(
        {**content, "class_names": classes, "settings": {"image_size": 64}}, root / "last.pth"
    )
    columns = "epoch,lr,loss,cls,accuracy,mean_class_accuracy,macro_f1"
    (root / "metrics.csv").write_text(f"{columns}\n1,0.1,2.5,2.5,0.25,0.125,0.1\n")
    (root / "config.json").write_text(json.dumps({"command": "python train_rafdb.py --a <b>"}))
    return root


@pytest.mark.filterwarnings("ignore:.*published are")
@pytest.mark.parametrize("network", ["dan", "resnet18"])
def test_the_command_writes_the_page_of_its_own_numbers(
    network, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(RAFDB, "published_counts", {"test": ((2,) * 7,)})
    torch.manual_seed(0)
    model = DAN(7, 2) if network == "dan" else ResNet18(7)
    run = run_folder(tmp_path / 'a<b>&"c', model)
    words = [run / "last.pth", "--data", data, "--report", tmp_path / "out", "--workers", 0]
    eval_script.main([str(word) for word in words])
    assert f"{tmp_path / 'out/index.html'}" in capsys.readouterr().out
    content = json.loads((tmp_path / "out/report.json").read_text())
    found = Parsed((tmp_path / "out/index.html").read_text())
    said = found.said()
    assert f"{percent(content['accuracy'])} % of 14 images are right" in said
    assert f"{content['paper'][0]['difference']:+.2f}" in said
    assert "1 25.00 12.50 2.5000" in said  # metrics.csv
    assert "python train_rafdb.py --a <b>" in said
    assert f"--data {data} --report" in said
    assert torch.__version__ in said
    wrong = 14 - sum(row[i] for i, row in enumerate(content["confusion_counts"]))
    looks = 6 * 3 if network == "dan" else 0
    assert len(found.all("img")) == min(wrong, 12) + looks
    assert ("has no attention heads" in said) == (network == "resnet18")
    assert ("over 14 images drawn from all classes" in said) == (network == "dan")
    assert (tmp_path / "out/confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:.*published are")
def test_the_papers_numbers_stand_only_beside_the_published_split(data, tmp_path, capsys):
    torch.manual_seed(0)
    run = run_folder(tmp_path / "run", ResNet18(7))
    words = [run / "last.pth", "--data", data, "--report", tmp_path / "out", "--workers", 0]
    eval_script.main([str(word) for word in words])
    shown = capsys.readouterr().out
    assert "\nnot beside the paper: these 14 images are not the published split\n" in shown
    content = json.loads((tmp_path / "out/report.json").read_text())
    assert (content["paper"], content["published_images"]) == ([], False)
    said = Parsed((tmp_path / "out/index.html").read_text()).said()
    assert "These images are not the published split" in said
    assert "86.25" not in said + shown


# --------------------------------------------------------------------------------------------
# In a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

# What is measured inside the page: sizes, colours, and the least contrast of any text with the
# nearest background below it (WCAG 2's ratio).
PROBE = """
const frame = document.querySelector('iframe');
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const rgb = (words) => {
    const v = words.match(/[\\d.]+/g).map(Number);
    const unit = words.startsWith('color(') ? v.slice(0, 3) : v.slice(0, 3).map((c) => c / 255);
    return { unit, alpha: v.length > 3 ? v[3] : 1 };
  };
  const light = (unit) => {
    const l = unit.map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2];
  };
  const below = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = rgb(view.getComputedStyle(at).backgroundColor);
      if (found.alpha > 0) return found.unit;
    }
    return [1, 1, 1];
  };
  let least = 21, texts = 0;
  page.querySelectorAll('details').forEach((node) => { node.open = true; });
  for (const node of page.body.querySelectorAll('*')) {
    const own = [...node.childNodes].some((c) => c.nodeType === 3 && c.data.trim());
    if (!own) continue;
    const style = view.getComputedStyle(node);
    const ink = light(rgb(node.closest('svg') ? style.fill : style.color).unit);
    const paper = light(below(node));
    least = Math.min(least, (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05));
    texts += 1;
  }
  document.documentElement.dataset.found = JSON.stringify({
    inside: view.innerWidth, needed: page.documentElement.scrollWidth, least, texts,
    paper: light(below(page.body)),
    broken: [...page.images].filter((image) => image.naturalWidth === 0).length,
  });
};
"""


def in_browser(made: str, folder: Path, *, width: int, dark: bool) -> tuple[dict, str]:
    """What `PROBE` finds in a page `width` pixels wide, and the browser's messages.

    The page stands in a frame, since a browser's window has a least width of its own.
    """
    mode = "dark" if dark else "light"
    wrapper = folder / f"{mode}{width}.html"
    wrapper.write_text(
        f'<!DOCTYPE html><html><meta charset="utf-8"><meta name="color-scheme" content="{mode}">'
        f'<iframe srcdoc="{html.escape(made)}" style="border:0;width:{width}px;height:900px">'
        f"</iframe><script>{PROBE}</script></html>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"]
    flags += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    result = subprocess.run(
        [BROWSER, *flags, wrapper.as_uri()], capture_output=True, timeout=120, check=True
    )
    found = re.search(r'data-found="([^"]*)"', result.stdout.decode())
    assert found, result.stderr.decode()
    messages = [line for line in result.stderr.decode().splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), "\n".join(messages)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_page_on_a_phone_in_both_schemes(dark, tmp_path):
    eight = ["Surprise", "Fear", "Disgust", "Happiness", "Sadness", "Anger", "Neutral", "Contempt"]
    counts = torch.diag(torch.arange(20, 100, 10)) + 3
    content = numbers(classes=eight, **metrics_json(metrics_with(counts.tolist())))
    mistakes = [Mistake(photo(i), "x" * 90 + ".jpg", 0, [0.01] + [0.14] * 7) for i in range(3)]
    made = page(report(numbers=content, mistakes=mistakes, command="python eval.py " + "y" * 200))
    for width in (390, 1200):
        found, messages = in_browser(made, tmp_path, width=width, dark=dark)
        assert found["inside"] >= width - 20  # a scroll bar may take its part
        assert found["needed"] <= found["inside"]
        assert found["broken"] == 0
        assert found["texts"] > 100
        assert found["least"] >= 4.5  # WCAG 2, level AA
        assert (found["paper"] < 0.05) == dark
        assert (found["paper"] > 0.9) != dark
        assert messages == ""
