"""Backs predictions off to the rank of a taxonomy at which they are sure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.files.taxa import Taxa
from analysis.measures import labeller, lineages
from analysis.measures.fitted import Fitted
from analysis.measures.lineages import Placed, Tree


class Ranks(NamedTuple):
  """How sure a labeller is at each rank; all empty without lineages."""

  tree: Tree | None = None
  limits: Sequence[float] = ()  # of the levels; empty without val images
  lines: Sequence[Mapping[str, Any]] = ()  # of the levels, by test images
  measures: Mapping[str, Any] = {}
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
  if fitted.val is None:
    return Ranks(tree, remarks=['No val images: names are not backed off.'])
  limits = lineages.calibrate(
    tree,
    labeller.probabilities(fitted.labeller, fitted.val.embedding),
    fitted.val.label,
    sure,
  )
  lacking = [name for name in names if not lineage.get(name)]
  remarks = []
  if lacking:
    more = ', ...' if len(lacking) > 5 else ''
    remarks.append(
      f'{len(lacking)} classes have no lineage: {", ".join(lacking[:5])}{more}.'
    )
  if fitted.held_out is None:
    return Ranks(tree, limits, remarks=remarks)
  lines, measures = lineages.measure(
    tree,
    labeller.probabilities(fitted.labeller, fitted.held_out.embedding),
    fitted.held_out.label,
    limits,
  )
  return Ranks(tree, limits, lines, measures, remarks)


def place(ranks: Ranks, fitted: Fitted, embedding: np.ndarray) -> list[Placed]:
  """Gives each row [N, D] its lowest sure node; nothing without thresholds."""
  if ranks.tree is None or not ranks.limits:
    return []
  found = []
  for start in range(0, len(embedding), labeller.BLOCK):
    chance = labeller.probabilities(
      fitted.labeller, embedding[start : start + labeller.BLOCK]
    )
    found += lineages.place(ranks.tree, chance, ranks.limits)
  return found
