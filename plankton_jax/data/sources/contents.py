"""Hashes files, reading only those that changed since they were hashed."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from plankton_jax.data import workers
from plankton_jax.data.sources.files import digest
from plankton_jax.files import atomic

# Seconds for which a file may change again without a change of its time, which
# some disks round.
_FRESH = 2.0
_WIDTH = 64  # bytes of a digest
_GONE = -1  # size of a file that cannot be read


def digests(
  root: Path,
  names: Sequence[str],
  cache_dir: Path | None,
  packed: Callable[[str], bytes] | None = None,
) -> list[bytes]:
  """Hashes the files of these names below a folder; b'' if one is unreadable.

  Takes a file for unchanged if its name, size and time are those that were
  kept, and keeps those of all files. So a file that was replaced by one of the
  same size and time is not read again.

  Args:
    root: the folder, or the archive that holds the files.
    names: paths in it.
    cache_dir: where this is kept, or None to read all files.
    packed: reads a file of an archive, which changes as a whole.
  """
  now = time.time_ns()

  def state(name: str) -> tuple[int, int]:
    with contextlib.suppress(OSError):
      found = os.stat(root if packed else root / name)
      return found.st_size, found.st_mtime_ns
    return _GONE, 0

  def hash_file(name: str) -> bytes:
    with contextlib.suppress(OSError, ValueError):
      if packed:
        return hashlib.blake2b(packed(name)).digest()
      return digest(root / name)
    return b''

  if cache_dir is None:
    return list(workers.in_order(hash_file, names, desc='read'))
  kept = _place(cache_dir, root)
  states = np.array([*workers.in_order(state, names, desc='look up')], np.int64)
  states = states.reshape(len(names), 2)
  found = _read(kept, names, states)
  changed = [row for row, known in enumerate(found) if not known]
  if not changed:
    return found
  hashes = workers.in_order(hash_file, [names[i] for i in changed], desc='read')
  for row, content in zip(changed, hashes, strict=True):
    found[row] = content
  settled = states[:, 1] < now - int(_FRESH * 1e9)
  readable = np.array([len(content) == _WIDTH for content in found], bool)
  known = np.flatnonzero(settled & readable)
  if len(known):
    _write(kept, names, states, found, known)
  return found


def _place(cache_dir: Path, root: Path) -> Path:
  name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=16)
  return cache_dir / 'contents' / f'{name.hexdigest()}.npz'


def _read(kept: Path, names: Sequence[str], states: np.ndarray) -> list[bytes]:
  """Returns the digests that are known of files in these states [N, 2]."""
  found = [b''] * len(names)
  # A cache: whatever is wrong with it, files are read again.
  with (
    contextlib.suppress(Exception),
    kept.open('rb') as file,  # NumPy leaves a damaged one open
    np.load(file) as arrays,
  ):
    then = arrays['names'].tobytes().decode().split('\0')
    row_of = {name: row for row, name in enumerate(then)}
    rows = np.array([row_of.get(name, -1) for name in names])
    same = (rows >= 0) & (arrays['states'][rows] == states).all(axis=1)
    hashes = arrays['digests']
    for at in np.flatnonzero(same).tolist():
      found[at] = hashes[rows[at]].tobytes()
  return found


def _write(
  kept: Path,
  names: Sequence[str],
  states: np.ndarray,
  found: Sequence[bytes],
  rows: np.ndarray,
) -> None:
  """Writes what is known of these rows."""
  text = '\0'.join(names[row] for row in rows.tolist())
  hashes = b''.join(found[row] for row in rows.tolist())
  # Only the next start takes longer without it.
  with contextlib.suppress(OSError):
    kept.parent.mkdir(parents=True, exist_ok=True)
    with atomic.file(kept) as building, building.open('wb') as file:
      np.savez(
        file,
        names=np.frombuffer(text.encode(), np.uint8),
        states=states[rows],
        digests=np.frombuffer(hashes, np.uint8).reshape(-1, _WIDTH),
      )
