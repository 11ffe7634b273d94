"""From what the user named to the items to work on.

A source is a file, a folder (searched through, hidden entries left out), a glob that the shell did not
expand, or "-" for paths on standard input. Ids are the paths below the folder searched. A file named by
itself has the path below `root` if given, below the dp3d output folder that it lies in, or just its name, so
that `dp3d align ... | dp3d synthesize -` keeps the ids that align gave.
"""

from __future__ import annotations

import glob
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from dp3d_cli.core.errors import UsageError
from dp3d_cli.stages.engine.atomic import HIDDEN
from dp3d_cli.stages.engine.identity import Candidate, absolute, id_of, output_folder_of, told_apart
from dp3d_cli.stages.engine.stage import Item


@dataclass(frozen=True)
class Discovery:
    """What was found.

    Attributes:
        items: in order of their ids, whatever the order of the sources.
        ignored: files of other kinds that were passed over, sorted.
        warnings: sentences about what could not be searched.
    """

    items: tuple[Item, ...]
    ignored: tuple[Path, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    """A file, and the folder that its id starts from; None if it was named by itself."""

    path: Path
    base: Path | None


def discover(
    sources: Sequence[str],
    *,
    suffixes: Collection[str] = (),
    names: Collection[str] = (),
    group: Literal["file", "folder"] = "file",
    root: Path | None = None,
    null: bool = False,
    stdin: Callable[[], bytes] | None = None,
) -> Discovery:
    """Find the items that `sources` name.

    Args:
        sources: files, folders, globs, "-".
        suffixes: lower-case endings with dot of the files wanted (".jpg"); their id is the path without it.
        names: whole names of files wanted ("views.json"); their id is the path of their folder.
        group: "file" makes each file an item; "folder" makes all files of one folder one item with several
            inputs, in order of their names.
        root: folder below which files named by themselves get their id.
        null: paths on standard input end with NUL instead of newline.
        stdin: reads all of standard input; the process's own by default.

    Raises:
        UsageError: a source does not exist, lies outside `root`, or nothing was found.
    """
    wanted = _Wanted(tuple(suffixes), frozenset(names))
    warnings: list[str] = []
    ignored: set[Path] = set()
    found: dict[Path, _Found] = {}
    for entry in _files(_expand(sources, null, stdin), warnings):
        if not wanted.takes(entry.path):
            ignored.add(entry.path)
            continue
        key = entry.path.parent.resolve() / entry.path.name
        known = found.get(key)
        # The same file named twice is one item; the rule must not depend on the order of the sources.
        found[key] = entry if known is None else min(known, entry, key=_depth)
    if not found:
        raise UsageError(_nothing_found(sources, wanted, ignored), reason="nothing-found")
    entries = sorted(found.values(), key=lambda entry: os.fsencode(entry.path))
    inputs = _by_folder(entries, root) if group == "folder" else _by_file(entries, wanted, root)
    ids = told_apart(inputs)
    items = [Item(ids[candidate], files) for candidate, files in inputs.items()]
    return Discovery(
        tuple(sorted(items, key=lambda item: os.fsencode(item.id))), tuple(sorted(ignored)), tuple(warnings)
    )


@dataclass(frozen=True)
class _Wanted:
    suffixes: tuple[str, ...]
    names: frozenset[str]

    def takes(self, path: Path) -> bool:
        return path.name in self.names or path.suffix.lower() in self.suffixes

    def __str__(self) -> str:
        return ", ".join([*sorted(self.names), *sorted(self.suffixes)])


def _expand(sources: Sequence[str], null: bool, stdin: Callable[[], bytes] | None) -> Iterator[str]:
    """Replace "-" by the paths on standard input and globs by what they match."""
    for source in sources:
        if source == "-":
            content = (stdin or sys.stdin.buffer.read)()
            yield from (os.fsdecode(line) for line in content.split(b"\0" if null else b"\n") if line)
        elif glob.has_magic(source) and not os.path.lexists(source):
            matches = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute
            if not matches:
                raise UsageError(f"{source}: no file matches this pattern.", reason="nothing-found")
            yield from matches
        else:
            yield source


def _files(sources: Iterable[str], warnings: list[str]) -> Iterator[_Found]:
    for source in sources:
        path = Path(source)
        if path.is_dir():
            for file in _walk(path, warnings, ()):
                yield _Found(file, path)
        elif path.exists():
            yield _Found(path, None)
        else:
            raise UsageError(f"{source}: no such file or folder.", reason="no-such-path")


def _walk(folder: Path, warnings: list[str], above: tuple[str, ...]) -> Iterator[Path]:
    """Files below a folder, sorted. Leaves out hidden entries, output folders of dp3d, and loops of links."""
    real = str(folder.resolve())
    if real in above:
        return
    try:
        entries = sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    except OSError as error:
        warnings.append(f"{folder}: cannot be searched ({error.strerror})")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            # An output folder below the source holds results, perhaps of this very run.
            if not (entry / HIDDEN).is_dir():
                yield from _walk(entry, warnings, (*above, real))
        elif entry.is_file() or entry.is_symlink():
            yield entry  # a broken link too: its item fails with the reason


def _by_file(
    entries: Iterable[_Found], wanted: _Wanted, root: Path | None
) -> dict[Candidate, tuple[Path, ...]]:
    candidates: dict[Candidate, tuple[Path, ...]] = {}
    for entry in entries:
        relative = _below(entry, root)
        if entry.path.name in wanted.names:
            folder = absolute(entry.path).parent
            parts = relative.parts[:-1] or (folder.name or "root",)
            candidate = Candidate(id_of(PurePath(*parts), ""), entry.path.parent)
        else:
            candidate = Candidate(id_of(relative, entry.path.suffix), entry.path, entry.path.suffix)
        candidates.setdefault(candidate, (entry.path,))
    return candidates


def _by_folder(entries: Iterable[_Found], root: Path | None) -> dict[Candidate, tuple[Path, ...]]:
    files: defaultdict[Candidate, list[Path]] = defaultdict(list)
    for entry in entries:
        folder = absolute(entry.path).parent
        parts = _below(entry, root).parts[:-1] or (folder.name or "root",)
        files[Candidate(id_of(PurePath(*parts), ""), entry.path.parent)].append(entry.path)
    return {candidate: tuple(paths) for candidate, paths in files.items()}


def _below(entry: _Found, root: Path | None) -> PurePath:
    """The entry's path relative to the folder that its id starts from."""
    if entry.base is not None:
        return entry.path.relative_to(entry.base)
    path = absolute(entry.path)
    if root is not None:
        top = absolute(root)
        if top not in path.parents:
            raise UsageError(f"{entry.path}: does not lie below --root {root}.")
        return path.relative_to(top)
    output = output_folder_of(path)
    return path.relative_to(output) if output else PurePath(path.name)


def _depth(entry: _Found) -> tuple[int, int, bytes]:
    """Found by a search before named by itself, the longest id first."""
    base = entry.base
    parts = len(entry.path.relative_to(base).parts) if base is not None else 0
    return (base is None, -parts, os.fsencode(entry.path))


def _nothing_found(sources: Sequence[str], wanted: _Wanted, ignored: Collection[Path]) -> str:
    where = ", ".join(sources[:3]) + (", …" if len(sources) > 3 else "")
    others = f" ({len(ignored)} other files were passed over)" if ignored else ""
    return f"{where}: nothing to do{others}. Looked for files of these kinds: {wanted}."
