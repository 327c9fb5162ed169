from bts.curves import draw_curves


def test_a_png_of_any_number_of_validations():
    figures = {"dice/WT": 0.5, "dice/ET": 0.1}
    for validations in ({}, {2: figures}, {2: figures, 4: figures}):
        assert draw_curves([1.0, 0.5, 0.4, 0.3], validations).startswith(b"\x89PNG")
