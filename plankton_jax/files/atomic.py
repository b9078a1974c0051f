"""Writes files and folders that appear whole under their name or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def directory(final: Path) -> Iterator[Path]:
  """Yields a new folder beside `final`, renamed to it if the body succeeds.

  If another process was first, its folder stays and this one is removed.
  """
  final.parent.mkdir(parents=True, exist_ok=True)
  building = Path(tempfile.mkdtemp(prefix=f'.{final.name}.', dir=final.parent))
  try:
    yield building
    building.chmod(0o777 & ~_umask())  # mkdtemp makes it private.
    try:
      building.rename(final)
    except OSError:
      if not final.is_dir():
        raise
  finally:
    shutil.rmtree(building, ignore_errors=True)


@contextlib.contextmanager
def file(final: Path) -> Iterator[Path]:
  """Yields a path beside `final`, renamed to it if the body succeeds."""
  building = final.with_name(f'.{final.name}.{os.getpid()}')
  try:
    yield building
    building.replace(final)
  finally:
    building.unlink(missing_ok=True)


def text(final: Path, content: str) -> None:
  """Writes a UTF-8 file beside `final` and renames it."""
  with file(final) as building:
    building.write_text(content, encoding='utf-8')


def _umask() -> int:
  mask = os.umask(0o022)  # The only way to read it is to set it.
  os.umask(mask)
  return mask
