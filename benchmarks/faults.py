"""Kills a run at its worst moments, again and again, and compares its end.

  python -m benchmarks.faults [--kills=30] [--moments=0] [--runs=runs/faults]

A chain is a run from its records to its predictions that is killed once in
every phase (kill -9, a random moment after the phase has begun) and started
again by the same command. Right after each kill every file under its final
name must be whole. At the end all results must be bit for bit those of a run
that nothing stopped, and the disk must hold no more than it holds plus a
bounded rest. faults.csv lists the kills.
"""

import contextlib
import csv
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from benchmarks import fuzz_readers
from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

KILLS = flags.DEFINE_integer('kills', 30, 'How many.', lower_bound=1)
MOMENTS = flags.DEFINE_integer('moments', 0, 'Seed of the moments.')
RUNS = flags.DEFINE_string('runs', 'runs/faults', 'Folder of the runs.')

_ROOT = pathlib.Path(__file__).parents[1]
FLAGS = {
  'epochs': 3,
  'data.per_class': 16,
  'data.size': 16,
  'batch.size': 18,
  'encoder.width': 4,
  'encoder.embedding_dim': 8,
}
_LONGEST = 1800  # seconds of one command, on a busy machine
_TIMES = ('seconds', 'images_per_second')  # differ from run to run


class Phase(NamedTuple):
  """A part of the pipeline, and how to see from outside that it is on."""

  command: str  # of `commands`
  begun: Callable[[pathlib.Path], bool]  # of a place


class Kill(NamedTuple):
  """One kill and what it left."""

  phase: str
  seconds: float  # after the command began
  reached: bool  # False: the command ended before the phase was seen
  broken: tuple[str, ...]  # files under their final name that are not whole
  megabytes: float  # that the place holds


def _temporary(folder: pathlib.Path) -> bool:
  return folder.is_dir() and any(p.name[0] == '.' for p in folder.iterdir())


def _lines(place: pathlib.Path, split: str) -> int:
  file = place / 'run' / 'metrics.jsonl'
  if not file.exists():
    return 0
  return file.read_text(encoding='utf-8').count(f'"split": "{split}"')


def _saving(place: pathlib.Path) -> bool:
  folder = place / 'run' / 'checkpoints'
  return folder.is_dir() and any('tmp' in p.name for p in folder.rglob('*'))


PHASES = {
  'records': Phase('train', lambda p: _temporary(p / 'cache' / 'records')),
  'cache': Phase('train', lambda p: _temporary(p / 'cache' / 'decoded')),
  'first compile': Phase('train', lambda p: (p / 'run/config.json').exists()),
  'step': Phase('train', lambda p: _lines(p, 'train') > 0),
  'validation': Phase('train', lambda p: _lines(p, 'val') > 0),
  'checkpoint': Phase('train', _saving),
  'embedding': Phase('embed', lambda p: (p / 'run/embeddings').exists()),
  'report': Phase('report', lambda p: (p / 'run/analysis').exists()),
  'predict': Phase('predict', lambda p: (p / 'run/analysis/predict').exists()),
}


def commands(place: pathlib.Path) -> dict[str, list[str]]:
  """Lists the commands of the pipeline, which write below `place` only."""
  run = f'--workdir={place / "run"}'
  fields = {
    'data.cache_dir': place / 'cache',
    'compilation_cache_dir': place / 'compiled',
  } | FLAGS
  settings = [f'--config.{name}={value}' for name, value in fields.items()]
  return {
    'train': ['launch.py', '--config=configs/smoke.py', run, *settings],
    'embed': ['-m', 'analysis.embed', run],
    'report': ['-m', 'analysis.report', run],
    'predict': ['-m', 'analysis.predict', run, f'--images={place / "new"}'],
  }


def prepare(place: pathlib.Path) -> pathlib.Path:
  """Makes a new place, with a few images to predict."""
  shutil.rmtree(place, ignore_errors=True)
  (place / 'new').mkdir(parents=True)
  for k in range(5):
    (place / 'new' / f'{k}.png').write_bytes(fuzz_readers.picture(k))
  return place.resolve()


