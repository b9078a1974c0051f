"""Vision transformers against float64 loops, by timm's names."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import timm_layout
import tiny_encoder
from timm_layout import converted, draw_images

from plankton_jax import augment
from plankton_jax.errors import InputError
from plankton_jax.nn import pretrained, transformer, transformer_weights

TINY = {'depth': 2, 'heads': 2, 'patch': 4, 'registers': 0, 'epsilon': 1e-6}
WIDTH, SIDE = 16, 12
CASES = {
  'plain': {},
  'registers': {'registers': 2, 'scaled': True},
  'rotary': {'registers': 2, 'scaled': True, 'rotary': True, 'epsilon': 1e-2},
}


def _model(freeze=0, **fields):
  fields = TINY | {'scaled': False, 'rotary': False} | fields
  depth, heads = fields.pop('depth'), fields.pop('heads')
  return transformer.Transformer(
    depth=depth,
    width=WIDTH,
    heads=heads,
    kind=transformer.Kind(
      antialias=True, expects=transformer.IMAGENET, **fields
    ),
    dtype=jnp.dtype('float32'),
    freeze=freeze,
    normalise=transformer.IMAGENET,
    convolution=jax.lax.conv_general_dilated,
  )


def _weights(model, side=SIDE):
  kind = model.kind
  return timm_layout.vit_weights(
    depth=model.depth,
    width=WIDTH,
    patch=kind.patch,
    patches=(side // kind.patch) ** 2,
    registers=kind.registers,
    rotary=kind.rotary,
    scaled=kind.scaled,
  )


def _prepared(images):
  mean, std = (np.array(part) for part in transformer.IMAGENET)
  return (images / 255.0 - mean) / std


@pytest.mark.parametrize('case', CASES)
def test_features_are_those_of_the_layout(case):
  model = _model(**CASES[case])
  weights = _weights(model)
  # Grey images: their three colours are equal.
  images = draw_images(SIDE, 1)
  prefix = 1 + model.kind.registers
  tokens = timm_layout.vit_tokens(
    weights,
    _prepared(np.repeat(images, 3, -1)),
    **TINY | {'registers': prefix - 1, 'epsilon': model.kind.epsilon},
  )
  want = np.concatenate([tokens[:, 0], tokens[:, prefix:].mean(1)], axis=1)
  x = augment.to_float(jnp.asarray(images), model.normalise)
  got = jax.jit(functools.partial(model.apply, train=False))(
    converted(model, weights, SIDE), x
  )
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_attention_matches_loops_with_and_without_turns():
  rng = np.random.default_rng(0)
  qkv = rng.normal(size=(2, 7, 3 * WIDTH))
  want = timm_layout.attention(qkv, heads=2)
  attend = jax.jit(functools.partial(transformer.attend, heads=2))
  got = attend(jnp.asarray(qkv, 'float32'))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  turns = transformer.rotary_turns(2, 3, channels=WIDTH // 2, prefix=1)
  angles = timm_layout.patch_angles(2, 3, WIDTH // 2)
  want = timm_layout.attention(qkv, heads=2, angles=angles, prefix=1)
  attend = jax.jit(functools.partial(transformer.attend, heads=2, turns=turns))
  got = attend(jnp.asarray(qkv, 'float32'))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_large_logits_leave_attention_and_its_gradient_finite():
  qkv = 1e3 * jax.random.normal(jax.random.key(0), (1, 5, 3 * WIDTH))
  value, grad = jax.jit(
    jax.value_and_grad(lambda x: jnp.sum(transformer.attend(x, heads=2) ** 2))
  )(qkv)
  chex.assert_tree_all_finite((value, grad))


def test_turned_products_depend_on_the_distance_alone():
  rng = np.random.default_rng(0)
  query, key = rng.normal(size=(2, 8))
  cos, sin = transformer.rotary_turns(4, 4, channels=8, prefix=0)
  turn = lambda x: np.asarray(
    transformer.rotate(
      jnp.broadcast_to(jnp.asarray(x, 'float32'), (1, 16, 1, 8)), (cos, sin)
    )
  )[0, :, 0]
  products = turn(query) @ turn(key).T
  at = lambda row, column: 4 * row + column
  for row in range(3):
    for column in range(2):
      np.testing.assert_allclose(
        products[at(row, column), at(row + 1, column + 2)],
        products[at(0, 0), at(1, 2)],
        rtol=1e-4,
      )
  assert abs(products[at(0, 0), at(2, 1)] - products[at(0, 0), at(1, 2)]) > 0.1


@pytest.mark.parametrize(('old', 'new'), [(9, 4), (4, 9), (5, 5), (6, 1)])
def test_antialiased_weights_are_those_of_jax(old, new):
  # Its cubic kernel is the same, a = -1/2; an image of one pixel at a time.
  want = jax.image.resize(jnp.eye(old), (new, old), 'cubic', antialias=True)
  got = transformer_weights.cubic_weights(old, new, antialias=True)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_plain_cubic_weights_by_hand():
  near, far = 19 / 32, -3 / 32  # of a = -3/4, half a pixel and one and a half
  got = transformer_weights.cubic_weights(4, 2, antialias=False)
  want = [[far + near, near, far, 0], [0, far, near, near + far]]
  np.testing.assert_allclose(got, want)
  same = transformer_weights.cubic_weights(3, 3, antialias=False)
  np.testing.assert_allclose(same, np.eye(3))


def test_positions_of_another_size_are_resized_along_both_sides():
  model = _model()
  weights = _weights(model, side=16)  # 4 x 4 patches, 3 x 3 here
  found = converted(model, weights, SIDE)['params']['tokens']
  sides = transformer_weights.cubic_weights(4, 3, antialias=True)
  grid = weights['pos_embed'][0, 1:].reshape(4, 4, WIDTH)
  for row in range(3):
    for column in range(3):
      want = sum(
        sides[row, i] * sides[column, j] * grid[i, j]
        for i in range(4)
        for j in range(4)
      )
      np.testing.assert_allclose(
        found['positions'][0, 3 * row + column], want, rtol=1e-4, atol=1e-6
      )
  # That of the class token is added to it.
  want = weights['cls_token'] + weights['pos_embed'][:, :1]
  np.testing.assert_allclose(found['class'], want)


def _as_transformers(state):
  """Names the weights as transformers does in files."""
  names = {
    'patch_embed.proj.': 'embeddings.patch_embeddings.projection.',
    'pos_embed': 'embeddings.position_embeddings',
    'cls_token': 'embeddings.cls_token',
    'reg_token': 'embeddings.register_tokens',
    'blocks.': 'encoder.layer.',
    'attn.proj.': 'attention.output.dense.',
    'ls1.gamma': 'layer_scale1.lambda1',
    'ls2.gamma': 'layer_scale2.lambda1',
    'norm.': 'layernorm.',
  }
  found = {'embeddings.mask_token': np.zeros((1, WIDTH), np.float32)}
  for name, array in state.items():
    if name.startswith('head'):
      continue
    for ours, theirs in names.items():
      name = name.replace(ours, theirs)
    if '.attn.qkv.' in name:
      for part, third in zip(
        ('query', 'key', 'value'), np.split(array, 3), strict=True
      ):
        part = name.replace('attn.qkv', f'attention.attention.{part}')
        found[part] = third
    else:
      found[name] = array
  return found


def _as_authors(state):
  """Names DINOv3's weights as its authors do, with masked biases of keys."""
  found = {'mask_token': np.zeros((1, WIDTH), np.float32)}
  found['rope_embed.periods'] = np.ones(2, np.float32)
  for name, array in state.items():
    found[name.replace('reg_token', 'storage_tokens')] = array
    if name.endswith('qkv.bias'):
      mask = np.repeat(np.array([1, 0, 1], np.float32), WIDTH)
      found[f'{name}_mask'] = mask
      found[name] = np.where(mask == 0, 7, array).astype(np.float32)
      state = state | {name: array * mask}
  return found, state


