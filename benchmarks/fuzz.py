"""Feeds damaged and hostile files to a reader, which may refuse in one line.

  python -m benchmarks.fuzz --reader=NAME [--seconds=600] [--guided]

A case either is read or ends in an InputError of one line. Whatever else it
ends in is a fault; the first input of each is kept in --keep. With --guided
and atheris installed, coverage chooses the bytes to change; otherwise seeds
are damaged, and files built whose content is hostile, from --seed.
"""

import collections
import contextlib
import hashlib
import itertools
import logging
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from benchmarks import fuzz_values
from benchmarks.fuzz_readers import READERS, Reader
from plankton_jax.cli import command
from plankton_jax.errors import InputError

READER = flags.DEFINE_enum('reader', None, list(READERS), 'What to read.')
SECONDS = flags.DEFINE_float('seconds', 600.0, 'How long.', lower_bound=0.0)
SEED = flags.DEFINE_integer('seed', 0, 'Of the cases.')
GUIDED = flags.DEFINE_bool('guided', False, 'Use atheris.')
KEEP = flags.DEFINE_string('keep', 'runs/fuzz', 'Folder for faulty inputs.')

SLOW = 30  # seconds on a core, after which a case is a fault


class Result(NamedTuple):
  """The outcome of the cases."""

  cases: int
  read: int
  refused: int
  faults: dict[str, bytes]  # where and what -> the first input


def run(reader: Reader, cases: Iterator[bytes]) -> Result:
  """Reads every case in a new folder and counts."""
  counts: collections.Counter[str] = collections.Counter()
  faults: dict[str, bytes] = {}
  for data in cases:
    counts['cases'] += 1
    try:
      refused = refusal(reader, data)
      counts['refused' if refused else 'read'] += 1
    except Exception as error:
      faults.setdefault(_fault(error), data)
  return Result(counts['cases'], counts['read'], counts['refused'], faults)


def refusal(reader: Reader, data: bytes) -> str:
  """Reads a case; returns the line it is refused with, '' if it is read.

  Raises:
    Exception: whatever the reader raised but an InputError of one line.
  """
  folder = pathlib.Path(tempfile.mkdtemp(prefix='fuzz_'))
  try:
    with _time_limit(SLOW), warnings.catch_warnings():
      warnings.simplefilter('ignore')
      reader.read(data, folder)
    return ''
  except InputError as error:
    fuzz_values.one_line(error)
    return str(error)
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def cases(reader: Reader, seed: int) -> Iterator[bytes]:
  """Yields the seed, then damaged seeds and hostile files, without end."""
  rng = np.random.default_rng(seed)
  whole = reader.seed()
  yield from (whole, b'', b'\0', fuzz_values.nested_json())
  while True:
    yield fuzz_values.damage(rng, whole)
    yield reader.vary(rng)


def within(items: Iterator[bytes], seconds: float) -> Iterator[bytes]:
  """Yields items until the time is over, which begins after the first.

  The first may take long: some readers make an encoder as their seed.
  """
  first = next(items)
  end = time.monotonic() + seconds
  yield first
  yield from itertools.takewhile(lambda _: time.monotonic() < end, items)


def main(argv: Sequence[str]) -> int:
  """Feeds a reader, keeps faulty inputs; returns 1 if there are any."""
  del argv  # flags only
  if not READER.value:
    raise InputError(f'--reader is missing: one of {", ".join(READERS)}')
  logging.disable(logging.ERROR)
  reader = READERS[READER.value]
  if GUIDED.value:
    return _guided(reader, SECONDS.value)
  began = time.monotonic()
  found = run(reader, within(cases(reader, SEED.value), SECONDS.value))
  print(
    f'{READER.value}: {found.cases:,} cases in {time.monotonic() - began:.0f} s'
    f', {found.read:,} read, {found.refused:,} refused in one line,'
    f' {len(found.faults)} kinds of fault'
  )
  folder = pathlib.Path(KEEP.value)
  for what, data in found.faults.items():
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.blake2b(data, digest_size=4).hexdigest()
    file = folder / f'{READER.value}-{name}'
    file.write_bytes(data)
    print(f'  {what}\n    {file}')
  return int(bool(found.faults))


def _guided(reader: Reader, seconds: float) -> int:
  """Lets atheris choose cases; it ends the process at the first fault."""
  try:
    import atheris
  except ImportError:
    raise InputError('--guided needs atheris: pip install atheris') from None
  corpus = pathlib.Path(tempfile.mkdtemp(prefix='fuzz_corpus_'))
  for k, data in enumerate(itertools.islice(cases(reader, SEED.value), 200)):
    (corpus / f'{k}').write_bytes(data)
  atheris.instrument_all()
  folder = pathlib.Path(KEEP.value)
  folder.mkdir(parents=True, exist_ok=True)
  arguments = [
    sys.argv[0],
    f'-max_total_time={int(seconds)}',
    f'-artifact_prefix={folder}/{READER.value}-',
    '-rss_limit_mb=8192',
    '-print_final_stats=1',
    str(corpus),
  ]
  atheris.Setup(arguments, lambda data: refusal(reader, data) and None)
  atheris.Fuzz()
  return 0


def _fault(error: Exception) -> str:
  """Names the innermost line of ours, and the error."""
  root = os.fspath(pathlib.Path(__file__).parents[1])
  frames = [
    f'{os.path.relpath(frame.filename, root)}:{frame.lineno}'
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename.startswith(root) and 'site-packages' not in frame.filename
  ]
  kind = type(error).__name__
  text = ' '.join(str(error).split())[:60] if kind == 'AssertionError' else ''
  return ' '.join(filter(None, [frames[-1] if frames else '?', kind, text]))


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
  """Raises TimeoutError in the body after so long on a core.

  Or after ten times as long by the clock: a reader may wait for what never
  comes, and a busy machine is not its fault.
  """

  def stop(signum, frame):
    raise TimeoutError(f'a case took more than {seconds} s')

  before = [signal.signal(s, stop) for s in (signal.SIGPROF, signal.SIGALRM)]
  signal.setitimer(signal.ITIMER_PROF, seconds)
  signal.alarm(10 * seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    signal.signal(signal.SIGPROF, before[0])
    signal.signal(signal.SIGALRM, before[1])


if __name__ == '__main__':
  command.run(main)
