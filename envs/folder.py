"""A world whose tools read and write the files of one folder: the base of Office and Workspace."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from trajrec.protocols import Tool
from trajrec.types import JsonObject, Value

# The name of a tool, and arguments for it.
Call = tuple[str, JsonObject]

LIST_FILES = Tool.with_args("list_files", "read", "Paths of all files.")
READ_FILE = Tool.with_args("read_file", "read", "The text of a file.", path="string")
WRITE_FILE = Tool.with_args(
    "write_file", "write", "Write a file, making its folders.", path="string", text="string"
)
DELETE_FILE = Tool.with_args("delete_file", "write", "Delete a file.", path="string")


class FolderWorld:
    """A world in a folder. A tool `name` is executed by the method `_name`.

    Paths in calls are relative to the folder. A path that leads out of the folder is refused.

    Args:
        seed: Seed of a reset that gets none.
        path: The folder.

    Attributes:
        path: The folder.
    """

    TOOLS: ClassVar[tuple[Tool, ...]]
    # The word for the world in its error messages.
    NAME: ClassVar[str]
    # The type of exception with which the world refuses a call.
    Refusal: ClassVar[type[Exception]]

    def __init__(self, seed: int | None, path: Path) -> None:
        self.seed = seed
        self.path = path
        self._is_laid_out = False

    @property
    def kwargs(self) -> JsonObject:
        """The arguments that make an equal world in a folder of its own."""
        return {"seed": self.seed}

    def tools(self) -> tuple[Tool, ...]:
        """Return the tools."""
        return self.TOOLS

    def call(self, name: str, arguments: JsonObject, /) -> Value:
        """Execute a tool.

        Raises:
            OfficeError: The office has no such tool, or refuses the call.
            WorkspaceError: The workspace has no such tool, or refuses the call.
        """
        # Only names of tools reach getattr, so a call cannot execute any other method.
        tool = next((tool for tool in self.TOOLS if tool.name == name), None)
        if tool is None or tool.schema is None:
            names = ", ".join(tool.name for tool in self.TOOLS)
            raise self.Refusal(f"no tool {name!r}; there are {names}")
        properties = tool.schema["properties"]
        are_texts = all(isinstance(value, str) for value in arguments.values())
        if arguments.keys() != properties.keys() or not are_texts:
            raise self.Refusal(f"{name} takes exactly the texts {list(properties)}")
        try:
            return getattr(self, f"_{name}")(**arguments)
        except OSError as exc:
            # Without the path of the folder: it differs from run to run, and a replay compares it.
            raise self.Refusal(f"{name}: {exc.strerror}") from None
        except ValueError as exc:
            raise self.Refusal(f"{name}: {exc}") from None

    def _lay_out(self, files: Mapping[str, str | bytes], folders: Sequence[str] = ()) -> None:
        """Replace the folder by one with these files and empty folders.

        Raises:
            ValueError: The folder holds files of somebody else.
        """
        if not self._is_laid_out and self.path.exists() and any(self.path.iterdir()):
            raise ValueError(
                f"{self.path} has files, which the world would delete: give an empty root"
            )
        self._is_laid_out = True
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        for path in folders:
            self._inside(path).mkdir(parents=True)
        for path, text in files.items():
            self._write_bytes(path, text if isinstance(text, bytes) else text.encode())

    def _empty_folders(self) -> list[str]:
        """Return the folders without anything in them: no file can be written in their place."""
        return [
            path.relative_to(self.path).as_posix()
            for path in sorted(self.path.rglob("*"))
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir())
        ]

    def _list_files(self) -> list[str]:
        return [
            path.relative_to(self.path).as_posix()
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        ]

    def _read_file(self, path: str) -> str:
        # Not as text files are read, which would take "\r\n" for "\n": a state must hold both.
        return self._existing(path).read_bytes().decode()

    def _write_file(self, path: str, text: str) -> str:
        # First: a text that cannot be written changes nothing.
        data = text.encode()
        self._write_bytes(path, data)
        return f"wrote {len(text)} characters"

    def _write_bytes(self, path: str, data: bytes) -> None:
        file = self._inside(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def _delete_file(self, path: str) -> str:
        self._existing(path).unlink()
        return f"deleted {path}"

    def _inside(self, path: str) -> Path:
        """Return the absolute path of a file, which need not exist."""
        # Resolved first: "notes/../../x" and a link to another folder lead out as well.
        file = (self.path / path).resolve()
        root = self.path.resolve()
        if not file.is_relative_to(root) or file == root:
            raise self.Refusal(f"{path!r} is outside of the {self.NAME}")
        return file

    def _existing(self, path: str) -> Path:
        file = self._inside(path)
        if not file.is_file():
            raise self.Refusal(f"no file {path}")
        return file
