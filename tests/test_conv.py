import logging

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from plankton_jax.nn import encoders
from plankton_jax.nn.conv import (
  choice,
  handler,
  onednn,
  onednn_library,
  products,
)
from plankton_jax.nn.conv.choice import conv_general_dilated
from tests import bfloat16
from tests.tiny_encoder import TINY

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


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('padding', ['SAME', 'VALID', ((2, 0), (1, 3))])
def test_a_kernel_a_channel_equals_lax_forward_and_gradient(padding, dtype):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, 6, 5, 4)), dtype)
  kernel = jnp.asarray(rng.normal(size=(3, 4, 1, 4)), 'float32')

  def by(conv, x):
    def run(x, kernel):
      if conv is lax.conv_general_dilated:
        kernel = kernel.astype(dtype).astype('float32')
      return conv(
        x,
        kernel,
        (1, 1),
        padding,
        dimension_numbers=NHWC,
        feature_group_count=4,
      )

    out, pullback = jax.vjp(jax.jit(run), x, kernel)
    return out, *pullback(jnp.cos(out))

  got = by(conv_general_dilated, x)
  want = by(lax.conv_general_dilated, x.astype('float32'))
  assert got[0].dtype == x.dtype
  tolerance = 1e-5 if dtype == 'float32' else 2e-2
  for mine, theirs in zip(got, want, strict=True):
    scale = np.abs(theirs).max()
    np.testing.assert_allclose(
      np.asarray(mine, np.float32), theirs, atol=tolerance * scale
    )


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
@pytest.mark.parametrize(('cores', 'batch'), [(3, 5), (3, 2), (1, 5), (2, 1)])
def test_the_kernels_gradient_sums_the_parts_of_all_cores(
  cores, batch, monkeypatch
):
  monkeypatch.setattr(onednn_library, '_cores', lambda: cores)
  monkeypatch.setattr(onednn_library, '_ALONE', 40)  # several sum, too
  rng = np.random.default_rng(0)
  images = rng.normal(size=(batch, 6, 6, 4)).astype(np.float32)
  outputs = rng.normal(size=(batch, 3, 3, 5)).astype(np.float32)
  found = np.full((2, 2, 4, 5), np.nan, np.float32)
  way = onednn_library.KernelGradient(
    onednn_library.Geometry(
      *(images.shape, found.shape, outputs.shape),
      *((2, 2), (0, 0, 0, 0), 'float32'),
    )
  )
  way(*(array.ctypes.data for array in (images, found, outputs)))
  windows = images.astype(float).reshape(batch, 3, 2, 3, 2, 4)
  wanted = np.einsum('byixjc,byxf->ijcf', windows, outputs)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not onednn.available(), reason='oneDNN is not installed')
def test_one_thread_within_another_ends_with_the_outer():
  library = onednn_library.load()
  count, before = library.omp_get_max_threads, library.omp_get_max_threads()
  library.omp_set_num_threads(3)
  try:
    with onednn_library._OneThread():
      with onednn_library._OneThread():
        assert count() == 1
      assert count() == 1
    assert count() == 3
  finally:
    library.omp_set_num_threads(before)


@pytest.mark.skipif(not onednn.available(), reason='oneDNN is not installed')
def test_onednn_serves_one_cpu_alone_and_bfloat16_where_it_pays(monkeypatch):
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
  half = x.astype(jnp.bfloat16)
  with monkeypatch.context() as patch:
    patch.setattr(onednn_library, 'multiplies_bfloat16', lambda: False)
    assert 'plankton_jax.convolution' not in text(half, kernel)
  with monkeypatch.context() as patch:
    patch.setattr(onednn_library, 'multiplies_bfloat16', lambda: True)
    assert 'plankton_jax.convolution' in text(half, kernel)
  monkeypatch.setattr(choice.jax, 'device_count', lambda: 2)
  assert 'plankton_jax.convolution' not in text(x + 0, kernel)


def test_what_a_handler_raises_fails_the_computation():
  def prepare(numbers):
    def fail(*addresses):
      raise ValueError(f'{len(addresses)} arrays, {numbers}')

    return fail

  handler.register('plankton_jax.test.fail', prepare)
  call = jax.ffi.ffi_call(
    'plankton_jax.test.fail', jax.ShapeDtypeStruct((2,), jnp.float32)
  )
  with pytest.raises(Exception, match=r'fail: 2 arrays, \(7, 8\)'):
    jax.jit(lambda x: call(x, numbers=np.array([7, 8], np.int64)))(
      jnp.zeros((2, 3))
    ).block_until_ready()


def _exact(x, kernel, cotangent, stride, padding):
  """Outputs and both gradients by loops over the kernel's taps, in float64."""
  padded = np.pad(x, ((0, 0), *padding, (0, 0)))
  (_, rows, columns, _), reach = cotangent.shape, kernel.shape[0]
  out = np.zeros(cotangent.shape)
  by_padded, by_kernel = np.zeros_like(padded), np.zeros_like(kernel)
  for u in range(reach):
    for v in range(reach):
      taps = np.s_[
        :,
        u : u + (rows - 1) * stride + 1 : stride,
        v : v + (columns - 1) * stride + 1 : stride,
      ]
      out += padded[taps] @ kernel[u, v]
      by_padded[taps] += cotangent @ kernel[u, v].T
      by_kernel[u, v] = np.einsum('bijc,bijf->cf', padded[taps], cotangent)
  (top, _), (left, _) = padding
  side = x.shape[1]
  return (
    out,
    by_padded[:, top : top + side, left : left + side],
    by_kernel,
  )


