"""Temperature and calibration error against hand-computed cases and loops."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from analysis.figures import reliability
from analysis.files import result
from analysis.measures import calibration


def cross_entropy(logits, label, temperature):
  """Of the likeliest class being right, with Platt's targets; one by one."""
  right = [
    int(np.argmax(row)) == c for row, c in zip(logits, label, strict=True)
  ]
  hits, misses = sum(right), len(right) - sum(right)
  total = 0.0
  for row, hit in zip(logits, right, strict=True):
    best, *others = sorted((float(x) / temperature for x in row), reverse=True)
    rest = sum(np.exp(x - best) for x in others)
    target = (hits + 1) / (hits + 2) if hit else 1 / (misses + 2)
    # p = 1 / (1 + rest)
    total += np.log1p(rest) - (1 - target) * np.log(max(rest, 1e-300))
  return total / len(right)


def test_temperature_of_one_gap_by_hand():
  # 8 of 10 are right, so the targets' mean is (8 · 9/10 + 2 · 1/4) / 10.
  logits = np.tile([0.0, -2.0], (10, 1))
  label = np.repeat([0, 1], [8, 2])
  found = calibration.temperature(logits, label)
  assert found == pytest.approx(2.0 / np.log(0.77 / 0.23), rel=1e-4)
  sure = calibration.softmax(logits, found)[:, 0]
  np.testing.assert_allclose(sure, 0.77, rtol=1e-4)


@pytest.mark.parametrize('seed', range(4))
def test_temperature_has_the_least_cross_entropy(seed):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 4, 60)
  logits = 8.0 * rng.normal(size=(60, 4)) + 10.0 * np.eye(4)[label]
  found = calibration.temperature(logits, label)
  least = cross_entropy(logits, label, found)
  for other in found * np.geomspace(0.02, 50.0, 400):
    assert least <= cross_entropy(logits, label, other) + 1e-9
  # Logits of another unit are brought back.
  again = calibration.temperature(1e-3 * logits, label)
  np.testing.assert_allclose(
    calibration.confidence(logits, found),
    calibration.softmax(logits, found).max(axis=1),
    rtol=1e-12,
  )
  assert again == pytest.approx(1e-3 * found, rel=1e-4)


def test_a_temperature_is_the_same_in_blocks(monkeypatch):
  rng = np.random.default_rng(7)
  label = rng.integers(0, 5, 40)
  logits = rng.normal(size=(40, 5)) + 2.0 * np.eye(5)[label]
  whole = calibration.temperature(logits, label)
  monkeypatch.setattr(calibration, 'CACHED', 15)  # three rows
  assert calibration.temperature(logits, label) == pytest.approx(whole)


def test_a_temperature_is_fitted_on_as_many_images_as_there_is_room_for(
  monkeypatch,
):
  monkeypatch.setattr(calibration, 'MOST', 60)
  np.testing.assert_array_equal(calibration.sample(12, 5), np.arange(12))
  some = calibration.sample(13, 5)
  assert len(set(some.tolist())) == 12 and some.max() < 13
  assert (np.diff(some) > 0).all()
  assert calibration.sample(3, 100).shape == (1,)


def test_all_right_is_not_wholly_sure():
  logits = np.tile([0.0, -3.0], (18, 1))
  label = np.zeros(18, int)
  found = calibration.temperature(logits, label)
  sure = calibration.softmax(logits, found)[:, 0]
  np.testing.assert_allclose(sure, 19 / 20, rtol=1e-4)


def test_all_wrong_is_as_unsure_as_can_be():
  logits = np.tile([0.0, -3.0], (18, 1))
  found = calibration.temperature(logits, np.ones(18, int))
  assert np.isfinite(found)
  assert calibration.softmax(logits, found)[0, 0] < 0.51


def test_nothing_to_fit_leaves_a_temperature_of_one():
  for shape in ((0, 3), (5, 1), (5, 3)):
    found = calibration.temperature(np.zeros(shape), np.zeros(shape[0], int))
    assert found == 1.0


def test_reliability_by_hand():
  confidence = np.array([0.05, 0.95, 0.97, 1.0, 0.6, 0.6])
  right = np.array([False, True, True, False, True, False])
  found = calibration.reliability(confidence, right)
  assert np.flatnonzero(found.images).tolist() == [0, 8, 14]
  assert found.images[[0, 8, 14]].tolist() == [1, 2, 3]
  np.testing.assert_allclose(found.accuracy[[0, 8, 14]], [0.0, 0.5, 2 / 3])
  np.testing.assert_allclose(found.confidence[[0, 8]], [0.05, 0.6])
  assert np.isnan(found.accuracy[1])
  gaps = 1 * 0.05 + 2 * 0.1 + 3 * (2.92 / 3 - 2 / 3)
  assert found.error == pytest.approx(gaps / 6)


def test_reliability_matches_scikit_learn():
  rng = np.random.default_rng(0)
  confidence = rng.random(500)
  right = rng.random(500) < confidence**2
  found = calibration.reliability(confidence, right)
  accuracy, mean = calibration_curve(right, confidence, n_bins=15)
  np.testing.assert_allclose(found.accuracy, accuracy)
  np.testing.assert_allclose(found.confidence, mean)
  shares = found.images / 500
  error = np.sum(shares * np.abs(accuracy - mean))
  assert found.error == pytest.approx(error) and error > 0.1


def test_reliability_without_images():
  found = calibration.reliability(np.zeros(0), np.zeros(0, bool))
  assert np.isnan(found.error) and not found.images.any()


def test_table_has_a_line_a_bin_and_wilsons_interval():
  confidence, right = np.full(10, 0.5), np.arange(10) < 8
  found = {'calibrated': calibration.reliability(confidence, right)}
  (row,) = reliability.rows(found)
  assert (row['images'], row['accuracy'], row['confidence']) == (10, 0.8, 0.5)
  assert row['from'] <= 0.5 <= row['to']
  # Wilson 1927 for 8 of 10 at z = 1.96.
  assert row['low'] == pytest.approx(0.4902, abs=1e-4)
  assert row['high'] == pytest.approx(0.9433, abs=1e-4)
  drawing = result.Drawing(lambda: reliability.draw(found), ['Someone 2015'])
  picture = result.render(drawing)
  assert len(picture.png) > 10_000 and b'Someone 2015' in picture.svg
