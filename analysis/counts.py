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

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from analysis.figures import counted
from analysis.files import checks, command, inputs, new_images
from analysis.files.inputs import Source
from analysis.files.new_images import NewImages
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import (
  checked,
  counting,
  fitted,
  prevalence,
  tallies,
  trials,
)
from analysis.measures.checked import Checks
from analysis.measures.counting import Known, Space
from analysis.measures.fitted import Fitted
from analysis.measures.openset import no_class
from analysis.measures.tallies import Row, Sample, Unit
from analysis.measures.trials import Trials
from plankton_jax.errors import InputError

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
for name in ('images', 'export', 'by', 'pixel_um', 'acceptance'):
  flags.declare_key_flag(name)  # --help shows it

SHOWN = 20  # lines of counts in the terminal
TO_CHECK = 'check.csv'


class Asked(NamedTuple):
  """Names what to count, and how, by the flags."""

  images: str | None = None  # a folder, or an embedding file
  export: str | None = None  # any source
  by: str = command.BY.default
  acceptance: float = command.ACCEPTANCE.default
  choose_acceptance: bool = CHOOSE.default
  trust: str | None = TRUST.default
  draws: int = DRAWS.default
  pixel_um: float | None = None  # of all new images; None takes the run's
  check: int | None = CHECK.default  # images of each sample to list
  checked: str | None = CHECKED.default  # a table


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


def concentrations(new: NewImages) -> tuple[np.ndarray, list[str]]:
  """Computes the objects per m³ that each image stands for, and notes."""
  given = new.measures.of(new.rows.id.tolist())
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


class Objects(NamedTuple):
  """Holds the N objects to count, and what is known of each."""

  new: NewImages
  groups: np.ndarray  # [N] their samples
  per_m3: np.ndarray  # [N] objects per m³ that each stands for
  units: list[Unit]
  given: dict[int, str]  # the classes that a person gave, by row
  notes: list[str]


class Counts(NamedTuple):
  """Holds the objects of each sample and class, by every method."""

  names: tuple[str, ...]  # of the classes
  method: str  # that `shown` is by
  shown: list[Sample]
  every: list[Sample]
  predicted: list[str]  # the class of each object
  spectra: list[Row]
  checks: dict[str, Checks] | None = None  # by sample, if a person checked some
  notes: Sequence[str] = ()


def check(asked: Asked) -> None:
  """Checks the numbers of what is asked.

  Raises:
    InputError: one is out of range.
  """
  command.check_share('acceptance', asked.acceptance)
  if asked.draws < 2:
    raise InputError(f'--draws={asked.draws}: intervals need 2 draws or more')
  if asked.check is not None and asked.check < checked.FEWEST:
    raise InputError(
      f'--check={asked.check}: give {checked.FEWEST} images of a sample or more'
    )


def gather(source: Source, asked: Asked) -> Objects:
  """Reads the objects to count; raises what `gather_grouped` does."""
  new, groups = new_images.gather_grouped(
    source, asked.images, asked.export, asked.by, asked.pixel_um
  )
  per_m3, notes = concentrations(new)
  units = tallies.split_units(groups, per_m3)
  given: dict[int, str] = {}
  if asked.checked:
    given, left_out = checks.read(pathlib.Path(asked.checked), new)
    notes += left_out
  return Objects(new, groups, per_m3, units, given, notes)


def count(
  objects: Objects,
  space: Space,
  known: Known,
  names: tuple[str, ...],
  *,
  limit: float,
  method: str,
  draws: int,
) -> Counts:
  """Counts objects by every method, and corrects by what was checked.

  Args:
    objects: what to count.
    space: where images are placed.
    known: images of known class.
    names: of the classes; the last is that of unknown images.
    limit: of the distance, beyond which an image is unknown.
    method: the one to trust.
    draws: of the bootstrap.
  """
  placed = counting.place(space, objects.new.rows.embedding)
  places = [placed.take(unit.rows) for unit in objects.units]
  quantifier, estimates = counting.count(known, limit, places, draws=draws)
  every = tallies.tally(objects.units, estimates)
  shown = [one for one in every if one.method == method]
  chance = np.zeros((len(objects.groups), len(names)))
  label = np.zeros(len(objects.groups), int)
  for unit, place, one in zip(objects.units, places, estimates, strict=True):
    answers = counting.answer(quantifier.posterior, limit, place)
    label[unit.rows] = answers.label
    chance[unit.rows] = prevalence.adapt(
      answers.chance, quantifier.errors.prior, one.shares[method]
    )
  found = Counts(
    names,
    method,
    shown,
    every,
    [names[i] for i in label.tolist()],
    tallies.tabulate_spectra(
      objects.new.measures.of(objects.new.rows.id.tolist()),
      objects.units,
      estimates,
      chance,
      names,
      method,
    ),
  )
  return correct(found, objects, chance) if objects.given else found


