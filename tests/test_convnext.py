"""ConvNeXts against float64 NumPy, by timm's names."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm_layout
import tiny_encoder
from timm_layout import converted, draw_images

from plankton_jax import augment
from plankton_jax.errors import InputError
from plankton_jax.nn import convnext
from plankton_jax.nn.backbone import IMAGENET

DEPTHS, WIDTH = (1, 2, 1, 1), 4


def _model(version, *, freeze=0, normalise=IMAGENET):
  return convnext.ConvNeXt(
    depths=DEPTHS,
    width=WIDTH,
    version=version,
    dtype=jnp.dtype('float32'),
    freeze=freeze,
    normalise=normalise,
    convolution=jax.lax.conv_general_dilated,
  )


def _weights(version):
  return timm_layout.convnext_weights(
    depths=DEPTHS, width=WIDTH, version=version
  )


@pytest.mark.parametrize('version', [1, 2])
def test_features_are_those_of_the_layout(version):
  model, weights = _model(version), _weights(version)
  images = draw_images(37)  # whose last pixels are no whole patch
  mean, std = (np.array(part) for part in IMAGENET)
  want = timm_layout.convnext_features(
    weights, (images / 255.0 - mean) / std, depths=DEPTHS, version=version
  )
  x = augment.to_float(jnp.asarray(images), model.normalise)
  got = jax.jit(functools.partial(model.apply, train=False))(
    converted(model, weights, 32), x
  )
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_deviations_go_into_the_first_kernel_without_normalisation():
  model, weights = _model(1, normalise=None), _weights(1)
  found = converted(model, weights, 32, 1)['params']['shrink_0']
  kernel = weights['stem.0.weight'] / np.array(IMAGENET.std)[:, None, None]
  np.testing.assert_allclose(
    found['kernel'][:, :, 0], kernel.sum(1).transpose(1, 2, 0), rtol=1e-5
  )


def test_responses_match_loops_and_blank_channels_have_a_gradient():
  norm = convnext.ResponseNorm()
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4, 5))
  x[0, ..., 2] = 0  # a channel without any response
  x[1] = 0  # a blank image
  scale, bias = rng.normal(size=(2, 5))
  params = {'scale': jnp.array(scale), 'bias': jnp.array(bias)}
  apply = lambda x: norm.apply({'params': params}, x)
  got = jax.jit(apply)(jnp.asarray(x, 'float32'))
  want = timm_layout.response(x, scale, bias)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  grad = jax.jit(jax.grad(lambda x: jnp.sum(apply(x) ** 2)))(
    jnp.asarray(x, 'float32')
  )
  chex.assert_tree_all_finite(grad)


@pytest.mark.parametrize('freeze', [2, 4])
def test_frozen_stages_have_no_gradient(freeze):
  model = _model(2, freeze=freeze)
  variables = converted(model, _weights(2), 32)
  x = augment.to_float(jnp.asarray(draw_images(37)), model.normalise)
  tiny_encoder.check_frozen(model, variables, x)


def test_weights_of_the_other_version_are_refused():
  with pytest.raises(InputError, match=r'grn\.bias.* ConvNeXt of version 2 of'):
    converted(_model(2), _weights(1), 32)
  with pytest.raises(InputError, match=r'gamma.* ConvNeXt of version 1 of'):
    converted(_model(1), _weights(2), 32)


def test_images_too_small_for_four_stages_are_refused():
  with pytest.raises(InputError, match=r'data\.size=31 is too small.* 32 px'):
    jax.eval_shape(
      functools.partial(_model(1).init, train=False),
      jax.random.key(0),
      jnp.zeros((1, 31, 31, 1)),
    )
