"""Data sets at addresses: the tree of their files in the cache folder, and each video fetched when it is read.

    root: s3://bucket/dhf1k                       # in a config
    saldistill data check s3://bucket/dhf1k

`data_root` lists the address and makes the tree, in which every video and list of fixations is a small text that
names it. `local` maps a path in the tree to the fetched file, in a cache of bounded size. A folder of images, such
as the frames of a video or its maps and fixations, is fetched and removed as one.
"""

import hashlib
import os
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from pydantic import BaseModel

from distill.data.video.guard import heartbeat
from distill.data.video.names import IMAGE_SUFFIXES
from distill.file_cache import FOLDER, CachedFile, cache_folder, shared_cache
from distill.files import write_json, write_text
from distill.paths import path_inside
from distill.remote import RemoteFolder, is_address
from distill.shipped import shipped_path
from distill.validation import read_json

INDEX = ".index.json"

FRAME_SUFFIXES = (*IMAGE_SUFFIXES, ".mat")
"""Suffixes of the files of which a folder has one for each frame."""

PARTS = ("maps", "fixation", "images")
"""Folders of images that are fetched with the folder that contains them."""


class Entry(BaseModel):
    """A file, or a folder of images, at an address."""

    bytes: int
    tag: str
    """Changes with the content."""


class Index(BaseModel):
    """What an address has: relative path -> entry."""

    address: str
    files: dict[str, Entry]
    folders: dict[str, Entry]
    pictures: list[str]
    """One image of each folder that has some."""


def data_root(root: str | Path) -> Path:
    """Return the folder of a data set: the tree of an address, or what `shipped_path` returns.

    Raises:
        UserError: the address cannot be listed.
    """
    if not is_address(root):
        return shipped_path(root)
    folder = RemoteFolder(str(root))
    tree = path_inside(_trees(), folder.address.replace("://", "/", 1), folder.address)
    _make_tree(tree, _listed(folder))
    return tree


def local(path: Path) -> Path:
    """Return the file or folder that has the content of a path: in the cache for one in the tree of an address.

    Any other path is returned as it is. What is returned stays for seconds only: open it at once.

    Raises:
        UserError: it cannot be fetched.
    """
    found = _find(path)
    if found is None:
        return path
    file, inner = found
    if file.is_cached:
        return file.path() / inner
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(file.path)
        while not wait([fetching], timeout=1).done:
            heartbeat()  # a probe's timeout is for decoders
        return fetching.result() / inner


def origin(path: Path) -> tuple[str, str] | None:
    """Return the address of the data set that a path in a tree belongs to, and its name there.

    On another machine `data_root` of the address makes the same tree. None for any other path.
    """
    tree = _tree_of(path)
    return None if tree is None else (_index_of(tree).address, path.relative_to(tree).as_posix())


def remote_file(path: Path) -> CachedFile | None:
    """Return the file or folder to fetch for a path in the tree of an address; None for any other path."""
    found = _find(path)
    return None if found is None else found[0]


def _trees() -> Path:
    return cache_folder() / "addresses"


def _find(path: Path) -> tuple[CachedFile, str] | None:
    """Return what a path in a tree is fetched with, and its place in it; None for any other path."""
    tree = _tree_of(path)
    if tree is None:
        return None
    index = _index_of(tree)
    name = path.relative_to(tree).as_posix()
    if name in index.files:
        return _cached(index, name, index.files[name], is_folder=False), ""
    for folder in (PurePosixPath(name), *PurePosixPath(name).parents):
        if str(folder) in index.folders:
            inner = PurePosixPath(name).relative_to(folder)
            return _cached(index, str(folder), index.folders[str(folder)], is_folder=True), str(inner)
    return None


def _tree_of(path: Path) -> Path | None:
    """Return the tree that a path is in; None for any other path."""
    trees = str(_trees())
    if not str(path).startswith(trees):
        return None
    for tree in path.parents if not (path / INDEX).exists() else (path, *path.parents):
        if (tree / INDEX).exists():
            return tree
        if str(tree) == trees:
            break
    return None


