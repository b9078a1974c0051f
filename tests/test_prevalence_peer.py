"""The same shares as QuaPy gives, where it is installed."""

import numpy as np
import pytest

from analysis.measures import prevalence
from analysis.measures.prevalence import Answers

aggregative = pytest.importorskip('quapy.method.aggregative')

CLASSES = 4


def answers(seed, size, share):
  """Answers of a classifier that errs, and the true classes [size]."""
  rng = np.random.default_rng(seed)
  true = rng.choice(CLASSES, size, p=share)
  logits = rng.normal(size=(size, CLASSES)) + 1.5 * np.eye(CLASSES)[true]
  chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
  return Answers(chance.argmax(axis=1), chance), true


@pytest.fixture(scope='module')
def known():
  found, true = answers(0, 400, [0.4, 0.3, 0.2, 0.1])
  return found, true, prevalence.errors(found, true, np.ones(len(true)))


SAMPLE, _ = answers(1, 300, [0.1, 0.1, 0.1, 0.7])
ONES = np.ones(300)


def test_maximisation_is_theirs(known):
  errors = known[2]
  theirs, _ = aggregative.EMQ.EM(errors.prior, SAMPLE.chance, epsilon=1e-7)
  ours = prevalence.maximise(errors, SAMPLE, ONES)
  np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_confusion_matrix_and_its_solution_are_theirs(known):
  found, true, errors = known
  matrix = aggregative.ACC.getPteCondEstim(
    np.arange(CLASSES), true, found.label
  )
  np.testing.assert_allclose(errors.counted, matrix)
  theirs = aggregative.ACC.solve_adjustment(
    matrix,
    prevalence.count(errors, SAMPLE, ONES),
    method='inversion',
    solver='minimize',
  )
  ours = prevalence.adjust(errors, SAMPLE, ONES)
  np.testing.assert_allclose(ours, theirs, atol=1e-3)
