from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dp3d_cli.core.errors import UsageError, WeightsError
from dp3d_cli.stages.engine import run as engine
from dp3d_cli.stages.engine.discovery import discover
from dp3d_cli.stages.engine.faults import OutputError
from dp3d_cli.stages.engine.progress import Summary
from dp3d_cli.stages.engine.records import record_path
from dp3d_cli.stages.engine.run import RunOptions, run_stage
from dp3d_cli.stages.engine.shards import Shard
from dp3d_cli.stages.engine.stage import Item, Product, StepProgress
from tests.fakes.progress import Recorder
from tests.fakes.shout import SUFFIXES, Shout
from tests.fakes.trees import results, snapshot, write_texts

TEXTS = {"anna.txt": "anna", 'it\'s "bob".txt': "bob", "team/two\nlines = 1.txt": "carl", "team/Ünï.txt": "d"}


class World:
    """A folder of texts, an output folder, and runs between them."""

    def __init__(self, folder: Path) -> None:
        self.source = write_texts(folder / "in", TEXTS)
        self.output = folder / "out"
        self.stage = Shout()
        self.recorder = Recorder()

    def items(self) -> tuple[Item, ...]:
        return discover([str(self.source)], suffixes=SUFFIXES).items

    def run(
        self, stage: Shout | None = None, items: Sequence[Item] | None = None, **options: object
    ) -> Summary:
        self.stage, self.recorder = stage or Shout(), Recorder()
        return run_stage(
            self.stage,
            self.items() if items is None else items,
            self.output,
            RunOptions(**options),  # type: ignore[arg-type]
            self.recorder,
        )

    def statuses(self, summary: Summary) -> dict[str, str]:
        return {outcome.id: outcome.status for outcome in summary.outcomes}

    def record(self, item_id: str) -> dict[str, object]:
        return dict(json.loads(record_path(self.output, "shout", item_id).read_bytes()))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_every_item_is_made_and_told(world: World) -> None:
    summary = world.run()
    assert results(world.output) == {
        "anna.txt": "ANNA0",
        'it\'s "bob".txt': "BOB0",
        "team/two\nlines = 1.txt": "CARL0",
        "team/Ünï.txt": "D0",
    }
    ids = ["anna", 'it\'s "bob"', "team/two\nlines = 1", "team/Ünï"]
    assert world.recorder.events == [
        ("started", "shout", "4"),
        *(event for item_id in ids for event in (("item", item_id), ("done", item_id))),
        ("finished", "shout"),
    ]
    assert summary.outcomes[0].outputs == (world.output / "anna.txt",)
    assert summary.outcomes[0].info == {"letters": 4}
    assert (summary.exit_status, summary.total, summary.count("done")) == (0, 4, 4)


def test_the_record_says_how_the_result_was_made(world: World) -> None:
    world.run(Shout(weights={"voice": "ab" * 32}))
    record = world.record("anna")
    timings = record.pop("timings")
    assert isinstance(timings, dict)
    assert sorted(timings) == ["elapsed_s", "peak_memory_bytes", "shout_s"]
    assert record == {
        "format": 1,
        "id": "anna",
        "stage": "shout",
        "status": "done",
        "version": engine.__version__,
        # printf anna | sha256sum; printf ANNA0 | sha256sum
        "inputs": [
            {
                "name": "anna.txt",
                "sha256": "55579b557896d0ce1764c47fed644f9b35f58bad620674af23f356d80ed0c503",
                "size": 4,
            }
        ],
        "settings": {"layout": {"parts": 1}, "loud": 1},
        "weights": {"voice": "ab" * 32},
        "outputs": [
            {
                "path": "anna.txt",
                "sha256": "aa8deacdcc8e1664ac4c1b497cb6da2409babbd83f34eb48d006bad8e485f61b",
                "size": 5,
            }
        ],
        "info": {"letters": 4},
        "warnings": [],
        "reason": "",
        "message": "",
    }


def test_a_second_run_skips_what_is_done_and_still_gives_the_results(world: World) -> None:
    first = world.run()
    before = snapshot(world.output)
    second = world.run()
    assert world.stage.worked_on == []
    assert set(world.statuses(second).values()) == {"skipped"}
    assert [o.outputs for o in second.outcomes] == [o.outputs for o in first.outcomes]
    assert [o.info for o in second.outcomes] == [o.info for o in first.outcomes]
    assert snapshot(world.output) == before


