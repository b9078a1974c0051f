"""Measures a run's sizes, memory and time before it begins."""

import collections
import math
import pathlib
import tempfile
import time
from typing import NamedTuple

import jax
import numpy as np

from plankton_jax import host
from plankton_jax.data import pipeline
from plankton_jax.data.sources.source import one_line
from plankton_jax.files.config_file import Config
from plankton_jax.train import batches, sharding
from plankton_jax.train.evaluation import evaluate
from plankton_jax.train.experiment import (
  Experiment,
  assemble,
  check,
  load_data,
)
from plankton_jax.train.state import TrainState

_WARM = 2  # steps before the clock starts
_STEPS = 20  # timed at the most
_SHOWN = 5  # images shown of those left out


class Pace(NamedTuple):
  """The training step as it was compiled and measured."""

  compiling: float  # seconds
  step: float  # seconds a step, batches and their transfer included
  steps: int  # steps that were timed
  memory: sharding.Memory  # state and batch included
  state: TrainState  # the state after the steps


class Rehearsal(NamedTuple):
  """The sizes and the cost of a run."""

  seen: int  # classes
  unseen: int
  rare: int
  sizes: dict[str, int]  # images of each split
  left_out: dict[str, int]  # reason -> objects
  named: list[tuple[str, str]]  # (name, reason) of those known by name
  parameters: dict[str, int]  # of the encoder and of the objective
  epochs: int
  steps_per_epoch: int
  validations: int
  validation: float  # seconds
  state_bytes: int  # of the whole state
  state_on_device: int  # bytes of it that each device holds
  pace: Pace

  @property
  def seconds(self) -> float:
    """Estimates the time of all steps and validations, without compilation."""
    steps = self.epochs * self.steps_per_epoch
    return steps * self.pace.step + self.validations * self.validation


def rehearse(
  config: Config, workdir: str | pathlib.Path, *, accept_changes: bool = False
) -> Rehearsal:
  """Begins a run, does a few of its steps, and keeps nothing of it.

  Fills the caches of data and of compiled programs, which the run then uses.
  Uses the split of a workdir that has one, and leaves the workdir unchanged.

  Raises:
    InputError: the run would raise it too.
  """
  workdir = pathlib.Path(workdir)
  check(config, workdir, accept_changes=accept_changes)
  host.use_compilation_cache(config['compilation_cache_dir'])
  data = _data(config, workdir)
  assert data.accounts is not None
  experiment = assemble(config, data)
  pace = measure(config, experiment, data)
  evaluate(experiment, data, 'val', pace.state)  # compiles
  began = time.monotonic()
  evaluate(experiment, data, 'val', pace.state)
  seen, sides = data.num_seen, data.splits
  unseen = len(np.unique(data.labels[sides['unseen']]))
  return Rehearsal(
    seen=seen,
    unseen=unseen,
    rare=len(data.class_names) - seen - unseen,
    sizes={name: len(rows) for name, rows in sides.items()},
    left_out=data.accounts.left_out,
    named=data.accounts.named,
    parameters={
      name: sum(x.size for x in jax.tree.leaves(tree))
      for name, tree in pace.state.params.items()
    },
    epochs=config['epochs'],
    steps_per_epoch=experiment.sampler.steps_per_epoch,
    validations=experiment.schedule.total_validations,
    validation=time.monotonic() - began,
    state_bytes=sum(x.nbytes for x in jax.tree.leaves(pace.state)),
    state_on_device=sharding.bytes_on_device(pace.state),
    pace=pace,
  )


