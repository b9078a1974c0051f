import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from plankton_jax.conv import conv_general_dilated

NHWC = ('NHWC', 'HWIO', 'NHWC')
SAME1 = ((1, 1), (1, 1))
# (image, channels, features, kernel, stride, padding)
CASES = [
  (16, 1, 8, 3, 2, SAME1),
  (16, 8, 16, 3, 1, SAME1),
  (15, 8, 16, 3, 2, SAME1),
  (16, 8, 16, 1, 2, ((0, 0), (0, 0))),
  (2, 64, 32, 3, 1, SAME1),
  (1, 16, 16, 3, 1, SAME1),
  (12, 3, 8, 7, 2, ((3, 3), (3, 3))),
  (8, 128, 16, 3, 1, SAME1),
  (3, 128, 16, 3, 2, SAME1),
  (9, 4, 4, 3, 2, 'SAME'),
  (9, 4, 4, 3, 2, 'VALID'),
]


@pytest.mark.parametrize('case', CASES, ids=str)
def test_equals_lax_forward_and_gradient(case):
  side, channels, features, kernel_side, stride, padding = case
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, side, side, channels)).astype(np.float32)
  kernel = rng.normal(size=(kernel_side, kernel_side, channels, features))
  kernel = (kernel / np.sqrt(kernel_side**2 * channels)).astype(np.float32)

  def by(conv):
    def run(x, kernel):
      return conv(x, kernel, (stride, stride), padding, dimension_numbers=NHWC)

    out, pullback = jax.vjp(jax.jit(run), x, kernel)
    cotangent = np.random.default_rng(1).normal(size=out.shape)
    return out, *pullback(jnp.asarray(cotangent, jnp.float32))

  for got, want in zip(
    by(conv_general_dilated), by(lax.conv_general_dilated), strict=True
  ):
    assert got.shape == want.shape
    scale = np.abs(want).max()
    np.testing.assert_allclose(got, want, atol=1e-5 * scale)


@pytest.mark.parametrize(
  'options',
  [{'feature_group_count': 4}, {'rhs_dilation': (2, 2)}],
  ids=['groups', 'dilated'],
)
def test_what_patches_do_not_cover_runs_in_lax(options):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32)
  channels = 4 // options.get('feature_group_count', 1)
  kernel = jnp.asarray(rng.normal(size=(3, 3, channels, 8)), jnp.float32)
  run = lambda conv: conv(
    x, kernel, (1, 1), SAME1, dimension_numbers=NHWC, **options
  )
  np.testing.assert_allclose(
    run(conv_general_dilated), run(lax.conv_general_dilated), atol=1e-5
  )
