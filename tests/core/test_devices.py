import pytest
import torch

from dp3d_cli.core.devices import torch_device
from dp3d_cli.core.errors import UsageError


def test_auto_is_a_device_that_works() -> None:
    assert torch.zeros(1, device=torch_device("auto")).sum() == 0


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        torch_device(name)
