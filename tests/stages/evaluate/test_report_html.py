from __future__ import annotations

import base64
import io
import json
import math
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dp3d_cli.stages.evaluate.pairing import BASELINE
from dp3d_cli.stages.evaluate.report import write_report
from dp3d_cli.stages.evaluate.report_figures import best_method, figure
from dp3d_cli.stages.evaluate.report_html import report_html
from dp3d_cli.stages.evaluate.report_plots import Series, angle_plot, box_plot, interval_bar
from dp3d_cli.stages.evaluate.report_turntable import extremes, looked_at, turntable
from dp3d_cli.stages.evaluate.results import MethodResults, Results
from tests.stages.evaluate.report_results import (
    CONSISTENCY,
    FID,
    PSNR,
    SHARPNESS,
    SSIM,
    made_up_results,
    without_numbers,
)

VOID = {"meta", "link", "img", "input", "br", "hr"}
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'&amp;\n\u202e{{ 7*7 }}"


class Page(HTMLParser):
    """Elements with attributes and text; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []  # (innermost element, text)
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        return " ".join(" ".join(t for e, t in self.texts if e not in ("style", "script")).split())

    def data(self) -> dict:
        start = next(t for e, t in self.texts if e == "script" and t.startswith('{"methods"'))
        return json.loads(start)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return made_up_results(tmp_path_factory.mktemp("made-up"))


@pytest.fixture(scope="module")
def page(results: Results) -> Page:
    return Page(report_html(results))


def test_page_is_well_formed_and_needs_nothing_beside_itself(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href") and value is not None:
                assert value.startswith(("data:", "#")), (tag, value)
    style = next(text for element, text in page.texts if element == "style")
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert "default-src 'none'" in policy


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert set(ids.values()) == {1}
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)
    assert {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a} <= set(ids)


def test_every_picture_and_plot_has_words(page: Page) -> None:
    assert all(a.get("alt") for a in page.all("img"))
    plots = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert len(plots) > 8
    assert all(a.get("role") == "img" and a.get("aria-label") for a in plots)
    assert all(a.get("scope") for a in page.all("th"))


def test_protocol_block_states_what_decides_a_number(page: Page) -> None:
    text = page.text()
    for part in (
        "diffportrait3d-256", "256 × 256 px", "uint8 RGB, 0..255", "Pillow: Lanczos", "float64", "numpy 2.0",
        "w600k_r50.onnx", "ab" * 32, "1 (unreadable-image 1)", "Pictures are cropped.",
        "The paper does not name LPIPS's network.",
    ):  # fmt: skip
        assert part in text


def test_table_shows_mean_interval_count_and_coverage(results: Results, page: Page) -> None:
    text = page.text()
    own = figure(results, results.methods[1], "id_gt")
    assert f"{own.value:.3f} [{own.low:.3f}, {own.high:.3f}] n = 10 views, faces in 10 of 12" in text
    assert "lpips_alex ↓ lower unavailable dp3d weights fetch alexnet Why" in text
    assert "unavailable (weights-missing): alexnet is not here. dp3d weights fetch alexnet" in text
    assert "unavailable KID needs 50 pictures, there are 12." in text
    assert "59.00 n = 12 pictures" in text
    assert "n = 2 subjects" in text


def test_copied_reference_is_never_called_best(tmp_path: Path) -> None:
    results = made_up_results(tmp_path, (BASELINE, "ours", "theirs"))
    best = [best_method(facts, results) for facts in (FID, CONSISTENCY, SSIM)]
    assert best == [(2, False), (1, True), (2, False)]
    text = Page(report_html(results)).text()
    assert "4.250 best [4.000, 4.500] n = 2 subjects behind the copied reference" in text
    alone = made_up_results(tmp_path, (BASELINE, "ours"))
    assert best_method(SSIM, alone) is None


def test_published_rows_are_marked_apart_from_ours(page: Page) -> None:
    text = page.text()
    assert "DiffPortrait3D published 0.0068 0.23 0.62 0.21 0.70 27.4" in text
    assert "This report, measured: 3 methods · 2 subjects · 35 pairs · 256 × 256 px" in text
    assert "Source: Gu et al., DiffPortrait3D, CVPR 2024, arXiv:2312.13016" in text
    assert "Size [px]: 512 × 512 there, 256 × 256 here." in text


def test_warnings_and_omissions_are_told(page: Page) -> None:
    assert "The methods were not scored on the same pairs." in page.text()
    assert "2 of 8 metrics could not be computed: lpips_alex, kid." in page.text()
    assert "theirs carl all no-prediction carl: no prediction." in page.text()
    assert "unreadable-image theirs/anna, view 5: no picture" in page.text()


def test_long_lists_are_cut_and_say_so(results: Results) -> None:
    many = replace(results, omissions=results.omissions * 300)
    assert "And 101 more, listed in metrics.json" in Page(report_html(many)).text()


@pytest.mark.parametrize("place", ["method", "subject", "warning", "command"])
def test_hostile_names_stay_text(tmp_path: Path, place: str) -> None:
    methods = ("ours", HOSTILE) if place == "method" else ("ours", "theirs")
    subjects = (HOSTILE, "\udcff") if place == "subject" else ("anna",)
    results = made_up_results(tmp_path, methods=methods, subjects=subjects, views=2)
    plain = Page(
        report_html(
            made_up_results(tmp_path, ("ours", "theirs"), subjects=("anna", "b")[: len(subjects)], views=2)
        )
    )
    if place == "warning":
        results = replace(results, warnings=(HOSTILE,))
    if place == "command":
        results = replace(
            results, unavailable=(replace(results.unavailable[0], command=HOSTILE, message=HOSTILE),)
        )
    hostile = Page(report_html(results))
    assert len(hostile.all("script")) == len(plain.all("script")) == 2
    assert not any(a.get("src") == "x" for a in hostile.all("img"))
    assert "\u202e" not in report_html(results)
    assert "{{ 7*7 }}" in hostile.text() or place == "command"
    assert "<script>alert(1)</script>" in hostile.text()
    write_report(tmp_path / "report", results)
    assert (tmp_path / "report" / "report.html").read_bytes().decode("utf-8")


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    contents = []
    for place in ("here", "there/deeper"):
        results = made_up_results(tmp_path / place)
        report = write_report(tmp_path / place / "report", results)
        contents.append([path.read_bytes() for path in report.files])
    assert contents[0] == contents[1]
    assert [path.name for path in report.files] == [
        "metrics.json",
        "per_image.csv",
        "report.md",
        "report.html",
    ]
    assert str(tmp_path).encode() not in b"".join(contents[0])


def test_incomplete_results_are_refused(tmp_path: Path, results: Results) -> None:
    with pytest.raises(ValueError, match="2 matches are not scored yet"):
        write_report(tmp_path, replace(results, missing=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_break_nothing(results: Results, value: float) -> None:
    text = report_html(without_numbers(results, value))
    page = Page(text)
    for attribute in ("x", "y", "cx", "cy", "x1", "x2", "points", "d", "width"):
        values = [a[attribute] for _, a in page.elements if attribute in a]
        assert not any("nan" in v or "inf" in v for v in values if v)
    assert "12 not finite" in page.text()


def test_one_subject_with_one_view(tmp_path: Path) -> None:
    page = Page(report_html(made_up_results(tmp_path, ("ours",), ("anna",), views=1)))
    assert "n = 1 view" in page.text()
    assert len(page.data()["subjects"][0]["views"]) == 1


def test_empty_methods_give_a_page(tmp_path: Path) -> None:
    page = Page(report_html(made_up_results(tmp_path, methods=())))
    assert "Nothing was scored." in page.text()
    assert page.all("script") == []


def test_turntable_holds_all_methods_in_lockstep(results: Results, page: Page) -> None:
    data = page.data()
    assert data["methods"] == [BASELINE, "ours", "theirs"]
    assert [subject["id"] for subject in data["subjects"]] == ["anna", "bob"]
    views = data["subjects"][1]["views"]
    assert [view["view"] for view in views] == list(range(6))
    assert views[1]["yaw"] == pytest.approx(math.degrees(0.35 * math.sin(2 * math.pi / 6)), abs=0.01)
    assert len({view["methods"][0]["picture"] for view in views}) == 1  # the copied reference
    assert len({view["methods"][1]["picture"] for view in views}) == 6
    assert len({view["truth"] for view in views}) == 6
    score = results.methods[1].subjects[1].rows[2].values["psnr"]
    assert views[2]["methods"][1]["values"][0] == f"{score:.2f}"
    assert [metric["name"] for metric in data["metrics"]] == ["psnr", "ssim", "sharpness", "id_gt"]
    assert views[1]["methods"][1]["values"][3] == "no face"
    assert data["subjects"][0]["views"][5]["methods"][2] is None  # the bad pair
    for picture in data["pictures"]:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert (image.format, image.size) == ("JPEG", (96, 96))


def test_angles_that_one_method_states_hold_for_all(results: Results) -> None:
    def forget(method: MethodResults) -> MethodResults:
        subjects = (
            replace(s, rows=tuple(replace(row, yaw=None, pitch=None) for row in s.rows))
            for s in method.subjects
        )
        return replace(method, subjects=tuple(subjects))

    forgetful = replace(results, methods=(results.methods[0], *map(forget, results.methods[1:])))
    assert report_html(forgetful) == report_html(results)
    nothing = Page(report_html(replace(results, methods=tuple(map(forget, results.methods)))))
    assert "No camera angles are known: --cameras NAME_OR_FILE" in nothing.text()
    assert nothing.data()["subjects"][0]["views"][0]["yaw"] is None


def test_pictures_are_those_of_their_views(results: Results, page: Page) -> None:
    data = page.data()
    view = data["subjects"][0]["views"][2]
    small = Image.open(io.BytesIO(base64.b64decode(data["pictures"][view["methods"][1]["picture"]])))
    with Image.open(results.methods[1].subjects[0].pair(2).prediction.path) as original:
        difference = np.abs(np.asarray(small, float) - np.asarray(original, float)).mean()
    assert difference < 4


def test_size_is_bounded_and_subjects_left_out_are_counted(tmp_path: Path) -> None:
    subjects = tuple(f"subject-{n}" for n in range(6))
    results = made_up_results(tmp_path, ("ours",), subjects, views=4, side=128, noise=True)
    whole = turntable(results, 10_000_000)
    assert (whole.subjects, whole.of_subjects, whole.thinned) == (6, 6, None)
    bound = len(whole.data) // 3
    part = turntable(results, bound)
    assert 1 <= part.subjects < 3
    assert len(part.data) < bound * 1.05
    text = Page(report_html(results, bound)).text()
    assert f"{part.subjects} of 6 subjects embedded, the first by name, to bound the file's size" in text


def test_first_subject_is_thinned_rather_than_left_out(tmp_path: Path) -> None:
    results = made_up_results(tmp_path, ("ours",), ("anna",), views=8, side=128, noise=True)
    whole = turntable(results, 10_000_000)
    part = turntable(results, len(whole.data) // 2)
    views = json.loads(part.data)["subjects"][0]["views"]
    assert [view["view"] for view in views] == [0, 2, 4]
    assert part.thinned == 7


def test_long_trajectories_are_thinned_evenly(tmp_path: Path) -> None:
    results = made_up_results(tmp_path, ("ours",), ("anna",), views=100, side=16)
    views = [view["view"] for view in json.loads(turntable(results, 10_000_000).data)["subjects"][0]["views"]]
    assert len(views) == 48
    assert views[0] == 0
    assert set(np.diff(views)) == {2, 3}


def test_missing_pictures_are_shown_as_missing(tmp_path: Path) -> None:
    results = made_up_results(tmp_path, ("ours",), ("anna",), views=3)
    results.methods[0].subjects[0].pair(1).prediction.path.write_bytes(b"")
    page = Page(report_html(results))
    assert page.data()["subjects"][0]["views"][1]["methods"][0]["picture"] is None
    assert "no picture" in page.text()


def test_views_without_truth_have_none(tmp_path: Path) -> None:
    results = made_up_results(tmp_path, ("ours",), ("anna",), views=3)
    (method,) = results.methods
    (subject,) = method.subjects
    pairs = tuple(replace(pair, truth=None) for pair in subject.match.pairs)
    subject = replace(subject, match=replace(subject.match, pairs=pairs))
    page = Page(report_html(replace(results, methods=(replace(method, subjects=(subject,)),))))
    assert page.data()["subjects"][0]["views"][0]["truth"] is None
    assert not any((a["alt"] or "").startswith("truth") for a in page.all("img"))


def test_extremes_are_the_best_and_worst_rows(results: Results) -> None:
    assert [facts.name for facts in looked_at(results)] == ["ssim", "id_gt"]
    own = extremes(results, SSIM, [None, 0, 1], 8)[1]
    values = sorted(row.values["ssim"] for _, row in results.methods[1].rows)
    assert [pair.value for pair in own.best] == [f"{value:.3f}" for value in values[::-1][:3]]
    assert [pair.value for pair in own.worst] == [f"{value:.3f}" for value in values[:3]]
    near = extremes(results, SHARPNESS, [None, 0, 1], 8)[2]
    distances = [abs(float(pair.value) - 1) for pair in near.best]
    assert distances == sorted(distances)
    assert max(distances) <= min(abs(float(pair.value) - 1) for pair in near.worst)


def test_many_methods_share_colours_but_not_pictures_without_end(tmp_path: Path) -> None:
    results = made_up_results(tmp_path, tuple(f"m{n}" for n in range(10)), ("anna",), views=2, side=32)
    page = Page(report_html(results))
    assert "right the truth. The first 8 methods." in page.text()
    assert {alt.split(",")[0] for a in page.all("img") if (alt := a["alt"] or "")} == {
        "truth",
        *(f"m{n}" for n in range(8)),
    }


def test_no_pair_is_both_best_and_worst(tmp_path: Path) -> None:
    results = made_up_results(tmp_path, ("ours",), ("anna",), views=3)
    (own,) = extremes(results, SSIM, [0], 8)
    assert (len(own.best), len(own.worst)) == (1, 1)
    assert own.best[0].view != own.worst[0].view


def test_plots_place_values_in_order_and_inside() -> None:
    series = [
        Series(0, "one", tuple(float(n) for n in range(10)), tuple(float(n * 4 - 20) for n in range(10))),
        Series(None, BASELINE, (3.0,), (0.0,)),
    ]
    for plot in (box_plot(series, PSNR), angle_plot(series, PSNR, "yaw")):
        page = Page(plot)
        dots = [float(a["cx"]) for a in page.all("circle") if a.get("r") == "1.8"][:10]
        assert dots == sorted(dots)
        (svg,) = page.all("svg")
        width, height = map(float, svg["viewbox"].split()[2:])
        assert all(0 <= float(a["cx"]) <= width and 0 <= float(a["cy"]) <= height for a in page.all("circle"))
    label = next(a["aria-label"] for a in Page(box_plot(series, PSNR)).all("svg"))
    assert "one: median 4.50, quartiles 2.25 and 6.75, 10 views" in label


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 1.0, 1e4, 1e9])
def test_numbers_at_an_axis_have_room(scale: float) -> None:
    values = tuple(scale * (1 + n / 7) for n in range(8))
    plot = Page(angle_plot([Series(0, "one", values, tuple(map(float, range(8))))], SSIM, "yaw"))
    labels = [
        (float(attributes["x"]), text)
        for (tag, attributes), (_, text) in zip(
            [entry for entry in plot.elements if entry[0] in ("text", "title")], plot.texts, strict=True
        )
        if attributes.get("text-anchor") == "end"
    ]
    assert len(labels) >= 3
    assert all(x - 6 * len(text) > 0 for x, text in labels)


def test_plots_of_many_values_stay_small() -> None:
    values = tuple(np.random.default_rng(0).normal(size=50_000).tolist())
    series = [Series(0, "one", values, tuple(20 * v for v in values))]
    assert len(box_plot(series, SSIM)) < 10_000
    assert len(angle_plot(series, SSIM, "pitch")) < 20_000


def test_plots_of_equal_or_no_values() -> None:
    same = [Series(0, "one", (2.0,) * 5, (0.0,) * 5)]
    assert "nan" not in box_plot(same, SSIM) + angle_plot(same, SSIM, "yaw")
    assert box_plot([Series(0, "one", ())], SSIM) == ""
    assert angle_plot([Series(0, "one", ())], SSIM, "yaw") == ""


def test_bars_share_a_scale(results: Results) -> None:
    figures = [figure(results, method, "psnr") for method in results.methods]
    ends = []
    for own in figures:
        (interval,) = (a for a in Page(interval_bar(own, figures, 0)).all("line") if a["class"] == "interval")
        ends.append((own.low, float(interval["x1"]), own.high, float(interval["x2"])))
    scale = {round((x2 - x1) / (high - low), 0) for low, x1, high, x2 in ends}
    assert max(scale) - min(scale) <= 3
    assert interval_bar(replace(figures[0], value=None), figures, 0) == ""
