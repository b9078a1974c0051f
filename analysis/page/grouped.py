"""Renders the page of groups: their most central images, like ones together."""

import math
from collections.abc import Sequence
from typing import Any

from analysis.files import inputs
from analysis.files.inputs import Embeddings, Source
from analysis.files.originals import Read
from analysis.measures.groups import Groups
from analysis.page import html, pictures

SHOWN = 200  # groups, the largest
CENTRAL = 8  # images of each

Row = dict[str, Any]


def branches(groups: int) -> int:
  """Returns into how many branches the page cuts the tree of some groups."""
  return max(1, round(math.sqrt(groups)))


def render(
  *,
  name: str,
  source: Source,
  found: Groups,
  lines: Sequence[Row],
  measures: Row,
  read: Read | None,
  rows: Embeddings,
  notes: Sequence[str],
) -> str:
  """Renders the page of groups, one section for each branch of the tree.

  `lines` are the groups as discover tabulates them.
  """
  shown = lines[:SHOWN]
  central = {
    line['group']: found.order[line['group']][:CENTRAL].tolist()
    for line in shown
  }
  wanted = [row for some in central.values() for row in some] if read else []
  places = {row: place for place, row in enumerate(wanted)}
  ids = rows.id
  sheets = pictures.sheets(wanted, lambda row: read(ids[row])) if read else []
  sections: dict[int, list[Row]] = {}
  for line in shown:
    one = {
      **line,
      'pictures': [
        {'id': ids[row], 'class': '', 'picture': places.get(row, -1)}
        for row in central[line['group']]
      ],
    }
    sections.setdefault(line['branch'], []).append(one)
  return html.render(
    'groups.html.j2',
    {'script': html.script('pictures.js')},
    title=name,
    run=source.name,
    total=len(lines),
    shown=len(shown),
    measures=measures,
    notes=notes,
    sections=[
      {'groups': some, 'images': sum(one['images'] for one in some)}
      for some in sections.values()
    ],
    citation=inputs.citations([source])[0],
    data=pictures.payload(sheets),
  )
