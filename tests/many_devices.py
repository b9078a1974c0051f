"""Holds a step on eight devices to the same step on one, for every objective.

Run by test_sharding.py in a process of its own, which has eight devices.
"""

import functools
import pathlib
import tempfile

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from plankton_jax import augment, objectives
from plankton_jax.errors import InputError
from plankton_jax.nn.embedding import Embedder
from plankton_jax.train import batches, sharding, state, step, store

DEVICES, ROWS, STEPS, SIDE = 8, 24, 50, 8
CLASSES = {'num_classes': 16, 'embedding_dim': 6}
sharding.MANY_CLASSES = 16  # so that their prototypes are split
FEW = CLASSES | {'num_classes': 15}
STAGES = (('easy', 'semihard'), ('hard', 'hard'))
TRIPLET = {'margin': 0.5, 'stages': STAGES}
# Each with the views of an image and the stage.
CASES = {
  'semihard': (objectives.triplet(**TRIPLET), 1, 0),
  'hardest of two views': (objectives.triplet(**TRIPLET), 2, 1),
  'random': (objectives.triplet(**TRIPLET, select='random'), 1, 0),
  'all': (objectives.triplet(**TRIPLET, select='all'), 1, 0),
  'supcon': (objectives.supcon(), 1, 0),
  'multi_similarity': (objectives.multi_similarity(), 1, 0),
  'softmax, sampled': (
    objectives.softmax(**CLASSES | {'num_classes': 64}, sample_prototypes=0.5),
    1,
    0,
  ),
  'arcface': (objectives.arcface(**CLASSES, scale=8.0), 1, 0),
  'cosface': (objectives.cosface(**FEW, scale=8.0), 1, 0),
  'subcenter': (objectives.subcenter_arcface(**CLASSES, scale=8.0), 1, 0),
  'proxy_anchor': (objectives.proxy_anchor(**CLASSES), 1, 0),
}
# Their losses jump where two distances change places.
MINED = (
  'semihard', 'hardest of two views', 'random', 'all', 'multi_similarity',
)  # fmt: skip
OFF = dict.fromkeys(
  ('rotate', 'scale', 'translate', 'brightness', 'contrast', 'noise'), 0.0
)
# All of it once, as it takes longer to compile than the rest of a step.
ALL = augment.make(flip=True, **dict.fromkeys(OFF, 0.05))
SOME = augment.make(flip=True, **OFF)


class Backbone(nn.Module):
  """A convolution with a norm over the batch."""

  freeze: int = 0
  stages = (('conv', 'norm'),)
  published = None
  normalise = None

  @nn.compact
  def __call__(self, images, *, train):
    x = nn.Conv(4, (3, 3), (2, 2), use_bias=False, name='conv')(images)
    x = nn.BatchNorm(not train, momentum=0.9, name='norm')(x)
    return nn.relu(x)


MODEL = Embedder(
  backbone=Backbone(), embedding_dim=6, poses=1, centred=True, size=True
)
# Keeps the gradient itself beside the parameters.
TX = optax.chain(optax.trace(0.0), optax.sgd(1e-3))


