"""Adapters of frozen dense layers, against peft's definition in float64."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from plankton_jax import objectives
from plankton_jax.errors import InputError
from plankton_jax.nn import convnext, encoders, lora, transformer
from plankton_jax.nn.embedding import Embedder
from plankton_jax.train import state
from plankton_jax.train.state import join_frozen, split_frozen
from tests.tiny_encoder import TINY

RANK, ALPHA = 3, 7.5
ADAPTER = lora.Adapter(RANK, ALPHA)
SIDE = 32
SHARED = {
  'width': 8,
  'dtype': jnp.dtype('float32'),
  'normalise': None,
  'convolution': jax.lax.conv_general_dilated,
}
KIND = transformer.KINDS['patch16_dinov3']
BACKBONES = {
  'transformer': functools.partial(
    transformer.Transformer, depth=2, heads=2, kind=KIND, freeze=2, **SHARED
  ),
  'convnext': functools.partial(
    convnext.ConvNeXt, depths=(1, 1), version=2, freeze=2, **SHARED
  ),
}
ADAPTED = {  # dense layers of all blocks
  'transformer': {
    (f'block_{i}', layer)
    for i in range(2)
    for layer in ('qkv', 'proj', 'fc_1', 'fc_2')
  },
  'convnext': {
    (f'block_{i}', layer) for i in range(2) for layer in ('fc_1', 'fc_2')
  },
}


def _embedder(name, adapter):
  backbone = BACKBONES[name](adapter=adapter)
  return Embedder(backbone=backbone, embedding_dim=6, poses=1, centred=True)


def _create(name, adapter):
  return functools.partial(
    state.create,
    state.make_key(0, state.INIT),
    encoder=_embedder(name, adapter),
    objective=objectives.softmax(num_classes=5, embedding_dim=6),
    tx=optax.adam(0.1),
    image_shape=(SIDE, SIDE, 1),
  )


def test_a_layer_and_its_merged_kernel_are_pefts():
  rng = np.random.default_rng(0)
  # As PyTorch has them, outputs first: lora_A [r, in] and lora_B [out, r].
  weight, down, up = (
    rng.normal(size=shape) for shape in ((4, 6), (RANK, 6), (4, RANK))
  )
  bias, x = rng.normal(size=4), rng.normal(size=(2, 5, 6))
  merged = weight + ALPHA / RANK * (up @ down)
  params = {
    'kernel': weight.T,
    'bias': bias,
    lora.A: down.T,
    lora.B: up.T,
  }
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  layer = lora.Dense(4, adapter=ADAPTER)
  got = layer.apply({'params': params}, jnp.asarray(x, jnp.float32))
  want = np.einsum('bti,oi->bto', x, merged) + bias
  chex.assert_trees_all_close(got, want, rtol=1e-5, atol=1e-5)
  found = lora.merge({'norm': {'bias': 1}, 'fc': params}, alpha=ALPHA)
  assert found['norm'] == {'bias': 1}
  assert found['fc'].keys() == {'kernel', 'bias'}
  np.testing.assert_allclose(found['fc']['kernel'], merged.T, rtol=1e-6)
  np.testing.assert_array_equal(found['fc']['bias'], params['bias'])
  assert found['fc']['kernel'].dtype == np.float32
  half = lora.Dense(4, adapter=ADAPTER, dtype=jnp.bfloat16)
  assert half.apply({'params': params}, x).dtype == jnp.bfloat16


def test_a_fresh_adapter_is_drawn_and_adds_nothing():
  x = jax.random.normal(jax.random.key(0), (3, 64))
  layer = lora.Dense(5, adapter=lora.Adapter(200, ALPHA))
  variables = layer.init(jax.random.key(1), x)
  down, up = (variables['params'][name] for name in (lora.A, lora.B))
  # The variance of peft's and the authors' draw, uniform within 1 / √64.
  np.testing.assert_allclose(np.var(down), 1 / (3 * 64), rtol=0.05)
  assert 0.12 < np.abs(down).max() <= 1 / 8
  assert not up.any() and up.shape == (200, 5)
  plain = nn.Dense(5).apply(variables, x)
  np.testing.assert_array_equal(layer.apply(variables, x), plain)


@pytest.mark.parametrize('name', BACKBONES)
def test_an_adapted_network_is_that_of_its_merged_kernels(name):
  fresh = jax.jit(_create(name, ADAPTER))()
  plain = jax.jit(_create(name, None))()
  images = jax.random.normal(jax.random.key(2), (2, SIDE, SIDE, 1))

  steps = {
    adapter: jax.jit(
      functools.partial(_embedder(name, adapter).apply, train=False)
    )
    for adapter in (ADAPTER, None)
  }

  def embed(params, adapter):
    variables = {'params': params, 'batch_stats': fresh.batch_stats}
    return steps[adapter](variables, images)

  # It begins as the frozen network does, everything else drawn alike.
  params = fresh.params['encoder']
  merged = lora.merge(params, alpha=ALPHA)
  chex.assert_trees_all_equal(merged, plain.params['encoder'])
  frozen = embed(merged, None)
  np.testing.assert_array_equal(embed(params, ADAPTER), frozen)
  # A later one, with every B changed.
  rng = np.random.default_rng(0)
  later = jax.tree.map(lambda x: x + rng.normal(0, 0.5, x.shape), params)
  found = embed(later, ADAPTER)
  chex.assert_trees_all_close(
    found, embed(lora.merge(later, alpha=ALPHA), None), atol=1e-5
  )
  assert np.abs(found - frozen).max() > 0.01


@pytest.mark.parametrize('name', BACKBONES)
def test_only_adapters_head_and_prototypes_are_trained_and_have_moments(name):
  fresh = jax.eval_shape(_create(name, ADAPTER))
  backbone = BACKBONES[name](adapter=ADAPTER)
  trained, frozen = split_frozen(fresh.params, backbone)
  assert trained.keys() == {'encoder', 'objective'}
  arrays = flatten_dict(trained['encoder'])
  assert arrays.keys() == {
    *((*layer, part) for layer in ADAPTED[name] for part in (lora.A, lora.B)),
    ('Dense_0', 'kernel'),
  }
  assert join_frozen(trained['encoder'], frozen) == fresh.params['encoder']
  # Two moments of float32, and one count.
  kernels = {path: frozen[path[0]][path[1]]['kernel'] for path in ADAPTED[name]}
  count = sum(RANK * sum(kernel.shape) for kernel in kernels.values())
  count += 16 * 6 + 5 * 6  # the head, the prototypes
  moments = jax.tree.leaves(fresh.opt_state)
  assert sum(x.size * x.dtype.itemsize for x in moments) == 8 * count + 4


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({}, r'lora_rank=2 adapts dense layers, of which resnet10 has none'),
    (
      {'name': 'convnext_atto', 'freeze': 3},
      r'lora_rank=2 adapts a frozen network: set encoder\.freeze=4, all of',
    ),
    (
      {'name': 'vit_small_patch16_224'},
      r'lora_rank=2 .*: set encoder\.freeze=12, all of its stages, not 0',
    ),
    (
      {'lora_rank': 0, 'normalise': 'published'},
      r"normalise='published' is for .*; set it to 'auto' for resnet10",
    ),
    ({'lora_rank': 0, 'normalise': 'x'}, r"normalise='x' is unknown; choose"),
  ],
)
def test_fields_that_do_not_go_together_are_named(fields, message):
  with pytest.raises(InputError, match=message):
    encoders.make(**(TINY | {'lora_rank': 2} | fields))


def test_off_is_a_plain_dense_layer():
  x = jnp.ones((2, 3))
  traced = [
    str(jax.make_jaxpr(layer.init)(jax.random.key(0), x))
    for layer in (lora.Dense(4), nn.Dense(4))
  ]
  assert traced[0] == traced[1]
