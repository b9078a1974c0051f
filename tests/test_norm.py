import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from plankton_jax.nn.conv import onednn
from plankton_jax.nn.norm import BatchNorm
from tests import bfloat16

EPSILON = 1e-3


def _draw(*shape):
  return np.random.default_rng(len(shape)).normal(size=shape)


def _exact(x, scale, bias, cotangent, rectified):
  """Outputs, moments and gradients in float64, by formulas of Ioffe 2015."""
  axes = (0, 1, 2)
  mean, variance = x.mean(axes), x.var(axes)
  deviation = np.sqrt(variance + EPSILON)
  unit = (x - mean) / deviation
  out = scale * unit + bias
  if rectified:
    cotangent = np.where(out > 0, cotangent, 0.0)
    out = np.maximum(out, 0.0)
  by_scale, by_bias = (cotangent * unit).sum(axes), cotangent.sum(axes)
  count = x[..., 0].size
  centred = cotangent - (by_bias + unit * by_scale) / count
  by_x = scale / deviation * centred
  return out, mean, variance, by_x, by_scale, by_bias


@bfloat16.needed
@pytest.mark.parametrize('rectified', [False, True])
@pytest.mark.parametrize('shape', [(5, 4, 3, 16), (1, 1, 2, 32)])
def test_onednns_norm_is_rounded_once(shape, rectified):
  rounded = lambda x: x.astype(ml_dtypes.bfloat16)
  x = rounded(1 + 2 * _draw(*shape))
  cotangent = rounded(_draw(*shape))
  scale, bias = _draw(2, shape[-1]).astype(np.float32)

  @jax.jit
  def run(x, scale, bias, cotangent):
    norm = lambda *x: onednn.batch_norm(*x, EPSILON, rectified)
    out, pullback = jax.vjp(norm, x, scale, bias)
    zero = jnp.zeros_like(scale)
    return *out, *pullback((cotangent, zero, zero))

  got = run(x, scale, bias, cotangent)
  double = lambda x: np.asarray(x, np.float64)
  want = _exact(*map(double, (x, scale, bias, cotangent)), rectified)
  bfloat16.assert_rounded_once(got, want, slack=1e-6)


@bfloat16.needed
def test_images_without_variance_give_the_bias_and_finite_gradients():
  x = jnp.full((2, 2, 2, 16), 3, jnp.bfloat16)
  scale, bias = jnp.ones(16), jnp.arange(16.0)
  norm = lambda *x: onednn.batch_norm(*x, EPSILON, True)
  out, pullback = jax.vjp(jax.jit(norm), x, scale, bias)
  np.testing.assert_array_equal(out[0], jnp.broadcast_to(bias, x.shape))
  np.testing.assert_array_equal(out[2], 0)
  for gradient in pullback(out):
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
  ('dtype', 'channels', 'by_onednn'),
  [
    pytest.param('bfloat16', 16, True, marks=bfloat16.needed),
    ('bfloat16', 8, False),
    ('float32', 16, False),
  ],
)
@pytest.mark.parametrize('rectified', [False, True])
def test_a_layer_is_flaxs_with_its_names(dtype, channels, by_onednn, rectified):
  x = jnp.asarray(_draw(3, 4, 5, channels), dtype)
  options = {'momentum': 0.7, 'epsilon': EPSILON, 'dtype': dtype}
  options['scale_init'] = nn.initializers.constant(2.0)

  def run(layer, variables):
    out, updated = layer.apply(variables, x, mutable=['batch_stats'])
    return (nn.relu(out) if rectified else out), updated

  theirs = nn.BatchNorm(use_running_average=False, **options)
  ours = BatchNorm(use_running_average=False, rectified=rectified, **options)
  variables = ours.init(jax.random.key(0), x)
  jax.tree.map(
    np.testing.assert_array_equal, variables, theirs.init(jax.random.key(0), x)
  )
  step = jax.jit(lambda variables: run(ours, variables))
  assert ('plankton_jax.norm' in step.lower(variables).as_text()) == by_onednn
  (out, updated), (wanted, expected) = step(variables), run(theirs, variables)
  assert out.dtype == wanted.dtype
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    updated,
    expected,
  )
  tolerance = {'rtol': 2.0**-7} if dtype == 'bfloat16' else {'rtol': 1e-6}
  as_float = lambda x: np.asarray(x, np.float32)
  np.testing.assert_allclose(
    as_float(out), as_float(wanted), atol=1e-6, **tolerance
  )
  kept = variables | updated
  used = BatchNorm(use_running_average=True, rectified=rectified, **options)
  want = nn.BatchNorm(use_running_average=True, **options).apply(kept, x)
  np.testing.assert_array_equal(
    used.apply(kept, x), nn.relu(want) if rectified else want
  )
