"""Finds the most similar images in the collection.

`python -m analysis.neighbors --workdir=DIR --query=IMAGE [--count=12]`. The
query is the id of an image in any split, or an image file. Distances are
Euclidean, in the embedding. `--encoder=plankton --images=FOLDER` in place of
the workdir searches a folder that nothing was trained on.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures import images
from analysis.figures.style import plt
from analysis.files import command, folders, inputs, originals
from analysis.files.inputs import Rows, Source
from analysis.files.originals import Read
from analysis.files.result import Drawing, Result, Shown
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError
from plankton_jax.files import home
from plankton_jax.neighbours import choice

QUERY = flags.DEFINE_string(
  'query', None, 'The id of an image in any split, or an image file.'
)
COUNT = flags.DEFINE_integer('count', 12, 'How many neighbours to show.')
for name in ('images', 'pixel_um', 'search'):
  flags.declare_key_flag(name)  # --help shows it

ACROSS = 6  # neighbours in a line of the figure
TOP, LINE = 0.7, 1.7  # inches: the heading, a line of images
LETTERS = 17  # of an id under its picture
LONGEST = 100  # letters of the query in the name of the files

Row = dict[str, Any]


class Query(NamedTuple):
  """The image to search for."""

  embedding: np.ndarray  # [D]
  row: int  # its own row in the collection; -1 for a file
  pixels: np.ndarray | None  # of a file, uint8 [H, W] or [H, W, 3]


def find(
  source: Source, rows: Rows, query: str, pixel_um: float | None = None
) -> Query:
  """Finds the query by its id, or by its file, with pixels of `pixel_um`.

  Raises:
    InputError: there is neither, or the file cannot be read.
  """
  own = np.flatnonzero(rows.id == query)
  if own.size:
    return Query(rows.embedding[own[0]], int(own[0]), None)
  path = home.expand(query)
  if not path.is_file():
    raise InputError(
      f'--query={query}: neither a file nor the id of an image; ids are such'
      f' as {rows.id[0]}'
    )
  encoder = folders.encoder(source)
  pixels = originals.read(path, encoder)
  embedding = folders.embed_one(encoder, pixels, pixel_um)
  return Query(embedding, -1, pixels)


def similar(
  rows: Rows, query: Query, count: int, way: str = 'auto'
) -> tuple[list[Row], str]:
  """Lists the nearest rows, nearest first, without the query's own.

  Returns:
    The rows, and how they were found.
  """
  found = choice.nearest(
    query.embedding[None], rows.embedding, count + 1, way=way
  )
  near = np.flatnonzero(found.rows[0] != query.row)[:count]
  lines = [
    {
      'rank': rank,
      'id': rows.id[row],
      'class': rows.name[row],
      'split': rows.split[row],
      'distance': far,
    }
    for rank, (far, row) in enumerate(
      zip(found.distance[0, near], found.rows[0, near], strict=True), 1
    )
  ]
  return lines, found.how


def shortened(key: str) -> str:
  """Shortens an id to the end that fits under its picture."""
  return key if len(key) <= LETTERS else f'…{key[1 - LETTERS :]}'


def draw(
  title: str, query: tuple[np.ndarray, str], found: list[Row], read: Read
) -> plt.Figure:
  """Draws the query at the left, then its neighbours in lines."""
  cell, gap = images.CELL, images.GAP
  width = (1 + ACROSS) * cell + gap
  height = TOP + max(1, -(-len(found) // ACROSS)) * LINE
  on = images.canvas(width, height)
  on.ax.text(0.02, 0.12, title, fontsize=11, va='center')
  on.ax.text(0.02, 0.5, 'query', fontsize=9, va='center')
  on.ax.text(cell + gap, 0.5, 'nearest images', fontsize=9, va='center')
  middle = cell + 0.45 * gap
  on.ax.plot([middle] * 2, [0.42, height], color='0.8', lw=0.6)
  images.put(on, 0.0, TOP, *query)
  for place, row in enumerate(found):
    line, column = divmod(place, ACROSS)
    text = '\n'.join(
      (
        f'{row["distance"]:.3f}, {row["split"]}',
        images.wrapped(row['class']) or 'no label',
        shortened(row['id']),
      )
    )
    left, top = (1 + column) * cell + gap, TOP + line * LINE
    images.put(on, left, top, read(row['id']), text)
  return images.finish(on)


def analyse(
  sources: Sequence[Source],
  *,
  query: str,
  count: int,
  pixel_um: float | None = None,
  way: str = 'auto',
  read: Read | None = None,
) -> Result:
  """Finds and draws the `count` images most similar to a query.

  `pixel_um` is the side of a queried file's pixels, µm; None takes the run's.
  `way` is that of `choice.nearest`. `read` gives the images of the collection;
  None takes the run's.

  Raises:
    InputError: there is not one run, no such query, a count below 1, or only
      one image in the collection.
  """
  source = command.one_run(sources, 'neighbors')
  if count < 1:
    raise InputError(f'--count={count}: give 1 or more')
  rows = inputs.together(source.name, source.splits)
  if not len(rows.id):
    raise InputError(f'{source.name}: its splits hold no images')
  wanted = find(source, rows, query, pixel_um)
  found, how = similar(rows, wanted, count, way)
  if not found:
    raise InputError(f'{source.name}: {query} is its only image')
  stem = pathlib.PurePath(query)
  name = str(stem if wanted.row >= 0 else stem.name).rpartition('.')[0]
  name = f'neighbors_{(name or stem.name)[-LONGEST:]}'
  listed = Result(
    shown=[
      Shown(
        f'neighbors: of {query}', found, f'of {len(rows.id):,} images: {how}'
      )
    ],
    tables={f'{name}.csv': found},
    announced={f'{name}.csv': ''},
  )
  try:
    picture = read or originals.reader(source)
  except InputError as error:
    return listed._replace(notes=[f'no figure: {error}'])
  text = shortened(stem.name)
  if wanted.row >= 0:
    label = images.wrapped(rows.name[wanted.row]) or 'no label'
    text = f'{rows.split[wanted.row]}\n{label}\n{shortened(query)}'
  pixels = picture(query) if wanted.pixels is None else wanted.pixels
  title = f'{source.name}: the images most similar to {stem.name}'
  figure = Drawing(
    lambda: draw(title, (pixels, text), found, picture),
    inputs.citations(sources),
  )
  return listed._replace(
    figures={name: figure}, announced={f'{name}.csv': '', f'{name}.png': ''}
  )


def asked(sources: Sequence[Source]) -> Result:
  """Runs the analysis that the flags ask for."""
  source = command.one_run(sources, 'neighbors')
  if not QUERY.value:
    raise InputError('--query is missing: an image file, or the id of an image')
  if bool(source.encoder) != bool(command.IMAGES.value):
    raise InputError(
      '--encoder=NAME and --images=FOLDER, the images to search, go together'
    )
  pixel_um, read = command.PIXEL_UM.value, None
  if command.IMAGES.value:
    images = folder.objects(command.IMAGES.value, field='--images')
    embedded = folders.embed(
      folders.encoder(source), images, pixel_um=pixel_um, desc='images'
    )
    source = source._replace(splits={'images': embedded.rows})
    read = originals.reader_of(images)
  return analyse(
    [source],
    query=QUERY.value,
    count=COUNT.value,
    pixel_um=pixel_um,
    way=command.SEARCH.value,
    read=read,
  )


if __name__ == '__main__':
  command.run('neighbors', asked, untrained=True)
