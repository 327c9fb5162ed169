from bts.curves import best_epoch, draw_curves, final_table, progress_line
from bts.presets import Budget

LOW, HIGH = {"dice/WT": 0.5, "dice/ET": 0.1}, {"dice/WT": 0.7, "dice/ET": 0.3}


def test_a_png_of_any_number_of_validations():
    for validations in ({}, {2: LOW}, {2: LOW, 4: HIGH}):
        assert draw_curves([1.0, 0.5, 0.4, 0.3], validations).startswith(b"\x89PNG")


def test_the_best_epoch_is_the_last_of_equals():
    assert best_epoch({2: LOW, 4: HIGH, 6: LOW}) == 4
    assert best_epoch({2: HIGH, 4: HIGH, 6: LOW}) == 4


def test_the_table_marks_what_is_kept():
    assert final_table({2: LOW, 4: HIGH}).splitlines() == [
        "epoch      WT      ET",
        "    2   0.500   0.100",
        "    4   0.700   0.300  ← kept",
    ]


def test_a_line_an_epoch():
    figures = {"loss": 0.5, "slices_per_second": 71.6, "wait_share": 0.031}
    line = progress_line(Budget(epochs=8, minutes=None), 3, 1.23, figures)
    assert line == "epoch 3/8, 1.2 min: loss 0.5000 72 slices/s, wait 3%"
    line = progress_line(Budget(minutes=10), 3, 1.23, {**figures, **LOW})
    assert line == "epoch 3, 1.2/10 min: loss 0.5000 WT 0.500 ET 0.100 72 slices/s, wait 3%"