def _index_of(tree: Path) -> Index:
    return _index(tree, (tree / INDEX).stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _index(tree: Path, _changed: int) -> Index:
    return read_json(tree / INDEX, Index, "the index of an address", f"remove {tree}, which is made again")


def _cached(index: Index, name: str, entry: Entry, *, is_folder: bool) -> CachedFile:
    key = hashlib.sha256(f"{index.address}/{name}\n{entry.tag}".encode()).hexdigest()[:24]
    suffix = FOLDER if is_folder else PurePosixPath(name).suffix
    source = index.address
    fetch = partial(_fetch_folder, source, name) if is_folder else partial(_fetch_file, source, name, entry.bytes)
    return CachedFile(shared_cache(), f"data/{key[:2]}/{key}{suffix}", entry.bytes, fetch)


def _fetch_file(address: str, name: str, size: int, path: Path) -> None:
    def fault(fetched: Path) -> str | None:
        found = fetched.stat().st_size
        return None if found == size else f"it has {found:,} bytes, expected {size:,}; it was cut off or replaced"

    RemoteFolder(address).fetch(name, path, fault)


def _fetch_folder(address: str, name: str, path: Path) -> None:
    folder = f"{address}/{name}" if name != "." else address
    with ThreadPoolExecutor(16) as pool:
        names = [(each, size) for each, (size, _) in RemoteFolder(folder).entries().items()]
        list(pool.map(lambda item: _fetch_into(folder, path, *item), names))


def _fetch_into(folder: str, path: Path, name: str, size: int) -> None:
    target = path_inside(path, name, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    _fetch_file(folder, name, size, target)


def _listed(folder: RemoteFolder) -> Index:
    """Return the index of an address."""
    files: dict[str, Entry] = {}
    groups: dict[str, list[tuple[str, Entry]]] = defaultdict(list)
    for name, (size, tag) in folder.entries().items():
        path = PurePosixPath(name)
        if any(part.startswith(".") for part in path.parts):
            continue
        path_inside("", name, folder.address)
        entry = Entry(bytes=size, tag=tag)
        if path.suffix.lower() in FRAME_SUFFIXES:
            groups[str(_unit(path.parent))].append((name, entry))
        else:
            files[name] = entry
    pictures = {PurePosixPath(name).parent: name for each in groups.values() for name, _ in each}
    return Index(
        address=folder.address,
        files=files,
        folders={unit: _sum(each) for unit, each in groups.items()},
        pictures=sorted(pictures.values()),
    )


def _unit(folder: PurePosixPath) -> PurePosixPath:
    """Return the folder that a folder of images is fetched with."""
    while folder.name in PARTS:
        folder = folder.parent
    return folder


def _sum(entries: list[tuple[str, Entry]]) -> Entry:
    digest = hashlib.sha256()
    for name, entry in sorted(entries, key=lambda each: each[0]):
        digest.update(f"{name}\0{entry.bytes}\0{entry.tag}\n".encode())
    return Entry(bytes=sum(entry.bytes for _, entry in entries), tag=digest.hexdigest()[:32])


def _make_tree(tree: Path, index: Index) -> None:
    """Make or update the tree of an address; a file is written again only if its original has changed."""
    texts = {
        name: f"{index.address}/{name}\n{each.bytes} bytes, {each.tag}\n" for name, each in index.files.items()
    }
    for name in index.pictures:
        unit = index.folders[str(_unit(PurePosixPath(name).parent))]
        texts[name] = f"{index.address}/{name}\none of {unit.bytes} bytes, {unit.tag}\n"
    for name, text in texts.items():
        path = path_inside(tree, name, index.address)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    if not (tree / INDEX).exists() or read_json(tree / INDEX, Index, "the index of an address") != index:
        write_json(tree / INDEX, index.model_dump())
    for folder, _, names in os.walk(tree, topdown=False):
        for name in names:
            path = Path(folder) / name
            if name[0] != "." and path.relative_to(tree).as_posix() not in texts:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            Path(folder).rmdir()
