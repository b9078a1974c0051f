"""Makes the whole analysis one HTML file that needs no network.

`python -m analysis.report --workdir=DIR` runs every part, writes its files and
gathers the Results in DIR/analysis/report.html.
"""

import collections
import functools
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from analysis import (
  audit,
  classifiers,
  confusions,
  distances,
  gallery,
  novelty,
  projection,
  retrieval,
  taxonomy,
  training,
)
from analysis.files import command, result, tables, taxa
from analysis.files.inputs import Source
from analysis.files.result import Picture, Result
from analysis.measures import ranks
from analysis.page import html, lists, pictures, scatter, summary
from plankton_jax import host
from plankton_jax.cli import command as commands
from plankton_jax.errors import InputError

for flag in (
  'workdir', 'embeddings', 'out', 'acceptance', 'neighbours', 'taxa', 'method',
  'split', 'include_self', 'grid', 'loss', 'scaling',
):  # fmt: skip
  flags.declare_key_flag(flag)  # --help shows it

Part = Callable[[Sequence[Source]], Result]
# Parts that scripts show on the page instead of figures.
ON_THE_PAGE = ('projection', 'gallery', 'audit')


class Done(NamedTuple):
  """A part's Result, and its figures as they were drawn."""

  result: Result = Result()
  pictures: Sequence[Picture] = ()


def parts() -> dict[str, Part]:
  """Lists every part by name, with its options from the flags."""
  return {
    'training': training.analyse,
    'distances': functools.partial(
      distances.analyse, include_self=distances.INCLUDE_SELF.value
    ),
    'projection': functools.partial(
      projection.analyse, method=projection.METHOD.value
    ),
    'gallery': functools.partial(gallery.analyse, splits=gallery.SPLIT.value),
    'classifiers': functools.partial(
      classifiers.analyse, options=classifiers.asked()
    ),
    'retrieval': retrieval.analyse,
    'confusions': confusions.analyse,
    'taxonomy': functools.partial(
      taxonomy.analyse, listed=taxa.given(command.TAXA.value)
    ),
    'novelty': functools.partial(
      novelty.analyse,
      neighbours=novelty.NEIGHBOURS.value,
      acceptance=command.ACCEPTANCE.value,
    ),
    'audit': audit.analyse,
  }


def run(
  name: str, part: Part, sources: Sequence[Source], out: pathlib.Path
) -> Done:
  """Runs a part, prints and writes its Result; turns bad input into a note."""
  try:
    found = part(sources)
    result.show(name, found)
    drawn = result.write(found, out)
  except InputError as error:
    found, drawn = Result([str(error)]), {}
    result.show(name, found)
  if name in ON_THE_PAGE:
    drawn = {}
  return Done(found, list(drawn.values()))


def gather(
  sources: Sequence[Source], done: Mapping[str, Done]
) -> dict[str, Any]:
  """Gathers all that the page shows from the Results of the parts."""
  found = collections.defaultdict(
    Result, {name: one.result for name, one in done.items()}
  )
  places = scatter.coordinates(
    found['projection'].tables.get('projection.csv', [])
  )
  placed = [scatter.place(s, places[s.name]) for s in sources if places]
  shown = lists.shown(found['gallery'].tables.get('gallery.csv', []))
  doubtful, twins = (
    [
      row
      for row in found['audit'].tables.get(f'{file}.csv', [])
      if row['rank'] <= audit.SHOWN
    ]
    for file in ('audit', 'audit_duplicates')
  )
  wanted = [
    # The gallery's come first, so that they lie on few sheets.
    [row['id'] for row in shown if row['source'] == source.name]
    + [
      key
      for row in doubtful + twins
      if row['source'] == source.name
      for key, _ in lists.images(row)
    ]
    + (placed[i].id if placed else [])
    for i, source in enumerate(sources)
  ]
  sheets, known, missing = pictures.collect(sources, wanted)
  by_source = dict(zip([s.name for s in sources], known, strict=True))
  return {
    'title': ' · '.join(by_source),
    'sources': sources,
    'measures': summary.measures(
      sources, lambda name: tables.plain(found[name].values.get(f'{name}.json'))
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
    'notes': {
      **{name: list(dict.fromkeys(r.notes)) for name, r in found.items()},
      'pictures': missing,
    },
    'figures': {
      name: [html.figure(picture) for picture in one.pictures]
      for name, one in done.items()
    },
    'confused': (found['confusions'].values.get('confusions.json') or {}).get(
      'pairs', []
    ),
    'albums': lists.albums(shown, by_source),
    'audits': lists.audits(doubtful, twins, by_source),
    'kinds': ranks.KINDS,
    'planes': found['projection'].values.get('projection.json', []),
    'left_out': sum(one.left_out for one in placed),
    'data': {
      **pictures.payload(sheets),
      'plot': scatter.plot('plot'),
      'map': scatter.payload(sources, placed, known) if placed else None,
    },
  }


def analyse(
  sources: Sequence[Source], out: pathlib.Path, *, parts: Mapping[str, Part]
) -> Result:
  """Runs the parts, which write to `out`; returns the page as a Result."""
  done = {}
  for name, part in parts.items():
    print(f'\n{name} …', flush=True)
    done[name] = run(name, part, sources, out)
  print('\nreport …', flush=True)
  scripts = {
    'bokeh': scatter.script(),
    'script': html.script('pictures.js', 'map.js'),
  }
  page = html.render('report.html.j2', scripts, **gather(sources, done))
  return Result(
    files={'report.html': result.content(page)},
    announced={'report.html': ' ({size})'},
  )


def main(argv: Sequence[str]) -> None:
  """Reports on the sources that the flags name."""
  del argv
  host.show_log(logging.WARNING)
  sources, out = command.given()
  result.write(analyse(sources, out, parts=parts()), out)


if __name__ == '__main__':
  commands.run(main)
