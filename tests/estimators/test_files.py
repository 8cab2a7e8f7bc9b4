"""Model files: exact round trips; foreign, lying, damaged and tampered files are refused, none runs."""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import numpy as safetensors_numpy

import neurosde
from neurosde.data import ChannelScaler, TimeMap
from neurosde.errors import CheckpointError, UnsafeFileError
from neurosde.estimators import read_model_info
from neurosde.estimators._codec import decode, encode
from neurosde.files import fingerprint, read_document, read_file, write_file
from neurosde.linear import LinearSDE

REFUSED = (CheckpointError, UnsafeFileError)


@pytest.fixture
def model(ridge, table):
    return ridge.fit(*table())


@pytest.fixture
def path(model, tmp_path):
    model.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


class Payload:
    """Unpickling it would make a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def rewrite(path, change):
    """Tamper with a model file and give it a digest that fits: what a careful attacker would do."""
    tensors, document = read_file(path)
    change(tensors, document)
    write_file(path, tensors, document)


# round trips


def test_the_file_is_plain_safetensors_for_anybody(path, model):
    tensors = safetensors_numpy.load_file(path)
    assert {name for name in tensors if name.startswith("module/")} == {
        "module/last.weight",
        "module/last.bias",
    }
    np.testing.assert_array_equal(tensors["attributes/mean_"], model.mean_)


def test_equal_models_have_equal_bytes(ridge, table, tmp_path):
    for name in ("a", "b"):
        ridge.fit(*table()).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_save_replaces_the_old_file_or_leaves_it(model, path, monkeypatch):
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        model.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_info_reads_parameters_and_no_arrays(path, monkeypatch):
    monkeypatch.setattr("neurosde.files.safetensors_numpy", None)
    info = read_model_info(path)
    assert info["class"] == "TorchRidge"
    assert info["version"] == neurosde.__version__
    assert info["params"]["max_iter"] == 30
    assert info["attributes"]["n_features_in_"] == 3
    assert info["bytes"] == path.stat().st_size
    assert info["shapes"]["attributes/mean_"] == (3,)
    assert info["n_weights"] == 4


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(), inner, max_size=2)
    ),
    max_leaves=8,
)
arrays = hnp.arrays(
    dtype=st.sampled_from([bool, np.int8, np.uint16, np.int64, np.float16, np.float32, np.float64]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)


@settings(max_examples=200, deadline=None)
@given(value=json_like | arrays | st.dictionaries(st.text(max_size=3), arrays, max_size=3))
def test_what_is_encoded_is_decoded(value, tmp_path_factory):
    tensors = {}
    encoded = json.loads(json.dumps(encode(value, "params/x", tensors), allow_nan=False))
    back = decode(encoded, tensors)
    assert not tensors
    assert fingerprint(back) == fingerprint(value)


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1),
        np.int64(-3),
        np.array(["a", "bc"]),
        np.array([["x"], ["yz"]], dtype=object),
        torch.arange(3.0),
        TimeMap(1.7e9, 60.0),
        ChannelScaler(np.zeros(2), np.ones(2)),
        {"nested": [TimeMap(0.0, 1.0), (np.ones(2), None)]},
        LinearSDE([[-1.0, 0.5], [0.0, -2.0]], [1.0, 0.0]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_typed_values_come_back_as_what_they_were(value):
    tensors = {}
    back = decode(json.loads(json.dumps(encode(value, "params/x", tensors))), tensors)
    assert type(back) is type(value)
    assert fingerprint(back) == fingerprint(value)


UNFIT = [object(), {1, 2}, np.sin, np.array([object()]), 1j, np.zeros(2, complex), torch.nn.Identity()]


@pytest.mark.parametrize("value", UNFIT, ids=lambda value: type(value).__name__)
def test_what_has_no_place_in_a_file_is_refused_by_name(value, model, tmp_path):
    model.set_params(note=value)
    with pytest.raises(CheckpointError, match=r"params\.note is an? .*which a model file cannot hold"):
        model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


# foreign files


def test_a_pickle_is_refused_and_does_not_run(model, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "model"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Payload(marker), protocol=protocol))
        for load in (neurosde.load, type(model).load, read_model_info):
            with pytest.raises(UnsafeFileError):
                load(path)
    torch.save(Payload(marker), path)
    with pytest.raises(UnsafeFileError, match="zip archive"):
        neurosde.load(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker))).close()
    assert marker.exists()  # the payload was live


def test_a_zip_bomb_is_refused_unopened(tmp_path):
    path = tmp_path / "bomb"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("weights", bytes(10**7))
    with pytest.raises(UnsafeFileError, match="zip"):
        neurosde.load(path)


def test_other_peoples_safetensors_are_refused(tmp_path):
    path = tmp_path / "foreign"
    for metadata in (None, {"format": "pt"}, {"neurosde": "x"}, {"neurosde": "0" * 64 + " {}"}):
        path.write_bytes(safetensors_numpy.save({"a": np.zeros(3)}, metadata))
        with pytest.raises(CheckpointError):
            neurosde.load(path)


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "empty"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = tmp_path / "it"
    if kind == "directory":
        path.mkdir()
    if kind == "fifo":
        os.mkfifo(path)  # opening it would wait for ever
    if kind == "empty":
        path.write_bytes(b"")
    with pytest.raises(REFUSED):
        neurosde.load(path)


# lying and damaged files


def with_header(header: dict | bytes, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(shape, start, stop, dtype="F64"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


LIES = {
    "a header of 1 TB": (struct.pack("<Q", 2**40) + b"{}", UnsafeFileError),
    "a header longer than the file": (struct.pack("<Q", 1000) + b"{}", CheckpointError),
    "an array of 1 TB": (with_header({"a": entry([2**37], 0, 2**40)}), UnsafeFileError),
    "an array of 1 TB in 16 bytes": (with_header({"a": entry([2**37], 0, 16)}, bytes(16)), CheckpointError),
    "a shape whose product overflows": (with_header({"a": entry([2**32, 2**32], 0, 0)}), CheckpointError),
    "a negative size": (with_header({"a": entry([-1], 0, -8)}), CheckpointError),
    "a fractional size": (with_header({"a": entry([1.0], 0, 8)}, bytes(8)), CheckpointError),
    "overlapping arrays": (
        with_header({"a": entry([1], 0, 8), "b": entry([1], 0, 8)}, bytes(16)),
        CheckpointError,
    ),
    "a gap": (with_header({"a": entry([1], 0, 8), "b": entry([1], 16, 24)}, bytes(24)), CheckpointError),
    "bytes after the end": (with_header({"a": entry([1], 0, 8)}, bytes(9)), CheckpointError),
    "an unknown dtype": (with_header({"a": entry([1], 0, 8, "OBJECT")}, bytes(8)), CheckpointError),
    "a header that is a list": (with_header(b"[]"), CheckpointError),
    "a header that is no JSON": (with_header(b"{'a': 1}"), CheckpointError),
    "NaN in the header": (with_header(b'{"a": NaN}'), CheckpointError),
    "a key twice": (with_header(b'{"a": 1, "a": 2}'), CheckpointError),
    "brackets 100,000 deep": (with_header(b"[" * 100_000), CheckpointError),
    "an integer of 10,000 digits": (with_header(b'{"a": ' + b"9" * 10_000 + b"}"), CheckpointError),
    "bytes that are no text": (with_header(b"\xff\xfe{}"), CheckpointError),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lying_header_is_refused_before_anything_is_allocated(name, tmp_path):
    content, error = LIES[name]
    (tmp_path / "liar").write_bytes(content)
    with pytest.raises(error):
        neurosde.load(tmp_path / "liar")


def test_a_file_above_max_bytes_is_refused(path):
    size = path.stat().st_size
    with pytest.raises(UnsafeFileError, match=f"{size} bytes, more than max_bytes={size - 1}"):
        neurosde.load(path, max_bytes=size - 1)


def test_a_sparse_file_of_1_tb_is_refused_at_once(tmp_path):
    path = tmp_path / "sparse"
    path.write_bytes(with_header({"a": entry([2**37], 0, 2**40)}))
    os.truncate(path, 2**40)
    with pytest.raises(UnsafeFileError, match="max_bytes"):
        neurosde.load(path)


def test_every_truncation_is_refused(path, model):
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    ends = {*range(10), header - 1, header, header + 1, len(content) - 1, *range(0, len(content), 97)}
    for end in sorted(ends):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError):
            type(model).load(path)


def test_every_flipped_byte_is_refused(path, model):
    """Each of 400 places, one random bit or byte: header, padding, document, digest and weights alike."""
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    places = {*range(8), *rng.integers(0, len(content), 400).tolist(), len(content) - 1}
    for place in sorted(places):
        change = int(rng.choice([1 << int(rng.integers(8)), int(rng.integers(1, 256))]))
        damaged = bytearray(content)
        damaged[place] ^= change
        path.write_bytes(damaged)
        with pytest.raises(REFUSED):
            type(model).load(path)


def test_without_the_digest_flips_would_pass(path, model):
    """The twin of the test above: the format alone does not notice a flipped weight."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    safetensors_numpy.load_file(path)
    with pytest.raises(CheckpointError, match="digest"):
        type(model).load(path)


