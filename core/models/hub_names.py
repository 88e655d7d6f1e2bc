"""Names of models on the Hugging Face hub: `org/name`, `org/name@revision`, and the addresses of their pages."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from core.contract.errors import ModelLoadError

DEFAULT_REVISION = "main"
_SEGMENT = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"(?:{_SEGMENT}/)?{_SEGMENT}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+/-]{0,199}")
_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_PAGES = ("tree", "blob", "resolve", "commit")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository and one of its branches, tags or commits."""

    repo: str
    revision: str = DEFAULT_REVISION

    @property
    def name(self) -> str:
        """How it is typed; the default branch needs no mention."""
        return self.repo if self.revision == DEFAULT_REVISION else f"{self.repo}@{self.revision}"

    @property
    def page(self) -> str:
        """Where people read about it."""
        return f"https://huggingface.co/{self.repo}"


def parse_hub(name: str) -> HubModel | None:
    """The model a name or an address means; None for what is neither. Raises `ModelLoadError` for pages of no model."""
    text = name.strip()
    address = _path_of_address(text)
    if address is not None:
        return _from_path(text, address)
    repo, at, revision = text.partition("@")
    if not _is_repo(repo) or (at and not _is_revision(revision)):
        return None
    return HubModel(repo, revision or DEFAULT_REVISION)


def _path_of_address(text: str) -> list[str] | None:
    """The parts of the path of a hub address; None for anything else."""
    if text.startswith("hf://"):
        return text.removeprefix("hf://").strip("/").split("/")
    try:
        own = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc
        parts = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError:  # a bracket that is not closed
        return None
    if parts.scheme not in ("http", "https") or parts.netloc.lower() not in (*_HOSTS, own.lower() or _HOSTS[0]):
        return None
    return [unquote(part) for part in parts.path.strip("/").split("/")]


def _from_path(text: str, parts: list[str]) -> HubModel:
    if parts and parts[0] == "models":
        parts = parts[1:]
    if not parts or parts[0] in ("datasets", "spaces", "collections", "papers"):
        raise ModelLoadError(f"“{text[:100]}” is no model; give the address of a model's page.")
    if len(parts) > 2 and parts[2] in _PAGES:
        revision = "/".join(parts[3:4]) or DEFAULT_REVISION
        repo = "/".join(parts[:2])
    else:
        repo, _, revision = "/".join(parts).partition("@")
        revision = revision or DEFAULT_REVISION
    if not _is_repo(repo) or not _is_revision(revision):
        raise ModelLoadError(f"“{text[:100]}” is no address of a model; it looks like https://huggingface.co/org/name.")
    return HubModel(repo, revision)


def _is_repo(repo: str) -> bool:
    return bool(_REPO.fullmatch(repo)) and "--" not in repo and ".." not in repo and not repo.endswith(".git")


def _is_revision(revision: str) -> bool:
    """Also as a file name below `refs`: it becomes one."""
    parts = revision.split("/")
    return bool(_REVISION.fullmatch(revision)) and not any(part in ("", ".", "..") for part in parts)
