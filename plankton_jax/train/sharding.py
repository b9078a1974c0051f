"""Splits batches over the devices, and copies the state to each one.

The step is written for the whole batch, so that norms, mining and losses see
all of it for any number of devices and of processes; a single device needs no
mesh. A process reads and holds only what its own devices take of a batch.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from plankton_jax.errors import InputError

_SHARE = 0.25  # share of a device's memory; a step's temporaries need the rest


def make_mesh(
  batch_size: int, field: str = 'batch.size'
) -> jax.sharding.Mesh | None:
  """Makes a mesh of all devices along 'batch', or None for one device.

  Args:
    batch_size: rows to split over the devices.
    field: of the config that gives this number, for the error.

  Raises:
    InputError: the batch size is not a multiple of the number of devices.
  """
  count = jax.device_count()
  if count == 1:
    return None
  if batch_size % count:
    raise InputError(
      f'{field}={batch_size} is not a multiple of the {count} devices'
    )
  return jax.make_mesh((count,), ('batch',), axis_types=(AxisType.Auto,))


def make_local_mesh() -> jax.sharding.Mesh | None:
  """Makes a mesh of this process's devices along 'batch', None for one."""
  devices = jax.local_devices()
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
    return split(mesh, column[rows])
  return jax.make_array_from_callback(
    (len(rows), *column.shape[1:]),
    NamedSharding(mesh, PartitionSpec('batch')),
    lambda index: column[rows[index[0] if index else slice(None)]],
  )


def replicate(mesh: jax.sharding.Mesh | None, tree: Any) -> Any:
  """Puts a whole copy of every array on every device."""
  return _put(mesh, tree, PartitionSpec())


def gather(mesh: jax.sharding.Mesh | None, tree: Any) -> Any:
  """Gives a process all rows, where its devices hold only some of them."""
  if mesh is None or len(mesh.local_devices) == mesh.size:
    return tree
  return multihost_utils.process_allgather(tree, tiled=True)


def replicated(mesh: jax.sharding.Mesh | None) -> jax.sharding.Sharding:
  """Describes an array of which every device holds a whole copy."""
  if mesh is None:
    return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  return NamedSharding(mesh, PartitionSpec())


def _put(mesh, tree, spec):
  if mesh is None:
    return jax.device_put(tree)
  sharding = NamedSharding(mesh, spec)
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)

  def place(x):  # every process has all of x, and puts its own share
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda at: x[at])

  return jax.tree.map(place, tree)
