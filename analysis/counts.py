"""Counts objects by sample and taxon, corrected for what is misclassified.

`python -m analysis.counts --workdir=DIR --export=EXPORT` counts the objects of
an EcoTaxa export by sample; `--images=FOLDER --by=REGEX` those of a folder,
whose files name their sample. Five methods are tried on validation images
drawn in other shares than those of training; the one that errs least is
trusted, and all come with intervals. `--check=100` draws images of each sample
for a person to check, and `--checked=FILE` corrects the counts by what was
found. Concentrations and size spectra are there where the table has what they
need. docs/counts.md explains the methods.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import counted
from analysis.files import checks, command, inputs, new_images, samples
from analysis.files.inputs import Embeddings, Source
from analysis.files.new_images import NewImages
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import (
  checked,
  counting,
  fitted,
  prevalence,
  tallies,
  thresholds,
)
from analysis.measures.checked import Checks
from analysis.measures.counting import (
  Estimate,
  Known,
  Placed,
  Quantifier,
  Shares,
  Space,
)
from analysis.measures.fitted import Fitted
from analysis.measures.openset import UNKNOWN
from analysis.measures.prevalence import Answers
from analysis.measures.tallies import Sample, Unit
from plankton_jax.errors import InputError, shorten_list

TRUST = flags.DEFINE_enum(
  'trust',
  None,
  list(prevalence.METHODS),
  'The method to trust [the one of the smallest error in simulation].',
)
CHOOSE = flags.DEFINE_bool(
  'choose_acceptance', False, 'Set --acceptance by the error of the counts.'
)
DRAWS = flags.DEFINE_integer('draws', 100, 'Bootstrap draws of the intervals.')
CHECK = flags.DEFINE_integer(
  'check', None, 'Images of each sample to draw for a person to check.'
)
CHECKED = flags.DEFINE_string(
  'checked', None, 'A table of id and class: images that a person checked.'
)
for name in (
  *('workdir', 'embeddings', 'images', 'export', 'by', 'pixel_um'),
  *('out', 'acceptance'),
):
  flags.declare_key_flag(name)  # --help shows it

ACCEPTANCES = (0.8, 0.9, 0.95, 0.98, 0.99)  # that --choose_acceptance tries
SIMULATED = 120  # samples that methods are tried on
LARGEST = 500  # images of one of them, at most
SHOWN = 20  # lines of counts in the terminal
CHECKS = (25, 50, 100, 200)  # images of a sample that checking is tried with
TO_CHECK = 'check.csv'

Row = dict[str, Any]


class Asked(NamedTuple):
  """Names what to count, and how."""

  images: str | None = None  # a folder, or an embedding file
  export: str | None = None  # any source
  by: str = command.BY.default
  acceptance: float = command.ACCEPTANCE.default
  choose_acceptance: bool = CHOOSE.default
  trust: str | None = TRUST.default
  draws: int = DRAWS.default
  pixel_um: float | None = None  # of all new images; None takes the run's
  check: int | None = None  # images of each sample to list
  checked: str | None = None  # a table


def fit(source: Source, acceptance: float) -> Fitted:
  """Fits the labeller of `analysis.predict`.

  Raises:
    InputError: the run has one class, or no validation images.
  """
  found = fitted.fit(source, None, acceptance=acceptance)
  if len(found.labeller.gallery.class_names) < 2:
    raise InputError(
      f'{source.name} has one class: counts correct images that are taken for'
      ' another; train on two or more'
    )
  if found.val is None:
    raise InputError(
      f'{source.name} has no labelled val images, which show what is taken for'
      ' what: train with a val share in data.fractions'
    )
  return found


class Apart(NamedTuple):
  """Holds test images, and unknowns that the quantifier was not fitted to."""

  quantifier: Quantifier
  answers: Answers
  true: np.ndarray


def table(
  found: Sequence[Sample],
  names: Sequence[str],
  *,
  methods: bool,
  checks: Mapping[str, Checks] | None = None,
) -> list[Row]:
  """Tabulates samples by class; concentrations if any is known.

  `methods` adds a column of the method, and `checks` one of the images of the
  sample that were checked.
  """
  known = any(np.isfinite(one.per_m3).any() for one in found)
  lines = []
  for one in found:
    for c, name in enumerate(names):
      line: Row = {'sample': one.name, 'class': name}
      if methods:
        line['method'] = one.method
      if checks is not None:
        line['checked'] = (
          len(checks[one.name].rows) if one.name in checks else 0
        )
      line |= {
        'objects': one.objects[c],
        'low': one.low[c],
        'high': one.high[c],
      }
      if known:
        line |= {
          'per_m3': one.per_m3[c],
          'per_m3_low': one.per_m3_low[c],
          'per_m3_high': one.per_m3_high[c],
        }
      lines.append(line)
  return lines


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
  true = [fit.held_out.label]
  if met is not None:
    places.append(counting.place(space, met.embedding))
    true.append(np.full(len(met.label), len(fit.labeller.gallery.class_names)))
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


def tabulate_spectra(
  new: NewImages,
  units: Sequence[Unit],
  estimates: Sequence[Estimate],
  chance: np.ndarray,
  names: Sequence[str],
  method: str,
) -> list[Row]:
  """Tabulates objects by sample, class and size; empty if sizes are unknown.

  `chance` [N, C] are the images' probabilities under the method's shares.
  """
  size = tallies.diameters(columns(new))
  if size is None:
    return []
  edges = tallies.edges(size)
  volumes_known = any(np.isfinite(unit.per_m3) for unit in units)
  sums: dict[str, list[np.ndarray]] = {}
  for unit, one in zip(units, estimates, strict=True):
    found = tallies.spectrum(
      size[unit.rows],
      edges,
      chance[unit.rows],
      one.images * one.shares[method],
    ).objects
    sums.setdefault(unit.sample, []).append(
      np.stack([found, unit.per_m3 * found])
    )
  lines = []
  for sample, parts in sums.items():
    objects, per_m3 = np.sum(parts, axis=0)
    for i, c in zip(*np.nonzero(objects), strict=True):
      line: Row = {
        'sample': sample,
        'class': names[c],
        'from_um': edges[i],
        'to_um': edges[i + 1],
        'objects': objects[i, c],
      }
      if volumes_known:
        line['per_m3'] = per_m3[i, c]
        line['per_m3_um'] = per_m3[i, c] / (edges[i + 1] - edges[i])
      lines.append(line)
  return lines


def columns(new: NewImages) -> Mapping[str, np.ndarray]:
  """Looks up the table's columns of numbers, [N] each."""
  return dict(zip(new.measures.names, new.measures.values.T, strict=True))


