from __future__ import annotations

from pathlib import Path

import pytest

from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.evaluate.metrics import METRICS, named_metrics
from dp3d_cli.stages.evaluate.plan import Request, plan
from dp3d_cli.stages.evaluate.protocol import load_protocol, protocol_names
from dp3d_cli.stages.evaluate.published import published_tables
from tests.stages.view_pictures import write_views


@pytest.fixture
def request_of(tmp_path: Path):
    write_views(tmp_path / "gt" / "anna", 2)
    write_views(tmp_path / "views" / "anna", 2)

    def make(**options: object) -> Request:
        return Request((tmp_path / "views",), tmp_path / "gt", **options)  # type: ignore[arg-type]

    return make


def test_the_shipped_protocols_are_those_of_the_documentation() -> None:
    assert protocol_names() == ["diffportrait3d-256", "diffportrait3d-512", "portrait-diffusion"]


@pytest.mark.parametrize("name", protocol_names())
def test_every_shipped_protocol_is_valid(name: str) -> None:
    published = load_protocol(name)
    assert set(published.metrics) <= set(METRICS)
    assert set(published.tables) <= {table.id for table in published_tables()}
    assert published.stated
    assert published.open


def test_protocol_decides_what_no_option_says(request_of) -> None:
    protocol, _ = plan(request_of(protocol="diffportrait3d-512"))
    assert (protocol.size, protocol.name) == (512, "diffportrait3d-512")
    assert protocol.metrics == load_protocol("diffportrait3d-512").metrics
    assert protocol.describe()["deviations"] == []
    assert "Table 1b" in str(protocol.describe()["paper"])


def test_options_come_first_and_are_reported_as_deviations(request_of) -> None:
    protocol, _ = plan(
        request_of(protocol="diffportrait3d-256", size=128, metrics="ssim,psnr", strict=True, crop="face")
    )
    assert (protocol.size, protocol.metrics, protocol.strict) == (128, ("ssim", "psnr"), True)
    assert protocol.deviations == (
        "Not asked for: lpips_alex, lpips_vgg, dists@256, id_ref, id_gt, fid, pose_mse.",
        "size: 128 instead of 256.",
        "crop: face instead of none.",
        "strict: true instead of false.",
    )


def test_a_value_equal_to_the_protocol_is_no_deviation(request_of) -> None:
    protocol, _ = plan(request_of(protocol="diffportrait3d-256", size=256, crop="none", strict=False))
    assert protocol.deviations == ()


def test_required_metrics_are_computed_too(request_of) -> None:
    protocol, _ = plan(request_of(metrics="psnr", require="lpips"))
    assert protocol.metrics == ("psnr", "lpips_alex", "lpips_vgg")


def test_the_device_is_resolved_since_the_report_states_it(request_of) -> None:
    protocol, _ = plan(request_of(device="auto"))
    assert protocol.device in ("cpu", "cuda")
    assert protocol.describe()["device"] == protocol.device


def test_metrics_are_named_one_by_one_by_family_or_all() -> None:
    assert named_metrics("all") == tuple(METRICS)
    assert named_metrics("dists, psnr ,dists@256") == ("dists@256", "dists@native", "psnr")
    assert named_metrics("id") == ("id_ref", "id_gt")
    for text in ("", "psnr,", "lpip", "vmaf"):
        with pytest.raises(UsageError, match="no metric"):
            named_metrics(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "paper"}, "diffportrait3d-256"),
        ({"views": "six"}, "all, five"),
        ({"pose": "dlib"}, "auto, insightface, landmarks"),
        ({"reconstruction": True}, "no place beside it"),
        ({"device": "gpu"}, "not a device"),
        ({"require": "vmaf"}, "no metric"),
    ],
)
def test_impossible_requests_are_usage_errors(request_of, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(request_of(**options))


def test_nothing_to_compare_with_is_a_usage_error(tmp_path: Path) -> None:
    write_views(tmp_path / "views" / "anna", 2)
    with pytest.raises(UsageError, match="--references"):
        plan(Request((tmp_path / "views",), None))
