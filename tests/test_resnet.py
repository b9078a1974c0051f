import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plankton_jax.nn import embedding, encoders, resnet
from plankton_jax.nn.norm import BatchNorm
from plankton_jax.train.state import join_frozen, split_frozen
from tests.tiny_encoder import TINY, apply, make_images


# torchvision's weights but for the classifier: 'imagenet' stem, width 64, RGB.
@pytest.mark.parametrize(
  ('name', 'torchvision'),
  [
    ('resnet18', 11_176_512),
    ('resnet34', 21_284_672),
    ('resnet50', 23_508_032),
  ],
)
def test_parameters_are_those_of_the_paper(name, torchvision):
  model = encoders.make(
    **(TINY | {'name': name, 'width': 64, 'stem': 'imagenet'})
  )
  shapes = jax.eval_shape(
    lambda k: model.init(k, jnp.zeros((1, 64, 64, 3)), train=False),
    jax.random.key(0, impl='rbg'),
  )
  sizes = [
    x.size
    for path, x in jax.tree_util.tree_leaves_with_path(shapes['params'])
    if 'Dense' not in str(path)
  ]
  assert sum(sizes) == torchvision


@pytest.mark.parametrize('stem', ['full', 'half', 'quarter', 'imagenet'])
def test_every_stem_tells_images_apart_on_the_sphere(stem):
  _, _, out = apply(make_images(45), stem=stem)
  np.testing.assert_allclose(jnp.linalg.norm(out, axis=1), 1.0, rtol=1e-5)
  assert jnp.abs(out[0] - out[1]).max() > 1e-3


@pytest.mark.parametrize('side', [1, 2, 3, 8, 33])
def test_max_pooling_and_its_gradient_are_those_of_a_window(side):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, side, side + 1, 3)), 'float32')
  window = lambda x: nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
  shape = jax.eval_shape(window, x).shape
  cotangent = jnp.asarray(rng.normal(size=shape), 'float32')

  @functools.partial(jax.jit, static_argnames='pool')
  def pooled(x, cotangent, pool):
    out, pullback = jax.vjp(pool, x)
    return out, pullback(cotangent)[0]

  out, gradient = pooled(x, cotangent, resnet.max_pool)
  want, expected = pooled(x, cotangent, window)
  np.testing.assert_array_equal(out, want)
  np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('freeze', [0, 2, 4])
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(freeze):
  model = encoders.make(**(TINY | {'freeze': freeze}))
  images = make_images(32, count=4)
  variables = jax.jit(lambda k: model.init(k, images, train=False))(
    jax.random.key(0, impl='rbg')
  )
  # Not zero, as fresh ones are: every kernel shall have a gradient.
  params = jax.tree.map(lambda x: x + 0.01, variables['params'])

  trained, frozen = split_frozen({'encoder': params}, model.backbone)

  def loss(trained):
    out, updated = model.apply(
      {
        'params': join_frozen(trained, frozen),
        'batch_stats': variables['batch_stats'],
      },
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return jnp.sum(out[:, 0]), updated['batch_stats']

  grads, stats = jax.jit(jax.grad(loss, has_aux=True))(trained['encoder'])
  largest = lambda tree: max(
    float(jnp.abs(x).max()) for x in jax.tree.leaves(tree)
  )
  assert all(largest(grad) > 0.0 for grad in grads.values())
  stages = {embedding.stage_of(model.backbone, module) for module in grads}
  assert stages == {*range(freeze + 1, 6)}
  for module, now in stats.items():
    before = variables['batch_stats'][module]
    change = largest(jax.tree.map(jnp.subtract, now, before))
    centre = module == 'BatchNorm_1'  # the embedding's own
    frozen = embedding.stage_of(model.backbone, module) <= freeze and not centre
    assert (change == 0.0) == frozen, module


def test_bfloat16_stays_close_and_gives_float32():
  images = make_images(32, channels=3)
  _, _, exact = apply(images)
  _, variables, rough = apply(images, dtype='bfloat16')
  assert rough.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  np.testing.assert_allclose(rough, exact, atol=0.05)
  assert not np.array_equal(rough, exact)


def test_training_mode_updates_the_running_statistics():
  images = make_images(32, count=8) + 3.0
  model = encoders.make(**TINY)
  _, variables, _ = apply(images)
  _, updated = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])
  )(variables, images)
  stem = updated['batch_stats']['BatchNorm_0']
  before = variables['batch_stats']['BatchNorm_0']
  assert np.abs(stem['mean'] - before['mean']).max() > 1e-2


@pytest.mark.parametrize(
  ('block', 'features'), [(resnet.BasicBlock, 4), (resnet.BottleneckBlock, 1)]
)
def test_a_block_begins_as_the_identity(block, features):
  module = block(
    features,
    strides=1,
    conv=lambda width, kernel, strides, name: nn.Conv(
      width, (kernel, kernel), strides, use_bias=False, name=name
    ),
    norm=functools.partial(BatchNorm, use_running_average=False),
  )
  x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
  begun, state = module.init_with_output(jax.random.key(1), x)
  np.testing.assert_array_equal(begun, np.maximum(x, 0.0))
  # Its convolutions count as soon as the last norm's scale is not 0.
  last = f'BatchNorm_{len(block.kernels) - 1}'
  state['params'][last]['scale'] += 1.0
  moved, _ = module.apply(state, x, mutable=['batch_stats'])
  assert np.abs(moved - begun).max() > 0.1
