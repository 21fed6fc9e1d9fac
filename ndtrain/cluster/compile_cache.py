"""Compiled graphs between nodes and jobs: a shared folder fills a node's cache and takes from it.

    with shared_cache(config, local_rank, environment):     # around a rank's work
        ...

Compilers lock and write in a folder on the node's own disk. The shared folder is that of
`cluster.compile_cache`; it sees finished entries alone, each renamed into its place as a whole.
Whoever comes second finds the name taken and leaves it. So no node waits for another, none reads
half an entry, and what a killed job had finished is there for its next start. The first rank of a
node does the work: it joins the others when the cache is filled, and nobody compiles before all
have joined.
"""

import errno
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ndtrain.config.schema import Config
from ndtrain.core.atomic import fsync_folder
from ndtrain.core.repeat import repeating
from ndtrain.runtime.cache_owner import cache_owner
from ndtrain.runtime.graph_cache import RECORDS, cache_folder, finished

PUBLISH_EVERY_S = 60.0
STALE_AFTER_S = 24 * 3600  # a partial copy this old belongs to a process that was killed


@contextmanager
def shared_cache(config: Config, local_rank: int, environment: Mapping[str, str]) -> Iterator[None]:
    """Filled before, published every minute and after. What fails is said and costs a compilation.

    Raises UserError for Neuron packages that are not Neuron's.
    """
    shared = config.cluster.compile_cache
    own = _own_folder(config, environment) if shared and local_rank == 0 else None
    if shared is None or own is None:
        yield
        return
    target = Path(shared).expanduser()
    _copy_and_tell(target, own)

    def publish() -> None:
        _copy_and_tell(own, target)

    try:
        with repeating(publish, PUBLISH_EVERY_S, "compile cache"):
            yield
    finally:
        publish()


def _own_folder(config: Config, environment: Mapping[str, str]) -> Path | None:
    """This node's cache; None where nothing is compiled, or nothing kept."""
    owner = cache_owner(config.runtime.device)
    return None if owner is None else cache_folder(owner, environment)


def _copy_and_tell(source: Path, target: Path) -> None:
    try:
        num_copied = copy_finished(source, target)
    except OSError as error:
        text = f"warning: compile cache: {source} is not copied to {target}: {error}"
        print(text, file=sys.stderr, flush=True)
        return
    if num_copied:
        print(f"compile cache: {num_copied} graphs from {source} to {target}", flush=True)


def copy_finished(source: Path, target: Path) -> int:
    """Copies what the target does not have; returns the number of graphs. Raises OSError."""
    num_copied = 0
    for name in finished(source):
        num_copied += _copy(source / name, target / name)
    # After what they name.
    for record in sorted(source.glob(f"{RECORDS}/*.json")):
        _copy(record, target / RECORDS / record.name)
    return num_copied


def _copy(source: Path, target: Path) -> bool:
    """A file or a folder, whole or not at all. False if its name is taken."""
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(target.parent)
    partial = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        if source.is_dir():
            locks = shutil.ignore_patterns("*.lock")
            shutil.copytree(source, partial, ignore=locks, copy_function=_copy_file)
        else:
            _copy_file(source, partial)
        partial.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False  # another node was faster
    finally:
        _remove(partial)
    fsync_folder(target.parent)
    return True


def _copy_file(source: str | Path, target: str | Path) -> None:
    """On the disk when it returns: a name must not survive a power cut without its contents."""
    with open(source, "rb") as reader, open(target, "xb") as writer:
        shutil.copyfileobj(reader, writer)
        writer.flush()
        os.fsync(writer.fileno())


def _remove_stale(folder: Path) -> None:
    for path in folder.glob(".*.tmp"):
        try:
            is_stale = time.time() - path.stat().st_mtime > STALE_AFTER_S
        except FileNotFoundError:  # its owner has just renamed it
            continue
        if is_stale:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
