"""The style of pictures: lines that are told apart, legends that hide nothing, the same bytes from the same rows."""

import numpy as np
import pytest
from matplotlib import colors

from weighted_freezing_fairseq.figures import drawing
from weighted_freezing_fairseq.figures.drawing import Options


def picture(path, names, options=Options(), panels=2):  # noqa: B008
    with drawing.paper_panels(path, panels, options) as axes:
        for axis in axes:
            for index, name in enumerate(names):
                drawing.draw_line(axis, index, name, ((x, index + x) for x in range(40)))
            axis.set(xlabel="updates", ylabel="loss")


@pytest.mark.parametrize("names", [["a", "b"], [f"a run with a long name, number {n}" for n in range(12)]], ids=len)
def test_a_legend_hides_nothing_however_many_runs_there_are(tmp_path, drawn, names):
    picture(tmp_path / "p.svg", names)
    (figure,) = drawn
    (legend,) = figure.legends
    frame = legend.get_window_extent().padded(-2)  # its text; round it there is room
    assert [text.get_text() for text in legend.get_texts()] == names
    assert not any(frame.overlaps(axis.get_tightbbox()) for axis in figure.axes)
    assert figure.bbox.x0 <= frame.x0 and frame.x1 <= figure.bbox.x1 and frame.y0 >= figure.bbox.y0
    assert all(axis.get_window_extent().height > 100 for axis in figure.axes)  # of about 170


def test_as_many_lines_as_a_picture_can_hold_look_different(tmp_path, drawn):
    picture(tmp_path / "p.svg", [str(n) for n in range(28)], panels=1)
    looks = {(each.get_color(), each.get_linestyle(), each.get_marker()) for each in drawn[0].axes[0].lines}
    assert len(looks) == 28
    first = drawn[0].axes[0].lines[:7]  # in grey: by lightness, or by dash and marker
    assert len({each.get_color() for each in first}) == len({each.get_marker() for each in first}) == 7
    assert all(colors.to_rgb(each.get_color()) != (1, 1, 0) and each.get_markevery() == 5 for each in first)


@pytest.mark.slow
def test_the_same_rows_are_the_same_bytes_with_text_as_text(tmp_path):
    for name in ("one", "two"):
        for ending in ("svg", "pdf", "png"):
            picture(tmp_path / f"{name}.{ending}", ["standard", "sage"], panels=1)
    for ending in ("svg", "pdf", "png"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes(), ending
    text = (tmp_path / "one.svg").read_text()
    assert ">standard</text>" in text and "sans-serif" in text and "<dc:date>" not in text


@pytest.mark.slow
def test_widths_are_those_of_the_columns_of_a_paper(tmp_path, drawn):
    picture(tmp_path / "one.svg", ["a"], panels=4)
    picture(tmp_path / "two.svg", ["a"], Options(wide=True), panels=4)
    narrow, wide = drawn
    assert [round(each.get_figwidth(), 1) for each in drawn] == [3.4, 7.0]
    assert narrow.get_figheight() > 1.7 * wide.get_figheight()
    # what stands below is told once a column
    assert [axis.xaxis.label.get_visible() for axis in wide.axes] == [False, False, True, True]


def test_lines_are_named_by_what_tells_them_apart():
    rows = [{"run": "a", "group": "all", "method": m} for m in ("x", "y")]
    assert list(drawing.rows_by_line(rows, ("run", "group", "method"))) == ["x", "y"]
    assert list(drawing.rows_by_line(rows[:1], ("run", "group", "method"))) == ["a"]


def test_violins_of_logarithms_leave_room_at_the_edges(tmp_path, drawn):
    samples = [np.append(np.logspace(-7, -3, 1000), 0), np.zeros(3)]  # of the second there is nothing to draw
    with drawing.panels(tmp_path / "v.svg", 1, 3) as (axis,):
        drawing.draw_violins(axis, samples)
        drawing.draw_values(axis, 3, "std", [1e-3, 1e-4])
    (violin,) = [each for each in axis.collections if each.get_alpha() == 0.8]
    shape = violin.get_paths()[0].get_extents()
    assert (shape.y0, shape.y1) == pytest.approx((-7 + 0.04, -3), abs=0.01) and (shape.x0, shape.x1) == (-0.4, 0.4)
    low, high = axis.get_ylim()
    assert low < shape.y0 - 0.4 and high > shape.y1 + 0.4 and axis.get_xlim() == (-0.6, 1.6)
    assert axis.yaxis.get_major_formatter()(-4, 0) == "$10^{-4}$"
    assert [(each.get_text(), each.xy) for each in axis.texts] == [("0.001", (0, -3)), ("0.0001", (1, -4))]
