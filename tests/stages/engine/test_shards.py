from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.engine.shards import Shard, shard_of

IDS = st.lists(st.text(min_size=1), unique=True, max_size=30)


def array(task: int, count: int, first: int, last: int, step: int = 1) -> dict[str, str]:
    values = {"ID": task, "COUNT": count, "MIN": first, "MAX": last, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def srun(rank: int, tasks: int) -> dict[str, str]:
    return {"SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank), "SLURM_NTASKS": str(tasks), "SLURM_LOCALID": "0"}


@given(IDS, st.integers(1, 9))
def test_every_item_is_in_exactly_one_shard(ids: list[str], count: int) -> None:
    shards = [Shard(index, count) for index in range(count)]
    assert all(sum(shard.holds(item_id) for shard in shards) == 1 for item_id in ids)


def test_the_partition_is_fixed_for_ever() -> None:
    # printf anna | sha256sum, as a number modulo 7 and 1000
    number = int("55579b557896d0ce1764c47fed644f9b35f58bad620674af23f356d80ed0c503", 16)
    assert (shard_of("anna", 7), shard_of("anna", 1000)) == (number % 7, number % 1000)
    assert 0 <= shard_of("\udcff", 3) < 3  # a name that is no text


def test_shards_are_about_equal() -> None:
    sizes = [sum(shard_of(f"item {n}", 4) == index for n in range(4000)) for index in range(4)]
    assert all(850 < size < 1150 for size in sizes)


def test_a_flag_wins_over_the_environment() -> None:
    assert Shard.parse("1/4", array(2, 8, 0, 7)) == Shard(1, 4, "--shard")
    assert Shard.parse(None, array(2, 8, 0, 7)) == Shard()


@pytest.mark.parametrize("text", ["", "1", "4/4", "-1/4", "0/0", "1/2/3", "a/b", "AUTO"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shard"):
        Shard.parse(text, {})


@pytest.mark.parametrize(
    ("environ", "index", "count"),
    [
        (array(2, 8, 0, 7), 2, 8),
        (array(1, 8, 1, 8), 0, 8),
        (array(14, 3, 10, 18, 4), 1, 3),
        (array(5, 1, 5, 5), 0, 1),
        (srun(3, 4), 3, 4),
        ({**srun(3, 8), "SLURM_STEP_NUM_TASKS": "4"}, 3, 4),
        ({**array(2, 3, 0, 2), **srun(1, 4)}, 9, 12),
        ({**array(2, 3, 0, 2), **srun(0, 1)}, 2, 3),  # submitit: a step of one task
        ({}, 0, 1),
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, 0, 1),  # the batch script itself
    ],
)
def test_auto_reads_slurms_variables(environ: dict[str, str], index: int, count: int) -> None:
    shard = Shard.parse("auto", environ)
    assert (shard.index, shard.count) == (index, count)
    assert shard.source.startswith("auto")


@pytest.mark.parametrize("task", [1, 5, 7])
def test_an_uneven_array_is_refused_by_each_of_its_elements(task: int) -> None:
    with pytest.raises(UsageError, match=r"not evenly spaced.*--array=0-2"):
        Shard.parse("auto", array(task, 3, 1, 7))


@pytest.mark.parametrize(
    "environ",
    [
        {"SLURM_ARRAY_TASK_ID": "2"},
        {**array(2, 8, 0, 7), "SLURM_ARRAY_TASK_COUNT": ""},
        {**array(2, 8, 0, 7), "SLURM_ARRAY_TASK_STEP": "0"},
        array(9, 8, 0, 7),
        srun(4, 4),
    ],
)
def test_variables_that_do_not_fit_together_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"--shard (auto|\$SLURM)"):
        Shard.parse("auto", environ)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3))
def test_all_ranks_of_all_elements_cover_each_shard_once(
    count: int, tasks: int, first: int, step: int
) -> None:
    last = first + (count - 1) * step
    shards = [
        Shard.parse("auto", {**array(first + element * step, count, first, last, step), **srun(rank, tasks)})
        for element in range(count)
        for rank in range(tasks)
    ]
    assert [shard.index for shard in shards] == list(range(count * tasks))
    assert {shard.count for shard in shards} == {count * tasks}
