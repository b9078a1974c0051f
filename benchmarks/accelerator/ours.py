"""Runs our side: the library's own functions on this device."""

import functools
import importlib.metadata
import sys

import jax
import jax.numpy as jnp

from benchmarks import inputs
from benchmarks.accelerator import checks, training
from benchmarks.accelerator.worker import Job, serve
from benchmarks.serve import each
from plankton_jax import objectives, retrieval
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


def matmul(*, side: int, kind: str) -> Job:
  """Multiplies random square matrices in 'bfloat16', 'tf32' or 'float32'.

  'tf32' is the default of float32 products on devices that have it.
  """
  x = jnp.asarray(inputs.square(side))
  if kind == 'bfloat16':
    x = x.astype(jnp.bfloat16)
  precision = 'highest' if kind == 'float32' else 'default'
  product = jax.jit(functools.partial(jnp.dot, precision=precision))
  run = each(lambda: product(x, x), jax.block_until_ready)
  return run, {'flops': 2 * side**3}


def copy(*, mebibytes: int) -> Job:
  """Reads and writes a large array."""
  x = jnp.ones(mebibytes << 18, jnp.float32)
  call = jax.jit(lambda x: x + 1.0)
  return each(lambda: call(x), jax.block_until_ready), {'bytes': 2 * x.nbytes}


def mining(*, batch: int, dim: int, policy: str) -> Job:
  """Mines a batch, and computes its triplet loss and gradient."""
  positive, negative = policy.split('+')
  objective = objectives.triplet(margin=0.5, stages=((positive, negative),))
  rows = {
    'label': jnp.asarray(inputs.labels(batch, 10)),
    'valid': jnp.ones(batch, bool),
  }
  x = jnp.asarray(inputs.embeddings(batch, dim, 10))
  function = jax.value_and_grad(
    lambda x, rows: objective.loss({}, x, rows, stage=0), has_aux=True
  )
  compiled = jax.jit(function).lower(x, rows).compile()
  return each(lambda: compiled(x, rows), jax.block_until_ready), {
    'flops': 2 * batch**2 * dim,
    'checks': {'loss': float(compiled(x, rows)[0][0])},
  } | training.peak(compiled)


def retrieve(*, rows: int, dim: int, classes: int) -> Job:
  """Computes Recall@1, R-precision and MAP@R, each row against all others."""
  x, labels = (
    inputs.embeddings(rows, dim, classes),
    inputs.labels(rows, classes),
  )
  found = {}

  def measure():
    found.update(retrieval.evaluate(x, labels, ks=(1,)))

  measure()
  return each(measure), {
    'flops': 2 * rows**2 * dim,
    'checks': {
      name: found[name] for name in ('recall_at_1', 'r_precision', 'map_at_r')
    },
  }


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
    *(describe, matmul, copy, mining, retrieve, neighbours),
    *(training.step, training.embed, training.augmentation),
    *(training.whole_run, training.repeat),
    *(checks.mined_indices, checks.losses_and_gradients),
  )
}

if __name__ == '__main__':
  serve(JOBS, release=lambda: None)
