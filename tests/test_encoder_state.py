"""FeatureEncoder.to_dict and from_dict: plain data, and nothing else is accepted."""

from __future__ import annotations

import copy
import json
import tracemalloc
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmfast import FeatureEncoder
from fmfast.encoder.fields import text_order

TABLE = {
    "user": [42, 7, 42, None],
    "site": ["a", "b", "c", "é"],
    "genre": [["x"], [], None, ["x", "y"]],
    "age": [20.5, 30.0, None, 40.0],
    "price": [1.0, 2.5, 3.0, 0.1],
}
PARAMS = {
    "categorical": ("user",),
    "hash_size": {"site": np.int64(5)},
    "numeric_encoding": {"price": "bin"},
    "n_bins": 3,
    "dtype": np.float64,
}


def fitted(**params):
    return FeatureEncoder(**{**PARAMS, **params}).fit(TABLE)


def test_round_trip_through_json():
    encoder = fitted()
    text = json.dumps(encoder.to_dict(), allow_nan=False)
    twin = FeatureEncoder.from_dict(json.loads(text))
    assert json.dumps(twin.to_dict(), allow_nan=False) == text
    unseen = {**TABLE, "site": ["never", None, "a", "b"], "user": [1, 2, 42, 7], "genre": [["z"]] * 4}
    for table in (TABLE, unseen):
        X, Y = encoder.transform(table), twin.transform(table)
        for part in ("data", "indices", "indptr"):
            assert getattr(X, part).dtype == getattr(Y, part).dtype
            assert getattr(X, part).tobytes() == getattr(Y, part).tobytes()
    assert twin.feature_names_.tolist() == encoder.feature_names_.tolist()
    assert twin.fields_.tolist() == encoder.fields_.tolist()
    params = {**encoder.get_params(), "categorical": ["user"], "dtype": "float64"}
    assert twin.get_params() == params
    assert twin.fit(TABLE).to_dict() == encoder.to_dict()


def test_only_plain_data():
    def check(value):
        if type(value) is dict:
            assert all(type(key) is str for key in value)
            check(list(value.values()))
        elif type(value) is list:
            for item in value:
                check(item)
        else:
            assert value is None or type(value) in (str, int, float, bool)

    check(fitted().to_dict())


def test_the_state_is_a_copy():
    encoder = fitted()
    state = encoder.to_dict()
    before = copy.deepcopy(state)
    twin = FeatureEncoder.from_dict(state)
    state["fields"][0]["values"].append("more")
    state["params"]["categorical"].append("more")
    state["params"]["hash_size"]["more"] = 1
    assert encoder.to_dict() == before
    assert twin.to_dict() == before


def test_parameters_that_a_file_does_not_have_take_their_defaults():
    state = fitted().to_dict()
    del state["params"]["n_bins"]
    assert FeatureEncoder.from_dict(state).n_bins == FeatureEncoder().n_bins


def field(**changes):
    """A change of the state: entries of the field that has them all."""

    def change(state):
        found = [entries for entries in state["fields"] if changes.keys() <= entries.keys()]
        found[0].update(changes)

    return change


def change_fields(change):
    return lambda state: change(state["fields"])