def correct(found: Counts, objects: Objects, chance: np.ndarray) -> Counts:
  """Corrects the counts by checked images, which may name further classes.

  `chance` [N, C] are the images' probabilities under the method's shares.
  """
  before = len(found.names)
  of_sample, names = checked.by_sample(
    objects.given, objects.groups, found.names
  )
  chance = np.pad(chance, [(0, 0), (0, len(names) - before)])
  shown = tallies.correct(
    found.shown, objects.groups, chance, objects.per_m3, of_sample
  )
  return found._replace(
    names=names,
    method=checked.METHOD,
    shown=shown,
    every=[*(tallies.widen(one, len(names)) for one in found.every), *shown],
    checks=of_sample,
    notes=tallies.describe_checks(of_sample, shown, names[before:]),
  )


def analyse(sources: Sequence[Source], asked: Asked) -> Result:
  """Counts images by sample and class.

  Raises:
    InputError: there is not one source; it has one class, or no validation
      images; an image has no sample; or nothing can be read.
  """
  source = command.one_source(sources, 'counts')
  check(asked)
  fit_ = fit(source, asked.acceptance)
  assert fit_.val is not None
  gallery = fit_.labeller.gallery
  objects = gather(source, asked)
  notes = [*fit_.notes, *objects.notes]
  unseen, _ = inputs.labelled(source, 'unseen')
  if unseen is None:
    notes.append(
      'no unseen images: validation images, each without its own class, stand'
      ' in for unknown ones'
    )
  apart = counting.choose_classes(fit_.labeller, objects.new.rows.embedding)
  space = counting.make_space(fit_.labeller, apart)
  if apart is not None:
    notes.append(
      f'{len(apart):,} of {len(gallery.class_names):,} classes are counted'
      ' apart, those that most objects are taken for; the others are together'
    )
  added = np.setdiff1d(gallery.id, source.splits['train'].id.astype(str))
  known = counting.gather(space, fit_.val, added, unseen)
  tried = trials.run(
    fit_,
    space,
    known,
    added,
    unseen,
    sizes=[len(unit.rows) for unit in objects.units],
    acceptance=asked.acceptance,
    choose=asked.choose_acceptance,
    trust=asked.trust,
  )
  found = count(
    objects,
    space,
    known,
    (*space.names, no_class(space.names)),
    limit=tried.limit,
    method=tried.trusted,
    draws=asked.draws,
  )
  return report(objects, tried, found, notes, asked, inputs.citations(sources))


def report(
  objects: Objects,
  tried: Trials,
  found: Counts,
  notes: Sequence[str],
  asked: Asked,
  citations: Sequence[str],
) -> Result:
  """Gathers the tables, figures and notes; tries checking where it is asked."""
  methods = trials.describe_methods(tried.errors, tried.tested, tried.trusted)
  said = [trials.describe_error(methods, tried.size), *found.notes]
  lines = tallies.tabulate(found.shown, found.names, checks=found.checks)
  tables: dict[str, Sequence[Row]] = {
    'counts.csv': lines,
    'counts_by_method.csv': tallies.tabulate(
      found.every, found.names, methods=True
    ),
    'methods.csv': methods,
  }
  if tried.by_acceptance:
    tables['acceptance.csv'] = tried.by_acceptance
  if found.spectra:
    tables['spectra.csv'] = found.spectra
  brought = []
  if tried.apart is not None and (objects.given or asked.check):
    brought = trials.try_checks(tried.apart, tried.trusted, size=tried.size)
    tables['checking.csv'] = brought
  forms = {}
  if asked.check:
    forms[TO_CHECK] = checks.listed(
      objects.new, objects.groups, found.predicted, asked.check
    )
    said.append(
      f'{TO_CHECK} lists {len(forms[TO_CHECK]):,} images: fill in its column'
      ' class, and give it as --checked'
    )
  largest = sorted(lines, key=lambda line: -line['objects'])[:SHOWN]
  images, number = len(objects.groups), len(set(objects.groups))
  return Result(
    [*notes, *said],
    [
      Shown('counts: Bray-Curtis error in simulated samples', methods),
      *([Shown('counts: with checked images', brought)] if brought else []),
      Shown(
        f'counts: the largest of {len(lines):,}, by {found.method}',
        largest,
        f'{images:,} objects in {number:,} samples',
      ),
    ],
    tables,
    {
      'counts.json': {
        'method': tried.trusted,
        'checked': len(objects.given),
        'acceptance': tried.acceptance,
        'bootstrap_draws': asked.draws,
        'simulated_images': tried.size,
        'methods': methods,
        'samples': number,
        'objects': images,
      }
    },
    draw(tried, found, citations),
    forms=forms,
  )


def draw(
  tried: Trials, found: Counts, citations: Sequence[str]
) -> dict[str, Drawing]:
  """Lists the figures: counts, methods, and spectra where sizes are known."""
  parts = {
    'counts': lambda: counted.draw_counts(
      found.every, found.names, found.method
    ),
    'methods': lambda: counted.draw_methods(
      tried.errors, tried.tested, tried.trusted
    ),
  }
  if found.spectra:
    parts['spectra'] = lambda: counted.draw_spectra(found.spectra)
  return {name: Drawing(part, citations) for name, part in parts.items()}


def asked(sources: Sequence[Source]) -> Result:
  """Runs the analysis that the flags ask for."""
  new_images.check(command.IMAGES.value, command.EXPORT.value)
  return analyse(sources, command.options(Asked))


if __name__ == '__main__':
  command.run('counts', asked, folder='counts', fast=True)
