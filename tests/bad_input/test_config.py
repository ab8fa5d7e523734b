"""IR3: a configuration that is wrong is refused with one clear line."""

import os
import pathlib
import subprocess

import cluster
import pytest

GOOD = """
[instance]
name = "demo"

[region]
name = "r1"
number = 1

[storage]
data = "data"

[public]
listen = "127.0.0.1:{port}"

[admin]
listen = "127.0.0.1:{admin}"

[peer]
listen = "127.0.0.1:{peer}"

[[credentials]]
access_key_id = "someone"
access_key_secret_file = "secret"
"""


def serve(file):
    return subprocess.run(
        [cluster.binary(), "serve", "--config", str(file)], stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=30, check=False,
    )


def write(folder, text, mode=0o600):
    port = cluster.base_port(1) + 10
    values = {"port": port, "admin": port + 1, "peer": port + 2}
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    secret = folder / "secret"
    secret.write_text("a-secret-0123456789abcdef")
    secret.chmod(0o600)
    file = folder / "isthmus.toml"
    file.write_text(text)
    file.chmod(mode)
    return file


def refused(done, word):
    assert done.returncode not in (0, None)
    assert done.returncode > 0, "ended by a signal"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert any(word in line for line in lines), done.stderr
    assert "panicked" not in done.stderr
    assert "a-secret-0123456789abcdef" not in done.stderr + done.stdout


@pytest.mark.parametrize("change, word", [
    (lambda text: text + '\nunknown_key = "x"\n', "unknown_key"),
    (lambda text: text.replace("[instance]", "unknown = 1\n[instance]"), "unknown"),
    (lambda text: text + "\n[unknown]\n", "unknown"),
    (lambda text: text.replace("number = 1", 'number = "one"'), "number"),
    (lambda text: text.replace("number = 1", "number = 0"), "number"),
    (lambda text: text.replace("number = 1", "number = 256"), "number"),
    (lambda text: text.replace('name = "demo"', 'name = "d"'), "name"),
    (lambda text: text.replace('"data"', "5"), "data"),
    (lambda text: text.replace("[region]", "[region"), "isthmus.toml"),
    (lambda text: text.replace("127.0.0.1:{port}", "nowhere"), "listen"),
    (lambda text: text.replace('access_key_secret_file = "secret"', ""), "access_key_secret"),
    (lambda text: text.replace('"secret"', '"nothere"'), "nothere"),
    (lambda text: text.split("[[credentials]]")[0], "credentials"),
    (lambda text: "", "isthmus.toml"),
    (lambda text: "   \n\n", "isthmus.toml"),
    (lambda text: "# " + "x" * 2 * 1024 * 1024, "isthmus.toml"),
    (lambda text: "\x00\x01\x02", "isthmus.toml"),
], ids=range(17))
def test_a_wrong_file_is_refused(tmp_path, change, word):
    refused(serve(write(tmp_path, change(GOOD))), word)


def test_a_missing_file_is_refused(tmp_path):
    refused(serve(tmp_path / "nothere.toml"), "nothere.toml")


def test_a_directory_is_refused(tmp_path):
    refused(serve(tmp_path), str(tmp_path))


def test_a_secret_that_others_may_read_is_refused(tmp_path):
    file = write(tmp_path, GOOD)
    (tmp_path / "secret").chmod(0o644)
    refused(serve(file), "secret")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path):
    refused(serve(write(tmp_path, GOOD, 0o000)), "isthmus.toml")


def test_the_control_starts(tmp_path):
    file = write(tmp_path, GOOD)
    process = cluster.spawn([cluster.binary(), "serve", "--config", str(file)], tmp_path / "log",
                            stdout=subprocess.DEVNULL)
    try:
        data = pathlib.Path(tmp_path / "data")
        cluster.wait_until(lambda: data.is_dir() or process.poll() is not None, "it starts", 30)
        assert process.poll() is None, (tmp_path / "log").read_text()
    finally:
        cluster.end(process)
