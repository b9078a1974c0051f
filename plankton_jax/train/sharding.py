"""Splits batches over the devices, and copies the state to each one.

The step is written for the whole batch, so that norms, mining and losses see
all of it for any number of devices; a single device needs no mesh.
"""

from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from plankton_jax.errors import InputError

_SHARE = 0.25  # share of a device's memory; a step's temporaries need the rest


def make_mesh(batch_size: int) -> jax.sharding.Mesh | None:
  """Makes a mesh of all devices along 'batch', or None for one device.

  Raises:
    InputError: the batch size is not a multiple of the number of devices.
  """
  count = jax.device_count()
  if count == 1:
    return None
  if batch_size % count:
    raise InputError(
      f'batch.size={batch_size} does not divide by the {count} devices'
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


def replicate(mesh: jax.sharding.Mesh | None, tree: Any) -> Any:
  """Puts a whole copy of every array on every device."""
  return _put(mesh, tree, PartitionSpec())


def _put(mesh, tree, spec):
  if mesh is None:
    return jax.device_put(tree)
  return jax.device_put(tree, NamedSharding(mesh, spec))
