"""Checks this machine and a folder of images, and says what is wrong.

python -m plankton_jax.doctor [--path=FOLDER]

Exits with status 1 if something is wrong with the folder.
"""

import importlib.metadata
import io
import logging
import os
import pathlib
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from configs import triplet
from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.data.sources import inspection
from plankton_jax.errors import reason
from plankton_jax.files import home

if TYPE_CHECKING:
  from plankton_jax.data import pipeline

SECONDS = flags.DEFINE_float(
  'step_seconds', 10.0, 'How long to time the training step.', lower_bound=0.0
)
PATH = flags.DEFINE_string(
  'path', None, 'A folder of images, one folder a class, to look through.'
)

_PACKAGES = (
  'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'pillow',
  'scikit-learn', 'tensorflow-datasets', 'array_record', 'onednn-cpu-gomp',
)  # fmt: skip
_HUGE_PAGES = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')


def main(argv: Sequence[str]) -> int:
  """Prints every check; returns 1 if something is wrong with the folder."""
  del argv
  host.show_log(logging.ERROR)
  if isinstance(sys.stdout, io.TextIOWrapper):
    # File names need not be valid text; print them anyway.
    sys.stdout.reconfigure(errors='backslashreplace')
  config = triplet.get_config().to_dict()
  _section('versions', versions())
  _section('machine', machine())
  _section('caches', caches(config))
  _section('throughput', throughput(config, SECONDS.value))
  if PATH.value is None:
    return 0
  found = inspection.inspect(PATH.value)
  _section(f'folder {PATH.value}', found.contents)
  if found.notes:
    _section('to know', found.notes)
  _section('to put right', found.problems or ['nothing'])
  return 1 if found.problems else 0


def versions() -> Iterator[str]:
  """Yields versions of Python and of packages that affect a run's numbers."""
  yield f'Python {platform.python_version()}, {platform.platform()}'
  for name in _PACKAGES:
    try:
      yield f'{name} {importlib.metadata.version(name)}'
    except importlib.metadata.PackageNotFoundError:
      yield f'{name} is not installed'


def machine() -> Iterator[str]:
  """Yields cores, memory, devices, and which CPU accelerations are in use."""
  from plankton_jax.train.rehearsal import mebibytes

  yield f'{os.cpu_count()} cores, {mebibytes(_memory())} memory'
  try:
    import jax

    devices = jax.devices()
  except RuntimeError as error:  # a plugin without its device
    yield f'JAX finds no device: {reason(error)}'
    return
  for device in devices:
    limit = (device.memory_stats() or {}).get('bytes_limit')
    memory = f', {mebibytes(limit)} for JAX' if limit else ''
    yield f'device {device.id}: {device.platform}, {device.device_kind}{memory}'
  if devices[0].platform == 'cpu':
    from plankton_jax.nn.conv import onednn

    served = onednn.available() and len(devices) == 1
    yield f'convolutions by oneDNN: {"yes" if served else "no (slower)"}'
    yield f'huge pages for malloc: {_huge_pages()}'


def caches(config: dict[str, Any]) -> Iterator[str]:
  """Yields the folders that runs share, their size and if they are writable."""
  from plankton_jax.train.rehearsal import mebibytes

  for field, name in (
    ('data.cache_dir', config['data']['cache_dir']),
    ('compilation_cache_dir', config['compilation_cache_dir']),
  ):
    folder = home.expand(name)
    existing = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    state = 'writable' if writable else f'NOT writable: set config.{field}'
    yield f'{field} {folder}: {mebibytes(_size(folder))}, {state}'


def throughput(config: dict[str, Any], seconds: float) -> Iterator[str]:
  """Times the everyday training step on random pixels, for so many seconds.

  It takes one step at least.
  """
  from plankton_jax.train import rehearsal
  from plankton_jax.train.experiment import assemble

  host.use_compilation_cache('')
  data = _random(config)
  try:
    pace = rehearsal.measure(
      config, assemble(config, data), data, seconds=seconds
    )
  except Exception as error:  # a driver's, the compiler's, memory's
    yield f'failed: {type(error).__name__}: {reason(error)}'
    return
  size, encoder = config['batch']['size'], config['encoder']
  yield (
    f'{size / pace.step:,.0f} images/s: {encoder["name"]} of width'
    f' {encoder["width"]}, {config["data"]["size"]} px, batches of {size};'
    f' {pace.step:.3g} s a step over {pace.steps}'
  )
  yield (
    f'compiled in {pace.compiling:.1f} s; memory'
    f' {rehearsal.mebibytes(pace.memory.total)} on each device'
  )


def _random(config: dict[str, Any]) -> 'pipeline.Data':
  """Makes four batches of random pixels in eight classes."""
  from plankton_jax.data import pipeline

  rng = np.random.default_rng(0)
  fields, count = config['data'], 4 * config['batch']['size']
  shape = (count, fields['size'], fields['size'], fields['channels'])
  return pipeline.Data(
    images=rng.integers(0, 256, shape, np.uint8),
    labels=np.arange(count, dtype=np.int32) % 8,
    ids=np.arange(count).astype(str),
    class_names=tuple('abcdefgh'),
    num_seen=8,
    splits={'train': np.arange(count)},
    fingerprint='',
    originals=None,  # type: ignore[arg-type]  # nothing reads them
  )


def _memory() -> int:
  """Returns the machine's memory in bytes; 0 if the system does not say."""
  try:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  except (AttributeError, ValueError, OSError):
    return 0


def _huge_pages() -> str:
  asked = 'malloc.hugetlb=1' in os.environ.get('GLIBC_TUNABLES', '')
  try:
    allowed = '[never]' not in _HUGE_PAGES.read_text()
  except OSError:
    allowed = False
  if asked and allowed:
    return 'yes'
  why = 'not asked for' if allowed else 'the system does not allow them'
  return f'no (slower): {why}'


def _size(folder: pathlib.Path) -> int:
  total = 0
  for place, _, names in os.walk(folder):  # passes over what it cannot read
    for name in names:
      try:
        total += os.lstat(os.path.join(place, name)).st_size
      except OSError:  # gone since
        continue
  return total


def _section(title: str, lines: Iterable[str]) -> None:
  print(f'\n{title}', flush=True)
  for line in lines:
    print(f'  {line}', flush=True)


if __name__ == '__main__':
  command.run(main, fast=True)
