"""Lists the public image sets with their facts, addresses and layouts.

In a layout, {class} is the class folder and {file} the image; any other name in
braces is a folder that does not matter for the class.
"""

from typing import NamedTuple


class ImageSet(NamedTuple):
  """One public set."""

  title: str
  instrument: str
  images: str  # number of images, as its publisher says
  classes: str
  licence: str
  doi: str
  url: str  # '': its archives are downloaded by hand and given with --archive
  layout: str  # of the images in the archive

  @property
  def citation(self) -> str:
    """Cites the set as every figure drawn from it must."""
    return f'{self.title}, {self.licence}, DOI {self.doi}'


_SEANOE = 'https://www.seanoe.org/data/'

SETS = {
  'flowcamnet': ImageSet(
    title='FlowCAMNet',
    instrument='FlowCam',
    images='301,247',
    classes='167 (93 grouped)',
    licence='CC BY-NC 4.0',
    doi='10.17882/101961',
    url=_SEANOE + '00908/101961/data/113201.tar',
    layout='FlowCamNet/imgs/{class}/{file}',
  ),
  'zooscannet': ImageSet(
    title='ZooScanNet',
    instrument='ZooScan',
    images='1,451,745',
    classes='98',
    licence='CC BY-NC 4.0',
    doi='10.17882/55741',
    url=_SEANOE + '00446/55741/data/113141.tar',
    layout='ZooScanNet/imgs/{class}/{file}',
  ),
  'isiisnet': ImageSet(
    title='ISIISNet',
    instrument='ISIIS',
    images='408,166',
    classes='32',
    licence='CC BY-NC 4.0',
    doi='10.17882/101950',
    url=_SEANOE + '00908/101950/data/113146.tar',
    layout='ISIISNet/imgs/{class}/{file}',
  ),
  'uvp6net': ImageSet(
    title='UVP6Net',
    instrument='UVP6',
    images='634,459',
    classes='110',
    licence='CC BY-NC 4.0',
    doi='10.17882/101948',
    url=_SEANOE + '00908/101948/data/119452.tar',
    layout='imgs/{class}/{file}',
  ),
  'zoocamnet': ImageSet(
    title='ZooCAMNet',
    instrument='ZooCAM',
    images='1,286,590',
    classes='93',
    licence='CC BY 4.0',
    doi='10.17882/101928',
    url=_SEANOE + '00907/101928/data/113094.tar',
    layout='ZooCamNet/imgs/{class}/{file}',
  ),
  'planktoscope': ImageSet(
    title='Planktoscope reference images',
    instrument='PlanktoScope',
    images='',
    classes='',
    licence='CC BY-NC 4.0',
    doi='10.17882/110078',
    url=_SEANOE + '00989/110078/data/124113.tar',
    layout='Planktoscope_reference/imgs/{class}/{file}',
  ),
  'planktonset1': ImageSet(
    title=(
      'PlanktonSet 1.0: Cowen, Sponaugle, Robinson, Luo and Guigand 2015,'
      ' NOAA NCEI accession 0127422'
    ),
    instrument='ISIIS-2',
    images='30,336',
    classes='121',
    licence='public accession, no explicit licence',
    doi='10.7289/v5d21vjd',
    url=(
      'https://www.ncei.noaa.gov/archive/archive-management-system/OAS/bin/'
      'prd/jquery/download/127422.2.3.tar.gz'
    ),
    layout=(
      '0127422/2.3/data/0-data/FINAL_Plankton_Segments_12082014/{class}/{file}'
    ),
  ),
  'syke_ifcb_2022': ImageSet(
    title='SYKE-plankton_IFCB_2022',
    instrument='IFCB',
    images='about 63,000',
    classes='50',
    licence='CC BY 4.0',
    doi='10.23728/b2share.abf913e5a6ad47e6baa273ae0ed6617a',
    url=(
      'https://b2share.eudat.eu/records/xvnrp-7ga56/files/'
      'phytoplankton_labeled.zip?download=1'
    ),
    layout='labeled_20201020/{class}/{file}',
  ),
  'zoolake': ImageSet(
    title='ZooLake',
    instrument='Dual Scripps camera',
    images='17,900',
    classes='35',
    licence='CC0 1.0',
    doi='10.3389/fmicb.2021.746297',
    url=(
      'https://opendata.eawag.ch/dataset/52b6ba86-5ecb-448c-8c01-eec7cb209dc7/'
      'resource/1cc785fa-36c2-447d-bb11-92ce1d1f3f2d/download/data.zip'
    ),
    layout='data/zooplankton_0p5x/{class}/training_data/{file}',
  ),
  'whoi': ImageSet(
    title='WHOI-Plankton',
    instrument='IFCB',
    images='more than 3.5 million',
    classes='103',
    licence='see the source',
    doi='10.1575/1912/7341',
    url='',
    layout='{year}/{class}/{file}',
  ),
}
