"""The accelerator's search of neighbours, run on the CPU."""

import jax
import numpy as np
import pytest

from plankton_jax import retrieval
from plankton_jax.neighbours import device, spaces, tiles
from tests.neighbour_cases import close_case, spread_case


def duplicated_case(rng):
  return rng.normal(size=(7, 4))[rng.integers(0, 7, 90)]


def grid_case(rng):
  return rng.integers(-2, 3, (90, 3))


CASES = pytest.mark.parametrize(
  'case', [spread_case, close_case, duplicated_case, grid_case]
)


@pytest.fixture(params=[(4, 90 * 16), (64, 2**28)], ids=['small', 'whole'])
def tile(request, monkeypatch):
  """Groups of so many columns in tiles of so many products."""
  group, products = request.param
  monkeypatch.setattr(device, 'GROUP', group)
  monkeypatch.setattr(device, 'TILE', products)


def _exact(rows):
  rows = rows.astype(np.float64)
  dists = ((rows[:, None] - rows) ** 2).sum(axis=2)
  np.fill_diagonal(dists, np.inf)
  return dists


@CASES
def test_shows_whatever_may_be_nearest(case, tile):
  rng = np.random.default_rng(0)
  depths = rng.integers(0, 20, 90)
  space = spaces.make(case(rng).astype(np.float32), depths)
  dists = _exact(space.gallery[:, :-2])
  kth = np.sort(dists, axis=1)[np.arange(90), np.maximum(depths, 1) - 1]
  tolerance = spaces.tolerance(space, np.arange(90), kth)
  shown = {}

  def use(space, nearest):
    for i, query in enumerate(nearest.queries):
      entries = slice(*nearest.starts[i : i + 2])
      assert (nearest.which[entries] == i).all()
      assert (np.diff(nearest.dists[entries]) >= 0.0).all()
      assert query not in shown
      shown[query] = nearest.columns[entries]
      np.testing.assert_allclose(
        nearest.dists[entries],
        dists[query, shown[query]],
        atol=tolerance[query] / 8,
      )

  assert sum(device.visit(space, depths, use)) == np.count_nonzero(depths)
  assert sorted(shown) == np.flatnonzero(depths).tolist()
  for query, columns in shown.items():
    assert len(set(columns)) == len(columns)
    limit = kth[query] + 0.75 * tolerance[query]
    assert set(columns) >= set(np.flatnonzero(dists[query] <= limit))


@CASES
@pytest.mark.parametrize('count', [1, 10, 89])
def test_nearest_rows_are_exact(case, count, tile):
  rows = case(np.random.default_rng(1)).astype(np.float32)
  expected = np.argsort(_exact(rows), axis=1, kind='stable')[:, :count]
  np.testing.assert_array_equal(device.nearest(rows, count), expected)


@CASES
def test_measures_equal_those_of_the_host(case, tile, monkeypatch):
  rng = np.random.default_rng(2)
  rows, labels = case(rng).astype(np.float32), rng.integers(0, 9, 90)
  expected = retrieval.per_query(rows, labels, ks=(1, 5))
  monkeypatch.setattr(device, 'serves', lambda count: True)
  monkeypatch.setattr(tiles, 'visit', None)  # not the host's again
  found = retrieval.per_query(rows, labels, ks=(1, 5))
  np.testing.assert_array_equal(found.rows, expected.rows)
  for name, values in expected.measures.items():
    np.testing.assert_array_equal(found.measures[name], values, err_msg=name)


def test_serves_accelerators_and_many_rows(monkeypatch):
  assert not device.serves(10**6)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert device.serves(10**6) and not device.serves(1000)
