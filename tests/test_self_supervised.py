"""`python -m benchmarks.self_supervised`: its terms, and one small run."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import self_supervised as benchmark
from plankton_jax import objectives
from plankton_jax.errors import InputError
from tests import flagged, shades


def _views(count=7, dim=4):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(count, dim)) * [0.3, 1.0, 2.0, 0.01] + 3.0
  return x, x + 0.5 * rng.normal(size=x.shape)


def _covariance(x, y, i, j):
  """Of column i of x with column j of y, a row at a time; over n, not n - 1."""
  rows = range(len(x))
  mean_x, mean_y = (
    sum(z[k][c] for k in rows) / len(x) for z, c in ((x, i), (y, j))
  )
  return sum((x[k][i] - mean_x) * (y[k][j] - mean_y) for k in rows) / len(x)


def test_vicreg_is_that_of_loops():
  x, y = _views()
  n, d = x.shape
  want = sum((x[k][j] - y[k][j]) ** 2 for k in range(n) for j in range(d))
  want /= n * d
  for z in (x, y):
    c = [
      [_covariance(z, z, i, j) * n / (n - 1) for j in range(d)]
      for i in range(d)
    ]
    for i in range(d):
      want += max(0, 1 - (c[i][i] + 1e-4) ** 0.5) / d / 2
      want += sum(c[i][j] ** 2 for j in range(d) if j != i) / d / 25
  found = benchmark.vicreg(jnp.float32(x), jnp.float32(y))
  assert float(found) == pytest.approx(want, rel=1e-5)


def test_barlow_is_that_of_loops():
  x, y = _views()
  d = x.shape[1]
  want = 0.0
  for i in range(d):
    for j in range(d):
      scale = (_covariance(x, x, i, i) + 1e-5) * (
        _covariance(y, y, j, j) + 1e-5
      )
      c = _covariance(x, y, i, j) / scale**0.5
      want += (1 - c) ** 2 if i == j else 0.005 * c**2
  found = benchmark.barlow(jnp.float32(x), jnp.float32(y))
  assert float(found) == pytest.approx(want / d, rel=1e-4)


@pytest.mark.parametrize('term', [benchmark.vicreg, benchmark.barlow])
def test_a_collapsed_batch_costs_and_has_a_finite_gradient(term):
  value, slope = jax.value_and_grad(term)(jnp.ones((5, 3)), jnp.ones((5, 3)))
  assert value > 0.9
  assert np.isfinite(slope).all()


def test_the_term_takes_features_of_all_and_the_loss_those_with_labels():
  labels = objectives.softmax(num_classes=2, embedding_dim=3)
  variant = benchmark.Variant('beside', 'vicreg', 0.5)
  both = benchmark.beside(labels, variant, dim=3, features=4)
  params = both.init(jax.random.key(0))
  rows = jax.random.normal(jax.random.key(1), (8, 7))
  batch = {
    'label': jnp.array([0, 0, 1, 1, 0, 0, 0, 0]),
    'valid': jnp.arange(8) < 4,
  }
  loss = lambda rows: both.loss(params, rows, batch, stage=0)[0]
  own, _ = labels.loss(params['labelled'], rows[:, :3], batch, stage=0)
  x = np.asarray(rows[:, 3:], np.float64)
  for i, kernel in enumerate(params['projector']):
    if i:
      x = np.maximum((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), 0)
    x = x @ np.asarray(kernel, np.float64)
  term = benchmark.vicreg(jnp.float32(x[::2]), jnp.float32(x[1::2]))
  assert float(loss(rows)) == pytest.approx(float(own + 0.5 * term), rel=1e-4)
  slope = np.asarray(jax.grad(loss)(rows))
  assert not slope[4:, :3].any()  # embeddings without a label
  assert (np.abs(slope[:4, :3]).sum(1) > 0).all()
  assert (np.abs(slope[:, 3:]).sum(1) > 0).all()


def test_the_loss_sees_the_labels_of_known_rows_alone():
  make = lambda rows: {'label': 10 * rows, 'valid': np.ones(len(rows), bool)}
  batch = benchmark.join(make, np.array([3, 1]), np.array([2, 0, 1]))
  assert batch['label'].tolist() == [30, 10, 20, 0, 10]
  assert batch['valid'].tolist() == [True, True, False, False, False]


def test_the_command_trains_each_run_once(
  caches, tmp_path, monkeypatch, capsys
):
  images = tmp_path / 'images'
  for c, name in enumerate('abcd'):
    for i in range(12):
      shades.write(images / name / f'{i}.png', 60 * c + 2 * i)
  fields = {
    'encoder.poses': 1, 'encoder.embedding_dim': 8, 'encoder.stem': 'quarter',
    'batch.size': 4, 'data.cache_dir': caches / 'data',
    'compilation_cache_dir': caches / 'compiled',
  }  # fmt: skip
  argv = [
    f'--path={images}', '--unseen=2', '--width=4', '--size=16', '--epochs=1',
    '--variants=vicreg_1', f'--out={tmp_path / "out"}',
    f'--fields={" ".join(f"{name}={value}" for name, value in fields.items())}',
  ]  # fmt: skip
  benchmark.main(flagged.parse(benchmark, *argv))
  with (tmp_path / 'out' / 'self_supervised.csv').open() as file:
    (row,) = csv.DictReader(file)
  assert row['variant'] == 'vicreg_1'
  assert 0 < float(row['unseen MAP@R']) <= 1
  said = capsys.readouterr().out
  monkeypatch.setattr(benchmark, 'train', None)
  benchmark.main(flagged.parse(benchmark, *argv))
  assert capsys.readouterr().out == said
  with pytest.raises(InputError, match="'best' is not one of labels, "):
    benchmark.main(flagged.parse(benchmark, '--path=x', '--variants=best'))


def test_gains_are_of_the_same_draw_and_seed():
  run = lambda seen, unseen: {
    'test R@1': 0.5, 'test MAP@R': seen, 'unseen R@1': 0.5,
    'unseen MAP@R': unseen, 'seconds': 60.0,
  }  # fmt: skip
  base = [run(0.7, 0.2), run(0.6, 0.5)]
  first, second = benchmark.lines(
    {'labels': base, 'norms': [run(0.7, 0.3), run(0.5, 0.6)]}
  )
  assert first['gain in unseen MAP@R'] == '+0.000 ± 0.000'
  assert second['unseen MAP@R'] == '0.450 ± 1.906'
  assert second['gain in unseen MAP@R'] == '+0.100 ± 0.000'
  assert second['gain in test MAP@R'].startswith('-0.050 ± 0.6')
