"""Tells what rows of one object's id are: copies, or different objects."""

import contextlib
import hashlib
import posixpath
import re
from collections.abc import Sequence
from typing import NamedTuple

from plankton_jax.data.ecotaxa import files
from plankton_jax.data.sources.objects import Object
from plankton_jax.errors import InputError, shorten_list

_LINES = 6  # that a message names at most
_ROUNDED = re.compile(r'\d(\.\d+)?[eE]\+\d+')


class Row(NamedTuple):
  """One row of a table: an image, and the object that it shows."""

  table: str
  line: int
  at: int  # among the table's rows
  rank: float
  item: Object

  @property
  def place(self) -> str:
    """Names the table and the line."""
    return f'{self.table}:{self.line}'


def join_copies(opened: files.Files, rows: list[Row]) -> list[Row]:
  """Gives rows of one id and rank one image, if theirs are copies.

  An image that is gone, of an earlier copy of a table, is one that is there and
  has its name.
  """
  first: dict[str, str] = {}  # image -> the one that it is a copy of
  for alike in _collisions(rows):
    known: dict[bytes, str] = {}  # content -> the first image of this one
    for row in alike:
      image = row.item.image
      with contextlib.suppress(ValueError):
        content = hashlib.blake2b(opened.read(image)).digest()
        first[image] = known.setdefault(content, image)
    there = {posixpath.basename(image): image for image in known.values()}
    for row in alike:
      image = row.item.image
      if image not in first and posixpath.basename(image) in there:
        first[image] = there[posixpath.basename(image)]
  return [
    row._replace(
      item=row.item._replace(image=first.get(row.item.image, row.item.image))
    )
    for row in rows
  ]


def keep_apart(rows: list[Row]) -> tuple[list[Row], list[str]]:
  """Puts the table's name before the sample of objects whose tables collide.

  Returns:
    The rows, and a note that names the tables.
  """
  apart = {
    row.table
    for rows in _collisions(rows)
    if len({row.table for row in rows}) > 1
    for row in rows
  }
  if not apart:
    return rows, []

  def named(row: Row) -> Row:
    if row.table not in apart:
      return row
    sample = f'{posixpath.splitext(row.table)[0]}/{row.item.sample}'
    return row._replace(item=row.item._replace(sample=sample))

  return [named(row) for row in rows], [
    'ids of different objects are equal in these tables, which are kept apart'
    f' by their names: {", ".join(sorted(apart))}'
  ]


def note_rounded(rows: Sequence[Row]) -> list[str]:
  """Notes ids that a spreadsheet seems to have rounded."""
  found = [row for row in rows if _is_rounded(row)]
  if not found:
    return []
  return [
    f'{len(found)} ids such as {found[0].item.object_id} ({found[0].place})'
    ' look rounded by a spreadsheet'
  ]


def note_alike(rows: Sequence[Row], opened: files.Files) -> list[str]:
  """Notes objects of which a table gives several images one rank.

  Raises:
    InputError: these are several objects, as most rows are such, or as their
      ids look rounded.
  """
  found = _collisions(rows)
  if not found:
    return []
  rounded = [own for own in found if _is_rounded(own[0])]
  first = (rounded or found)[0]
  place = opened.named(first[0].table)
  lines = shorten_list([str(row.line) for row in first], _LINES)
  gives = f'lines {lines} of {place} give the id {first[0].item.object_id!r}'
  if rounded:
    raise InputError(
      f'{gives}, which looks rounded by a spreadsheet, to different images:'
      ' restore the ids'
    )
  further = sum(map(len, found)) - len(found)
  if 2 * further > len(rows):
    raise InputError(
      f'{gives} and one img_rank to different images, as most rows do: give'
      ' each object an id of its own, or number img_rank'
    )
  return [
    f'{len(found):,} objects have several images of one img_rank, of which the'
    f' first row of the table is taken: {gives}; number img_rank, or give each'
    ' object an id of its own'
  ]


def _collisions(rows: Sequence[Row]) -> list[list[Row]]:
  """Groups rows of one id and rank that name different images."""
  alike: dict[tuple[str, float], dict[str, Row]] = {}
  for row in rows:
    images = alike.setdefault((row.item.id, row.rank), {})
    images.setdefault(row.item.image, row)
  return [list(rows.values()) for rows in alike.values() if len(rows) > 1]


def _is_rounded(row: Row) -> bool:
  return _ROUNDED.fullmatch(row.item.object_id) is not None
