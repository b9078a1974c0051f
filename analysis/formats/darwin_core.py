"""Tabulates predictions as occurrences in Darwin Core.

The terms are those of https://dwc.tdwg.org/terms, used as OBIS's manual and
Martin-Cabrera et al. 2022, 'Best practices and recommendations for plankton
imaging data management', ask for images that a machine identified.
"""

import math
from collections.abc import Iterator, Sequence

import plankton_jax
from analysis.files.taxa import Path, Taxa, Taxon
from analysis.measures.openset import NO_CLASS, UNKNOWN
from analysis.measures.predictions import Prediction
from plankton_jax.data.classes import plain
from plankton_jax.data.sources.objects import Object

FILE = 'occurrences.csv'
ARTEFACT, NOT_LIVING = 'artefact', 'not living'
NO_TAXON = (UNKNOWN, NO_CLASS, ARTEFACT, NOT_LIVING)
NEEDED = ('eventDate', 'decimalLatitude', 'decimalLongitude')  # by OBIS


def rows(
  found: Sequence[Prediction],
  taxa: Taxa,
  references: str,
  *,
  overwrite_validated: bool,
) -> Iterator[dict[str, str]]:
  """Yields the occurrence of each object that has a taxon.

  An object that a person validated is ValidatedByHuman, with that taxon,
  unless it is overwritten; a dubious one and what `is_taxon` refuses are left
  out. `references` names the software and the encoder.
  """
  for one in found:
    item = one.item
    by_hand = not overwrite_validated and item.status == 'validated'
    doubtful = not overwrite_validated and item.status == 'dubious'
    name = item.taxon if by_hand else one.taxon
    if not is_taxon(name) or doubtful:
      continue
    placed = None if by_hand else one.placed
    yield occurrence(
      item,
      one.id,
      name,
      taxa,
      path=placed.path if placed else None,
      rank=placed.rank if placed else '',
      who=item.person if by_hand else '',
      references='' if by_hand else references,
      score=None if by_hand else one.score,
    )


def references(name: str, step: int | None) -> str:
  """Names the software and the encoder, for those who publish predictions."""
  of_step = '' if step is None else f' step {step}'
  return f'plankton_jax {plankton_jax.__version__}, {name}{of_step}'


def is_taxon(name: str) -> bool:
  """Tells whether a class, name or name<parent, is none of NO_TAXON."""
  return plain(name.partition('<')[0]) not in ('', *NO_TAXON)


def occurrence(
  item: Object,
  id: str,
  name: str,
  taxa: Taxa,
  *,
  path: Path | None = None,
  rank: str = '',
  who: str = '',
  references: str = '',
  score: float | None = None,
) -> dict[str, str]:
  """Makes the occurrence of one object.

  Args:
    item: what is known of the object.
    id: of the occurrence.
    name: of its class.
    taxa: what is known of classes.
    path: its lineage; None takes that of `taxa`.
    rank: of the last of the path, one of the table of taxa.
    who: identified it, if a person did.
    references: the software and the encoder, if they identified it.
    score: their probability; None where a person validated the name.
  """
  taxon = taxa.of.get(name, Taxon())
  path = taxon.lineage if path is None else path
  latitude = _degrees(item.latitude, 90.0)
  longitude = _degrees(item.longitude, 180.0)
  return {
    'occurrenceID': id,
    'eventID': '/'.join(filter(None, (item.sample, item.acquisition))),
    'catalogNumber': item.object_id,
    'basisOfRecord': 'MachineObservation',
    'occurrenceStatus': 'present',
    'eventDate': item.moment,
    'decimalLatitude': latitude,
    'decimalLongitude': longitude,
    'geodeticDatum': 'EPSG:4326' if latitude and longitude else '',
    'minimumDepthInMeters': _number(item.depth_min),
    'maximumDepthInMeters': _number(item.depth_max),
    'scientificName': taxon.name or name.partition('<')[0],
    'scientificNameID': taxon.name_id,
    'taxonRank': taxon.rank or (rank if rank in taxa.ranks else ''),
    'higherClassification': ' | '.join(path[:-1]),
    'verbatimIdentification': name,
    'identifiedBy': who,
    'identificationVerificationStatus': (
      'ValidatedByHuman' if score is None else 'PredictedByMachine'
    ),
    'identificationReferences': references,
    'identificationRemarks': (
      '' if score is None else f'probability {score:.4f}'
    ),
    'associatedMedia': item.image,
  }


def remarks(lines: Sequence[dict[str, str]]) -> list[str]:
  """Says what a data centre would miss."""
  found = []
  for name in (*NEEDED, 'scientificNameID'):
    missing = sum(not line[name] for line in lines)
    if missing:
      found.append(f'{missing:,} of {len(lines):,} without {name}')
  return [f'{FILE}: {", ".join(found)}.'] if found else []


def _degrees(text: str, most: float) -> str:
  number = _number(text)
  return number if number and abs(float(number)) <= most else ''


def _number(text: str) -> str:
  try:
    return text if math.isfinite(float(text)) else ''
  except ValueError:
    return ''
