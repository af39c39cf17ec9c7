"""A run and its images on an object store: a server of S3 in this process."""

from __future__ import annotations

import io
import json
import logging
import pickle
from pathlib import Path

import pyarrow
import pyarrow.fs
import pyarrow.parquet
import pytest
from PIL import Image
from typer.testing import CliRunner

import relook
from relook import storage
from relook.cli.app import app
from relook.errors import DataError, ImageError, RelookError
from relook.evaluation import read_data
from relook.folder import RemoteFolder, RunError, claimed, folder_at, read_settings
from relook.prediction.images import FoundImages, find_images
from relook.runs import Item, Run, run
from relook.storage import StorageError, read, shown

SCHEMA = pyarrow.schema({"index": pyarrow.int64(), "text": pyarrow.string()})
SETTINGS = {
    "kind": "evaluation",
    "k": 5,
    "answers": {"first": "é"},
    "model": {"a": 1},
    "data": {"b": 2},
}


def schema_of(_settings):
    return SCHEMA


def rows(*indices, text="x"):
    return pyarrow.table({"index": indices, "text": [f"{text}{i}" for i in indices]}, SCHEMA)


@pytest.fixture(scope="session")
def server():
    """The address of an S3 server in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    """An empty bucket at the endpoint that the environment says; no other one is asked."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    files = pyarrow.fs.S3FileSystem(
        endpoint_override=server,
        scheme="http",
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )
    files.create_dir("bucket")
    yield "s3://bucket"
    files.delete_dir_contents("bucket")
    storage._file_system.cache_clear()


def names(address):
    return sorted(name for name, _ in storage.files_in(address, deep=True))


def opened(place, **settings):
    return Run.open(place, {**SETTINGS, **settings}, schema_of)


@pytest.fixture(params=["disk", "s3", "other"])
def place(request, tmp_path):
    """A folder on this disk, on an object store, and on another kind of file system."""
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/runs/one"
    storage._file_system.cache_clear()  # PyArrow's file system in memory is emptied
    return tmp_path / "runs" / "one" if request.param == "disk" else "mock://memory/runs/one"


def test_a_run_is_claimed_written_continued_and_compacted(place):
    with opened(place) as begun:
        assert begun.done() == set()
        begun.write(rows(3, 1))
        begun.write(rows(0))
        assert begun.done() == {0, 1, 3}
    assert Run.count(place) == 3
    with opened(place) as continued:
        assert dict(continued.settings) == {"format": 2, **SETTINGS}
        continued.write(rows(2), "part-named.parquet")
        assert "part-named.parquet" in continued.folder.sizes("rows")
        continued.compact()
        assert len(continued.folder.sizes("rows")) == 1
        assert continued.table() == rows(0, 1, 2, 3)
    assert read_settings(place, "evaluation")["answers"] == {"first": "é"}
    assert pickle.loads(pickle.dumps(continued)).table() == rows(0, 1, 2, 3)  # noqa: S301


def test_another_run_in_the_folder_is_refused(place):
    with opened(place) as begun:
        begun.write(rows(0))
    with (
        pytest.raises(RunError, match=r"one holds another run; .* Different: k was 5 and is 4 now"),
        opened(place, k=4),
    ):
        pass
    begun.folder.delete("run.json")
    with pytest.raises(RunError, match=r"one holds parts of a run but no run\.json"), opened(place):
        pass


def test_a_run_without_rows_leaves_no_settings(place):
    with opened(place):
        assert read_settings(place, "evaluation")["k"] == 5
    with pytest.raises(
        RunError, match=r"runs.one: contains no run\.json; pass the folder of a run"
    ):
        read_settings(place, "evaluation")
    with opened(place, k=4):
        pass


def test_what_an_interrupted_write_left_is_deleted(place):
    with opened(place) as begun:
        begun.write(rows(0))
    if isinstance(begun.folder, RemoteFolder):
        storage.write(storage.joined(begun.folder.address, "rows/part-1.parquet.writing"), b"half")
    else:
        (place / "rows" / "part-1.parquet.writing").write_bytes(b"half")
    with opened(place) as continued:
        assert len(continued.folder.sizes("rows")) == 1


def test_a_large_run_keeps_its_parts_and_loses_repeated_rows(place, monkeypatch):
    monkeypatch.setattr(run, "_SMALL", 0)
    with opened(place) as large:
        large.write(rows(4, 2), "part-1.parquet")
        large.write(rows(2, 3, text="later"), "part-2.parquet")
        large.write(rows(4, 2, text="later"), "part-3.parquet")
        large.compact()
        parts = {name: large._read(name)["text"].to_pylist() for name in large._parts()}
        assert parts == {"part-1.parquet": ["x4", "x2"], "part-2.parquet": ["later3"]}
        assert large.done() == {2, 3, 4}


def test_a_damaged_part_is_named(place):
    with opened(place) as begun:
        begun.folder.write("rows/part-1.parquet", b"not Parquet")
        with pytest.raises(RunError, match=r"part-1\.parquet: cannot be read .*delete it to have"):
            begun.table()
    assert Run.count(place) == 0


