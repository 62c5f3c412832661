"""A report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from .evidence import Attention, Look, Mistake
from .html import Child, document, element, picture
from .pictures import enlarged, overlay
from .svg import Line, line_chart

STYLE = Path(__file__).with_name("page.css")
PICTURE_SIDE = 160  # pixels at most
NOT_TERMS = ("epoch", "lr", "loss", "accuracy", "mean_class_accuracy", "macro_f1")


@dataclass(frozen=True)
class Report:
    """Everything that the page says."""

    numbers: Mapping[str, Any]  # report.json's
    network: str  # "DAN", "ResNet18"
    history: Sequence[Mapping[str, float]]  # metrics.csv of the run; empty where there is none
    mistakes: Sequence[Mistake]  # the worst ones
    attention: Attention | None  # None: the network has no heads
    command: str
    facts: Mapping[str, str]  # versions and the like, by name


def page(report: Report) -> str:
    """The report as HTML; every text in it is escaped."""
    numbers = report.numbers
    title = f"{report.network} on {numbers['dataset']} {numbers['split']}"
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{title}: {percent(numbers['accuracy'])} %"),
        element("style", f"\n{STYLE.read_text(encoding='utf-8')}"),
    ]
    sections = [
        *_opening(title, numbers),
        *_comparison(numbers),
        *_per_class(numbers),
        *_confusion(numbers),
        *_curves(report.history),
        *_mistakes(report.mistakes, numbers),
        *_attention(report.attention, report.network, numbers),
        *_making(report),
    ]
    return document("en", head, [element("main", *sections)])


def percent(fraction: float | None) -> str:
    """A fraction as percent, without the sign; a dash where there is no number."""
    return "–" if fraction is None else f"{100 * fraction:.2f}"


def _opening(title: str, numbers: Mapping[str, Any]) -> list[Element]:
    low, high = numbers["accuracy_interval_95"]
    right = sum(row[i] for i, row in enumerate(numbers["confusion_counts"]))
    bad = len(numbers["skipped"])
    without = f" {bad:,} images that cannot be read were skipped." if bad else ""
    return [
        element("h1", title),
        element(
            "p",
            element("strong", f"{percent(numbers['accuracy'])} %"),
            f" of {numbers['images']:,} images are right ({right:,}); the 95 % interval for a "
            f"sample of this size is {percent(low)} to {percent(high)} %.{without}",
            class_="lede",
        ),
    ]


def _comparison(numbers: Mapping[str, Any]) -> list[Element]:
    """The numbers, beside the paper's where it has some."""
    names = {
        "accuracy": "Accuracy",
        "mean_class_accuracy": "Mean class accuracy",
        "macro_f1": "Macro F1",
    }
    beside = bool(numbers["paper"])
    rows: list[list[Child]] = []
    for metric, name in names.items():
        ours = percent(numbers[metric])
        theirs = [row for row in numbers["paper"] if row["metric"] == metric]
        rows += [
            [
                _with_source(name, row["source"]),
                ours,
                f"{row['paper_percent']:.2f}",
                f"{row['difference']:+.2f}",
            ]
            for row in theirs
        ] or [[name, ours, "–", "–"] if beside else [name, ours]]
    if not beside:
        note = "In percent. The paper has no numbers for this network on this split."
        table = _table(note, ("metric", "here"), rows)
    else:
        note = "In percent; differences in points."
        if not numbers["published_images"]:
            note += (
                f" The {numbers['images']:,} images are not the published split: the paper's "
                "numbers stand there for the form alone."
            )
        table = _table(note, ("metric", "here", "paper", "difference"), rows, class_="wide")
    return [element("h2", "Numbers"), _scrolling("Numbers", table)]


def _with_source(name: str, source: str) -> Element:
    return element("span", name, element("br"), element("small", source, class_="quiet"))


def _per_class(numbers: Mapping[str, Any]) -> list[Element]:
    columns = ("class", "images", "recall", "precision", "F1")
    values = zip(
        numbers["classes"],
        numbers["confusion_counts"],
        numbers["per_class_recall"],
        numbers["per_class_precision"],
        numbers["per_class_f1"],
        strict=True,
    )
    rows = [
        [name, f"{sum(counts):,}", _with_bar(recall), percent(precision), percent(f1)]
        for name, counts, recall, precision, f1 in values
    ]
    note = "Recall: share of the images of the class that are found. In percent."
    return [
        element("h2", "Classes"),
        _scrolling("Classes", _table(note, columns, rows, class_="wide")),
    ]


def _with_bar(fraction: float | None) -> Element:
    width = 0.0 if fraction is None else 100 * fraction
    filled = element("span", style=f"width:{width:.1f}%")
    return element(
        "span", percent(fraction), element("span", filled, class_="bar", aria_hidden="true")
    )


