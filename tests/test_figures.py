"""handwriting/figures.py: lines of ink below each other, and the size of pictures."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from handwriting.figures import lines_figure, save_figure


@pytest.mark.parametrize("titles", [None, ["first", "second"]])
def test_lines_stand_below_each_other_at_one_scale(titles):
    tall = np.array([[5, 7, 0], [300, 400, 1]])  # one stroke, 300 wide and 400 high
    dotted = np.array([[0, 0, 0], [100, 50, 1], [-80, -90, 1]])  # a stroke, and a dot above it
    figure = lines_figure([tall, dotted], titles)
    axes = figure.axes[0]
    first, second, dot = axes.collections[0].get_segments()
    np.testing.assert_allclose([first.min(0)[0], min(second[:, 0].min(), dot[0, 0])], 0)  # aligned on the left
    np.testing.assert_allclose([np.ptp(first, axis=0), np.ptp(second, axis=0)], [[300, 400], [100, 50]])
    assert len(dot) == 2 and (dot[0] == dot[1]).all()  # round caps make a dot of it
    np.testing.assert_allclose(dot[0] - second[0], [20, -40])
    assert dot[0, 1] > first[:, 1].max()
    assert [text.get_text() for text in axes.texts] == (titles or [])
    for text, ink in zip(axes.texts, (first, dot), strict=False):
        assert text.get_position()[1] < ink[:, 1].min()
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert (left, right, top) == (-60, 360, -60) and bottom > second[:, 1].max()
    np.testing.assert_allclose(figure.get_size_inches() * 400, [right - left, bottom - top])


@pytest.mark.parametrize(("inches", "dots"), [((8, 4), 150), ((2, 800), 75), ((100, 125), 4000**0.5)])
def test_large_pictures_have_fewer_pixels_to_the_inch(monkeypatch, tmp_path, inches, dots):
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **settings: found.append(settings["dpi"]))
    save_figure(Figure(figsize=inches), tmp_path / "large.png")
    assert found == [pytest.approx(dots)]