# files with a digest that fits, but of another kind


def test_another_class_is_refused(path, model, forecaster):
    with pytest.raises(CheckpointError, match="holds a 'TorchRidge', not a ShrunkLast"):
        type(forecaster).load(path)
    with pytest.raises(CheckpointError, match="'TorchRidge', no estimator of neurosde"):
        neurosde.load(path)


@pytest.mark.parametrize(
    "name", ["os.system", "Estimator", "fitting", "__class__", "load", None, ["a"], {"a": 1}]
)
def test_a_class_outside_the_list_is_refused(name, path):
    rewrite(path, lambda tensors, document: document.update({"class": name}))
    with pytest.raises(CheckpointError, match=r"no estimator|wrong types"):
        neurosde.load(path)


@pytest.mark.parametrize("schema", [0, 2, "1", None, True])
def test_another_schema_is_refused_with_both_versions(schema, path, model):
    rewrite(path, lambda tensors, document: document.update(schema=schema, version="9.9"))
    with pytest.raises(CheckpointError, match=r"schema version .*reads 1; it was written by neurosde '9\.9'"):
        type(model).load(path)
    with pytest.raises(CheckpointError):
        read_model_info(path)


def set_nan(tensors, document):
    tensors["module/last.weight"][0, 0] = np.nan


