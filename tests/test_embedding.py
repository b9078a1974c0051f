import chex
import jax
import jax.numpy as jnp
import numpy as np

from plankton_jax import distances
from plankton_jax.nn import embedding, encoders
from tests.tiny_encoder import TINY, apply, make_images


def test_unit_norm_has_finite_gradient_at_zero():
  x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0], [1e15, 1e15]])
  out = distances.unit_norm(x)
  np.testing.assert_allclose(out[0], [0.6, 0.8], rtol=1e-6)
  np.testing.assert_array_equal(out[1], 0.0)
  grad = jax.jacobian(distances.unit_norm)(x)
  chex.assert_tree_all_finite(grad)
  # The Jacobian of x / |x| is (I - u u^T) / |x|.
  u = np.array([0.6, 0.8])
  expected = (np.eye(2) - np.outer(u, u)) / 5
  np.testing.assert_allclose(grad[0, :, 0], expected, atol=1e-6)


def test_a_plain_embedding_is_a_linear_layers_direction():
  images = make_images(32)
  _, variables, centred = apply(images)
  plain = encoders.make(**(TINY | {'centred': False}))
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
  chex.assert_trees_all_equal_shapes(fresh, with_bias(jnp.zeros(6)))


def test_evaluation_of_an_image_does_not_depend_on_its_batch():
  images = make_images(32, count=4)
  embed, variables, together = apply(images)
  alone = embed(variables, images[1:2])
  np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_an_image_has_eight_poses():
  images = np.arange(36, dtype=np.int32).reshape(2, 3, 3, 2)
  found = np.asarray(embedding.all_poses(images))
  turned = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
  wanted = [*turned, *(x[:, :, ::-1] for x in turned)]
  as_set = lambda poses: {pose.tobytes() for pose in poses}
  assert len(as_set(wanted)) == 8
  assert as_set(found) == as_set(wanted)


def test_an_embedding_of_eight_poses_is_their_mean_direction():
  images = make_images(32)
  embed, variables, alone = apply(images)
  mean = np.mean([embed(variables, x) for x in embedding.all_poses(images)], 0)
  wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
  posed = encoders.make(**(TINY | {'poses': 8}))
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
  np.testing.assert_array_equal(trained(posed), trained(encoders.make(**TINY)))