BAD_STATES = {
    "no format": (lambda s: s.pop("format"), "it has format = None, where 'fmfast feature encoder' belongs"),
    "newer format": (lambda s: s.update(format_version=2), "format_version = 2, where 1 belongs"),
    "version that is a bool": (lambda s: s.update(format_version=True), "format_version = True"),
    "surplus entry": (lambda s: s.update(more=1), "it has the entries"),
    "entry that is no string": (lambda s: s.update({1: 1}), "it has the entries"),
    "no fields": (lambda s: s.pop("fields"), "it has the entries"),
    "empty fields": (lambda s: s.update(fields=[]), r"it has the fields \[\]"),
    "fields that are no list": (lambda s: s.update(fields={"a": 1}), "it has the fields"),
    "params that are no dict": (lambda s: s.update(params=["dtype"]), "it has the parameters"),
    "unknown param": (lambda s: s["params"].update(_fields=1), "it has the parameters"),
    "param out of range": (lambda s: s["params"].update(min_count=0), "min_count of FeatureEncoder is 0"),
    "param of a wrong type": (lambda s: s["params"].update(categorical="user"), "categorical of Feature"),
    "dtype": (lambda s: s["params"].update(dtype="O"), "dtype of FeatureEncoder is 'O'"),
    "field that is no dict": (change_fields(lambda f: f.append("user")), "the kind None, where one of"),
    "unknown kind": (
        field(kind="field"),
        "the kind 'field', where one of vocabulary, hashed, sc",
    ),
    "kind that is a list": (field(kind=["hashed"]), "the kind .'hashed'., where"),
    "field twice": (change_fields(lambda f: f.append(f[0])), "several fields of the same name"),
    "field without name": (change_fields(lambda f: f[0].pop("name")), "a field has the entries"),
    "field with one more": (change_fields(lambda f: f[0].update(width=1)), "a field has the entries"),
    "name": (field(name=1), "name = 1, where the name of a column belongs"),
    "multi_valued": (field(multi_valued=1), "multi_valued = 1, where true or false belongs"),
    "empty separator": (field(separator=""), "separator = '', where null or a string"),
    "normalize": (field(normalize=None), "normalize = None"),
    "values that are a string": (field(values="ab"), "values = 'ab', where a sorted list of distinct"),
    "values that are numbers": (field(values=[1, 2]), "values = "),
    "values with null": (field(values=[None]), "values = "),
    "unsorted values": (field(values=["b", "a"]), "values = "),
    "values sorted as text": (field(values=["10", "9"]), "values = "),
    "repeated values": (field(values=["a", "a"]), "values = "),
    "has_missing": (field(has_missing="yes"), "has_missing = 'yes'"),
    "size 0": (field(size=0), "size = 0, where an integer from 1"),
    "size beyond all features": (field(size=2**31), "size = 2147483648, where"),
    "size that is a float": (field(size=5.0), "size = 5.0"),
    "mean": (field(mean=float("nan")), "mean = nan, where a finite number"),
    "mean that is an integer": (field(mean=1), "mean = 1, where"),
    "scale 0": (field(scale=0.0), "scale = 0.0, where a finite number > 0"),
    "infinite scale": (field(scale=float("inf")), "scale = inf"),
    "edges that fall": (field(edges=[2.0, 1.0]), "edges = .*, where an ascending list"),
    "edges that repeat": (field(edges=[1.0, 1.0]), "edges = "),
    "infinite edges": (field(edges=[float("-inf"), 1.0]), "edges = "),
    "edges that are no list": (field(edges=1.0), "edges = 1.0"),
}


@pytest.mark.parametrize(("change", "match"), BAD_STATES.values(), ids=BAD_STATES)
def test_states_that_lie(change, match):
    state = fitted().to_dict()
    change(state)
    with pytest.raises(ValueError, match=f"Cannot read a FeatureEncoder: .*{match}"):
        FeatureEncoder.from_dict(state)


@pytest.mark.parametrize("state", [None, [], "state", 1, {}])
def test_no_states(state):
    with pytest.raises(ValueError, match=r"Cannot read a FeatureEncoder: it (is a|has format = None)"):
        FeatureEncoder.from_dict(state)


def test_absurd_sizes_cost_no_memory():
    state = fitted().to_dict()
    field(size=2**31 - 1)(state)
    tracemalloc.start()
    encoder = FeatureEncoder.from_dict(state)
    rows = encoder.transform(TABLE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.shape[1] == encoder.n_features_out_ > 2**31
    assert rows.indices.dtype == np.int64
    assert peak < 1_000_000


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["vocabulary", "hashed", "user", "float32", "", 2**31, 10**400, -1, 0, 1, 1.0]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_random_states_are_refused_or_make_an_encoder(data):
    state = fitted().to_dict()
    places = [state, state["params"], *state["fields"]]
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places))
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    try:
        encoder = FeatureEncoder.from_dict(state)
    except ValueError:
        return
    json.dumps(encoder.to_dict(), allow_nan=False)
    names = encoder.field_names_.tolist()
    table = {name: TABLE.get(name, [None] * 4) for name in names}
    with suppress(ValueError):  # of another kind than the column, or scaled out of range
        rows = encoder.transform(table)
        assert rows.shape == (4, encoder.n_features_out_)
        assert rows.has_canonical_format


@given(st.lists(st.text(max_size=3) | st.integers(0, 10**20).map(str)))
def test_order_of_categories(texts):
    """A total order of texts, in which numbers go by size."""
    ordered = sorted(set(texts), key=text_order)
    keys = [text_order(text) for text in ordered]
    assert all(a < b for a, b in pairwise(keys))
    numbers = [
        int(text) for text in ordered if text.isascii() and text == text.lstrip("0") and text.isdigit()
    ]
    assert numbers == sorted(numbers)
