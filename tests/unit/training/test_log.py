"""bts.training.log: which epoch is kept, and what is said of each."""

from bts.settings import Budget
from bts.training.log import best_epoch, final_table, progress_line, step_line

LOW, HIGH = {"dice/WT": 0.5, "dice/ET": 0.1}, {"dice/WT": 0.7, "dice/ET": 0.3}


def test_the_best_epoch_is_the_last_of_equals():
    assert best_epoch({2: LOW, 4: HIGH, 6: LOW}) == 4
    assert best_epoch({2: HIGH, 4: HIGH, 6: LOW}) == 4


def test_dice_alone_tells_the_best_epoch():
    figures = {1: {**LOW, "iou/WT": 0.9, "accuracy": 1.0}, 2: {**HIGH, "iou/WT": 0.1, "accuracy": 0.1}}
    assert best_epoch(figures) == 2
    # A type that one validation lacks is no loss: the mean is over what there is.
    assert best_epoch({1: {"dice/tumour": 0.6, "dice/glioma": 0.5}, 2: {"dice/tumour": 0.7}}) == 2


def test_the_table_has_every_region_and_dice_alone():
    figures = {1: {"dice/tumour": 0.6, "iou/tumour": 0.4}, 2: {"dice/tumour": 0.5, "dice/meningioma": 0.75}}
    assert final_table(figures).splitlines() == [
        "epoch  tumour  meningioma",
        "    1   0.600           –",
        "    2   0.500       0.750  ← kept",
    ]


def test_the_table_marks_what_is_kept():
    assert final_table({2: LOW, 4: HIGH}).splitlines() == [
        "epoch      WT      ET",
        "    2   0.500   0.100",
        "    4   0.700   0.300  ← kept",
    ]


def test_a_line_an_epoch():
    figures = {"loss": 0.5, "samples_per_second": 71.6, "wait_share": 0.031}
    line = progress_line(Budget(epochs=8, minutes=None), 3, 1.23, figures)
    assert line == "epoch 3/8, 1.2 min: loss 0.5000 72 samples/s, wait 3%"
    line = progress_line(Budget(minutes=10), 3, 1.23, {**figures, **LOW})
    assert line == "epoch 3, 1.2/10 min: loss 0.5000 WT 0.500 ET 0.100 72 samples/s, wait 3%"


def test_a_line_within_an_epoch():
    figures = {"loss": 0.5, "steps": 40, "samples_per_second": 1.234, "minutes_left": None}
    assert step_line(0, 1.26, figures) == "epoch 1, step 40, 1.3 min: loss 0.5000 1.23 samples/s"
    line = step_line(2, 1.26, {**figures, "minutes_left": 12.4})
    assert line == "epoch 3, step 40, 1.3 min: loss 0.5000 1.23 samples/s, 12 min left"
