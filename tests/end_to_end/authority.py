"""An authority of the test's own, by openssl: certificates that are good, expired or foreign."""

import os
import pathlib
import shutil
import subprocess

OPENSSL = shutil.which("openssl")
KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def _run(*words):
    subprocess.run([OPENSSL, *map(str, words)], check=True, capture_output=True, timeout=30)


def put(path, data):
    """Replaces a file at once, readable by its owner only."""
    path = pathlib.Path(path)
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.chmod(new, 0o600)
    new.replace(path)


class Authority:
    """Signs certificates for regions."""

    def __init__(self, folder, name):
        self.folder = pathlib.Path(folder) / name
        self.folder.mkdir()
        _run("req", "-x509", *KEY, "-days", 2, "-subj", f"/CN={name}",
             "-out", self.folder / "ca.pem", "-keyout", self.folder / "ca.key")

    @property
    def certificate(self):
        return (self.folder / "ca.pem").read_bytes()

    def sign(self, region, days=2):
        """The bytes of a certificate and of its key; with negative days it has expired."""
        place = self.folder / region
        request, extensions = f"{place}.csr", f"{place}.ext"
        pathlib.Path(extensions).write_text(
            f"subjectAltName=DNS:{region}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _run("req", "-new", *KEY, "-subj", f"/CN={region}", "-keyout", f"{place}.key",
             "-out", request)
        _run("x509", "-req", "-in", request, "-CA", self.folder / "ca.pem",
             "-CAkey", self.folder / "ca.key", "-CAcreateserial", "-days", days,
             "-extfile", extensions, "-out", f"{place}.pem")
        return pathlib.Path(f"{place}.pem").read_bytes(), pathlib.Path(f"{place}.key").read_bytes()
