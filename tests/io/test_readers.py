"""Series from files, invented and real."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from neurosde.data import Series
from neurosde.errors import DataError
from neurosde.io import read_physionet2012, read_series, read_ts

LONG = "id,time,variable,value\n7,0.5,HR,80\n7,1,pH,7.4\n9,2,HR,\n"


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_long_wide_and_tab_separated_tables(tmp_path):
    series = read_series(write(tmp_path, "a.csv", LONG))
    assert series.ids.tolist() == [7, 9]
    assert series.counts.tolist() == [2, 0]
    assert read_series(write(tmp_path, "a.tsv", LONG.replace(",", "\t"))).equals(series)
    wide = read_series(write(tmp_path, "w.csv", "id,time,HR,pH\n7,0.5,80,\n7,1,,7.4\n9,2,,\n"))
    assert wide.equals(series)
    pd.read_csv(tmp_path / "a.csv").to_csv(tmp_path / "a.csv.gz", index=False)
    assert read_series(tmp_path / "a.csv.gz").equals(series)


def test_dates_in_a_table(tmp_path):
    text = "id,time,variable,value\n1,2024-01-01 06:00,x,1\n1,2024-01-02,x,2\n"
    assert read_series(write(tmp_path, "d.csv", text)).time.tolist() == [0, 18]
    with pytest.raises(DataError, match="column 'time', row 1, is 'soon', expected a number or a date"):
        read_series(write(tmp_path, "e.csv", text.replace("2024-01-02", "soon")))


def test_files_that_are_no_series(tmp_path):
    with pytest.raises(DataError, match=r"no column 'variable' \(columns: 'id', 'time', 'code', 'value'\)"):
        read_series(write(tmp_path, "a.csv", LONG.replace("variable", "code")))
    with pytest.raises(DataError, match=r"column 'value'\[1\] = 'high' is text|column 'value'\[0\]"):
        read_series(write(tmp_path, "b.csv", LONG.replace("7.4", "high")))
    with pytest.raises(DataError, match=r"empty.csv is not a table"):
        read_series(write(tmp_path, "empty.csv", ""))
    with pytest.raises(DataError, match="0 series"):
        read_series(write(tmp_path, "head.csv", "id,time,variable,value\n"))
    with pytest.raises(DataError, match=r"notes.txt is none of .csv, .tsv, .parquet, .ts"):
        read_series(write(tmp_path, "notes.txt", LONG))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81" * 10)
    with pytest.raises(DataError, match="is not a table"):
        read_series(tmp_path / "binary.csv")
    with pytest.raises(FileNotFoundError):
        read_series(tmp_path / "missing.csv")


def test_parquet_is_read_or_its_library_asked_for(tmp_path):
    path = tmp_path / "a.parquet"
    df = pd.read_csv(write(tmp_path, "a.csv", LONG))
    try:
        df.to_parquet(path)
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(DataError, match="pip install pyarrow"):
            read_series(path)
    else:
        assert read_series(path).equals(read_series(tmp_path / "a.csv"))


TS = """# a comment
@problemName Toy
@timeStamps false
@classLabel true a b
@data
1,2,3:4,?,6:a
7:8:b
"""


def test_ts_files_of_unequal_length(tmp_path):
    series = read_ts(write(tmp_path, "toy.ts", TS))
    assert series.counts.tolist() == [5, 2]
    assert series.labels.tolist() == ["a", "b"]
    assert series.channel_names == ("0", "1")
    np.testing.assert_array_equal(series[0].to_padded()[0][0], [[1, 4], [2, np.nan], [3, 6]])
    assert read_series(tmp_path / "toy.ts").equals(series)
    stamped = (
        TS.replace("1,2,3:4,?,6", "(0.5,1),(2,3):(1,4)").replace("7:8", "(0,7):(0,8)").replace(" a b", " 1 2")
    )
    series = read_ts(write(tmp_path, "stamped.ts", stamped.replace(":a\n", ":1\n").replace(":b\n", ":2\n")))
    assert series.time.tolist() == [0.5, 1, 2, 0, 0]
    assert series.labels.tolist() == [1, 2]


def test_ts_files_that_are_broken_name_the_line(tmp_path):
    with pytest.raises(DataError, match="line 7: 1 channels, the first series has 2"):
        read_ts(write(tmp_path, "a.ts", TS.replace("7:8:b", "7:b")))
    with pytest.raises(DataError, match="line 6: could not convert string to float: 'x'"):
        read_ts(write(tmp_path, "b.ts", TS.replace("1,2,3", "1,x,3")))
    with pytest.raises(DataError, match="0 series"):
        read_ts(write(tmp_path, "c.ts", TS[: TS.index("1,2")]))


@pytest.fixture
def real():
    folder = os.environ.get("NEUROSDE_DATA")
    if folder is None:
        pytest.skip("NEUROSDE_DATA is not set: no real series here")
    return Path(folder) / "series"


def test_archive_files(real):
    train = read_ts(real / "JapaneseVowels_TRAIN.ts")
    assert len(train) == 270
    lengths = train.to_padded()[2]
    assert (lengths.min(), lengths.max()) == (7, 26)
    assert len(train.channel_names) == 12
    assert sorted(set(train.labels.tolist())) == list(range(1, 10))
    motions = read_ts(real / "BasicMotions_TEST.ts")
    assert motions.to_padded()[0].shape == (40, 100, 6)
    assert set(motions.labels.tolist()) == {"Standing", "Running", "Walking", "Badminton"}
    assert len(read_ts(real / "ItalyPowerDemand_TEST.ts")) == 1029


def test_icu_stays(real):
    """Counts that are known of the data: 8,000 stays, 7,507 repeated readings, 10 stays without any row."""
    sets = [read_physionet2012(real / f"physionet2012_set_{part}.npz") for part in "ab"]
    assert [len(s.time) for s in sets] == [1_654_892, 1_590_816]
    assert [round(float(s.labels.mean()), 4) for s in sets] == [0.1385, 0.1420]
    both = Series.concatenate(sets)
    assert len(both) == 8000
    assert int((both.counts == 0).sum()) == 10
    assert len(both.time) - len(both.merge_duplicates().time) == 7507
    history, future = both.split(24.0)
    assert int((history.counts == 0).sum()) == 14
    assert int((future.counts == 0).sum()) == 55
    assert np.isnan(both.static[:, both.static_names.index("Height")]).mean() == pytest.approx(
        0.475, abs=0.01
    )
    back = Series.from_long(sets[0].to_long(), static=sets[0].to_static())
    assert back.align_channels(sets[0].channel_names).replace(labels=sets[0].labels).equals(sets[0])
    with pytest.raises(DataError, match="outcome is 'death'"):
        read_physionet2012(real / "physionet2012_set_a.npz", outcome="death")


def test_hopper_grid_round_trip(real):
    values = np.load(real / "mujoco.npy")
    series = Series.from_padded(values, np.arange(100.0))
    back, times, lengths = series.to_padded()
    np.testing.assert_array_equal(back, values)
    assert (lengths == 100).all()
    assert (times == np.arange(100)).all()
