"""The pictures of `quality.py`: gains head by head, and the spread of the measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean

Numbers = dict[str, dict[str, dict[str, float]]]
"""Method → metric → subject → mean over the subject's views."""

BOXES = (
    ("full", "psnr", "PSNR, frame [dB]"),
    ("face", "psnr", "PSNR, face [dB]"),
    ("full", "gradient_ncc", "gradient NCC, frame"),
    ("face", "gradient_ncc", "gradient NCC, face"),
    ("face", "sharpness", "sharpness, face (1 = truth)"),
    ("full", "grain", "grain [grey levels]"),
    ("face", "zncc", "luma ZNCC, face"),
    ("all cameras", "pose_camera_deg", "angle to the camera asked for [degrees]"),
)
BLUR_OF = {"sharpness": "psnr", "grain": "psnr", "pose_camera_deg": "psnr"}
"""A blur is not chosen by these: the one that is best by another measure is shown."""
OF_TRUTH = ("grain", "pose_camera_deg")  # by all others the truth is perfect
TARGET = "#e45756"
COLOURS = {"proxy": "#bab0ac", "best blur": "#f2cf5b", "views": "#4c78a8", "truth": "#54a24b"}


def plot_heads(parts: Mapping[str, Numbers], best_blur: Callable[[Numbers, str], str], path: Path) -> None:
    """The views' gain in PSNR by head, and boxes of each measure for proxies, best blur, views and truth.

    Args:
        parts: "full", "face" and "all cameras", as `quality.numbers_of` gives them.
        best_blur: names the best blur by a measure.
        path: of the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, places = pyplot.subplot_mosaic(
        [["gain"] * 4, list(range(4)), list(range(4, 8))],
        figsize=(14, 10.5),
        layout="constrained",
    )
    full = parts["full"]
    blur = best_blur(full, "psnr")
    proxy, views, blurred = (full[name]["psnr"] for name in ("proxy", "views", blur))
    gains = sorted(
        (value - proxy[subject], blurred[subject] - proxy[subject]) for subject, value in views.items()
    )
    axes = places["gain"]
    axes.bar(range(len(gains)), [own for own, _ in gains], color=COLOURS["views"], label="views")
    axes.plot(
        [other for _, other in gains], "o", color="#e0a800", markersize=4, label=f"best blur ({blur[5:]} px)"
    )
    mean = fmean(own for own, _ in gains)
    axes.axhline(mean, color=COLOURS["views"], linestyle="--", linewidth=1, label=f"views' mean, {mean:.2f}")
    axes.axhline(0.5, color=TARGET, linestyle=":", linewidth=1.2, label="asked for, 0.5")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks([])
    axes.set_xlabel("heads, in order of the views' gain")
    axes.set_ylabel("PSNR less the proxy's, frame [dB]")
    axes.legend(fontsize=8, loc="upper left")
    for place, (part, metric, title) in enumerate(BOXES):
        axes = places[place]
        numbers = parts[part]
        chosen = best_blur(parts["face" if part == "face" else "full"], BLUR_OF.get(metric, metric))
        named = {"proxy": "proxy", "best blur": chosen, "views": "views", "truth": "truth"}
        values = {
            label: list(numbers.get(name, {}).get(metric, {}).values()) for label, name in named.items()
        }
        shown = [label for label in named if values[label] and (label != "truth" or metric in OF_TRUTH)]
        boxes = axes.boxplot(
            [values[label] for label in shown],
            patch_artist=True,
            showmeans=True,
            widths=0.6,
            medianprops={"color": "black"},
            meanprops={
                "marker": "D",
                "markersize": 4,
                "markerfacecolor": "white",
                "markeredgecolor": "black",
            },
            flierprops={"marker": ".", "markersize": 4},
        )
        for box, label in zip(boxes["boxes"], shown, strict=True):
            box.set_facecolor(COLOURS[label])
        axes.set_xticks(
            range(1, len(shown) + 1),
            [f"{chosen.replace('-', ' ')} px" if label == "best blur" else label for label in shown],
        )
        targets = {"sharpness": 0.6, "grain": 1.3 * fmean(values["proxy"]), "pose_camera_deg": 3.0}
        if metric in targets:
            axes.axhline(targets[metric], color=TARGET, linestyle=":", linewidth=1.2)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", linewidth=0.3)
    figure.suptitle(
        f"{len(gains)} held-out heads. Boxes: quartiles; diamonds: means; dotted: what is asked of the views",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
