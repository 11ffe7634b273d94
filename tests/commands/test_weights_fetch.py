"""`dp3d weights fetch` as a user types it, against a server on this machine."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from typer.testing import CliRunner, Result

from dp3d_cli.app import app
from dp3d_cli.core.weights.backbones import BACKBONES, Backbone, BackboneFile, find_backbone
from dp3d_cli.core.weights.fetch import fetch_backbone
from tests.fakes.file_server import FileServer, file_server
from tests.fakes.processes import ROOT, environment
from tests.fakes.trees import snapshot

ALEXNET = bytes(range(256)) * 100
ONNX = {"det_10g.onnx": b"detector" * 50, "w600k_r50.onnx": b"identity" * 70}


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FileServer) -> Path:
    """A machine without weights, on which the published files are small and on `server`."""
    for name in ("DP3D_OFFLINE", "HF_HUB_OFFLINE", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DP3D_WEIGHTS", str(tmp_path / "w"))
    publish(monkeypatch, "alexnet", {"alexnet-owt-7be5be79.pth": ALEXNET}, server.give("/alexnet", ALEXNET))
    publish(monkeypatch, "vgg16", {"vgg16-397923af.pth": ALEXNET[:99]}, server.give("/vgg16", ALEXNET[:99]))
    archive = zipped(ONNX | {"genderage.onnx": b"more", "README.txt": b"not listed"})
    optional = replace(published("genderage.onnx", b"more"), is_optional=True)
    publish(monkeypatch, "buffalo_l", ONNX, server.give("/buffalo_l", archive), optional, archive=archive)
    return tmp_path


def published(name: str, content: bytes) -> BackboneFile:
    return BackboneFile(name, len(content), hashlib.sha256(content).hexdigest())


def publish(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    files: dict[str, bytes],
    url: str,
    *more: BackboneFile,
    archive: bytes | None = None,
) -> Backbone:
    entry = replace(
        BACKBONES[name],
        files=(*(published(file, content) for file, content in files.items()), *more),
        url=url,
        archive=published(f"{name}.zip", archive) if archive else None,
    )
    monkeypatch.setitem(BACKBONES, name, entry)
    return entry


def zipped(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["weights", *map(str, arguments)])


def test_a_fetched_backbone_is_where_its_library_looks(home: Path, server: FileServer) -> None:
    result = run("fetch", "alexnet")
    path = home / "w" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    assert result.exit_code == 0
    assert result.stdout == f"alexnet\t{path}\n"
    assert path.read_bytes() == ALEXNET
    assert find_backbone("alexnet") == path
    assert run("path", "alexnet").stdout == f"{path}\n"
    assert run("verify").stdout.splitlines()[1] == f"alexnet\tintact\t{path}"
    assert [found.name for found in path.parent.iterdir()] == [path.name]


def test_without_a_stated_folder_it_goes_to_the_librarys_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DP3D_WEIGHTS")
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))
    assert run("fetch", "alexnet", "buffalo_l").exit_code == 0
    assert (home / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth").is_file()
    assert (home / "home" / ".insightface" / "models" / "buffalo_l" / "det_10g.onnx").is_file()


def test_what_is_here_and_intact_is_left_alone(home: Path, server: FileServer) -> None:
    assert run("fetch", "alexnet", "buffalo_l").exit_code == 0
    before = snapshot(home)
    server.asked.clear()
    result = run("fetch", "alexnet", "buffalo_l")
    assert result.exit_code == 0
    assert "alexnet: here already, and intact" in result.stderr
    assert server.asked == []
    assert snapshot(home) == before


def test_what_is_here_but_damaged_is_replaced(home: Path) -> None:
    path = home / "w" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(ALEXNET[::-1])
    assert run("verify", "alexnet").exit_code == 1
    assert run("fetch", "alexnet").exit_code == 0
    assert path.read_bytes() == ALEXNET


def test_one_that_fails_does_not_keep_the_others_away(home: Path, server: FileServer) -> None:
    del server.files["/alexnet"]
    result = run("fetch", "alexnet", "vgg16", "buffalo_l")
    assert result.exit_code == 1
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == ["vgg16", "buffalo_l"]
    assert "failed alexnet: [download-failed]" in result.stderr
    assert "404" in result.stderr
    assert "1 of 3 could not be fetched" in result.stderr
    assert find_backbone("alexnet") is None


def test_a_wrong_digest_leaves_nothing(home: Path, server: FileServer) -> None:
    server.files["/alexnet"] = ALEXNET[::-1]
    result = run("fetch", "alexnet")
    assert result.exit_code == 1
    assert "[wrong-hash]" in result.stderr
    assert list((home / "w").rglob("*.*")) == []


def test_an_archive_is_unpacked_without_what_is_not_listed(home: Path) -> None:
    assert run("fetch", "buffalo_l").exit_code == 0
    folder = home / "w" / "models" / "buffalo_l"
    assert snapshot(home / "w" / "models") == {
        "buffalo_l": None,
        "buffalo_l/det_10g.onnx": ONNX["det_10g.onnx"],
        "buffalo_l/genderage.onnx": b"more",
        "buffalo_l/w600k_r50.onnx": ONNX["w600k_r50.onnx"],
    }
    assert run("path", "buffalo_l").stdout == f"{folder}\n"


def test_an_incomplete_folder_is_told_and_completed(home: Path) -> None:
    folder = home / "w" / "models" / "buffalo_l"
    folder.mkdir(parents=True)
    (folder / "det_10g.onnx").write_bytes(ONNX["det_10g.onnx"])
    (folder / "own.onnx").write_bytes(b"the user's")
    described = {
        json.loads(line)["name"]: json.loads(line) for line in run("list", "--json").stdout.splitlines()
    }
    assert described["buffalo_l"]["state"] == "incomplete"
    assert described["buffalo_l"]["problem"] == "w600k_r50.onnx: missing"
    verified = run("verify")
    assert verified.exit_code == 1
    assert "buffalo_l: w600k_r50.onnx: missing" in verified.stderr
    assert run("fetch", "buffalo_l").exit_code == 0
    assert run("verify", "buffalo_l").exit_code == 0
    assert (folder / "own.onnx").read_bytes() == b"the user's"


@pytest.mark.parametrize(
    "member", ["../evil.onnx", "/evil.onnx", "models/../../evil.onnx", "..\\evil.onnx", "../det_10g.onnx"]
)
def test_an_archive_that_reaches_outside_is_refused(
    home: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    archive = zipped(ONNX | {member: b"evil"})
    publish(monkeypatch, "buffalo_l", ONNX, server.give("/evil", archive), archive=archive)
    result = run("fetch", "buffalo_l")
    assert result.exit_code == 1
    assert "[unsafe-archive]" in result.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert not Path("/evil.onnx").exists()


def test_an_archive_whose_member_is_another_file_is_refused(
    home: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(ONNX | {"w600k_r50.onnx": bytes(10_000_000)})
    publish(monkeypatch, "buffalo_l", ONNX, server.give("/other", archive), archive=archive)
    result = run("fetch", "buffalo_l")
    assert result.exit_code == 1
    assert "w600k_r50.onnx in it is not the published one (561 bytes, expected 560)" in result.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_an_archive_that_is_none_is_refused(
    home: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, "buffalo_l", ONNX, server.give("/no.zip", b"no zip"), archive=b"no zip")
    assert "[damaged-archive]" in run("fetch", "buffalo_l").stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_a_file_from_elsewhere_is_taken_if_it_is_the_published_one(home: Path) -> None:
    (home / "mine").write_bytes(ALEXNET)
    assert run("fetch", "alexnet", "--offline", "--from", home / "mine").exit_code == 0
    assert find_backbone("alexnet") is not None
    assert "[wrong-size]" in run("fetch", "vgg16", "--from", home / "mine").stderr
    refused = run("fetch", "alexnet", "vgg16", "--from", home / "mine")
    assert refused.exit_code == 2
    assert "Give one NAME" in refused.stderr


@pytest.fixture
def hub(home: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A Hugging Face repository with CLIP's files on the server."""
    files = {"config.json": b"{}", "pytorch_model.bin": b"clip" * 1000}
    entry = publish(monkeypatch, "clip-vit-b32", files, "openai/clip-vit-base-patch32")
    for name, content in files.items():
        server.give(f"/{entry.url}/resolve/{entry.revision}/{name}", content)
    download = functools.partial(huggingface_hub.hf_hub_download, endpoint=server.url)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return entry


