"""The report in a real browser: Debian's chromium, driven by selenium."""

import json
import shutil

import numpy as np
import pytest

from analysis import gallery, projection
from analysis.files import originals
from analysis.files.inputs import Embeddings, Source
from analysis.files.result import Result
from analysis.measures import planes
from tests.analysis_runs import make_report

webdriver = pytest.importorskip(
  'selenium.webdriver', reason='selenium is not installed'
)
ui = pytest.importorskip('selenium.webdriver.support.ui')
BROWSER, DRIVER = shutil.which('chromium'), shutil.which('chromedriver')
pytestmark = pytest.mark.skipif(
  not (BROWSER and DRIVER), reason='no chromium and chromedriver on PATH'
)

HOSTILE = '<script>alert(1)</script>'
FLAGS = (
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--disable-dev-shm-usage',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--window-size=1280,900',
)
NAMES = (HOSTILE, 'a_rather_long_class_name_for_a_phone', 'b"<img src=x>')


def rows(count, labels, seed):
  rng = np.random.default_rng(seed)
  label = np.resize(labels, count).astype(np.int32)
  centres = 3.0 * np.eye(3, 5)
  embedding = centres[label] + rng.normal(size=(count, 5))
  ids = np.array([f'{seed}/{HOSTILE}{i}.png' for i in range(count)])
  return Embeddings(embedding.astype(np.float32), label, ids, NAMES)


SPLITS = {
  'train': rows(30, [0, 1], 0),
  'test': rows(12, [0, 1], 1),
  'unseen': rows(9, [2], 2),
}
EMBEDDING = np.concatenate([s.embedding for s in SPLITS.values()])
CLASSES = [NAMES[i] for s in SPLITS.values() for i in s.label]


def nothing(sources):
  return Result()


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  out = tmp_path_factory.mktemp('report')
  config = {
    'seed': 0,
    'citation': HOSTILE,
    'data': {'path': HOSTILE},
    'objective': {'name': HOSTILE},
  }
  names = ('training', 'distances', 'classifiers', 'retrieval', 'confusions')
  parts = {
    **dict.fromkeys(names, nothing),
    'projection': lambda s: projection.analyse(s, method='pca'),
    'gallery': lambda s: gallery.analyse(s, splits=['test', 'unseen']),
  }
  shade = np.full((20, 30), 90, np.uint8)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(originals, 'reader', lambda source: lambda key: shade)
    source = Source(f'run {HOSTILE.replace("/", "")}', SPLITS, out, config)
    make_report([source], out, parts)
  return out / 'report.html'


def driver(folder, *, phone=False):
  options = webdriver.ChromeOptions()
  options.binary_location = BROWSER
  for flag in (*FLAGS, f'--user-data-dir={folder}'):
    options.add_argument(flag)
  if phone:
    screen = {'width': 390, 'height': 844, 'pixelRatio': 2.0, 'touch': True}
    options.add_experimental_option(
      'mobileEmulation', {'deviceMetrics': screen}
    )
  options.set_capability(
    'goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'}
  )
  service = webdriver.ChromeService(DRIVER)
  return webdriver.Chrome(options=options, service=service)


@pytest.fixture(scope='module')
def opened(page, tmp_path_factory):
  browser = driver(tmp_path_factory.mktemp('profile'))
  yield start(browser, page)
  browser.quit()


def start(browser, page):
  browser.get(page.as_uri())
  browser.implicitly_wait(5)
  browser.find_element('css selector', 'body[data-ready=map]')
  browser.implicitly_wait(0)
  return browser


@pytest.fixture
def browser(opened):
  """The page as it is when it was opened."""
  for key in ('reset', 'all'):
    opened.execute_script(f"document.getElementById('{key}').click()")
  frame = opened.find_element('id', 'plot-frame')
  frame.send_keys('\ue00c')  # Escape
  return opened


def place(browser, i):
  """Locates point i, in px from the middle of the map."""
  x, y, left, right, low, high, width, height = browser.execute_script(
    f"""const points = Bokeh.documents[0].get_model_by_name('points').data;
    const {{x_range: h, y_range: v}} =
      Bokeh.documents[0].get_model_by_name('plot');
    const box = document.getElementById('plot-frame');
    return [points.x[{i}], points.y[{i}], h.start, h.end, v.start, v.end,
      box.clientWidth, box.clientHeight];"""
  )
  across = ((x - left) / (right - left) - 0.5) * width
  return across, -((y - low) / (high - low) - 0.5) * height


def move(browser, i):
  frame = browser.find_element('id', 'plot-frame')
  browser.execute_script(
    "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", frame
  )
  across, down = place(browser, i)
  actions = webdriver.ActionChains(browser)
  actions.move_to_element_with_offset(frame, round(across) + 40, round(down))
  actions.move_to_element_with_offset(frame, round(across), round(down))
  return actions


def pinned(browser):
  """Class, and (name, distance) of the neighbours, as the panel has them."""
  panel = browser.find_element('id', 'panel')
  listed = [
    (
      item.find_element('class name', 'about').text,
      float(item.find_element('class name', 'distance').text),
    )
    for item in panel.find_elements('css selector', 'li')
  ]
  return panel.find_element('css selector', '.pinned b').text, listed


def neighbours(i):
  far = np.linalg.norm(EMBEDDING - EMBEDDING[i], axis=1)
  order = np.argsort(far)
  order = order[order != i][:10]
  return [(CLASSES[j], round(float(far[j]), 3)) for j in order]


def alone():
  """A point that no other one covers on the map."""
  xy = planes.project(SPLITS, 'pca').xy
  xy = np.concatenate([xy[s] for s in SPLITS])
  apart = np.linalg.norm(xy[:, None] - xy[None], axis=-1)
  np.fill_diagonal(apart, np.inf)
  # Of the test split, where the hostile class is.
  test = [i for i in range(30, 42) if CLASSES[i] == HOSTILE]
  return max(test, key=lambda i: apart[i].min())


