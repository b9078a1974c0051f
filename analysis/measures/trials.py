"""Tries methods of counting on samples drawn of images of known class."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from analysis.files import inputs
from analysis.files.inputs import Embeddings
from analysis.measures import checked, counting, prevalence
from analysis.measures.checked import Checks
from analysis.measures.counting import Known, Placed, Quantifier, Shares, Space
from analysis.measures.fitted import Fitted
from analysis.measures.prevalence import METHODS, Answers

ACCEPTANCES = (0.8, 0.9, 0.95, 0.98, 0.99)  # to choose from
SIMULATED = 120  # samples that methods are tried on
LARGEST = 500  # images of one of them, at most
HALVES = 4  # times that validation images are halved
# Dirichlet's parameters in turn: from all shares alike likely to samples of
# few classes, as those of plankton are.
EVENNESS = (1.0, 0.3, 0.1)
CHECKS = (25, 50, 100, 200)  # images of a sample that checking is tried with
PLAIN = next(iter(METHODS))  # the method without correction

Row = dict[str, Any]


class Apart(NamedTuple):
  """Holds N images, unknown ones too, that a quantifier was not fitted to."""

  quantifier: Quantifier
  answers: Answers
  true: np.ndarray  # [N] their classes


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
  errors = validate(known, acceptance, size=size)
  apart = hold_out(space, fit, added, unseen)
  return Trials(
    size,
    acceptance,
    by_acceptance,
    fit.labeller.threshold,
    errors,
    None if apart is None else test(apart, size=size),
    trust or min(errors, key=lambda name: float(errors[name].mean())),
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
  return errors_of(apart, draws=SIMULATED, size=size, rng=rng)


def validate(known: Known, acceptance: float, *, size: int) -> Shares:
  """Measures every method on validation images that it was not fitted to.

  Halves the fresh images of each class, and the images of no class by their
  kinds, so that unknowns are met that were not fitted to; fits to one half, and
  draws samples of the other.

  Returns:
    Bray-Curtis errors by method, of about SIMULATED samples.
  """
  rng = np.random.default_rng(counting.SEED)
  found: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
  for _ in tqdm(range(HALVES), 'methods', delay=2, leave=False):
    fitted = halve(known, rng)
    used, others = known.take(fitted), known.take(~fitted)
    limit = counting.set_limit(used, acceptance)
    quantifier = counting.fit(used, limit)
    answers = counting.answer(quantifier.posterior, limit, others.placed)
    errors = errors_of(
      Apart(quantifier, answers, others.true),
      draws=-(-SIMULATED // HALVES),
      size=size,
      rng=rng,
    )
    for name, values in errors.items():
      found[name].append(values)
  return {name: np.concatenate(values) for name, values in found.items()}


def halve(known: Known, rng: np.random.Generator) -> np.ndarray:
  """Chooses the half [N] bool to fit to; training images are in it."""
  fitted = ~known.fresh & (known.kind < 0)
  for label in np.unique(known.true[known.fresh]):
    rows = rng.permutation(np.flatnonzero(known.fresh & (known.true == label)))
    fitted[rows[: -(-len(rows) // 2)]] = True
  kinds = rng.permutation(np.unique(known.kind[known.kind >= 0]))
  if len(kinds) > 1:
    return fitted | np.isin(known.kind, kinds[: -(-len(kinds) // 2)])
  rows = rng.permutation(np.flatnonzero(known.kind >= 0))
  fitted[rows[: -(-len(rows) // 2)]] = True
  return fitted


def errors_of(
  apart: Apart, *, draws: int, size: int, rng: np.random.Generator
) -> Shares:
  """Measures Bray-Curtis errors [draws] of each method on drawn samples."""
  quantifier, answers, true = apart
  classes = answers.chance.shape[1]
  found: dict[str, list[float]] = {name: [] for name in METHODS}
  for i in range(draws):
    rows = draw(true, EVENNESS[i % len(EVENNESS)], size, rng)
    truth = np.bincount(true[rows], minlength=classes) / len(rows)
    shares = counting.estimate(quantifier, answers.take(rows))
    for name, share in shares.items():
      found[name].append(float(prevalence.bray_curtis(share, truth)))
  return {name: np.array(values) for name, values in found.items()}


def draw(
  true: np.ndarray, evenness: float, size: int, rng: np.random.Generator
) -> np.ndarray:
  """Draws `size` rows whose classes have random shares.

  The shares of the classes among `true` [N] are drawn from a Dirichlet
  distribution: the artificial-prevalence protocol, in which an evenness of 1
  makes all shares equally likely (QuaPy: Moreo, Esuli and Sebastiani 2021).
  """
  present = np.unique(true)
  shares = rng.dirichlet(np.full(len(present), evenness))
  found = [
    rng.choice(np.flatnonzero(true == label), number)
    for label, number in zip(
      present, rng.multinomial(size, shares), strict=True
    )
  ]
  return np.concatenate(found)


def choose_acceptance(known: Known, *, size: int) -> tuple[float, list[Row]]:
  """Chooses the acceptance at which plain counts err least."""
  lines = []
  for acceptance in ACCEPTANCES:
    errors = validate(known, acceptance, size=size)
    means = {name: float(values.mean()) for name, values in errors.items()}
    lines.append({'acceptance': acceptance, **means})
  chosen = min(lines, key=lambda line: line[PLAIN])
  return float(chosen['acceptance']), lines


def try_checks(apart: Apart, method: str, *, size: int) -> list[Row]:
  """Measures what checking some images of a sample brings, for each of CHECKS.

  Draws samples as `errors_of` does, and images to check from each.

  Args:
    apart: the images to draw from.
    method: whose shares the probabilities follow.
    size: images of a sample.

  Returns:
    The mean Bray-Curtis error of corrected counts and of counts from checked
    images alone, and of the intervals of classes in the sample the share that
    holds the truth and the mean width, as a share of the sample's images.
  """
  quantifier, answers, true = apart
  rng = np.random.default_rng(counting.SEED)
  found: dict[int, list[tuple[float, ...]]] = {
    number: [] for number in CHECKS if number < size
  }
  each, classes = np.ones(size), answers.chance.shape[1]
  for i in range(SIMULATED):
    rows = draw(true, EVENNESS[i % len(EVENNESS)], size, rng)
    sample = answers.take(rows)
    share = counting.estimate(quantifier, sample)[method]
    chance = prevalence.adapt(sample.chance, quantifier.errors.prior, share)
    truth = np.bincount(true[rows], minlength=classes)
    here = truth > 0
    for number, values in found.items():
      drawn = rng.choice(size, number, replace=False)
      checks = Checks(drawn, true[rows][drawn])
      alone = checked.correct(chance, checks, 0.0, each)
      one = checked.correct(
        chance, checks, checked.weigh([(chance, checks)]), each
      )
      inside = (one.low <= truth) & (truth <= one.high)
      values.append(
        (
          float(prevalence.bray_curtis(one.objects, truth)),
          float(prevalence.bray_curtis(alone.objects, truth)),
          float(inside[here].mean()),
          float((one.high - one.low)[here].mean() / size),
        )
      )
  columns = (
    'error',
    'error_of_these_alone',
    'intervals_that_hold',
    'width_of_an_interval',
  )
  return [
    {
      'checked_images': number,
      **dict(zip(columns, np.mean(values, axis=0).tolist(), strict=True)),
    }
    for number, values in found.items()
  ]


def describe_methods(
  tried: Shares, tested: Shares | None, trusted: str
) -> list[Row]:
  """Tabulates each method's Bray-Curtis error in simulated samples."""
  lines = []
  for name in METHODS:
    line: Row = {'method': name, 'trusted': name == trusted}
    for split, errors in (('val', tried), ('test', tested)):
      if errors is not None:
        low, high = np.quantile(errors[name], [0.025, 0.975])
        line |= {
          f'{split}_error': errors[name].mean(),
          f'{split}_low': low,
          f'{split}_high': high,
          f'{split}_ratio': errors[name].mean() / errors[PLAIN].mean(),
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
