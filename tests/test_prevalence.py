"""Shares of classes from answers of which the truth is known."""

import numpy as np
import pytest

from analysis.measures import (
  counting,
  posterior,
  prevalence,
  tallies,
  trials,
)
from analysis.measures.prevalence import Answers, Errors
from tests.analysis_runs import blobs

TRUE = np.array([0.7, 0.2, 0.1])  # of the sample
PRIOR = np.array([0.2, 0.3, 0.5])  # of the images of known class
# P(answer | class): a column a class.
SIGNALS = np.array(
  [[0.7, 0.1, 0.2], [0.2, 0.6, 0.1], [0.1, 0.3, 0.7]]
)  # fmt: skip
EXACT = [name for name in prevalence.METHODS if name.startswith(('adj', 'exp'))]


def made(share, size=40_000, seed=0):
  """Images of three classes that show one of three signals, and the truth."""
  rng = np.random.default_rng(seed)
  true = rng.choice(3, size, p=share)
  signal = (rng.random(size)[:, None] > SIGNALS.cumsum(axis=0).T[true]).sum(1)
  joint = SIGNALS * PRIOR
  chance = joint / joint.sum(axis=1, keepdims=True)
  return Answers(signal, chance[signal]), true


@pytest.fixture(scope='module')
def known():
  answers, true = made(PRIOR, seed=1)
  return prevalence.errors(answers, true, np.ones(len(true)))


@pytest.mark.parametrize('name', EXACT)
def test_a_correction_recovers_the_shares_of_an_endless_sample(name):
  joint = SIGNALS * PRIOR
  chance = joint / joint.sum(axis=1, keepdims=True)
  known = Errors(PRIOR, SIGNALS, chance.T @ SIGNALS)
  # One image for each signal, that counts as often as the signal is shown.
  sample, often = Answers(np.arange(3), chance), SIGNALS @ TRUE
  found = prevalence.METHODS[name](known, sample, often)
  np.testing.assert_allclose(found, TRUE, atol=1e-4)


def test_plain_methods_are_off_by_what_the_confusion_says(known):
  sample, true = made(TRUE)
  ones = np.ones(len(true))
  counted = prevalence.count(known, sample, ones)
  np.testing.assert_allclose(counted, SIGNALS @ TRUE, atol=0.01)
  joint = SIGNALS * PRIOR
  chance = joint / joint.sum(axis=1, keepdims=True)
  averaged = prevalence.average(known, sample, ones)
  np.testing.assert_allclose(averaged, chance.T @ SIGNALS @ TRUE, atol=0.01)


@pytest.mark.parametrize('name', prevalence.METHODS)
def test_weights_are_repeated_images(known, name):
  sample, _ = made(TRUE, 60)
  times = np.random.default_rng(2).integers(0, 3, 60)
  rows = np.repeat(np.arange(60), times)
  again = Answers(sample.label[rows], sample.chance[rows])
  method = prevalence.METHODS[name]
  np.testing.assert_allclose(
    method(known, sample, times.astype(float)),
    method(known, again, np.ones(len(rows))),
    atol=1e-6,
  )


def test_errors_match_loops():
  sample, true = made(PRIOR, 50, seed=3)
  weights = np.random.default_rng(4).random(50)
  found = prevalence.errors(sample, true, weights)
  counted, expected = np.zeros((3, 3)), np.zeros((3, 3))
  total = np.zeros(3)
  for i in range(50):
    counted[sample.label[i], true[i]] += weights[i]
    expected[:, true[i]] += weights[i] * sample.chance[i]
    total[true[i]] += weights[i]
  np.testing.assert_allclose(found.counted, counted / total)
  np.testing.assert_allclose(found.expected, expected / total)
  np.testing.assert_allclose(found.prior, total / total.sum())


@pytest.mark.parametrize('name', prevalence.METHODS)
def test_a_class_without_a_known_image_counts_as_one_right_answer(name):
  answers, true = made(PRIOR, 200)
  without = true != 1
  weights = without.astype(float)
  found = prevalence.errors(answers, true, weights)
  one = Answers(
    np.append(answers.label[without], 1),
    np.vstack([answers.chance[without], [0.0, 1.0, 0.0]]),
  )
  wanted = prevalence.errors(
    one, np.append(true[without], 1), np.ones(without.sum() + 1)
  )
  for got, want in zip(found, wanted, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-12)
  shares = prevalence.METHODS[name](found, answers, np.ones(200))
  assert np.isfinite(shares).all() and np.isclose(shares.sum(), 1.0)


