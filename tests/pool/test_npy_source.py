"""NumPy matrices as sources: what is found beside them, what is read of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coevo_ray.config import PoolConfig, Source
from coevo_ray.errors import InputError, UsageError
from coevo_ray.pool.entries import Entry
from coevo_ray.pool.sources import list_source, read_keys, read_shard

N, D = 7, 3
MATRIX = np.arange(1, N * D + 1, dtype=np.float32).reshape(N, D)


def save(file: Path, array: npt.ArrayLike) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, np.asarray(array))
    return file


def entries(uri: Path, shard_rows: int = 3, **settings: Any) -> list[Entry]:
    source = Source(uri=str(uri), **({"format": "npy"} if uri.is_dir() else {}), **settings)
    shards = list_source(source, shard_rows).shards
    read = [entry for shard in shards for entry in read_shard(shard)]
    assert [key for shard in shards for key in read_keys(shard)] == [entry.key for entry in read]
    assert all(shard.rows <= shard_rows for shard in shards)
    return read


def vectors_of(read: list[Entry]) -> npt.NDArray[np.float32]:
    return np.stack([entry.features[0] for entry in read])


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4", "<i4", "<u1"])
def test_a_matrix_of_any_numbers_alone_is_a_source_of_vectors(kind: str, tmp_path: Path) -> None:
    read = entries(save(tmp_path / "x.npy", MATRIX.astype(kind)))
    assert np.array_equal(vectors_of(read), MATRIX)
    assert vectors_of(read).dtype == np.float32
    assert [entry.key for entry in read] == [f"x.npy:{row}" for row in range(N)]
    assert [(entry.label, entry.error, entry.content) for entry in read] == [
        (None, "", row.tobytes()) for row in MATRIX
    ]


KEYS = [f"schlüssel {row}" for row in range(N)]


@pytest.mark.parametrize("name", ["keys.npy", "keys.txt", "x.keys.npy", "x_keys.txt", "x-KEYS.npy"])
@pytest.mark.parametrize("folder", [True, False])
@given(shard_rows=st.integers(1, N + 1))
def test_keys_lie_beside_their_matrix(
    tmp_path_factory: pytest.TempPathFactory, name: str, folder: bool, shard_rows: int
) -> None:
    place = tmp_path_factory.mktemp("m")
    file = save(place / "x.npy", MATRIX)
    if name.endswith("npy"):
        save(place / name, KEYS)
    else:
        (place / name).write_text("\n".join(KEYS), "utf-8")
    read = entries(place if folder else file, shard_rows)
    assert [entry.key for entry in read] == KEYS
    assert np.array_equal(vectors_of(read), MATRIX)


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (np.arange(N), list(range(N))),
        (np.arange(N, dtype=np.float32)[:, None], list(range(N))),
        (np.where(np.arange(N) == 2, np.nan, np.arange(N)), [0, 1, None, 3, 4, 5, 6]),
        (np.where(np.arange(N) == 2, -1, np.arange(N)), [0, 1, None, 3, 4, 5, 6]),
        ("0\n1\n\n3\r\n4\n5\n6\n", [0, 1, None, 3, 4, 5, 6]),
    ],
)
def test_labels_lie_beside_their_matrix(content: Any, labels: list[int | None], tmp_path: Path) -> None:
    file = save(tmp_path / "x.npy", MATRIX)
    if isinstance(content, str):
        (tmp_path / "labels.txt").write_bytes(content.encode())
    else:
        save(tmp_path / "labels.npy", content)
    assert [entry.label for entry in entries(file)] == labels
    assert {entry.label for entry in entries(file, label_column=None)} == {None}


def test_labels_that_are_names_are_texts(tmp_path: Path) -> None:
    save(tmp_path / "x.npy", MATRIX[:3])
    for name, content in (("labels.npy", np.array(["cat", "dög", ""])), ("labels.txt", "\ufeffcat\ndög\n\n")):
        if isinstance(content, str):
            (tmp_path / name).write_text(content, "utf-8")
        else:
            save(tmp_path / name, content)
        assert [entry.text for entry in entries(tmp_path)] == ["cat", "dög", ""]
        (tmp_path / name).unlink()


def test_several_matrices_have_files_of_their_own_and_folders_are_splits(tmp_path: Path) -> None:
    for place in ("train/a", "train/b", "test/c"):
        save(tmp_path / f"{place}.npy", MATRIX + len(place))
        save(tmp_path / f"{place}_keys.npy", [f"{place}{row}" for row in range(N)])
    listed = list_source(Source(uri=str(tmp_path), format="npy"), 4)
    assert [(shard.files[0], shard.rows, shard.split) for shard in listed.shards] == [
        ("test/c.npy", 4, "test"),
        ("test/c.npy", 3, "test"),
        *(("train/a.npy", 4, "train"), ("train/a.npy", 3, "train")),
        *(("train/b.npy", 4, "train"), ("train/b.npy", 3, "train")),
    ]
    assert listed.files == 3
    keys = [entry.key for entry in entries(tmp_path)]
    assert keys == [f"{place}{row}" for place in ("test/c", "train/a", "train/b") for row in range(N)]


def test_files_of_keys_that_belong_to_no_matrix_are_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.npy", MATRIX)
    save(tmp_path / "keys.npy", KEYS)
    listed = list_source(Source(uri=str(tmp_path), format="npy"), 4)
    assert any("1 files of keys or labels belong to no matrix (first: keys.npy)" in line for line in listed.said)


def test_bad_vectors_and_keys_are_rejects_with_reasons(tmp_path: Path) -> None:
    bad = MATRIX.astype(np.float64)
    bad[0, 1], bad[1, 0], bad[2], bad[3, 2] = np.nan, -np.inf, 0, 1e300
    file = save(tmp_path / "x.npy", bad)
    (tmp_path / "keys.txt").write_bytes(b"a\nb\nc\nd\n\n\xff\xfe\ng\n")
    save(tmp_path / "labels.npy", [0, 1, 2, 3, 4, 5, 2.5])
    finite = "values that are not finite in float32 in x.npy"
    assert [(entry.key, entry.error) for entry in entries(file)] == [
        ("a", finite),
        ("b", finite),
        ("c", "zero vector in x.npy"),
        ("d", finite),
        ("x.npy:4", "no key for x.npy:4"),
        ("x.npy:5", "key of x.npy:5 is not UTF-8"),
        ("g", "label is not a whole number: 2.5"),
    ]


@pytest.mark.parametrize(
    ("array", "cause"),
    [
        (np.arange(4.0), r"float64 of shape \(4,\), need numbers of shape \(N, d\)"),
        (np.zeros((2, 3, 4)), r"of shape \(2, 3, 4\)"),
        (np.zeros((2, 0)), r"of shape \(2, 0\)"),
        (np.array([["a", "b"]]), "<U1 of shape"),
        (np.zeros((2, 2), complex), "complex128 of shape"),
        (np.asfortranarray(MATRIX), r"stored by columns \(fortran_order\)"),
        (np.zeros((2, 2), dtype=[("x", "f4")]), "Python objects or records"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(array: npt.NDArray[Any], cause: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=cause) as refused:
        entries(save(tmp_path / "x.npy", array))
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("array", "remedy"),
    [
        (MATRIX > 0, "numpy.save(path, array.astype('float32'))"),
        (MATRIX.astype(np.complex64), "numpy.concatenate([array.real, array.imag], axis=1)"),
        (MATRIX[:, :, None], "reshape it to one vector a row"),
    ],
)
def test_a_matrix_of_other_numbers_is_refused_with_what_helps(
    array: npt.NDArray[Any], remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        entries(save(tmp_path / "x.npy", array))
    assert remedy in refused.value.remedy


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[print]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="holds Python objects"):
        entries(tmp_path / "x.npy")


def test_damaged_and_cut_files_are_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "x.npy", MATRIX).read_bytes()
    for length, cause in (
        (0, "cannot read"),
        (4, "cannot read"),
        (40, "cannot read"),
        (-1, "cut off: 211 bytes, need 212"),
    ):
        (tmp_path / "x.npy").write_bytes(whole[:length])
        with pytest.raises(InputError, match=cause):
            entries(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"no array at all")
    with pytest.raises(InputError, match="cannot read"):
        entries(tmp_path / "x.npy")


def test_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.npy", MATRIX)
    save(tmp_path / "keys.npy", KEYS[:-1])
    with pytest.raises(InputError, match=r"keys.npy has 6 entries, .*x.npy 7 rows"):
        entries(tmp_path)
    save(tmp_path / "keys.npy", [KEYS])
    with pytest.raises(InputError, match=r"has the shape \(1, 7\), need \(7,\)"):
        entries(tmp_path)
    save(tmp_path / "keys.npy", KEYS)
    (tmp_path / "x.keys.txt").write_text("a")
    with pytest.raises(InputError, match=r"two files of keys: keys\.npy, x\.keys\.txt"):
        entries(tmp_path)
    (tmp_path / "keys.npy").unlink()
    (tmp_path / "x.keys.txt").write_text("\n".join(KEYS))
    save(tmp_path / "y.npy", MATRIX)
    with pytest.raises(InputError, match=r"x\.npy has keys and y\.npy has none"):
        entries(tmp_path)
    (tmp_path / "x.keys.txt").unlink()
    save(tmp_path / "y.npy", MATRIX[:, :2])
    with pytest.raises(InputError, match=r"different dimensions: 2 in y.npy, 3 in x.npy"):
        entries(tmp_path)


def test_a_matrix_that_changes_is_told(tmp_path: Path) -> None:
    file = save(tmp_path / "x.npy", MATRIX)
    (shard,) = list_source(Source(uri=str(file)), 100).shards
    save(file, MATRIX[:3])
    with pytest.raises(InputError, match="changed while it was ingested"):
        list(read_shard(shard))


def test_settings_that_name_columns_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.npy", MATRIX)
    for setting in ({"key_column": "id"}, {"label_column": "y"}, {"feature_columns": ["v"]}, {"vector_column": "v"}):
        with pytest.raises(UsageError, match=rf"{next(iter(setting))} is set and .* holds matrices"):
            entries(tmp_path, **setting)
    with pytest.raises(InputError, match=r"no images in .*") as refused:
        list_source(Source(uri=str(tmp_path)), 4)
    assert "format: npy" in refused.value.remedy
    with pytest.raises(InputError, match=r"no \.npy matrices in"):
        list_source(Source(uri=str(save(tmp_path / "e" / "keys.npy", KEYS).parent), format="npy"), 4)


def test_vectors_name_their_modality(tmp_path: Path) -> None:
    assert Source(uri="a/X.NPY").modality == Source(uri="a", format="npy").modality == "vector"
    assert Source(uri="a", vector_column="v").modality == "vector"
    assert Source(uri="a.npy", format="images").modality == "image"
    for ok in ({"feature_columns": ("vector",)}, {"text_column": "t", "feature_columns": ("vector",)}):
        assert "vector" in Source(uri="x", **ok).feature_columns  # a name that people give their columns
    with pytest.raises(ValueError, match="names of the pool's own columns"):
        Source(uri="x", vector_column="v", feature_columns=("vector",))
    with pytest.raises(ValueError, match="some sources hold vectors"):
        PoolConfig(sources=(Source(uri="x.npy"), Source(uri="y")))


@pytest.mark.parametrize("point", [0x7FFFFFFF, 0x110000, 0xD800, 0xDFFF])
@pytest.mark.parametrize("role", ["keys", "labels"])
def test_texts_that_hold_no_characters_are_refused(point: int, role: str, tmp_path: Path) -> None:
    file, texts = save(tmp_path / "x.npy", MATRIX), np.array(["ab"] * N)
    texts.view(np.uint32)[3] = point
    save(tmp_path / f"{role}.npy", texts)
    with pytest.raises(InputError, match=f"{role}.npy is damaged: its texts hold no characters"):
        entries(file)
