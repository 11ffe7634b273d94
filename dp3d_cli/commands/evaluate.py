"""dp3d evaluate: scores of one or several methods against ground truth."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dp3d_cli.commands.options import Output, RunFlags, batch_command
from dp3d_cli.commands.runner import Session, session
from dp3d_cli.commands.screen import printable, say

if TYPE_CHECKING:
    from dp3d_cli.stages.evaluate.plan import Request
    from dp3d_cli.stages.evaluate.results import Unavailable


@batch_command
def evaluate(
    methods: Annotated[
        list[str],
        typer.Argument(
            metavar="METHOD...",
            show_default=False,
            help="A folder of <id>/<view>.png or <id>.mp4 per method; NAME=FOLDER names it in the report, "
            "FOLDER/*/INNER takes what is called INNER inside each <id>/.",
        ),
    ],
    flags: RunFlags,
    gt: Annotated[
        Path | None,
        typer.Option(
            "--gt",
            metavar="FOLDER",
            show_default=False,
            help="Ground truth, laid out alike, or <id>/images with cameras.json or transforms.json.",
        ),
    ] = None,
    output: Output = Path("report"),
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help='Reference portraits: for metrics that need them and the baseline "reference copied".',
        ),
    ] = None,
    gt_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Folder or video inside <id>/ that holds the ground truth (views.mp4)."
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="The same for methods; may be repeated, each takes what gives most pairs."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="Rule of a paper: diffportrait3d-256, diffportrait3d-512, portrait-diffusion.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            show_default="psnr,ssim",
            help="psnr, ssim, lpips_alex, lpips_vgg, dists@256, dists@native, fid, fid_clean, kid, id_ref, "
            "id_gt, pose_mse, pose_mae_deg, pose_camera_deg, pose_camera_rel_deg, clip_i, lpips_ref5, "
            "consistency, consistency_gt, zncc, gradient_ncc, sharpness, grain; lpips, dists, id, pose; "
            "all.",
        ),
    ] = None,
    require: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            show_default=False,
            help="Metrics to compute that must give a number for every method; else exit status 1.",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(show_default="256", help="Side in pixels to which every picture is brought."),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            metavar="face|none|TOP:BOTTOM,LEFT:RIGHT",
            show_default="none",
            help="Score only this part, in pixels at --size (metrics of pairs only).",
        ),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(
            metavar="all|five",
            show_default="all",
            help="Score all views, or the five around the head of Portrait Diffusion's table.",
        ),
    ] = None,
    min_yaw: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="RADIANS", help="Score only cameras turned further than this to either side."
        ),
    ] = None,
    cameras: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE",
            help="Trajectory that tells the views' cameras (gen-videos, cameras.json).",
        ),
    ] = None,
    reconstruction: Annotated[
        bool,
        typer.Option(
            "--reconstruction/--no-reconstruction",
            help="Predictions are at the reference's own camera: it is their truth (no --gt).",
        ),
    ] = False,
    strict: Annotated[
        bool | None,
        typer.Option(
            "--strict/--no-strict",
            show_default="no-strict",
            help="A prediction without a face scores the worst: 0 in id, 180 degrees or pi^2 in pose.",
        ),
    ] = None,
    pose: Annotated[
        str, typer.Option(metavar="auto|insightface|landmarks", help="Pose estimator for all pictures.")
    ] = "auto",
    device: Annotated[
        str, typer.Option(metavar="cpu|cuda|auto", help="Torch device of the metrics' networks.")
    ] = "cpu",
) -> None:
    """Compare views with ground truth, or with their reference portraits, and write a report."""
    from dp3d_cli.stages.evaluate.plan import Request  # pulls in OpenCV and scikit-image

    request = Request(
        methods=tuple(methods),
        truth=gt,
        references=references,
        names=tuple(name or ()),
        truth_name=gt_name,
        metrics=metrics,
        size=size,
        crop=crop,
        min_yaw=min_yaw,
        cameras=cameras,
        protocol=protocol,
        views=views,
        strict=strict,
        require=require,
        reconstruction=reconstruction,
        device=device,
        pose=pose,
    )
    with session(flags) as stages:
        status = report_scores(request, output, stages)
    raise typer.Exit(status)


def report_scores(request: Request, output: Path, stages: Session) -> int:
    """Score what is not scored yet, write the report, say what it says.

    Args:
        request: what to compare.
        output: folder of the report.
        stages: runs the stage; its flags say what is printed.

    Returns:
        Exit status: 1 if anything could not be scored or a required metric has no number.
    """
    from dp3d_cli.stages.evaluate.availability import find_available
    from dp3d_cli.stages.evaluate.collect import collect
    from dp3d_cli.stages.evaluate.networks import Networks
    from dp3d_cli.stages.evaluate.plan import plan
    from dp3d_cli.stages.evaluate.report import write_report
    from dp3d_cli.stages.evaluate.score import EvaluateStage, cache_folder

    flags = stages.flags
    protocol, pairing = plan(request)
    networks = Networks(protocol.device, protocol.pose, cache_folder(output))
    available = find_available(protocol, pairing, networks)
    stage = EvaluateStage.of(protocol, pairing.matches, available, networks)
    per_item = flags.json or flags.options.dry_run
    summary = stages.run(stage, stage.items, output, print_results=per_item)
    if flags.options.dry_run or summary.interrupted_by is not None:
        _say_unavailable(available.unavailable)
        return summary.exit_status
    failed = {o.id: (o.reason, o.message) for o in summary.outcomes if o.status == "failed"}
    results = collect(output, protocol, pairing, available, failed)
    lacking = tuple(entry for entry in results.unavailable if entry.metric in request.required)
    status = summary.exit_status or (1 if results.bad_pairs or lacking else 0)
    if results.bad_pairs:
        say(f"{results.bad_pairs} pairs could not be scored; {output}/metrics.json says why.")
    if results.missing:
        if not flags.quiet:
            say(f"{results.missing} of {len(pairing.matches)} subjects are not scored yet: no report.")
        return status
    report = write_report(output, results)
    _say_unavailable(lacking if flags.quiet else results.unavailable)
    if lacking:
        say(f"Required, but without a number: {', '.join(sorted({entry.metric for entry in lacking}))}.")
    if not flags.quiet:
        for warning in results.warnings:
            say(f"Note: {printable(warning)}")
        if pairing.omissions:
            say(f"{len(pairing.omissions)} subjects or views have no partner; metrics.json lists them.")
        say(report.table)
    if flags.stdout is not None and not flags.json:
        for path in report.files:
            flags.stdout.write(bytes(path) + (b"\0" if flags.print0 else b"\n"))
    return status


def _say_unavailable(entries: Iterable[Unavailable]) -> None:
    for entry in entries:
        command = f" Run: {entry.command}" if entry.command and entry.command not in entry.message else ""
        say(f"{entry.metric} is unavailable: {printable(entry.message)}{printable(command)}")