def test_a_repository_of_hugging_face_fills_the_hubs_own_layout(home: Path, hub: Backbone) -> None:
    result = run("fetch", "clip-vit-b32")
    assert result.exit_code == 0, result.stderr
    folder = home / "w" / "hub" / "models--openai--clip-vit-base-patch32" / "snapshots" / str(hub.revision)
    assert result.stdout == f"clip-vit-b32\t{folder}\n"
    assert (folder / "pytorch_model.bin").read_bytes() == b"clip" * 1000
    assert "here already" in run("fetch", "clip-vit-b32").stderr


def test_a_file_of_hugging_face_with_another_digest_is_taken_out(
    home: Path, hub: Backbone, server: FileServer
) -> None:
    server.files[f"/{hub.url}/resolve/{hub.revision}/pytorch_model.bin"] = b"evil" * 1000
    result = run("fetch", "clip-vit-b32")
    assert result.exit_code == 1
    assert "[wrong-hash]" in result.stderr
    assert b"evil" * 1000 not in [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    assert find_backbone("clip-vit-b32") is None


def test_the_progress_of_hugging_face_is_told(hub: Backbone) -> None:
    progress: list[tuple[int, int | None]] = []
    fetch_backbone(hub, lambda done, total: progress.append((done, total)))
    assert progress[-1] == (hub.size, hub.size)


def test_a_damaged_file_of_hugging_face_is_fetched_again(home: Path, hub: Backbone) -> None:
    assert run("fetch", "clip-vit-b32").exit_code == 0
    folder = find_backbone("clip-vit-b32")
    assert folder is not None
    (folder / "pytorch_model.bin").write_bytes(b"bad!" * 1000)
    assert run("verify", "clip-vit-b32").exit_code == 1
    assert run("fetch", "clip-vit-b32").exit_code == 0
    assert (folder / "pytorch_model.bin").read_bytes() == b"clip" * 1000


def test_a_file_that_hugging_face_does_not_have(hub: Backbone, server: FileServer) -> None:
    server.files.clear()
    result = run("fetch", "clip-vit-b32")
    assert result.exit_code == 1
    assert "failed clip-vit-b32: [download-failed]" in result.stderr
    assert "pytorch_model.bin" in result.stderr or "config.json" in result.stderr


@pytest.fixture
def no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection fails the test."""

    def refuse(*arguments: object, **_: object) -> None:
        pytest.fail(f"a connection was tried: {arguments[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_guard_notices_a_connection(no_socket: None) -> None:
    with pytest.raises(pytest.fail.Exception, match="a connection was tried"):
        run("fetch", "alexnet")


@pytest.mark.usefixtures("no_socket")
@pytest.mark.parametrize("how", ["--offline", "DP3D_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_refuses_in_one_line_before_any_connection(
    home: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    arguments: list[object] = ["fetch", "alexnet", "vgg16", "clip-vit-b32", "buffalo_l"]
    if how == "--offline":
        arguments.append(how)
    else:
        monkeypatch.setenv(how, "1")
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert how in result.stderr
    assert "alexnet, vgg16, clip-vit-b32, buffalo_l" in result.stderr
    assert snapshot(home) == {}


@pytest.mark.usefixtures("no_socket")
def test_offline_is_no_trouble_for_what_is_here(home: Path) -> None:
    path = home / "w" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(ALEXNET)
    assert run("fetch", "alexnet", "--offline").exit_code == 0


@pytest.mark.usefixtures("no_socket")
def test_the_other_commands_open_no_connection(home: Path) -> None:
    assert run("list").exit_code == 0
    assert run("list", "--json").exit_code == 0
    assert run("info", "clip-vit-b32").exit_code == 0
    assert run("path", "clip-vit-b32").exit_code == 1
    assert run("path", "nano").exit_code == 0
    assert run("verify").exit_code == 0


def test_for_a_command_all_that_it_can_use_is_asked_for(home: Path) -> None:
    asked = {purpose: run("fetch", "--for", purpose, "--offline").stderr for purpose in ("evaluate", "align")}
    assert "alexnet, vgg16, fid-inception, buffalo_l, clip-vit-b32" in asked["evaluate"]
    assert "so not fetched: buffalo_l." in asked["align"]
    synthesize = run("fetch", "--for", "synthesize")
    assert "nano: here already" in synthesize.stderr
    assert "failed diffportrait3d: [needs-source]" in synthesize.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch"], "Nothing to fetch"),
        (["fetch", "alexent"], "Did you mean 'alexnet'?"),
        (["fetch", "alexnet", "../x"], "No weights '../x'"),
        (["fetch", "--for", "cooking"], "--for"),
    ],
)
def test_wrong_usage_fetches_nothing(
    home: Path, server: FileServer, arguments: list[str], message: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert server.asked == []


def test_a_page_for_people_is_not_taken_for_the_checkpoint(home: Path, server: FileServer) -> None:
    url = server.give("/view", b"<html>")
    server.pages.add("/view")
    result = run("fetch", "diffportrait3d", "--from", url)
    assert result.exit_code == 1
    assert "[not-a-file]" in result.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_a_checkpoint_that_is_none_leaves_nothing(home: Path, server: FileServer) -> None:
    result = run("fetch", "diffportrait3d", "--from", server.give("/model.th", b"no checkpoint"))
    assert result.exit_code == 1
    assert "failed diffportrait3d: [" in result.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
    (home / "model.th").write_bytes(b"no checkpoint")
    assert run("fetch", "diffportrait3d", "--from", home / "model.th").exit_code == 1
    assert "no such file" in run("fetch", "diffportrait3d", "--from", home / "absent.th").stderr
    assert [path.name for path in home.rglob("*") if path.is_file()] == ["model.th"]


def test_an_interrupted_fetch_leaves_nothing_and_starts_anew(home: Path, server: FileServer) -> None:
    url = server.give("/slow", ALEXNET)
    server.stalled.add("/slow")
    command = [sys.executable, "-m", "dp3d_cli", "weights", "fetch", "alexnet", "--from", url]
    env = environment(DP3D_WEIGHTS=str(home / "w"), no_proxy="*")
    # Where the tests run in a script's background, SIGINT is ignored, and children would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    with process:
        assert server.is_half_given.wait(60)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert b"interrupted" in stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert run("fetch", "alexnet").exit_code == 0


def test_a_folder_that_may_only_be_read_is_told(home: Path, server: FileServer) -> None:
    (home / "w").write_text("a file where the folder should be")
    result = run("fetch", "alexnet", "buffalo_l")
    assert result.exit_code == 1
    assert result.stderr.count("[cannot-write]") == 2
    assert server.asked == []


def guarded(folder: Path, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tests.fakes.guarded_dp3d", str(folder), *map(str, arguments)]
    env = environment(OMP_NUM_THREADS="1", DP3D_WEIGHTS=str(folder))
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=200, check=False)


def test_the_guard_notices_connections_and_writes(home: Path) -> None:
    folder = home / "w"
    folder.mkdir()
    assert (
        guarded(home / "other", "weights", "fetch", "alexnet", "--from", "http://127.0.0.1:9/x").returncode
        == 99
    )
    (home / "mine").write_bytes(ALEXNET)
    assert guarded(folder, "weights", "fetch", "alexnet", "--from", home / "mine").returncode == 99


def test_a_folder_that_may_only_be_read_serves_everything_but_fetch(home: Path, tiny_weights: Path) -> None:
    assert run("fetch", "buffalo_l").exit_code == 0
    for arguments in (["list"], ["path", "buffalo_l"], ["info", "buffalo_l"], ["verify", tiny_weights]):
        result = guarded(home / "w", "weights", *arguments)
        assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_synthesize_opens_no_connection_and_writes_nothing_beside_the_weights(
    home: Path, tiny_weights: Path
) -> None:
    import skimage.data
    from PIL import Image

    Image.fromarray(skimage.data.astronaut()).save(home / "a.png")
    settings = ["-s", f"weights={tiny_weights}", "-s", "cameras.num_views=2", "-s", "num_inference_steps=1"]
    result = guarded(tiny_weights, "synthesize", home / "a.png", "-o", home / "views", *settings)
    assert result.returncode == 0, result.stderr
    published = ["-p", "diffportrait3d", "-s", "cameras.num_views=1"]
    missing = guarded(tiny_weights, "synthesize", home / "a.png", "-o", home / "v", *published)
    assert missing.returncode == 1
    assert b"dp3d weights fetch diffportrait3d --from" in missing.stderr
