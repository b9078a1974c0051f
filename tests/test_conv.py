import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from plankton_jax.nn.conv import choice, handler, onednn, products
from plankton_jax.nn.conv.choice import conv_general_dilated

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


@pytest.mark.parametrize('with_onednn', [True, False])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_equals_lax_forward_and_gradient(case, with_onednn, monkeypatch):
  if with_onednn and not onednn.available():
    pytest.skip('oneDNN is not installed')
  monkeypatch.setattr(onednn, 'available', lambda: with_onednn)
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


def test_what_the_kernel_covers_is_one_product():
  sees = lambda side, reach, stride, pad: products.sees_all(
    np.zeros((1, side, side, 1)),
    np.zeros((reach, reach, 1, 1)),
    (stride, stride),
    ((pad, pad), (pad, pad)),
  )
  assert sees(2, 3, 1, 1) and sees(1, 3, 1, 1) and sees(4, 7, 1, 3)
  assert sees(3, 7, 2, 3) and sees(5, 5, 1, 0)
  assert not sees(3, 3, 1, 1) and not sees(2, 3, 1, 2) and not sees(2, 1, 1, 0)


@pytest.mark.skipif(not onednn.available(), reason='oneDNN is not installed')
def test_onednn_serves_float32_on_one_cpu_alone(monkeypatch):
  x, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 8))
  text = lambda x, kernel: (
    jax.jit(
      lambda x, kernel: conv_general_dilated(
        x, kernel, (1, 1), SAME1, dimension_numbers=NHWC
      )
    )
    .lower(x, kernel)
    .as_text()
  )
  assert 'plankton_jax.convolution' in text(x, kernel)
  half = jnp.bfloat16
  assert 'plankton_jax.convolution' not in text(
    x.astype(half), kernel.astype(half)
  )
  monkeypatch.setattr(choice.jax, 'device_count', lambda: 2)
  assert 'plankton_jax.convolution' not in text(x + 0, kernel)


def test_what_a_handler_raises_fails_the_computation():
  def fail(buffers, numbers):
    raise ValueError(f'{buffers[0].shape} {list(numbers)}')

  handler.register('plankton_jax.test.fail', fail)
  call = jax.ffi.ffi_call(
    'plankton_jax.test.fail', jax.ShapeDtypeStruct((2,), jnp.float32)
  )
  with pytest.raises(Exception, match=r'fail: \(2, 3\) \[7, 8\]'):
    jax.jit(lambda x: call(x, numbers=np.array([7, 8], np.int64)))(
      jnp.zeros((2, 3))
    ).block_until_ready()
