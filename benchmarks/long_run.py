"""Trains for long and watches memory, threads, open files and compilations.

  python -m benchmarks.long_run [--steps=5000] [--place=runs/long]

Writes long_run.csv, one line for each second, and long_run.png. Ends with
status 1 if memory, threads or files grow between the second quarter and the
last, or if anything is compiled after the first epoch of a stage.
"""

import os
import pathlib
import shutil
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.files import tables
from configs import smoke
from plankton_jax.cli import command
from plankton_jax.files import atomic

STEPS = flags.DEFINE_integer('steps', 5000, 'At least.', lower_bound=1)
PLACE = flags.DEFINE_string('place', 'runs/long', 'Folder of the run.')

_COMPILED = '/jax/core/compile/backend_compile_duration'
_GROWTH = {'megabytes': 0.03, 'threads': 0.0, 'files': 0.0}  # shares allowed


class Sample(NamedTuple):
  """The process at a moment."""

  seconds: float  # since the run began
  step: int  # of the last line in the log
  megabytes: float  # resident
  threads: int
  files: int  # open
  compiled: int  # programs so far


class Watch:
  """Samples the process in a thread, from `with` to its end."""

  def __init__(self, log: pathlib.Path, *, interval: float = 1.0):
    self.samples: list[Sample] = []
    self._log, self._interval = log, interval
    self._read, self._step, self._compiled = 0, 0, 0
    self._over = threading.Event()
    self._thread = threading.Thread(target=self._run, daemon=True)

  def __enter__(self) -> 'Watch':
    import jax.monitoring

    jax.monitoring.register_event_duration_secs_listener(self._count)
    self._began = time.monotonic()
    self._thread.start()
    return self

  def __exit__(self, *error: Any) -> None:
    self._over.set()
    self._thread.join()
    self.samples.append(self._sample())

  def _count(
    self, event: str, duration_secs: float, **others: str | int
  ) -> None:
    del duration_secs, others
    # JAX takes listeners off only all at once, in its tests: this one stays.
    if event == _COMPILED and not self._over.is_set():
      self._compiled += 1
      self.samples.append(self._sample())

  def _run(self) -> None:
    while not self._over.wait(self._interval):
      self.samples.append(self._sample())

  def _sample(self) -> Sample:
    pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
    return Sample(
      round(time.monotonic() - self._began, 2),
      self._last_step(),
      round(pages * os.sysconf('SC_PAGE_SIZE') / 2**20, 1),
      len(os.listdir('/proc/self/task')),
      len(os.listdir('/proc/self/fd')),
      self._compiled,
    )

  def _last_step(self) -> int:
    """Counts the steps logged so far; the log is written at validations."""
    if self._log.exists():
      with self._log.open('rb') as file:
        file.seek(self._read)
        data = file.read()
      self._read += len(data)
      self._step += data.count(b'"split": "train"')
    return self._step


def late(samples: Sequence[Sample], firsts: Sequence[range]) -> list[Sample]:
  """Samples of compilations outside of the steps `firsts`.

  Args:
    samples: in order.
    firsts: the steps of the first epoch of each stage.
  """
  before, found = 0, []
  for sample in samples:
    if sample.compiled > before:
      before = sample.compiled
      if not any(sample.step in steps for steps in firsts):
        found.append(sample)
  return found


def growth(samples: Sequence[Sample]) -> dict[str, float]:
  """Compares the last quarter's medians with the second's, as shares."""
  columns = np.array(samples, float)
  steps = columns[:, 1]
  quarter = steps[-1] / 4
  second = columns[(steps > quarter) & (steps <= 2 * quarter)]
  last = columns[steps > 3 * quarter]
  shares = np.median(last, axis=0) / np.median(second, axis=0) - 1.0
  return {
    name: float(shares[Sample._fields.index(name)])
    for name in ('megabytes', 'threads', 'files')
  }


def draw(samples: Sequence[Sample], path: pathlib.Path) -> None:
  """Draws memory, threads, files and compilations by step."""
  from matplotlib import figure

  columns = np.array(samples, float)
  picture = figure.Figure((7, 6), layout='constrained')
  axes = picture.subplots(4, 1, sharex=True)
  names = ('megabytes', 'threads', 'files', 'compiled')
  for axis, name in zip(axes, names, strict=True):
    axis.plot(columns[:, 1], columns[:, Sample._fields.index(name)], lw=1)
    axis.set_ylabel(name)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
  axes[-1].set_xlabel('step')
  with atomic.file(path) as building:
    picture.savefig(building, format='png', dpi=150)


def _config(steps: int, place: pathlib.Path) -> dict[str, Any]:
  """Makes a run of a tiny encoder, with three stages in its first epochs."""
  config = smoke.get_config()
  config.data.per_class, config.data.size = 150, 16
  config.data.cache_dir = str(place / 'cache')
  config.compilation_cache_dir = ''
  config.batch.size = 18
  config.encoder.width, config.encoder.embedding_dim = 4, 8
  config.epochs = steps  # until the steps of an epoch are known
  return config.to_dict()


def main(argv: Sequence[str]) -> int:
  """Trains and watches; returns 1 if anything grew or was compiled late."""
  del argv  # flags only
  from plankton_jax.train import experiment, loop

  place = pathlib.Path(PLACE.value)
  shutil.rmtree(place / 'run', ignore_errors=True)
  (place / 'run').mkdir(parents=True)
  config = _config(STEPS.value, place)
  data = experiment.load_data(config, place / 'run')
  per_epoch = experiment.assemble(config, data).schedule.steps_per_epoch
  config['epochs'] = -(-STEPS.value // per_epoch)
  del data
  with Watch(place / 'run' / 'metrics.jsonl') as watch:
    loop.train_and_evaluate(config, place / 'run')
  rows = [sample._asdict() for sample in watch.samples]
  tables.write_csv(place / 'long_run.csv', rows)
  draw(watch.samples, place / 'long_run.png')
  # The log lags behind the steps by one validation at most.
  lag = per_epoch // config['validations_per_epoch'] + 1
  starts = [first * per_epoch for first, *_ in config['curriculum']]
  firsts = [range(s - lag, s + per_epoch) for s in starts]
  end = watch.samples[-1].step  # after which the best checkpoint is tested
  found = late(watch.samples, [*firsts, range(end, end + 1)])
  grown = growth(watch.samples)
  print(
    f'{watch.samples[-1].step} steps, {config["epochs"]} epochs,'
    f' {watch.samples[-1].seconds:.0f} s, {watch.samples[-1].compiled} programs'
    f' compiled, {len(found)} after the first epoch of a stage'
  )
  for name, share in grown.items():
    print(f'{name}: {share:+.1%} from the second quarter to the last')
  over = [name for name, share in grown.items() if share > _GROWTH[name]]
  return int(bool(over or found))


if __name__ == '__main__':
  command.run(main)
