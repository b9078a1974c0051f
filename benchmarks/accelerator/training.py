"""Runs our training step, embedding and a whole run on this device."""

import collections
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import inputs, jobs, operations
from benchmarks.accelerator import published
from benchmarks.accelerator.worker import Job
from benchmarks.serve import each
from plankton_jax import augment
from plankton_jax.nn import encoders
from plankton_jax.train import batches, experiment
from plankton_jax.train.evaluation import evaluate
from plankton_jax.train.step import make_embed_step

CLASSES = 6
IN_FLIGHT = 4  # steps whose metrics are not yet read, as in train/batches.py


def random_data(side: int, **splits: int) -> inputs.Data:
  """Makes noise in six classes, with so many images in each split."""
  count = sum(splits.values())
  ends = np.cumsum(list(splits.values()))[:-1]
  rows = np.split(np.random.default_rng(5).permutation(count), ends)
  return inputs.data(
    inputs.images(count, side),
    inputs.labels(count, CLASSES),
    CLASSES,
    **{name: np.sort(part) for name, part in zip(splits, rows, strict=True)},
  )


def key() -> jax.Array:
  """Makes a key of the kind that the loop uses."""
  return jax.random.key(0, impl='rbg')


def step(
  *, fields: dict[str, Any], side: int, batch: int, objective: str
) -> Job:
  """Trains a step on one resident batch, without augmentation.

  Args:
    fields: of the encoder, if not the published ones; its head is centred, as
      the peer's is.
    side: of the images, px.
    batch: images.
    objective: 'arcface', or a mining policy as 'hard+hard'.
  """
  config = published.config(batch=batch, **{'centred': True} | fields)
  for field, value in config['augment'].items():
    config['augment'][field] = type(value)(0)
  if objective == 'arcface':
    config['curriculum'] = ()
    config['objective'] = published.ARCFACE
  else:
    config['curriculum'] = ((0, *objective.split('+')),)
  data = random_data(side, train=batch)
  run = experiment.assemble(config, data)
  state = jax.jit(run.create)(key())
  rows = np.arange(batch)
  resident = batches.streamed(run.columns, rows, run.mesh)(rows)
  compiled = run.train_step.lower(state, resident, key(), stage=0).compile()

  def steps(count):
    nonlocal state
    for _ in range(count):
      state, metrics = compiled(state, resident, key())
    jax.block_until_ready((state, metrics))

  facts = _facts(config, side, batch, compiled)
  # Backward is twice forward: by the inputs, and by the weights.
  facts['flops'] *= 3
  return steps, facts


def embed(*, fields: dict[str, Any], side: int, batch: int) -> Job:
  """Embeds images that are on the device."""
  config = published.config(**{'centred': True} | fields)
  model = encoders.make(**config['encoder'])
  images = jax.device_put(inputs.images(batch, side))
  variables = jax.jit(lambda key: model.init(key, images[:1], train=False))(
    key()
  )
  params = {'encoder': variables['params']}
  compiled = (
    make_embed_step(apply_fn=model.apply, normalise=model.backbone.normalise)
    .lower(params, variables['batch_stats'], images)
    .compile()
  )

  call = lambda: compiled(params, variables['batch_stats'], images)
  # Of all poses: the encoder is counted as it is.
  facts = _facts(config, side, batch, compiled)
  return each(call, jax.block_until_ready), facts


def _facts(config, side, batch, compiled):
  """Tells the work and the memory; the peer's parameters must be as many."""
  found = operations.count(config['encoder'], side, batch)
  checks = {'parameters': found['parameters']}
  return found | {'checks': checks} | jobs.peak(compiled)


def augmentation(*, side: int, batch: int) -> Job:
  """Applies the published augmentation to a resident batch."""
  images = jax.device_put(inputs.images(batch, side))
  compiled = (
    jax.jit(augment.make(**published.config()['augment']))
    .lower(key(), images)
    .compile()
  )

  run = each(lambda: compiled(key(), images), jax.block_until_ready)
  # Bytes are read once and floats written once.
  return run, {'bytes': 5 * images.size} | jobs.peak(compiled)


def whole_run(**spec: Any) -> Job:
  """Runs the published experiment, except for writing to the disk.

  Steps, batches, validations and reading of metrics are those of train/loop.py.
  A step of each stage and a validation run beforehand, so that all is compiled.
  The fields are those of `published_run`.
  """
  config, data, run, create = published_run(**spec)
  train(run, config, data, create(key()), steps_a_stage=1)

  def whole(count):
    for _ in range(count):
      train(run, config, data, create(key()))

  return whole, {'steps': config['epochs'] * run.sampler.steps_per_epoch}


def published_run(
  *, fields: dict[str, Any], side: int, batch: int, epochs: int, images: int
) -> tuple[dict[str, Any], inputs.Data, experiment.Experiment, Callable]:
  """Makes config, data, parts and `create` of a run, or returns the last ones.

  Args:
    fields: of the encoder, if not the published ones; its head is centred, as
      the peer's is.
    side: of the images, px.
    batch: images in a step.
    epochs: passes over the training images.
    images: for training; validation has a fifteenth as many.
  """
  return _published_run(tuple(fields.items()), side, batch, epochs, images)


@functools.lru_cache(maxsize=1)
def _published_run(fields, side, batch, epochs, images):
  config = published.config(batch=batch, epochs=epochs, **dict(fields))
  data = random_data(side, train=images, val=max(images // 15, batch // 2))
  run = experiment.assemble(config, data)
  return config, data, run, jax.jit(run.create)


def train(
  run: experiment.Experiment,
  config: dict[str, Any],
  data: inputs.Data,
  state: Any,
  *,
  steps_a_stage: int | None = None,
) -> Any:
  """Trains all steps, or a few of every stage; returns the state."""
  per_epoch = run.sampler.steps_per_epoch
  steps: Sequence[int] = range(config['epochs'] * per_epoch)
  if steps_a_stage is not None:
    starts = [start * per_epoch for start in run.schedule.curriculum.starts]
    steps = [s + i for s in starts for i in range(steps_a_stage) if s in steps]
  stream = batches.training(
    run.columns, data.splits['train'], run.sampler, steps, run.mesh
  )
  a_validation = max(1, per_epoch // config['validations_per_epoch'])
  pending: collections.deque[Any] = collections.deque()
  for step, batch in zip(steps, stream, strict=True):
    stage = run.schedule.curriculum.stage_at(step // per_epoch)
    state, metrics = run.train_step(state, batch, key(), stage=stage)
    pending.append(metrics)
    while len(pending) > IN_FLIGHT:
      jax.device_get(pending.popleft())
    if (step + 1) % a_validation == 0 or steps_a_stage is not None:
      evaluate(run, data, 'val', state)
  return jax.block_until_ready(state)


def repeat(*, steps: int, **spec: Any) -> Job:
  """Checks that two runs of so many published steps end in the same bits.

  The other fields are those of `published_run`.
  """
  config, _, run, create = published_run(**spec)
  batch = config['batch']['size']
  rows = np.arange(2 * batch)
  make = batches.streamed(run.columns, rows, run.mesh)
  resident = [make(at) for at in np.split(rows, 2)]

  def once():
    state = create(key())
    for i in range(steps):
      state, _ = run.train_step(state, resident[i % 2], key(), stage=0)
    return jax.device_get(state)

  first, began = once(), time.perf_counter()
  second = once()
  seconds = (time.perf_counter() - began) / steps
  pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
  equal = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
  found = 'equal' if equal else 'not equal'
  return None, {
    'seconds': seconds,
    'note': f'two runs of {steps} steps: {found} bit for bit',
  }