def measure(
  config: Config,
  experiment: Experiment,
  data: pipeline.Data,
  *,
  seconds: float = 10.0,
) -> Pace:
  """Compiles the first stage's training step and times it from a fresh state.

  Stops after so many seconds, and after twenty steps. The compiler's figure of
  memory is for one device; images stay on disk.
  """
  key = jax.random.key(config['seed'], impl='rbg')
  state = jax.jit(experiment.create)(key)
  state = sharding.place(experiment.mesh, state)
  stream = batches.training(
    experiment.columns,
    data.splits['train'],
    experiment.sampler,
    range(1 + _STEPS),
    experiment.mesh,
  )
  batch = next(stream)
  began = time.monotonic()
  compiled = experiment.train_step.lower(state, batch, key, stage=0).compile()
  compiling = time.monotonic() - began
  for _ in range(_WARM):
    state, _ = compiled(state, batch, key)
  jax.block_until_ready(state)
  began, steps = time.monotonic(), 0
  for batch in stream:
    state, _ = compiled(state, batch, key)
    jax.block_until_ready(state)  # or the time limit would not be seen
    steps += 1
    if time.monotonic() - began > seconds:
      break
  return Pace(
    compiling=compiling,
    step=(time.monotonic() - began) / steps,
    steps=steps,
    memory=sharding.program_memory(compiled),
    state=state,
  )


def describe(found: Rehearsal, batch_size: int) -> str:
  """Describes the rehearsal in lines of text."""
  pace, total = found.pace, found.epochs * found.steps_per_epoch
  sizes = ', '.join(f'{count:,} {name}' for name, count in found.sizes.items())
  counts = ', '.join(f'{n:,} {name}' for name, n in found.parameters.items())
  rare = f', {found.rare} rare' if found.rare else ''
  devices = f'{jax.device_count()} {jax.default_backend()} device(s)'
  state = mebibytes(found.state_on_device)
  if found.state_on_device < found.state_bytes:
    state += (
      f' of {mebibytes(found.state_bytes)}, as each holds its share of the'
      ' prototypes'
    )
  lines = {
    'classes': f'{found.seen} seen, {found.unseen} unseen{rare}',
    'images': sizes,
    'left out': f'{sum(found.left_out.values()):,}',
    'parameters': counts,
    'steps': f'{total:,}: {found.epochs} epochs of {found.steps_per_epoch:,},'
    f' {batch_size} images each',
    'memory': f'{mebibytes(pace.memory.total)} on each device, of which state'
    f' {state}, temporary {mebibytes(pace.memory.temporary)}',
    'time': f'{duration(found.seconds)} at most:'
    f' {pace.step:.3g} s a step ({batch_size / pace.step:,.0f} images/s),'
    f' {found.validations} validations of {found.validation:.2g} s',
    'measured': f'{pace.steps} steps on {devices}; compiling the step took'
    f' {pace.compiling:.1f} s more, once',
  }
  shown = [f'{name:<11} {text}' for name, text in lines.items()]
  named = collections.Counter(reason for _, reason in found.named)
  others = collections.Counter(found.left_out) - named
  shown += [f'            {n:,}: {why}' for why, n in sorted(others.items())]
  shown += [
    f'            {one_line(name)}: {why}' for name, why in found.named[:_SHOWN]
  ]
  if len(found.named) > _SHOWN:
    shown.append('            ...')
  return '\n'.join(shown)


def mebibytes(count: float) -> str:
  """Formats bytes in MiB, or in GiB from 1 GiB on; 'unknown' if NaN."""
  if math.isnan(count):
    return 'unknown'
  if count < 2**30:
    return f'{count / 2**20:,.1f} MiB'
  return f'{count / 2**30:,.1f} GiB'


def duration(seconds: float) -> str:
  """Formats seconds as `50 s`, `12 min` or `3 h 20 min`."""
  minutes = round(seconds / 60)
  if seconds < 90:
    return f'{seconds:.0f} s'
  if minutes < 90:
    return f'{minutes} min'
  return f'{minutes // 60} h {minutes % 60} min'


def _data(config: Config, workdir: pathlib.Path) -> pipeline.Data:
  """Loads the run's data; a new split is not kept."""
  if (workdir / 'split.json').exists():
    return load_data(config, workdir)
  with tempfile.TemporaryDirectory() as folder:
    return load_data(config, folder)
