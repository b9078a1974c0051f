"""Our training step and embedding, from the functions that a run binds."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from benchmarks import inputs
from benchmarks.serve import Job, each
from configs import triplet
from plankton_jax.data import pipeline
from plankton_jax.encoder import Encoder
from plankton_jax.nn import encoders
from plankton_jax.train import batches, experiment


def step(*, width: int, side: int, batch: int) -> Job:
  """A training step on one resident batch: hard mining, no augmentation."""
  config = _config(width, side)
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
  resident = jax.device_put(batches.gather(pixels, labels, np.arange(batch)))

  def steps(count):
    nonlocal state
    for _ in range(count):
      state, metrics = run.train_step(state, resident, key, stage=0)
    jax.block_until_ready((state, metrics))

  # Backward is twice forward: by the inputs, and by the weights.
  return steps, facts | {'flops': 3 * facts['flops']}


def embed(*, width: int, side: int, batch: int, count: int) -> Job:
  """Embeddings of images in host memory, as analysis.embed makes them."""
  del batch  # the library's own
  config = _config(width, side)
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
  """Parameters, and operations of one forward pass (a product is two)."""
  side = config.data.size

  def forward(key):
    return encoders.make(**config.encoder).init_with_output(
      key,
      jnp.zeros((batch, side, side, 1)),
      train=False,
      capture_intermediates=lambda layer, _: isinstance(
        layer, nn.Conv | nn.Dense
      ),
      mutable=True,
    )[1]

  found = jax.eval_shape(forward, jax.random.key(0))
  params = flatten_dict(found['params'])
  outputs = flatten_dict(found['intermediates'])
  return {
    'parameters': sum(x.size for x in params.values()),
    'flops': sum(
      2 * outputs[(*path[:-1], '__call__')][0].size * x.size // x.shape[-1]
      for path, x in params.items()
      if path[-1] == 'kernel'
    ),
  }
