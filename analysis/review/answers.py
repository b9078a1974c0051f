"""Answers what the page of a review asks: JSON, or bytes where there are many.

Every function takes the session and what was asked: the query's arguments of
READS, and the JSON object of WRITES.
"""

import json
import pathlib
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from analysis.files import result
from analysis.files.taxa import Taxa
from analysis.review import outcome, store
from analysis.review.choice import View
from analysis.review.session import Session
from plankton_jax.errors import InputError

MOST_PICTURES = 256  # in one answer
BINARY = {'Content-Type': 'application/octet-stream'}

Asked = Mapping[str, Any]
Json = dict[str, Any]


class Packed(NamedTuple):
  """Holds bytes and the headers to send them with."""

  data: bytes
  headers: dict[str, str]


def start(session: Session, asked: Asked) -> Json:
  """Tells what is reviewed."""
  del asked
  return {
    'name': session.images.name,
    'images': len(session.images.ids),
    'seq': session.seq(),
    'drawn': session.images.drawn is not None,
    'special': session.special(),
    'lineages': _lineages(session.images.taxa),
  }


def _lineages(known: Taxa) -> dict[str, str]:
  """Maps each taxon of a lineage to the way that leads to it from the root."""
  found: dict[str, str] = {}
  for name, taxon in known.of.items():
    for end, part in enumerate(taxon.lineage, 1):
      found.setdefault(part, ' > '.join(taxon.lineage[:end]))
    if taxon.lineage:
      found[name] = ' > '.join(taxon.lineage)
  return found


def seq(session: Session, asked: Asked) -> Json:
  """Tells the number of the last event."""
  del asked
  return {'seq': session.seq()}


def sets(session: Session, asked: Asked) -> Json:
  """Lists the sets to look at, and counts decided images by name."""
  del asked
  state = session.state()
  used = np.bincount(
    state.label[state.label != store.UNDECIDED], minlength=len(state.names)
  )
  return {
    'sets': [one._asdict() for one in session.sets()],
    'decided': [
      {'name': name, 'images': int(count)}
      for name, count in zip(state.names, used.tolist(), strict=True)
      if count
    ],
  }


def situation(session: Session, asked: Asked) -> Packed:
  """Packs labels and predictions as int16, and confidence in 255ths.

  The names that they are numbers of come first, as JSON after its length as
  uint32.
  """
  del asked
  state, fitted = session.state(), session.fitted()
  about = {
    'seq': fitted.seq,
    'names': state.names,
    'classes': fitted.predicted.names,
    'decisions': state.decisions,
  }
  parts = (
    state.label.astype('<i2'),
    fitted.predicted.first.astype('<i2'),
    np.round(255 * fitted.predicted.confidence).astype(np.uint8),
  )
  text = json.dumps(about).encode()
  text += b' ' * (-len(text) % 4)
  data = struct.pack('<I', len(text)) + text
  return Packed(data + b''.join(part.tobytes() for part in parts), BINARY)


def thumbs(session: Session, asked: Asked) -> Packed:
  """Packs pictures one after the other, after their sizes as uint32.

  Raises:
    InputError: `rows` are not numbers of images, or too many.
  """
  numbers = asked.get('rows', '').split(',')
  if len(numbers) > MOST_PICTURES or not all(n.isdecimal() for n in numbers):
    raise InputError(f'rows: give 1 to {MOST_PICTURES} numbers of images')
  rows = list(map(int, numbers))
  if max(rows) >= len(session.images.ids):
    raise InputError(f'rows: there is no image {max(rows)}')
  found = [session.images.thumbnails.of(row) for row in rows]
  sizes = np.array([len(one) for one in found], '<u4').tobytes()
  kept = {'Cache-Control': 'private, max-age=86400'}
  return Packed(sizes + b''.join(found), BINARY | kept)


def view(session: Session, asked: Asked, kind: str) -> Packed:
  """Lists the images of a set, a decided name, a draw, or the unsure ones.

  Raises:
    InputError: there is no such list.
  """
  return _pack_view(session, session.view(kind, asked.get('of', '')))


def about(session: Session, asked: Asked, row: int) -> Json:
  """Tells an image's name, and the classes that it is likeliest of.

  Raises:
    InputError: there is no such image.
  """
  del asked
  nearest = session.nearest(row)
  return {'id': session.images.ids[row], 'nearest': nearest}


def like(session: Session, asked: Asked) -> Packed:
  """Lists what is most like some images after them.

  Raises:
    InputError: `rows` are not numbers of images.
  """
  return _pack_view(session, session.like(asked.get('rows', [])))


def decide(session: Session, asked: Asked) -> Json:
  """Commits a decision.

  Raises:
    InputError: it names no class, rows or groups that are there.
  """
  return session.decide(
    asked.get('who', ''), str(asked.get('kind')), asked.get('seen', 0), asked
  )._asdict()


def undo(session: Session, asked: Asked) -> Json:
  """Undoes a person's last decision."""
  return session.undo(asked.get('who', ''))._asdict()


def redo(session: Session, asked: Asked) -> Json:
  """Takes back a person's last undoing."""
  return session.redo(asked.get('who', ''))._asdict()


def write(session: Session, asked: Asked, out: pathlib.Path) -> Json:
  """Writes the tables, and the images by class if `classes` is asked.

  Raises:
    InputError: no image has a class to write it by.
  """
  state, predicted = session.state(), session.fitted().predicted
  lines = outcome.rows(session.images, state, predicted, session.events())
  found = outcome.gather(session.images, predicted, lines)
  notes = list(found.notes)
  written = [*found.tables, *(n for n, w in found.files.items() if w)]
  result.write(found, out)
  if asked.get('classes'):
    count, gone = outcome.write_classes(out / 'classes', session.images, lines)
    written.append(f'classes ({count:,} images)')
    if gone:
      notes.append(f'{gone:,} images are no longer there: in no folder')
  return {'folder': str(out), 'written': written, 'notes': notes}


def _pack_view(session: Session, view: View) -> Packed:
  """Packs rows as int32; the rest is in a header, of ASCII alone."""
  header = {
    'line': view.line,
    'name': view.name,
    'names': session.names(view.rows[: view.line]),
  }
  data = view.rows.astype('<i4').tobytes()
  return Packed(data, BINARY | {'X-View': json.dumps(header)})


READS: dict[str, Callable[..., Json | Packed]] = {
  'start': start,
  'sets': sets,
  'state': situation,
  'seq': seq,
  'thumbs': thumbs,
  'view/<kind>': view,
  'about/<int:row>': about,
}
WRITES: dict[str, Callable[..., Json | Packed]] = {
  'like': like,
  'decide': decide,
  'undo': undo,
  'redo': redo,
}  # and `write`, which is given a folder
