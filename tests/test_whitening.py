"""Embeddings whitened by how the training images of a class differ."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import covariance

from configs import arcface
from plankton_jax import checkpoints, objectives, retrieval
from plankton_jax.augment import to_float
from plankton_jax.errors import InputError
from plankton_jax.nn import encoders, whitening
from plankton_jax.nn.whitening import WHITENING
from plankton_jax.train import experiment, loop, store


def _rows(counts, dims=6, seed=0):
  """Unit rows of classes that spread alike, more in some directions."""
  rng = np.random.default_rng(seed)
  label = np.repeat(np.arange(len(counts)), counts)
  mixing = rng.normal(size=(dims, dims)) * np.geomspace(1, 0.3, dims)
  x = rng.normal(size=(len(counts), dims))[label]
  x = x + 0.3 * rng.normal(size=(len(label), dims)) @ mixing.T
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  return x.astype(np.float32), label


def _residuals(embedding, label):
  """Deviations from class means, one row at a time; their variance is right."""
  rows = []
  for row, own in zip(embedding.astype(np.float64), label, strict=True):
    members = embedding[label == own].astype(np.float64)
    if len(members) > 1:
      share = len(members) / (len(members) - 1)
      rows.append((row - members.mean(axis=0)) * np.sqrt(share))
  return np.array(rows)


@pytest.mark.parametrize('counts', [(40, 3, 1, 80), (2, 2, 1), (5, 1)])
def test_variation_is_the_shrunk_covariance_within_classes(counts):
  embedding, label = _rows(counts)
  values, vectors = whitening.within_classes(embedding, label)
  want, _ = covariance.ledoit_wolf(
    _residuals(embedding, label), assume_centered=True
  )
  np.testing.assert_allclose((vectors * values) @ vectors.T, want, atol=1e-12)
  assert (np.diff(values) >= 0).all() and values[0] > 0


def test_what_varies_alike_already_is_shrunk_to_it_and_no_further():
  rows = np.eye(6) + 0.05 * np.random.default_rng(0).normal(size=(6, 6))
  want, share = covariance.ledoit_wolf(rows, assume_centered=True)
  assert share == 1.0  # of the identity; the noise alone would give more
  np.testing.assert_allclose(whitening._shrunk(rows), want, atol=1e-12)


def test_every_direction_varies_alike_by_power_one_and_less_so_below():
  embedding, label = _rows((4000, 4000))
  within = np.trace(np.cov(_residuals(embedding, label), rowvar=False)) / 6
  ratios = []
  for power in (0.0, 0.5, 1.0):
    matrix = whitening.fit(embedding, label, power=power)
    assert matrix.dtype == np.float32
    spread = np.cov(_residuals(embedding, label) @ matrix, rowvar=False)
    variances = np.linalg.eigvalsh(spread)
    ratios.append(variances[-1] / variances[0])
  assert variances.mean() == pytest.approx(within, rel=0.02)
  assert ratios[2] == pytest.approx(1.0, abs=0.02)
  assert ratios[1] == pytest.approx(np.sqrt(ratios[0]), rel=0.02)
  np.testing.assert_allclose(
    whitening.fit(embedding, label, power=0), np.eye(6), atol=1e-6
  )


@pytest.mark.parametrize(
  ('embedding', 'label'),
  [
    (np.ones((1, 4), np.float32), np.zeros(1, int)),  # a single image
    (np.eye(4, dtype=np.float32), np.arange(4)),  # one of each class
    (np.ones((6, 4), np.float32), np.zeros(6, int)),  # all alike
  ],
)
def test_classes_without_two_images_that_differ_leave_all(embedding, label):
  matrix = whitening.fit(embedding, label, power=1.0)
  np.testing.assert_array_equal(matrix, np.eye(4))


@pytest.mark.parametrize('rows', [2, 3])
def test_rows_of_a_line_give_a_finite_matrix_and_gradient(rows):
  rng = np.random.default_rng(0)
  line = rng.normal(size=(rows, 1)) @ rng.normal(size=(1, 64))
  matrix = whitening.fit(line.astype(np.float32), np.zeros(rows, int), power=1)
  assert np.isfinite(matrix).all()
  apply = lambda x: whitening.Whitening().apply(
    {'batch_stats': {'matrix': jnp.asarray(matrix)}}, x
  )
  x = jnp.asarray(line, jnp.float32)
  chex.assert_tree_all_finite(jax.grad(lambda x: apply(x).sum())(x))
  np.testing.assert_allclose(
    np.linalg.norm(apply(x), axis=1), np.ones(rows), rtol=1e-5
  )


def test_what_was_whitened_is_recovered():
  embedding, label = _rows((30, 20, 9))
  matrix = whitening.fit(embedding, label, power=1.0)
  module = whitening.Whitening()
  whitened = module.apply({'batch_stats': {'matrix': matrix}}, embedding)
  assert np.abs(whitened - embedding).max() > 0.1
  np.testing.assert_allclose(
    whitening.apply(matrix, embedding), whitened, atol=1e-6
  )
  np.testing.assert_allclose(
    whitening.invert(matrix, np.asarray(whitened)), embedding, atol=2e-6
  )


def _run(make_config, workdir, **fields):
  config = make_config(arcface.get_config, encoder__poses=1, **fields)
  config['data'] |= {'per_class': 20, 'classes': (), 'unseen_classes': 3}
  loop.train_and_evaluate(config, workdir)
  return config


def test_a_run_ends_with_the_whitening_of_its_best_checkpoint(
  make_config, tmp_path, monkeypatch
):
  config = _run(make_config, tmp_path, epochs=1, encoder__whitening=1.0)
  encoder = checkpoints.load_encoder(tmp_path)
  matrix = np.asarray(encoder.variables['batch_stats'][WHITENING]['matrix'])
  data = experiment.load_data(config, tmp_path)
  # The network as it was trained: its checkpoint holds the identity.
  with store.open_manager(tmp_path) as manager:
    model, _ = store.restore_model(manager, encoder.step)
  trained = model['batch_stats'][WHITENING]['matrix']
  np.testing.assert_array_equal(trained, np.eye(8))
  plain = encoders.make(**(encoder.config['encoder'] | {'whitening': 0.0}))
  variables = {
    'params': model['params']['encoder'],
    'batch_stats': {
      name: values
      for name, values in model['batch_stats'].items()
      if name != WHITENING
    },
  }

  apply = jax.jit(functools.partial(plain.apply, train=False))

  def embed(rows):
    images = to_float(jnp.asarray(data.images[rows]))
    return np.asarray(apply(variables, images))

  rows = data.splits['train']
  want = whitening.fit(embed(rows), data.labels[rows], power=1.0)
  np.testing.assert_allclose(matrix, want, rtol=0.01, atol=0.02)

  rows = data.splits['test']
  whitened = embed(rows) @ matrix
  whitened /= np.linalg.norm(whitened, axis=1, keepdims=True)
  found = encoder.embed(data.images[rows])
  np.testing.assert_allclose(found, whitened, atol=1e-5)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  logged = json.loads(lines[-1])
  ranked = retrieval.evaluate(whitened, data.labels[rows], ks=(1,))
  assert logged['split'] == 'test'
  assert logged['map_at_r'] == pytest.approx(ranked['map_at_r'], abs=1e-6)
  plainly = retrieval.evaluate(embed(rows), data.labels[rows], ks=(1,))
  assert ranked['map_at_r'] != plainly['map_at_r']

  # Loss, accuracy and scores are of the space that the prototypes are in.
  cosines = np.asarray(
    objectives.cosines(model['params']['objective'], embed(rows))
  )
  accuracy = np.mean(np.argmax(cosines, axis=1) == data.labels[rows])
  assert logged['accuracy'] == pytest.approx(accuracy, abs=1e-6)
  scale = config['objective']['scale']
  np.testing.assert_allclose(
    encoder.scores(found), scale * cosines, atol=2e-4 * scale
  )

  # A run that goes on has none until it ends.
  store.save_whitening(tmp_path, matrix, encoder.step + 1)
  other = checkpoints.load_encoder(tmp_path)
  np.testing.assert_allclose(
    other.embed(data.images[rows]), embed(rows), atol=1e-5
  )
  path = tmp_path / 'whitening.safetensors'
  path.write_bytes(b'torn')
  with pytest.raises(InputError, match=r'whitening\.safetensors is damaged'):
    checkpoints.load_encoder(tmp_path)
  fit = loop.fit_whitening

  def fitted(*args, **options):
    assert not path.exists()  # from the beginning on
    return fit(*args, **options)

  monkeypatch.setattr(loop, 'fit_whitening', fitted)
  loop.train_and_evaluate(config, tmp_path)  # which only measures again
  again = checkpoints.load_encoder(tmp_path)
  np.testing.assert_array_equal(again.embed(data.images[rows]), found)
