"""Overlays of saliency maps on video frames."""

import base64
from functools import cache

import numpy as np
import torch
from torch.nn import functional as F

INFERNO = (
    "wgn{v2n65+vjv6*T?aM@90>*r{0agL5)C&FaSyu?=@B*(c@o7E8xwyM>JwNL%@j!$%N0--"
    "*%o0J=of4l=@?xZ$QdUZc^bDG<{AbY7#kWJ5*q*;<{HKto*H)=PZ}l~{TbF7uo;ONXBkHsDj5$M_88w7%NV#Arx=(Rix__xbr@_IWf)%=Sr}"
    "6oQ5a1aOc+ZTN*GEQOBhQSOc+fVPZ&@bQ5aMhRv1?pSr}UwTo_##T^L^&UKn2(T^L;$TNqdvRv1$lPZ&uUMHoI9HyAG%Cm0+U5*P;<`4{aM-"
    "51Umy%(z&mluK;Z5LJ-Jr^Vw2p8-"
    "Y&lav0juvbdNERa&{1wy{suh0~QWYc>^c2DrkQ7@KB^2%xwG(<1KNA8I#1e!OLlOWIy%Bj4GZE|%q!3#W5)j7^d=D=V;|`P#M-"
    "KQ6s0~>S2o1LkW(*Y!!V7Q<9t+G0cnT#7(FuPEDhbvIg9t7N+6RRPF$dfRhXyhR-"
    "35mQG6mcOh6FDJ+5>_EECbX6eF7!|&H;4+9RbAvYXB1fx&L7Q2LG)7QvUh<pZ!Dq>im)XIQ-"
    "%Ji~BbF<NA~OLi+OgtodvCGWq)W$M~!Go%oLUqWIJJ3i*5a2>QwTzx(g}U;YaK^Z^P4NCuM#<q9VaOb=BNF%#t!au(Sa(g7p`(*t(|6a}OOD"
    "F&zp5C?Y$%?A<)R0w<smk6r}stAb)W(Y3`<p+8P{sv11j|I#G0|YYzUIK>!uK?Qr4gX92n*I9xbNmzh*ZaZy&-"
    "(=YbNm4Pru||5F8=@k*Z{HtiUMK-Gz9wumjx^auLdFqh6mdRBM4v!kqEg6*$DFp1ql)f90?!^A_*c1APE`?6A26n0}1*F@d)P#-"
    "3ZeN%Lu^;xd^ccsR*J7od}o+ln9atj|h$kj|h<nlL(jyod~1|tq8UV!U)d@-"
    "3aXn{|FNaCka0ZR|#<mjtQ&@%L(lX5eha6UJ8Z^vI^b`4huaCa0{dh+6xg3OALk#!VCZnKMjEm!wm)wOb(F_*bX2MY7epx{trkHlMvt#ED?A"
    "S#1Rq_T@tDi_7Xx9jT6@sA{1*BvlROjLKTP=%@q(9R2GyL)fN;NQWuUF$`=F}JQ#Essu<rG6B$Jrb{VD_)ENRAE*e@IgBq<G)EfI5Asa>;Y8"
    "#9juN%-"
    "C@EZ>tE*wi7X&i(cpd7m#)Ew;`1|1z8H62PFUmbKEhaH+7tR1}_%^lqx>>c+V1Rf0@79JcPAs!?iCLSdoAs!bV3Lg9&=^e}+sU3qIQ5_H+%^"
    "Y+b4;+{q4jXYA!5RJ-Ef`W4aTb&ny%h5kITMl+{1JB%1QDMQDmGveB^C}E;T={Wb0B>n(jep@B_VJjn<4WdNFswG%_2V|f+NTy3?yhIuq5Rq"
    "5+yVxNhL}pHYExr!6a8C%p)8lNg`AsJs<-gtsO-i%o<D?$QMTz%@kh~{}HbcaSuigD-"
    "9zIEDJ{pa0#dg?FT*wn+5|0a|P`LZUprMg##D^u>wy5@d1_rKLP9jngB`w{Qs~2W&a!h(*BG7L;n8#y8U$hFa7EKrTk(19Q@e(l>1Qo3;V|U"
    "f%-"
    "lA`1!Q?Zuu$s<oKWXTKE?D(f5n@M)v~uzV>?dH}>@PvGs2CEA{I1s`P2}D)j90uJdv8HS_rLzVd|fP4X4;;PI>Rc=1K?74hZpw(yDYUGOsS3"
    "Gm|YyYH9pbMH~_FYgiW@$S{`xbB_qgYIeWQSLeJBkm0D_U+*9%<Z=AqV0_Bc<o~CP3<`CA?*t7^X%K~!|bZ;kL-"
    "5rTkJvXChQFC^XuE|#p|@|rt6^VqU*5h&FlZ`P3*kvTJ0$A>F+-"
    "BtMo4S%lU=;T>n%8ZUwFg77VBlY7;*e85pw}5F0=oO&vWR8z1Q(t{`k7CL-"
    "P<m?Kgo5+&3no+fW6N+>ZY9V!$n7Az_)Q7(HgurLZTVl%xoMmDlHG&!m|5IkHxdOl%4`aeiOGC<cq9zQBRB0aG?WI7Hxu{TpT"
)
"""The colour map "inferno" of Smith and van der Walt (CC0): 3 x 256 differences from one colour to the next, in
millionths, as base 85 of int16."""


@cache
def inferno() -> np.ndarray:
    """Return the 256 colours of "inferno", cold to hot: (256, 3) float32 RGB in [0, 255]."""
    steps = np.frombuffer(base64.b85decode(INFERNO), dtype="<i2").reshape(3, 256)
    return (steps.cumsum(axis=1).T / 1e6 * 255).astype(np.float32)


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
    heat = np.clip(resize_map(saliency, frame.shape[:2]), 0.0, 1.0)
    alpha = (strength * heat * (2.0 - heat))[..., None]  # (H, W, 1); rises fast so that low saliency is visible
    colour = inferno()[np.rint(heat * 255).astype(np.uint8)]  # (H, W, 3)
    return np.rint(frame * (1.0 - alpha) + colour * alpha).astype(np.uint8)