def start(arguments: Sequence[str], log: pathlib.Path) -> subprocess.Popen:
  """Starts the command in a session of its own, which a kill ends entirely."""
  with log.open('ab') as file:
    return subprocess.Popen(
      [sys.executable, *arguments],
      cwd=_ROOT,
      env={**os.environ, 'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=0'},
      stdout=file,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    )


def finish(arguments: Sequence[str], log: pathlib.Path) -> None:
  """Runs the command to its end.

  Raises:
    InputError: it failed; the message has the last line that it printed.
  """
  status = start(arguments, log).wait(_LONGEST)
  if status:
    last = log.read_text(errors='replace').strip().splitlines()[-1:]
    raise InputError(f'{" ".join(arguments[:2])} ended with {status}: {last}')


def kill_in(phase: str, place: pathlib.Path, rng: np.random.Generator) -> Kill:
  """Starts the phase's command and kills it soon after the phase began."""
  chosen, began = PHASES[phase], time.monotonic()
  before = chosen.begun(place)
  process = start(commands(place)[chosen.command], place / 'log.txt')
  # What is there from an earlier start is no sign: then it may be any moment.
  while process.poll() is None and not before and not chosen.begun(place):
    time.sleep(0.002)
  pause = rng.uniform(0, 12.0 if before else 0.3)
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(pause)
  reached = process.poll() is None
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  return Kill(
    phase,
    round(time.monotonic() - began, 2),
    reached,
    tuple(broken(place)),
    size(place) / 1e6,
  )


def size(place: pathlib.Path) -> int:
  """Adds up the bytes of all files."""
  return sum(p.lstat().st_size for p in place.rglob('*') if p.is_file())


def _finals(place: pathlib.Path) -> Iterator[pathlib.Path]:
  """Lists files under their final name, which no temporary name precedes."""
  for path in sorted(place.rglob('*')):
    parts = path.relative_to(place).parts
    hidden = any(part.startswith('.') or 'tmp' in part for part in parts)
    if path.is_file() and not hidden and parts[0] != 'compiled':
      yield path


def broken(place: pathlib.Path) -> Iterator[str]:
  """Lists final files that are cut. A log may lack the end of its last line."""
  for path in _finals(place):
    try:
      _check(path)
    except FileNotFoundError:  # a process of the killed session ended late
      continue
    except (
      ValueError,
      OSError,
      EOFError,
      SyntaxError,  # of PIL
      zipfile.BadZipFile,
    ) as error:
      yield f'{path.relative_to(place)}: {error}'


def _check(path: pathlib.Path) -> None:
  if path.suffix == '.json':
    json.loads(path.read_text(encoding='utf-8'))
  elif path.suffix in ('.npz', '.npy'):
    # Opened here: np.load leaves open what turns out to be no archive.
    with path.open('rb') as file:
      loaded = np.load(file, allow_pickle=False)
      if path.suffix == '.npz':
        with loaded:
          for name in loaded:
            loaded[name]  # the archive's checksum is compared on reading
  elif path.suffix == '.png':
    with Image.open(path) as image:
      image.load()
  elif path.suffix == '.html' and not path.read_text().rstrip().endswith(
    '</html>'
  ):
    raise ValueError('cut short')


def results(place: pathlib.Path) -> dict[str, str]:
  """Hashes each result of a run, without its timings."""
  from plankton_jax import checkpoints
  from plankton_jax.train import store

  run = place / 'run'
  found: dict[str, str] = {}
  with store.open_manager(run) as manager:
    steps = sorted(manager.all_steps())
  for step in steps:
    variables = checkpoints.load_encoder(run, step).variables
    found |= {
      f'checkpoint {step} {name}': _hash(np.asarray(leaf).tobytes())
      for name, leaf in _leaves(variables)
    }
  found |= logged(run / 'metrics.jsonl')
  for path in sorted((run / 'embeddings').glob('*.npz')):
    with np.load(path) as arrays:
      content = b''.join(arrays[name].tobytes() for name in sorted(arrays))
    found[f'embeddings {path.name}'] = _hash(content)
  for path in _finals(run):
    own = path.relative_to(run)
    # The report repeats the tables, and holds times and a set in any order.
    if own.suffix in ('.csv', '.txt') or str(own) == 'split.json':
      text = path.read_text(encoding='utf-8').replace(str(place), 'PLACE')
      if own.suffix == '.csv':
        text = _untimed(text)
      found[str(own)] = _hash(re.sub(r'\d+\.\d s\b', '', text).encode())
  return found


