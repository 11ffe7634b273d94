"""dp3d evaluate: scores of one or several methods against ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dp3d_cli.commands.options import Output, RunFlags, batch_command
from dp3d_cli.commands.runner import Session, session
from dp3d_cli.commands.screen import printable, say

if TYPE_CHECKING:
    from dp3d_cli.stages.evaluate.plan import Request


@batch_command
def evaluate(
    methods: Annotated[
        list[str],
        typer.Argument(
            metavar="METHOD...",
            show_default=False,
            help="A folder of <id>/<view>.png or <id>.mp4 per method; NAME=FOLDER names it in the report.",
        ),
    ],
    flags: RunFlags,
    gt: Annotated[
        Path, typer.Option("--gt", metavar="FOLDER", show_default=False, help="Ground truth, laid out alike.")
    ],
    output: Output = Path("report"),
    references: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help='Reference portraits: adds the baseline "reference copied".'),
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
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAME,...", help="Any of psnr, ssim, zncc, gradient_ncc, sharpness, grain; or all."
        ),
    ] = "psnr,ssim",
    size: Annotated[int, typer.Option(help="Side in pixels to which every picture is brought.")] = 256,
    crop: Annotated[
        str,
        typer.Option(metavar="face|TOP:BOTTOM,LEFT:RIGHT", help="Score only this part, in pixels at --size."),
    ] = "none",
    min_yaw: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="RADIANS", help="Score only cameras turned further than this to either side."
        ),
    ] = None,
    cameras: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE", help="Trajectory that tells the views' angles (gen-videos, cameras.json)."
        ),
    ] = None,
) -> None:
    """Compare views with ground truth by subject and view number, and write a report."""
    from dp3d_cli.stages.evaluate.plan import Request  # pulls in OpenCV and scikit-image

    names = tuple(name or ())
    request = Request(tuple(methods), gt, references, names, gt_name, metrics, size, crop, min_yaw, cameras)
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
        Exit status: 1 if anything could not be scored.
    """
    from dp3d_cli.stages.evaluate.collect import collect
    from dp3d_cli.stages.evaluate.plan import plan
    from dp3d_cli.stages.evaluate.report import write_report
    from dp3d_cli.stages.evaluate.score import EvaluateStage

    flags = stages.flags
    protocol, pairing = plan(request)
    stage = EvaluateStage.of(protocol, pairing.matches)
    per_item = flags.json or flags.options.dry_run
    summary = stages.run(stage, stage.items, output, print_results=per_item)
    if flags.options.dry_run or summary.interrupted_by is not None:
        return summary.exit_status
    failed = {o.id: (o.reason, o.message) for o in summary.outcomes if o.status == "failed"}
    results = collect(output, protocol, pairing, failed)
    if results.bad_pairs:
        say(f"{results.bad_pairs} pairs could not be scored; {output}/metrics.json says why.")
    if results.missing:
        if not flags.quiet:
            say(f"{results.missing} of {len(pairing.matches)} subjects are not scored yet: no report.")
        return summary.exit_status or (1 if results.bad_pairs else 0)
    report = write_report(output, results)
    if not flags.quiet:
        for warning in results.warnings:
            say(f"Note: {printable(warning)}")
        if pairing.omissions:
            say(f"{len(pairing.omissions)} subjects or views have no partner; metrics.json lists them.")
        say(report.table)
    if flags.stdout is not None and not flags.json:
        for path in report.files:
            flags.stdout.write(bytes(path) + (b"\0" if flags.print0 else b"\n"))
    return summary.exit_status or (1 if results.bad_pairs else 0)
