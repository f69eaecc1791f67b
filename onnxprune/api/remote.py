"""Models at URLs, and packed ones: they are worked on as temporary files.

What was written for a URL goes up when all went well. fsspec and the driver of a store are loaded when a URL is given.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ParamSpec, TypeVar

from onnxprune.api.result import Result
from onnxprune.core.files import PathLike, is_url
from onnxprune.core.signatures import PACKED, head
from onnxprune.errors import ModelError, OnnxPruneError, OptionError, OutputError
from onnxprune.model.model import Model, references

P = ParamSpec("P")
R = TypeVar("R")


def local(
    *, reads: tuple[str, ...] = ("model",), writes: str | None = None, opened: bool = False, packed: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function of files take URLs: it is called with temporary files in their place.

    A model comes with its external data. What the function wrote goes up after it returned: external data first and
    the model last, each whole or not at all where the store allows that. Errors and results name the URLs.

    Args:
        reads: the parameters that are models to read.
        writes: the parameter that is the file to write.
        opened: whether the models to read may be a `Model` too.
        packed: whether they may be packed: the function then is called with what they restore.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        if packed:
            function = _unpacking(function, reads)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            given = bound.arguments
            for name in (*reads, *([writes] if writes else [])):
                if not (opened and isinstance(given.get(name), Model)):
                    _check_path(name, given.get(name), signature.parameters[name].default)
            sources = [name for name in reads if is_url(given.get(name))]
            out = given.get(writes) if writes else None
            if not sources and not is_url(out):
                return function(*args, **kwargs)
            if writes and out is None:
                raise OptionError(f"{given[sources[0]]} is elsewhere: say where the result goes (-o)")
            if not kwargs.get("in_place") and out in [given[name] for name in sources]:
                raise OutputError(f"{out} is the input; give --in-place to overwrite it")
            with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as folder:
                names: dict[str, str] = {}
                for name in sources:
                    source = _Remote(given[name], Path(folder) / name)
                    names[str(source.place.parent)] = source.parent
                    with _named(names):
                        source.fetch()
                    given[name] = source.place
                target = _Remote(str(out), Path(folder) / "written") if is_url(out) else None
                if target is not None and writes is not None:
                    names[str(target.place.parent)] = target.parent
                    given[writes] = target.place
                with _named(names):
                    result = function(*bound.args, **bound.kwargs)
                if target is not None:
                    target.put()
                if isinstance(result, Result):
                    result.input = replace(result.input, path=_renamed(result.input.path, names))
                    result.output = replace(result.output, path=_renamed(result.output.path, names))
                return result

        return call

    return decorate


def _unpacking(function: Callable[P, R], reads: tuple[str, ...]) -> Callable[P, R]:
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        with contextlib.ExitStack() as stack:
            for name in reads:
                if not isinstance(bound.arguments[name], Model):
                    bound.arguments[name] = stack.enter_context(unpacked(bound.arguments[name]))
            return function(*bound.args, **bound.kwargs)

    return call


@contextlib.contextmanager
def unpacked(model: PathLike) -> Iterator[PathLike]:
    """The model that a packed file restores, for a time; of any other file its own path. Errors name the packed file.

    Raises:
        PackedError: the packed file is damaged.
    """
    if not head(Path(model)).startswith(PACKED):
        yield model
        return
    from onnxprune.packed import reader  # and the coders that it needs

    source = Path(model)
    with tempfile.TemporaryDirectory(prefix="onnxprune-", ignore_cleanup_errors=True) as folder:
        reader.unpack(source, Path(folder) / source.name)
        with _named({folder: str(source.parent)}):
            yield Path(folder) / source.name


def _check_path(name: str, value: Any, default: Any) -> None:
    """Refuse what is no path."""
    if value is None and default is None:
        return
    if not isinstance(value, str | os.PathLike):
        raise OptionError(f"{name} must be a path, not {type(value).__name__}")


class _Remote:
    """A file elsewhere.

    Attributes:
        place: the temporary file in its place, which has its name; in a folder of its own.
        parent: the URL of what it lies in.
    """

    def __init__(self, url: str, folder: Path) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise OptionError(f"{url}: URLs need fsspec: pip install 'onnxprune[remote]'") from error
        try:
            self._store, self._path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:  # no driver, or no such protocol
            raise OptionError(f"{url}: {error}") from error
        except Exception as error:  # drivers' exceptions share no base class
            raise OptionError(f"{url}: cannot be reached: {error}") from error
        self._url = url
        self._parent, _, name = self._path.partition("?")[0].rpartition("/")
        plain = url.partition("?")[0]
        if not name or plain.endswith("/"):
            raise OptionError(f"{url} names no file")
        self.parent = plain.removesuffix(f"/{name}")
        folder.mkdir()
        self.place = folder / name

    def fetch(self) -> None:
        """Bring the file, and the external data that it names if it is a model; reading it says what is wrong."""
        self._get(self._path, self.place)
        names: list[str] = []
        with contextlib.suppress(ModelError):
            names = references(self.place)
        for path in map(PurePosixPath, names):
            if not path.is_absolute() and ".." not in path.parts:
                there = self.place.parent / path
                there.parent.mkdir(parents=True, exist_ok=True)
                self._get(f"{self._parent}/{path}", there)

    def _get(self, path: str, place: Path) -> None:
        try:
            self._store.get_file(path, str(place))
        except Exception as error:  # drivers' exceptions share no base class
            raise ModelError(f"cannot read {place}: {_reason(error)}") from error

    def put(self) -> None:
        """Send all that lies in the folder, the file itself last."""
        folder = self.place.parent
        files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file == self.place)
        for file in files:
            name = file.relative_to(folder).as_posix()
            try:
                if file.parent != folder:
                    self._store.makedirs(f"{self._parent}/{name}".rpartition("/")[0], exist_ok=True)
                with self._store.transaction:  # for the stores that would show a file before it is whole
                    self._store.put_file(str(file), f"{self._parent}/{name}")
            except Exception as error:  # drivers' exceptions share no base class
                raise OutputError(f"cannot write {self.parent}/{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


@contextlib.contextmanager
def _named(names: dict[str, str]) -> Iterator[None]:
    """Errors speak of URLs, not of the temporary folders."""
    try:
        yield
    except OnnxPruneError as error:
        error.args = tuple(_renamed(arg, names) for arg in error.args)
        raise


def _renamed(text: Any, names: dict[str, str]) -> Any:
    if isinstance(text, str):
        for folder, url in names.items():
            text = text.replace(folder, url)
    return text