def test_maximisation_takes_the_steps_of_the_paper(known):
  sample, _ = made(TRUE, 40)
  share = known.prior
  for _ in range(3000):
    new = np.zeros(3)
    for row in sample.chance:
      joint = share / known.prior * row
      new += joint / joint.sum() / 40
    share = new
  found = prevalence.maximise(known, sample, np.ones(40))
  np.testing.assert_allclose(found, share, atol=1e-3)


def test_unmixed_shares_are_the_best_of_the_simplex():
  rng = np.random.default_rng(5)
  columns = rng.dirichlet(np.ones(3), 3).T
  observed = np.array([0.9, 0.05, 0.05])
  found = prevalence.unmix(observed, columns)
  assert found.min() >= 0.0 and found.sum() == pytest.approx(1.0)
  error = np.sum((columns @ found - observed) ** 2)
  for share in rng.dirichlet(np.ones(3), 2000):
    assert error <= np.sum((columns @ share - observed) ** 2) + 1e-5


def test_bray_curtis_matches_a_loop():
  one, other = np.array([3.0, 0.0, 1.0]), np.array([1.0, 2.0, 1.0])
  assert prevalence.bray_curtis(one, other) == pytest.approx(4 / 8)
  assert prevalence.bray_curtis(one, one) == 0.0


def test_adapted_probabilities_are_those_of_the_other_shares():
  sample, _ = made(TRUE, 30)
  found = prevalence.adapt(sample.chance, PRIOR, TRUE)
  joint = SIGNALS * TRUE
  chance = joint / joint.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(found, chance[sample.label])
  none = prevalence.adapt(np.eye(3)[:1], PRIOR, np.array([0.0, 0.5, 0.5]))
  np.testing.assert_allclose(none, [[0.0, 0.5, 0.5]])


def test_far_is_the_kernel_density_of_loops():
  rows = blobs([3, 4], names=('a', 'b'))
  new = blobs([2, 2], names=('a', 'b'), seed=7).embedding
  found = posterior.far(rows, new, 0.3)
  apart = posterior.far(rows, rows.embedding, 0.3, np.arange(7))
  for c in range(2):
    for i in range(4):
      gaps = rows.embedding[rows.label == c].astype(float) - new[i]
      density = np.mean(np.exp(-np.sum(gaps**2, axis=1) / 0.3))
      assert found[i, c] == pytest.approx(-0.3 * np.log(density), rel=1e-6)
    for i in range(7):
      keep = (rows.label == c) & (np.arange(7) != i)
      gaps = rows.embedding[keep].astype(float) - rows.embedding[i]
      density = np.mean(np.exp(-np.sum(gaps**2, axis=1) / 0.3))
      assert apart[i, c] == pytest.approx(-0.3 * np.log(density), rel=1e-6)


def test_far_of_what_is_infinitely_far_stays_finite():
  rows = blobs([3, 4], names=('a', 'b'))
  found = posterior.far(rows, 1e3 * rows.embedding[:1], 1e-3)
  assert np.isfinite(found).all()


def test_a_posterior_is_calibrated_for_the_fitted_shares():
  # Two classes of density exp(-2 far), and none that lies anywhere.
  rng = np.random.default_rng(6)
  true = np.repeat([0, 1, 2], [600, 200, 200])
  far = rng.uniform(0.0, 3.0, (1000, 2))
  own = rng.exponential(0.5, 1000)
  far[true == 0, 0] = own[true == 0]
  far[true == 1, 1] = own[true == 1]
  found = posterior.fit(far, true, np.ones(1000))
  chance = posterior.chances(found, far)
  np.testing.assert_allclose(chance.sum(axis=1), 1.0)
  np.testing.assert_allclose(chance.mean(axis=0), [0.6, 0.2, 0.2], atol=0.01)
  sure = chance.max(axis=1)
  assert (chance.argmax(axis=1) == true).mean() == pytest.approx(
    sure.mean(), abs=0.03
  )
  again = posterior.fit(far, true, np.ones(1000), found)
  np.testing.assert_allclose(again.bias, found.bias, atol=0.02)


def test_volumes_of_a_scanned_sample_add_its_parts_up():
  columns = {
    'acq_sub_part': np.array([1.0, 8.0, 0.25, 8.0, 8.0]),
    'sample_tot_vol': np.array([20.0, 20.0, 20.0, 999_999.0, 0.0]),
  }
  found = tallies.per_m3(columns, ['s'] * 5, list('abbcc'))
  np.testing.assert_allclose(found, [0.05, 0.4, 0.2, np.nan, np.nan])


