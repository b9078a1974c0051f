import numpy as np
import pytest

from plankton_jax.objectives import CLASS_WEIGHTS, class_weights

COUNTS = np.array([5, 40, 900, 12_000])


@pytest.mark.parametrize('name', [n for n in CLASS_WEIGHTS if n != 'none'])
def test_the_mean_over_the_training_images_is_one(name):
  weights = class_weights(name, COUNTS)
  np.testing.assert_allclose(weights @ COUNTS / COUNTS.sum(), 1.0, rtol=1e-6)
  assert (np.diff(weights) < 0).all()


def test_ratios_between_classes():
  assert class_weights('none', COUNTS) is None
  ratio = lambda name: (
    class_weights(name, COUNTS) / class_weights(name, COUNTS)[0]
  )
  np.testing.assert_allclose(ratio('inverse'), 5 / COUNTS, rtol=1e-6)
  np.testing.assert_allclose(
    ratio('sqrt_inverse'), np.sqrt(5 / COUNTS), rtol=1e-6
  )
  # The effective number as the sum of a geometric series.
  numbers = [sum(0.999**i for i in range(n)) for n in COUNTS]
  np.testing.assert_allclose(
    ratio('effective'), numbers[0] / np.array(numbers), rtol=1e-5
  )


def test_a_class_without_images_is_finite():
  for name in CLASS_WEIGHTS[1:]:
    assert np.isfinite(class_weights(name, np.array([0, 7]))).all()
