"""Runs our training step and embedding, by the functions of a run."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import inputs, operations
from benchmarks.serve import Job, each
from configs import triplet
from plankton_jax.data import pipeline
from plankton_jax.encoder import Encoder
from plankton_jax.nn import encoders
from plankton_jax.train import batches, experiment


def step(
  *, width: int, side: int, batch: int, dtype: str, compiled: bool
) -> Job:
  """Trains a step on one resident batch: hard mining, no augmentation."""
  del compiled  # the peer's; ours always is
  config = _config(width, side)
  config.encoder.dtype = dtype
  config.batch.size, config.batch.classes = batch, 0
  config.curriculum = ((0, 'hard', 'hard'),)
  for field, value in config.augment.items():
    config.augment[field] = type(value)(0)
  pixels, labels = inputs.images(batch, side), inputs.labels(batch, 10)
  data = pipeline.Data(
    images=pixels,
    labels=labels,
    ids=np.arange(batch).astype(str),
    class_names=tuple('abcdefghij'),
    num_seen=10,
    splits={'train': np.arange(batch)},
    fingerprint='',
    originals=None,
  )
  run = experiment.assemble(config.to_dict(), data)
  key = jax.random.key(0, impl='rbg')
  state = jax.jit(run.create)(key)
  facts = size(config, batch)
  rows = np.arange(batch)
  resident = batches.streamed(pixels, labels, rows, run.mesh)(rows)

  def steps(count):
    nonlocal state
    for _ in range(count):
      state, metrics = run.train_step(state, resident, key, stage=0)
    jax.block_until_ready((state, metrics))

  # Backward is twice forward: by the inputs, and by the weights.
  return steps, facts | {'flops': 3 * facts['flops']}


def embed(
  *, width: int, side: int, batch: int, count: int, name: str = 'resnet18'
) -> Job:
  """Embeds images in host memory, as analysis.embed does."""
  del batch  # the library's own
  config = _config(width, side)
  config.encoder.name = name
  model = encoders.make(**config.encoder)
  variables = jax.jit(
    lambda key: model.init(key, jnp.zeros((1, side, side, 1)), train=False)
  )(jax.random.key(0))
  loaded = Encoder(
    {'encoder': variables['params'], 'objective': {}},
    variables['batch_stats'],
    config.to_dict(),
    (),
    0,
  )
  images = inputs.images(count, side)
  return each(lambda: loaded.embed(images)), size(config, count)


def _config(width, side):
  config = triplet.get_config()
  config.data.size = side
  config.encoder.width = width
  config.encoder.embedding_dim, config.encoder.poses = 128, 1  # the peer's
  return config


def size(config: ConfigDict, batch: int) -> dict[str, int]:
  """Counts parameters, and operations of a forward pass (a product is two)."""
  return operations.count(config.encoder, config.data.size, batch)
