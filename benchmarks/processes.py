"""Kills one of four processes that train together; others resume, to one end.

  python -m benchmarks.processes [--jobs=runs/processes]

Trains a small run by one process with four virtual devices, by four processes
with one each, and by four of which one is killed (kill -9) once an epoch is
saved; four go on until another one is killed, then two processes of two
devices end the run. Prints how each process ended and what it last said; the
rest is in the folder's log files. Ends with status 1 if the loss of a step
differs from the single process's by more than 1e-5 of itself, or, before the
two took over, from that of the four that nothing stopped.

The learning rate is small: Adam makes whole steps of the rounding of gradients
that vanish, from which any two orders of summation part.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from plankton_jax.cli import command
from plankton_jax.errors import InputError

JOBS = flags.DEFINE_string('jobs', 'runs/processes', 'Folder of the runs.')

_ROOT = pathlib.Path(__file__).parents[1]
_EPOCHS = 16  # of four steps each
_LIMIT = 1e-5  # of a loss, as a share of it
_LONGEST = 1800  # seconds of one command, on a busy machine
# Ours, and that of JAX's runtime before its stack trace.
_REASON = re.compile(r'^error: |Terminating process because')
_COMMAND = (
  'launch.py',
  '--config=configs/softmax.py',  # no mining: rounding chooses no other pairs
  f'--config.epochs={_EPOCHS}',
  '--config.early_stop_validations=0',
  '--config.validations_per_epoch=1',
  '--config.data.per_class=32',
  '--config.data.fractions=(0.5,0.25,0.25)',
  '--config.data.size=16',
  '--config.batch.size=32',
  '--config.encoder.name=resnet10',
  '--config.encoder.width=4',
  '--config.encoder.stem=half',
  '--config.encoder.embedding_dim=16',
  '--config.encoder.poses=1',
  '--config.optimizer.learning_rate=1e-6',
  '--config.compilation_cache_dir=',
)


def start(place: pathlib.Path, name: str, count: int) -> list[subprocess.Popen]:
  """Starts a run of four devices in `place/run` by `count` processes.

  Each writes to place/NAME_NUMBER.log.
  """
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  started = []
  for number in range(count):
    job = [
      f'--coordinator=127.0.0.1:{port}',
      f'--num_processes={count}',
      f'--process_id={number}',
    ]
    with (place / f'{name}_{number}.log').open('wb') as log:
      started.append(
        subprocess.Popen(
          [
            sys.executable,
            *_COMMAND,
            f'--config.data.cache_dir={place / "cache"}',
            f'--workdir={place / "run"}',
            *(job if count > 1 else ()),
          ],
          cwd=_ROOT,
          env=os.environ
          | {
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': '--xla_backend_optimization_level=0'
            f' --xla_force_host_platform_device_count={4 // count}',
          },
          stdout=log,
          stderr=log,
        )
      )
  return started


def kill_after(
  place: pathlib.Path, step: int, started: Sequence[subprocess.Popen], at: int
) -> None:
  """Kills process `at` once a checkpoint beyond a step is there.

  Raises:
    InputError: one ended before that.
  """
  while saved(place) <= step:
    if any(process.poll() is not None for process in started):
      raise InputError(f'{place}: a process ended early; see its log')
    time.sleep(0.02)
  started[at].send_signal(signal.SIGKILL)


def saved(place: pathlib.Path) -> int:
  """Finds the last step of which there is a whole checkpoint; 0 for none."""
  names = [path.name for path in (place / 'run/checkpoints').glob('*')]
  return max((int(name) for name in names if name.isdigit()), default=0)


def ended(
  place: pathlib.Path, name: str, started: Sequence[subprocess.Popen]
) -> list[int]:
  """Waits for all processes; prints how each ended; returns their statuses."""
  codes = [process.wait(_LONGEST) for process in started]
  for number, code in enumerate(codes):
    said = last_words(place / f'{name}_{number}.log')
    print(f'{name}, process {number} of {len(codes)}: status {code}: {said}')
  return codes


def last_words(log: pathlib.Path) -> str:
  """Finds the last line that says why a process ended, or else the last."""
  lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
  reasons = [line for line in lines if _REASON.search(line)]
  return (reasons or lines or ['nothing'])[-1]


def losses(place: pathlib.Path) -> np.ndarray:
  """Reads the loss of every step, [steps]."""
  text = (place / 'run/metrics.jsonl').read_text(encoding='utf-8')
  rows = [json.loads(line) for line in text.splitlines()]
  return np.array([row['loss'] for row in rows if row['split'] == 'train'])


def main(argv: Sequence[str]) -> int:
  """Trains both ways, and compares."""
  del argv
  runs = pathlib.Path(JOBS.value).resolve()
  places = [runs / name for name in ('one', 'four', 'many')]
  for place in places:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
  one, four, many = places
  codes = ended(one, 'one', start(one, 'one', 1))
  codes += ended(four, 'four', start(four, 'four', 4))
  step, lost = 0, []
  for name, at in (('killed', 2), ('killed again', 1)):
    started = start(many, name, 4)
    kill_after(many, step, started, at)
    lost += ended(many, name, started)
    step = saved(many)
    print(f'the last checkpoint is of step {step} of {4 * _EPOCHS}')
  codes += ended(many, 'resumed', start(many, 'resumed', 2))
  want, whole, found = map(losses, places)
  worst = np.abs(found / want - 1).max()
  same = bool((found[:step] == whole[:step]).all())
  print(
    f'{len(want)} steps, of losses {want.min():.3f} to {want.max():.3f}: they'
    f' differ from those of one process by {worst:.1e} of themselves at most;'
    f' the first {step} are {"" if same else "not "}those of four processes'
    ' that nothing stopped, to the bit'
  )
  return int(any(codes) or 0 in lost or worst > _LIMIT or not same)


if __name__ == '__main__':
  command.run(main)
