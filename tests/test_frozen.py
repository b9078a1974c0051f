"""A linear head on a frozen transformer, by configs/frozen.py."""

import functools

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy
import timm_layout

from configs import frozen
from plankton_jax import checkpoints
from plankton_jax.errors import InputError
from plankton_jax.export import card, programs
from plankton_jax.nn import (
  encoders,
  lora,
  transfer,
  transformer,
  transformer_weights,
  whitening,
)
from plankton_jax.nn.whitening import WHITENING
from plankton_jax.train import experiment, loop, step
from plankton_jax.train.state import INIT, init_encoder, make_key

NAME = frozen.get_config().encoder.name
WIDTH, DEPTH, HEADS, PATCH = 16, 2, 2, 14


def _make_small(**fields):
  model = transformer.make(**fields)
  return model.clone(depth=DEPTH, width=WIDTH, heads=HEADS)


@pytest.fixture(autouse=True)
def small(monkeypatch):
  """Makes the network of that name a small one, of the same layers."""
  monkeypatch.setitem(encoders.BACKBONES, NAME, _make_small)


def _weights():
  return timm_layout.vit_weights(
    depth=DEPTH,
    width=WIDTH,
    patch=PATCH,
    patches=9,
    registers=0,
    rotary=False,
    scaled=True,
  )


def _config(make_config, path, *, epochs=2, **fields):
  return make_config(
    frozen.get_config,
    epochs=epochs,
    encoder__name=NAME,
    encoder__pretrained=path,
    encoder__freeze=DEPTH,
    data__size=2 * PATCH,
    **fields,
  )


def _expected(state, encoder, images):
  """Embeds by NumPy, with the head that was trained."""
  mean, std = (np.array(part) for part in transformer.IMAGENET)
  sides = transformer_weights.cubic_weights(3, 2, antialias=False)
  grid = state['pos_embed'][0, 1:].reshape(3, 3, WIDTH)
  grid = np.einsum('ai,bj,ijd->abd', sides, sides, grid).reshape(1, 4, WIDTH)
  first = state['pos_embed'][:, :1]
  tokens = timm_layout.vit_tokens(
    state | {'pos_embed': np.concatenate([first, grid], axis=1)},
    (np.repeat(images, 3, -1) / 255.0 - mean) / std,
    depth=DEPTH,
    heads=HEADS,
    patch=PATCH,
    registers=0,
    epsilon=1e-6,
  )
  x = np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=1)
  x = x @ encoder.variables['params']['encoder']['Dense_0']['kernel']
  centre = encoder.variables['batch_stats']['BatchNorm_0']
  x = (x - centre['mean']) / np.sqrt(centre['var'] + 1e-5)
  matrix = encoder.variables['batch_stats'][WHITENING]['matrix']
  return whitening.apply(matrix, x / np.linalg.norm(x, axis=1, keepdims=True))


def test_a_head_is_trained_on_a_body_that_stays(make_config, tmp_path):
  state, path = _weights(), tmp_path / 'a.safetensors'
  safetensors.numpy.save_file(state, path)
  trained = loop.train_and_evaluate(
    _config(make_config, str(path)), tmp_path / 'run'
  )
  params = trained.params['encoder']
  for i in range(DEPTH):
    for ours, theirs in (('qkv', 'attn.qkv'), ('fc_2', 'mlp.fc2')):
      np.testing.assert_array_equal(
        params[f'block_{i}'][ours]['kernel'],
        state[f'blocks.{i}.{theirs}.weight'].T,
      )
  np.testing.assert_array_equal(params['norm']['bias'], state['norm.bias'])
  path.unlink()
  encoder = checkpoints.load_encoder(tmp_path / 'run')
  fresh = checkpoints.load_encoder(tmp_path / 'run', int(trained.step))
  images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
  found = encoder.embed(images)
  want = _expected(state, encoder, images)
  chex.assert_trees_all_close(found, want, atol=1e-4)
  assert programs.write_stablehlo(fresh, tmp_path / 'a.stablehlo') < 1e-5
  out = tmp_path / 'exported'
  encoder.save(out, card='')
  fields = encoder.config['encoder'] | {'pretrained': str(out)}
  backbone = encoders.make(**fields).backbone  # without normalisation
  with pytest.raises(InputError, match=r"set encoder.normalise='published'"):
    transfer.begin({}, backbone=backbone, name=str(out))


def test_adapters_are_trained_resumed_merged_and_begun_from(
  make_config, tmp_path, monkeypatch
):
  state, path = _weights(), tmp_path / 'a.safetensors'
  safetensors.numpy.save_file(state, path)
  fields = {'encoder__lora_rank': 2, 'encoder__lora_alpha': 3.0}
  config = _config(make_config, str(path), epochs=1, **fields)
  trained = loop.train_and_evaluate(config, tmp_path / 'run')
  for i in range(DEPTH):
    for ours, theirs in (('qkv', 'attn.qkv'), ('fc_2', 'mlp.fc2')):
      layer = trained.params['encoder'][f'block_{i}'][ours]
      kernel = state[f'blocks.{i}.{theirs}.weight'].T
      np.testing.assert_array_equal(layer['kernel'], kernel)
      assert np.abs(layer[lora.B]).min() > 0

  # Ended after a step, it goes on without the file.
  train_steps = loop._train_steps

  def end_early(run, state, stream, terminated):
    return train_steps(run, state, stream, lambda step: step == 2)

  with monkeypatch.context() as patch, pytest.raises(SystemExit):
    patch.setattr(loop, '_train_steps', end_early)
    loop.train_and_evaluate(config, tmp_path / 'ended')
  path.unlink()
  again = loop.train_and_evaluate(config, tmp_path / 'ended')
  chex.assert_trees_all_equal(again, trained)

  # It embeds by merged kernels, and is handed on so.
  encoder = checkpoints.load_encoder(tmp_path / 'run', int(trained.step))
  model = encoders.make(**config['encoder'])
  images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
  unmerged = step.make_embed_step(
    apply_fn=model.apply, normalise=model.backbone.normalise
  )(trained.params, encoder.variables['batch_stats'], images)
  chex.assert_trees_all_close(encoder.embed(images), unmerged, atol=1e-5)
  out = tmp_path / 'exported'
  text = card.write(encoder, tmp_path / 'run', license='')
  assert 'a.safetensors`, adapted by LoRA of rank 2.' in text
  encoder.save(out, card=text)
  exported = checkpoints.load_encoder(out)
  np.testing.assert_array_equal(exported.embed(images), encoder.embed(images))

  # Another run begins from the merged kernels, with adapters of its own.
  fields = {**fields, 'encoder__normalise': 'published'}
  config = _config(make_config, str(out), **fields)
  experiment.check(config, tmp_path / 'next', accept_changes=False)
  model = encoders.make(**config['encoder'])
  draw = functools.partial(init_encoder, encoder=model, image_shape=(28, 28, 1))
  fresh = jax.jit(draw)(make_key(1, INIT))
  begun = transfer.begin(fresh, backbone=model.backbone, name=str(out))
  chex.assert_trees_all_equal_shapes_and_dtypes(begun, fresh)
  assert not begun['params']['block_1']['proj'][lora.B].any()
  chex.assert_trees_all_equal(
    lora.merge(begun['params'], alpha=3.0),
    exported.variables['params']['encoder'],
  )


def test_without_a_file_it_says_what_is_missing(make_config, tmp_path):
  with pytest.raises(InputError, match=r'freeze=2 would keep random weights'):
    loop.train_and_evaluate(_config(make_config, ''), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()