def test_hover_shows_the_image_and_its_class(browser):
  i = alone()
  card = browser.find_element('id', 'hover')

  def appears(browser):  # a page just loaded may not have drawn its points
    move(browser, i).perform()
    return card.is_displayed()

  ui.WebDriverWait(browser, 10).until(appears)
  assert CLASSES[i] in card.text and 'test' in card.text
  shown = card.find_element('class name', 'picture')
  assert shown.value_of_css_property('background-image').startswith(
    'url("blob:'
  )
  assert shown.size['width'] > 90 and shown.size['height'] > 90
  frame = browser.find_element('id', 'plot-frame')
  webdriver.ActionChains(browser).move_to_element_with_offset(
    frame, 0, frame.size['height'] // 2 + 30
  ).perform()
  ui.WebDriverWait(browser, 10).until(lambda _: not card.is_displayed())


def test_click_pins_the_neighbours_in_the_embedding(browser):
  i = alone()
  move(browser, i).click().perform()
  name, listed = pinned(browser)
  assert name == CLASSES[i]
  assert listed == neighbours(i)
  links = browser.execute_script(
    "return Bokeh.documents[0].get_model_by_name('links').data.x1.length"
  )
  assert links == 10


def test_a_neighbour_can_be_walked_to(browser):
  i = alone()
  move(browser, i).click().perform()
  browser.find_element('css selector', '#panel li button').click()
  far = np.linalg.norm(EMBEDDING - EMBEDDING[i], axis=1)
  nearest = int(np.argsort(far)[1])
  assert pinned(browser)[1] == neighbours(nearest)


def test_keys_reach_pin_zoom_and_let_go(browser):
  frame = browser.find_element('id', 'plot-frame')
  keys = webdriver.Keys
  frame.send_keys(keys.ARROW_RIGHT, keys.ARROW_RIGHT)
  spoken = browser.find_element('id', 'spoken').get_attribute('textContent')
  frame.send_keys(keys.ENTER)
  assert spoken.startswith(pinned(browser)[0])
  assert len(pinned(browser)[1]) == 10
  width = "const r = Bokeh.documents[0].get_model_by_name('plot').x_range;"
  width += 'return r.end - r.start'
  before = browser.execute_script(width)
  frame.send_keys('+')
  assert browser.execute_script(width) == pytest.approx(before / 1.5)
  frame.send_keys('0')
  assert browser.execute_script(width) == pytest.approx(before)
  frame.send_keys(keys.ESCAPE)
  assert not browser.find_elements('css selector', '#panel li')


def test_toggles_hide_classes_and_splits(browser):
  shown = "return Bokeh.documents[0].get_model_by_name('shown').booleans"
  assert all(browser.execute_script(shown))
  box = browser.find_element('css selector', '#classes input')
  browser.execute_script('arguments[0].click()', box)
  assert browser.execute_script(shown) == [n != HOSTILE for n in CLASSES]
  unseen = browser.find_elements('css selector', '#splits input')[2]
  browser.execute_script('arguments[0].click()', unseen)
  want = [n == NAMES[1] for n in CLASSES]
  assert browser.execute_script(shown) == want
  browser.execute_script('arguments[0].click()', unseen)
  browser.execute_script("document.getElementById('none').click()")
  assert not any(browser.execute_script(shown))


def test_search_finds_by_file_name(browser):
  query = browser.find_element('id', 'query')
  query.clear()
  query.send_keys('2/<SCRIPT>alert(1)</script>3', webdriver.Keys.ENTER)
  assert browser.find_element('id', 'matches').text == '1 of 1'
  assert pinned(browser)[0] == NAMES[2]
  query.clear()


def test_skip_link_comes_first(opened, page):
  browser = start(opened, page)
  webdriver.ActionChains(browser).send_keys(webdriver.Keys.TAB).perform()
  focused = browser.switch_to.active_element
  assert focused.text == 'Skip to the results' and focused.location['x'] >= 0


def test_data_is_never_code_and_nothing_is_fetched(browser):
  """Runs last: what all of the above left in the console and on the wire."""
  scripts = browser.find_elements('css selector', 'script')
  assert len(scripts) == 3
  assert not browser.find_elements('css selector', 'img[src=x]')
  assert HOSTILE in browser.find_element('css selector', 'h3').text
  bad = [m for m in browser.get_log('browser') if m['level'] != 'INFO']
  assert bad == []
  sent = [
    event['params']['request']['url']
    for event in (
      json.loads(entry['message'])['message']
      for entry in browser.get_log('performance')
    )
    if event['method'] == 'Network.requestWillBeSent'
  ]
  assert any(url.startswith('file:') for url in sent)
  assert not [url for url in sent if url.startswith(('http', 'ws'))]


def test_injected_script_is_refused(browser):
  browser.execute_script(
    """const made = document.createElement('div');
    made.innerHTML = '<img src="data:," onerror="document.title = 1">';
    document.body.append(made);
    const script = document.createElement('script');
    script.textContent = 'document.title = 2';
    document.body.append(script);"""
  )
  assert browser.title not in ('1', '2')


def test_phone_has_no_overflow_and_taps_pin(page, tmp_path):
  browser = driver(tmp_path / 'profile', phone=True)
  try:
    start(browser, page)
    wide = 'return document.documentElement.scrollWidth'
    assert browser.execute_script(wide) <= 390
    i = alone()
    move(browser, i).click().perform()
    assert pinned(browser)[1] == neighbours(i)
    assert not browser.find_element('id', 'hover').is_displayed()
  finally:
    browser.quit()
