"""Measures accuracy at each rank of the taxonomy, and how far mistakes are.

`python -m analysis.taxonomy --workdir=DIR [--taxa=FILE.csv]`. Lineages are
those of the file, or of the EcoTaxa export that a run was trained on.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import style
from analysis.figures.style import plt
from analysis.files import command, inputs, taxa
from analysis.files.inputs import Source
from analysis.files.result import Drawing, Result, Shown
from analysis.files.taxa import Taxa
from analysis.measures import fitted, lineages
from plankton_jax.errors import InputError

flags.declare_key_flag('taxa')  # --help shows it

ACCEPTANCE = 0.95  # of the distances' thresholds, which play no part here


class Ranked(NamedTuple):
  """One source's test images by the nearest centre."""

  source: str
  lines: Sequence[Mapping[str, Any]]  # of the ranks
  far: np.ndarray  # [mistakes] edges from the true class to the one predicted
  measures: Mapping[str, Any]


def rank(
  source: Source, listed: Taxa, sure: float
) -> tuple[Ranked | None, list[str]]:
  """Ranks a source's test images; returns notes on what is missing, too."""
  known, notes = taxa.of_run(source)
  known = taxa.merge(listed, known)
  if not any(taxon.lineage for taxon in known.of.values()):
    return None, [*notes, f'{source.name}: no lineages (--taxa): skipped']
  try:
    fit = fitted.fit(source, None, acceptance=ACCEPTANCE)
  except InputError as error:
    return None, [*notes, str(error)]
  ranks = lineages.fit(fit, known, sure)
  notes += fit.notes + [f'{source.name}: {text}' for text in ranks.remarks]
  if ranks.tree is None or not ranks.lines:
    return None, [*notes, f'{source.name}: no ranks to measure: skipped']
  assert ranks.far is not None
  return Ranked(source.name, ranks.lines, ranks.far, ranks.measures), notes


def analyse(
  sources: Sequence[Source], *, listed: Taxa = taxa.NONE, sure: float = 0.95
) -> Result:
  """Measures each source that has lineages, by its test images.

  `sure` is the share of right names to reach at a rank.
  """
  found, notes = [], []
  for source in sources:
    one, missing = rank(source, listed, sure)
    notes += missing
    if one:
      found.append(one)
  if not found:
    return Result(notes)
  lines = [
    {'source': one.source, **line} for one in found for line in one.lines
  ]
  measures = [{'source': one.source, **one.measures} for one in found]
  return Result(
    notes,
    [
      Shown('taxonomy: test images', lines),
      Shown('taxonomy: mistakes, and names that are sure', measures),
    ],
    {'taxonomy.csv': lines},
    {'taxonomy.json': measures},
    {'taxonomy': Drawing(lambda: draw(found), inputs.citations(sources))},
  )


def draw(found: Sequence[Ranked]) -> plt.Figure:
  """Draws accuracy by rank, and mistakes by their taxonomic distance."""
  most = max(len(one.lines) for one in found)
  longest = max((one.lines for one in found), key=len)
  figure, (left, right) = plt.subplots(
    1, 2, figsize=(max(5.0, 2.5 + 0.5 * most) + 3.5, 3.6), layout='constrained'
  )
  colours = style.palette(len(found))
  width = 0.8 / len(found)
  for place, (colour, one) in enumerate(zip(colours, found, strict=True)):
    at = np.arange(len(one.lines))
    accuracy = [line['accuracy'] for line in one.lines]
    named = [line['named'] for line in one.lines]
    offset = (place - (len(found) - 1) / 2) * width
    left.bar(at + offset, named, width, color=colour, alpha=0.35)
    left.plot(at, accuracy, 'o-', ms=4, color=colour, label=one.source)
    edges, counts = np.unique(one.far, return_counts=True)
    right.bar(edges + offset, counts, width, color=colour)
  left.set(
    ylim=(0.0, 1.02),
    ylabel='share of the test images',
    title='Line: node is right. Bars: named at this rank',
  )
  left.set_xticks(
    range(most),
    [line['rank'] for line in longest],
    rotation=45,
    ha='right',
    rotation_mode='anchor',
  )
  for ax in (left, right):
    ax.set_axisbelow(True)
  figure.legend(
    *left.get_legend_handles_labels(), loc='outside upper left', ncols=4
  )
  right.set(
    xlabel='edges of the taxonomy from the true class',
    ylabel='test images',
    title='Mistakes',
  )
  right.xaxis.get_major_locator().set_params(integer=True)
  right.yaxis.get_major_locator().set_params(integer=True)
  return figure


def asked(sources: Sequence[Source]) -> Result:
  """Runs the analysis that the flags ask for."""
  return analyse(sources, listed=taxa.given(command.TAXA.value))


if __name__ == '__main__':
  command.run('taxonomy', asked)
