"""Runs our training steps, fed as in a run or from one resident batch."""

import tempfile

import jax
import numpy as np

from benchmarks import inputs
from benchmarks.serve import Job
from configs import triplet
from plankton_jax.data import pipeline
from plankton_jax.train import batches, experiment, sharding


def epoch(
  *, width: int, side: int, batch: int, steps: int, rows: int, stream: bool
) -> Job:
  """Trains an epoch's steps with augmentation, `steps` a call.

  Their batches come through `batches.training` from a memory-mapped file of
  `rows` images if `stream`, else every step takes one that is on the device.
  """
  config = triplet.get_config()
  config.data.size, config.encoder.width = side, width
  config.batch.size, config.batch.classes = batch, 0
  data = _data(rows, side)
  run = experiment.assemble(config.to_dict(), data)
  key = jax.random.key(0, impl='rbg')
  state = sharding.replicate(run.mesh, jax.jit(run.create)(key))
  train = data.splits['train']
  resident = batches.streamed(data.images, data.labels, train, run.mesh)(
    run.sampler(0)
  )

  def feed():
    if not stream:
      return [resident] * steps
    return batches.training(
      data.images, data.labels, train, run.sampler, range(steps), run.mesh
    )

  def epochs(count):
    nonlocal state
    for _ in range(count):
      for fed in feed():
        state, metrics = run.train_step(state, fed, key, stage=0)
    jax.block_until_ready((state, metrics))

  return epochs, {}


def _data(rows, side):
  """Makes images in a file, as the decoded cache has them."""
  with tempfile.NamedTemporaryFile(suffix='.npy') as file:
    np.save(file, inputs.images(rows, side))
    file.flush()
    images = np.load(file.name, mmap_mode='r')  # the map outlives the name
  return pipeline.Data(
    images=images,
    labels=inputs.labels(rows, 10),
    ids=np.arange(rows).astype(str),
    class_names=tuple('abcdefghij'),
    num_seen=10,
    splits={'train': np.arange(rows)},
    fingerprint='',
    originals=None,
  )
