"""High dynamic range, shown as a usual screen would: what a PQ or HLG video looks like at a white of 203 cd/m².

Without this a network sees faces that are grey and flat (PQ spends half its code on lights that a screen cannot show).
Per pixel, from the signal E' in [0, 1] of R, G and B:

    PQ (SMPTE ST 2084)    light = 10000 (max(E'^(1/m2) - c1, 0) / (c2 - c3 E'^(1/m2)))^(1/m1) / 203
    HLG (ARIB STD-B67)    E = E'^2 / 3 up to 1/2, else (exp((E' - c) / a) + b) / 12;  light = 1000 Y^0.2 E / 203,
                          Y = 0.2627 R + 0.6780 G + 0.0593 B (BT.2100, a screen of 1000 cd/m²)
    gamut                 BT.2020 primaries become BT.709 (BT.2087, linear); negative light is cut
    highlights            light above k = 0.8 becomes k + (1 - k) (1 - exp(-(light - k) / (1 - k)))
    signal                light^(1/2.4) (inverse of BT.1886), rounded to 8 bits

203 cd/m² is the white of BT.2408. Metadata of the mastering screen and of Dolby Vision say nothing here.
"""

import numpy as np
from numpy.typing import NDArray

TRANSFERS = {16: "PQ", 18: "HLG"}
"""FFmpeg's numbers of the two curves (``AVColorTransferCharacteristic``)."""
BT2020 = 9  # AVCOL_PRI_BT2020

_WHITE, _KNEE, _STEPS = 203.0, 0.8, 1 << 12
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)


def _pq(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    return 10000 / _WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _hlg(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


_SIGNAL = np.arange(_STEPS) / (_STEPS - 1)
_LIGHT = {16: _pq(_SIGNAL).astype(np.float32), 18: _hlg(_SIGNAL).astype(np.float32)}


def tone_map(picture: NDArray[np.uint16], transfer: int, primaries: int) -> NDArray[np.uint8]:
    """Return a picture as a usual screen shows it, by the formulas above.

    Args:
        picture: RGB signal of 12 bits over their full range, uint16 ``[H, W, 3]``.
        transfer: One of `TRANSFERS`.
        primaries: FFmpeg's number; all but `BT2020` are taken for those of BT.709.

    Returns:
        RGB ``[H, W, 3]``.
    """
    light = _LIGHT[transfer][picture]
    if TRANSFERS[transfer] == "HLG":
        light *= (1000 / _WHITE) * (light @ _LUMINANCE)[..., None] ** np.float32(0.2)
    if primaries == BT2020:
        light = light @ _TO_BT709.T
    np.maximum(light, 0, out=light)
    bright = light > _KNEE
    light[bright] = _KNEE + (1 - _KNEE) * (1 - np.exp((_KNEE - light[bright]) / (1 - _KNEE)))
    return np.rint(255 * light ** np.float32(1 / 2.4)).astype(np.uint8)
