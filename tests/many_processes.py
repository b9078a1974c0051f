"""Holds steps whose prototypes two processes share to those of one process.

Run by test_sharding.py twice at once, on one device each. Takes the port, the
number of the process, and the folder for the checkpoint.
"""

import pathlib
import sys

import jax
import numpy as np

from plankton_jax.train import sharding, state, step, store
from tests import many_devices

PROCESSES, STEPS = 2, 6
OBJECTIVE, _, STAGE = many_devices.CASES['arcface']


def create() -> state.TrainState:
  """Creates the state that training begins with."""
  return state.create(
    state.make_key(0, state.INIT),
    encoder=many_devices.MODEL,
    objective=OBJECTIVE,
    tx=many_devices.TX,
    image_shape=(many_devices.SIDE, many_devices.SIDE, 1),
  )


def main(port: str, process: int, folder: pathlib.Path) -> None:
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(f'127.0.0.1:{port}', PROCESSES, process)
  mesh = sharding.make_mesh(many_devices.ROWS)
  assert mesh is not None and mesh.size == PROCESSES
  train_step = step.make_train_step(
    apply_fn=many_devices.MODEL.apply,
    backbone=many_devices.MODEL.backbone,
    augment=many_devices.SOME,
    tx=many_devices.TX,
    objective=OBJECTIVE,
    views=1,
    chunk=0,
  )
  one, split = create(), sharding.place(mesh, create())
  key = state.make_key(0, state.TRAIN)
  for i in range(STEPS):
    whole = many_devices.batch(i % 5)
    rows = {
      name: sharding.take(mesh, column, np.arange(many_devices.ROWS))
      for name, column in whole.items()
    }
    split, found = train_step(split, rows, key, stage=STAGE)
    one, want = train_step(one, whole, key, stage=STAGE)
    np.testing.assert_allclose(found['loss'], want['loss'], rtol=1e-5)
  held = split.params['objective']['prototypes'].addressable_shards
  assert [len(shard.data) for shard in held] == [16 // PROCESSES]
  with store.open_manager(folder) as manager:
    store.save(
      manager, split, meta={}, splits={'train': np.arange(3)}, measure=0.0
    )
    manager.wait_until_finished()
  if process == 0:
    np.savez(folder / 'alone.npz', **one.params['objective'])


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]))