def _confusion(numbers: Mapping[str, Any]) -> list[Element]:
    classes = numbers["classes"]
    header = element(
        "tr",
        element("td"),
        *(element("th", name, scope="col") for name in classes),
    )
    body = [
        element(
            "tr",
            element("th", name, scope="row"),
            *(
                element(
                    "td",
                    f"{100 * share:.1f}",
                    style=f"--share:{share:.3f}",
                    **({"class_": "right"} if column == row else {}),
                )
                for column, share in enumerate(numbers["confusion_matrix"][row])
            ),
        )
        for row, name in enumerate(classes)
    ]
    caption = "Rows: true class. Columns: predicted class. In percent of the true class."
    table = element(
        "table",
        element("caption", caption),
        element("thead", header),
        element("tbody", *body),
        class_="matrix",
    )
    return [element("h2", "Confusion matrix"), _scrolling("Confusion matrix", table)]


def _curves(history: Sequence[Mapping[str, float]]) -> list[Element]:
    heading = element("h2", "Training")
    if not history:
        return [heading, element("p", "The folder of the checkpoint has no metrics.csv.")]
    epochs = [int(row["epoch"]) for row in history]
    scores = [
        Line("accuracy", [100 * row["accuracy"] for row in history]),
        Line("mean class accuracy", [100 * row["mean_class_accuracy"] for row in history]),
    ]
    terms = [name for name in history[0] if name not in NOT_TERMS]
    losses = [
        Line(name if name == "loss" else f"{name} term", [row[name] for row in history])
        for name in ("loss", *(terms if len(terms) > 1 else ()))  # a single term is the loss
        if name in history[0]
    ]
    best = max(history, key=lambda row: row["accuracy"])
    columns = ["epoch", *(line.name for line in scores + losses)]
    rows = [
        [str(epoch), *(f"{line.values[i]:.2f}" for line in scores)]
        + [f"{line.values[i]:.4f}" for line in losses]
        for i, epoch in enumerate(epochs)
    ]
    table = _table("Accuracies in percent of the evaluated split.", columns, rows)
    words = (
        f"Best accuracy {percent(best['accuracy'])} % after epoch {int(best['epoch'])}, last "
        f"{percent(history[-1]['accuracy'])} % after epoch {epochs[-1]}."
    )
    drawn = [("Evaluated split, percent, by epoch", scores)]
    if losses:
        drawn.append(("Training loss and its terms, by epoch", losses))
    charts = element("div", *(_chart(epochs, *chart) for chart in drawn), class_="charts")
    details = element(
        "details", element("summary", "Every epoch as a table"), _scrolling("Epochs", table)
    )
    return [heading, element("p", words), charts, details]


def _chart(epochs: Sequence[int], label: str, lines: Sequence[Line]) -> Element:
    ends = ", ".join(f"{line.name} {line.values[0]:.2f} to {line.values[-1]:.2f}" for line in lines)
    key = [
        element(
            "li",
            element(
                "svg",
                element("line", x1="0", y1="4", x2="32", y2="4", class_=f"series-{number}"),
                viewBox="0 0 32 8",
                aria_hidden="true",
            ),
            line.name,
        )
        for number, line in enumerate(lines)
    ]
    return element(
        "figure",
        element("figcaption", label),
        line_chart(epochs, lines, label=f"{label}: {ends}"),
        element("ul", *key, class_="key"),
    )


def _mistakes(mistakes: Sequence[Mistake], numbers: Mapping[str, Any]) -> list[Element]:
    heading = element("h2", "Worst mistakes")
    if not mistakes:
        return [heading, element("p", "No image was taken for another class.")]
    wrong = numbers["images"] - sum(row[i] for i, row in enumerate(numbers["confusion_counts"]))
    words = (
        f"{len(mistakes)} of the {wrong:,} wrong images: those whose true class got the lowest "
        "probability, the worst first. Labels of a data set can be wrong too."
    )
    cards = [_card(mistake, numbers["classes"]) for mistake in mistakes]
    return [heading, element("p", words), element("ul", *cards, class_="cards")]


def _card(mistake: Mistake, classes: Sequence[str]) -> Element:
    taken = mistake.prediction
    order = sorted(range(len(classes)), key=lambda i: -mistake.probabilities[i])
    others = [i for i in order if i not in (taken, mistake.label)][:2]
    caption = [
        element("p", "taken for ", *_named(mistake, classes, taken)),
        element("p", "labelled ", *_named(mistake, classes, mistake.label)),
    ]
    if others:
        names = ", ".join(f"{classes[i]} {_share(mistake.probabilities[i])}" for i in others)
        caption.append(element("p", f"others: {names}"))
    caption.append(element("p", mistake.source))
    alt = f"{mistake.source}: labelled {classes[mistake.label]}, taken for {classes[taken]}"
    image = picture(mistake.image, alt=alt, side=PICTURE_SIDE)
    return element("li", element("figure", image, element("figcaption", *caption)))


