import pytest

from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from tests.core.diffusion.tiny import shake, tiny_sizes


@pytest.fixture(scope="session")
def pipeline() -> DiffPortraitPipeline:
    """Shared by all tests: to be read and run, not changed."""
    return shake(DiffPortraitPipeline.from_sizes(tiny_sizes()))


@pytest.fixture
def own_pipeline() -> DiffPortraitPipeline:
    """As `pipeline`, for a test that changes it."""
    return shake(DiffPortraitPipeline.from_sizes(tiny_sizes()))


@pytest.fixture(scope="session")
def hint_pipeline() -> DiffPortraitPipeline:
    """With an explicit hint, shared by all tests."""
    return shake(
        DiffPortraitPipeline.from_sizes(
            tiny_sizes(explicit_hint_channels=6), prediction_type="v_prediction", mid_view_attention="always"
        )
    )