def test_a_changed_input_is_done_again_alone(world: World) -> None:
    world.run()
    (world.source / "anna.txt").write_text("ANNE")
    world.run()
    assert world.stage.worked_on == ["anna"]
    assert (world.output / "anna.txt").read_text() == "ANNE0"


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("AN")])
def test_a_missing_or_short_result_is_made_again(world: World, damage: Callable[[Path], object]) -> None:
    world.run()
    before = snapshot(world.output)
    damage(world.output / "anna.txt")
    world.run()
    assert world.stage.worked_on == ["anna"]
    assert snapshot(world.output) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_damaged_record_is_made_again(
    world: World, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    world.run()
    before = snapshot(world.output)
    record_path(world.output, "shout", "anna").write_bytes(content)
    world.run()
    assert world.stage.worked_on == ["anna"]
    assert snapshot(world.output) == before


def test_other_settings_are_refused_before_anything_is_touched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run(Shout(weights={"voice": "a" * 64}))
    write_texts(world.source, {"new.txt": "new"})
    before = snapshot(world.output)
    monkeypatch.setattr(engine, "__version__", "9.9")
    with pytest.raises(UsageError) as raised:
        world.run(Shout(loud=2, weights={"voice": "b" * 64}))
    assert str(raised.value).splitlines() == [
        f"{world.output}: 4 of 5 items are done with other settings:",
        "  settings.loud: 1 -> 2",
        '  version: "0.1.0" -> "9.9"',
        "  weights.voice: aaaaaaaaaaaa… -> bbbbbbbbbbbb…",
        "Use --overwrite to make them again, or another --output to keep both.",
    ]
    assert raised.value.exit_status == 2
    assert world.recorder.events == []
    assert snapshot(world.output) == before


def test_overwrite_makes_everything_again_and_removes_what_is_left_over(world: World) -> None:
    world.run(Shout(parts=3))
    assert (world.output / "anna/002.txt").exists()
    summary = world.run(Shout(parts=1, loud=2), overwrite=True)
    assert set(world.statuses(summary).values()) == {"done"}
    assert results(world.output)["anna.txt"] == "ANNAANNA0"
    assert not (world.output / "anna").exists()
    fresh = World(world.output.parent / "fresh")
    fresh.run(Shout(parts=1, loud=2))
    assert snapshot(world.output) == snapshot(fresh.output)


def test_a_bad_item_does_not_stop_the_others(world: World) -> None:
    write_texts(world.source, {"b1.txt": "fail", "b2.txt": "crash", "b3.txt": "memory", "b4.txt": "exit"})
    (world.source / "b5.txt").symlink_to("nowhere")
    summary = world.run()
    failed = {outcome.id: outcome for outcome in summary.outcomes if outcome.status == "failed"}
    assert {item_id: outcome.reason for item_id, outcome in failed.items()} == {
        "b1": "says-fail",
        "b2": "internal-error",
        "b3": "out-of-memory",
        "b4": "internal-error",
        "b5": "missing-input",
    }
    assert (summary.count("done"), summary.exit_status) == (4, 1)
    assert failed["b1"].message == f"{world.source / 'b1.txt'}: it says fail. Say something else."
    assert "ZeroDivisionError: one by\nzero" in failed["b2"].message
    record = world.record("b1")
    assert (record["status"], record["reason"]) == ("failed", "says-fail")
    assert record["message"] == "b1.txt: it says fail. Say something else."
    assert record["outputs"] == []


def test_records_hold_no_path_of_this_machine(world: World) -> None:
    write_texts(world.source, {"b1.txt": "fail", "b2.txt": "odd"})
    world.run()
    world.items()
    for path in (world.output / ".dp3d/shout").iterdir():
        assert str(world.output.parent).encode() not in path.read_bytes()
    assert world.record("b2")["warnings"] == ["b2.txt is odd"]


def test_a_failed_item_stays_failed_until_asked_for_or_changed(world: World) -> None:
    write_texts(world.source, {"b1.txt": "fail", "b2.txt": "fail"})
    world.run()
    again = world.run()
    assert world.stage.worked_on == []
    assert (again.exit_status, again.count("failed")) == (1, 2)
    assert again.outcomes[1].reason == "says-fail"
    (world.source / "b1.txt").write_text("fine")
    world.run()
    assert world.stage.worked_on == ["b1"]
    world.run(retry_failed=True)
    assert world.stage.worked_on == ["b2"]
    world.run(Shout(loud=1, weights={}), overwrite=True)
    assert len(world.stage.worked_on) == 6


def test_a_failed_item_is_tried_again_with_other_settings(world: World) -> None:
    write_texts(world.source, {"b1.txt": "fail"})
    items = [item for item in world.items() if item.id == "b1"]
    world.run(items=items)
    world.run(Shout(loud=2), items=items)
    assert world.stage.worked_on == ["b1"]


def test_a_result_does_not_outlive_the_input_it_was_made_from(world: World) -> None:
    world.run()
    (world.source / "anna.txt").write_text("fail")
    assert world.statuses(world.run())["anna"] == "failed"
    assert not (world.output / "anna.txt").exists()
    assert world.record("anna")["status"] == "failed"


def test_a_result_outlives_an_input_that_cannot_be_read(world: World) -> None:
    items = world.items()
    world.run(items=items)
    before = snapshot(world.output)
    (world.source / "anna.txt").unlink()
    summary = world.run(items=items)
    assert summary.outcomes[0].reason == "missing-input"
    assert snapshot(world.output) == before


def test_dry_run_touches_nothing(world: World) -> None:
    summary = world.run(dry_run=True)
    assert set(world.statuses(summary).values()) == {"would-run"}
    assert not world.output.exists()
    world.run(limit=2)
    before = snapshot(world.output)
    summary = world.run(dry_run=True)
    assert list(world.statuses(summary).values()) == ["skipped", "skipped", "would-run", "would-run"]
    assert (snapshot(world.output), summary.exit_status) == (before, 0)


def test_limit_takes_the_first_items(world: World) -> None:
    world.run(limit=1)
    assert world.stage.worked_on == ["anna"]
    world.run(limit=1)
    assert world.stage.worked_on == []


def test_fail_fast_stops_at_the_first_failure(world: World) -> None:
    write_texts(world.source, {"b1.txt": "fail"})
    summary = world.run(fail_fast=True)
    assert world.statuses(summary) == {"anna": "done", "b1": "failed"}
    assert (summary.exit_status, summary.total) == (1, 5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_together_equal_the_whole_run(world: World, tmp_path: Path, count: int) -> None:
    write_texts(world.source, {**{f"n{n}.txt": f"text {n}" for n in range(6)}, "bad.txt": "fail"})
    for index in reversed(range(count)):
        world.run(Shout(parts=2), shard=Shard(index, count))
    whole = World(tmp_path / "whole")
    whole.run(Shout(parts=2), items=world.items())
    assert snapshot(world.output) == snapshot(whole.output)


def test_limit_and_shards_together_take_the_first_items(world: World) -> None:
    done = []
    for index in range(3):
        world.run(shard=Shard(index, 3), limit=3)
        done += world.stage.worked_on
    assert sorted(done) == [item.id for item in world.items()[:3]]


def test_the_order_of_items_does_not_matter(world: World, tmp_path: Path) -> None:
    world.run()
    other = World(tmp_path / "other")
    other.run(items=world.items()[::-1])
    assert snapshot(world.output) == snapshot(other.output)


def test_no_items_is_a_finished_run(world: World) -> None:
    assert world.run(items=[]).exit_status == 0


def test_an_item_may_have_no_input(world: World) -> None:
    world.run(items=[Item("nothing", ())])
    assert results(world.output) == {"nothing.txt": "0"}
    world.run(items=[Item("nothing", ())])
    assert world.stage.worked_on == []


def test_every_input_counts(world: World) -> None:
    files = (world.source / "anna.txt", world.source / 'it\'s "bob".txt')
    world.run(items=[Item("both", files)])
    assert results(world.output) == {"both.txt": "ANNABOB0"}
    world.run(items=[Item("both", files[::-1])])
    assert world.stage.worked_on == ["both"]
    files[0].write_text("eve")
    world.run(items=[Item("both", files[::-1])])
    assert results(world.output) == {"both.txt": "BOBEVE0"}


def test_items_that_collide_are_a_mistake_of_the_caller(world: World) -> None:
    with pytest.raises(ValueError, match=r"same id"):
        world.run(items=[Item("a", ()), Item("A", ())])


def test_a_file_that_is_not_ours_is_not_overwritten(world: World) -> None:
    write_texts(world.output, {"anna.txt": "precious"})
    summary = world.run()
    assert (summary.outcomes[0].reason, summary.count("done")) == ("output-exists", 3)
    assert (world.output / "anna.txt").read_text() == "precious"
    world.run(overwrite=True)
    assert (world.output / "anna.txt").read_text() == "ANNA0"


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_overwritten(world: World, overwrite: bool) -> None:
    world.output = world.source
    summary = world.run(overwrite=overwrite)
    assert {outcome.reason for outcome in summary.outcomes} == {"output-is-input"}
    assert results(world.source) == TEXTS


def test_an_output_that_cannot_be_a_folder_is_refused(world: World) -> None:
    world.output.write_text("a file")
    with pytest.raises(UsageError, match=r"is a file"):
        world.run()


@pytest.mark.parametrize(
    "outputs",
    [(), ("a.txt", "a.txt"), ("../a.txt",), ("/a.txt",), (".dp3d/a.txt",), ("none.txt",), ("b//a.txt",)],
)
def test_a_stage_that_breaks_its_contract_is_an_internal_error(
    world: World, outputs: tuple[str, ...]
) -> None:
    class Broken(Shout):
        def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
            (draft / "a.txt").write_text("x")
            return Product(outputs)

    summary = world.run(Broken())
    assert {outcome.reason for outcome in summary.outcomes} == {"internal-error"}
    assert results(world.output) == {}


@pytest.mark.parametrize(
    ("text", "error"), [("usage", UsageError), ("weights", WeightsError), ("full", OutputError)]
)
def test_what_concerns_every_item_ends_the_run(world: World, text: str, error: type[Exception]) -> None:
    write_texts(world.source, {"b1.txt": text})
    with pytest.raises(error):
        world.run()
    assert world.recorder.events[-1] == ("finished", "shout")
    assert sorted(results(world.output)) == ["anna.txt"]
    assert not (world.output / ".dp3d/drafts").exists()
    assert not record_path(world.output, "shout", "b1").exists()


def test_a_disk_that_fills_while_moving_ends_the_run_and_the_next_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = World(world.output.parent / "expected")
    expected.run(Shout(parts=2))
    move, moved = engine.move_into_place, 0

    def fill(draft: Path, target: Path) -> None:
        nonlocal moved
        moved += 1
        if moved == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        move(draft, target)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "move_into_place", fill)
        with pytest.raises(OutputError, match=r"No space left"):
            world.run(Shout(parts=2))
    assert world.record("anna")["status"] == "moving"
    # Ended between two moves, then gone on with other settings: nothing of the first attempt stays.
    summary = world.run(Shout(parts=1))
    assert summary.exit_status == 0
    assert not (world.output / "anna").exists()
    world.run(Shout(parts=2), overwrite=True)
    assert snapshot(world.output) == snapshot(expected.output)


def test_the_same_run_twice_at_once_does_no_harm(world: World) -> None:
    expected = World(world.output.parent / "expected")
    expected.run()

    class Overtaken(Shout):
        def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
            run_stage(Shout(), [item], world.output, RunOptions(), Recorder())
            return super().process(item, draft, progress)

    assert set(world.statuses(world.run(Overtaken())).values()) == {"done"}
    assert snapshot(world.output) == snapshot(expected.output)


def test_the_note_says_shard_and_source(world: World) -> None:
    world.run(shard=Shard(1, 4, "--shard"))
    assert world.recorder.note.endswith("shard 1/4 (--shard)")
    assert f"dp3d {engine.__version__}" in world.recorder.note


def test_outcomes_compare_by_value(world: World) -> None:
    outcome = world.run(items=[Item("x", ())]).outcomes[0]
    assert replace(outcome, elapsed_s=0.0).status == "done"
