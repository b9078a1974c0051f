"""Retrieval measures of any embedding."""

import jax.numpy as jnp
import numpy as np
import properties
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from plankton_jax import retrieval
from plankton_jax.errors import InputError

KS = (1, 3, 50)
ROWS = 30


def measures(x, label):
  """(rows that are queries, [queries, measures])."""
  found = retrieval.per_query(x, label, ks=KS)
  return found.rows, np.column_stack(list(found.measures.values()))


@given(properties.batches(rows=ROWS))
def test_measures_equal_loops(batch):
  x, label, _ = batch
  loops = reference.retrieval_loop(x, label, KS)
  rows, found = measures(x, label)
  expected = [list(each.values()) for each in loops if each is not None]
  np.testing.assert_array_equal(
    rows, [row for row, each in enumerate(loops) if each is not None]
  )
  np.testing.assert_allclose(
    found, np.reshape(expected, found.shape), rtol=1e-12
  )


@given(properties.seeds(), properties.permutations(ROWS))
def test_order_names_and_place_are_no_matter(seed, order):
  rng = np.random.default_rng(seed)
  # Of whole numbers and powers of two, so that distances stay the same.
  x = rng.integers(-1000, 1000, (ROWS, 4)).astype(np.float32)
  label = rng.integers(0, 5, ROWS)
  rows, found = measures(x, label)
  moved_rows, moved = measures(
    x[order] / 4 + np.float32(64.0), 10_000 - 7 * label[order]
  )
  np.testing.assert_array_equal(np.sort(order[moved_rows]), rows)
  back = np.argsort(order[moved_rows])
  np.testing.assert_array_equal(moved[back], found)


@given(properties.batches(rows=ROWS))
def test_measures_bound_each_other(batch):
  x, label, _ = batch
  found = retrieval.per_query(x, label, ks=KS).measures
  for values in found.values():
    assert (values >= 0).all() and (values <= 1).all()
  assert (found['recall_at_1'] <= found['recall_at_3']).all()
  assert (found['recall_at_50'] == 1).all()  # all rows are within 50
  assert (found['map_at_r'] <= found['r_precision']).all()


@given(properties.batches(rows=ROWS))
def test_averages_are_of_queries_and_of_classes(batch):
  x, label, _ = batch
  found = retrieval.evaluate(x, label, ks=KS)
  loops = reference.retrieval_loop(x, label, KS)
  assert found['queries'] == sum(each is not None for each in loops)
  if not found['queries']:
    assert all(np.isnan(v) for n, v in found.items() if n != 'queries')
    return
  for macro, prefix in ((False, ''), (True, 'macro_')):
    for name, value in reference.mean_loop(loops, label, macro=macro).items():
      np.testing.assert_allclose(found[prefix + name], value, rtol=1e-12)


@given(properties.batches(rows=ROWS))
def test_half_precision_is_ranked_by_its_values(batch):
  x, label, _ = batch
  for found, want in zip(
    measures(jnp.asarray(x, jnp.bfloat16), label),
    measures(x, label),
    strict=True,
  ):
    np.testing.assert_array_equal(found, want)


@given(
  properties.batches(rows=ROWS),
  st.integers(0, ROWS - 1),
  st.sampled_from([np.nan, np.inf]),
)
def test_a_row_that_is_not_finite_is_named(batch, row, value):
  x, label, _ = batch
  x = x.copy()
  x[row] = value
  with pytest.raises(InputError, match=f'row {row} is not finite'):
    retrieval.evaluate(x, label)


@pytest.mark.parametrize('dim', properties.DIMS)
def test_one_row_is_no_query(dim):
  rows, found = measures(np.ones((1, dim), np.float32), [4])
  assert rows.shape == (0,) and found.shape == (0, len(KS) + 2)


@given(properties.grids(ROWS, 1))
def test_one_class_is_always_found(x):
  rows, found = measures(x, np.full(ROWS, 3))
  np.testing.assert_array_equal(rows, np.arange(ROWS))
  np.testing.assert_array_equal(found, 1.0)


def test_ten_thousand_classes():
  # Two rows of each: a copy 0.1 away, others at least 1.
  x = np.repeat(np.arange(10_000, dtype=np.float32), 2)[:, None]
  x[1::2] += 0.1
  label = np.repeat(np.arange(10_000), 2)
  label[[0, 1]] = 0, 10_000  # but for these, which are alone
  rows, found = measures(x, label)
  np.testing.assert_array_equal(rows, np.arange(2, 20_000))
  np.testing.assert_array_equal(found, 1.0)