def test_any_reader_of_parquet_finds_one_row_an_image(bucket):
    with opened(f"{bucket}/run") as begun:
        begun.write(rows(1))
        begun.write(rows(0))
        begun.compact()
    files, path = pyarrow.fs.FileSystem.from_uri(f"{bucket}/run/rows")
    assert pyarrow.parquet.read_table(path, filesystem=files) == rows(0, 1)
    assert "run/run.json" in names(bucket)
    assert json.loads(storage.read(f"{bucket}/run/run.json"))["k"] == 5


def test_storage_without_locks_says_so(bucket, caplog):
    with (
        caplog.at_level(logging.WARNING, logger="relook"),
        opened(f"{bucket}/run?region=us-east-1"),
    ):
        pass
    [message] = [record.getMessage() for record in caplog.records]
    assert message == (
        "relook: s3://bucket/run: storage at an address has no file locks; use the folder in one process only"
    )


def test_a_missing_bucket_is_a_sentence(bucket):
    said = r"^s3://none/run/rows: cannot be read: there is no such bucket; create it, or check the address$"
    with pytest.raises(RunError, match=said), opened("s3://none/run"):
        pass
    with pytest.raises(RunError, match=r"^s3://none/run: contains no run\.json"):
        read_settings("s3://none/run", "evaluation")
    with pytest.raises(StorageError, match=r"^s3://none: cannot be read: there is no such bucket"):
        storage.files_in("s3://none")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "web://host/run",
            r"web://host/run/run\.json: cannot be read: no such kind of storage is known; use s3://",
        ),
        (
            "s3://bucket/run?colour=red",
            "Unexpected query parameter in S3 URI: 'colour'; check the address",
        ),
    ],
)
def test_an_address_that_is_none_is_a_sentence(bucket, address, said):
    with pytest.raises(RunError, match=said), claimed(address, {}, lambda: False):
        pass


def test_options_and_odd_names_survive_joining(server, bucket, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    root = f"{bucket}/a b%20c?endpoint_override={server}&scheme=http"
    odd = "100%41/ü #?.txt"
    storage.write(storage.joined(root, odd), b"content")
    assert storage.files_in(root, deep=True) == [(odd, 7)]
    assert storage.read(storage.joined(root, odd)) == b"content"
    assert storage.shown(storage.joined(root, odd)) == f"s3://bucket/a b c/{odd}"
    assert storage.kind_of(storage.folder_of(storage.joined(root, odd))) == "folder"
    assert storage.kind_of(storage.joined(root, "none")) == "nothing"


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/run?endpoint_override=127.0.0.1:9&scheme=http",
        "gs://anonymous@bucket/run?endpoint_override=127.0.0.1:9&scheme=http&retry_limit_seconds=1",
    ],
)
@pytest.mark.slow  # it is tried again for seconds
def test_a_server_out_of_reach_is_a_sentence(bucket, address):
    with pytest.raises(
        StorageError, match=r"bucket/run: .*: the server cannot be reached; check the network"
    ):
        storage.read(address)


def test_a_password_is_not_shown():
    address = "s3://key:secret@bucket/run?region=eu-west-1"
    assert str(folder_at(address)) == "s3://bucket/run"
    assert folder_at(address).named("rows/a.parquet") == "s3://bucket/run/rows/a.parquet"
    assert storage.shown("abfs://box@account.net/a") == "abfs://box@account.net/a"


def test_a_path_on_windows_is_no_address():
    for path in ("C:\\photos", "C:/photos", "c://photos", "photos", "://x"):
        assert not storage.is_address(path)
        assert not isinstance(folder_at(path), RemoteFolder)
    with pytest.raises(RunError, match="is an address"):
        folder_at(Path("s3://bucket"))  # which has lost a slash
    assert issubclass(StorageError, RelookError)


def test_an_evaluation_is_kept_and_read_again(bucket, grey, data):
    corrector = relook.Corrector(grey, look="flip")
    kept = relook.evaluate(corrector, data, output=f"{bucket}/run")
    rows_file, *others = names(bucket)
    assert rows_file.startswith("run/rows/part-")
    assert others == ["run/run.json", "run/summary.json"]
    again = relook.Evaluation.read(f"{bucket}/run")
    assert (
        again.table == kept.table == relook.evaluate(corrector, data, output=f"{bucket}/run").table
    )


@pytest.fixture
def photos(bucket):
    """Images below s3://bucket/photos, and what is not used there."""
    content = io.BytesIO()
    Image.new("RGB", (3, 2)).save(content, "PNG")
    for name in ("b.png", "in ner/ü.PNG", "a-b/1.png", ".git/x.png", "in ner/.y.png"):
        storage.write(storage.joined(f"{bucket}/photos", name), content.getvalue())
    storage.write(f"{bucket}/photos/notes.txt", b"text")
    return f"{bucket}/photos"


