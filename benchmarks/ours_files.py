"""Runs our work on files: decoding, gathering, starting up."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from benchmarks import inputs
from benchmarks.serve import Job, each
from plankton_jax.data import records
from plankton_jax.data.drawn import plankton
from plankton_jax.data.pixels import cache
from plankton_jax.data.sources import folder as sources
from plankton_jax.train import batches

ROOT = pathlib.Path(__file__).parents[1]


def decode(*, folder: str, count: int, side: int) -> Job:
  """Decodes records to the cache; draws the folder of images first."""
  folder = pathlib.Path(folder)
  for example in plankton.source(count // 12, 0).examples():
    path = folder / 'images' / f'{example.id}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(example.image)
  records.write(folder / 'records', sources.source(str(folder / 'images')))
  opened = records.read(folder / 'records')

  directories = (folder / f'decoded-{n}' for n in itertools.count())

  def build():
    settings = {'size': side, 'resize': 'stretch', 'channels': 1}
    settings |= {'white': 255, 'crop': (0, 0, 0, 0)}
    cache.build(next(directories), opened, (), **settings)

  return each(build), {}


def gather(*, rows: int, batch: int, side: int) -> Job:
  """Makes a batch of random rows of the memory-mapped cache."""
  with tempfile.NamedTemporaryFile(suffix='.npy') as file:
    np.save(file, inputs.images(rows, side))
    file.flush()
    images = np.load(file.name, mmap_mode='r')  # the map outlives the name
  labels = inputs.labels(rows, 10)
  order = inputs.batches(rows, batch)
  make = batches.streamed(images, labels, np.arange(rows), None)
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
  folder = pathlib.Path(folder)
  command = [
    *(sys.executable, 'launch.py', '--config=configs/triplet.py'),
    f'--config.data.cache_dir={folder / "data"}',
    f'--config.compilation_cache_dir={folder / "compiled"}',
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
