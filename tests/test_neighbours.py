"""Tiles show of each row all that may be among its nearest."""

import concurrent.futures

import numpy as np
import pytest

from plankton_jax.neighbours import spaces, tiles
from tests.neighbour_cases import close_case, spread_case


@pytest.mark.parametrize('case', [spread_case, close_case])
@pytest.mark.parametrize('missed', [-1.0, -0.5, 0.0, 40.0])
def test_shows_whatever_may_be_nearest(case, missed, monkeypatch):
  """However low a bound is estimated: `missed` tolerances above the depth."""
  rng = np.random.default_rng(0)
  monkeypatch.setattr(tiles, 'BLOCK', 16)
  depths = rng.integers(0, 20, 90)
  space = spaces.make(case(rng).astype(np.float32), depths)
  rows = np.arange(90)
  z = space.gallery[:, :-2].astype(np.float64)
  dists = ((z[:, None] - z) ** 2).sum(axis=2)
  np.fill_diagonal(dists, np.inf)
  kth = np.sort(dists, axis=1)[rows, np.maximum(depths, 1) - 1]
  tolerance = spaces.tolerance(space, rows, kth)
  bound = np.where(depths > 0, kth + missed * tolerance, -np.inf)
  monkeypatch.setattr(tiles, 'estimate_bounds', lambda *_: (bound, 0.2))
  shown = {}

  def use(space, nearest):
    for i, query in enumerate(space.order[nearest.queries]):
      entries = slice(*nearest.starts[i : i + 2])
      assert (nearest.which[entries] == i).all()
      assert (np.diff(nearest.dists[entries]) >= 0.0).all()
      assert query not in shown
      shown[query] = space.order[nearest.columns[entries]]
      np.testing.assert_allclose(
        nearest.dists[entries],
        dists[query, shown[query]],
        atol=tolerance[query] / 8,
      )

  assert sum(tiles.visit(space, depths, use)) == np.count_nonzero(depths)
  assert sorted(shown) == np.flatnonzero(depths).tolist()
  for query, columns in shown.items():
    assert len(set(columns)) == len(columns)
    limit = kth[query] + 0.75 * tolerance[query]
    assert set(columns) >= set(np.flatnonzero(dists[query] <= limit))


@pytest.mark.parametrize('share', [0.0, 0.3])
def test_estimates_are_seldom_too_low_and_never_far_too_high(share):
  rng = np.random.default_rng(0)
  depths = rng.integers(0, 300, 3000)
  rows = rng.normal(size=(3000, 8))
  rows[rng.random(3000) < share] = rows[0]  # Copies, which tie.
  space = spaces.make(rows, depths)
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    bound, near = tiles.estimate_bounds(space, depths, pool)
  used = depths > 0
  assert (bound[~used] == -np.inf).all()
  products = space.query[used] @ space.gallery.T
  within = (products <= bound[used, None]).sum(axis=1)
  assert near == pytest.approx(within.mean() / 3000, rel=0.05)
  enough = within > depths[used]  # With the row itself.
  assert enough.mean() > 0.95
  if not share:
    excess = within - depths[used]
    assert (excess < 20 + 12 * np.sqrt(depths[used])).mean() > 0.95
