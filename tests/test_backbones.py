"""Another architecture is one file, one line of the table and one test.

The patches below stand for that file: everything that a run does with an
encoder is done with them, with and without batch statistics.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from plankton_jax import augment, checkpoints, objectives
from plankton_jax.errors import InputError
from plankton_jax.export import card, programs
from plankton_jax.nn import embedding, encoders, pretrained
from plankton_jax.nn.backbone import Published
from plankton_jax.train import loop, optimizer, state, step
from tests.tiny_encoder import OPTIMIZER, TINY


class Patches(nn.Module):
  """Patches of 4x4 pixels, then two dense stages; tokens [B, T, F]."""

  width: int
  freeze: int
  dtype: jnp.dtype

  normalise = None
  stages = (('patch',), ('norm_1', 'dense_1'), ('norm_2', 'dense_2'))
  published = Published(
    network='patch network',
    layers={
      ('patch',): 'patch_embed.proj',
      **{
        (f'{ours}_{i}',): f'blocks.{i - 1}.{theirs}'
        for i in (1, 2)
        for ours, theirs in (('norm', 'norm'), ('dense', 'fc'))
      },
    },
    first='patch_embed.proj',
    landmark='patch_embed.proj.weight',
    unused=r'head\.(weight|bias)',
  )

  @nn.compact
  def __call__(self, images, *, train):
    del train  # no layer of it counts batches
    x = nn.Conv(self.width, (4, 4), (4, 4), dtype=self.dtype, name='patch')(
      images.astype(self.dtype)
    )
    x = x.reshape(x.shape[0], -1, self.width)
    for stage in range(1, len(self.stages) + 1):
      if stage > 1:
        y = nn.LayerNorm(dtype=self.dtype, name=f'norm_{stage - 1}')(x)
        y = nn.Dense(self.width, dtype=self.dtype, name=f'dense_{stage - 1}')(y)
        x = x + nn.gelu(y)
    return x


def _make_patches(*, name, width, dtype, freeze, **others):
  assert name == 'patches'
  assert others.keys() == {'stem', 'pretrained', 'convolution', 'adapter'}
  return Patches(width=width, freeze=freeze, dtype=dtype)


FIELDS = TINY | {'name': 'patches', 'width': 8}


RESNET = TINY


@pytest.fixture(autouse=True)
def table(monkeypatch):
  monkeypatch.setitem(encoders.BACKBONES, 'patches', _make_patches)


def _state(model, objective, tx, channels=1):
  return jax.jit(
    lambda key: state.create(
      key,
      encoder=model,
      objective=objective,
      tx=tx,
      image_shape=(16, 16, channels),
    )
  )(state.make_key(0, state.INIT))


def _images(count=12, channels=1):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, 16, 16, channels), np.uint8)


@pytest.mark.parametrize('centred', [True, False])
@pytest.mark.parametrize('freeze', [0, 2, 3])
def test_a_step_trains_what_is_not_frozen_by_its_rate(freeze, centred):
  model = encoders.make(**(FIELDS | {'freeze': freeze, 'centred': centred}))
  objective = objectives.triplet(margin=1.0, stages=(('hard', 'hard'),))
  rates = {'learning_rate': 0.01, 'encoder_rate': 0.25}
  tx = optimizer.make(**(OPTIMIZER | rates), model=model)
  fresh = _state(model, objective, tx)
  before = jax.device_get(fresh)
  assert bool(before.batch_stats) is centred
  train_step = step.make_train_step(
    apply_fn=model.apply,
    backbone=model.backbone,
    augment=lambda _, images: augment.to_float(images),
    tx=tx,
    objective=objective,
    views=1,
    chunk=0,
  )
  batch = {
    'image': _images(),
    'label': np.arange(12, dtype=np.int32) % 3,
    'valid': np.ones(12, bool),
  }
  after, metrics = train_step(fresh, batch, jax.random.key(1), stage=0)
  chex.assert_tree_all_finite((after.params, metrics))
  # The largest step that Adam takes first is the rate.
  for module, params in before.params['encoder'].items():
    stage = embedding.stage_of(model.backbone, module)
    moved = max(
      float(np.abs(new - old).max())
      for new, old in zip(
        jax.tree.leaves(after.params['encoder'][module]),
        jax.tree.leaves(params),
        strict=True,
      )
    )
    rate = 0.01 if stage == 4 else 0.0 if stage <= freeze else 0.0025
    np.testing.assert_allclose(moved, rate, rtol=2e-3, err_msg=module)


def test_pooled_over_its_tokens_whatever_their_number():
  model = encoders.make(**(FIELDS | {'centred': False}))
  images = augment.to_float(jnp.asarray(_images()))
  variables = model.init(jax.random.key(0), images, train=False)
  params = variables['params']
  tokens = model.backbone.apply(
    {'params': {name: params[name] for s in Patches.stages for name in s}},
    images,
    train=False,
  )
  chex.assert_shape(tokens, (12, 16, 8))
  projected = (
    np.asarray(tokens, np.float64).mean(1) @ params['Dense_0']['kernel']
  )
  want = projected / np.linalg.norm(projected, axis=1, keepdims=True)
  chex.assert_trees_all_close(
    model.apply(variables, images, train=False), want, rtol=1e-4, atol=1e-5
  )


def test_a_module_of_no_stage_is_an_error_not_a_head():
  model = encoders.make(**FIELDS)
  assert embedding.stage_of(model.backbone, 'BatchNorm_0') == 4
  with pytest.raises(KeyError, match='dense_3: in none of the stages'):
    embedding.stage_of(model.backbone, 'dense_3')


def test_a_run_trains_resumes_embeds_and_is_exported(make_config, tmp_path):
  fields = {
    'encoder__name': 'patches',
    'encoder__centred': False,  # then nothing counts batches
    'encoder__poses': 8,
  }
  workdir = tmp_path / 'run'
  loop.train_and_evaluate(make_config(epochs=1, **fields), workdir)
  config = make_config(epochs=2, **fields)
  loop.train_and_evaluate(config, workdir, accept_changes=True)
  encoder = checkpoints.load_encoder(workdir)
  images = _images(5)
  embedded = encoder.embed(images)
  chex.assert_shape(embedded, (5, 8))
  np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, rtol=1e-5)
  out = tmp_path / 'handed on'
  encoder.save(out, card=card.write(encoder, workdir, license=''))
  again = checkpoints.load_encoder(out)
  np.testing.assert_array_equal(again.embed(images), embedded)
  chex.assert_trees_all_equal(again.variables, encoder.variables)
  assert programs.write_stablehlo(again, tmp_path / 'a.stablehlo') < 1e-5
  traced = jax.make_jaxpr(programs.embed_fn(again))(
    *programs.inputs(again).values()
  )
  chex.assert_shape(traced.out_avals[0], (None, 8))


def _file(channels, seed=0):
  """A state_dict of the patch network with a classifier, prefixed."""
  rng = np.random.default_rng(seed)
  shapes = {
    'patch_embed.proj.weight': (8, channels, 4, 4),
    'patch_embed.proj.bias': (8,),
    'head.weight': (3, 8),
    'head.bias': (3,),
  }
  for i in (0, 1):
    shapes[f'blocks.{i}.norm.weight'] = (8,)
    shapes[f'blocks.{i}.norm.bias'] = (8,)
    shapes[f'blocks.{i}.fc.weight'] = (8, 8)
    shapes[f'blocks.{i}.fc.bias'] = (8,)
  return {
    f'module.{name}': rng.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }


@pytest.mark.parametrize('channels', [1, 3])
def test_it_begins_from_weights_by_its_own_names(channels, tmp_path):
  path = tmp_path / 'patches.safetensors'
  file = _file(3)
  safetensors.numpy.save_file(file, path)
  # Without statistics too: grey images here.
  fields = {'pretrained': str(path), 'centred': channels == 3}
  model = encoders.make(**(FIELDS | fields))
  objective = objectives.triplet(margin=1.0, stages=(('hard', 'hard'),))
  tx = optax.identity()
  fresh = _state(model, objective, tx, channels)
  begun = state.with_pretrained(fresh, encoder=model, path=str(path))
  chex.assert_trees_all_equal_shapes_and_dtypes(begun, fresh)
  params = begun.params['encoder']
  head = fresh.params['encoder']['Dense_0']
  chex.assert_trees_all_equal(params['Dense_0'], head)
  # [F, C, h, w] as it expects (image / 255 - mean) / std.
  kernel = file['module.patch_embed.proj.weight'].astype(np.float64)
  kernel = kernel / np.array([0.229, 0.224, 0.225])[:, None, None]
  if channels == 1:
    kernel = kernel.sum(1, keepdims=True)
  want = np.einsum('fchw->hwcf', kernel)
  np.testing.assert_allclose(params['patch']['kernel'], want, rtol=1e-5)
  # A dense layer of PyTorch computes x W^T + b.
  x = np.random.default_rng(1).normal(size=(2, 8))
  np.testing.assert_allclose(
    x @ params['dense_2']['kernel'] + params['dense_2']['bias'],
    np.einsum('bi,oi->bo', x, file['module.blocks.1.fc.weight'])
    + file['module.blocks.1.fc.bias'],
    rtol=1e-5,
  )
  wrong = {k: v for k, v in file.items() if 'blocks.1.fc.bias' not in k}
  safetensors.numpy.save_file(wrong, path)
  with pytest.raises(InputError, match=r"fc\.bias' is missing; .*patch netw"):
    state.with_pretrained(fresh, encoder=model, path=str(path))


def test_a_network_without_published_weights_says_so(monkeypatch):
  monkeypatch.setattr(Patches, 'published', None)
  encoders.make(**FIELDS)
  with pytest.raises(InputError, match='no weights can be read for patches'):
    encoders.make(**(FIELDS | {'pretrained': 'a.pth'}))
  with pytest.raises(InputError, match='no weights can be read'):
    pretrained.begin({}, backbone=Patches(8, 0, jnp.float32), path='a.pth')


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
    encoders.make(**(RESNET | {field: value}))


def test_pretrained_weights_need_the_shape_they_were_trained_in():
  fits = {'pretrained': 'a.pth', 'name': 'resnet50', 'width': 64}
  fits['stem'] = 'imagenet'
  encoders.make(**(RESNET | fits))
  for wrong in ({'name': 'resnet10'}, {'width': 32}, {'stem': 'quarter'}):
    with pytest.raises(InputError, match=r"stem='imagenet' and .*width=64"):
      encoders.make(**(RESNET | fits | wrong))
