"""How frames of another aspect ratio fill a student's input, as named by the argument `fit` of its `Model`.

A network only keeps the name: whoever reads its frames and uses its maps does the geometry (`distill/data/fit.py`,
`student/edge.py`, `student/browser/fit.js`).
"""

FITS = {
    "stretch": "the whole frame, scaled to the input without its aspect ratio",
    "letterbox": "the whole frame in its aspect ratio, centred on grey",
    "crop": "the centre of the frame in its aspect ratio, without what does not fit",
}
"""Accepted values of `fit`."""


def check_fit(fit: str) -> None:
    """Raise a ValueError naming the accepted values if `fit` is not one of them."""
    if fit not in FITS:
        raise ValueError(f"fit '{fit}': expected one of {', '.join(FITS)}")
