"""What the README says exists: files, commands, options and presets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from dp3d_cli.app import app
from dp3d_cli.core.presets import preset_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_within_the_project_leads_somewhere(target: str) -> None:
    assert "://" in target or (ROOT / target).exists()


def test_every_command_and_option_exists() -> None:
    calls = re.findall(
        r"dp3d ((?:[a-z][a-z-]* ?)(?:[^|\n`]*))", "\n".join(re.findall(r"```\w+\n(.*?)```", README, re.S))
    )
    assert len(calls) > 8
    for call in calls:
        name, *words = call.split()
        command = COMMANDS[name]
        if hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {
            option for parameter in command.params for option in parameter.opts + parameter.secondary_opts
        }
        asked = {word for word in words if re.fullmatch(r"--?[a-z0-9][a-z0-9-]*", word)} | {"--help"}
        assert asked <= known | {"--help"}, call


def test_the_preset_table_is_complete() -> None:
    assert (
        sorted(
            re.findall(r"^\| `([a-z0-9-]+)`(?: \(default\))? \| (?:in the package|published)", README, re.M)
        )
        == preset_names()
    )


def test_the_stage_table_is_complete() -> None:
    table = set(re.findall(r"^\| `([a-z-]+)` \|", README, re.M)) - set(preset_names())
    assert table == set(COMMANDS)
