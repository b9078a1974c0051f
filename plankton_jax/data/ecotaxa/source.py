"""Turns an EcoTaxa export into a source of labelled images."""

import collections
import hashlib
import logging
from collections.abc import Sequence

from plankton_jax.data import workers
from plankton_jax.data.ecotaxa import read
from plankton_jax.data.pixels import images
from plankton_jax.data.sources.objects import Objects
from plankton_jax.data.sources.source import Example, Source
from plankton_jax.errors import InputError

log = logging.getLogger(__name__)


def from_export(
  path: str,
  labelled_status: Sequence[str],
  group_by: str,
  image_rank: str | int = 'lowest',
) -> Source:
  """Takes the objects whose annotation is in one of the given states.

  Args:
    path: a zip archive or a folder.
    labelled_status: states, of `read.STATES`.
    group_by: a key of `read.GROUPS` that the objects must have, or ''.
    image_rank: as in `read.export`.

  Raises:
    InputError: there is no export, a state is unknown, no object is in such a
      state, or none names the sample or acquisition asked for.
  """
  if isinstance(labelled_status, str) or not labelled_status:
    raise InputError(
      "data.labelled_status must be a tuple of states, such as ('validated',)"
    )
  for status in labelled_status:
    if status not in read.STATES:
      raise InputError(
        f'data.labelled_status: {status!r} is none of {", ".join(read.STATES)}'
      )
  export = read.export(path, image_rank)
  place = export.files.place
  counts = collections.Counter(item.status for item in export.objects)
  log.info('EcoTaxa export %s: %s', place, describe(export))
  for note in export.notes:
    log.warning('%s', note)
  chosen = [item for item in export.objects if item.status in labelled_status]
  if not chosen:
    held = ', '.join(f'{n:,} {s}' for s, n in counts.most_common()) or 'none'
    if export.skipped:
      name, reason = export.skipped[0]
      held += f'; {len(export.skipped)} left out, as {name}: {reason}'
    remedy = 'set data.labelled_status'
    if counts.keys().isdisjoint(read.STATES):
      known = ', '.join(read.STATES)
      remedy = f'object_annotation_status must be one of {known}'
    if not counts:
      remedy = 'no row can be used'
    elif not any(item.taxon for item in export.objects):
      remedy = (
        'export it with its annotations, object_annotation_status and'
        ' object_annotation_category'
      )
    raise InputError(
      f'{place}: no object is {" or ".join(labelled_status)} ({held}): {remedy}'
    )
  if group_by and not any(getattr(item, group_by) for item in chosen):
    raise InputError(
      f'{place}: no object names its {group_by}: export it with samples and'
      " acquisitions, or set data.group_by=''"
    )
  left_aside = {
    f'{status} (data.labelled_status)': count
    for status, count in sorted(counts.items())
    if status not in labelled_status
  }
  if export.further:
    left_aside['further image of an object'] = export.further
  if export.repeated:
    left_aside['row that repeats another one'] = export.repeated
  class_names = tuple(sorted({item.taxon for item in chosen}))
  label = {name: i for i, name in enumerate(class_names)}

  def load(row: int) -> Example:
    item = chosen[row]
    try:
      normal = images.ingest(export.files.read(item.image))
    except ValueError as error:
      return Example(item.id, label[item.taxon], None, str(error))
    return Example(
      item.id,
      label[item.taxon],
      normal.data,
      deepest=normal.deepest,
      note=normal.note,
    )

  state = hashlib.blake2b(digest_size=16)
  digests = workers.in_order(
    lambda item: export.files.digest(item.image), chosen, desc='read'
  )
  for item, content in zip(chosen, digests, strict=True):
    state.update(f'{item.id}\0{item.taxon}\0'.encode() + content + b'\0')
  return Source(
    place=str(place),
    fingerprint=state.hexdigest(),
    class_names=class_names,
    examples=lambda: workers.in_order(load, range(len(chosen)), desc='ingest'),
    total=len(chosen),
    skipped=export.skipped,
    left_aside=left_aside,
    measures=export.measures,
  )


def objects(
  path: str, image_rank: str | int = 'lowest', *, field: str = 'data.path'
) -> Objects:
  """Takes every object of an export, annotated or not.

  Raises:
    InputError: there is no export.
  """
  export = read.export(path, image_rank, field=field)
  for note in export.notes:
    log.warning('%s', note)
  counts = {
    'further image of an object': export.further,
    'row that repeats another one': export.repeated,
  }
  return Objects(
    place=str(export.files.place),
    ids=tuple(item.id for item in export.objects),
    read=lambda row: export.files.read(export.objects[row].image),
    skipped=export.skipped,
    left_aside={reason: n for reason, n in counts.items() if n},
    measures=export.measures,
    items=export.objects,
  )


def describe(export: read.Export) -> str:
  """Describes an export in one line: objects by state, samples, images."""
  counts = collections.Counter(item.status for item in export.objects)
  parts = [f'{count:,} {status}' for status, count in counts.most_common()]
  samples = len({item.sample for item in export.objects})
  acquisitions = len({(i.sample, i.acquisition) for i in export.objects})
  parts.append(f'{samples:,} samples, {acquisitions:,} acquisitions')
  if export.further:
    parts.append(f'{export.further:,} further images of the same objects')
  return ', '.join(parts)