def _named(mistake: Mistake, classes: Sequence[str], label: int) -> list[Child]:
    return [element("strong", classes[label]), f" {_share(mistake.probabilities[label])}"]


def _share(probability: float) -> str:
    # A no-break space: the sign stays with its number.
    return "under 0.1\xa0%" if probability < 0.001 else f"{100 * probability:.1f}\xa0%"


def _attention(
    attention: Attention | None, network: str, numbers: Mapping[str, Any]
) -> list[Element]:
    heading = element("h2", "Attention of the heads")
    if attention is None:
        words = f"{network} has no attention heads, so there are no maps to show."
        return [heading, element("p", words)]
    heads, height, width = attention.looks[0].maps.shape
    words = (
        "The map that each head multiplies the features with (the paper's spatial unit, "
        f"Equation 3), laid over the image; each is scaled to its own peak. A map has {height} x "
        f"{width} positions at this input size of {numbers['image_size']} pixels."
    )
    looks = [_look(look, numbers["classes"]) for look in attention.looks]
    sheet = element("ul", *looks, class_="looks", style=f"--columns:{heads + 1}")
    return [heading, element("p", words), sheet, *_overlaps(attention)]


def _look(look: Look, classes: Sequence[str]) -> Element:
    faces = [picture(look.image, alt=f"{look.source}: {classes[look.label]}", side=PICTURE_SIDE)]
    faces += [
        picture(
            overlay(enlarged(look.image, PICTURE_SIDE), heat),
            alt=f"head {number} over {look.source}: strongest {where_strongest(heat)}",
            side=PICTURE_SIDE,
        )
        for number, heat in enumerate(look.maps, start=1)
    ]
    names = ["image", *(f"head {number}" for number in range(1, len(faces)))]
    cells = [
        element("div", face, element("p", name, class_="head"))
        for face, name in zip(faces, names, strict=True)
    ]
    caption = element("figcaption", f"{classes[look.label]}, {look.source}")
    return element("li", element("figure", element("div", *cells), caption))


def where_strongest(heat: np.ndarray) -> str:
    """In words, the third of the image in each direction that the peak of a map (h, w) lies in."""
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    down = ("at the top", "in the middle", "at the bottom")[_third(row, heat.shape[0])]
    across = ("left", "centre", "right")[_third(column, heat.shape[1])]
    return f"{down}, {across}"


def _third(position: int, length: int) -> int:
    return int(3 * (position + 0.5) / length)


def _overlaps(attention: Attention) -> list[Element]:
    heading = element("h3", "How disjoint the heads are")
    heads = len(attention.overlaps)
    if heads == 1:
        return [heading, element("p", "There is one head, so there is nothing to compare.")]
    words = (
        f"Mean overlap of two heads: {attention.mean_overlap:.3f}, over {attention.images} images "
        "drawn from all classes in turn. Overlap is intersection over union of the two maps, "
        "each divided by its sum: the sum of the smaller values over the sum of the larger. "
        "0: they look at different places; 1: their maps are equal."
    )
    rows = [
        [f"head {i + 1}", *(f"{value:.3f}" for value in row)]
        for i, row in enumerate(attention.overlaps)
    ]
    columns = ["", *(f"head {i + 1}" for i in range(heads))]
    table = _table("Mean overlap of each pair of heads.", columns, rows)
    return [heading, element("p", words), _scrolling("Overlap of the heads", table)]


def _making(report: Report) -> list[Element]:
    rows = [list(pair) for pair in report.facts.items()]
    return [
        element("h2", "How this page was made"),
        element("pre", element("code", report.command)),
        _table("Versions and files.", ("what", "value"), rows, texts=(1,)),
        element(
            "footer",
            element(
                "p",
                "This page holds pictures of the data set; look at its licence before passing the "
                "page on.",
                class_="quiet",
            ),
        ),
    ]


def _table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Child]],
    *,
    texts: Sequence[int] = (),
    **attributes: str,
) -> Element:
    """A table; the first cell of a row is its header, the others are numbers but for `texts`."""
    kinds = [{} if i == 0 or i in texts else {"class_": "number"} for i in range(len(columns))]
    head = [
        element("th", name, scope="col", **kind) if name else element("td")
        for name, kind in zip(columns, kinds, strict=True)
    ]
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell, **kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in rows
    ]
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *head)),
        element("tbody", *body),
        **attributes,
    )


def _scrolling(label: str, table: Element) -> Element:
    """A table that scrolls by itself where it is wider than the screen, by keyboard too."""
    return element("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")
