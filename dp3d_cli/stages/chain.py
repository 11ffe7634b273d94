"""All stages one after another in one work folder, with the same files as the stages run one by one.

    work/aligned → work/cameras, work/proxy → work/views → work/video, work/report

An item that fails in a stage is recorded there and does not reach the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from dp3d_cli.core.cameras.trajectories import load_trajectory
from dp3d_cli.core.presets import Preset
from dp3d_cli.stages.align import AlignStage
from dp3d_cli.stages.engine.progress import Summary
from dp3d_cli.stages.engine.run import RunOptions
from dp3d_cli.stages.engine.stage import Item, Stage
from dp3d_cli.stages.proxy import ProxyStage
from dp3d_cli.stages.render_cams import ProceduralCameras, RenderCamsStage
from dp3d_cli.stages.synthesize import SynthesizeStage
from dp3d_cli.stages.targets import make_targets, read_targets
from dp3d_cli.stages.video import VideoSettings, VideoStage

Grouping = Literal["file", "folder"]


class Runner(Protocol):
    """Runs one stage; the command line's session is one."""

    def run(
        self,
        stage: Stage,
        items: Sequence[Item],
        output: Path,
        *,
        title: str,
        print_results: bool,
        select: bool,
    ) -> Summary:
        """Run `stage` over `items` into `output`; `select` lets the engine take its shard's part of them."""


@dataclass(frozen=True)
class Chain:
    """What the stages of one run are made with.

    Attributes:
        align: the first stage, as it is.
        preset: decides cameras, proxies and views.
        references: each portrait file is a subject, or all portraits of a folder show one.
        video: the clips to make.
        device: torch device.
    """

    align: AlignStage
    preset: Preset
    references: Grouping = "file"
    video: VideoSettings = field(default_factory=VideoSettings)
    device: str = "auto"

    def choose(self, portraits: Sequence[Item], options: RunOptions) -> list[Item]:
        """The portraits of this shard, within the limit.

        All portraits of a subject are in one shard, and later stages follow from these items whatever their
        own ids are, so that no shard waits for another.
        """
        return [
            item
            for item in portraits[: options.limit]
            if options.shard.holds(_subject_id(PurePosixPath(item.id), self.references))
        ]

    def run(self, portraits: Sequence[Item], work: Path, runner: Runner) -> list[Summary]:
        """Run all stages until the end or an interrupt.

        Args:
            portraits: items of the align stage, as `choose` left them.
            work: the work folder.
            runner: runs each stage.

        Returns:
            One summary per stage that ran.
        """
        preset = self.preset
        folders = {name: work / name for name in ("aligned", "cameras", "proxy", "views", "video")}
        summaries: list[Summary] = []

        def run(stage: Stage, items: Sequence[Item], folder: str) -> bool:
            title = f"{len(summaries) + 1}/{len(folders)} {stage.name}"
            is_last = folder == "video"
            summary = runner.run(
                stage, items, folders[folder], title=title, print_results=is_last, select=False
            )
            summaries.append(summary)
            return summary.interrupted_by is None

        if not run(self.align, portraits, "aligned"):
            return summaries
        subjects = subjects_of(summaries[-1], folders["aligned"], self.references)

        trajectory = load_trajectory(preset.cameras.trajectory, preset.cameras.num_views)
        head = ProceduralCameras(preset.cameras.seed, self.device)
        conditions = RenderCamsStage(trajectory, preset.size, head)
        cameras = folders["cameras"] / conditions.item.id
        if not run(conditions, [conditions.item], "cameras"):
            return summaries

        volume = preset.weights if preset.proxy.backend == "volume" else None
        proxy = ProxyStage(trajectory, preset.size, volume=volume)
        if not run(proxy, proxy.items_of(subjects), "proxy"):
            return summaries
        subjects = [subject for subject in subjects if subject.id in _finished(summaries[-1])]

        if (cameras / "cameras.json").is_file():
            targets = read_targets(cameras, preset.size)
        else:  # a dry run, before there are any
            targets = make_targets(preset.cameras, preset.size, device=self.device)
        synthesize = SynthesizeStage(preset, targets, folders["proxy"], self.device)
        if not run(synthesize, synthesize.items_of(subjects), "views"):
            return summaries
        subjects = [subject for subject in subjects if subject.id in _finished(summaries[-1])]

        video = VideoStage(self.video, folders["aligned"], folders["proxy"])
        described = {subject.id: folders["views"] / subject.id / "views.json" for subject in subjects}
        there = [Item(name, (path,)) for name, path in described.items() if path.is_file()]
        coming = [Item(name, ()) for name, path in described.items() if not path.is_file()]  # a dry run
        run(video, [*video.items_of(there), *coming], "video")
        return summaries


def subjects_of(aligned: Summary, folder: Path, references: Grouping) -> list[Item]:
    """The subjects among the portraits that the align stage made.

    Args:
        aligned: that stage's summary.
        folder: its output folder.
        references: how portraits make subjects.

    Returns:
        One item per portrait, or one per folder of portraits; ids are paths below `folder`. In a dry run also
        one without inputs for each that there will be.
    """
    coming = [PurePosixPath(outcome.id) for outcome in aligned.outcomes if outcome.status == "would-run"]
    portraits = sorted(
        path for outcome in aligned.outcomes for path in outcome.outputs if path.suffix == ".png"
    )
    groups: dict[str, list[Path]] = {}
    for path in portraits:
        portrait = PurePosixPath(path.relative_to(folder)).with_suffix("")
        groups.setdefault(_subject_id(portrait, references), []).append(path)
    for portrait in coming:
        groups.setdefault(_subject_id(portrait, references), [])
    return [Item(name, tuple(paths)) for name, paths in sorted(groups.items())]


def _subject_id(portrait: PurePosixPath, references: Grouping) -> str:
    """The subject that a portrait shows: itself, or its folder; portraits at the top are one subject, too."""
    if references == "file":
        return portrait.as_posix()
    return "subject" if portrait.parent == PurePosixPath(".") else portrait.parent.as_posix()


def _finished(summary: Summary) -> set[str]:
    return {outcome.id for outcome in summary.outcomes if outcome.status != "failed"}
