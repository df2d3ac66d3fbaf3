"""Fetching official files: pooch with the published MD5; Google Drive (CelebA) through torchvision's helper."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from agelib.data.files import OFFICIAL, check_md5

TIMEOUT_S = 30.0  # without an answer from the server


def fetch(name: str, wanted: tuple[str, ...], folder: Path) -> str | None:
    """Download the files `wanted` of data set `name` into `folder`, those already there aside.

    Returns None when all are there now, else one line saying what failed. A file is written under a temporary name,
    checked, then renamed: a broken download leaves nothing behind.
    """
    for file in wanted:
        if OFFICIAL[file].urls == () and OFFICIAL[file].drive_id is None:
            return "they cannot be downloaded (the official host is gone)"
    for file in wanted:
        if (folder / file).is_file():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if failure := _fetch_drive(file, folder) if OFFICIAL[file].drive_id else _fetch_urls(file, folder):
            return f"the download of {file} failed ({failure})"
    return None


def _fetch_urls(file: str, folder: Path) -> str | None:
    import pooch  # here, because it is slow to import and seldom needed

    official = OFFICIAL[file]
    failures = []
    pooch.get_logger().setLevel("WARNING")
    for url in official.urls:
        try:
            downloader = pooch.HTTPDownloader(timeout=TIMEOUT_S)
            pooch.retrieve(url, f"md5:{official.md5}", fname=file, path=folder, downloader=downloader)
            return None
        except (OSError, ValueError) as err:  # requests' errors are OSErrors; ValueError: another checksum
            failures.append(f"{url}: {_short(err)}")
    return "; ".join(failures)


def _fetch_drive(file: str, folder: Path) -> str | None:
    official = OFFICIAL[file]
    try:
        from agelib import tv

        tv.import_torchvision()
        from torchvision.datasets.utils import download_file_from_google_drive

        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            download_file_from_google_drive(official.drive_id, temporary, file)
            os.replace(check_md5(Path(temporary) / file), folder / file)
        return None
    except Exception as err:  # gdown's errors have no class in common
        return f"Google Drive: {_short(err)}"


def _short(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return f"{type(err).__name__}: {lines[0][:200] if lines else ''}"