def _as_timm_saves_dinov3(state):
  """Names DINOv3's weights as timm does, without biases of attention."""
  found = {
    name.replace('ls1.gamma', 'gamma_1').replace('ls2.gamma', 'gamma_2'): array
    for name, array in state.items()
    if not name.endswith('qkv.bias')
  }
  zero = np.zeros(3 * WIDTH, np.float32)
  return found, {
    name: zero if name.endswith('qkv.bias') else array
    for name, array in state.items()
  }


@pytest.mark.parametrize('layout', ['transformers', 'authors', 'timm'])
def test_other_layouts_are_read_alike(layout, tmp_path):
  model = _model(**CASES['registers' if layout == 'transformers' else 'rotary'])
  state = _weights(model)
  if layout == 'transformers':
    saved = _as_transformers(state)
  else:
    rename = _as_authors if layout == 'authors' else _as_timm_saves_dinov3
    saved, state = rename(state)
  path = tmp_path / 'a.safetensors'
  saved = {f'backbone.{name}': array for name, array in saved.items()}
  safetensors.numpy.save_file(
    {name: np.ascontiguousarray(array) for name, array in saved.items()}, path
  )
  found = converted(model, pretrained.read(path, model.published), SIDE)
  chex.assert_trees_all_close(found, converted(model, state, SIDE))
  key = 'backbone.encoder.layer.1.attention.attention.key.weight'
  if layout == 'transformers':
    saved.pop(key)
    weights = {k.removeprefix('backbone.'): v for k, v in saved.items()}
    weights = pretrained.rename(weights, model.published)
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.qkv\.bias' is mi"):
      converted(model, weights, SIDE)


@pytest.mark.parametrize('freeze', [0, 1, 2])
def test_frozen_blocks_have_no_gradient(freeze):
  model = _model(freeze, **CASES['registers'])
  variables = converted(model, _weights(model), SIDE)
  x = augment.to_float(jnp.asarray(draw_images(SIDE)), model.normalise)
  tiny_encoder.check_frozen(model, variables, x)


def test_a_side_that_is_no_multiple_of_the_patch_is_named():
  with pytest.raises(InputError, match=r'size=14 must be a multiple of 4,'):
    converted(_model(), {}, 14)


def test_channels_turn_at_falling_speeds():
  # Half a side from the middle: half a turn, then a tenth of that.
  cos, _ = transformer.rotary_turns(1, 2, channels=8, prefix=0)
  np.testing.assert_allclose(cos[1, 2:4], [-1, math.cos(0.1 * math.pi)])
