"""Makes the body of EcoTaxa's call that predicts objects with scores.

POST object_set/classify_auto_multiple takes ClassifyAutoReqMult, as
py/API_models/crud.py of github.com/ecotaxa/ecotaxa_back defines it: three lists
of one length, target_ids [N], and for each object its taxa and their scores,
classifications [N][K] and scores [N][K]. EcoTaxa keeps the first three of an
object and shows the one with the highest score; it leaves objects that a person
has annotated as they are.
"""

from collections.abc import Sequence
from typing import Any

MOST = 3  # taxa of an object that EcoTaxa keeps

Taxa = Sequence[tuple[int, float]]  # number of the taxon, and its score


def request(objects: Sequence[tuple[int, Taxa]]) -> dict[str, Any]:
  """Makes the body for objects, each by its number with its likeliest taxa.

  Raises:
    ValueError: an object has no taxon, or a score is outside 0 … 1.
  """
  for number, taxa in objects:
    if not taxa:
      raise ValueError(f'object {number} has no taxon')
    if not all(0.0 <= score <= 1.0 for _, score in taxa):
      raise ValueError(f'object {number}: a score is outside 0 to 1')
  best = [
    sorted(taxa, key=lambda taxon: -taxon[1])[:MOST] for _, taxa in objects
  ]
  return {
    'target_ids': [number for number, _ in objects],
    'classifications': [[taxon for taxon, _ in taxa] for taxa in best],
    'scores': [[score for _, score in taxa] for taxa in best],
    'keep_log': True,  # required, though EcoTaxa always keeps it
  }
