"""Cards, files, downloads: what is here is checked, what is not here is explained."""

import os
import shutil
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest

from neurosde import datasets
from neurosde.datasets.cards import catalogue, recipe
from neurosde.datasets.files import cache
from neurosde.datasets.loading import digest
from neurosde.errors import DataError

FIELDS = {
    "title",
    "kind",
    "source",
    "description",
    "options",
    "licence",
    "citation",
    "time_unit",
    "shape",
    "split",
    "traps",
}


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine that has no data, an empty cache and no network."""
    import pooch

    def offline(url, **_):
        raise OSError(f"cannot reach {url}")

    monkeypatch.delenv("NEUROSDE_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    monkeypatch.setattr(pooch, "retrieve", offline)
    return tmp_path


@pytest.mark.parametrize("name", datasets.names())
class TestEveryCard:
    def test_is_complete(self, name):
        card = datasets.card(name)
        assert set(card) >= FIELDS
        assert card["kind"] in ("series", "snapshots")
        assert card["source"] in ("simulator", "package", "file")
        assert all(isinstance(trap, str) for trap in card["traps"])

    def test_a_set_of_files_says_how_to_get_it_and_how_to_check_it(self, name):
        card = datasets.card(name)
        if card["source"] == "file":
            assert card["how_to_get"].strip()
            assert all(len(tidy["digest"]) == 64 for tidy in card["tidy"])
        else:
            assert "tidy" not in card

    def test_where_it_is_missing_the_error_says_how_to_get_it(self, name, nowhere):
        card = datasets.card(name)
        if card["source"] != "file":
            with pytest.raises(DataError, match="no file"):
                datasets.find(name)
            return
        with pytest.raises(DataError) as caught:
            datasets.load(name)
        message = str(caught.value)
        assert card["how_to_get"].strip() in message
        assert card["tidy"][0]["file"] in message
        assert "NEUROSDE_DATA" in message
        if card.get("raw"):
            assert "cannot reach" in message
            assert str(cache(name) / "raw") in message


def test_the_wheel_carries_the_cards():
    build = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    carried = build["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert carried == {"datasets": "neurosde/_catalogue"}
    assert catalogue().name in ("datasets", "_catalogue")


class TestBadRequests:
    def test_an_unknown_name_lists_the_known(self):
        with pytest.raises(DataError, match="icu_panel"):
            datasets.load("imagenet")

    def test_a_name_cannot_leave_the_catalogue(self):
        with pytest.raises(DataError):
            datasets.card("../neurosde")

    def test_an_unknown_option_lists_the_known(self):
        with pytest.raises(DataError, match=r"'n_patients'.*n_series"):
            datasets.load("icu_panel", n_patients=3)

    def test_unknown_parts(self):
        with pytest.raises(DataError, match="has a, b"):
            datasets.find("physionet2012", "z")
        with pytest.raises(DataError, match="comes whole"):
            datasets.load("icu_panel", parts=["a"])

    def test_an_unknown_form(self):
        with pytest.raises(DataError, match="into"):
            datasets.load("icu_panel", into="tensor")  # pyright: ignore[reportArgumentType]


def records(folder: Path) -> Path:
    """Two stays in the challenge's format, in an order that is not that of their numbers."""
    head = (
        "Time,Parameter,Value\n00:00,RecordID,{}\n00:00,Age,{}\n00:00,Gender,1\n"
        "00:00,Height,-1\n00:00,ICUType,4\n00:00,Weight,80\n"
    )
    stays = {
        "140002": head.format(140002, 70) + "00:05,HR,91\n00:05,,3\n26:30,Lactate,2.5\n",
        "140001": head.format(140001, 54) + "01:30,pH,7.31\n00:30,HR,60\n",
    }
    folder.mkdir(parents=True)
    with tarfile.open(folder / "set-a.tar.gz", "w:gz") as archive:
        for stay, text in stays.items():
            (folder / f"{stay}.txt").write_text(text)
            archive.add(folder / f"{stay}.txt", f"set-a/{stay}.txt")
    (folder / "Outcomes-a.txt").write_text(
        "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n140002,6,1,5,-1,0\n140001,16,8,8,3,1\n"
    )
    return folder


