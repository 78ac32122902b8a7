"""handwriting/figures.py: the size of pictures."""

import pytest
from matplotlib.figure import Figure

from handwriting.figures import save_figure


@pytest.mark.parametrize(("inches", "dots"), [((8, 4), 150), ((2, 800), 75), ((100, 125), 4000**0.5)])
def test_large_pictures_have_fewer_pixels_to_the_inch(monkeypatch, tmp_path, inches, dots):
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **settings: found.append(settings["dpi"]))
    save_figure(Figure(figsize=inches), tmp_path / "large.png")
    assert found == [pytest.approx(dots)]
