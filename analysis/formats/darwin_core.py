"""Tabulates predictions as occurrences in Darwin Core.

The terms are those of https://dwc.tdwg.org/terms, used as OBIS's manual and
Martin-Cabrera et al. 2022, 'Best practices and recommendations for plankton
imaging data management', ask for images that a machine identified.
"""

import datetime
import math
import re
from collections.abc import Iterator, Sequence

from analysis.files.taxa import Taxa, Taxon
from analysis.measures.predictions import Prediction
from plankton_jax.data.sources.objects import Object

FILE = 'occurrences.csv'
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
  unless it is overwritten; a dubious one is left out. `references` names the
  software and the encoder.
  """
  for one in found:
    item = one.item
    by_hand = not overwrite_validated and item.status == 'validated'
    doubtful = not overwrite_validated and item.status == 'dubious'
    name = item.taxon if by_hand else one.taxon
    if not name or doubtful:
      continue
    taxon = taxa.of.get(name, Taxon())
    path = taxon.lineage
    if one.placed and not by_hand:
      path = one.placed.path
    rank = one.placed.rank if one.placed and not by_hand else ''
    latitude, longitude = (
      _degrees(item.latitude, 90.0),
      _degrees(item.longitude, 180.0),
    )
    yield {
      'occurrenceID': one.id,
      'eventID': '/'.join(filter(None, (item.sample, item.acquisition))),
      'catalogNumber': item.object_id,
      'basisOfRecord': 'MachineObservation',
      'occurrenceStatus': 'present',
      'eventDate': moment(item),
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
      'identifiedBy': item.person if by_hand else '',
      'identificationVerificationStatus': (
        'ValidatedByHuman' if by_hand else 'PredictedByMachine'
      ),
      'identificationReferences': '' if by_hand else references,
      'identificationRemarks': (
        '' if by_hand else f'probability {one.score:.4f}'
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


def moment(item: Object) -> str:
  """Formats date and time (UTC) by ISO 8601; '' if there is no such day."""
  digits = re.sub(r'\D', '', item.date)
  clock = re.sub(r'\D', '', item.time).zfill(6)
  try:
    if not item.time:
      return datetime.datetime.strptime(digits, '%Y%m%d').date().isoformat()
    when = datetime.datetime.strptime(digits + clock, '%Y%m%d%H%M%S')
  except ValueError:
    return ''
  return f'{when.isoformat()}Z'


def _degrees(text: str, most: float) -> str:
  number = _number(text)
  return number if number and abs(float(number)) <= most else ''


def _number(text: str) -> str:
  try:
    return text if math.isfinite(float(text)) else ''
  except ValueError:
    return ''
