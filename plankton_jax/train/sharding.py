"""Splits batches over the devices, and copies the state to each one.

The step is written for the whole batch, so that norms, mining and losses see
all of it for any number of devices and of processes; a single device needs no
mesh. A process reads and holds only what its own devices take of a batch.

Of the prototypes of MANY_CLASSES or more, and of their moments, each device of
each process holds its share of the classes. The step does not say so: the
compiler splits the products with them, and adds up what the devices found.
"""

import contextlib
import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from plankton_jax.errors import InputError

MANY_CLASSES = 10_000
_SHARE = 0.25  # share of a device's memory; a step's temporaries need the rest


def make_mesh(batch_size: int) -> jax.sharding.Mesh | None:
  """Makes a mesh of all devices along 'batch', or None for one device.

  Raises:
    InputError: the batch size is not a multiple of the number of devices.
  """
  check_split('batch.size', batch_size)
  return _mesh_of(jax.devices())


def check_split(field: str, rows: int) -> None:
  """Raises InputError unless all devices can share a field's number of rows."""
  count = jax.device_count()
  if rows % count:
    raise InputError(
      f'{field}={rows} is not a multiple of the {count} devices; set it to one'
    )


def make_local_mesh() -> jax.sharding.Mesh | None:
  """Makes a mesh of this process's devices along 'batch', None for one."""
  return _mesh_of(jax.local_devices())


def _mesh_of(devices):
  if len(devices) == 1:
    return None
  return jax.make_mesh(
    (len(devices),), ('batch',), axis_types=(AxisType.Auto,), devices=devices
  )


def fits_on_device(size: int) -> bool:
  """Tells whether every device can keep this many bytes throughout a run.

  Always False on a CPU: its memory is the host's, which holds the data already.
  """
  limits = [
    (device.memory_stats() or {}).get('bytes_limit', 0)
    for device in jax.local_devices()
    if device.platform != 'cpu'
  ]
  return bool(limits) and size <= _SHARE * min(limits)


def split(mesh: jax.sharding.Mesh | None, batch: Any) -> Any:
  """Puts a batch's rows on the mesh's devices, in order."""
  return _put(mesh, batch, PartitionSpec('batch'))


def take(
  mesh: jax.sharding.Mesh | None, column: np.ndarray, rows: np.ndarray
) -> jax.Array:
  """Puts `column[rows]` on the mesh's devices, in order.

  Each process reads the rows of its own devices only.

  Args:
    mesh: from `make_mesh`.
    column: [N, ...], perhaps memory-mapped.
    rows: [B].
  """
  if mesh is None or len(mesh.local_devices) == mesh.size:
    return split(mesh, _read(column, rows))
  return jax.make_array_from_callback(
    (len(rows), *column.shape[1:]),
    NamedSharding(mesh, PartitionSpec('batch')),
    lambda index: _read(column, rows[index[0] if index else slice(None)]),
  )


def _read(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Reads `column[rows]`, having asked the disk for all of a file's rows first.

  A disk serves many requests at once, but a missing page stops the reader.
  """
  if (
    isinstance(column, np.memmap)
    and column.filename
    and hasattr(os, 'posix_fadvise')
  ):
    size = column[:1].nbytes
    with contextlib.suppress(OSError), open(column.filename, 'rb') as file:
      for row in rows.tolist():
        start = column.offset + row * size
        os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
  return column[rows]


def replicate(mesh: jax.sharding.Mesh | None, tree: Any) -> Any:
  """Puts a whole copy of every array on every device."""
  return _put(mesh, tree, PartitionSpec())


def place(mesh: jax.sharding.Mesh | None, state: Any) -> Any:
  """Puts a training state on the devices, each array as `describe` says."""
  if mesh is None:
    return jax.device_put(state)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: _put(mesh, x, _spec(mesh, path, x)), state
  )


def describe(mesh: jax.sharding.Mesh | None, state: Any) -> Any:
  """Describes the arrays of a state, and where each of them is to be.

  Args:
    mesh: from `make_mesh`; None for one device.
    state: a tree of arrays or of their shapes, or a part of one.

  Returns:
    Shapes with shardings: the prototypes of many classes are split by class,
    if the devices divide their number; of all else each device has a copy.
  """

  def described(path, x):
    where: jax.sharding.Sharding = jax.sharding.SingleDeviceSharding(
      jax.local_devices()[0]
    )
    if mesh is not None:
      where = NamedSharding(mesh, _spec(mesh, path, x))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

  return jax.tree_util.tree_map_with_path(described, state)


class Memory(NamedTuple):
  """Bytes that a program needs on each device; NaN if JAX cannot tell."""

  total: float  # arguments, results and temporaries
  temporary: float


def program_memory(program: jax.stages.Compiled) -> Memory:
  """Reads the compiler's figures of a program's memory."""
  found = program.memory_analysis()
  if found is None:  # some backends have none
    return Memory(math.nan, math.nan)
  return Memory(
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    - found.alias_size_in_bytes
    + found.temp_size_in_bytes,
    found.temp_size_in_bytes,
  )


def bytes_on_device(tree: Any) -> int:
  """Counts the bytes of a tree of arrays that each of its devices holds.

  An array that is split counts by its share.
  """
  return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))


def _spec(
  mesh: jax.sharding.Mesh, path: tuple[Any, ...], x: Any
) -> PartitionSpec:
  """Tells how an array of the state is split; `path` holds its keys."""
  keys = [getattr(key, 'key', None) for key in path]
  by_class = 'objective' in keys and x.ndim > 1 and x.shape[0] >= MANY_CLASSES
  if by_class and x.shape[0] % mesh.size == 0:
    return PartitionSpec('batch')
  return PartitionSpec()


def gather(mesh: jax.sharding.Mesh | None, tree: Any) -> Any:
  """Gives a process all rows, where its devices hold only some of them."""
  if mesh is None or len(mesh.local_devices) == mesh.size:
    return tree
  return multihost_utils.process_allgather(tree, tiled=True)


def _put(mesh, tree, spec):
  if mesh is None:
    return jax.device_put(tree)
  sharding = NamedSharding(mesh, spec)
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)

  def put(x):  # every process has all of x, and puts its own share
    if getattr(x, 'sharding', None) == sharding:
      return x  # as one that was restored, of which it may have a share only
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda at: x[at])

  return jax.tree.map(put, tree)
