"""The page of new images in a real browser: wide, and on a phone."""

import pytest

from analysis.measures import predictions
from analysis.measures.predictions import Neighbour, Prediction
from analysis.page import predicted
from plankton_jax.data.sources.objects import Object
from tests import shades
from tests import test_report_browser as browsers

pytestmark = browsers.pytestmark

HOSTILE = '<script>document.title = 1</script>'


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  out = tmp_path_factory.mktemp('predictions')
  near = tuple(
    Neighbour(f'{i}{HOSTILE}', 'a_rather_long_class_name_for_a_phone', 0.1 * i)
    for i in range(5)
  )
  found = []
  for i in range(40):
    file = f'a/rather/long/name-of-the-file-{HOSTILE.replace("/", "")}{i}.png'
    distance = 0.9 if i < 3 else 0.2
    item = Object(file, file)
    found.append(
      Prediction(
        file,
        item,
        HOSTILE,
        0.5,
        HOSTILE,
        'b',
        0.4,
        distance,
        0.5,
        near,
      )
    )
  readers = {
    'new': lambda key: shades.grey(40)[0, ..., 0],
    'labelled': lambda key: shades.grey(200)[0, ..., 0],
  }
  html = predicted.html
  text = html.render(
    'predictions.html.j2',
    {'script': html.script('pictures.js')},
    title=HOSTILE,
    run='run',
    step=3,
    images=len(found),
    notes=[HOSTILE],
    added=True,
    examples_alone=False,
    classes=[],
    ranks=[],
    measures={'acceptance': 0.95, 'temperature': 0.3, 'threshold': 4.0},
    reliability=None,
    skipped=[(HOSTILE, 'empty file')],
    citation=HOSTILE,
    **predicted.lists(predictions.uncertain(found), readers),
  )
  path = out / 'predictions.html'
  path.write_text(text, encoding='utf-8')
  return path


@pytest.mark.parametrize('phone', [False, True])
def test_pictures_show_and_names_stay_text(page, tmp_path, phone):
  browser = browsers.driver(tmp_path / 'profile', phone=phone)
  try:
    browser.get(page.as_uri())
    browser.implicitly_wait(5)
    shown = browser.find_elements('css selector', '.picture[style*=blob]')
    assert len(shown) >= 6
    width = 'return document.documentElement.scrollWidth'
    assert browser.execute_script(width) <= (390 if phone else 1280)
    assert browser.title == f'{HOSTILE}: predictions'
    assert (
      HOSTILE in browser.find_element('css selector', '#skipped tbody th').text
    )
    strips = browser.find_elements('css selector', '#unknown .strip')
    assert len(strips) == 3
    first = strips[0].find_elements('class name', 'picture')
    assert len(first) == 6 and first[0].size['width'] > 40
    bad = [m for m in browser.get_log('browser') if m['level'] != 'INFO']
    assert bad == []
    if not phone:
      lefts = [s.location['x'] for s in strips]
      assert lefts[0] == lefts[2] < lefts[1]
  finally:
    browser.quit()
