"""The whole analysis as one HTML file that needs no network.

`python -m analysis.report --workdir=DIR` runs every part and gathers what they
wrote in DIR/analysis/report.html.
"""

import base64
import collections
import contextlib
import functools
import io
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from analysis import (
  audit,
  classifiers,
  confusions,
  distances,
  gallery,
  novelty,
  projection,
  retrieval,
  training,
)
from analysis.files import inputs
from analysis.files.inputs import Source
from analysis.measures import thresholds
from analysis.page import (
  albums,
  audits,
  chart,
  html,
  pictures,
  points,
  summary,
)
from plankton_jax import atomic
from plankton_jax.errors import InputError

Part = Callable[[list[Source], pathlib.Path], None]
DRAWN_ANEW = (
  'projection',
  'gallery',
  'audit',
)  # by the page, in place of the figure


class Outcome(NamedTuple):
  """What a part wrote in this run, and what it said it had to leave out."""

  files: dict[str, pathlib.Path]  # by name
  notes: list[str]

  def json(self, name: str) -> Any:
    """A file's content; None if it was not written."""
    path = self.files.get(name)
    return json.loads(path.read_text(encoding='utf-8')) if path else None


def parts() -> dict[str, Part]:
  """Every part by name, with the options that the flags give."""
  return {
    'training': training.analyse,
    'distances': functools.partial(
      distances.analyse, include_self=distances.INCLUDE_SELF.value
    ),
    'projection': functools.partial(
      projection.analyse, method=projection.METHOD.value
    ),
    'gallery': functools.partial(gallery.analyse, splits=gallery.SPLIT.value),
    'classifiers': classifiers.analyse,
    'retrieval': retrieval.analyse,
    'confusions': confusions.analyse,
    'novelty': functools.partial(
      novelty.analyse,
      neighbours=novelty.NEIGHBOURS.value,
      acceptance=thresholds.ACCEPTANCE.value,
    ),
    'audit': audit.analyse,
  }


def run(
  name: str, part: Part, sources: list[Source], out: pathlib.Path
) -> Outcome:
  """Runs one part; bad input ends in a note. Files of older runs are none."""
  before = {path: _stamp(path) for path in out.glob(f'{name}*')}
  said = _Tee(sys.stdout)
  try:
    with contextlib.redirect_stdout(said):
      part(sources, out)
  except InputError as error:
    print(f'{name}: {error}', file=said)
  lines = said.getvalue().splitlines()
  # Parts print `part: what is left out`; after an empty line it heads a table.
  notes = [
    line.removeprefix(f'{name}: ')
    for above, line in zip(['-', *lines], lines, strict=False)
    if line.startswith(f'{name}: ') and above
  ]
  files = {
    path.name: path
    for path in sorted(out.glob(f'{name}*'), key=_stamp)  # as written
    if before.get(path) != _stamp(path)
  }
  return Outcome(files, list(dict.fromkeys(notes)))


class _Tee(io.StringIO):
  """Keeps what it passes on."""

  def __init__(self, to):
    super().__init__()
    self._to = to

  def write(self, text: str) -> int:
    self._to.write(text)
    return super().write(text)


def _stamp(path: pathlib.Path) -> tuple[int, int]:
  stat = path.stat()
  return stat.st_mtime_ns, stat.st_ino


def gather(sources: list[Source], done: dict[str, Outcome]) -> dict[str, Any]:
  """All that the page shows, from what the parts wrote."""
  planes = done['projection'].json('projection.json')
  placed = []
  if planes:
    at = points.coordinates(done['projection'].files['projection.csv'])
    placed = [points.place(source, at) for source in sources]
  listed = done['gallery'].files.get('gallery.csv')
  rows = albums.read(listed) if listed else []
  doubtful, twins = (
    audits.read(done['audit'].files.get(f'{name}.csv'))
    for name in ('audit', 'audit_duplicates')
  )
  wanted = [
    # The gallery's first, so that they lie on few sheets.
    [row['id'] for row in rows if row['source'] == source.name]
    + [
      key
      for row in doubtful + twins
      if row['source'] == source.name
      for key, _ in audits.images(row)
    ]
    + (placed[i].id if placed else [])
    for i, source in enumerate(sources)
  ]
  sheets, known, missing = pictures.collect(sources, wanted)
  names = [source.name for source in sources]
  places = dict(zip(names, known, strict=True))
  return {
    'title': ' · '.join(names),
    'sources': sources,
    'measures': summary.measures(
      sources, lambda name: done[name].json(f'{name}.json')
    ),
    'configuration': summary.configuration(sources),
    'versions': summary.versions(),
    'citations': list(
      dict.fromkeys(
        s.config['citation']
        for s in sources
        if s.config and s.config['citation']
      )
    ),
    'notes': {name: one.notes for name, one in done.items()}
    | {'pictures': missing},
    'figures': {
      name: [
        html.figure(path)
        for path in one.files.values()
        if path.suffix == '.png' and name not in DRAWN_ANEW
      ]
      for name, one in done.items()
    },
    'albums': albums.nest(rows, places),
    'audits': audits.nest(doubtful, twins, places),
    'kinds': gallery.KINDS,
    'planes': planes or [],
    'left_out': sum(one.left_out for one in placed),
    'data': {
      'across': pictures.ACROSS,
      'sheets': [base64.b64encode(sheet).decode() for sheet in sheets],
      'plot': chart.plot('plot'),
      'map': points.payload(sources, placed, known) if placed else None,
    },
  }


def analyse(
  sources: list[Source], out: pathlib.Path, *, parts: dict[str, Part]
) -> None:
  """Runs the parts and writes out/report.html, whose path it prints last."""
  done = collections.defaultdict(lambda: Outcome({}, []))
  for name, part in parts.items():
    print(f'\n{name} …', flush=True)
    done[name] = run(name, part, sources, out)
  print('\nreport …', flush=True)
  scripts = {
    'bokeh': chart.script(),
    'script': html.script('pictures.js', 'map.js'),
  }
  page = html.render('report.html.j2', scripts, **gather(sources, done))
  path = out / 'report.html'
  atomic.text(path, page)
  print(f'{path.resolve()} ({path.stat().st_size / 1e6:.1f} MB)')


if __name__ == '__main__':
  inputs.main(lambda sources, out: analyse(sources, out, parts=parts()))
