"""Defines the Result of an analysis; prints and writes it in one way.

Every command is `analyse(sources, **options) -> Result`, and writes or prints
nothing itself; the report takes the same Results.
"""

import io
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.files import tables
from analysis.files.tables import Row
from plankton_jax.files import atomic

if TYPE_CHECKING:  # Matplotlib is imported only where something is drawn.
  from matplotlib.figure import Figure


Writer = Callable[[pathlib.Path], object]  # writes a file at a path


class Shown(NamedTuple):
  """A table for the terminal."""

  title: str
  rows: Sequence[Row]
  footer: str = ''


class Drawing(NamedTuple):
  """A figure, drawn only when it is saved, and the sources named below it."""

  draw: Callable[[], 'Figure']
  citations: Sequence[str] = ()


class Picture(NamedTuple):
  """A drawn figure as files."""

  png: bytes
  svg: bytes


class Result(NamedTuple):
  """All that one analysis found; every part of it may be empty."""

  notes: Sequence[str] = ()  # what was left out, and why
  shown: Sequence[Shown] = ()  # tables for the terminal
  tables: Mapping[str, Sequence[Row]] = {}  # CSV files by name
  values: Mapping[str, Any] = {}  # JSON files by name
  figures: Mapping[str, Drawing | Picture] = {}  # by name without an ending
  # Other files by name: writes one at a path; None removes an older one.
  files: Mapping[str, Writer | None] = {}
  # Files whose path is printed once they are written, each with a remark.
  announced: Mapping[str, str] = {}
  # CSV files that a person fills in, by name: one that is there stays.
  forms: Mapping[str, Sequence[Row]] = {}


def show(name: str, result: Result) -> None:
  """Prints the notes, each after the analysis' name, and the tables."""
  for note in dict.fromkeys(result.notes):
    print(f'{name}: {note}')
  for table in result.shown:
    tables.show(table.rows, table.title)
    if table.footer:
      print(f'  {table.footer}')


def write(result: Result, out: pathlib.Path) -> None:
  """Writes every file into a folder; a '/' in a file's name becomes '_'.

  A figure becomes name.png and name.svg. Prints the paths that the result
  announces.
  """
  out.mkdir(parents=True, exist_ok=True)
  for name, rows in result.tables.items():
    tables.write_csv(out / _plain(name), rows)
  for name, rows in result.forms.items():
    path = out / _plain(name)
    if path.exists():
      print(f'{path} is there already and stays: move it for a new one')
    else:
      tables.write_csv(path, rows)
  for name, value in result.values.items():
    tables.write_json(out / _plain(name), value)
  for name, writer in result.files.items():
    path = out / _plain(name)
    if writer is None:
      path.unlink(missing_ok=True)
    else:
      with atomic.file(path) as building:
        writer(building)
  for name, figure in figures(result):
    save(figure, out, name)
  for name, remark in result.announced.items():
    path = (out / _plain(name)).resolve()
    size = f'{path.stat().st_size / 1e6:.1f} MB'
    print(f'{path}{remark.format(size=size)}')


def content(data: str | bytes) -> Writer:
  """Returns a writer of bytes, or of text in UTF-8, for `Result.files`."""
  encoded = data.encode() if isinstance(data, str) else data
  return lambda path: path.write_bytes(encoded)


def figures(result: Result) -> Iterator[tuple[str, 'Figure | Picture']]:
  """Yields the figures by name, each drawn but not yet laid out or saved."""
  for name, drawing in result.figures.items():
    yield name, drawing if isinstance(drawing, Picture) else _draw(drawing)


def save(figure: 'Figure | Picture', out: pathlib.Path, name: str) -> Picture:
  """Writes a figure into a folder, which takes longer than to draw it."""
  try:
    picture = figure if isinstance(figure, Picture) else _files(figure)
  except Exception as error:
    error.add_note(f'in the figure {name}')
    raise
  for ending, content in picture._asdict().items():
    with atomic.file(out / f'{_plain(name)}.{ending}') as building:
      building.write_bytes(content)
  return picture


def render(drawing: Drawing) -> Picture:
  """Draws a figure and makes files of it."""
  return _files(_draw(drawing))


def _draw(drawing: Drawing) -> 'Figure':
  """Draws a figure, with its sources in small print below it."""
  from matplotlib import pyplot

  figure = drawing.draw()
  note = '\n'.join(dict.fromkeys(filter(None, drawing.citations)))
  if note:
    figure.text(0.01, -0.01, note, fontsize=6, color='0.4', va='top')
  pyplot.close(figure)  # Pyplot forgets it; it can still be saved.
  return figure


def _files(figure: 'Figure') -> Picture:
  """Lays a figure out and makes files of it."""
  from matplotlib import rcParams

  found = {}
  with warnings.catch_warnings():
    # Names may hold signs that no font has: a box is drawn for each.
    warnings.filterwarnings('ignore', 'Glyph .* missing from font')
    # The layout and its bounds once for both formats: savefig would draw the
    # figure anew to find those of each.
    figure.set_dpi(rcParams['savefig.dpi'])
    if (engine := figure.get_layout_engine()) is not None:
      engine.execute(figure)
      figure.set_layout_engine(None)
    bounds = figure.get_tightbbox().padded(rcParams['savefig.pad_inches'])
    for ending, metadata in (('png', {}), ('svg', {'Date': None})):
      held = io.BytesIO()
      figure.savefig(held, format=ending, bbox_inches=bounds, metadata=metadata)
      found[ending] = held.getvalue()
  return Picture(**found)


def _plain(name: str) -> str:
  return name.replace('/', '_')