def concentrations(new: NewImages) -> tuple[np.ndarray, list[str]]:
  """Computes the objects per m³ that each image stands for, and notes."""
  given = columns(new)
  found = tallies.per_m3(
    given,
    [item.sample for item in new.items],
    [item.acquisition for item in new.items],
  )
  notes = []
  if new.listed and np.isnan(found).any():
    notes.append(
      f'{np.isnan(found).sum():,} of {len(found):,} objects have no volume'
      ' (acq_sub_part and sample_tot_vol, or those of docs/counts.md):'
      ' their samples have no concentration'
    )
  if np.any(given.get('sample_dilution_factor', np.ones(1)) != 1.0):
    notes.append(
      'sample_dilution_factor is not 1 everywhere, and not applied: its'
      ' meaning differs between projects'
    )
  return found, notes


def analyse(sources: Sequence[Source], asked: Asked) -> Result:
  """Counts images by sample and class.

  Raises:
    InputError: there is not one source; it has one class, or no validation
      images; an image has no sample; or nothing can be read.
  """
  source = command.one_source(sources, 'counts')
  thresholds.check(asked.acceptance)
  if asked.draws < 2:
    raise InputError(f'--draws={asked.draws}: intervals need 2 draws or more')
  if asked.check is not None and asked.check < checked.FEWEST:
    raise InputError(
      f'--check={asked.check}: give {checked.FEWEST} images of a sample or more'
    )
  fit_ = fit(source, asked.acceptance)
  assert fit_.val is not None
  new_images.check_groups(asked.images, asked.export, asked.by)
  encoder = new_images.encoder_for(source, asked.images)
  new = new_images.gather(encoder, asked.images, asked.export, asked.pixel_um)
  inputs.check_dimensions(fit_.labeller.gallery, new.rows)
  groups = samples.name_groups(new.rows.id.tolist(), asked.by, new.items)
  per_m3, notes = concentrations(new)
  units = tallies.split_units(groups, per_m3)
  names = (*fit_.labeller.gallery.class_names, UNKNOWN)
  given: dict[int, str] = {}
  if asked.checked:
    given, left_out = checks.read(pathlib.Path(asked.checked), new)
    notes += left_out

  unseen, _ = inputs.labelled(source, 'unseen')
  if unseen is None:
    notes.append(
      'no unseen images: validation images, each without its own class, stand'
      ' in for unknown ones'
    )
  space = counting.make_space(fit_.labeller)
  train = source.splits['train']
  added = np.setdiff1d(fit_.labeller.gallery.id, train.id.astype(str))
  known = counting.gather(space, fit_.val, added, unseen)
  size = int(np.clip(np.median([len(u.rows) for u in units]), 1, LARGEST))
  acceptance = asked.acceptance
  by_acceptance: list[Row] = []
  if asked.choose_acceptance:
    acceptance, by_acceptance = choose_acceptance(known, size=size)
    limit = counting.set_limit(known, acceptance)
    fit_ = fit_._replace(labeller=fit_.labeller._replace(threshold=limit))
  limit = fit_.labeller.threshold
  tried = counting.trial(known, acceptance, draws=SIMULATED, size=size)
  method = asked.trust or counting.best(tried)
  apart = hold_out(space, fit_, added, unseen)
  tested = None if apart is None else test(apart, size=size)

  placed = counting.place(space, new.rows.embedding)
  places = [placed.take(unit.rows) for unit in units]
  quantifier, estimates = counting.count(
    known, limit, places, draws=asked.draws
  )
  every = tallies.tally(units, estimates)
  shown = [one for one in every if one.method == method]
  chance = np.zeros((len(groups), len(names)))
  label = np.zeros(len(groups), int)
  for unit, place, one in zip(units, places, estimates, strict=True):
    answers = counting.answer(quantifier.posterior, limit, place)
    label[unit.rows] = answers.label
    chance[unit.rows] = prevalence.adapt(
      answers.chance, quantifier.errors.prior, one.shares[method]
    )
  methods = describe_methods(tried, tested, method)
  sized = tabulate_spectra(new, units, estimates, chance, names, method)
  said = [describe_error(methods, size)]
  of_sample: dict[str, Checks] | None = None
  best = method
  if given:
    of_sample, more = checked.by_sample(given, groups, names)
    best = checked.METHOD
    chance = np.pad(chance, [(0, 0), (0, len(more) - len(names))])
    shown = tallies.correct(shown, groups, chance, per_m3, of_sample)
    said += describe_checks(of_sample, shown, more[len(names) :])
    every = [*(tallies.widen(one, len(more)) for one in every), *shown]
    names = more
  lines = table(shown, names, methods=False, checks=of_sample)
  tables: dict[str, Sequence[Row]] = {
    'counts.csv': lines,
    'counts_by_method.csv': table(every, names, methods=True),
    'methods.csv': methods,
  }
  if by_acceptance:
    tables['acceptance.csv'] = by_acceptance
  if sized:
    tables['spectra.csv'] = sized
  brought = []
  if apart is not None and (given or asked.check):
    brought = try_checks(apart, method, size=size)
    tables['checking.csv'] = brought
  forms = {}
  if asked.check:
    predicted = [names[i] for i in label.tolist()]
    forms[TO_CHECK] = checks.listed(new, groups, predicted, asked.check)
    said.append(
      f'{TO_CHECK} lists {len(forms[TO_CHECK]):,} images: fill in its column'
      ' class, and give it as --checked'
    )
  citations = inputs.citations(sources)
  figures = {
    'counts': Drawing(
      functools.partial(counted.draw_counts, every, names, best), citations
    ),
    'methods': Drawing(
      functools.partial(counted.draw_methods, tried, tested, method), citations
    ),
  }
  if sized:
    figures['spectra'] = Drawing(
      functools.partial(counted.draw_spectra, sized), citations
    )
  largest = sorted(lines, key=lambda line: -line['objects'])[:SHOWN]
  return Result(
    [*fit_.notes, *notes, *said],
    [
      Shown('counts: Bray-Curtis error in simulated samples', methods),
      *([Shown('counts: with checked images', brought)] if brought else []),
      Shown(
        f'counts: the largest of {len(lines):,}, by {best}',
        largest,
        f'{len(groups):,} objects in {len(set(groups)):,} samples',
      ),
    ],
    tables,
    {
      'counts.json': {
        'method': method,
        'checked': len(given),
        'acceptance': acceptance,
        'bootstrap_draws': asked.draws,
        'simulated_images': size,
        'methods': methods,
        'samples': len(set(groups)),
        'objects': len(groups),
      }
    },
    figures,
    forms=forms,
  )


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


