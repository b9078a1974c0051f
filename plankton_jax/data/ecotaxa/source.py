"""Turns an EcoTaxa export into a source of labelled images."""

import collections
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from plankton_jax.data import workers
from plankton_jax.data.ecotaxa import read, table
from plankton_jax.data.ecotaxa.files import Files
from plankton_jax.data.sources import contents
from plankton_jax.data.sources.objects import Object, Objects, to_source
from plankton_jax.data.sources.source import Source
from plankton_jax.errors import InputError

log = logging.getLogger(__name__)


def from_export(
  path: str,
  labelled_status: Sequence[str],
  group_by: str,
  image_rank: str | int = 'lowest',
  cache_dir: Path | None = None,
) -> Source:
  """Takes the objects whose annotation is in one of the given states.

  Args:
    path: an archive, a folder or a table.
    labelled_status: states, of `table.STATES`.
    group_by: a key of `read.GROUPS` that the objects must have, or ''.
    image_rank: as in `read.export`.
    cache_dir: remembers the content of images that lie unpacked, so that only
      those that change are read again.

  Raises:
    InputError: there is no export, a state is unknown, no object is in such a
      state, or none names the sample or acquisition asked for.
  """
  if isinstance(labelled_status, str) or not labelled_status:
    raise InputError(
      "data.labelled_status must be a tuple of states, such as ('validated',)"
    )
  for status in labelled_status:
    if status not in table.STATES:
      raise InputError(
        f'data.labelled_status: {status!r} is none of {", ".join(table.STATES)}'
      )
  export = read.export(path, image_rank)
  place = export.files.place
  log.info('EcoTaxa export %s: %s', place, describe(export))
  for note in export.notes:
    log.warning('%s', note)
  chosen = [item for item in export.objects if item.status in labelled_status]
  if not chosen:
    raise _none_labelled(export, labelled_status)
  if group_by and not any(getattr(item, group_by) for item in chosen):
    raise InputError(
      f'{place}: no object names its {group_by}: export it with samples and'
      " acquisitions, or set data.group_by=''"
    )
  counts = collections.Counter(item.status for item in export.objects)
  unlabelled = {
    f'{status} (data.labelled_status)': count
    for status, count in sorted(counts.items())
    if status not in labelled_status
  }
  labels, class_names = _labels(chosen, labelled_status)
  found = Objects(
    place=str(place),
    ids=tuple(item.id for item in chosen),
    read=_reader(export),
    labels=labels,
    skipped=export.skipped,
    class_names=class_names,
    left_aside=unlabelled | _left_aside(export),
    measures=export.measures,
  )
  state = hashlib.blake2b(digest_size=16)
  digests = _digests(export.files, [item.image for item in chosen], cache_dir)
  for item, content in zip(chosen, digests, strict=True):
    state.update(f'{item.id}\0{item.taxon}\0'.encode() + content + b'\0')
  return to_source(found, state.hexdigest())


def _digests(
  files: Files, images: Sequence[str], cache_dir: Path | None
) -> list[bytes]:
  """Hashes images; reads those that lie in a folder only if they changed."""
  root = files.place
  known: dict[str, bytes] = {}
  if root.is_dir():
    there = sorted({*images} & {*files.images})
    loose = [name for name in there if (root / name).is_file()]
    hashes = contents.digests(root, loose, cache_dir)
    known = dict(zip(loose, hashes, strict=True))
  packed = [name for name in images if name not in known]
  unpacked = workers.in_order(files.digest, packed, desc='read')
  known |= zip(packed, unpacked, strict=True)
  return [known[name] for name in images]


def objects(
  path: str, image_rank: str | int = 'lowest', *, field: str = 'data.path'
) -> Objects:
  """Takes every object of an export; labels those that are validated.

  Raises:
    InputError: there is no export.
  """
  export = read.export(path, image_rank, field=field)
  for note in export.notes:
    log.warning('%s', note)
  labels, class_names = _labels(export.objects, ('validated',))
  return Objects(
    place=str(export.files.place),
    ids=tuple(item.id for item in export.objects),
    read=_reader(export),
    labels=labels,
    skipped=export.skipped,
    class_names=class_names,
    left_aside=_left_aside(export),
    measures=export.measures,
    items=export.objects,
  )


def _none_labelled(
  export: read.Export, labelled_status: Sequence[str]
) -> InputError:
  """Builds the error for an export without an object in the given states."""
  counts = collections.Counter(item.status for item in export.objects)
  held = ', '.join(f'{n:,} {s}' for s, n in counts.most_common()) or 'none'
  if export.skipped:
    name, reason = export.skipped[0]
    held += f'; {len(export.skipped)} left out, as {name}: {reason}'
  remedy = 'set data.labelled_status'
  if counts.keys().isdisjoint(table.STATES):
    known = ', '.join(table.STATES)
    remedy = f'object_annotation_status must be one of {known}'
  if not counts:
    remedy = 'no row can be used'
  elif not any(item.taxon for item in export.objects):
    remedy = (
      'export it with its annotations, object_annotation_status and'
      ' object_annotation_category'
    )
  return InputError(
    f'{export.files.place}: no object is {" or ".join(labelled_status)}'
    f' ({held}): {remedy}'
  )


def _left_aside(export: read.Export) -> dict[str, int]:
  """Counts what is left out of an export without a name, by the reason."""
  counts = {
    'further image of an object': export.further,
    'row that repeats another one': export.repeated,
  }
  return {reason: count for reason, count in counts.items() if count}


def _labels(
  items: Sequence[Object], states: Sequence[str]
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Labels the objects in these states by their taxa, others -1.

  Returns:
    Labels int32 [N], and the taxa.
  """
  taxa = [item.taxon if item.status in states else '' for item in items]
  names = tuple(sorted({*taxa} - {''}))
  index = {name: i for i, name in enumerate(names)} | {'': -1}
  return np.array([index[taxon] for taxon in taxa], np.int32), names


def _reader(export: read.Export) -> Callable[[str], bytes]:
  """Makes a function from an object's id to the bytes of its image."""
  image = {item.id: item.image for item in export.objects}
  return lambda id: export.files.read(image[id])


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
