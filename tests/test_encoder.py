import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plankton_jax.errors import InputError
from plankton_jax.nn import blocks, encoder

TINY = {
  'name': 'resnet10',
  'width': 4,
  'stem': 'half',
  'embedding_dim': 6,
  'dtype': 'float32',
  'pretrained': '',
  'freeze': 0,
  'poses': 1,
  'centred': True,
}


def _apply(images, **fields):
  model = encoder.make(**(TINY | fields))
  variables = jax.jit(lambda k: model.init(k, images, train=False))(
    jax.random.key(0, impl='rbg')
  )
  embed = jax.jit(lambda v, x: model.apply(v, x, train=False))
  return embed, variables, embed(variables, images)


def _images(side, channels=1, count=3):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(size=(count, side, side, channels)), 'float32')


def test_unit_norm_has_finite_gradient_at_zero():
  x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0], [1e15, 1e15]])
  out = encoder.unit_norm(x)
  np.testing.assert_allclose(out[0], [0.6, 0.8], rtol=1e-6)
  np.testing.assert_array_equal(out[1], 0.0)
  grad = jax.jacobian(encoder.unit_norm)(x)
  assert np.isfinite(grad).all()
  # The Jacobian of x / |x| is (I - u u^T) / |x|.
  u = np.array([0.6, 0.8])
  expected = (np.eye(2) - np.outer(u, u)) / 5
  np.testing.assert_allclose(grad[0, :, 0], expected, atol=1e-6)


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
  model = encoder.make(
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
  _, _, out = _apply(_images(45), stem=stem)
  np.testing.assert_allclose(jnp.linalg.norm(out, axis=1), 1.0, rtol=1e-5)
  assert jnp.abs(out[0] - out[1]).max() > 1e-3


@pytest.mark.parametrize('side', [1, 2, 3, 8, 33])
def test_max_pooling_and_its_gradient_are_those_of_a_window(side):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, side, side + 1, 3)), 'float32')
  window = lambda x: nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
  out, pullback = jax.vjp(blocks._max_pool, x)
  want, expected = jax.vjp(window, x)
  np.testing.assert_array_equal(out, want)
  cotangent = jnp.asarray(rng.normal(size=out.shape), 'float32')
  np.testing.assert_allclose(
    pullback(cotangent)[0], expected(cotangent)[0], rtol=1e-6, atol=1e-6
  )


@pytest.mark.parametrize('freeze', [0, 2, 4])
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(freeze):
  model = encoder.make(**(TINY | {'freeze': freeze}))
  images = _images(32, count=4)
  variables = jax.jit(lambda k: model.init(k, images, train=False))(
    jax.random.key(0, impl='rbg')
  )
  # Not zero, as fresh ones are: every kernel shall have a gradient.
  params = jax.tree.map(lambda x: x + 0.01, variables['params'])

  def loss(params):
    out, updated = model.apply(
      {'params': params, 'batch_stats': variables['batch_stats']},
      images,
      train=True,
      mutable=['batch_stats'],
    )
    return jnp.sum(out[:, 0]), updated['batch_stats']

  grads, stats = jax.jit(jax.grad(loss, has_aux=True))(params)
  largest = lambda tree: max(
    float(jnp.abs(x).max()) for x in jax.tree.leaves(tree)
  )
  for module, grad in grads.items():
    stage = encoder.stage_of(model, module)
    assert (largest(grad) == 0.0) == (stage <= freeze), module
  stages = {encoder.stage_of(model, module) for module in grads}
  assert stages == {1, 2, 3, 4, 5}
  for module, now in stats.items():
    before = variables['batch_stats'][module]
    change = largest(jax.tree.map(jnp.subtract, now, before))
    centre = module == 'BatchNorm_1'  # the embedding's own
    frozen = encoder.stage_of(model, module) <= freeze and not centre
    assert (change == 0.0) == frozen, module


def test_a_plain_embedding_is_a_linear_layers_direction():
  images = _images(32)
  _, variables, centred = _apply(images)
  plain = encoder.make(**(TINY | {'centred': False}))
  dense = variables['params']['Dense_0']
  with_bias = lambda bias: {
    'params': variables['params'] | {'Dense_0': dense | {'bias': bias}},
    'batch_stats': {
      name: stats
      for name, stats in variables['batch_stats'].items()
      if name != 'BatchNorm_1'
    },
  }
  embed = jax.jit(lambda v, x: plain.apply(v, x, train=False))
  # Before training the running mean is 0 and the variance 1.
  direction = embed(with_bias(jnp.zeros(6)), images)
  np.testing.assert_allclose(direction, centred, atol=1e-6)
  far = embed(with_bias(1e6 * jnp.arange(6.0)), images)
  want = np.arange(6) / np.linalg.norm(np.arange(6))
  np.testing.assert_allclose(far, np.tile(want, (3, 1)), atol=1e-4)
  fresh = jax.eval_shape(
    lambda: plain.init(jax.random.key(0), images, train=True)
  )
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  assert shapes(fresh) == shapes(with_bias(jnp.zeros(6)))