def describe_checks(
  of_sample: Mapping[str, Checks],
  found: Sequence[Sample],
  added: Sequence[str],
) -> list[str]:
  """Says what was checked, and what could not be corrected by it."""
  images = sum(len(one.rows) for one in of_sample.values())
  notes = [f'{images:,} images of {len(of_sample):,} samples are checked']
  few = [one.name for one in found if not tallies.enough(one, of_sample)]
  if few:
    notes.append(
      f'{len(few):,} of {len(found):,} samples have fewer than'
      f' {checked.FEWEST} checked images and are not corrected, as {few[0]}'
    )
  if added:
    notes.append(
      'counted from checked images alone, as no class is named so:'
      f' {shorten_list(list(added))}'
    )
  return notes


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


def asked(sources: Sequence[Source]) -> Result:
  """Runs the analysis that the flags ask for."""
  new_images.check(command.IMAGES.value, command.EXPORT.value)
  return analyse(
    sources,
    Asked(
      command.IMAGES.value,
      command.EXPORT.value,
      command.BY.value,
      command.ACCEPTANCE.value,
      CHOOSE.value,
      TRUST.value,
      DRAWS.value,
      command.PIXEL_UM.value,
      CHECK.value,
      CHECKED.value,
    ),
  )


if __name__ == '__main__':
  command.run('counts', asked, folder='counts', fast=True)
