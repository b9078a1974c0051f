"""Shows the calibration of confidence on test images, as table and figure."""

from typing import Any

import numpy as np

from analysis.figures import style
from analysis.figures.style import plt
from analysis.measures.calibration import BINS, Reliability, wilson

EDGES = np.linspace(0.0, 1.0, BINS + 1)


def rows(ways: dict[str, Reliability]) -> list[dict[str, Any]]:
  """Tabulates each bin that holds images, with a 95 % interval."""
  return [
    {
      'confidence by': way,
      'from': EDGES[i],
      'to': EDGES[i + 1],
      'images': found.images[i],
      'confidence': found.confidence[i],
      'accuracy': found.accuracy[i],
      'low': low,
      'high': high,
    }
    for way, found in ways.items()
    for i in np.flatnonzero(found.images)
    for low, high in [wilson(found.accuracy[i], found.images[i])]
  ]


def draw(ways: dict[str, Reliability]) -> plt.Figure:
  """Draws accuracy over confidence, and below it the images of each bin."""
  figure, (top, bottom) = plt.subplots(
    2,
    1,
    figsize=(4.8, 6.0),
    sharex=True,
    height_ratios=(3, 1),
    layout='constrained',
  )
  top.plot([0, 1], [0, 1], ':', color='0.5', lw=1, label='perfect calibration')
  colours = style.palette(len(ways))
  for colour, (way, found) in zip(colours, ways.items(), strict=True):
    some = found.images > 0
    x, y = found.confidence[some], found.accuracy[some]
    pairs = zip(y, found.images[some], strict=True)
    low, high = np.array([wilson(*pair) for pair in pairs]).T
    top.errorbar(
      x,
      y,
      yerr=np.maximum([y - low, high - y], 0.0),
      fmt='o-',
      ms=4,
      lw=1.2,
      elinewidth=0.7,
      color=colour,
      label=f'{way}: calibration error {found.error:.3f}',
    )
    bottom.stairs(found.images, EDGES, color=colour, fill=True, alpha=0.4)
  top.set(ylabel='share that is right, 95 % interval', ylim=(0.0, 1.02))
  bottom.set(xlabel='confidence', ylabel='test images', xlim=(0.0, 1.0))
  bottom.set_axisbelow(True)
  figure.legend(loc='outside upper center')
  return figure