def lie_about_width(tensors, document):
    document["params"].update(hidden=10**9, depth=1)


def lie_about_depth(tensors, document):
    document["params"]["depth"] = 10**9


def lie_about_features(tensors, document):
    document["attributes"]["n_features_in_"] = 10**12


TAMPERED = {
    "a weight too many": lambda t, d: t.update({"module/spare": np.zeros(2)}),
    "a weight missing": lambda t, d: t.pop("module/last.bias"),
    "an array that nothing refers to": lambda t, d: t.update(spare=np.zeros(2)),
    "an attribute's array missing": lambda t, d: t.pop("attributes/mean_"),
    "an array used twice": lambda t, d: d["attributes"].update(scale_={"$array": "attributes/mean_"}),
    "a weight of another shape": lambda t, d: t.update({"module/last.weight": np.zeros((1, 4))}),
    "a weight of another dtype": lambda t, d: t.update({"module/last.weight": np.zeros((1, 3), np.float32)}),
    "a NaN weight": set_nan,
    "a parameter that asks for 1e18 weights": lie_about_width,
    "a parameter that asks for 1e9 layers": lie_about_depth,
    "an attribute that asks for 1e12 weights": lie_about_features,
    "an unknown parameter": lambda t, d: d["params"].update(command="rm"),
    "an attribute that is no fitted one": lambda t, d: d["attributes"].update(fit=1),
    "an attribute with underscores": lambda t, d: d["attributes"].update(__class__=1),
    "an unknown kind": lambda t, d: d["params"].update(note={"$eval": "1+1"}),
    "two kinds in one": lambda t, d: d["params"].update(note={"$float": "nan", "$tuple": []}),
    "an unknown record": lambda t, d: d["params"].update(note={"$record": ["Popen", {"args": "ls"}]}),
    "a record with other fields": lambda t, d: d["params"].update(
        note={"$record": ["TimeMap", {"origin": 0.0}]}
    ),
    "a record with wrong values": lambda t, d: d["params"].update(
        note={"$record": ["TimeMap", {"origin": 0.0, "scale": -1.0}]}
    ),
    "an object dtype": lambda t, d: d["params"].update(note={"$scalar": ["O", 1]}),
    "strings of 1 TB": lambda t, d: d["params"].update(note={"$strings": [f"<U{2**38}", [1], ["a"]]}),
    "params that are a list": lambda t, d: d.update(params=[1]),
    "attributes that are a list": lambda t, d: d.update(attributes=[1]),
    "a field missing": lambda t, d: d.pop("params"),
    "a field too many": lambda t, d: d.update(code="import os"),
    "a checkpoint": lambda t, d: d.update(kind="checkpoint"),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_file_with_a_fitting_digest_is_refused(name, path, model):
    rewrite(path, TAMPERED[name])
    with pytest.raises(CheckpointError):
        type(model).load(path)


def test_rewriting_alone_is_no_tampering(path, model, table):
    rewrite(path, lambda tensors, document: None)
    X, _ = table(1)
    np.testing.assert_array_equal(type(model).load(path).predict(X), model.predict(X))


def test_a_document_must_be_strict_json(tmp_path):
    for document in ({"a": np.nan}, {"a": np.inf}, {"a": object()}):
        with pytest.raises(CheckpointError, match="not strict JSON"):
            write_file(tmp_path / "f", {}, document)
    with pytest.raises(CheckpointError, match="array 'a' of dtype"):
        write_file(tmp_path / "f", {"a": np.array(["x"])}, {})
    assert not list(tmp_path.iterdir())


def test_a_document_may_hold_anything_that_json_can(tmp_path):
    document = {
        "text": 'quotes " and \\ and "neurosde":"' + "0" * 64 + ' ", é, 𝔼, \u0000',
        "n": [1, 1.5, None, True],
    }
    write_file(tmp_path / "f", {"a": np.zeros((0, 3))}, document)
    tensors, back = read_file(tmp_path / "f")
    assert back == document == read_document(tmp_path / "f")[1]
    assert tensors["a"].shape == (0, 3)


# files of every release


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parent.glob("golden/ridge_*")), ids=lambda path: path.name
)
def test_files_of_earlier_releases_open(path, ridge_class):
    """The prediction is written out from the raw arrays, which any safetensors reader gives."""
    model, raw = ridge_class.load(path), safetensors_numpy.load_file(path)
    X = np.arange(6.0).reshape(2, 3)
    scaled = (X - raw["attributes/mean_"]) / raw["attributes/scale_"]
    linear = scaled @ raw["module/last.weight"].ravel() + raw["module/last.bias"]
    np.testing.assert_allclose(model.predict(X), linear * model.y_scale_ + model.y_mean_, rtol=1e-12)
    assert model.note["pair"] == (1, np.inf)
    assert model.note["array"].tolist() == [0, 1, 2]


def test_this_release_left_a_file():
    assert Path(__file__).with_name("golden").joinpath(f"ridge_{neurosde.__version__}.safetensors").exists()
