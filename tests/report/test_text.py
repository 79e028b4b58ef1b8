from quantkit.report import text


def test_number_columns_are_right_aligned_and_text_columns_left():
    shown = text.table(["layer", "us"], [["conv1", "1.5"], ["fc", "120.0"]])
    assert shown.splitlines() == ["layer     us", "------------", "conv1    1.5", "fc     120.0"]


def test_a_missing_number_keeps_its_column_right_aligned():
    assert text.table(["x"], [["10"], ["-"]]).splitlines()[-1] == " -"


def test_sizes_are_decimal():
    assert text.size(999) == "999 bytes"
    assert text.size(18_830_818) == "18.8 MB"
    assert text.size(None) == "-"


def test_shapes_show_symbols_and_unknown_dimensions():
    assert text.shape(("N", 3, None, 224)) == "Nx3x?x224"
    assert text.shape(()) == "scalar"
    assert text.shape(None) == "-"


def test_numbers_that_are_not_known_are_a_dash():
    assert [text.percent(None), text.decibel(None), text.times(None)] == ["-"] * 3
    assert [text.percent(0.884), text.decibel(19.43), text.times(2.5)] == ["88.40 %", "19.4 dB", "2.50x"]


def test_one_thread_is_singular():
    assert text.threads(1) == "1 thread"
    assert text.threads(2) == "2 threads"
