"""A linear head on a frozen transformer, by configs/frozen.py."""

import chex
import numpy as np
import pytest
import safetensors.numpy
import timm_layout

from configs import frozen
from plankton_jax import checkpoints
from plankton_jax.errors import InputError
from plankton_jax.export import programs
from plankton_jax.nn import encoders, transfer, transformer, whitening
from plankton_jax.nn.whitening import WHITENING
from plankton_jax.train import loop

NAME = frozen.get_config().encoder.name
WIDTH, DEPTH, HEADS, PATCH = 16, 2, 2, 14


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  """Makes the network of that name a small one, of the same layers."""

  def make(**fields):
    model = transformer.make(**fields)
    return model.clone(depth=DEPTH, width=WIDTH, heads=HEADS)

  monkeypatch.setitem(encoders.BACKBONES, NAME, make)


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


def _config(make_config, path):
  return make_config(
    frozen.get_config,
    epochs=2,
    encoder__name=NAME,
    encoder__pretrained=path,
    encoder__freeze=DEPTH,
    data__size=2 * PATCH,
  )


def _expected(state, encoder, images):
  """Embeds by NumPy, with the head that was trained."""
  mean, std = (np.array(part) for part in transformer.IMAGENET)
  sides = transformer.cubic_weights(3, 2, antialias=False)
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
  with pytest.raises(InputError, match='began from published weights, for w'):
    transfer.begin({}, backbone=backbone, name=str(out))


def test_without_a_file_it_says_what_is_missing(make_config, tmp_path):
  with pytest.raises(InputError, match=r'freeze=2 would keep random weights'):
    loop.train_and_evaluate(_config(make_config, ''), tmp_path / 'run')
  assert not (tmp_path / 'run' / 'config.json').exists()
