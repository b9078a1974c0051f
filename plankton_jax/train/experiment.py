"""Checks a run's config, loads its data and builds its parts."""

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.stages import Wrapped

from plankton_jax import augment, curriculum, objectives
from plankton_jax.errors import InputError
from plankton_jax.files import config_file, home, write_errors
from plankton_jax.files.config_file import Config
from plankton_jax.nn import encoders, measures, pretrained, transfer
from plankton_jax.nn.embedding import MEASURES, Embedder
from plankton_jax.train import (
  batches,
  config_check,
  optimizer,
  progress,
  sampling,
  sharding,
  state,
  step,
)

if TYPE_CHECKING:  # reads image files, for which it needs more packages
  from plankton_jax.data import pipeline


class Data(Protocol):
  """The fields of data/pipeline.py's Data that a run's parts read."""

  @property
  def images(self) -> np.ndarray: ...
  @property
  def labels(self) -> np.ndarray: ...
  @property
  def ids(self) -> np.ndarray: ...
  @property
  def num_seen(self) -> int: ...
  @property
  def splits(self) -> Mapping[str, np.ndarray]: ...
  @property
  def measures(self) -> Mapping[str, np.ndarray]: ...


class Experiment(NamedTuple):
  """A run's parts, bound once."""

  schedule: progress.Schedule
  model: Embedder
  objective: objectives.Objective
  create: Callable[[jax.Array], state.TrainState]  # from a key
  train_step: Wrapped
  eval_step: Wrapped
  sampler: sampling.Sampler  # of batches of positions in the training rows
  mesh: jax.sharding.Mesh | None
  columns: batches.Columns  # of all images


def check(
  config: Config, workdir: pathlib.Path, *, accept_changes: bool
) -> None:
  """Checks a config before its data is read.

  Raises:
    InputError: a field is out of range or does not fit the encoder to begin
      from, the weights to begin from are missing, or the workdir has another
      config.
  """
  from plankton_jax.train import store  # building the parts needs no Orbax

  config_check.check(config)
  if not store.has_checkpoint(workdir):  # a run resumes without the weights
    pretrained.check(config)
  transfer.check(config)
  if not accept_changes:
    config_file.compare(config, workdir)


def load_data(
  config: Config, workdir: str | pathlib.Path, *, writes: bool = True
) -> 'pipeline.Data':
  """Loads a run's images, labels and splits, from the cache if it has them.

  Args:
    config: the run's.
    workdir: the run's.
    writes: whether to write the accounts of the images there.

  Raises:
    InputError: a field or file cannot be used.
  """
  from plankton_jax.data import pipeline

  data = config_check.read_data(config['data'])
  with write_errors.explained(home.expand(config['data']['cache_dir'])):
    return config_file.build(
      pipeline.load,
      config | {'data': data},
      'data',
      workdir=workdir,
      seed=config['seed'],
      writes=writes,
    )


def assemble(config: Config, data: Data) -> Experiment:
  """Builds every part from its section of the config.

  Passes each section as keywords to the function that it configures: a stray
  field is then a TypeError, and no default is written twice.

  Raises:
    InputError: a field cannot be used with this data.
  """
  train_labels = data.labels[data.splits['train']]
  sampler, views, chunk = _batch(
    train_labels, config['seed'], **config['batch']
  )
  stages = curriculum.make(config['curriculum'])
  objective = objectives.make(
    num_classes=data.num_seen,
    embedding_dim=config['encoder']['embedding_dim'],
    class_counts=np.bincount(train_labels, minlength=data.num_seen),
    # One more stage than training has: validation is always hard+hard.
    stages=(*stages.policies, curriculum.VALIDATION),
    **config['objective'],
  )
  model = encoders.make(**config['encoder'])
  tx = optimizer.make(
    model=model,
    epochs=config['epochs'],
    steps_per_epoch=sampler.steps_per_epoch,
    **config['optimizer'],
  )

  columns, statistics = {'image': data.images, 'label': data.labels}, {}
  if model.measures:
    columns['measures'] = _measures(model, data)
    ours = columns['measures'][data.splits['train']]
    statistics = {MEASURES: measures.statistics(ours, size=model.size)}

  def create(key):
    fresh = state.create(
      key,
      encoder=model,
      objective=objective,
      tx=tx,
      image_shape=data.images.shape[1:],
    )
    return fresh.replace(batch_stats=fresh.batch_stats | statistics)

  return Experiment(
    schedule=progress.Schedule(
      epochs=config['epochs'],
      steps_per_epoch=sampler.steps_per_epoch,
      validations_per_epoch=config['validations_per_epoch'],
      curriculum=stages,
    ),
    model=model,
    objective=objective,
    create=create,
    train_step=step.make_train_step(
      apply_fn=model.apply,
      backbone=model.backbone,
      augment=augment.make(
        **config['augment'], normalise=model.backbone.normalise
      ),
      tx=tx,
      objective=objective,
      views=views,
      chunk=chunk,
    ),
    eval_step=step.make_eval_step(
      apply_fn=model.apply,
      normalise=model.backbone.normalise,
      objective=objective,
      stage=len(stages.policies),
      chunk=chunk,
    ),
    sampler=sampler,
    mesh=sharding.make_mesh(sampler.size),
    columns=columns,
  )


def _batch(
  labels: np.ndarray, seed: int, *, views: int, chunk: int, **drawn: Any
) -> tuple[sampling.Sampler, int, int]:
  """Shares the section `batch` between the sampler and the step.

  Returns:
    The sampler, and the step's views and chunk.
  """
  sampler = sampling.Sampler(labels, seed=seed, **drawn)
  return sampler, views, _chunk(chunk, sampler.size)


def _chunk(chunk: int, size: int) -> int:
  """Returns a chunk's images, 0 if the whole batch is one.

  Raises:
    InputError: chunks do not divide a batch, or devices a chunk.
  """
  if chunk == 0 or chunk >= size:
    return 0
  if size % chunk:
    raise InputError(
      f'batch.chunk={chunk} does not divide the {size} images of a batch; 0'
      ' takes them at once'
    )
  sharding.check_split('batch.chunk', chunk)
  return chunk


def _measures(model: Embedder, data: Data) -> np.ndarray:
  """Collects the measures [N, M] that an encoder takes.

  Raises:
    InputError: one that is named is known of no training image.
  """
  found = measures.matrix(model.measures, data.measures, len(data.labels))
  train = found[data.splits['train']]
  for name, column in zip(model.measures, train.T, strict=True):
    if name in model.others and not np.isfinite(column).any():
      known = ', '.join(sorted(data.measures))
      raise InputError(
        f'encoder.measures: {name!r} is known of no training image; these'
        f' images have {known or "none"}'
      )
  return found
