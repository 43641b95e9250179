"""Overlays of saliency maps on video frames."""

import base64
import zlib
from functools import cache

import numpy as np
import torch
from torch.nn import functional as F

INFERNO = (
    "c-q^R|M<q`%hzu{d-aV?K-J1i&)3-}EG0Xyw5F-Gv!lJGwj?_~$WC8Di0Q|>XAf@Nym9^d&09C`J$U@|`O7zN-+%o4<=gk4zkdDt_vio"
    "r{|t-_jEqc-jLb}oOhAf(=|AH?hJSzm{r&Un&(EJfetiA*_0yLRAK$-w^ZND6=g*%!d3^uDy*syW-ne%4@}&#s&YeDW^7zrChYuatzjy"
    "DRT|0Md-@bM0<}DjHZ``nPJrJy2w{G2<wQJU`UbA-f8XyFMRjXI6TDf|~sue3&u2{Ze#j+L4mM>cd#7mYhU%qnH>a`ozZ`if}_=&SmK7"
    "AB1G%xHu_|2eT%}X&m?;s~t&O2Lr(=P?BUov+>Ykfv~n5&b9w8;PacTaAc+T!bCYi^*esiAFb=buoy;K(aJ)BN6LyU$*_aqGs7OULI-Z"
    "7xm;^{_S6P>>Sh<ziuC`1kAQ&+p&AfBW|B$G0Cpe*FCX`_I3>|AE24%F52k$-~PhAS5CpAt5CzC$FTUs-dByW1w$rVrFh-ZDVKe<mBw;"
    ">h9s?;p64)>*M3&2O_<_ygfZU+}&KAT^t<k?QCqUEG*1SO^gf;^z?LeG_};#)l^lKlob`^<z?lhWuzq~CB-E~MMZ^$g#-lz__=vGIoVj"
    "5ng0Lz_W9G>$9Hd?+rM}D?9Q^}09$=kd1XyAx5%vO-q~7aM_*npmE{T*a`e`Y2(|Vqa&~ix@i5g@5@mdIW&5<!0A22v$5zc~Z>Xtno3v"
    "oVp{q}Sa7t@hxCX{%6jU{~PnbM&-lC-|*RI>JY4f&i+js8Ry=T|%U3>QI-UGzDckcml!SpVW$X*cGe_;Q?Lx&C@IehHc$rGnfpFMlw!o"
    "|y1u3o=+^Uj@n_Z~fX^7!eqXD?p7dim<r8!!YWmX|MIym<cf`O{}lpFMx^>iwr*OnkCNe);px9SqHFp1bS%4=IO?Nr$f9niXrn`{CZXq"
    "x*L4*tP4xp;H%cKY#O`Nkm=CG%6yxGpDI6%}4I}Outu4-FbfWZ(g-{5$j(D7+?eg23+7jVSuRz1P2K~@+A`lVDm81ULz`W7zQ2?2o<wC"
    "%*@P8__h8+1A{0w8DMeA3<6BpQ!pbcfcgyL7XSs(M6>"
)
"""The colour map "inferno" of Smith and van der Walt (CC0): 3 x 256 second differences of its colours, in 1e-6,
as int16 (all low bytes first), compressed, in base 85."""

BAND = 256
"""Rows that are drawn at a time, since a whole frame of 8K would take 2 GB."""


@cache
def inferno() -> np.ndarray:
    """Return the 256 colours of "inferno", cold to hot: (256, 3) float32 RGB in [0, 255]."""
    planes = np.frombuffer(zlib.decompress(base64.b85decode(INFERNO)), dtype="u1").reshape(2, -1)
    second = np.ascontiguousarray(planes.T).view("<i2").reshape(3, 256)
    return (second.cumsum(axis=1).cumsum(axis=1).T / 1e6 * 255).astype(np.float32)


def resize_map(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize one map (h, w) for display: bilinear with antialiasing, float32, within the range of the input."""
    if saliency.shape == tuple(size):
        return saliency
    image = torch.from_numpy(np.ascontiguousarray(saliency, dtype=np.float32))[None, None]
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)[0, 0].numpy()


def overlay(frame: np.ndarray, saliency: np.ndarray, *, strength: float = 0.7) -> np.ndarray:
    """Draw a saliency map over a frame as a heat map whose opacity grows with saliency.

    Args:
        frame: (H, W, 3) uint8 RGB.
        saliency: (h, w) in [0, 1]; it is resized to the frame.
        strength: opacity where the saliency is 1, in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB. Where the map is 0, the frame is unchanged.
    """
    whole = resize_map(saliency, frame.shape[:2])
    drawn = np.empty_like(frame)
    for top in range(0, len(frame), BAND):
        rows = slice(top, top + BAND)
        heat = np.clip(whole[rows], 0.0, 1.0)
        alpha = (strength * heat * (2.0 - heat))[..., None]  # (H, W, 1); rises fast so that low saliency is visible
        colour = inferno()[np.rint(heat * 255).astype(np.uint8)]  # (H, W, 3)
        drawn[rows] = np.rint(frame[rows] * (1.0 - alpha) + colour * alpha)
    return drawn
