"""Reading archives in place: nothing is extracted, and an archive with a member that points outside is refused."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from agelib.data.imageset import DataError

_ERRORS = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, ValueError)
MAX_MEMBER_BYTES = 1 << 28  # of one member, unpacked: eight times the largest official one


def check_member(path: Path, name: str, *, link: bool, regular: bool) -> None:
    """Refuse a member that is a link or a device, or whose name is absolute or climbs out of the archive."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or (parts.parts and ":" in parts.parts[0]):
        raise DataError(f"{path}: member {name!r} points outside the archive; refused")
    if link:
        raise DataError(f"{path}: member {name!r} is a link; refused")
    if not regular:
        raise DataError(f"{path}: member {name!r} is neither a file nor a folder; refused")


def tar_files(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the wanted files of a .tar, .tar.gz or .tgz, in the archive's order, read once from the start.

    Every member that is passed is checked first.  Raises DataError naming the archive.
    """
    try:
        with tarfile.open(path, "r|*") as tar:
            for member in tar:
                link = member.issym() or member.islnk()
                check_member(path, member.name, link=link, regular=link or member.isfile() or member.isdir())
                if member.isfile() and wanted(member.name):
                    _check_size(path, member.name, member.size)
                    data = tar.extractfile(member).read()
                    if len(data) != member.size:
                        raise DataError(f"{path}: member {member.name!r} is cut short")
                    yield member.name, data
    except _ERRORS as err:
        raise DataError(f"{path}: not a readable archive ({type(err).__name__}: {err})") from err


@contextmanager
def open_zip(path: Path) -> Iterator[tuple[Collection[str], Callable[[str], bytes]]]:
    """The names of the files in a .zip and a function that reads one; all members are checked first."""
    try:
        zf = zipfile.ZipFile(path)
    except _ERRORS as err:
        raise DataError(f"{path}: not a readable zip archive ({type(err).__name__}: {err})") from err
    with zf:
        for info in zf.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            regular = kind in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
            check_member(path, info.filename, link=kind == stat.S_IFLNK, regular=regular)

        def read(name: str) -> bytes:
            try:
                _check_size(path, name, zf.getinfo(name).file_size)
                return zf.read(name)
            except KeyError as err:
                raise DataError(f"{path}: has no member {name!r}") from err
            except (*_ERRORS, RuntimeError) as err:  # RuntimeError: an encrypted member
                if isinstance(err, DataError):
                    raise
                raise DataError(f"{path}: member {name!r} is not readable ({type(err).__name__}: {err})") from err

        yield {info.filename for info in zf.infolist() if not info.is_dir()}, read


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise DataError(f"{path}: member {name!r} would unpack to {size:,} bytes; refused")