def batch(seed: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(seed)
  label = np.arange(ROWS, dtype=np.int32) % 6
  images = rng.integers(0, 160, (ROWS, SIDE, SIDE, 1))
  images[:, 2:6, 2:6] += 15 * label[:, None, None, None]
  return {
    'image': images.astype(np.uint8),
    'label': label,
    'measures': rng.uniform(5, 50, (ROWS, 3)).astype(np.float32),
    'valid': np.ones(ROWS, bool),
  }


def compare(name: str, mesh: jax.sharding.Mesh) -> None:
  """Takes 50 steps both ways, and some of them from the same state as well.

  Mining lets two long runs part at a rounding error: there every step begins
  from the same state.
  """
  objective, views, stage = CASES[name]
  train_step = step.make_train_step(
    apply_fn=MODEL.apply,
    backbone=MODEL.backbone,
    augment=ALL if name == 'semihard' else SOME,
    tx=TX,
    objective=objective,
    views=views,
    chunk=0,
  )
  one = state.create(
    state.make_key(0, state.INIT),
    encoder=MODEL,
    objective=objective,
    tx=TX,
    image_shape=(SIDE, SIDE, 1),
  )
  # Steps donate their state, so that no two may share an array.
  copied = lambda: sharding.place(mesh, jax.tree.map(jnp.copy, one))
  eight, key = copied(), state.make_key(0, state.TRAIN)
  losses, worst = [], 0.0
  for i in range(STEPS):
    whole = batch(i % 5)
    rows = sharding.split(mesh, whole)
    if name in MINED:
      eight = copied()
    checked = i % 10 == 0
    start = copied() if checked else None
    eight, found = train_step(eight, rows, key, stage=stage)
    one, want = train_step(one, whole, key, stage=stage)
    losses.append(float(want['loss']))
    worst = max(worst, abs(float(found['loss']) / losses[-1] - 1))
    if checked:
      same, found = train_step(start, rows, key, stage=stage)
      chex.assert_trees_all_close(found, want, rtol=1e-4, atol=1e-6)
      _assert_close(same.opt_state, one.opt_state)
      _assert_close(same.batch_stats, one.batch_stats)
  assert np.ptp(losses) > 1e-3, losses
  largest = [float(jnp.abs(x).max()) for x in jax.tree.leaves(one.opt_state)]
  assert min(largest) > 1e-5, largest  # no gradient is 0
  _assert_placed(eight)
  print(f'{name}: losses over {STEPS} steps differ by {worst:.1e} at most')
  assert worst < 1e-5, name


def _assert_placed(found):
  """Checks that each device has a share of the prototypes, and all else."""
  for path, x in jax.tree_util.tree_leaves_with_path(found):
    many = "'objective'" in jax.tree_util.keystr(path) and len(x) != 15
    share = x.addressable_shards[0].data.shape[:1] if x.ndim else ()
    expected = (len(x) // DEVICES,) if many else x.shape[:1]
    assert share == expected, (path, share)
    whole = x.nbytes // DEVICES if many else x.nbytes
    assert sharding.bytes_on_device({'a': x}) == whole, path


def _assert_close(found, want):
  """Compares arrays to 1e-4 of the largest value of each."""
  for got, expected in zip(*map(jax.tree.leaves, (found, want)), strict=True):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * scale + 1e-9)


def compare_batches(mesh: jax.sharding.Mesh) -> None:
  """Batches kept on the devices arrive as those that are sent."""
  images = np.arange(40 * 4, dtype=np.uint8).reshape(40, 2, 2, 1)
  rows = np.arange(39, 3, -1)
  columns = {'image': images, 'label': np.arange(40, dtype=np.int32)}
  given = columns, rows, mesh
  at = np.random.default_rng(0).permutation(36)[:ROWS]
  sent, kept = batches.streamed(*given)(at), batches.resident(*given)(at)
  for name, value in sent.items():
    assert kept[name].sharding == value.sharding, name
    assert kept[name].dtype == value.dtype
    np.testing.assert_array_equal(kept[name], value)
  np.testing.assert_array_equal(sent['image'], images[rows[at]])
  shards = sent['image'].addressable_shards
  assert [len(shard.data) for shard in shards] == [ROWS // DEVICES] * DEVICES


def compare_restored(mesh: jax.sharding.Mesh) -> None:
  """A checkpoint of one device is restored to eight, and theirs to four."""
  objective, _, _ = CASES['arcface']
  create = functools.partial(
    state.create,
    encoder=MODEL,
    objective=objective,
    tx=TX,
    image_shape=(SIDE, SIDE, 1),
  )
  one = create(state.make_key(0, state.INIT))
  four = jax.make_mesh(
    (4,), ('batch',), axis_types=mesh.axis_types, devices=jax.devices()[:4]
  )
  saved, splits = one, {'train': np.arange(3)}
  for step_, on in enumerate((mesh, four, None), 1):
    with (
      tempfile.TemporaryDirectory() as folder,
      store.open_manager(pathlib.Path(folder)) as manager,
    ):
      saved = saved.replace(step=jnp.int32(step_))
      store.save(manager, saved, meta={}, splits=splits, measure=0.0)
      manager.wait_until_finished()
      saved, _ = store.restore(manager, jax.eval_shape(lambda: one), step_, on)
    chex.assert_trees_all_equal(saved.params, one.params)
    held = saved.params['objective']['prototypes'].addressable_shards
    expected = [16 // on.size] * on.size if on else [16]
    assert [len(shard.data) for shard in held] == expected


def main() -> None:
  assert jax.device_count() == DEVICES
  mesh = sharding.make_mesh(ROWS)
  compare_batches(mesh)
  compare_restored(mesh)
  for name in CASES:
    compare(name, mesh)
  try:
    sharding.make_mesh(13)
  except InputError as error:
    print(error)


if __name__ == '__main__':
  main()
