"""Runs our side: the library's own functions, called as a run calls them."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import inputs, jobs, operations
from benchmarks.serve import Job, cores, each, serve
from configs import triplet
from plankton_jax import distances, host
from plankton_jax.data import records
from plankton_jax.data.drawn import plankton
from plankton_jax.data.pixels import cache
from plankton_jax.data.pixels.images import Preprocessing
from plankton_jax.data.sources import folder as sources
from plankton_jax.encoder import Encoder
from plankton_jax.nn import encoders
from plankton_jax.train import batches, experiment, sharding

ROOT = pathlib.Path(__file__).parents[1]


def copy(*, mebibytes: int) -> Job:
  """Reads and writes on all cores: the best that memory reaches here."""
  source = np.ones(mebibytes << 20, np.uint8)
  target = np.zeros_like(source)
  threads = cores()
  pairs = zip(
    np.array_split(target, threads),
    np.array_split(source, threads),
    strict=True,
  )
  parts = list(pairs)
  pool = ThreadPoolExecutor(threads)

  def run(count):
    for _ in range(count):
      list(pool.map(lambda pair: np.copyto(*pair), parts))

  return run, {'bytes': 2 * source.nbytes}


def class_distances(*, rows: int, classes: int) -> Job:
  """Averages Euclidean distances of all pairs of classes, in float64."""
  x, labels = (
    inputs.embeddings(rows, 128, classes),
    inputs.labels(rows, classes),
  )
  means = lambda: distances.class_means(x, labels, classes, metric='euclidean')
  return each(means), {'flops': rows**2 * 128}  # a pair is computed once


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
  data = _data(inputs.images(batch, side))
  run = experiment.assemble(config.to_dict(), data)
  key = jax.random.key(0, impl='rbg')
  state = jax.jit(run.create)(key)
  facts = size(config, batch)
  rows = data.splits['train']
  resident = batches.streamed(run.columns, rows, run.mesh)(rows)

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


def size(config: ConfigDict, batch: int) -> dict[str, int]:
  """Counts parameters, and operations of a forward pass (a product is two)."""
  return operations.count(config.encoder, config.data.size, batch)


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
  data = _data(_mapped(rows, side))
  run = experiment.assemble(config.to_dict(), data)
  key = jax.random.key(0, impl='rbg')
  state = sharding.place(run.mesh, jax.jit(run.create)(key))
  train = data.splits['train']
  resident = batches.streamed(run.columns, train, run.mesh)(run.sampler(0))

  def feed():
    if not stream:
      return [resident] * steps
    return batches.training(
      run.columns, train, run.sampler, range(steps), run.mesh
    )

  def epochs(count):
    nonlocal state
    for _ in range(count):
      for fed in feed():
        state, metrics = run.train_step(state, fed, key, stage=0)
    jax.block_until_ready((state, metrics))

  return epochs, {}


def decode(*, folder: str, count: int, side: int) -> Job:
  """Decodes records to the cache; draws the folder of images first."""
  place = pathlib.Path(folder)
  for example in plankton.source(count // 12, 0).examples():
    path = place / 'images' / f'{example.id}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    assert example.image  # drawn at once
    path.write_bytes(example.image)
  records.write(place / 'records', sources.source(str(place / 'images')))
  opened = records.read(place / 'records')

  directories = (place / f'decoded-{n}' for n in itertools.count())

  def build():
    settings = Preprocessing(side, 'stretch', channels=1, white=255)
    cache.build(next(directories), opened, (), settings)

  return each(build), {}


def gather(*, rows: int, batch: int, side: int) -> Job:
  """Makes a batch of random rows of the memory-mapped cache."""
  images = _mapped(rows, side)
  columns = {'image': images, 'label': inputs.labels(rows, 10)}
  order = inputs.batches(rows, batch)
  make = batches.streamed(columns, np.arange(rows), None)
  call = lambda: jax.block_until_ready(make(next(order)))
  return each(call), {'bytes': 2 * batch * side * side}


def show_help() -> Job:
  """Runs `python launch.py --help`, from command to prompt."""
  command = [sys.executable, 'launch.py', '--help']

  def call():  # absl's --help exits with 1
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if b'--workdir' not in run.stdout:
      raise RuntimeError('launch.py --help printed no help')

  return each(call), {}


def first_step(*, folder: str) -> Job:
  """Runs from the command to the first step's line in metrics.jsonl.

  The warm-up fills the caches of data and compiled programs.
  """
  command = [
    *(sys.executable, 'launch.py', '--config=configs/triplet.py'),
    f'--config.data.cache_dir={folder}/data',
    f'--config.compilation_cache_dir={folder}/compiled',
    '--config.data.per_class=60',
    '--config.validations_per_epoch=1000000',  # each step is written at once
  ]
  environment = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}

  def call():
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
      run = subprocess.Popen(
        [*command, f'--workdir={workdir}'],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
      )
      log = pathlib.Path(workdir, 'metrics.jsonl')
      while not (log.exists() and log.stat().st_size):
        if run.poll() is not None:
          raise RuntimeError(f'launch.py ended with {run.returncode}')
        time.sleep(0.01)
      run.send_signal(signal.SIGKILL)
      run.wait()

  return each(call), {}


def _config(width, side):
  config = triplet.get_config()
  config.data.size = side
  config.encoder.width = width
  config.encoder.embedding_dim, config.encoder.poses = 128, 1  # the peer's
  return config


def _mapped(rows: int, side: int) -> np.ndarray:
  """Makes images in a file, as the decoded cache has them."""
  with tempfile.NamedTemporaryFile(suffix='.npy') as file:
    np.save(file, inputs.images(rows, side))
    file.flush()
    return np.load(file.name, mmap_mode='r')  # the map outlives the name


def _data(images: np.ndarray) -> inputs.Data:
  """Makes training images of ten classes."""
  return inputs.data(images, inputs.labels(len(images), 10), 10)


JOBS = {
  job.__name__: job
  for job in (
    *(jobs.matmul, copy, jobs.mining, jobs.retrieve, class_distances),
    *(step, embed, epoch, decode, gather, show_help, first_step),
  )
}

if __name__ == '__main__':
  host.use_fast_settings()
  serve(JOBS)
