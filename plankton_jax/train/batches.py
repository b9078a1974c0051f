"""Sends batches to the device ahead of their use, and reads metrics back."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from plankton_jax.train import sharding
from plankton_jax.train.progress import Place

# `image` uint8 [N, H, W, C], memory-mapped, `label` [N] and, if the encoder
# takes any, `measures` float32 [N, M]; of all images.
Columns = dict[str, np.ndarray]
Batch = dict[str, jax.Array]  # the same of B images, and `valid` [B]

_AHEAD = 2  # batches; making one takes a fraction of a step
_IN_FLIGHT = 4  # steps dispatched after the oldest whose metrics are not read


def training(
  columns: Columns,
  rows: np.ndarray,
  sampler: Callable[[int], np.ndarray],
  steps: Iterable[int],
  mesh: jax.sharding.Mesh | None,
) -> Iterator[Batch]:
  """Yields the batch of every step, made ahead in a thread.

  If every device can hold all images, they stay there and only row numbers are
  sent; otherwise, and in one of several processes, each batch is read and sent.

  Args:
    columns: of all images.
    rows: [M], the rows to train on.
    sampler: step -> positions in `rows`, [B].
    steps: the next steps of the run.
    mesh: from `sharding.make_mesh`.
  """
  size = len(rows) * columns['image'][:1].nbytes
  alone = jax.process_count() == 1  # else each would have to read all of them
  make = resident if alone and sharding.fits_on_device(size) else streamed
  batch = make(columns, rows, mesh)
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    pending: collections.deque[concurrent.futures.Future] = collections.deque()
    for step in steps:
      pending.append(pool.submit(lambda s: batch(sampler(s)), step))
      if len(pending) > _AHEAD:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()


def streamed(
  columns: Columns, rows: np.ndarray, mesh: jax.sharding.Mesh | None
) -> Callable[[np.ndarray], Batch]:
  """Makes a function that reads the batch of positions [B] in `rows`.

  Each process reads its share alone.
  """

  def batch(at):
    sent = {
      name: sharding.take(mesh, column, rows[at])
      for name, column in columns.items()
    }
    return sent | {'valid': sharding.split(mesh, np.ones(len(at), bool))}

  return batch


def resident(
  columns: Columns, rows: np.ndarray, mesh: jax.sharding.Mesh | None
) -> Callable[[np.ndarray], Batch]:
  """Copies the rows to every device, as `streamed` does for each batch.

  The function that it makes takes batches from these copies.
  """
  held = sharding.replicate(mesh, {n: x[rows] for n, x in columns.items()})

  @jax.jit
  def take(held, at):
    batch = jax.tree.map(lambda x: x[at], held)
    return batch | {'valid': jnp.ones(at.shape, bool)}

  def batch(at):
    at = sharding.split(mesh, at.astype(np.int32))
    return sharding.split(mesh, take(held, at))

  return batch


def evaluation(
  columns: Columns, rows: np.ndarray, size: int, mesh: jax.sharding.Mesh | None
) -> Iterator[Batch]:
  """Yields all rows in batches of one size; `valid` is False on padding."""
  batch = streamed(columns, rows, mesh)
  for start in range(0, len(rows), size):
    places = np.arange(start, start + size)
    valid = sharding.split(mesh, places < len(rows))
    yield batch(np.minimum(places, len(rows) - 1)) | {'valid': valid}


def read_back(
  dispatched: collections.deque[tuple[Place, dict[str, Any]]], *, wait: bool
) -> list[tuple[Place, dict[str, float]]]:
  """Removes the steps whose metrics are ready, and reads these from the device.

  The host waits only when it is several steps ahead of the device, so that
  dispatched steps do not pile up.

  Args:
    dispatched: steps that the device may still be computing, the oldest first.
    wait: whether to wait for all of them.

  Returns:
    The steps, the oldest first.
  """
  found = []
  while dispatched and (
    wait or len(dispatched) > _IN_FLIGHT or dispatched[0][1]['loss'].is_ready()
  ):
    place, metrics = dispatched.popleft()
    values = jax.device_get(metrics)
    found.append((place, {name: float(x) for name, x in values.items()}))
  return found