def test_bfloat16_stays_close_and_gives_float32():
  images = _images(32, channels=3)
  _, _, exact = _apply(images)
  _, variables, rough = _apply(images, dtype='bfloat16')
  assert rough.dtype == jnp.float32
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
  np.testing.assert_allclose(rough, exact, atol=0.05)
  assert not np.array_equal(rough, exact)


def test_evaluation_of_an_image_does_not_depend_on_its_batch():
  images = _images(32, count=4)
  embed, variables, together = _apply(images)
  alone = embed(variables, images[1:2])
  np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_an_image_has_eight_poses():
  images = np.arange(36, dtype=np.int32).reshape(2, 3, 3, 2)
  found = np.asarray(encoder.all_poses(images))
  turned = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
  wanted = [*turned, *(x[:, :, ::-1] for x in turned)]
  as_set = lambda poses: {pose.tobytes() for pose in poses}
  assert len(as_set(wanted)) == 8
  assert as_set(found) == as_set(wanted)


def test_an_embedding_of_eight_poses_is_their_mean_direction():
  images = _images(32)
  embed, variables, alone = _apply(images)
  mean = np.mean([embed(variables, x) for x in encoder.all_poses(images)], 0)
  wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
  posed = encoder.make(**(TINY | {'poses': 8}))
  whole = jax.jit(lambda v, x: posed.apply(v, x, train=False))
  found = whole(variables, images)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  assert np.abs(found - alone).max() > 1e-2
  turned = whole(variables, jnp.rot90(images, axes=(1, 2)))
  np.testing.assert_allclose(turned, found, atol=1e-5)
  # Training sees the images as they are.
  trained = lambda model: jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])
  )(variables, images)[0]
  np.testing.assert_array_equal(trained(posed), trained(encoder.make(**TINY)))


def test_training_mode_updates_the_running_statistics():
  images = _images(32, count=8) + 3.0
  model = encoder.make(**TINY)
  _, variables, _ = _apply(images)
  _, updated = jax.jit(
    lambda v, x: model.apply(v, x, train=True, mutable=['batch_stats'])
  )(variables, images)
  stem = updated['batch_stats']['BatchNorm_0']
  before = variables['batch_stats']['BatchNorm_0']
  assert np.abs(stem['mean'] - before['mean']).max() > 1e-2


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('name', 'resnet99'),
    ('stem', 'third'),
    ('dtype', 'float8'),
    ('freeze', 5),
    ('freeze', -1),
    ('poses', 4),
  ],
)
def test_unknown_choices_are_named(field, value):
  with pytest.raises(InputError, match=f'{field}={value!r}'):
    encoder.make(**(TINY | {field: value}))


def test_pretrained_weights_need_the_shape_they_were_trained_in():
  fits = {'pretrained': 'a.pth', 'name': 'resnet50', 'width': 64}
  fits['stem'] = 'imagenet'
  encoder.make(**(TINY | fits))
  for wrong in ({'name': 'resnet10'}, {'width': 32}, {'stem': 'quarter'}):
    with pytest.raises(InputError, match=r"stem='imagenet' and .*width=64"):
      encoder.make(**(TINY | fits | wrong))


@pytest.mark.parametrize(
  ('block', 'features'), [(blocks.BasicBlock, 4), (blocks.BottleneckBlock, 1)]
)
def test_a_block_begins_as_the_identity(block, features):
  module = block(
    features,
    strides=1,
    conv=lambda width, kernel, strides: nn.Conv(
      width, (kernel, kernel), strides, use_bias=False
    ),
    norm=functools.partial(nn.BatchNorm, use_running_average=False),
  )
  x = jax.random.normal(jax.random.key(0), (2, 5, 5, 4))
  begun, state = module.init_with_output(jax.random.key(1), x)
  np.testing.assert_array_equal(begun, np.maximum(x, 0.0))
  # Its convolutions count as soon as the last norm's scale is not 0.
  last = f'BatchNorm_{len(block.kernels) - 1}'
  state['params'][last]['scale'] += 1.0
  moved, _ = module.apply(state, x, mutable=['batch_stats'])
  assert np.abs(moved - begun).max() > 0.1
