from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of tiny random networks."""
    from tests.fakes.networks import write_tiny_weights

    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny")
