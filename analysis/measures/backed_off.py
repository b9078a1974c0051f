"""Backs predictions off to the rank of a taxonomy at which they are sure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.files.taxa import Taxa
from analysis.measures import calibration, labeller, lineages
from analysis.measures.fitted import Fitted
from analysis.measures.lineages import Level, Likeliest, Placed, Tree


class Ranks(NamedTuple):
  """How sure a labeller is at each rank; all empty without lineages."""

  tree: Tree | None = None
  levels: Sequence[Level] = ()  # of the tree
  limits: Sequence[float] = ()  # of the levels; empty without val images
  lines: Sequence[Mapping[str, Any]] = ()  # of the levels, by test images
  measures: Mapping[str, Any] = {}
  far: np.ndarray | None = None  # edges to the true class, of each mistake
  remarks: Sequence[str] = ()


def fit(fitted: Fitted, known: Taxa, sure: float) -> Ranks:
  """Sets the thresholds of ranks on val images, and tests them on test images.

  `sure` is the share of right names to reach at a rank.
  """
  names = fitted.labeller.gallery.class_names
  lineage = {name: taxon.lineage for name, taxon in known.of.items()}
  tree = lineages.grow(names, lineage, known.ranks)
  if tree is None:
    return Ranks()
  levels = lineages.levels(tree)
  if fitted.val is None:
    remarks = ['No val images: names are not backed off.']
    return Ranks(tree, levels, remarks=remarks)
  limits = lineages.calibrate(
    levels,
    _likeliest(levels, fitted, fitted.val.embedding),
    fitted.val.label,
    sure,
  )
  lacking = [name for name in names if not lineage.get(name)]
  remarks = []
  if lacking:
    more = ', ...' if len(lacking) > 5 else ''
    remarks.append(
      f'{len(lacking)} of {len(names)} classes without a lineage:'
      f' {", ".join(lacking[:5])}{more}.'
    )
  if fitted.held_out is None:
    return Ranks(tree, levels, limits, remarks=remarks)
  tested = _likeliest(levels, fitted, fitted.held_out.embedding)
  true = fitted.held_out.label
  lines, measures = lineages.measure(tree, levels, tested, true, limits)
  wrong = tested.label != true
  far = lineages.edges(tree, levels, tested.label[wrong], true[wrong])
  return Ranks(tree, levels, limits, lines, measures, far, remarks)


def place(ranks: Ranks, fitted: Fitted, embedding: np.ndarray) -> list[Placed]:
  """Gives each row [N, D] its lowest sure node; nothing without thresholds."""
  if ranks.tree is None or not ranks.limits:
    return []
  found = _likeliest(ranks.levels, fitted, embedding)
  return lineages.place(ranks.tree, ranks.levels, found, ranks.limits)


def _likeliest(
  levels: Sequence[Level], fitted: Fitted, embedding: np.ndarray
) -> Likeliest:
  """Finds the likeliest nodes of rows [N, D], some rows at a time."""
  parts = [
    lineages.likeliest(
      levels, calibration.softmax(-apart, fitted.labeller.temperature)
    )
    for apart in labeller.squared_in_blocks(fitted.labeller.seen, embedding)
  ]
  return Likeliest(*map(np.concatenate, zip(*parts, strict=True)))