def _untimed(table: str) -> str:
  """Drops the columns of a CSV table that say how long something took."""
  rows = list(csv.DictReader(table.splitlines()))
  return json.dumps(
    [{k: v for k, v in row.items() if k not in _TIMES} for row in rows]
  )


def logged(path: pathlib.Path) -> dict[str, str]:
  """Hashes each row of a log, without its timings."""
  found = {}
  for line in path.read_text(encoding='utf-8').splitlines():
    row = json.loads(line)
    for name in _TIMES:
      row.pop(name, None)
    found[f'{row["split"]} {row["step"]}'] = _hash(repr(row).encode())
  return found


def _leaves(variables: Any) -> list[tuple[str, Any]]:
  import jax

  leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
  return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _hash(data: bytes) -> str:
  return hashlib.blake2b(data, digest_size=8).hexdigest()


def differences(got: dict[str, str], want: dict[str, str]) -> list[str]:
  """Names results that are missing, additional or different."""
  return sorted(
    n for n in got.keys() | want.keys() if got.get(n) != want.get(n)
  )


def chain(
  place: pathlib.Path,
  phases: Sequence[str],
  rng: np.random.Generator,
  *,
  last: str = 'predict',
) -> list[Kill]:
  """Kills a new run in each phase, in order, and lets it end.

  Args:
    place: a new folder.
    phases: of PHASES, in the order of the pipeline.
    rng: draws the moments.
    last: the command to end with.
  """
  prepare(place)
  kills = []
  for name, arguments in commands(place).items():
    for phase in phases:
      if PHASES[phase].command == name:
        kills.append(kill_in(phase, place, rng))
        print(f'{phase}: {kills[-1]}', file=sys.stderr)
    finish(arguments, place / 'log.txt')
    if name == last:
      break
  return kills


def main(argv: Sequence[str]) -> int:
  """Kills chains and compares their ends; returns 1 after any fault."""
  del argv  # flags only
  host.show_log(logging.WARNING)
  out, rng = pathlib.Path(RUNS.value), np.random.default_rng(MOMENTS.value)
  whole = out / 'whole'
  if not (whole / 'results.json').exists():
    chain(whole, (), rng)
    found = results(whole.resolve())
    atomic.text(whole / 'results.json', json.dumps(found, indent=1))
  want = json.loads((whole / 'results.json').read_text())
  kills: list[Kill] = []
  wrong: list[str] = []
  while len(kills) < KILLS.value:
    phases = list(PHASES)[: KILLS.value - len(kills)]
    place = out / f'killed_{len(kills)}'
    kills += chain(place, phases, rng)
    other = differences(results(place.resolve()), want)
    rest = size(place) / size(whole)
    print(f'{place}: {len(other)} results differ, disk {rest:.2f} of the whole')
    wrong += [f'{place}: {name}' for name in other]
    wrong += [f'{place}: disk {rest:.2f} of the whole'] if rest > 2 else []
  wrong += [f'{k.phase}: {name}' for k in kills for name in k.broken]
  rows = [','.join([*k[:1], f'{k.seconds}', f'{k.reached}']) for k in kills]
  atomic.text(out / 'faults.csv', '\n'.join(['phase,seconds,reached', *rows]))
  reached = sum(k.reached for k in kills)
  print(f'{len(kills)} kills, {reached} in their phase, {len(wrong)} faults')
  print('\n'.join(wrong[:40]))
  return int(bool(wrong))


if __name__ == '__main__':
  command.run(main)
