"""Runs our side: the library's own functions, called as a run calls them."""

import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import inputs, ours_files, ours_input, ours_network
from benchmarks.serve import Job, cores, each, serve
from plankton_jax import distances, host, objectives, retrieval


def matmul(*, side: int) -> Job:
  """Multiplies matrices: the best that float32 arithmetic reaches here."""
  x = jnp.asarray(inputs.square(side))
  product = jax.jit(functools.partial(jnp.dot, precision='highest'))
  return _blocking(lambda: product(x, x)), {
    'flops': 2 * side**3,
    'backend': jax.default_backend(),
  }


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


def mining(*, batch: int, positive: str, negative: str) -> Job:
  """Mines a batch, and computes its triplet loss and gradient."""
  objective = objectives.triplet(margin=0.5, stages=((positive, negative),))
  rows = {
    'label': jnp.asarray(inputs.labels(batch, 10)),
    'valid': jnp.ones(batch, bool),
  }
  x = jnp.asarray(inputs.embeddings(batch, 128, 10))
  function = jax.value_and_grad(
    lambda x, rows: objective.loss({}, x, rows, stage=0), has_aux=True
  )
  compiled = jax.jit(function).lower(x, rows).compile()
  facts = {
    'flops': 2 * batch**2 * 128,
    'temporary': compiled.memory_analysis().temp_size_in_bytes,
  }
  if negative == 'hard':  # without a semi-hard one the peer drops the anchor
    facts['checks'] = {'loss': float(compiled(x, rows)[0][0])}
  return _blocking(lambda: compiled(x, rows)), facts


def retrieve(*, rows: int, classes: int, tail: float = 0.0) -> Job:
  """Computes Recall@1, R-precision and MAP@R, each row against all others."""
  x, labels = (
    inputs.embeddings(rows, 128, classes, tail),
    inputs.labels(rows, classes, tail),
  )
  measure = lambda: retrieval.evaluate(x, labels, ks=(1,))
  found = measure()
  names = ('recall_at_1', 'r_precision', 'map_at_r')
  return each(measure), {
    'flops': 2 * rows**2 * 128,
    'checks': {name: found[name] for name in names},
  }


def class_distances(*, rows: int, classes: int) -> Job:
  """Averages Euclidean distances of all pairs of classes, in float64."""
  x, labels = (
    inputs.embeddings(rows, 128, classes),
    inputs.labels(rows, classes),
  )
  means = lambda: distances.class_means(x, labels, classes, metric='euclidean')
  return each(means), {'flops': rows**2 * 128}  # a pair is computed once


def _blocking(call):
  def run(count):
    for _ in range(count):
      result = call()
    jax.block_until_ready(result)

  return run


JOBS = {
  job.__name__: job
  for job in (
    *(matmul, copy, mining, retrieve, class_distances),
    *(ours_network.step, ours_network.embed),
    *(ours_files.decode, ours_files.gather, ours_input.epoch),
    *(ours_files.show_help, ours_files.first_step),
  )
}

if __name__ == '__main__':
  host.use_fast_settings()
  serve(JOBS)
