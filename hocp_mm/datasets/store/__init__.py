"""Stores of ready face crops: one video file of pictures per record, and one table of everything known about them.

<store>/store.json              what the store was made from, and how
<store>/packs/<name>.avi        Motion JPEG (or PNG): every player shows it, frame k lies at a known byte
<store>/index.npz               all records: labels, boxes, place and checksum of each picture; written last
<store>/splits/, <store>/folds/ copies of the split and fold files
<store>/report.csv              what was left out, and why
"""

from hocp_mm.datasets.faces.crops import CropSettings
from hocp_mm.datasets.media.pack import PackTable, read_pack, write_pack
from hocp_mm.datasets.store.header import StoreHeader, read_header, write_header
from hocp_mm.datasets.store.index import read_index, write_index

__all__ = [
    "CropSettings",
    "PackTable",
    "StoreHeader",
    "read_header",
    "read_index",
    "read_pack",
    "write_header",
    "write_index",
    "write_pack",
]