def test_images_are_listed_and_read(photos):
    found = find_images([photos])
    assert [item.name for item in found.items] == ["a-b/1.png", "b.png", "in ner/ü.PNG"]
    assert all(item.open().size == (3, 2) for item in pickle.loads(pickle.dumps(found.items)))  # noqa: S301
    assert found.left_out == (
        "1 file that Pillow does not open as an image (.txt 1), "
        "1 image in hidden or system folders (.git), 1 hidden file"
    )
    several = find_images([f"{photos}/b.png", f"{photos}/", f"{photos}/none.png"])
    assert [item.name for item in several.items] == [
        "s3://bucket/photos/b.png",
        "s3://bucket/photos/a-b/1.png",
        "s3://bucket/photos/in ner/ü.PNG",
        "s3://bucket/photos/none.png",
    ]
    with pytest.raises(
        ImageError, match=r"^s3://bucket/photos/none\.png: no such file; check the address"
    ):
        several.items[3].open()
    storage.write(f"{photos}/b.png", b"no image")
    with pytest.raises(
        ImageError, match=r"^s3://bucket/photos/b\.png: not an image that Pillow can"
    ):
        several.items[0].open()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_images_are_listed_in_a_table(photos, tmp_path, kind):
    listed = ["photos/b.png", f"{photos}/a-b/1.png", "photos/in ner/ü.PNG"]
    file = tmp_path / f"t.{kind}"
    if kind == "csv":
        file.write_text("\n".join(["image", *listed]), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.table({"image": listed}), file)
    far = f"s3://bucket/t.{kind}"
    storage.write(far, file.read_bytes())
    found = find_images([far])
    assert [item.name for item in found.items] == listed
    assert all(item.open().size == (3, 2) for item in found.items)
    here = find_images([file]).items[1]
    assert (here.name, here.open().size) == (listed[1], (3, 2))
    file.write_text(f"image,label\n{listed[1]},cat\n", encoding="utf-8")
    if kind == "csv":
        with pytest.raises(
            DataError, match=r"row 2 is at an address .* which only relook predict reads"
        ):
            read_data(file, ["cat", "dog"])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "s3://none/photos",
            r"s3://none/photos: cannot be read: there is no such bucket; create it, or",
        ),
        (
            "s3://bucket/nowhere",
            r"s3://bucket/nowhere: there is no such file or folder; check the address",
        ),
        (
            "s3://bucket/nowhere.csv",
            r"s3://bucket/nowhere\.csv: there is no such table; check the address",
        ),
        (
            "web://bucket/photos",
            r"web://bucket/photos: cannot be read: no such kind of storage is known",
        ),
    ],
)
def test_images_that_are_not_there_are_a_sentence(bucket, address, said):
    with pytest.raises(DataError, match=said):
        find_images([address])


def test_a_table_at_an_address_lists_images_elsewhere(photos, photo):
    listed = ["../photos/./b.png", "..\\photos\\a-b\\1.png", str(photo)]
    storage.write("s3://bucket/lists/t.csv", "\n".join(["image", *listed]).encode())
    items = find_images(["s3://bucket/lists/t.csv"]).items
    assert [item.name for item in items] == listed
    assert [item.open().size for item in items] == [(3, 2), (3, 2), (40, 30)]


def test_predictions_are_kept_at_an_address_and_continued(photos, grey):
    corrector = relook.Corrector(grey, look="flip")
    kept = relook.predict(
        corrector, [f"{photos}/b.png", photos, f"{photos}/none.png"], "s3://bucket/answers"
    )
    assert kept.totals.images == 3
    assert kept.errors() == ["s3://bucket/photos/none.png: no such file; check the address"]
    assert relook.prediction.Predictions.read("s3://bucket/answers").table() == kept.table()
    with pytest.raises(
        RunError, match=r"^s3://bucket/answers holds another run; .*data\.images was 4 and is 3"
    ):
        relook.predict(corrector, photos, "s3://bucket/answers")


def test_the_command_evaluate_does_not_make_a_folder_of_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["evaluate", "photos", "--output", "s3://bucket/run"])
    assert done.exit_code == 2
    assert "is an address" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("secret", ["TOPSECRET", "TOP/SECRET", "TOP%2FSECRET"])
def test_no_message_shows_a_secret(secret):
    address = f"s3://KEY:{secret}@bucket/run?region=eu"
    assert shown(address) == "s3://bucket/run"
    with pytest.raises((StorageError, FileNotFoundError)) as error:
        read(f"nosuch://KEY:{secret}@bucket/run")
    assert "SECRET" not in str(error.value)


def test_a_storage_that_fails_ends_a_run_and_makes_no_rows(tmp_path, lite0, monkeypatch):
    """The images are not to blame: the same command goes on once the storage is back."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    items = tuple(Item(i, f"{i}.png", f"nosuch://bucket/{i}.png") for i in range(3))
    corrector = relook.Corrector(lite0, look="flip")
    with pytest.raises(StorageError):
        relook.predict(corrector, FoundImages(items, "", "x"), tmp_path / "run")
    assert not list((tmp_path / "run" / "rows").iterdir())
