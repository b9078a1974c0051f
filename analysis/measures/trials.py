"""Tries methods of counting on samples drawn of images of known class."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.files import inputs
from analysis.files.inputs import Embeddings
from analysis.measures import checked, counting, prevalence
from analysis.measures.counting import Known, Placed, Quantifier, Shares, Space
from analysis.measures.fitted import Fitted
from analysis.measures.prevalence import Answers

ACCEPTANCES = (0.8, 0.9, 0.95, 0.98, 0.99)  # to choose from
SIMULATED = 120  # samples that methods are tried on
LARGEST = 500  # images of one of them, at most
CHECKS = (25, 50, 100, 200)  # images of a sample that checking is tried with

Row = dict[str, Any]


class Apart(NamedTuple):
  """Holds test images, and unknowns that the quantifier was not fitted to."""

  quantifier: Quantifier
  answers: Answers
  true: np.ndarray


class Trials(NamedTuple):
  """Tells how wrong the methods are in simulated samples."""

  size: int  # images of a sample
  acceptance: float
  by_acceptance: list[Row]  # errors of each; empty where none was chosen
  limit: float  # of the distance, beyond which an image is unknown
  errors: Shares  # Bray-Curtis errors by method, of validation images
  tested: Shares | None  # and of test images, if there are any
  trusted: str  # a method
  apart: Apart | None


def run(
  fit: Fitted,
  space: Space,
  known: Known,
  added: np.ndarray,
  unseen: Embeddings | None,
  *,
  sizes: Sequence[int],
  acceptance: float,
  choose: bool,
  trust: str | None,
) -> Trials:
  """Tries all methods on validation images, and on test images apart.

  Args:
    fit: the labeller, with its validation and test images.
    space: where images are placed.
    known: the images to fit methods to.
    added: images of the gallery that are not of training, by name.
    unseen: images of no class.
    sizes: how many images are to be counted together, of each sample.
    acceptance: the labeller's.
    choose: whether to choose another acceptance, by the errors.
    trust: a method; None trusts that of the smallest error.
  """
  size = int(np.clip(np.median(sizes), 1, LARGEST))
  by_acceptance: list[Row] = []
  if choose:
    acceptance, by_acceptance = choose_acceptance(known, size=size)
    limit = counting.set_limit(known, acceptance)
    fit = fit._replace(labeller=fit.labeller._replace(threshold=limit))
  errors = counting.trial(known, acceptance, draws=SIMULATED, size=size)
  apart = hold_out(space, fit, added, unseen)
  return Trials(
    size,
    acceptance,
    by_acceptance,
    fit.labeller.threshold,
    errors,
    None if apart is None else test(apart, size=size),
    trust or counting.best(errors),
    apart,
  )


def hold_out(
  space: Space, fit: Fitted, added: np.ndarray, unseen: Embeddings | None
) -> Apart | None:
  """Fits to validation images and answers test images.

  Half of the kinds of unknowns are fitted to, and the others are met.

  Returns:
    None without test images.
  """
  if fit.held_out is None or fit.val is None:
    return None
  met = None
  if unseen is not None:
    kinds = np.unique(unseen.label)
    rng = np.random.default_rng(counting.SEED)
    fitted_to = np.isin(unseen.label, rng.permutation(kinds)[: len(kinds) // 2])
    if len(kinds) > 1:
      met = inputs.take(unseen, ~fitted_to)
      unseen = inputs.take(unseen, fitted_to)
  known = counting.gather(space, fit.val, added, unseen)
  quantifier = counting.fit(known, fit.labeller.threshold)
  places = [counting.place(space, fit.held_out.embedding)]
  true = [space.counted[fit.held_out.label]]
  if met is not None:
    places.append(counting.place(space, met.embedding))
    true.append(np.full(len(met.label), len(space.names)))
  placed = Placed(*map(np.concatenate, zip(*places, strict=True)))
  return Apart(
    quantifier,
    counting.answer(quantifier.posterior, quantifier.limit, placed),
    np.concatenate(true),
  )


def test(apart: Apart, *, size: int) -> Shares:
  """Measures all methods on images apart: Bray-Curtis errors by method."""
  rng = np.random.default_rng(counting.SEED)
  return counting.errors_of(*apart, draws=SIMULATED, size=size, rng=rng)


def choose_acceptance(known: Known, *, size: int) -> tuple[float, list[Row]]:
  """Chooses the acceptance at which plain counts err least."""
  plain = next(iter(prevalence.METHODS))
  lines = []
  for acceptance in ACCEPTANCES:
    errors = counting.trial(known, acceptance, draws=SIMULATED, size=size)
    means = {name: float(values.mean()) for name, values in errors.items()}
    lines.append({'acceptance': acceptance, **means})
  chosen = min(lines, key=lambda line: line[plain])
  return float(chosen['acceptance']), lines


def try_checks(apart: Apart, method: str, *, size: int) -> list[Row]:
  """Tabulates what checking images of a sample brings in simulated samples."""
  found = checked.trial(
    *apart,
    method,
    numbers=[number for number in CHECKS if number < size],
    draws=SIMULATED,
    size=size,
  )
  return [
    {
      'checked_images': one.images,
      'error': one.corrected,
      'error_of_these_alone': one.alone,
      'intervals_that_hold': one.covered,
      'width_of_an_interval': one.width,
    }
    for one in found
  ]


def describe_methods(
  tried: Shares, tested: Shares | None, trusted: str
) -> list[Row]:
  """Tabulates each method's Bray-Curtis error in simulated samples."""
  plain = next(iter(prevalence.METHODS))
  lines = []
  for name in prevalence.METHODS:
    line: Row = {'method': name, 'trusted': name == trusted}
    for split, errors in (('val', tried), ('test', tested)):
      if errors is not None:
        low, high = np.quantile(errors[name], [0.025, 0.975])
        line |= {
          f'{split}_error': errors[name].mean(),
          f'{split}_low': low,
          f'{split}_high': high,
          f'{split}_ratio': errors[name].mean() / errors[plain].mean(),
        }
    lines.append(line)
  return lines


def describe_error(methods: Sequence[Row], size: int) -> str:
  """Says in a sentence how wrong the trusted method is."""
  (line,) = (line for line in methods if line['trusted'])
  split = 'test' if 'test_error' in line else 'val'
  return (
    f'trusted: {line["method"]}. In samples of {size} {split} images with'
    f' shares unlike those of training, its Bray-Curtis error is'
    f' {line[f"{split}_error"]:.3f} on average'
    f' ({line[f"{split}_low"]:.3f} to {line[f"{split}_high"]:.3f}),'
    f' {line[f"{split}_ratio"]:.0%} of that of plain counts'
  )