@bfloat16.needed
@pytest.mark.parametrize(
  'case', [case for case in CASES if not isinstance(case[-1], str)], ids=str
)
def test_bfloat16_is_rounded_once_and_summed_in_float32(case):
  side, channels, features, reach, stride, padding = case
  rng = np.random.default_rng(0)
  rounded = lambda x: x.astype(ml_dtypes.bfloat16)
  x = rounded(rng.normal(size=(3, side, side, channels)))
  kernel = rng.normal(size=(reach, reach, channels, features))
  kernel = (kernel / np.sqrt(reach**2 * channels)).astype(np.float32)

  def run(x, kernel):
    return conv_general_dilated(
      x, kernel, (stride, stride), padding, dimension_numbers=NHWC
    )

  out, pullback = jax.vjp(jax.jit(run), x, kernel)
  cotangent = rounded(rng.normal(size=out.shape))
  got = (out, *pullback(jnp.asarray(cotangent)))
  assert [g.dtype for g in got] == [jnp.bfloat16, jnp.bfloat16, jnp.float32]
  double = lambda x: np.asarray(x, np.float64)
  want = _exact(
    double(x), double(rounded(kernel)), double(cotangent), stride, padding
  )
  bfloat16.assert_rounded_once(got, want, slack=1e-30)


@bfloat16.needed
def test_bfloat16_product_sums_in_float32():
  rows = jnp.ones((1, 512), jnp.bfloat16)
  matrix = jnp.ones((512, 16), jnp.float32)
  # Sums in bfloat16 stop at 256, where a unit no longer changes them.
  out = jax.jit(onednn.product)(rows, matrix)
  np.testing.assert_array_equal(out, np.full((1, 16), 512))


@pytest.fixture
def uncached_dtype():
  """Clears the cached choice of a type before and after the test."""
  choice.computing_dtype.cache_clear()
  yield
  choice.computing_dtype.cache_clear()


@pytest.mark.parametrize(
  ('installed', 'multiplies', 'devices', 'reason'),
  [
    (True, False, 1, 'neither AVX512_BF16 nor AMX'),
    (False, False, 1, 'oneDNN is not installed'),
    (True, True, 2, 'a single CPU device'),
  ],
)
def test_bfloat16_without_instructions_is_float32_and_said_once(
  installed, multiplies, devices, reason, monkeypatch, caplog, uncached_dtype
):
  monkeypatch.setattr(onednn, 'available', lambda: installed)
  monkeypatch.setattr(onednn_library, 'multiplies_bfloat16', lambda: multiplies)
  monkeypatch.setattr(choice.jax, 'device_count', lambda: devices)
  fields = TINY | {'dtype': 'bfloat16'}
  with caplog.at_level(logging.WARNING, 'plankton_jax'):
    models = [encoders.make(**fields) for _ in range(2)]
  assert [model.backbone.dtype for model in models] == [jnp.float32] * 2
  (said,) = caplog.messages
  assert 'encoder.dtype=bfloat16 is computed in float32' in said
  assert reason in said


@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
def test_bfloat16_is_kept_where_it_pays(
  backend, monkeypatch, caplog, uncached_dtype
):
  served = backend == 'cpu'
  monkeypatch.setattr(choice.jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(onednn, 'available', lambda: served)
  monkeypatch.setattr(onednn_library, 'multiplies_bfloat16', lambda: served)
  assert choice.computing_dtype('bfloat16') == jnp.bfloat16
  assert choice.computing_dtype('float32') == jnp.float32
  assert not caplog.messages


@pytest.mark.parametrize('wrong', ['library', 'interface'])
def test_why_onednn_is_not_used_is_logged(wrong, monkeypatch, caplog):
  def no_library():
    raise OSError('onednn is gone')

  def no_interface():
    raise handler.InterfaceError('version 7, not 0')

  if wrong == 'library':
    monkeypatch.setattr(onednn_library, 'load', no_library)
  else:
    monkeypatch.setattr(onednn_library, 'load', lambda: None)
    monkeypatch.setattr(handler, 'check_interface', no_interface)
  with caplog.at_level(logging.INFO, 'plankton_jax'):
    assert not onednn.available.__wrapped__()
  (said,) = caplog.messages
  assert {'library': 'is gone', 'interface': 'version 7'}[wrong] in said


def test_faults_of_ours_are_not_swallowed(monkeypatch):
  def broken():
    raise AttributeError('a fault')

  monkeypatch.setattr(onednn_library, 'load', broken)
  with pytest.raises(AttributeError, match='a fault'):
    onednn.available.__wrapped__()


def test_asking_registers_nothing(monkeypatch):
  monkeypatch.setattr(handler, 'register', lambda *_: pytest.fail('registered'))
  onednn.available.__wrapped__()


@pytest.mark.parametrize(
  ('header', 'said'),
  [
    ('#define XLA_FFI_API_MAJOR 1\n', 'version 1, not 0'),
    ('#define OTHER 0\n', 'version unknown'),
    (None, 'ships no'),
  ],
)
def test_another_interface_is_refused(header, said, tmp_path, monkeypatch):
  handler.check_interface()  # that of the installed jaxlib
  path = tmp_path / handler._HEADER
  path.parent.mkdir(parents=True)
  if header:
    path.write_text(header)
  monkeypatch.setattr(handler.jax.ffi, 'include_dir', lambda: str(tmp_path))
  with pytest.raises(handler.InterfaceError, match=said):
    handler.check_interface()