class TestPreparing:
    def test_physionet_records_become_series(self, tmp_path):
        tidy = tmp_path / "tidy.npz"
        recipe("physionet2012").prepare(records(tmp_path / "raw"), tidy, part="a")
        series = recipe("physionet2012").read(tidy)
        assert series.ids.tolist() == [140001, 140002]
        assert series.time.tolist() == [0.5, 1.5, 5 / 60, 26.5]
        assert [series.channel_names[c] for c in series.channel] == ["HR", "pH", "HR", "Lactate"]
        np.testing.assert_allclose(series.value, [60, 7.31, 91, 2.5], rtol=1e-6)
        assert np.isnan(series.static[:, 2]).all()
        assert series.static[:, 0].tolist() == [54, 70]
        assert series.labels.tolist() == [1, 0]
        assert recipe("physionet2012").read(tidy, outcome="SOFA").labels.tolist() == [8, 1]

    def test_originals_that_a_user_put_there_are_prepared_once_and_checked(self, nowhere):
        records(cache("physionet2012") / "raw")
        path = datasets.find("physionet2012", "a")
        assert path == cache("physionet2012") / "physionet2012_set_a.npz"
        assert path.is_file()
        with pytest.raises(DataError, match="digest"):  # two made-up stays are not the challenge's
            datasets.load("physionet2012", parts=["a"])

    def test_a_preparation_that_fails_leaves_no_file(self, nowhere):
        raw = cache("physionet2012") / "raw"
        records(raw)
        (raw / "set-a.tar.gz").write_bytes(b"not an archive")
        with pytest.raises(tarfile.ReadError):
            datasets.find("physionet2012", "a")
        assert [p.name for p in cache("physionet2012").iterdir()] == ["raw"]

    def test_a_download_is_kept_and_prepared(self, nowhere, monkeypatch, tmp_path):
        import pooch

        original = tmp_path / "eb.npz"
        np.savez(original, pcs=np.arange(12.0).reshape(4, 3), sample_labels=np.array([0, 0, 1, 1]))
        monkeypatch.setattr(
            pooch,
            "retrieve",
            lambda url, known_hash, fname, path, progressbar: shutil.copy(original, path / fname),
        )
        pytest.importorskip("anndata")
        cells = recipe("embryoid_body").read(datasets.find("embryoid_body"))
        assert cells.times.tolist() == [0, 1]
        np.testing.assert_array_equal(cells.at(1.0), [[6, 7, 8], [9, 10, 11]])

    def test_cite_days_are_stacked(self, tmp_path):
        pytest.importorskip("anndata")
        for day in (2, 3, 4, 7):
            for d in (100, 50):
                np.save(tmp_path / f"full_cite_pcas_{d}_day_{day}.npy", np.full((day, d), float(day)))
        recipe("cite").prepare(tmp_path, tmp_path / "tidy.h5ad")
        cells = recipe("cite").read(tmp_path / "tidy.h5ad", use_rep="X_pca50")
        assert [cells.at(t).shape for t in cells.times] == [(2, 50), (3, 50), (4, 50), (7, 50)]
        with pytest.raises(DataError, match="X_pca50"):
            recipe("cite").read(tmp_path / "tidy.h5ad", use_rep="X_umap")


@pytest.mark.parametrize("name", ["cite", "embryoid_body", "mujoco", "physionet2012"])
def test_the_real_files_are_what_the_cards_say(name):
    folder = os.environ.get("NEUROSDE_DATA")
    if not folder:
        pytest.skip("needs $NEUROSDE_DATA")
    card = datasets.card(name)
    if not all((Path(folder) / tidy["file"]).is_file() for tidy in card["tidy"]):
        pytest.skip(f"$NEUROSDE_DATA does not hold {name}")
    record = datasets.load(name)  # refuses another digest
    digits = card["shape"].replace(",", "")
    assert str(len(record) if card["kind"] == "series" else len(record.X)) in digits.replace("4000", "8000")


def test_a_damaged_file_is_refused(tmp_path, monkeypatch):
    folder = os.environ.get("NEUROSDE_DATA")
    if not folder:
        pytest.skip("needs $NEUROSDE_DATA")
    values = np.load(Path(folder) / "series" / "mujoco.npy")
    values[3, 4, 5] += 1e-3
    (tmp_path / "series").mkdir()
    np.save(tmp_path / "series" / "mujoco.npy", values)
    monkeypatch.setenv("NEUROSDE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="digest"):
        datasets.load("mujoco")


def test_a_digest_sees_values_and_order_but_not_the_file():
    one = datasets.load("ornstein_uhlenbeck", n_series=3, n_times=4)
    assert digest(one) == digest(one[np.arange(3)])
    assert digest(one) != digest(one.with_values(one.value + 1e-12))
    assert digest(one) != digest(one[::-1])