def test_images_are_parted_by_sample_and_by_what_they_stand_for():
  names = np.array(['t', 's', 's', 's', 't', 's'])
  factors = np.array([2.0, np.nan, 3.0, np.nan, 2.0, 1.0])
  units = tallies.split_units(names, factors)
  assert [(unit.sample, unit.rows.tolist()) for unit in units] == [
    ('s', [5]), ('s', [2]), ('s', [1, 3]), ('t', [0, 4]),
  ]  # fmt: skip
  np.testing.assert_array_equal(
    [unit.per_m3 for unit in units], [1.0, 3.0, np.nan, 2.0]
  )


def test_volumes_of_a_flown_sample_are_imaged_by_all_acquisitions():
  columns = {
    'acq_imaged_volume': np.array([2.0, 2.0, 3.0, 4.0]),  # ml
    'sample_concentrated_sample_volume': np.array([50.0] * 4),  # ml
    'sample_total_volume': np.array([10.0] * 4),  # l
  }
  found = tallies.per_m3(columns, ['s', 's', 's', 't'], ['a', 'a', 'b', 'a'])
  whole = [2.0 + 3.0] * 3 + [4.0]
  np.testing.assert_allclose(found, [50.0 / (ml * 0.01) for ml in whole])
  assert np.isnan(tallies.per_m3({}, ['s'], ['a'])).all()
  # What a scanner's columns say goes first.
  columns |= {
    'acq_sub_part': np.array([2.0, 2.0, np.nan, np.nan]),
    'sample_tot_vol': np.full(4, 10.0),
  }
  found[:2] = 0.2
  both = tallies.per_m3(columns, ['s', 's', 's', 't'], ['a', 'a', 'b', 'a'])
  np.testing.assert_allclose(both, found)


def test_a_spectrum_keeps_the_objects_of_each_class():
  rng = np.random.default_rng(8)
  area = rng.uniform(10.0, 1000.0, 50)
  size = tallies.diameters({'object_area': area, 'pixel_um': np.full(50, 10.6)})
  np.testing.assert_allclose(np.pi * (size / 10.6 / 2) ** 2, area)
  edges = tallies.edges(size)
  assert edges[0] <= size.min() and size.max() < edges[-1]
  chance = rng.dirichlet(np.ones(3), 50)
  objects = np.array([30.0, 15.0, 5.0])
  found = tallies.spectrum(size, edges, chance, objects)
  np.testing.assert_allclose(found.sum(axis=0), objects)
  by_loop = np.zeros_like(found)
  for s, row in zip(size, chance, strict=True):
    bin_ = max(b for b in range(len(edges) - 1) if edges[b] <= s)
    by_loop[bin_] += row * objects / chance.sum(axis=0)
  np.testing.assert_allclose(found, by_loop)
  assert tallies.diameters({'object_area': area}) is None


def test_sizes_at_an_edge_and_sizes_that_are_none():
  edges = tallies.edges(np.array([0.0, np.nan, 1.0]))
  np.testing.assert_allclose(edges, [1.0, tallies.STEP])
  np.testing.assert_array_equal(tallies.edges(np.array([np.nan])), edges)
  # One at an edge, two in no bin; no image is of the second class.
  chance = np.array([[1.0, 0.0], [0.5, 0.0], [0.5, 0.0]])
  found = tallies.spectrum(
    np.array([1.0, np.nan, 0.5]), edges, chance, np.array([4.0, 0.0])
  )
  np.testing.assert_allclose(found, [[2.0, 0.0]])


def test_drawn_samples_have_the_shares_of_a_dirichlet_distribution():
  rng = np.random.default_rng(9)
  true = np.repeat([0, 1, 2], [5, 50, 500])
  shares = np.array(
    [
      np.bincount(true[trials.draw(true, 1.0, 40, rng)], minlength=3) / 40
      for _ in range(400)
    ]
  )
  np.testing.assert_allclose(shares.mean(axis=0), 1 / 3, atol=0.05)
  # Var of a flat Dirichlet's share: (1/3)(2/3)/4, and the multinomial's.
  np.testing.assert_allclose(shares.var(axis=0), 0.0597, atol=0.012)


def test_resampling_keeps_the_images_of_each_stratum():
  rng = np.random.default_rng(10)
  strata = np.array([0, 0, 0, 1, 1, 2])
  drawn = np.array([counting.resample(strata, rng) for _ in range(300)])
  for stratum, size in enumerate((3, 2, 1)):
    assert (drawn[:, strata == stratum].sum(axis=1) == size).all()
  np.testing.assert_allclose(drawn.mean(axis=0), 1.0, atol=0.15)
