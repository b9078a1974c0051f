"""Makes the interactive map: an empty plot, and points for its script."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_hex

from analysis.figures import style
from analysis.files import inputs
from analysis.files.inputs import Source
from analysis.measures import planes
from plankton_jax.neighbours import search

NEAREST = 10
MOST = 12_000  # the most points of a source on the map; more are sampled
SEED = 0

Row = Mapping[str, Any]


class Points(NamedTuple):
  """A source's points, split by split in the order of `planes.shown`."""

  xy: np.ndarray  # [N, 2] float32
  name: list[str]  # [N] class
  split: list[str]  # [N]
  id: list[str]  # [N]
  nearest: np.ndarray  # [N, K] the points that are nearest in the embedding
  distance: np.ndarray  # [N, K] their distances there
  left_out: int  # rows left out of the map


def coordinates(rows: Iterable[Row]) -> dict[str, np.ndarray]:
  """Gathers the rows of projection.csv: places float32 [N, 2] by source."""
  found: dict[str, list[tuple[float, float]]] = {}
  for row in rows:
    at = float(row['x']), float(row['y'])
    found.setdefault(row['source'], []).append(at)
  return {name: np.array(xy, np.float32) for name, xy in found.items()}


def place(source: Source, xy: np.ndarray) -> Points:
  """Places a source's points [N, 2], with their neighbours among them."""
  every = inputs.together(source.name, planes.shown(source))
  keep = np.arange(len(xy))
  if len(keep) > MOST:
    keep = np.random.default_rng(SEED).choice(len(xy), MOST, replace=False)
    keep.sort()
  distance, rows = search.nearest(every.embedding[keep], None, NEAREST)
  return Points(
    xy[keep],
    [str(name) or style.UNLABELLED for name in every.name[keep]],
    every.split[keep].tolist(),
    every.id[keep].tolist(),
    rows,
    distance,
    planes.count(source) - len(keep),
  )


def payload(
  sources: Sequence[Source],
  points: Sequence[Points],
  images: Sequence[Mapping[str, int]],
) -> dict[str, Any]:
  """Packs the map for JSON; `images` gives each source's pictures by id."""
  mark_of = style.marks(planes.shown(source) for source in sources)
  colours = style.colours(mark_of)
  names = [*mark_of, style.UNLABELLED]
  index = {name: i for i, name in enumerate(names)}
  splits = list(dict.fromkeys(s for one in points for s in one.split))
  return {
    'classes': [
      {'name': n, 'colour': to_hex(colours[n]), 'unseen': mark_of.get(n) == 'D'}
      for n in names
    ],
    'splits': splits,
    'sources': [
      {
        'name': source.name,
        'x': packed(one.xy[:, 0], '<f4'),
        'y': packed(one.xy[:, 1], '<f4'),
        'class': packed([index[n] for n in one.name], '<u2'),
        'split': packed([splits.index(s) for s in one.split], '<u2'),
        'image': packed([known.get(key, -1) for key in one.id], '<i4'),
        'id': one.id,
        'nearest': packed(one.nearest, '<u4'),
        'distance': packed(one.distance, '<f4'),
      }
      for source, one, known in zip(sources, points, images, strict=True)
    ],
  }


def packed(values: Any, dtype: str) -> str:
  """Packs numbers as base64 of little-endian `dtype`."""
  return base64.b64encode(np.asarray(values, dtype).tobytes()).decode()


def script() -> str:
  """Returns the plotting library's JavaScript, to be inlined."""
  from bokeh.resources import Resources

  library = Resources(mode='inline', components=['bokeh'], log_level='warn')
  return '\n'.join(library.js_raw).replace('\r\n', '\n')


def plot(target: str) -> dict[str, Any]:
  """Makes an empty plot for the element `target`, for Bokeh.embed.embed_item.

  The script finds `plot`, `points`, `shown`, `links` and `rings` by name. The
  library handles pan, wheel and pinch; the script picks the point.
  """
  from bokeh import models, plotting
  from bokeh.core.types import ID
  from bokeh.embed import json_item

  def source(name: str, *columns: str) -> models.ColumnDataSource:
    empty: dict[str, list[Any]] = {column: [] for column in columns}
    return models.ColumnDataSource(data=empty, name=name)

  figure = plotting.figure(
    name='plot',
    tools=[models.PanTool(name='pan'), models.WheelZoomTool(name='wheel')],
    toolbar_location=None,
    sizing_mode='stretch_both',
    x_range=models.Range1d(start=0, end=1),
    y_range=models.Range1d(start=0, end=1),
    x_axis_type=None,
    y_axis_type=None,
    outline_line_color=None,
    background_fill_color=None,
    border_fill_color=None,
    min_border=0,
  )
  figure.grid.visible = False
  shown = models.BooleanFilter(name='shown')
  looks = ('fill', 'mark', 'size', 'alpha', 'edge')
  figure.scatter(
    'x',
    'y',
    source=source('points', 'x', 'y', *looks),
    view=models.CDSView(filter=shown),
    fill_color='fill',
    fill_alpha='alpha',
    line_color='edge',
    line_alpha='alpha',
    line_width=0.7,
    marker='mark',
    size='size',
  )
  figure.segment(
    *('x0', 'y0', 'x1', 'y1'),
    source=source('links', 'x0', 'y0', 'x1', 'y1', 'line'),
    line_color='line',
    line_alpha=0.6,
  )
  figure.scatter(
    'x',
    'y',
    source=source('rings', 'x', 'y', 'size', 'line'),
    fill_color=None,
    line_color='line',
    line_width=2,
    size='size',
  )
  figure.subscribed_events = {'mousemove', 'mouseleave', 'tap'}
  return dict(json_item(figure, ID(target)))
