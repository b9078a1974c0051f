"""The empty scatter plot of the map; the page's script fills it."""

from typing import Any


def script() -> str:
  """The plotting library's JavaScript, to be inlined."""
  from bokeh.resources import Resources

  library = Resources(mode='inline', components=['bokeh'], log_level='warn')
  return '\n'.join(library.js_raw).replace('\r\n', '\n')


def plot(target: str) -> dict[str, Any]:
  """A plot for the element `target`, as Bokeh.embed.embed_item takes it.

  The script finds `plot`, `points`, `shown`, `links` and `rings` by name. Pan,
  wheel and pinch are the library's; which point is meant is the script's.
  """
  from bokeh import models, plotting
  from bokeh.embed import json_item

  def source(name: str, *columns: str) -> models.ColumnDataSource:
    empty = {column: [] for column in columns}
    return models.ColumnDataSource(data=empty, name=name)

  figure = plotting.figure(
    name='plot',
    tools=[models.PanTool(name='pan'), models.WheelZoomTool(name='wheel')],
    toolbar_location=None,
    sizing_mode='stretch_both',
    x_range=(0, 1),
    y_range=(0, 1),
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
  return json_item(figure, target)
