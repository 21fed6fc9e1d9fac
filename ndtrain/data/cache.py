"""Folders of derived files that appear whole or not at all, and are found by a key.

    folder = cache_root(None) / "tokens" / key_of(identity)
    meta = find(folder)              # None: absent or damaged
    if meta is None:
        meta = publish(folder, write)    # write(temporary_folder) -> dict

`meta.json` holds what `write` returned and the size of every other file, so a truncated file is
found. Several processes may publish one key at a time: each writes its own folder, one is kept.
"""

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ndtrain.core.atomic import fsync_folder, write_json

META_FILE = "meta.json"
STALE_AFTER_S = 24 * 3600  # a temporary folder this old belongs to a process that was killed


def cache_root(directory: str | None) -> Path:
    """`directory`, else `$XDG_CACHE_HOME/ndtrain`, else `~/.cache/ndtrain`."""
    if directory is not None:
        return Path(directory).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "ndtrain"


def key_of(identity: dict[str, Any]) -> str:
    """32 hexadecimal digits that depend on the JSON of `identity`."""
    canonical = json.dumps(identity, sort_keys=True, allow_nan=False)
    return blake2b(canonical.encode(), digest_size=16).hexdigest()


def find(folder: Path) -> dict[str, Any] | None:
    """The meta data of a complete folder, or None: absent, unreadable, or a file's size is off."""
    try:
        meta = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
        sizes = meta["sizes"]
        intact = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return meta if intact else None


def publish(folder: Path, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Fills a temporary folder with `write`, renames it to `folder`, returns its meta data.

    Where another process was first, its folder is kept and its meta data returned. A damaged
    folder is replaced. With an exception nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder.parent)
    temporary = _sibling(folder)
    temporary.mkdir()
    try:
        meta = write(temporary)
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        for name in sizes:
            _fsync(temporary / name)
        meta = meta | {"sizes": sizes}
        write_json(temporary / META_FILE, meta)
        return _rename(temporary, folder, meta)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    while True:
        try:
            os.rename(temporary, folder)  # refused if the folder exists and is not empty
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            found = find(folder)
            if found is not None:
                return found
            damaged = _sibling(folder)
            with suppress(FileNotFoundError):  # another process has just moved it
                os.rename(folder, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        else:
            fsync_folder(folder.parent)
            return meta


def _sibling(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _remove_stale(parent: Path) -> None:
    for path in parent.glob(".*.tmp"):
        try:
            stale = time.time() - path.stat().st_mtime > STALE_AFTER_S
        except FileNotFoundError:  # its owner has just renamed it
            continue
        if stale:
            shutil.rmtree(path, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
