"""Runs our side: the library's own functions on this device."""

import importlib.metadata
import sys

import jax
import jax.numpy as jnp

from benchmarks import inputs, jobs
from benchmarks.accelerator import checks, training
from benchmarks.accelerator.worker import Job, serve
from benchmarks.serve import each
from plankton_jax.neighbours import device


def describe() -> Job:
  """Describes the device, and the software on it."""
  chip = jax.devices()[0]
  version = importlib.metadata.version
  names = ('jax', 'jaxlib', 'flax', 'optax', 'chex', 'numpy', 'scipy')
  return None, {
    'device': chip.device_kind,
    'platform': chip.platform,
    'devices': jax.device_count(),
    'runtime': chip.client.platform_version,
    'versions': {name: version(name) for name in names}
    | {'python': sys.version.split()[0]},
  }


def copy(*, mebibytes: int) -> Job:
  """Reads and writes a large array."""
  x = jnp.ones(mebibytes << 18, jnp.float32)
  call = jax.jit(lambda x: x + 1.0)
  return each(lambda: call(x), jax.block_until_ready), {'bytes': 2 * x.nbytes}


def neighbours(*, rows: int, dim: int, count: int) -> Job:
  """Finds the exact nearest others of every row."""
  x = inputs.embeddings(rows, dim, max(2, rows // 100))
  found = device.nearest(x, count)
  return each(lambda: device.nearest(x, count)), {
    'flops': 2 * rows**2 * dim,
    'checks': {'mean_index': float(found.mean() / rows)},
  }


JOBS = {
  job.__name__: job
  for job in (
    *(describe, jobs.matmul, copy, jobs.mining, jobs.retrieve, neighbours),
    *(training.step, training.embed, training.augmentation),
    *(training.whole_run, training.repeat),
    *(checks.mined_indices, checks.losses_and_gradients),
  )
}

if __name__ == '__main__':
  serve(JOBS, release=lambda: None)
